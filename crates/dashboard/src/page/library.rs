//! The libraries with which the page shows large images and signs people in, and the licences of what the page is made of.
//!
//! `make assets` puts them into `web/library`. A script is served only together with its licences; a binary without it
//! answers 404, and the page does without or says so.

use include_dir::{Dir, include_dir};

use crate::page::assets::{Asset, JAVASCRIPT, TEXT};

static FOLDER: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../web/library");

/// What `/licenses.txt` begins with.
const OWN: &str = "Giemsa and its page: MIT OR Apache-2.0, at your choice.\n\n";

/// Scripts, and the licences of all that is in each: a title, and the file with the text.
const LIBRARIES: [(&str, &[(&str, &str)]); 2] = [
    ("openseadragon.min.js", &[("OpenSeadragon, BSD-3-Clause", "openseadragon.LICENSE.txt")]),
    (
        "oidc-client-ts.min.js",
        &[
            ("oidc-client-ts, Apache-2.0", "oidc-client-ts.LICENSE.txt"),
            ("jwt-decode, part of oidc-client-ts, MIT", "jwt-decode.LICENSE.txt"),
        ],
    ),
];

/// The files to serve: the scripts that the binary holds, and the licences.
pub(crate) fn files() -> Vec<Asset> {
    files_of(embedded)
}

fn embedded(name: &str) -> Option<&'static str> {
    FOLDER.get_file(name)?.contents_utf8()
}

fn files_of(text_of: impl Fn(&str) -> Option<&'static str>) -> Vec<Asset> {
    let mut licenses = OWN.to_owned();
    let mut files = Vec::new();
    for (name, titles) in LIBRARIES {
        let texts = titles
            .iter()
            .map(|(title, file)| text_of(file).map(|text| format!("{title}:\n\n{}\n\n", text.trim_end())));
        let Some((script, texts)) = text_of(name).zip(texts.collect::<Option<Vec<_>>>()) else { continue };
        files.push(Asset { name, content_type: JAVASCRIPT, content: without_source_map(script) });
        licenses.extend(texts);
    }
    // A text for the life of the process; the router is made once or twice in it.
    files.push(Asset { name: "licenses.txt", content_type: TEXT, content: licenses.leak() });
    files
}

/// The script without its last line, which names a file that is not served.
fn without_source_map(script: &'static str) -> &'static str {
    script.rsplit_once("//# sourceMappingURL=").map_or(script, |(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_served_only_with_all_its_licences() {
        let names_without = |missing: &str| -> Vec<&str> {
            let text_of = |name: &str| (name != missing).then_some("text\n//# sourceMappingURL=x.map\n");
            files_of(text_of).iter().map(|file| file.name).collect()
        };
        assert_eq!(names_without(""), ["openseadragon.min.js", "oidc-client-ts.min.js", "licenses.txt"]);
        for missing in ["oidc-client-ts.min.js", "oidc-client-ts.LICENSE.txt", "jwt-decode.LICENSE.txt"] {
            assert_eq!(names_without(missing), ["openseadragon.min.js", "licenses.txt"], "{missing}");
        }
        assert_eq!(names_without("openseadragon.LICENSE.txt"), ["oidc-client-ts.min.js", "licenses.txt"]);
        let files = files_of(|name| {
            Some(if name.ends_with(".js") { "run();\n//# sourceMappingURL=x" } else { "Free\n" })
        });
        assert_eq!(files[0].content, "run();\n");
        let licenses = "OpenSeadragon, BSD-3-Clause:\n\nFree\n\noidc-client-ts, Apache-2.0:\n\nFree\n\n\
                        jwt-decode, part of oidc-client-ts, MIT:\n\nFree\n\n";
        assert_eq!(files[2].content, format!("{OWN}{licenses}"));
    }

    fn lock() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../../web/package-lock.json")).unwrap()
    }

    #[test]
    fn the_lock_file_pins_the_libraries_and_names_no_registry() {
        let lock = lock();
        let packages = lock["packages"].as_object().unwrap();
        let mut served = Vec::new();
        for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
            assert!(package["integrity"].as_str().unwrap().starts_with("sha512-"), "{path}");
            assert!(package.get("resolved").is_none(), "{path}");
            if package["dev"] != true {
                served.push((path.as_str(), package["license"].as_str().unwrap()));
            }
        }
        let expected = [
            ("node_modules/jwt-decode", "MIT"),
            ("node_modules/oidc-client-ts", "Apache-2.0"),
            ("node_modules/openseadragon", "BSD-3-Clause"),
        ];
        assert_eq!(served, expected, "each has its licence in /licenses.txt");
    }

    #[test]
    fn what_make_took_is_what_the_lock_file_names() {
        let lock = lock();
        let version =
            |name: &str| lock["packages"][format!("node_modules/{name}")]["version"].as_str().unwrap();
        if let Some(script) = embedded("openseadragon.min.js") {
            let first = format!("//! openseadragon {}\n", version("openseadragon"));
            assert!(script.starts_with(&first), "run `make assets`");
        }
        if let Some(script) = embedded("oidc-client-ts.min.js") {
            let named = format!("=\"{}\"", version("oidc-client-ts"));
            assert!(script.contains(&named), "run `make assets`");
        }
    }
}
