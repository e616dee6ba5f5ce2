//! The text of `--faults`: which faults, how often, and from which seed.
//!
//! A spec that parsed has known kinds only, each at most once, and its text parses to the same spec again.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

/// Faults that one subject suffers at most, unless the spec says otherwise.
const DEFAULT_LIMIT: u32 = 2;

/// Largest batch, as SQS gives it to a function.
const MAX_BATCH: usize = 10_000;

/// Probabilities are held in millionths, so that specs can be compared.
const MILLION: f64 = 1e6;

/// What can go wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// S3 answers 503 SlowDown.
    SlowDown,
    /// S3 or DynamoDB answers 500.
    InternalError,
    /// DynamoDB answers `ProvisionedThroughputExceededException`.
    Throughput,
    /// DynamoDB answers a write with `TransactionConflictException`.
    Conflict,
    /// DynamoDB does a part of a batch and returns the rest as unprocessed.
    Unprocessed,
    /// No answer for longer than a client waits.
    Timeout,
    /// The connection is reset before the request is done.
    Reset,
    /// The body ends before the length that was announced.
    Truncate,
    /// One bit of an object's body is flipped.
    Checksum,
    /// The answer comes in drops.
    Slow,
    /// The request is done, and the connection is reset before the answer.
    LostAnswer,
    /// A notification comes two or three times.
    Duplicate,
    /// A notification is overtaken by later ones.
    Reorder,
    /// A notification is held back for a random time.
    Delay,
    /// A notification is held back for the whole time.
    Late,
    /// A message becomes visible again while work on it goes on.
    Expire,
    /// The function is not invoked: it has no concurrency left.
    Throttle,
    /// Decoding an image panics.
    PanicDecode,
    /// The network panics.
    PanicModel,
    /// The thread that works on an image stands still.
    Freeze,
    /// The process ends by SIGKILL.
    Kill,
}

/// Name, default duration in milliseconds (0: it has none) and meaning of each kind, in the order of help and reports.
const KINDS: &[(Kind, &str, u64, &str)] = &[
    (Kind::SlowDown, "slow-down", 0, "S3 answers 503 SlowDown"),
    (Kind::InternalError, "internal-error", 0, "S3 or DynamoDB answers 500"),
    (Kind::Throughput, "throughput", 0, "DynamoDB answers ProvisionedThroughputExceededException"),
    (Kind::Conflict, "conflict", 0, "DynamoDB answers a write with TransactionConflictException"),
    (Kind::Unprocessed, "unprocessed", 0, "DynamoDB returns items of a batch as unprocessed"),
    (Kind::Timeout, "timeout", 12_000, "no answer for this time, then the connection breaks"),
    (Kind::Reset, "reset", 0, "the connection is reset before the request is done"),
    (Kind::Truncate, "truncate", 0, "the body ends before the length that was announced"),
    (Kind::Checksum, "checksum", 0, "one bit of an object is flipped on its way"),
    (Kind::Slow, "slow", 200, "the answer comes in drops, over this time"),
    (Kind::LostAnswer, "lost-answer", 0, "the request is done, the connection is reset before the answer"),
    (Kind::Duplicate, "duplicate", 1_000, "a notification comes two or three times, within this time"),
    (Kind::Reorder, "reorder", 500, "later notifications overtake this one, by up to this time"),
    (Kind::Delay, "delay", 2_000, "a notification is held back for up to this time"),
    (Kind::Late, "late", 10_000, "a notification is held back for this time"),
    (Kind::Expire, "expire", 50, "a message becomes visible again after this time, while work on it goes on"),
    (Kind::Throttle, "throttle", 0, "the function is not invoked and its messages come again"),
    (Kind::PanicDecode, "panic-decode", 0, "decoding the image panics"),
    (Kind::PanicModel, "panic-model", 0, "the network panics on the image"),
    (Kind::Freeze, "freeze", 35_000, "the thread that works on the image stands still for this time"),
    (Kind::Kill, "kill", 0, "the process ends by SIGKILL; start it again"),
];

impl Kind {
    fn row(self) -> &'static (Kind, &'static str, u64, &'static str) {
        KINDS.iter().find(|(kind, ..)| *kind == self).expect("each kind has a row; a test goes through them")
    }

    /// Name in specs and reports, e.g. `slow-down`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The kind of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|(_, known, ..)| *known == name).map(|(kind, ..)| *kind)
    }
}

