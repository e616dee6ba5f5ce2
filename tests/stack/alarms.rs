//! Each alarm of the template over the metrics that a stack really writes: it fires in its condition, and only then.
//!
//! Alarms are read out of `infra/template.yaml` and evaluated as CloudWatch does: statistic by period, metric math, how
//! many of the last periods breach, missing data. A minute of CloudWatch is 200 ms here ([`SPEED`]), in periods as in
//! metrics that are seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_local::{INPUT_BUCKET, MODEL_BUCKET, TABLE, credentials};
use giemsa_tests::lab::{file, uninfected_cell};
use giemsa_tests::running_stack::{RunningStack, depths, project, wait_for};
use serde_json::Value as Json;
use serde_yaml_ng::Value;

/// How much faster time goes here than in CloudWatch.
const SPEED: f64 = 300.0;
/// A minute of CloudWatch, milliseconds.
const MINUTE_MS: f64 = 60_000.0 / SPEED;

/// What the names of the template are in the embedded stack.
const DEPLOYED: [(&str, &str); 8] = [
    ("ProdQueue.QueueName", "classify-prod"),
    ("DevQueue.QueueName", "classify-dev"),
    ("ProdDeadLetterQueue.QueueName", "classify-prod-dlq"),
    ("DevDeadLetterQueue.QueueName", "classify-dev-dlq"),
    ("GateDeadLetterQueue.QueueName", "gate-dlq"),
    ("ProdClassifier", "classify-prod"),
    ("DevClassifier", "classify-dev"),
    ("Table", TABLE),
];

type Dimensions = BTreeMap<String, String>;

/// Values of one metric at one moment.
struct Sample {
    metric: (String, String, Dimensions),
    at_ms: f64,
    values: Vec<f64>,
}

/// What a file of metrics says, as CloudWatch reads it.
fn samples(path: &Path) -> Vec<Sample> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut samples = Vec::new();
    // The last line may be half written.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let line: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            for names in directive["Dimensions"].as_array().unwrap() {
                let names = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                let dimensions: Dimensions =
                    names.map(|name| (name.to_owned(), line[name].as_str().unwrap().to_owned())).collect();
                for metric in directive["Metrics"].as_array().unwrap() {
                    let name = metric["Name"].as_str().unwrap();
                    let scale = if metric["Unit"] == "Seconds" { SPEED } else { 1.0 };
                    let value = &line[name];
                    let values: Vec<f64> = match value.as_array() {
                        Some(values) => values.iter().map(|value| value.as_f64().unwrap() * scale).collect(),
                        None => vec![value.as_f64().unwrap() * scale],
                    };
                    let namespace = directive["Namespace"].as_str().unwrap().to_owned();
                    samples.push(Sample {
                        metric: (namespace, name.to_owned(), dimensions.clone()),
                        at_ms: line["_aws"]["Timestamp"].as_f64().unwrap(),
                        values,
                    });
                }
            }
        }
    }
    samples
}

/// One metric as an alarm asks for it.
struct Query {
    metric: (String, String, Dimensions),
    statistic: String,
    period_ms: f64,
}

impl Query {
    fn of(metric: &Value, statistic: &Value, period: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value:?}")).to_owned();
        let dimensions = metric["Dimensions"].as_sequence().unwrap().iter();
        let dimensions = dimensions.map(|d| (text(&d["Name"]), deployed(&d["Value"]))).collect();
        Self {
            metric: (text(&metric["Namespace"]), text(&metric["MetricName"]), dimensions),
            statistic: text(statistic),
            period_ms: period.as_f64().unwrap() / 60.0 * MINUTE_MS,
        }
    }

    /// The statistic of the `back`th period before `end_ms`; `None` without data.
    fn value(&self, samples: &[Sample], end_ms: f64, back: usize) -> Option<f64> {
        let until = end_ms - back as f64 * self.period_ms;
        let found = samples.iter().filter(|sample| {
            sample.at_ms <= until && sample.at_ms > until - self.period_ms && sample.metric == self.metric
        });
        let values: Vec<f64> = found.flat_map(|sample| sample.values.iter().copied()).collect();
        let reduced = match self.statistic.as_str() {
            "Sum" => values.iter().sum(),
            "Maximum" => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            other => panic!("statistic {other}"),
        };
        (!values.is_empty()).then_some(reduced)
    }
}

fn deployed(value: &Value) -> String {
    let Value::Tagged(tagged) = value else { return value.as_str().unwrap().to_owned() };
    let name = tagged.value.as_str().unwrap();
    let known = DEPLOYED.iter().find(|(of_template, _)| *of_template == name);
    known.unwrap_or_else(|| panic!("{name} is not a queue, function or table of the stack")).1.to_owned()
}

