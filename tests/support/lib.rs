//! What all tests from outside share: where the project is, and where its programs are.

#![allow(clippy::unwrap_used, reason = "a test ends where what it needs is missing")]

pub mod hostile;
pub mod lab;
pub mod large_bucket;
pub mod local_s3_stack;
pub mod many_results;
pub mod onnx;
pub mod open_page;
pub mod parquet_files;
pub mod raw_http;
pub mod running_stack;
pub mod runtime_api;

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

/// Folder beside the programs for what tests keep between runs.
///
/// # Panics
/// If it cannot be made.
pub fn scratch_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the system says which program this is");
    let folder = test.ancestors().nth(3).expect("a test is in target/<profile>/deps").join("tmp");
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}
