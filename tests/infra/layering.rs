//! What crates cannot say: which files of a crate may name a library, the environment or the file system, how long a
//! file may be, and which arrows the manifests may draw.
//!
//! Reads the sources as text, without comments and without the tests in them. `ARCHITECTURE.md` draws what the
//! manifests say; change both together.

use std::collections::BTreeMap;
use std::path::Path;

/// Each crate, from the bottom up, and the crates of the workspace that it uses.
const ARROWS: &[(&str, &[&str])] = &[
    ("giemsa-core", &[]),
    ("giemsa-config", &[]),
    ("giemsa-image", &["giemsa-config"]),
    ("giemsa-model", &["giemsa-core", "giemsa-config", "giemsa-image"]),
    ("giemsa-store", &["giemsa-core", "giemsa-config"]),
    ("giemsa-lambda", &["giemsa-config", "giemsa-store"]),
    (
        "giemsa",
        &["giemsa-core", "giemsa-config", "giemsa-image", "giemsa-model", "giemsa-store", "giemsa-lambda"],
    ),
    ("giemsa-ops", &["giemsa-core", "giemsa-config", "giemsa-model", "giemsa-store"]),
    (
        "giemsa-dashboard",
        &["giemsa-core", "giemsa-config", "giemsa-image", "giemsa-model", "giemsa-store", "giemsa-lambda"],
    ),
    ("giemsa-faults", &["giemsa-core", "giemsa-config", "giemsa-model"]),
    (
        "giemsa-local",
        &[
            "giemsa-core",
            "giemsa-config",
            "giemsa-model",
            "giemsa-store",
            "giemsa",
            "giemsa-dashboard",
            "giemsa-faults",
        ],
    ),
    (
        "giemsa-cli",
        &[
            "giemsa-core",
            "giemsa-config",
            "giemsa-image",
            "giemsa-model",
            "giemsa-store",
            "giemsa",
            "giemsa-ops",
            "giemsa-faults",
            "giemsa-local",
        ],
    ),
];

/// What some crates may not use: none of these the network, AWS or a database, and all but `model`, which loads on a thread,
/// no runtime.
const PURE: &[(&str, &[&str])] = &[
    ("giemsa-core", &["aws-", "tokio", "hyper", "axum", "lambda", "rusqlite", "s3s", "futures"]),
    ("giemsa-config", &["aws-", "tokio", "hyper", "axum", "lambda", "rusqlite", "s3s", "futures"]),
    ("giemsa-image", &["aws-", "tokio", "hyper", "axum", "lambda", "rusqlite", "s3s", "futures"]),
    ("giemsa-model", &["aws-", "hyper", "axum", "lambda", "rusqlite", "s3s", "futures"]),
];

/// What only some files may name, and why. A path ending in `/` is a folder.
const ONLY_IN: &[(&[&str], &[&str], &str)] = &[
    (
        &["::image::", "ruzstd", "weezl", "fax"],
        &[
            "crates/image/src/decode.rs",
            "crates/image/src/decode/",
            "crates/image/src/peek.rs",
            "crates/image/src/render.rs",
        ],
        "decoding goes through its limits; the others read a header, and write",
    ),
    (
        &["fast_image_resize"],
        &["crates/image/src/preprocess.rs", "crates/image/src/render.rs", "crates/image/src/resample.rs"],
        "pixels become tensors in one place, and pictures in another",
    ),
    (
        &["tract_onnx", "tract_hir", "tract_core"],
        &["crates/model/src/network.rs", "crates/model/src/network/"],
        "another inference engine has to fit behind this one file and its folder",
    ),
    (
        &["env::var", "env::var_os", "env::vars", "env::args", "temp_dir()"],
        &["crates/config/src/"],
        "settings are read once, checked together and named in one message",
    ),
    (
        &["std::fs", "tokio::fs", "tempfile", "File::create", "File::open"],
        &[
            "crates/cli/src/",
            "crates/faults/src/",
            "crates/local/src/",
            "crates/ops/src/inventory/",
            "crates/ops/src/export/",
        ],
        "a Lambda writes nothing to its disk; images stay in memory",
    ),
    (&["\"/tmp"], &[], "nothing goes to /tmp"),
    (&["aws_sdk_dynamodb", "serde_dynamo"], &["crates/store/src/"], "the table's form is the store's"),
    (
        &["lambda_runtime", "lambda_http"],
        &["src/bin/", "crates/lambda/", "crates/dashboard/src/main.rs"],
        "the handler is the same outside Lambda",
    ),
    (&["anyhow"], &["crates/cli/src/", "src/bin/"], "errors of the library say what they are"),
    (
        &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        &[],
        "output is written where its end is noticed, logs by tracing",
    ),
    (&["todo!", "unimplemented!"], &[], "no stubs"),
];

/// Longest file without its tests, lines.
const MAX_LINES: usize = 450;

