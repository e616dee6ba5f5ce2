//! What a model says of itself: the `giemsa.*` entries of the ONNX file's `metadata_props`.
//!
//! This file never looks at weights. Labels, preprocessing and review rule come from the same file as the weights, so
//! that they cannot be mismatched.

use std::collections::BTreeMap;

use serde::Deserialize;

use giemsa_image::{ColorMode, InputSpec, InputSpecJson, Layout};

/// What the ONNX graph itself answers; it fills the metadata keys that are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphFacts {
    /// Dimensions of the single input; `None` where the graph leaves one open.
    pub input_shape: Vec<Option<usize>>,
    /// Whether the scores come from a softmax.
    pub ends_in_softmax: bool,
    /// Whether the scores come from a sigmoid.
    pub ends_in_sigmoid: bool,
    /// Whether the graph has a second output, `outlier`.
    pub has_outlier_output: bool,
    /// Whether it computes with fewer than 32 bits.
    pub is_quantised: bool,
}

impl GraphFacts {
    /// The shape as people write it, `?` where it is open.
    fn shown_shape(&self) -> String {
        let shown = |dim: &Option<usize>| dim.map_or_else(|| "?".to_owned(), |size| size.to_string());
        format!("[{}]", self.input_shape.iter().map(shown).collect::<Vec<_>>().join(", "))
    }
}

/// A model's metadata, complete and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// Shown to people (`giemsa.name`, default `unnamed`).
    pub name: String,
    /// Shown to people (`giemsa.version`, default `0`).
    pub version: String,
    /// Labels in the order of the scores (`giemsa.labels`), at least two, all different.
    pub labels: Vec<String>,
    /// How pixels become the input tensor (`giemsa.input`).
    pub input: InputSpec,
    /// What the scores are (`giemsa.output`, default `probabilities` if the graph ends in a softmax).
    pub output: ScoreKind,
    /// Calibration: logits are divided by it (`giemsa.temperature`, default 1, > 0).
    pub temperature: f32,
    /// What needs a human look (`giemsa.review`, default: confidence below 0.8).
    pub review: ReviewRule,
    /// Labels that count as positive in a slide's figure (`giemsa.positive`, default none).
    pub positive: Vec<String>,
}

/// What a network's scores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreKind {
    /// Unbounded scores before a softmax.
    Logits,
    /// Scores that sum to one.
    Probabilities,
}

/// What needs a human look.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewRule {
    /// Review if the answer's probability is below this, 0 to 1.
    #[serde(default)]
    pub confidence_below: f32,
    /// Review if a label that is not the answer has a probability above this, 0 to 1.
    #[serde(default)]
    pub label_above: BTreeMap<String, f32>,
    /// Review if the network's outlier score is above this; finite, in the score's own range. There if and only
    /// if the network gives that score.
    #[serde(default)]
    pub outlier_above: Option<f64>,
}

impl Default for ReviewRule {
    fn default() -> Self {
        Self { confidence_below: 0.8, label_above: BTreeMap::new(), outlier_above: None }
    }
}

/// Why metadata cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// A key without a default is not there.
    #[error("the model has no metadata key {key}; expected {expected}. {}", how_to_set(key, example))]
    Missing {
        /// Metadata key.
        key: &'static str,
        /// What it has to hold.
        expected: &'static str,
        /// A value that would do.
        example: &'static str,
    },
    /// A key's value is wrong.
    #[error("the model's metadata key {key} is {found:?}: {problem}. {}", how_to_set(key, example))]
    Invalid {
        /// Metadata key.
        key: &'static str,
        /// Its value, cut to 200 characters.
        found: String,
        /// What is wrong with it, and what is expected.
        problem: String,
        /// A value that would do.
        example: &'static str,
    },
}

fn how_to_set(key: &str, example: &str) -> String {
    let options = match key {
        "giemsa.labels" => "--labels parasitized,uninfected",
        "giemsa.input" => {
            "--layout nchw --width 64 --height 64 --resize fit --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25"
        }
        "giemsa.output" => "--scores logits",
        "giemsa.temperature" => "--temperature 1.0",
        "giemsa.review" => {
            "--review-below 0.9 --review-above parasitized=0.1, with --outlier-above 0.5 if there is an \
                            outlier output"
        }
        "giemsa.positive" => "--positive parasitized",
        "giemsa.proof" => "--proof proof.json",
        _ => "--name my-model",
    };
    format!(
        "To set it: giemsa model pack model.onnx --output model.onnx {options}. Or in Python: import onnx; m = onnx.load(\"model.onnx\"); \
         m.metadata_props.add(key=\"{key}\", value='{example}'); onnx.save(m, \"model.onnx\")"
    )
}

