//! Lists the golden images of `models/golden` for the embedded stack, which carries them in the binary.
//!
//! It never reads an image. Invariant: the list is of `models/golden/<label>/<image>.png`, sorted; without the folder it
//! is empty.

use std::fmt::Write;
use std::path::{Path, PathBuf};

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script where it is by variables only")]
fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
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
