//! The drawn pictures: the same arguments write the same bytes, and what is committed is what is drawn.
//!
//! The older samples are not drawn again, since that takes half a minute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[expect(dead_code, reason = "the example draws more than is compared here")]
#[path = "../../examples/render/mod.rs"]
mod render;

use render::outliers::{OutlierKind, write_outliers};

/// What the golden set may weigh.
const MAX_GOLDEN_BYTES: usize = 1_000_000;

fn project(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// The pictures in the folders of a folder, by path.
fn pictures(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let inner = pictures(&path);
            found.extend(inner.into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if name.ends_with(".png") {
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
}

fn assert_same(drawn: &BTreeMap<String, Vec<u8>>, committed: &BTreeMap<String, Vec<u8>>, again: &str) {
    assert_eq!(
        drawn.keys().collect::<Vec<_>>(),
        committed.keys().collect::<Vec<_>>(),
        "write them again: {again}"
    );
    for (path, bytes) in drawn {
        assert!(*bytes == committed[path], "{path} is not what is drawn; write it again: {again}");
    }
}

#[test]
fn the_golden_set_is_what_is_drawn_and_small() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(render::golden::write_golden(folder.path()).unwrap(), 80);
    let (drawn, committed) = (pictures(folder.path()), pictures(&project("models/golden")));
    assert_same(&drawn, &committed, "cargo run --example render_samples -- golden models/golden");
    for label in ["parasitized/", "uninfected/"] {
        assert_eq!(committed.keys().filter(|path| path.starts_with(label)).count(), 40, "{label}");
    }
    let all: std::collections::BTreeSet<&Vec<u8>> = committed.values().collect();
    assert_eq!(all.len(), 80, "all pictures differ");
    let weight: usize = committed.values().map(Vec::len).sum();
    assert!(weight <= MAX_GOLDEN_BYTES, "{weight} bytes, expected at most {MAX_GOLDEN_BYTES}");
}

#[test]
fn the_samples_that_are_no_cell_are_what_is_drawn() {
    let files = render::slides::not_a_cell().unwrap();
    let drawn: BTreeMap<_, _> = files.into_iter().map(|file| (file.path, file.bytes)).collect();
    assert_eq!(drawn.len(), 5);
    let mut committed = pictures(&project("sample-images"));
    committed.retain(|path, _| path.starts_with("not-a-cell/"));
    assert_same(&drawn, &committed, "cargo run --example render_samples -- samples sample-images");
}

#[test]
fn each_sample_that_is_no_cell_is_expected_to_need_review() {
    let expected = std::fs::read_to_string(project("sample-images/expected.csv")).unwrap();
    for file in pictures(&project("sample-images/not-a-cell")).keys() {
        let row = format!("not-a-cell/{file},classified,,,yes");
        assert!(expected.lines().any(|line| line == row), "{row} is not in expected.csv");
    }
}

#[test]
fn outliers_depend_on_seed_kind_and_number_alone() {
    let draw = |seed, count| {
        let folder = tempfile::tempdir().unwrap();
        let total = write_outliers(folder.path(), seed, count).unwrap();
        let drawn = pictures(folder.path());
        assert_eq!(drawn.len() as u64, total);
        drawn
    };
    let (three, two, other) = (draw(1, 3), draw(1, 2), draw(2, 2));
    assert_eq!((three.len(), two.len()), (30, 20));
    for (path, bytes) in &two {
        assert!(*bytes == three[path], "{path} depends on how many are drawn");
        assert!(*bytes != other[path], "{path} does not depend on the seed");
    }
}

#[test]
fn outliers_are_as_large_as_crops_and_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    write_outliers(folder.path(), 3, 4).unwrap();
    for (path, bytes) in pictures(folder.path()) {
        // A PNG names its width and height at these places.
        let size_px = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (short, long) = (size_px(16).min(size_px(20)), size_px(16).max(size_px(20)));
        let kind = path.split('/').next().unwrap();
        assert!(OutlierKind::ALL.iter().any(|k| k.name() == kind), "{path}");
        // What was cut out onto black is cropped to what was kept: a sliver may be narrow.
        let shortest = if kind == "fragment" { 8 } else { 40 };
        assert!(short >= shortest && long <= 320, "{path} has {short} x {long} px");
    }
}