/// Most that a label may take, bytes: it is part of a key of the table, of at most 2,048 bytes, where some characters
/// take three.
const MAX_LABEL_BYTES: usize = 512;

/// Most that an item of DynamoDB may take, bytes.
const MAX_ITEM_BYTES: usize = 400 * 1024;

/// What a record takes beside its labels and the model's name, bytes: the image's key (1,024) in seven attributes, its
/// bucket, version, ETag and digest, times and a reason.
const RECORD_BYTES: usize = 16 * 1024;

/// What each probability takes beside its label, bytes: seven digits, and what DynamoDB reckons for an entry.
const PROBABILITY_BYTES: usize = 12;

const LABELS_EXAMPLE: &str = r#"["parasitized","uninfected"]"#;
const INPUT_EXAMPLE: &str = r#"{"layout":"nchw","width":64,"height":64,"color":"rgb","resize":"fit","mean":[0.5,0.5,0.5],"std":[0.25,0.25,0.25]}"#;
const REVIEW_EXAMPLE: &str = r#"{"confidence_below":0.9,"label_above":{"parasitized":0.1}}"#;
const OUTLIER_REVIEW_EXAMPLE: &str = r#"{"confidence_below":0.9,"outlier_above":0.5}"#;

impl Metadata {
    /// Reads metadata from `properties`, filling from `graph` what is not said.
    ///
    /// # Errors
    /// [`MetadataError`] naming the key, what was found, what is expected and how to set it.
    pub fn parse(properties: &BTreeMap<String, String>, graph: &GraphFacts) -> Result<Self, MetadataError> {
        let labels = parse_labels(properties)?;
        let review = parse_review(properties.get("giemsa.review").map(String::as_str), &labels, graph)?;
        let text_or =
            |key: &str, default: &str| properties.get(key).cloned().unwrap_or_else(|| default.to_owned());
        let (name, version) = (text_or("giemsa.name", "unnamed"), text_or("giemsa.version", "0"));
        check_record_size(&labels, &name, &version)?;
        Ok(Self {
            name,
            version,
            input: parse_input(properties.get("giemsa.input").map(String::as_str), graph)?,
            output: parse_output(properties, graph)?,
            temperature: parse_temperature(properties)?,
            review,
            positive: parse_positive(properties, &labels)?,
            labels,
        })
    }
}

fn invalid(
    key: &'static str,
    found: &str,
    problem: impl Into<String>,
    example: &'static str,
) -> MetadataError {
    MetadataError::Invalid { key, found: found.chars().take(200).collect(), problem: problem.into(), example }
}

fn parse_labels(properties: &BTreeMap<String, String>) -> Result<Vec<String>, MetadataError> {
    const KEY: &str = "giemsa.labels";
    let text = properties.get(KEY).ok_or(MetadataError::Missing {
        key: KEY,
        expected: "a JSON array of the labels in the order of the network's scores",
        example: LABELS_EXAMPLE,
    })?;
    let labels: Vec<String> = serde_json::from_str(text)
        .map_err(|e| invalid(KEY, text, format!("expected a JSON array of texts ({e})"), LABELS_EXAMPLE))?;
    let unique: std::collections::BTreeSet<&String> = labels.iter().collect();
    if labels.len() < 2 || unique.len() != labels.len() || labels.iter().any(|l| l.trim().is_empty()) {
        return Err(invalid(KEY, text, "expected two or more different, non-empty labels", LABELS_EXAMPLE));
    }
    if let Some(long) = labels.iter().find(|label| label.len() > MAX_LABEL_BYTES) {
        let problem =
            format!("a label has {} bytes, more than the {MAX_LABEL_BYTES} that may be stored", long.len());
        return Err(invalid(KEY, long, problem, LABELS_EXAMPLE));
    }
    Ok(labels)
}