/// Metric math, as far as the template uses it.
struct Math<'a> {
    tokens: Vec<&'a str>,
    metrics: &'a BTreeMap<String, Option<f64>>,
}

impl<'a> Math<'a> {
    fn evaluate(text: &'a str, metrics: &'a BTreeMap<String, Option<f64>>) -> Option<f64> {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match first {
                '=' => 2,
                _ => word.max(1),
            };
            tokens.push(&rest[..length]);
            rest = rest[length..].trim_start();
        }
        tokens.reverse();
        let mut math = Self { tokens, metrics };
        let value = math.conjunction();
        assert!(math.tokens.is_empty(), "{text}: {:?} is left", math.tokens);
        value
    }

    fn takes(&mut self, token: &str) -> bool {
        let is_next = self.tokens.last() == Some(&token);
        if is_next {
            self.tokens.pop();
        }
        is_next
    }

    fn expect(&mut self, token: &str) {
        assert!(self.takes(token), "expected {token} before {:?}", self.tokens);
    }

    fn conjunction(&mut self) -> Option<f64> {
        let mut value = self.comparison();
        while self.takes("AND") {
            let other = self.comparison();
            value = value.zip(other).map(|(a, b)| f64::from(a != 0.0 && b != 0.0));
        }
        value
    }

    fn comparison(&mut self) -> Option<f64> {
        let left = self.term();
        if self.takes(">") {
            let right = self.term();
            left.zip(right).map(|(a, b)| f64::from(a > b))
        } else if self.takes("==") {
            let right = self.term();
            left.zip(right).map(|(a, b)| f64::from(a == b))
        } else {
            left
        }
    }

    fn term(&mut self) -> Option<f64> {
        let word = self.tokens.pop().expect("a term");
        match word {
            "IF" => {
                self.expect("(");
                let condition = self.conjunction();
                self.expect(",");
                let then = self.conjunction();
                self.expect(",");
                let otherwise = self.conjunction();
                self.expect(")");
                if condition? != 0.0 { then } else { otherwise }
            }
            "FILL" => {
                self.expect("(");
                let value = self.conjunction();
                self.expect(",");
                let filling = self.conjunction();
                self.expect(")");
                value.or(filling)
            }
            "SUM" => {
                ["(", "METRICS", "(", ")", ")"].iter().for_each(|token| self.expect(token));
                self.metrics.values().flatten().copied().reduce(|a, b| a + b)
            }
            number if number.parse::<f64>().is_ok() => number.parse().ok(),
            id => *self.metrics.get(id).unwrap_or_else(|| panic!("{id} is not a metric of the alarm")),
        }
    }
}

struct Alarm {
    name: String,
    queries: BTreeMap<String, Query>,
    expression: Option<String>,
    periods: usize,
    breaching_to_fire: usize,
    threshold: f64,
}

impl Alarm {
    fn of(name: &str, properties: &Value) -> Self {
        assert_eq!(properties["ComparisonOperator"], "GreaterThanThreshold", "{name}");
        assert_eq!(properties["TreatMissingData"], "notBreaching", "{name}");
        let mut queries = BTreeMap::new();
        let mut expression = None;
        for metric in properties["Metrics"].as_sequence().into_iter().flatten() {
            match metric["Expression"].as_str() {
                Some(text) => {
                    assert_eq!((&metric["ReturnData"], &expression), (&Value::from(true), &None), "{name}");
                    expression = Some(text.to_owned());
                }
                None => {
                    assert_eq!(metric["ReturnData"], false, "{name}");
                    let stat = &metric["MetricStat"];
                    let query = Query::of(&stat["Metric"], &stat["Stat"], &stat["Period"]);
                    queries.insert(metric["Id"].as_str().unwrap().to_owned(), query);
                }
            }
        }
        if queries.is_empty() {
            let query = Query::of(properties, &properties["Statistic"], &properties["Period"]);
            queries.insert(String::new(), query);
        }
        let periods = properties["EvaluationPeriods"].as_u64().unwrap() as usize;
        Self {
            name: name.to_owned(),
            queries,
            expression,
            periods,
            breaching_to_fire: properties["DatapointsToAlarm"].as_u64().map_or(periods, |m| m as usize),
            threshold: properties["Threshold"].as_f64().unwrap(),
        }
    }

