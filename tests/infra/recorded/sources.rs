//! Which operations of AWS the code names, so that none stays unrecorded.
//!
//! It never tells one use of an operation in a file from another. Every file of `src/` and `crates/` that names an
//! operation is of some function or of commands, and a new one has to be put here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Files or folders, the functions that run them (ends of their names), and operations in them that only commands ask for.
const PLACES: &[(&str, &[&str], &[&str])] = &[
    ("crates/dashboard/src/", &["Dashboard"], &[]),
    ("crates/store/src/queues.rs", &["Dashboard"], &["GetQueueUrl", "PurgeQueue", "SendMessageBatch"]),
    ("crates/store/src/table/answered.rs", &["Classifier", "Backfill"], &[]),
    ("crates/store/src/table/counts/days.rs", &["Classifier", "Backfill", "Dashboard"], &[]),
    ("crates/store/src/table/notes/crashes.rs", &["Classifier", "Backfill"], &[]),
    ("crates/store/src/table/notes/failures.rs", &["Classifier"], &[]),
    ("crates/store/src/table/lookups.rs", &["Dashboard"], &[]),
    ("crates/store/src/model_bucket.rs", &["Gate"], &["HeadObject"]),
    ("crates/store/src/objects.rs", &["Classifier", "Backfill"], &[]),
    ("crates/store/src/table/reader.rs", &["Classifier", "Backfill", "Dashboard"], &[]),
    ("crates/store/src/results/finder.rs", &["Dashboard"], &[]),
    ("crates/store/src/results.rs", &["Classifier", "Backfill"], &[]),
    ("crates/store/src/table/counts/slides.rs", &["Dashboard"], &[]),
    ("crates/store/src/table/writer.rs", &["Classifier", "Backfill"], &[]),
    ("crates/store/src/uploads.rs", &["Dashboard"], &[]),
    ("crates/store/src/table/reviews/verdict_writes.rs", &["Dashboard"], &[]),
    ("crates/store/src/table/reviews/withdrawal_writes.rs", &["Dashboard"], &[]),
];

/// Files or folders of commands and of the embedded stack alone.
const OF_COMMANDS: &[&str] = &[
    "crates/ops/src/backfill/",
    "crates/cli/src/",
    "crates/ops/src/export/",
    "crates/ops/src/inventory/",
    "crates/local/src/",
    "crates/store/src/queues/",
    "crates/ops/src/release/",
    "crates/store/src/table/releases.rs",
    "crates/store/src/table/schema.rs",
];

/// Methods of clients that ask nothing.
const ASK_NOTHING: [&str; 5] = ["Build", "Clone", "Config", "Shutdown", "Url"];

/// What is wrong, if operations that the code names were not recorded: `recorded` has those of each function.
pub fn problems(recorded: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut problems = BTreeSet::new();
    let mut files = Vec::new();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for folder in ["src", "crates"] {
        read_folder(root, Path::new(folder), &mut files);
    }
    let named = files.iter().filter(|(path, _)| !OF_COMMANDS.iter().any(|start| path.starts_with(start)));
    for (path, operations) in named {
        let Some((_, functions, of_commands)) = PLACES.iter().find(|(start, ..)| path.starts_with(start))
        else {
            problems
                .insert(format!("{path} asks for {operations:?}: say in PLACES or OF_COMMANDS who runs it"));
            continue;
        };
        for operation in operations.iter().filter(|operation| !of_commands.contains(&operation.as_str())) {
            for (name, seen) in
                recorded.iter().filter(|(name, _)| functions.iter().any(|end| name.ends_with(end)))
            {
                if !seen.contains(operation) {
                    problems.insert(format!("{name} runs {path}, and its {operation} was not recorded"));
                }
            }
        }
    }
    problems
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<(String, BTreeSet<String>)>) {
    for entry in std::fs::read_dir(root.join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        if root.join(&path).is_dir() {
            read_folder(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let operations = operations(&std::fs::read_to_string(root.join(&path)).unwrap());
            if !operations.is_empty() {
                files.push((path.to_str().unwrap().replace('\\', "/"), operations));
            }
        }
    }
}

/// Operations that `text` asks clients for: `GetObject` of `s3.get_object()`, also over several lines.
fn operations(text: &str) -> BTreeSet<String> {
    let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
    let code: Vec<&str> = code.map(str::trim).filter(|line| !line.starts_with("//")).collect();
    let code = code.join(" ").replace(" .", ".");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for client in ["s3.", "dynamodb.", "sqs."] {
        for (at, _) in code.match_indices(client) {
            let rest = &code[at + client.len()..];
            let method = rest.split(|c: char| !is_word(c)).next().unwrap_or_default();
            let is_whole = !code[..at].ends_with(is_word) && rest[method.len()..].starts_with("()");
            if is_whole && !method.is_empty() {
                let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
                found.insert(method.split('_').map(capital).collect());
            }
        }
    }
    found.retain(|name: &String| !ASK_NOTHING.contains(&name.as_str()));
    found
}

#[test]
fn operations_are_seen_however_they_are_written() {
    let text = "match s3.head_object().send() {}\n    self.dynamodb\n        .query()\n // s3.copy_object()\n\
                let x = self.s3.list_objects_v2(); other_s3.put_object(); s3.clone(); s3.method(1)\n\
                #[cfg(test)]\n s3.delete_object()";
    let found: Vec<String> = operations(text).into_iter().collect();
    assert_eq!(found, ["HeadObject", "ListObjectsV2", "Query"]);
}
