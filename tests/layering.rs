//! Who may name whom: modules, crates, the environment, the file system.
//!
//! Reads the sources as text, without comments and without the tests in them. `ARCHITECTURE.md` draws what
//! the tables here enforce; change both together.

use std::collections::BTreeMap;
use std::path::Path;

/// Each module of `src/`, from the bottom up, and the modules it may name. Each names only modules above it
/// in this list, so that no arrow goes back.
const MODULES: &[(&str, &[&str])] = &[
    // Pure: no network, no clock, no disk.
    ("digest", &[]),
    ("statistics", &[]),
    ("price", &[]),
    ("metrics", &[]),
    ("xray", &[]),
    ("object", &[]),
    ("image", &[]),
    ("event", &["object"]),
    ("config", &["image"]),
    // Clients, and the model.
    ("aws", &["config"]),
    ("queues", &["config", "aws"]),
    ("model", &["digest", "statistics", "image", "config"]),
    // Pure again, in the model's terms.
    ("classification", &["digest", "object", "model"]),
    ("slide", &["statistics", "classification"]),
    ("analysis", &["digest", "image", "model", "classification"]),
    // What goes in and out, and what it means.
    ("store", &["digest", "object", "model", "classification", "slide"]),
    ("serving", &["digest", "config", "metrics", "model", "store"]),
    ("golden", &["digest", "object", "config", "model", "classification", "analysis"]),
    ("release", &["digest", "config", "model", "classification", "store", "serving"]),
    ("shadow", &["object", "statistics", "model", "classification", "store"]),
    ("crashes", &["object", "store", "serving"]),
    ("outcome", &["object", "image", "model", "classification", "store", "serving"]),
    ("cpu_pool", &["image", "config", "model", "analysis", "outcome"]),
    ("notes", &["object", "outcome", "store"]),
    (
        "pipeline",
        &[
            "digest",
            "object",
            "image",
            "config",
            "aws",
            "model",
            "classification",
            "analysis",
            "store",
            "serving",
            "outcome",
            "cpu_pool",
            "crashes",
            "notes",
            "price",
            "metrics",
        ],
    ),
    ("reclassify", &["object", "store", "outcome", "pipeline"]),
    ("inventory", &["store"]),
    ("export", &["digest", "config", "classification", "store"]),
    ("reconcile", &["object", "config", "classification", "store", "inventory"]),
    ("handler", &["object", "event", "metrics", "crashes", "outcome", "notes", "pipeline"]),
    (
        "gate_handler",
        &["digest", "object", "event", "config", "metrics", "model", "store", "serving", "golden"],
    ),
    ("cost", &["digest", "price", "object", "classification", "store"]),
    ("backfill", &["digest", "object", "config", "price", "store", "queues", "reconcile"]),
    // Shells.
    (
        "dashboard",
        &[
            "digest",
            "object",
            "image",
            "statistics",
            "config",
            "aws",
            "queues",
            "model",
            "classification",
            "slide",
            "store",
            "shadow",
            "pipeline",
        ],
    ),
    (
        "local",
        &[
            "digest",
            "object",
            "config",
            "aws",
            "metrics",
            "event",
            "model",
            "classification",
            "store",
            "crashes",
            "outcome",
            "notes",
            "pipeline",
            "handler",
            "golden",
            "gate_handler",
            "dashboard",
        ],
    ),
    (
        "cli",
        &[
            "digest",
            "object",
            "event",
            "image",
            "config",
            "aws",
            "queues",
            "model",
            "classification",
            "slide",
            "analysis",
            "store",
            "outcome",
            "golden",
            "statistics",
            "serving",
            "release",
            "shadow",
            "pipeline",
            "reclassify",
            "inventory",
            "export",
            "reconcile",
            "price",
            "cost",
            "backfill",
            "local",
            "metrics",
        ],
    ),
    (
        "bin",
        &[
            "metrics",
            "xray",
            "config",
            "aws",
            "queues",
            "model",
            "store",
            "pipeline",
            "handler",
            "gate_handler",
            "dashboard",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// What only some files may name, and why. A path ending in `/` is a folder.
const ONLY_IN: &[(&[&str], &[&str], &str)] = &[
    (
        &["::image::", "ruzstd", "weezl", "fax"],
        &["src/image/decode.rs", "src/image/decode/", "src/image/peek.rs", "src/image/render.rs"],
        "decoding goes through its limits; the others read a header, and write",
    ),
    (
        &["fast_image_resize"],
        &["src/image/preprocess.rs", "src/image/render.rs"],
        "pixels become tensors in one place, and pictures in another",
    ),
    (
        &["tract_onnx", "tract_hir", "tract_core"],
        &["src/model/network.rs", "src/model/network/"],
        "another inference engine has to fit behind this one file and its folder",
    ),
    (
        &["env::var", "env::var_os", "env::vars", "env::args", "temp_dir()"],
        &["src/config.rs", "src/config/"],
        "settings are read once, checked together and named in one message",
    ),
    (
        &["std::fs", "tokio::fs", "tempfile", "File::create", "File::open"],
        &["src/cli/", "src/local/", "src/inventory/", "src/export/"],
        "a Lambda writes nothing to its disk; images stay in memory",
    ),
    (&["\"/tmp"], &[], "nothing goes to /tmp"),
    (&["aws_config", "aws_smithy_http_client"], &["src/aws.rs"], "clients are made in one place"),
    (&["aws_sdk_dynamodb", "serde_dynamo"], &["src/aws.rs", "src/store/"], "the table's form is the store's"),
    (&["aws_sdk_sqs"], &["src/aws.rs", "src/queues.rs", "src/queues/"], "commands know queues by one client"),
    (
        &["aws_sdk_s3control"],
        &["src/aws.rs", "src/backfill/job.rs"],
        "jobs of S3 Batch Operations are made in one place",
    ),
    (&["lambda_runtime", "lambda_http"], &["src/bin/"], "the handler is the same outside Lambda"),
    (
        &["hyper", "hyper_util", "s3s", "dynoxide", "rusqlite"],
        &["src/local/", "src/cli/"],
        "Lambda packages contain none of the local stack",
    ),
    (&["axum"], &["src/dashboard/", "src/local/"], "the page and its API are one router"),
    (&["clap", "comfy_table", "indicatif"], &["src/cli/"], "only the command talks to terminals"),
    (&["csv::"], &["src/cli/", "src/inventory/"], "tables for people, and lists that S3 makes"),
    (&["parquet"], &["src/inventory/", "src/export/"], "lists that S3 makes, and files of results"),
    (&["anyhow"], &["src/cli/", "src/bin/"], "errors of the library say what they are"),
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Sources::new();
    read_folder(root, &root.join("src"), &mut sources);
    assert!(sources.contains_key("src/lib.rs") && sources.len() > 30, "{:?}", sources.keys());
    sources
}

fn read_folder(root: &Path, folder: &Path, sources: &mut Sources) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_folder(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
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

/// `image` of `src/image/decode.rs`, `event` of `src/event.rs`.
fn module_of(path: &str) -> &str {
    let path = path.strip_prefix("src/").expect("a file of src");
    path.split('/').next().expect("a name").trim_end_matches(".rs")
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

/// Modules of this crate that a line names, by `crate::` or, in binaries, by `giemsa::`.
fn named_modules(line: &str) -> Vec<&str> {
    ["crate::", "giemsa::"]
        .iter()
        .flat_map(|start| find_words(line, start).map(|at| &line[at + start.len()..]))
        .map(|rest| rest.split(|c: char| !is_word(c)).next().unwrap_or_default())
        .collect()
}

fn may_name(module: &str) -> &'static [&'static str] {
    let row = MODULES.iter().find(|(name, _)| *name == module);
    row.unwrap_or_else(|| {
        panic!("`{module}` has no row in MODULES of tests/layering.rs: add one at its layer")
    })
    .1
}

#[test]
fn the_table_has_no_arrow_back() {
    for (index, (module, named)) in MODULES.iter().enumerate() {
        for other in *named {
            assert!(
                MODULES[..index].iter().any(|(above, _)| above == other),
                "MODULES lets `{module}` name `{other}`, which is not above it"
            );
        }
    }
}

#[test]
fn modules_name_only_the_layers_below_them() {
    let mut wrong = Vec::new();
    for (path, lines) in &sources() {
        let module = module_of(path);
        let allowed = may_name(module);
        for (number, line) in lines {
            for named in named_modules(line) {
                if named != module && !allowed.contains(&named) {
                    wrong.push(format!("{path}:{number} names `{named}`: `{module}` may name {allowed:?}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nmove the code, pass the value in, or, if the rule is wrong, change MODULES in tests/layering.rs and \
         ARCHITECTURE.md (one path a `use`, so that a reader and this test see it)",
        wrong.join("\n")
    );
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
    assert_eq!(named_modules("use crate::store::{StoreError, TableReader};"), ["store"]);
    assert_eq!(named_modules("    let x = giemsa::local::y(crate::aws::Z);"), ["aws", "local"]);
    assert_eq!(named_modules("pub(in crate::local) fn mycrate::x()"), ["local"]);
    assert_eq!(find_words("use ::image::ImageError;", "::image::").count(), 1);
    assert_eq!(find_words("use crate::image::decode;", "::image::").count(), 0);
    assert_eq!(find_words("let s3s_fs = s3s;", "s3s").count(), 1);
    assert_eq!(find_words("std::env::var(name)", "env::var").count(), 1);
    assert_eq!(find_words("env::var_os(name)", "env::var").count(), 0);
    let code = code_lines("//! tract_onnx\nuse a; // tract_onnx\n#[cfg(test)]\nmod tests { tract_onnx }");
    assert_eq!(code, [(2, "use a;".to_owned())]);
}
