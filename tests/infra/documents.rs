//! Every relative link of a document leads to a file, and its anchor to a heading; every file that a document names exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders with documents; the others hold none of ours.
const FOLDERS: &[&str] = &[".", "benches", "docs", "infra", "models", "models/golden"];

/// The anchors of a document's headings, as web pages of repositories form them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.split("\n```").step_by(2).flat_map(str::lines).filter_map(|line| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.trim().to_lowercase())
    });
    headings
        .map(|title| {
            let kept = title.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// The targets of `[text](target)` outside code blocks.
fn links(text: &str) -> Vec<String> {
    let prose: String = text.split("\n```").step_by(2).collect();
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://")).collect()
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let files = FOLDERS.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

#[test]
fn links_lead_to_files_and_headings() {
    let documents = documents();
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in &documents {
        for link in links(&std::fs::read_to_string(document).unwrap()) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            let is_there = target.exists()
                && (anchor.is_empty()
                    || anchors(&std::fs::read_to_string(&target).unwrap()).contains(anchor));
            checked += 1;
            if !is_there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(documents.len() > 25 && checked > 100, "{} documents, {checked} links", documents.len());
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_index_lists_every_page() {
    let index =
        std::fs::read_to_string(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("docs/README.md"))
            .unwrap();
    let listed: BTreeSet<String> = links(&index).into_iter().collect();
    for page in documents().iter().filter(|page| page.parent().unwrap().ends_with("docs")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || listed.contains(name), "docs/README.md does not list {name}");
    }
}

/// Folders of the project, as paths in code spans begin.
const STARTS: &[&str] = &["crates/", "src/", "tests/", "tools/", "web/", "examples/", "benches/", "fuzz/"];

#[test]
fn named_files_exist() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let (mut missing, mut checked) = (Vec::new(), 0);
    for document in &documents() {
        let text = std::fs::read_to_string(document).unwrap();
        let prose: String = text.split("\n```").step_by(2).collect();
        let spans = prose.split('`').skip(1).step_by(2);
        let is_path = |span: &&str| {
            STARTS.iter().any(|start| span.starts_with(start))
                && span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        };
        for path in spans.filter(is_path) {
            checked += 1;
            if !root.join(path).exists() && !document.with_file_name(path).exists() {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(checked > 40, "{checked} paths");
    assert!(missing.is_empty(), "{missing:#?}");
}