    /// Whether the alarm goes off at `end_ms`.
    fn fires(&self, samples: &[Sample], end_ms: f64) -> bool {
        let breaches = |back: &usize| {
            let values: BTreeMap<String, Option<f64>> = self
                .queries
                .iter()
                .map(|(id, query)| (id.clone(), query.value(samples, end_ms, *back)))
                .collect();
            let value = match &self.expression {
                Some(expression) => Math::evaluate(expression, &values),
                None => values[""],
            };
            value.is_some_and(|value| value > self.threshold)
        };
        (0..self.periods).filter(breaches).count() >= self.breaching_to_fire
    }
}

fn alarms() -> Vec<Alarm> {
    let template: Value = serde_yaml_ng::from_slice(&file("infra/template.yaml")).unwrap();
    let resources = template["Resources"].as_mapping().unwrap();
    let alarms = resources.iter().filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm");
    alarms.map(|(name, resource)| Alarm::of(name.as_str().unwrap(), &resource["Properties"])).collect()
}

/// Alarms that go off at any minute of a file of metrics.
fn fired(alarms: &[Alarm], path: &Path) -> BTreeSet<String> {
    let samples = samples(path);
    let times = samples.iter().map(|sample| sample.at_ms);
    let (first, last) = (times.clone().fold(f64::MAX, f64::min), times.fold(0.0, f64::max));
    let minutes = ((last - first) / MINUTE_MS).max(0.0) as usize + 2;
    let ends: Vec<f64> = (0..minutes).map(|minute| first + minute as f64 * MINUTE_MS).collect();
    let fires = |alarm: &&Alarm| ends.iter().any(|end| alarm.fires(&samples, *end));
    alarms.iter().filter(fires).map(|alarm| alarm.name.clone()).collect()
}

fn names(of_stages: &[&str], others: &[&str]) -> BTreeSet<String> {
    let both = of_stages.iter().flat_map(|name| [format!("Prod{name}"), format!("Dev{name}")]);
    both.chain(others.iter().map(|name| (*name).to_owned())).collect()
}

async fn put(stack: &RunningStack, bucket: &str, key: &str, bytes: Vec<u8>) {
    let s3 = stack.clients().s3;
    s3.put_object().bucket(bucket).key(key).body(ByteStream::from(bytes)).send().await.unwrap();
}

