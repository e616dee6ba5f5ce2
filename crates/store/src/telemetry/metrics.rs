//! Figures that an operator's alarms and dashboard watch: what became of images, how long steps took, models, gates.
//!
//! It never fails and never waits for a network. A count is in this process's totals, and, once [`write_to`] was
//! called, all figures are lines of CloudWatch's embedded metric format as well, which Lambda turns into metrics of the
//! namespace `Giemsa`. Dimensions are the stage, and for images their status: every value of a dimension is billed.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::Utc;
use serde_json::{Map, Value, json};

/// Namespace of our own metrics in CloudWatch.
pub const NAMESPACE: &str = "Giemsa";

/// Most values of one metric in one line, as CloudWatch takes them.
const MAX_VALUES: usize = 100;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// A file that is not a usable model was found where a stage's model is expected.
    ModelRefused,
    /// A model began to serve in this process.
    ModelReleased,
    /// The bucket was asked whether the model changed.
    ModelChecks,
    /// A decoder panicked on an image, which was rejected.
    DecoderFailed,
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
            Self::DecoderFailed => "DecoderFailed",
            Self::GateFailed => "GateFailed",
            Self::GatePassed => "GatePassed",
        }
    }
}

/// What one batch did, as the handler knows it at its end.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BatchFigures {
    /// Images by status: `classified`, `rejected`, `skipped` or `retried`. A status without images costs nothing.
    pub images: Vec<(&'static str, usize)>,
    /// Images and unreadable messages that are handed back to the trigger.
    pub retries: usize,
    /// Seconds since the oldest upload of the batch, those that are handed back included; `None` where the trigger does
    /// not tell when an image was uploaded, or nobody waits for it.
    pub oldest_upload_age_s: Option<f64>,
    /// How long each image took in each step that it reached.
    pub step_times: StepTimes,
    /// US dollars that AWS asks for the batch at list prices, if they are known.
    pub cost_dollars: Option<f64>,
}

/// Milliseconds of each image in each step, in no order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepTimes {
    /// Download, the wait for the model included.
    pub fetch: Vec<f64>,
    /// Bytes to pixels.
    pub decode: Vec<f64>,
    /// Pixels to tensor.
    pub preprocess: Vec<f64>,
    /// Tensor to scores.
    pub infer: Vec<f64>,
    /// Results prefix and table.
    pub store: Vec<f64>,
}

impl StepTimes {
    /// Adds the times of other images.
    pub fn append(&mut self, mut other: Self) {
        self.fetch.append(&mut other.fetch);
        self.decode.append(&mut other.decode);
        self.preprocess.append(&mut other.preprocess);
        self.infer.append(&mut other.infer);
        self.store.append(&mut other.store);
    }

    fn by_metric(&self) -> [(&'static str, &[f64]); 5] {
        [
            ("FetchTime", &self.fetch),
            ("DecodeTime", &self.decode),
            ("PreprocessTime", &self.preprocess),
            ("InferTime", &self.infer),
            ("StoreTime", &self.store),
        ]
    }
}

type Totals = BTreeMap<(Metric, String), u64>;
type Sink = Option<Box<dyn Write + Send>>;

static TOTALS: Mutex<Totals> = Mutex::new(Totals::new());
static SINK: Mutex<Sink> = Mutex::new(None);

/// Writes every figure as a line to `sink` from now on: on Lambda to standard output, which is read there.
pub fn write_to(sink: impl Write + Send + 'static) {
    *locked(&SINK) = Some(Box::new(sink));
}

/// Counts one `metric` of `stage`.
pub fn count(metric: Metric, stage: &str) {
    *locked(&TOTALS).entry((metric, stage.to_owned())).or_default() += 1;
    write_service(NAMESPACE, &[("Stage", stage)], &[(metric.name(), "Count", 1.0)]);
}

/// How often `metric` of `stage` was counted in this process.
pub fn total(metric: Metric, stage: &str) -> u64 {
    locked(&TOTALS).get(&(metric, stage.to_owned())).copied().unwrap_or(0)
}

/// Writes what a batch of `stage` did: one line, and one more for each further status and each hundred images.
pub fn record_batch(stage: &str, figures: &BatchFigures) {
    write_lines(|| batch_lines(stage, figures, Utc::now().timestamp_millis()));
}

/// Writes metrics of any namespace, as (name, unit, value), with the dimensions by which they are told apart.
pub fn write_service(namespace: &str, dimensions: &[(&str, &str)], metrics: &[(&str, &str, f64)]) {
    write_lines(|| {
        let mut line = Line::default();
        for (name, value) in dimensions {
            line.root.insert((*name).to_owned(), json!(value));
        }
        let names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
        line.add(namespace, &names, metrics.iter().map(|(name, unit, value)| (*name, *unit, json!(value))));
        vec![line.finish(Utc::now().timestamp_millis())]
    });
}

/// A panic elsewhere leaves what is still right.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each line is written whole, in one call, so that two threads or processes never share one.
fn write_lines(lines: impl FnOnce() -> Vec<Value>) {
    if let Some(sink) = locked(&SINK).as_mut() {
        for line in lines() {
            // A closed standard output must cost no image.
            let _ = sink.write_all(format!("{line}\n").as_bytes());
        }
    }
}

fn batch_lines(stage: &str, figures: &BatchFigures, timestamp_ms: i64) -> Vec<Value> {
    let mut statuses = figures.images.iter().filter(|(_, images)| *images > 0);
    let mut steps = figures.step_times.by_metric().map(|(name, values)| (name, values.chunks(MAX_VALUES)));
    let mut once = vec![("Retries", "Count", json!(figures.retries))];
    once.extend(figures.oldest_upload_age_s.map(|age| ("OldestUploadAge", "Seconds", json!(age))));
    once.extend(figures.cost_dollars.map(|dollars| ("Cost", "None", json!(dollars))));
    let mut lines = Vec::new();
    loop {
        let chunks = steps.iter_mut().filter_map(|(name, chunks)| Some((*name, chunks.next()?)));
        once.extend(chunks.map(|(name, values)| (name, "Milliseconds", json!(values))));
        let status = statuses.next();
        if once.is_empty() && status.is_none() {
            return lines;
        }
        let mut line = Line::default();
        line.root.insert("Stage".to_owned(), json!(stage));
        line.add(NAMESPACE, &["Stage"], std::mem::take(&mut once));
        // A line has one value of each dimension.
        if let Some((status, images)) = status {
            line.root.insert("Status".to_owned(), json!(status));
            line.add(NAMESPACE, &["Stage", "Status"], [("Images", "Count", json!(images))]);
        }
        lines.push(line.finish(timestamp_ms));
    }
}

/// A line of the embedded metric format: dimensions and metrics are members of the root, and directives name them.
#[derive(Debug, Default)]
struct Line {
    root: Map<String, Value>,
    directives: Vec<Value>,
}

impl Line {
    fn add<'a>(
        &mut self,
        namespace: &str,
        dimensions: &[&str],
        metrics: impl IntoIterator<Item = (&'a str, &'a str, Value)>,
    ) {
        let mut declared = Vec::new();
        for (name, unit, value) in metrics {
            declared.push(json!({"Name": name, "Unit": unit}));
            self.root.insert(name.to_owned(), value);
        }
        if !declared.is_empty() {
            self.directives.push(json!({
                "Namespace": namespace,
                "Dimensions": [dimensions],
                "Metrics": declared,
            }));
        }
    }