/// Refuses labels with which no record could be stored: each image would fail until it is a dead letter.
fn check_record_size(labels: &[String], name: &str, version: &str) -> Result<(), MetadataError> {
    let bytes = most_record_bytes(labels, name, version);
    if bytes <= MAX_ITEM_BYTES {
        return Ok(());
    }
    let found = format!("{name} {version}, {} labels", labels.len());
    Err(invalid(
        "giemsa.labels",
        &found,
        format!(
            "a record with the probability of each label and the model's name may take {bytes} bytes, more than the \
             {MAX_ITEM_BYTES} that an item of DynamoDB may have; expected fewer or shorter labels, and a shorter name"
        ),
        LABELS_EXAMPLE,
    ))
}

/// Upper bound of a record's item, bytes. The answer is stored three times beside the probabilities.
fn most_record_bytes(labels: &[String], name: &str, version: &str) -> usize {
    let of_labels: usize = labels.iter().map(|label| label.len() + PROBABILITY_BYTES).sum();
    RECORD_BYTES + name.len() + version.len() + 3 * 3 * MAX_LABEL_BYTES + of_labels
}

/// Completes `giemsa.input` from the graph, and refuses what contradicts it.
fn parse_input(text: Option<&str>, graph: &GraphFacts) -> Result<InputSpec, MetadataError> {
    const KEY: &str = "giemsa.input";
    let problem = |what: String| invalid(KEY, text.unwrap_or("not set"), what, INPUT_EXAMPLE);
    let said: InputSpecJson = match text {
        Some(text) => serde_json::from_str(text).map_err(|e| problem(format!("it cannot be read ({e})")))?,
        None => InputSpecJson::default(),
    };
    let shown_shape = graph.shown_shape();
    let &[_, second, third, fourth] = &graph.input_shape[..] else {
        return Err(problem(format!(
            "the graph's input has the shape {shown_shape}; expected four dimensions"
        )));
    };
    let is_channels = |dim: Option<usize>| matches!(dim, Some(1 | 3));
    let layout = match (said.layout, is_channels(second), is_channels(fourth)) {
        (Some(layout), _, _) => layout,
        (None, true, false) => Layout::Nchw,
        (None, false, true) => Layout::Nhwc,
        _ => {
            return Err(problem(format!(
                "layout is missing and the graph's input shape {shown_shape} does not answer it; \
                 expected nchw or nhwc"
            )));
        }
    };
    let (channels, height, width) = match layout {
        Layout::Nchw => (second, third, fourth),
        Layout::Nhwc => (fourth, second, third),
    };
    for (name, said, graph_side) in [("width", said.width, width), ("height", said.height, height)] {
        if let (Some(said), Some(graph_side)) = (said, graph_side)
            && said as usize != graph_side
        {
            return Err(problem(format!(
                "{name} is {said}, but the graph's input shape {shown_shape} says {graph_side}; expected the same"
            )));
        }
    }
    let color = match channels {
        Some(1) => Some(ColorMode::Gray),
        Some(3) => Some(ColorMode::Rgb),
        Some(_) => {
            return Err(problem(format!(
                "the graph's input shape is {shown_shape}; expected 1 or 3 channels"
            )));
        }
        None => None,
    };
    if let (Some(said), Some(color)) = (said.color, color)
        && said != color
    {
        return Err(problem(format!(
            "color is {}, but the graph's input shape {shown_shape} has {} channels; expected rgb with 3 or gray with 1",
            format!("{said:?}").to_lowercase(),
            color.channels(),
        )));
    }
    let side = |dim: Option<usize>| dim.and_then(|dim| u32::try_from(dim).ok());
    let graph_spec = InputSpecJson {
        layout: Some(layout),
        width: side(width),
        height: side(height),
        color,
        ..InputSpecJson::default()
    };
    said.resolve(graph_spec).map_err(|e| problem(e.to_string()))
}

fn parse_output(
    properties: &BTreeMap<String, String>,
    graph: &GraphFacts,
) -> Result<ScoreKind, MetadataError> {
    const KEY: &str = "giemsa.output";
    match properties.get(KEY).map(|text| text.trim()) {
        Some("logits") => Ok(ScoreKind::Logits),
        Some("probabilities") => Ok(ScoreKind::Probabilities),
        Some(text) => Err(invalid(KEY, text, "expected logits or probabilities", "logits")),
        None if graph.ends_in_softmax => Ok(ScoreKind::Probabilities),
        None => Err(MetadataError::Missing {
            key: KEY,
            expected: "logits or probabilities (the graph does not end in a softmax, so it does not answer this)",
            example: "logits",
        }),
    }
}

