//! Counts what an operator's alarms watch: models refused and released, golden sets passed and failed.
//!
//! It never fails and never waits for a network. Invariant: a count is in this process's totals, and, once
//! [`write_to_stdout`] was called, a line of CloudWatch's embedded metric format as well, which Lambda turns into the
//! metric of the namespace `Giemsa` with the dimension `Stage`.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::Utc;
use serde_json::{Value, json};

/// Namespace of all metrics in CloudWatch.
pub const NAMESPACE: &str = "Giemsa";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// A file that is no usable model was found where a stage's model is expected.
    ModelRefused,
    /// A model began to serve in this process.
    ModelReleased,
    /// The bucket was asked whether the model changed.
    ModelChecks,
    /// A model failed its golden set.
    GateFailed,
    /// A model passed its golden set.
    GatePassed,
}

impl Metric {
    /// Name in CloudWatch.
    pub fn name(self) -> &'static str {
        match self {
            Self::ModelRefused => "ModelRefused",
            Self::ModelReleased => "ModelReleased",
            Self::ModelChecks => "ModelChecks",
            Self::GateFailed => "GateFailed",
            Self::GatePassed => "GatePassed",
        }
    }
}

type Totals = BTreeMap<(Metric, String), u64>;

static TOTALS: Mutex<Totals> = Mutex::new(Totals::new());
static WRITES_TO_STDOUT: AtomicBool = AtomicBool::new(false);

/// Writes each count to standard output from now on; for Lambda, which reads it there.
pub fn write_to_stdout() {
    WRITES_TO_STDOUT.store(true, Ordering::Relaxed);
}

/// Counts one `metric` of `stage`.
pub fn count(metric: Metric, stage: &str) {
    // A panic elsewhere leaves a number that is still right.
    let mut totals = TOTALS.lock().unwrap_or_else(PoisonError::into_inner);
    *totals.entry((metric, stage.to_owned())).or_default() += 1;
    drop(totals);
    if WRITES_TO_STDOUT.load(Ordering::Relaxed) {
        let mut line = embedded_format(metric, stage, Utc::now().timestamp_millis()).to_string();
        line.push('\n');
        // A closed standard output must cost no image.
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }
}

/// How often `metric` of `stage` was counted in this process.
pub fn total(metric: Metric, stage: &str) -> u64 {
    let totals = TOTALS.lock().unwrap_or_else(PoisonError::into_inner);
    totals.get(&(metric, stage.to_owned())).copied().unwrap_or(0)
}

fn embedded_format(metric: Metric, stage: &str, timestamp_ms: i64) -> Value {
    let name = metric.name();
    json!({
        "_aws": {
            "Timestamp": timestamp_ms,
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE,
                "Dimensions": [["Stage"]],
                "Metrics": [{"Name": name, "Unit": "Count"}],
            }],
        },
        "Stage": stage,
        name: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_metric_and_stage() {
        count(Metric::GatePassed, "metrics-test");
        count(Metric::GatePassed, "metrics-test");
        count(Metric::GateFailed, "metrics-test");
        assert_eq!(total(Metric::GatePassed, "metrics-test"), 2);
        assert_eq!(total(Metric::GateFailed, "metrics-test"), 1);
        assert_eq!(total(Metric::GatePassed, "metrics-other"), 0);
    }

    #[test]
    fn a_line_holds_what_cloudwatch_asks_for() {
        let line = embedded_format(Metric::ModelRefused, "prod", 1_700_000_000_000);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(line["_aws"]["Timestamp"], 1_700_000_000_000_i64);
        assert_eq!(directive["Namespace"], "Giemsa");
        // Each dimension and each metric is a member of the root, by its name.
        for dimension in directive["Dimensions"][0].as_array().unwrap() {
            assert_eq!(line[dimension.as_str().unwrap()], "prod");
        }
        assert_eq!(line[directive["Metrics"][0]["Name"].as_str().unwrap()], 1);
    }
}
