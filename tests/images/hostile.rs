//! Files that are made to do harm, and thousands of damaged ones: each gets exactly one finding, in time and within the
//! memory that the limits and `docs/hostile-files.md` say.
//!
//! `GIEMSA_HOSTILE_FILES` sets how many damaged files are tried (`make hostile`), `GIEMSA_HOSTILE_SEED` where they begin,
//! `GIEMSA_HOSTILE_EVERY` which of the files made to do harm are taken (`tests/run`).

#![expect(clippy::disallowed_methods, reason = "a longer run is asked for by the environment")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::counting::peak_bytes;
use giemsa::analysis::{AnalysisError, analyse_image, analyse_image_until};
use giemsa_core::record::Finding;
use giemsa_image::DecodeLimits;
use giemsa_model::Model;
use giemsa_tests::hostile::{File, PARTS};
use giemsa_tests::onnx::OnnxModel;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// As the default configuration relates them, for pictures of 4 megapixels.
const LIMITS: DecodeLimits = DecodeLimits {
    max_width_px: 20_000,
    max_height_px: 20_000,
    max_pixels: 4_000_000,
    max_decoded_bytes: 48_000_000,
};

/// Just enough for the fixtures, so that a damaged size soon exceeds it.
const TIGHT: DecodeLimits =
    DecodeLimits { max_width_px: 700, max_height_px: 700, max_pixels: 400_000, max_decoded_bytes: 4_800_000 };

/// Memory beside the limits: the 20 MB and two copies of the file that `image::decode` states, and a run of the model.
fn slack_bytes(file: &[u8]) -> u64 {
    (21 << 20) + 2 * file.len() as u64
}

/// After this a file hangs, whatever the machine does meanwhile.
const HANGS: Duration = Duration::from_secs(90);

/// Time that this thread had on a processor: a busy machine does not count.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// What became of one file.
struct Seen {
    /// `classified`, or the code of the rejection.
    end: String,
    peak_bytes: u64,
    took: Duration,
    /// Of a picture that was decoded.
    pixels: u64,
}

/// Analyses one file as the pipeline does; anything but one finding within the bounds is a message.
fn analyse(bytes: &[u8], model: &Model, limits: &DecodeLimits) -> Result<Seen, String> {
    let started = Instant::now();
    let (result, peak) =
        peak_bytes(|| catch_unwind(AssertUnwindSafe(|| analyse_image(bytes, model, limits))));
    let took = started.elapsed();
    let analysis = match result {
        Err(_) => return Err("panicked".to_owned()),
        Ok(Err(error)) => return Err(format!("the network failed: {error}")),
        Ok(Ok(analysis)) => analysis,
    };
    if peak > limits.max_decoded_bytes + slack_bytes(bytes) {
        return Err(format!("held {peak} bytes for a file of {}", bytes.len()));
    }
    let pixels = u64::from(analysis.width_px.unwrap_or(0)) * u64::from(analysis.height_px.unwrap_or(0));
    let end = match analysis.finding {
        Finding::Classified(_) => {
            if pixels == 0 || pixels > limits.max_pixels {
                return Err(format!("classified {:?} x {:?}", analysis.width_px, analysis.height_px));
            }
            "classified".to_owned()
        }
        Finding::Rejected(reject) => {
            if !CODES.contains(&reject.code.as_str()) || reject.message.len() < 20 {
                return Err(format!("rejected as {reject:?}"));
            }
            reject.code
        }
    };
    Ok(Seen { end, peak_bytes: peak, took, pixels })
}

const CODES: [&str; 5] = ["empty", "not_an_image", "unsupported_format", "too_large", "corrupt"];

/// What was seen of many files.
#[derive(Default)]
struct Tally {
    ends: BTreeMap<String, u64>,
    failures: Vec<String>,
    peak: (u64, String),
    slowest: (Duration, String),
    /// For each megapixel of a picture of at least one.
    slowest_megapixel: (Duration, String),
}

impl Tally {
    fn add(&mut self, name: &str, seen: Result<Seen, String>) {
        match seen {
            Err(message) => self.failures.push(format!("{name}: {message}")),
            Ok(Seen { end, peak_bytes, took, pixels }) => {
                *self.ends.entry(end).or_default() += 1;
                self.peak = self.peak.clone().max((peak_bytes, name.to_owned()));
                self.slowest = self.slowest.clone().max((took, name.to_owned()));
                if pixels >= 1_000_000 {
                    let each = took.mul_f64(1e6 / pixels as f64);
                    self.slowest_megapixel = self.slowest_megapixel.clone().max((each, name.to_owned()));
                }
            }
        }
    }

    fn report(&self, what: &str) {
        let files: u64 = self.ends.values().sum();
        eprintln!(
            "{what}: {files} files, {:?}; most memory {:.1} MB ({}), longest {:.2?} ({}), longest for a megapixel {:.2?} ({})",
            self.ends,
            self.peak.0 as f64 / 1e6,
            self.peak.1,
            self.slowest.0,
            self.slowest.1,
            self.slowest_megapixel.0,
            self.slowest_megapixel.1,
        );
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
    }
}