fn parse_temperature(properties: &BTreeMap<String, String>) -> Result<f32, MetadataError> {
    const KEY: &str = "giemsa.temperature";
    let Some(text) = properties.get(KEY) else { return Ok(1.0) };
    match text.trim().parse::<f32>() {
        Ok(temperature) if temperature.is_finite() && temperature > 0.0 => Ok(temperature),
        _ => Err(invalid(KEY, text, "expected a number above 0", "1.0")),
    }
}

/// Reads `giemsa.review`, and refuses what contradicts the graph.
fn parse_review(
    text: Option<&str>,
    labels: &[String],
    graph: &GraphFacts,
) -> Result<ReviewRule, MetadataError> {
    const KEY: &str = "giemsa.review";
    let problem = |what: String| invalid(KEY, text.unwrap_or("not set"), what, REVIEW_EXAMPLE);
    let rule: ReviewRule = match text {
        Some(text) => serde_json::from_str(text).map_err(|e| problem(format!("it cannot be read ({e})")))?,
        None => ReviewRule::default(),
    };
    let thresholds = rule.label_above.values().chain([&rule.confidence_below]);
    if let Some(wrong) = thresholds.into_iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(problem(format!("{wrong} is not a probability; expected 0 to 1")));
    }
    if let Some(unknown) = rule.label_above.keys().find(|label| !labels.contains(label)) {
        return Err(problem(format!("{unknown:?} is none of the labels {labels:?}")));
    }
    match (graph.has_outlier_output, rule.outlier_above) {
        (true, Some(_)) | (false, None) => Ok(rule),
        (false, Some(limit)) => Err(problem(format!(
            "outlier_above is {limit}, but the graph has no output named \"outlier\" to compare with it; \
             expected such an output after the scores, one number for each image, or no outlier_above"
        ))),
        // Without a limit the score would be computed and would mean nothing, and nobody would notice.
        (true, None) => Err(invalid(
            KEY,
            text.unwrap_or("not set"),
            "the graph has an output named \"outlier\", but outlier_above is missing; \
             expected the outlier score above which an image needs a human look",
            OUTLIER_REVIEW_EXAMPLE,
        )),
    }
}

