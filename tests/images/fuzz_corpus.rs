//! What fuzzing found interesting, and damage to it, through the very functions that fuzzing runs.
//!
//! `fuzz/corpus/<target>/` is what `cargo fuzz cmin` left of the runs that `docs/hostile-files.md` counts;
//! `GIEMSA_CORPUS_RUNS` sets how many damaged copies are tried of each target, `GIEMSA_CORPUS_SEED` where they begin.

#![expect(clippy::disallowed_methods, reason = "a longer run is asked for by the environment")]

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::panic::catch_unwind;
use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Replays the corpus of `target`, then damaged copies; at least `reaching` in a hundred of the former get past the entrance.
fn replay(target: &str, check: fn(&[u8]) -> bool, reaching: usize) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("fuzz/corpus").join(target);
    let mut corpus: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    corpus.sort();
    assert!(corpus.len() >= 100, "{} has {} files: is it the whole corpus?", folder.display(), corpus.len());

    let run = |name: &str, bytes: &[u8]| {
        catch_unwind(|| check(bytes)).unwrap_or_else(|_| panic!("{target}: {name} of {} bytes", bytes.len()))
    };
    let reached = corpus.iter().filter(|(name, bytes)| run(name, bytes)).count();
    assert!(
        reached * 100 >= corpus.len() * reaching,
        "only {reached} of {} files reach anything",
        corpus.len()
    );

    let (runs, first) = (number_from("GIEMSA_CORPUS_RUNS", 2_000), number_from("GIEMSA_CORPUS_SEED", 0));
    let mut reached_damaged = 0;
    for number in first..first + runs {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let (name, bytes) = giemsa_tests::hostile::mutations::damaged(&corpus, number, &mut rng);
        reached_damaged += u64::from(run(&format!("damaged copy {number} of {name}"), &bytes));
    }
    eprintln!(
        "{target}: {reached} of {} files and {reached_damaged} of {runs} damaged copies got past the entrance",
        corpus.len()
    );
}

#[test]
fn decode() {
    replay("decode", checks::check_decode, 5);
}

#[test]
fn event() {
    replay("event", checks::check_event, 2);
}

#[test]
fn metadata() {
    replay("metadata", checks::check_metadata, 1);
}