/// Receives what is in a queue as a consumer that never gets done, until all is given up.
async fn give_up(stack: &RunningStack, queue: &str) {
    let endpoint = stack.exports().into_iter().find(|(name, _)| name == "AWS_ENDPOINT_URL_SQS").unwrap().1;
    let sqs = giemsa_store::aws::sqs_client_at(&endpoint, credentials());
    let url = sqs.get_queue_url().queue_name(queue).send().await.unwrap().queue_url.unwrap();
    for _ in 0..200 {
        let receive = sqs.receive_message().queue_url(&url).max_number_of_messages(10).visibility_timeout(0);
        if receive.send().await.unwrap().messages.unwrap_or_default().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{queue} has no end");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alarm_fires_in_its_condition_and_none_in_a_healthy_run() {
    let alarms = alarms();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let metrics = |name: &str| folder.path().join(name);
    let start = |name: &str, more: &[&str]| {
        let path = metrics(name);
        RunningStack::start(&data, &[&["--metrics", path.to_str().unwrap()], more].concat())
    };
    let idle =
        |stack: &RunningStack| depths(&stack.get_json("/api/health")).is_some_and(|depths| depths.0 == 0);

    let stack = start("healthy", &[]);
    for key in ["s/1.png", "s/2.png", "s/3.png"] {
        put(&stack, INPUT_BUCKET, key, uninfected_cell()).await;
    }
    put(&stack, INPUT_BUCKET, "s/note.txt", b"no image".to_vec()).await;
    wait_for("all answers", || idle(&stack).then_some(()));
    stack.stop("TERM");
    assert_eq!(fired(&alarms, &metrics("healthy")), BTreeSet::new());
    let healthy = samples(&metrics("healthy"));
    let sum = |namespace: &str, name: &str, of: &[(&str, &str)]| -> f64 {
        let dimensions = of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let metric = (namespace.to_owned(), name.to_owned(), dimensions);
        let found = healthy.iter().filter(|sample| sample.metric == metric);
        found.flat_map(|sample| &sample.values).sum()
    };
    for stage in ["prod", "dev"] {
        let images = |status| sum("Giemsa", "Images", &[("Stage", stage), ("Status", status)]);
        assert_eq!([images("classified"), images("rejected"), images("retried")], [3.0, 1.0, 0.0], "{stage}");
        for step in ["FetchTime", "DecodeTime", "PreprocessTime", "InferTime", "StoreTime", "OldestUploadAge"]
        {
            assert!(sum("Giemsa", step, &[("Stage", stage)]) > 0.0, "{step} of {stage}");
        }
        let queue = format!("classify-{stage}");
        assert_eq!(sum("AWS/SQS", "NumberOfMessagesSent", &[("QueueName", &queue)]), 4.0);
        assert!(sum("AWS/Lambda", "Invocations", &[("FunctionName", &queue)]) > 0.0);
    }

    let disturbed = names(&["Throttles", "ModelRefused"], &["GateFailed", "TableThrottles"]);
    let stack = start("disturbed", &["--faults", "limit=1,throttle=1,throughput=1"]);
    for stage in ["dev", "prod"] {
        put(&stack, MODEL_BUCKET, &format!("{stage}/model.onnx"), b"no model".to_vec()).await;
    }
    let mut uploads = 0;
    while !fired(&alarms, &metrics("disturbed")).is_superset(&disturbed) && uploads < 200 {
        uploads += 1;
        put(&stack, INPUT_BUCKET, &format!("s{uploads}/t.png"), uninfected_cell()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(fired(&alarms, &metrics("disturbed")), disturbed, "{}", stack.stderr());
    wait_for("all answers", || idle(&stack).then_some(()));
    stack.stop("TERM");

    // Killed with an invocation under way, as Lambda ends one that takes too much.
    let stack = start("killed", &["--faults", "limit=1,freeze=1:600s"]);
    put(&stack, INPUT_BUCKET, "s/5.png", uninfected_cell()).await;
    wait_for("both stages to work on it", || {
        let stages = stack.get_json("/api/health")["stages"].as_array().unwrap().clone();
        stages.iter().all(|stage| stage["queue"]["in_flight"] == 1).then_some(())
    });
    stack.stop("KILL");

    let stopped = names(&["QueueAge", "NothingClassified", "Errors", "DeadLetters"], &["GateDeadLetters"]);
    let stack = start("stopped", &["--no-worker"]);
    let waiting = names(&["QueueAge", "NothingClassified", "Errors"], &[]);
    let mut uploads = 0;
    while fired(&alarms, &metrics("stopped")) != waiting && uploads < 100 {
        uploads += 1;
        put(&stack, INPUT_BUCKET, &format!("u/{uploads}.png"), uninfected_cell()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    put(&stack, MODEL_BUCKET, "dev/model.onnx", b"no model".to_vec()).await;
    for queue in ["classify-prod", "classify-dev", "gate"] {
        give_up(&stack, queue).await;
    }
    wait_for("the alarms of dead letters", || (fired(&alarms, &metrics("stopped")) == stopped).then_some(()));
    stack.stop("TERM");

    let all: BTreeSet<String> = alarms.iter().map(|alarm| alarm.name.clone()).collect();
    assert_eq!(&disturbed | &stopped, all, "each alarm has a condition here");
}

#[test]
fn each_alarm_names_its_section_of_the_runbook() {
    let template: Value = serde_yaml_ng::from_slice(&file("infra/template.yaml")).unwrap();
    let runbook = std::fs::read_to_string(project("docs/runbook.md")).unwrap();
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let anchors: BTreeSet<String> =
        headings.map(|heading| heading.to_lowercase().replace(' ', "-")).collect();
    for (name, resource) in template["Resources"].as_mapping().unwrap() {
        if resource["Type"] == "AWS::CloudWatch::Alarm" {
            let description = resource["Properties"]["AlarmDescription"].as_str().unwrap();
            let (_, anchor) =
                description.rsplit_once(" docs/runbook.md#").unwrap_or_else(|| panic!("{name:?}"));
            assert!(anchors.contains(anchor.trim()), "{name:?}: {anchor} is none of {anchors:?}");
        }
    }
}

#[test]
fn metric_math_is_that_of_cloudwatch() {
    let metrics = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
    let both = "IF(FILL(a, 0) > 0 AND FILL(b, 0) == 0, 1, 0)";
    for (a, b, expected) in
        [(Some(2.0), None, 1.0), (Some(2.0), Some(1.0), 0.0), (None, None, 0.0), (Some(1.0), Some(0.0), 1.0)]
    {
        assert_eq!(Math::evaluate(both, &metrics(a, b)), Some(expected), "{a:?} {b:?}");
    }
    assert_eq!(Math::evaluate("SUM(METRICS())", &metrics(Some(2.0), None)), Some(2.0));
    assert_eq!(Math::evaluate("SUM(METRICS())", &metrics(None, None)), None);
}
