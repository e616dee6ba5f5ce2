//! What all tests from outside share: where the project is, and where its programs are.

use std::path::{Path, PathBuf};

/// The project's folder.
pub const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Path of a program of the workspace, as cargo built it with the same profile as this test.
///
/// # Panics
/// If it is not there, with the command that builds it: cargo builds programs of other packages for no test.
pub fn binary(name: &str) -> &'static str {
    let test = std::env::current_exe().expect("the system says which program this is");
    // target/<profile>/deps/<test>
    let folder = test.parent().and_then(Path::parent).expect("a test is in target/<profile>/deps");
    let path: PathBuf = folder.join(name);
    assert!(path.is_file(), "{} is not there; run `cargo build --bins` first", path.display());
    path.into_os_string().into_string().expect("a path in UTF-8").leak()
}
