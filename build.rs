//! Puts into the binary what is no source: the golden images of `models/golden` for the embedded stack, and the libraries
//! with which the dashboard shows large images and signs people in, as `make assets` left them in `target/assets`.
//!
//! It never reads an image and fetches nothing. Invariant: the same files give the same bytes. The list of images is of
//! `models/golden/<label>/<image>.png`, sorted, empty without the folder; without a library the binary is built
//! without it, and says so.

use std::fmt::Write;
use std::path::{Path, PathBuf};

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script where it is by variables only")]
fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    libraries(&root.join("target/assets"), &out)?;
    let golden = root.join("models/golden");
    println!("cargo:rerun-if-changed=models/golden");
    let mut list = String::from("&[\n");
    for label in entries(&golden)? {
        for image in entries(&label)?.iter().filter(|path| path.extension().is_some_and(|e| e == "png")) {
            let key = image
                .strip_prefix(&root)
                .expect("it was listed below")
                .strip_prefix("models")
                .expect("so too");
            // Debug quotes and escapes as Rust does.
            let _ = writeln!(list, "    ({key:?}, include_bytes!({image:?})),");
        }
    }
    list.push_str("]\n");
    std::fs::write(out.join("golden.rs"), list)
}

/// Writes `library.rs`: scripts and their licences as texts, or nothing of them.
#[expect(clippy::disallowed_methods, reason = "cargo tells a build script the features by variables only")]
fn libraries(assets: &Path, out: &Path) -> std::io::Result<()> {
    // The folder, not the files: cargo takes a file that is not there for changed, and would build at each call.
    if std::fs::create_dir_all(assets).is_ok() {
        println!("cargo:rerun-if-changed=target/assets");
    }
    let mut constants = String::new();
    let mut missing = false;
    for (name, constant, what) in [
        ("openseadragon.min.js", "OPENSEADRAGON", "The script that shows large images"),
        ("openseadragon.LICENSE.txt", "OPENSEADRAGON_LICENSE", "Its licence"),
        ("oidc-client-ts.min.js", "OIDC_CLIENT", "The script that signs people in"),
        ("oidc-client-ts.LICENSE.txt", "OIDC_CLIENT_LICENSE", "Its licence"),
        ("jwt-decode.LICENSE.txt", "JWT_DECODE_LICENSE", "The licence of what is part of that script"),
    ] {
        let value = match std::fs::read_to_string(assets.join(name)) {
            Ok(text) => {
                // A copy, so that the binary is of the file that was looked at.
                std::fs::write(out.join(name), text)?;
                format!("Some(include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}\")))")
            }
            Err(_) => {
                missing = true;
                "None".to_owned()
            }
        };
        let _ = writeln!(
            constants,
            "/// {what}, if it was there when the binary was built.\nconst {constant}: Option<&str> = {value};"
        );
    }
    // The Lambda packages of the classifier and the gate have no page.
    let has_page = ["CARGO_FEATURE_LOCAL", "CARGO_FEATURE_DASHBOARD"];
    if missing && has_page.iter().any(|feature| std::env::var_os(feature).is_some()) {
        println!(
            "cargo:warning=the dashboard is built without deep zoom or sign-in: run `make assets` once (it needs npm) and \
             build again; until then images have a simple zoom, and nobody can sign in"
        );
    }
    std::fs::write(out.join("library.rs"), constants)
}

/// What is in a folder, sorted; nothing if it is none.
fn entries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}