/// Files that are longer, and their own limit; the list may only shrink.
const LONGER_FILES: &[(&str, usize)] = &[];

/// Sources by path: lines of code with their numbers, without comments and tests.
type Sources = BTreeMap<String, Vec<(usize, String)>>;

fn sources() -> Sources {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut sources = Sources::new();
    for folder in ["src", "crates"] {
        read_folder(root, &root.join(folder), &mut sources);
    }
    assert!(sources.contains_key("crates/store/src/lib.rs") && sources.len() > 30, "{:?}", sources.keys());
    sources
}

fn read_folder(root: &Path, folder: &Path, sources: &mut Sources) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_folder(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs")
            && !path.ends_with("build.rs")
        {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            sources.insert(name, code_lines(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Lines of code with their numbers. Tests are the module after `#[cfg(test)]`, which ends the file.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let code = numbered.take_while(|(_, line)| *line != "#[cfg(test)]");
    code.filter(|(_, line)| !line.starts_with("//"))
        .map(|(number, line)| (number, line.split(" // ").next().unwrap_or_default().to_owned()))
        .collect()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Positions of `name` in `line` where no longer word holds it. A `name` of punctuation stands for itself.
fn find_words<'a>(line: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        let starts = !name.starts_with(is_word) || !before.is_some_and(is_word);
        let ends = !name.ends_with(is_word) || !after.is_some_and(is_word);
        // `::image::` is the crate only at the start of a path.
        let is_path_start = !name.starts_with("::") || !before.is_some_and(|c| is_word(c) || c == '>');
        starts && ends && is_path_start
    })
}

/// Names of the normal dependencies of a crate of the workspace.
fn dependencies(package: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = match package {
        "giemsa" => root,
        _ => root.join("crates").join(package.strip_prefix("giemsa-").unwrap()),
    };
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let (_, section) = manifest.split_once("\n[dependencies]\n").unwrap();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter(|line| !line.starts_with('#') && line.contains('='));
    names.map(|line| line.split(['.', ' ', '=']).next().unwrap().to_owned()).collect()
}

#[test]
fn manifests_draw_the_arrows_that_are_meant() {
    for (package, expected) in ARROWS {
        let all = dependencies(package);
        let mut own: Vec<&str> =
            all.iter().map(String::as_str).filter(|name| name.starts_with("giemsa")).collect();
        own.sort_by_key(|name| ARROWS.iter().position(|(other, _)| other == name));
        assert_eq!(own, *expected, "{package}: see ARROWS in tests/infra/layering.rs and ARCHITECTURE.md");
        if let Some((_, banned)) = PURE.iter().find(|(pure, _)| pure == package) {
            let wrong: Vec<_> =
                all.iter().filter(|name| banned.iter().any(|start| name.starts_with(start))).collect();
            assert!(wrong.is_empty(), "{package} depends on {wrong:?}");
        }
    }
}

#[test]
fn crates_and_the_system_are_named_only_where_they_belong() {
    let sources = sources();
    let mut wrong = Vec::new();
    for (names, files, why) in ONLY_IN {
        let is_allowed = |path: &str| {
            files.iter().any(|file| if file.ends_with('/') { path.starts_with(file) } else { path == *file })
        };
        for (path, lines) in sources.iter().filter(|(path, _)| !is_allowed(path)) {
            for (number, line) in lines {
                for name in names.iter().filter(|name| find_words(line, name).next().is_some()) {
                    wrong.push(format!("{path}:{number} names `{name}`, which is for {files:?} only: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_enough_to_read() {
    let mut wrong = Vec::new();
    for (path, lines) in &sources() {
        let length = lines.last().map_or(0, |(number, _)| *number);
        let own = LONGER_FILES.iter().find(|(longer, _)| longer == path).map(|(_, limit)| *limit);
        if length > own.unwrap_or(MAX_LINES) {
            wrong.push(format!("{path} has {length} lines before its tests"));
        }
        if own.is_some() && length <= MAX_LINES {
            wrong.push(format!("{path} is short enough now: take it out of LONGER_FILES"));
        }
    }
    assert!(wrong.is_empty(), "{}; at most {MAX_LINES}: split by responsibility", wrong.join("\n"));
}

#[test]
fn violations_are_seen() {
    assert_eq!(find_words("use ::image::ImageError;", "::image::").count(), 1);
    assert_eq!(find_words("use crate::image::decode;", "::image::").count(), 0);
    assert_eq!(find_words("let s3s_fs = s3s;", "s3s").count(), 1);
    assert_eq!(find_words("std::env::var(name)", "env::var").count(), 1);
    assert_eq!(find_words("env::var_os(name)", "env::var").count(), 0);
    let code = code_lines("//! tract_onnx\nuse a; // tract_onnx\n#[cfg(test)]\nmod tests { tract_onnx }");
    assert_eq!(code, [(2, "use a;".to_owned())]);
}