fn parse_positive(
    properties: &BTreeMap<String, String>,
    labels: &[String],
) -> Result<Vec<String>, MetadataError> {
    const KEY: &str = "giemsa.positive";
    const EXAMPLE: &str = r#"["parasitized"]"#;
    let Some(text) = properties.get(KEY) else { return Ok(Vec::new()) };
    let positive: Vec<String> = serde_json::from_str(text)
        .map_err(|e| invalid(KEY, text, format!("expected a JSON array of labels ({e})"), EXAMPLE))?;
    match positive.iter().find(|label| !labels.contains(label)) {
        Some(unknown) => {
            Err(invalid(KEY, text, format!("{unknown:?} is none of the labels {labels:?}"), EXAMPLE))
        }
        None => Ok(positive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(shape: [Option<usize>; 4]) -> GraphFacts {
        GraphFacts { input_shape: shape.to_vec(), ..GraphFacts::default() }
    }

    fn properties(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    const LABELS: (&str, &str) = ("giemsa.labels", r#"["a","b"]"#);
    const OUTPUT: (&str, &str) = ("giemsa.output", "logits");
    const RESIZE: (&str, &str) = ("giemsa.input", r#"{"resize":"fit"}"#);
    const NCHW: [Option<usize>; 4] = [None, Some(3), Some(48), Some(64)];

    #[test]
    fn the_graph_answers_what_is_not_said() {
        let minimal = properties(&[LABELS, OUTPUT, RESIZE]);
        let metadata = Metadata::parse(&minimal, &graph(NCHW)).unwrap();
        let input = &metadata.input;
        assert_eq!((input.layout, input.width, input.height), (Layout::Nchw, 64, 48));
        assert_eq!((input.color, input.mean.len()), (ColorMode::Rgb, 3));
        assert_eq!(metadata.temperature, 1.0);
        assert_eq!(metadata.review.confidence_below, 0.8);

        let nhwc = Metadata::parse(&minimal, &graph([Some(1), Some(48), Some(64), Some(1)])).unwrap();
        assert_eq!((nhwc.input.layout, nhwc.input.color), (Layout::Nhwc, ColorMode::Gray));
    }

    #[test]
    fn a_softmax_at_the_end_says_what_the_scores_are() {
        let facts = GraphFacts { ends_in_softmax: true, ..graph(NCHW) };
        let metadata = Metadata::parse(&properties(&[LABELS, RESIZE]), &facts).unwrap();
        assert_eq!(metadata.output, ScoreKind::Probabilities);
    }

    #[test]
    fn each_wrong_key_is_named_with_the_way_out() {
        let cases: [(&[(&str, &str)], &str); 16] = [
            (&[], "no metadata key giemsa.labels"),
            (&[("giemsa.labels", "a,b")], "expected a JSON array of texts"),
            (&[("giemsa.labels", r#"["a","a"]"#)], "two or more different"),
            (&[("giemsa.output", "")], "expected logits or probabilities"),
            (&[("giemsa.temperature", "0")], "expected a number above 0"),
            (&[("giemsa.review", r#"{"confidence_below":2}"#)], "2 is not a probability"),
            (&[("giemsa.review", r#"{"label_above":{"c":0.5}}"#)], "\"c\" is none of the labels"),
            (&[("giemsa.review", r#"{"outlier_above":"high"}"#)], "expected f64"),
            (&[("giemsa.review", r#"{"outlier_above":1e999}"#)], "number out of range"),
            (
                &[("giemsa.review", r#"{"outlier_above":0.5}"#)],
                "outlier_above is 0.5, but the graph has no output named \"outlier\"",
            ),
            (&[("giemsa.positive", r#"["c"]"#)], "\"c\" is none of the labels"),
            (
                &[("giemsa.input", r#"{"width":32}"#)],
                "width is 32, but the graph's input shape [?, 3, 48, 64]",
            ),
            (&[("giemsa.input", r#"{"color":"gray"}"#)], "color is gray"),
            (&[("giemsa.input", r#"{"size":1}"#)], "unknown field"),
            (&[("giemsa.input", "{}")], "no \"resize\""),
            (&[("giemsa.input", r#"{"resize":"fit","std":[1.0,0.0,1.0]}"#)], "std"),
        ];
        for (changes, expected) in cases {
            let mut entries = properties(&[LABELS, OUTPUT, RESIZE]);
            if changes.is_empty() {
                entries.clear();
            }
            entries.extend(properties(changes));
            let message = Metadata::parse(&entries, &graph(NCHW)).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected:?} is not in {message:?}");
            for way_out in ["giemsa model pack model.onnx --output model.onnx --", "metadata_props.add"] {
                assert!(message.contains(way_out), "{message:?} shows no way out");
            }
        }
    }

    #[test]
    fn an_outlier_output_needs_its_limit() {
        let facts = GraphFacts { has_outlier_output: true, ..graph(NCHW) };
        let parse = |review: Option<&str>| {
            let mut entries = properties(&[LABELS, OUTPUT, RESIZE]);
            entries.extend(review.map(|text| ("giemsa.review".to_owned(), text.to_owned())));
            Metadata::parse(&entries, &facts).map(|metadata| metadata.review)
        };
        // A limit may be of any range: others use a distance.
        for limit in [0.5, 0.0, -12.5, 1e30] {
            let review = parse(Some(&format!(r#"{{"outlier_above":{limit}}}"#))).unwrap();
            assert_eq!((review.outlier_above, review.confidence_below), (Some(limit), 0.0));
        }
        for review in [None, Some(r#"{"confidence_below":0.9}"#), Some(r#"{"outlier_above":null}"#)] {
            let error = parse(review).unwrap_err().to_string();
            assert!(error.contains(&format!("{:?}", review.unwrap_or("not set"))), "{error}");
            assert!(error.contains("outlier_above is missing"), "{error}");
            assert!(error.contains(r#"value='{"confidence_below":0.9,"outlier_above":0.5}'"#), "{error}");
        }
    }

    #[test]
    fn an_open_input_shape_must_be_said() {
        let open = graph([None, Some(3), None, None]);
        let minimal = properties(&[LABELS, OUTPUT, RESIZE]);
        let error = Metadata::parse(&minimal, &open).unwrap_err().to_string();
        assert!(error.contains("no \"width\""), "{error}");
        let mut said = minimal;
        said.insert("giemsa.input".to_owned(), r#"{"width":40,"height":30,"resize":"crop"}"#.to_owned());
        let metadata = Metadata::parse(&said, &open).unwrap();
        assert_eq!((metadata.input.width, metadata.input.height), (40, 30));
    }
}