    fn finish(mut self, timestamp_ms: i64) -> Value {
        let directives = std::mem::take(&mut self.directives);
        self.root
            .insert("_aws".to_owned(), json!({"Timestamp": timestamp_ms, "CloudWatchMetrics": directives}));
        Value::Object(self.root)
    }
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

    /// That each dimension and each metric of the directives is a member of the root, by its name.
    fn assert_is_embedded_format(line: &Value) {
        assert_eq!(line["_aws"]["Timestamp"], 1_700_000_000_000_i64);
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            assert_eq!(directive["Namespace"], "Giemsa");
            for dimension in directive["Dimensions"][0].as_array().unwrap() {
                assert!(line[dimension.as_str().unwrap()].is_string(), "{line}");
            }
            for metric in directive["Metrics"].as_array().unwrap() {
                let value = &line[metric["Name"].as_str().unwrap()];
                let values = value.as_array().map_or(1, Vec::len);
                assert!(value.is_number() || value.is_array(), "{line}");
                assert!((1..=100).contains(&values), "{values} values");
            }
        }
    }

    #[test]
    fn an_ordinary_batch_is_one_line() {
        let figures = BatchFigures {
            images: vec![("classified", 2), ("rejected", 0)],
            oldest_upload_age_s: Some(1.5),
            step_times: StepTimes { fetch: vec![1.0, 2.0], ..StepTimes::default() },
            ..BatchFigures::default()
        };
        let lines = batch_lines("prod", &figures, 1_700_000_000_000);
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert_is_embedded_format(line);
        assert_eq!(
            (&line["Stage"], &line["Status"], &line["Images"]),
            (&json!("prod"), &json!("classified"), &json!(2))
        );
        assert_eq!((&line["OldestUploadAge"], &line["Retries"]), (&json!(1.5), &json!(0)));
        assert_eq!(line["FetchTime"], json!([1.0, 2.0]));
        // What was not measured is not there.
        assert!(line["DecodeTime"].is_null() && line["Cost"].is_null());
    }

    #[test]
    fn nothing_of_a_large_mixed_batch_is_left_out() {
        let figures = BatchFigures {
            images: vec![("classified", 240), ("rejected", 3), ("retried", 7)],
            retries: 7,
            step_times: StepTimes { infer: vec![1.0; 243], store: vec![1.0; 10], ..StepTimes::default() },
            ..BatchFigures::default()
        };
        let lines = batch_lines("dev", &figures, 1_700_000_000_000);
        lines.iter().for_each(assert_is_embedded_format);
        let sum = |name: &str| lines.iter().filter_map(|line| line[name].as_u64()).sum::<u64>();
        let values =
            |name: &str| lines.iter().filter_map(|line| line[name].as_array()).map(Vec::len).sum::<usize>();
        assert_eq!((lines.len(), sum("Images"), sum("Retries")), (3, 250, 7));
        assert_eq!((values("InferTime"), values("StoreTime")), (243, 10));
    }
}