/// How often a kind strikes, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Probability in millionths, 0..=1,000,000.
    pub millionths: u32,
    /// What the kind's meaning calls "this time"; zero if it has none.
    pub duration: Duration,
}

/// A parsed spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultSpec {
    /// Decides, together with the subject, what happens to it.
    pub seed: u64,
    /// Faults that one subject suffers at most, over all restarts; at least 1.
    pub limit: u32,
    /// Messages of one event, drawn anew for each; `None` leaves it as it is.
    pub batch: Option<RangeInclusive<usize>>,
    /// First digits of the SHA-256 of a model that aborts its process whenever it runs; no probability, no limit.
    pub abort_model: Option<String>,
    /// The kinds that may strike.
    pub rates: BTreeMap<Kind, Rate>,
}

/// Why a spec cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// A part is not a `name=value`.
    #[error("{found:?} is not a fault; expected name=value, separated by commas, with the names\n{}", help())]
    Form {
        /// The part.
        found: String,
    },
    /// No kind or setting has the name.
    #[error("no fault is named {found:?}; the names are\n{}", help())]
    Name {
        /// The name.
        found: String,
    },
    /// A name was given twice.
    #[error("{name} is given twice; expected it once")]
    Twice {
        /// The name.
        name: String,
    },
    /// A value is not of its form.
    #[error("{name}={found}: expected {expected}")]
    Value {
        /// The name.
        name: String,
        /// The value.
        found: String,
        /// What it has to be.
        expected: &'static str,
    },
}

/// The settings and kinds, one a line, for `--help` and messages.
#[must_use]
pub fn help() -> String {
    let mut lines = vec![
        "  seed=7              decides what happens to which object; the same seed, the same faults"
            .to_owned(),
        format!("  limit={DEFAULT_LIMIT}             most faults that one object, item or message suffers"),
        "  batch=1..10000      messages of one event, drawn anew for each".to_owned(),
        "  abort-model=0a1b2c  the model whose SHA-256 begins so aborts its process whenever it runs"
            .to_owned(),
    ];
    lines.extend(KINDS.iter().map(|(_, name, default_ms, meaning)| {
        let example = match default_ms {
            0 => format!("{name}=0.05"),
            ms if ms % 1_000 == 0 => format!("{name}=0.05:{}s", ms / 1_000),
            ms => format!("{name}=0.05:{ms}ms"),
        };
        format!("  {example:<20}{meaning}")
    }));
    lines.join("\n")
}

impl FromStr for FaultSpec {
    type Err = SpecError;

    /// Reads `name=value` parts between commas or line ends; what follows a `#` is left out.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (mut seed, mut limit, mut batch, mut rates) = (None, None, None, BTreeMap::new());
        let mut abort_model = None;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        for part in lines.flat_map(|line| line.split(',')).map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| SpecError::Form { found: part.to_owned() })?;
            let (name, value) = (name.trim(), value.trim());
            let wrong = |expected| SpecError::Value { name: name.into(), found: value.into(), expected };
            let is_first = match name {
                "seed" => {
                    seed.replace(value.parse().map_err(|_| wrong("a whole number from 0 on"))?).is_none()
                }
                "limit" => {
                    let count = value.parse().ok().filter(|count| *count > 0);
                    limit.replace(count.ok_or_else(|| wrong("a whole number from 1 on"))?).is_none()
                }
                "batch" => {
                    let range = parse_batch(value);
                    batch.replace(range.ok_or_else(|| wrong("a range within 1..10000"))?).is_none()
                }
                "abort-model" => {
                    let is_start = !value.is_empty()
                        && value.len() <= 64
                        && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                    let digits = Some(value.to_owned()).filter(|_| is_start);
                    let digits = digits.ok_or_else(|| wrong("the first digits of a SHA-256, lower-case"))?;
                    abort_model.replace(digits).is_none()
                }
                _ => {
                    let kind = Kind::of_name(name).ok_or_else(|| SpecError::Name { found: name.into() })?;
                    rates.insert(kind, parse_rate(kind, value).map_err(wrong)?).is_none()
                }
            };
            if !is_first {
                return Err(SpecError::Twice { name: name.to_owned() });
            }
        }
        let (seed, limit) = (seed.unwrap_or(0), limit.unwrap_or(DEFAULT_LIMIT));
        Ok(Self { seed, limit, batch, abort_model, rates })
    }
}

impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={},limit={}", self.seed, self.limit)?;
        if let Some(batch) = &self.batch {
            write!(f, ",batch={}..{}", batch.start(), batch.end())?;
        }
        if let Some(digits) = &self.abort_model {
            write!(f, ",abort-model={digits}")?;
        }
        for (kind, rate) in &self.rates {
            write!(f, ",{}={}", kind.as_str(), f64::from(rate.millionths) / MILLION)?;
            if !rate.duration.is_zero() {
                write!(f, ":{}ms", rate.duration.as_millis())?;
            }
        }
        Ok(())
    }
}

fn parse_batch(text: &str) -> Option<RangeInclusive<usize>> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (1 <= low && low <= high && high <= MAX_BATCH).then_some(low..=high)
}

fn parse_rate(kind: Kind, text: &str) -> Result<Rate, &'static str> {
    let (_, _, default_ms, _) = kind.row();
    let (probability, duration) = match text.split_once(':') {
        Some(_) if *default_ms == 0 => return Err("a probability from 0 to 1; this fault has no duration"),
        Some((probability, duration)) => (
            probability,
            parse_duration(duration).ok_or("a duration of at most a day, as in 0.05:200ms or 0.05:2s")?,
        ),
        None => (text, Duration::from_millis(*default_ms)),
    };
    let probability: Option<f64> = probability.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    let probability = probability.ok_or("a probability from 0 to 1")?;
    // In 0..=1,000,000, so that the conversion loses nothing but digits.
    Ok(Rate { millionths: (probability * MILLION).round() as u32, duration })
}

fn parse_duration(text: &str) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(86_400);
    let duration = match text.strip_suffix("ms") {
        Some(ms) => Duration::from_millis(ms.parse().ok()?),
        None => Duration::from_secs(text.strip_suffix('s')?.parse().ok()?),
    };
    (duration <= DAY).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_name_and_a_line_of_help() {
        // A kind without a row would panic where it is named; the last one tells how many there are.
        assert_eq!(KINDS.len(), Kind::Kill as usize + 1);
        for (kind, name, _, meaning) in KINDS {
            assert_eq!(kind.as_str(), *name);
            assert_eq!(Kind::of_name(name), Some(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), *name);
            let help = help();
            assert!(help.lines().any(|line| line.contains(name) && line.ends_with(meaning)), "{help}");
        }
    }

    #[test]
    fn a_spec_is_read_with_its_defaults_and_printed_so_that_it_reads_the_same() {
        let text = "seed=7, slow-down=0.05,batch=1..10000\n# a comment, with=a comma\nslow=1:2s # why\nlate=0.000001";
        let spec: FaultSpec = text.parse().unwrap();
        assert_eq!((spec.seed, spec.limit, spec.batch.clone()), (7, 2, Some(1..=10_000)));
        assert_eq!(spec.rates[&Kind::SlowDown], Rate { millionths: 50_000, duration: Duration::ZERO });
        assert_eq!(spec.rates[&Kind::Slow], Rate { millionths: 1_000_000, duration: Duration::from_secs(2) });
        assert_eq!(spec.rates[&Kind::Late], Rate { millionths: 1, duration: Duration::from_secs(10) });
        assert_eq!(spec.to_string().parse::<FaultSpec>().unwrap(), spec);
        assert_eq!("".parse::<FaultSpec>().unwrap().rates.len(), 0);
        // What help shows can be typed.
        let shown: Vec<String> =
            help().lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
        assert_eq!(shown.join(",").parse::<FaultSpec>().unwrap().rates.len(), KINDS.len());
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected() {
        let table = [
            ("slow", "name=value"),
            ("slwo=1", "the names are"),
            ("slow=0.1,slow=0.2", "given twice"),
            ("slow=2", "from 0 to 1"),
            ("slow=NaN", "from 0 to 1"),
            ("slow=0.1:5", "0.05:200ms"),
            ("slow=0.1:99999999s", "at most a day"),
            ("reset=0.1:5s", "no duration"),
            ("limit=0", "from 1 on"),
            ("seed=-1", "from 0 on"),
            ("batch=0..5", "1..10000"),
            ("batch=7..5", "1..10000"),
            ("batch=1..10001", "1..10000"),
        ];
        for (text, expected) in table {
            let message = text.parse::<FaultSpec>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
