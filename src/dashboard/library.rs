//! The library with which the page shows large images, and the licences of what the page is made of.
//!
//! `make assets` takes it, `build.rs` puts it into the binary. It never fetches anything. Invariant: the script is
//! served only together with its licence; a binary without it answers 404, and the page zooms without it.

use super::assets::{Asset, JAVASCRIPT, TEXT};

include!(concat!(env!("OUT_DIR"), "/library.rs"));

/// What `/licenses.txt` begins with.
const OWN: &str = "Giemsa and its page: MIT OR Apache-2.0, at your choice.\n\n";

/// The files to serve: the script if the binary holds it, and the licences.
pub(super) fn files() -> Vec<Asset> {
    files_of(OPENSEADRAGON, OPENSEADRAGON_LICENSE)
}

fn files_of(script: Option<&'static str>, license: Option<&'static str>) -> Vec<Asset> {
    let licenses = |content| Asset { name: "licenses.txt", content_type: TEXT, content };
    match script.zip(license) {
        Some((script, license)) => vec![
            Asset {
                name: "openseadragon.min.js",
                content_type: JAVASCRIPT,
                content: without_source_map(script),
            },
            // Two texts for the life of the process; the router is made once or twice in it.
            licenses(format!("{OWN}OpenSeadragon, BSD-3-Clause:\n\n{license}").leak()),
        ],
        None => vec![licenses(OWN)],
    }
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
    fn the_script_is_served_only_with_its_licence() {
        let both = files_of(Some("run();\n//# sourceMappingURL=x.map\n"), Some("Redistribution and use"));
        assert_eq!(names(&both), ["openseadragon.min.js", "licenses.txt"]);
        assert_eq!(both[0].content, "run();\n");
        assert!(both[1].content.ends_with("Redistribution and use") && both[1].content.starts_with(OWN));
        for (script, license) in [(Some("run();"), None), (None, Some("l")), (None, None)] {
            assert_eq!(names(&files_of(script, license)), ["licenses.txt"]);
        }
    }

    #[test]
    fn the_lock_file_pins_the_library_and_names_no_registry() {
        let lock = include_str!("library/package-lock.json");
        let lock: serde_json::Value = serde_json::from_str(lock).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert_eq!(packages.len(), 2, "OpenSeadragon has no dependencies");
        let library = &packages["node_modules/openseadragon"];
        assert!(library["integrity"].as_str().unwrap().starts_with("sha512-"));
        assert!(library.get("resolved").is_none());
        assert_eq!(library["license"], "BSD-3-Clause");
    }

    #[test]
    fn what_make_took_is_what_the_lock_file_names() {
        let lock: serde_json::Value =
            serde_json::from_str(include_str!("library/package-lock.json")).unwrap();
        let version = lock["packages"]["node_modules/openseadragon"]["version"].as_str().unwrap();
        if let Some(script) = OPENSEADRAGON {
            assert!(script.starts_with(&format!("//! openseadragon {version}\n")), "run `make assets`");
        }
    }
}
