//! The report of the golden gate: its form, its JSON and the keys it is kept under.
//!
//! Whatever reads an older report of the same schema reads this one, because fields are only added.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::gate_rules::GateRules;
use crate::statistics::{LabelFigures, Proportion, Speed};

/// Name and version of the report's schema (`docs/report.schema.json`).
pub const REPORT_SCHEMA: &str = "giemsa.report/1";

/// Key of the report of a model, as JSON.
pub fn report_key(sha256: &str) -> String {
    format!("reports/{sha256}.json")
}

/// Key of the report of a model, as a page for people.
pub fn report_page_key(sha256: &str) -> String {
    format!("reports/{sha256}.html")
}

/// Key under which a model that passed is kept for ever.
pub fn archive_key(sha256: &str) -> String {
    format!("archive/{sha256}.onnx")
}

/// What a model did on the golden set, and whether production may serve it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    /// Always [`REPORT_SCHEMA`].
    pub schema: String,
    /// Whether the model reached every floor.
    pub passed: bool,
    /// Why it did not pass, one sentence each; empty if and only if it passed.
    pub failures: Vec<String>,
    /// What else a reader should know, one sentence each.
    pub notes: Vec<String>,
    /// A person's decision to let the model serve although it did not pass.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiver: Option<Waiver>,
    /// The model.
    pub model: GateModel,
    /// What it was tried on.
    pub golden: GoldenSummary,
    /// What it had to reach.
    pub rules: GateRules,
    /// Share of right answers among the images that were answered; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accuracy: Option<Proportion>,
    /// Figures of each label, in the model's order, then labels that only the golden set has.
    pub labels: Vec<LabelFigures>,
    /// Images by expected label, then by answered label.
    pub confusion: BTreeMap<String, BTreeMap<String, u64>>,
    /// Images that were answered wrongly, most confident first.
    pub wrong: Vec<WrongImage>,
    /// Images that were not answered.
    pub unreadable: Vec<UnreadableImage>,
    /// Share of the answered images that need a human look.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub needs_review: Option<Proportion>,
    /// Time for an image, from bytes to answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub speed: Option<Speed>,
    /// The model that production had then, on the same images; absent if there was none, or it is this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub production: Option<ProductionComparison>,
    /// When the report was made.
    pub made_at: DateTime<Utc>,
    /// Name and version of this software.
    pub software: String,
}

/// The model of a report. Name, version and labels are absent if the file could not be read so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GateModel {
    /// `giemsa.name`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// `giemsa.version`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Size of the file, bytes.
    pub size_bytes: u64,
    /// Labels in the order of the scores.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub labels: Vec<String>,
    /// Labels that count as positive.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub positive: Vec<String>,
    /// How its scores compare with the training framework's; absent if the file has no proof.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proof: Option<ProofOutcome>,
}

/// A proof that holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProofOutcome {
    /// Who gave the scores that were compared with: a framework and its version.
    pub by: String,
    /// Inputs that were compared.
    pub inputs: u64,
    /// Greatest difference from its scores, 0 to `bound`: of probabilities, and of logits and outlier scores relative
    /// to the largest if that is above 1.
    pub greatest_difference: f64,
    /// Greatest difference that is allowed.
    pub bound: f64,
}

/// Which golden set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenSummary {
    /// SHA-256 over names and ETags of everything in it, the rules included: another digest, another set.
    pub digest: String,
    /// Images in it, by label.
    pub images: BTreeMap<String, u64>,
}

/// An image with the wrong answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrongImage {
    /// Its key in the model bucket.
    pub key: String,
    /// The label it stands under.
    pub expected: String,
    /// The label the model answered.
    pub answered: String,
    /// The answer's probability, 0 to 1.
    pub confidence: f64,
    /// Whether a person would have been asked to look; if not, nobody would have noticed.
    pub needs_review: bool,
}

/// An image without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableImage {
    /// Its key in the model bucket.
    pub key: String,
    /// The label it stands under.
    pub expected: String,
    /// Stable code, as in records; `network_failed` if the network failed on it.
    pub code: String,
    /// What is wrong.
    pub message: String,
}

/// The model of production on the same images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductionComparison {
    /// `giemsa.name`.
    pub name: String,
    /// `giemsa.version`.
    pub version: String,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Its share of right answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accuracy: Option<Proportion>,
    /// Its time for an image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub speed: Option<Speed>,
    /// Images that the two answer differently.
    pub differences: Vec<Difference>,
}

/// An image that two models answer differently; an answer is absent where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its key in the model bucket.
    pub key: String,
    /// The label it stands under.
    pub expected: String,
    /// The answer of the model that is tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answered: Option<String>,
    /// The answer of the model of production.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub production_answered: Option<String>,
}

/// A person's decision to let a model serve that did not pass; `giemsa model promote --force` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiver {
    /// Who decided.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: DateTime<Utc>,
}

impl GateReport {
    /// Whether production may serve the model: it passed, or a person decided so and said why.
    pub fn lets_serve(&self) -> bool {
        self.passed || self.waiver.is_some()
    }
}
