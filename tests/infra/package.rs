//! What goes into the Lambda package, and what must not; and that no user builds the tree twice.

use std::collections::BTreeSet;
use std::process::Command;

#[path = "../../tools/package/src/elf.rs"]
mod elf;

/// Names, versions and features of all crates for these arguments of `cargo tree`.
fn cargo_tree(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p} [{f}]"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

fn name_of(line: &str) -> &str {
    line.split(' ').next().unwrap()
}

#[test]
fn functions_start_on_the_c_library_of_lambda() {
    for binary in
        [giemsa_tests::binary("classifier"), giemsa_tests::binary("gate"), giemsa_tests::binary("dashboard")]
    {
        let needs = elf::read_needs(&std::fs::read(binary).unwrap()).unwrap();
        assert_eq!(needs.too_new(), [], "{binary}: newer than glibc {:?}", elf::NEWEST_GLIBC);
        // A binary that asks for nothing would be one that was not read.
        assert!(!needs.glibc_versions.is_empty());
        let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
        assert_eq!(needs.architecture, host);
    }
}

#[test]
fn needs_of_other_files_are_not_guessed() {
    assert!(elf::read_needs(b"#!/bin/sh\n").is_err());
    assert!(elf::read_needs(&[]).is_err());
    let whole = std::fs::read(giemsa_tests::binary("classifier")).unwrap();
    assert!(elf::read_needs(&whole[..whole.len() / 2]).is_err());
}

#[test]
fn package_holds_nothing_of_the_local_stack() {
    let lambda = cargo_tree(&["--package", "giemsa", "--edges", "normal"]);
    let names: BTreeSet<&str> = lambda.iter().map(|line| name_of(line)).collect();
    let local = ["axum", "clap", "dynoxide-rs", "libsqlite3-sys", "rusqlite", "s3s", "tempfile"];
    let found: Vec<_> = local.iter().filter(|name| names.contains(**name)).collect();
    assert!(found.is_empty(), "{found:?} are in the Lambda package");
    assert!(names.contains("lambda_runtime") && names.contains("tract-onnx"), "{names:?}");
    let dashboard = cargo_tree(&["--package", "giemsa-dashboard", "--edges", "normal"]);
    let names: BTreeSet<&str> = dashboard.iter().map(|line| name_of(line)).collect();
    let found: Vec<_> = local.iter().filter(|name| **name != "axum" && names.contains(**name)).collect();
    assert!(found.is_empty(), "{found:?} are in the dashboard's package");
    // What is looked for exists under these names.
    let all = cargo_tree(&["--edges", "normal"]);
    let names: BTreeSet<&str> = all.iter().map(|line| name_of(line)).collect();
    assert!(local.iter().all(|name| names.contains(name)), "one of {local:?} has another name now");
}

#[test]
fn demo_and_tests_share_one_build() {
    let demo = cargo_tree(&["--edges", "normal,build"]);
    let tests = cargo_tree(&["--edges", "normal,build,dev"]);
    let built_again: Vec<_> = demo.difference(&tests).collect();
    assert!(
        built_again.is_empty(),
        "a test-only crate switches features on in these; name it in the dependencies of tests/Cargo.toml: {built_again:#?}"
    );
}
