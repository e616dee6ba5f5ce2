//! The libraries with which the page shows large images and signs people in, and the licences of what the page is made of.
//!
//! `make assets` takes them, `build.rs` puts them into the binary. It never fetches anything. Invariant: a script is
//! served only together with its licences; a binary without it answers 404, and the page does without or says so.

use super::assets::{Asset, JAVASCRIPT, TEXT};

include!(concat!(env!("OUT_DIR"), "/library.rs"));

/// What `/licenses.txt` begins with.
const OWN: &str = "Giemsa and its page: MIT OR Apache-2.0, at your choice.\n\n";

/// A script as it was taken, and whose licences it is under: all that is in it.
struct Library {
    name: &'static str,
    script: Option<&'static str>,
    licenses: &'static [(&'static str, Option<&'static str>)],
}

const LIBRARIES: [Library; 2] = [
    Library {
        name: "openseadragon.min.js",
        script: OPENSEADRAGON,
        licenses: &[("OpenSeadragon, BSD-3-Clause", OPENSEADRAGON_LICENSE)],
    },
    Library {
        name: "oidc-client-ts.min.js",
        script: OIDC_CLIENT,
        licenses: &[
            ("oidc-client-ts, Apache-2.0", OIDC_CLIENT_LICENSE),
            ("jwt-decode, part of oidc-client-ts, MIT", JWT_DECODE_LICENSE),
        ],
    },
];

/// The files to serve: the scripts that the binary holds, and the licences.
pub(super) fn files() -> Vec<Asset> {
    files_of(&LIBRARIES)
}

fn files_of(libraries: &[Library]) -> Vec<Asset> {
    let mut licenses = OWN.to_owned();
    let mut files = Vec::new();
    for library in libraries {
        let texts: Option<Vec<String>> = library
            .licenses
            .iter()
            .map(|(title, text)| text.map(|text| format!("{title}:\n\n{}\n\n", text.trim_end())))
            .collect();
        let Some((script, texts)) = library.script.zip(texts) else { continue };
        let content = without_source_map(script);
        files.push(Asset { name: library.name, content_type: JAVASCRIPT, content });
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

    fn names(files: &[Asset]) -> Vec<&'static str> {
        files.iter().map(|file| file.name).collect()
    }

    #[test]
    fn a_script_is_served_only_with_all_its_licences() {
        let library = |script, licenses| Library { name: "a.js", script, licenses };
        let whole = library(
            Some("run();\n//# sourceMappingURL=x.map\n"),
            &[("A, MIT", Some("Permission is hereby")), ("B, part of A", Some("Redistribution and use"))],
        );
        let both = files_of(&[whole]);
        assert_eq!(names(&both), ["a.js", "licenses.txt"]);
        assert_eq!(both[0].content, "run();\n");
        let expected =
            format!("{OWN}A, MIT:\n\nPermission is hereby\n\nB, part of A:\n\nRedistribution and use\n\n");
        assert_eq!(both[1].content, expected);
        for (script, licenses) in [
            (None, [("A", Some("l")), ("B", Some("l"))]),
            (Some("run();"), [("A", None), ("B", Some("l"))]),
            (Some("run();"), [("A", Some("l")), ("B", None)]),
        ] {
            assert_eq!(names(&files_of(&[library(script, Vec::from(licenses).leak())])), ["licenses.txt"]);
        }
    }

    fn lock() -> serde_json::Value {
        serde_json::from_str(include_str!("library/package-lock.json")).unwrap()
    }

    #[test]
    fn the_lock_file_pins_the_libraries_and_names_no_registry() {
        let lock = lock();
        let packages = lock["packages"].as_object().unwrap();
        let expected =
            [("jwt-decode", "MIT"), ("oidc-client-ts", "Apache-2.0"), ("openseadragon", "BSD-3-Clause")];
        assert_eq!(packages.len(), 1 + expected.len(), "each has its licence in /licenses.txt");
        for (name, license) in expected {
            let package = &packages[&format!("node_modules/{name}")];
            assert!(package["integrity"].as_str().unwrap().starts_with("sha512-"), "{name}");
            assert!(package.get("resolved").is_none(), "{name}");
            assert_eq!(package["license"], license);
        }
    }

    #[test]
    fn what_make_took_is_what_the_lock_file_names() {
        let lock = lock();
        let version =
            |name: &str| lock["packages"][format!("node_modules/{name}")]["version"].as_str().unwrap();
        if let Some(script) = OPENSEADRAGON {
            let first = format!("//! openseadragon {}\n", version("openseadragon"));
            assert!(script.starts_with(&first), "run `make assets`");
        }
        if let Some(script) = OIDC_CLIENT {
            let named = format!("=\"{}\"", version("oidc-client-ts"));
            assert!(script.contains(&named), "run `make assets`");
        }
    }
}