/// Runs `work` on another thread and names the file that it hangs on.
fn watched(work: impl FnOnce(&dyn Fn(&str)) -> Tally + Send + 'static) -> Tally {
    let (sender, started) = mpsc::channel::<String>();
    let thread = std::thread::spawn(move || work(&|name| drop(sender.send(name.to_owned()))));
    let mut last = String::new();
    loop {
        match started.recv_timeout(HANGS) {
            Ok(name) => last = name,
            Err(RecvTimeoutError::Timeout) => panic!("{last} hangs"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    thread.join().unwrap()
}

fn toy() -> Arc<Model> {
    Model::load(&OnnxModel::toy(0.5).bytes()).unwrap()
}

#[test]
fn files_made_to_do_harm_get_one_finding_each() {
    let every = every();
    let tally = watched(move |tell| {
        let model = toy();
        let mut number = 0;
        let mut tally = Tally::default();
        for part in PARTS {
            for File { name, bytes } in part() {
                number += 1;
                // Small files are cheap, and most kinds of harm.
                if bytes.len() > 4_000 && number % (every / 8).max(1) != 0 {
                    continue;
                }
                tell(&name);
                let seen = analyse(&bytes, &model, &LIMITS);
                if let (Ok(seen), Some(_)) = (&seen, std::env::var_os("GIEMSA_HOSTILE_LIST")) {
                    let (peak, took) = (seen.peak_bytes, seen.took);
                    eprintln!("{name}: {} of {} bytes, held {peak}, {took:.2?}", seen.end, bytes.len());
                }
                tally.add(&name, seen);
            }
        }
        tally
    });
    tally.report("made to do harm");
    // What is classified is whole: pictures that are only unusual, and those in strange company.
    for end in ["classified", "corrupt", "too_large", "not_an_image", "unsupported_format", "empty"] {
        assert!(tally.ends.contains_key(end), "no file ends as {end}: the files reach too little");
    }
    assert!(tally.ends.values().sum::<u64>() > if every == 1 { 1_000 } else { 400 });
}

/// Seeds of damaged files: all fixtures, under their names.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/data/images");
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !["rgb", "json"].iter().any(|ending| path.extension().is_some_and(|e| e == *ending)))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() > 90, "fixtures are missing");
    files
}

/// Which of the files are taken: each `n`th. `make hostile` takes all, CI each 24th of what takes longest.
fn every() -> usize {
    usize::try_from(number_from("GIEMSA_HOSTILE_EVERY", 96)).unwrap()
}

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn damaged_files_get_one_finding_each() {
    let count = number_from("GIEMSA_HOSTILE_FILES", 100);
    let first = number_from("GIEMSA_HOSTILE_SEED", 0);
    let tally = watched(move |tell| {
        let (model, seeds) = (toy(), fixtures());
        let mut tally = Tally::default();
        for number in first..first + count {
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let (name, bytes) = giemsa_tests::hostile::mutations::damaged(&seeds, number, &mut rng);
            let name = format!("damaged file {number} ({name})");
            tell(&name);
            tally.add(&name, analyse(&bytes, &model, &TIGHT));
        }
        tally
    });
    tally.report(&format!("damaged, from seed {first}"));
    assert!(tally.ends.get("classified").is_some_and(|files| *files > count / 50), "all damage is fatal");
    assert!(tally.ends.get("corrupt").is_some_and(|files| *files > count / 5), "no damage is noticed");
}

#[test]
fn each_analysis_ends_soon_after_its_deadline() {
    const ALLOWED: Duration = Duration::from_millis(150);
    let every = every();
    let tally = watched(move |tell| {
        let model = toy();
        let mut number = 0;
        let mut tally = Tally::default();
        for part in PARTS {
            for File { name, bytes } in part() {
                number += 1;
                if number % (every / 6).max(1) != 0 {
                    continue;
                }
                tell(&name);
                let (started, started_on_processor) = (Instant::now(), processor_time());
                let deadline = started + ALLOWED;
                let result = analyse_image_until(&bytes, &model, &LIMITS, Some(deadline), |_| {});
                // Of what came after the deadline, the part that was work.
                let late = Instant::now().saturating_duration_since(deadline);
                let late = late.min(processor_time() - started_on_processor);
                let end = match result {
                    Ok(_) => "in time",
                    Err(AnalysisError::OutOfTime) => "given up",
                    Err(AnalysisError::Model(error)) => panic!("{name}: {error}"),
                };
                tally.add(&name, Ok(Seen { end: end.to_owned(), peak_bytes: 0, took: late, pixels: 0 }));
            }
        }
        tally
    });
    tally.report("with 150 ms each");
    // One turn of a decoder on what it has read, in a build that is not optimised.
    assert!(tally.slowest.0 < Duration::from_secs(4), "{:?}", tally.slowest);
    // A deadline that has passed before the start gives no finding, whatever the file.
    let past = Some(Instant::now());
    let result = analyse_image_until(b"", &toy(), &LIMITS, past, |_| {});
    assert!(matches!(result, Err(AnalysisError::OutOfTime)), "{result:?}");
}
