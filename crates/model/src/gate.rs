//! The golden gate: from a model's answers to the golden set to a report that says pass or fail, and why.
//!
//! Pure: it never reads an image or a bucket, and never asks the clock. A report that passed has no reason of failure,
//! and one that failed has at least one.

mod page;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use giemsa_core::gate_report::{
    Difference, GateModel, GateReport, GoldenSummary, ProductionComparison, REPORT_SCHEMA, UnreadableImage,
    WrongImage,
};
use giemsa_core::gate_rules::{EmptyGoldenSet, GateRules, ProofRule, RULES_KEY};
use giemsa_core::statistics::{LabelFigures, Proportion, Speed};

pub use page::render_report;

/// What a model did on one golden image.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenAnswer {
    /// The image's key.
    pub key: String,
    /// The label it stands under.
    pub expected: String,
    /// The answer, or why there is none.
    pub answer: Result<Answered, Unanswered>,
}

/// An answer to a golden image.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The label.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f64,
    /// Whether a person should look.
    pub needs_review: bool,
    /// Milliseconds from bytes to answer.
    pub milliseconds: f64,
}

/// Why a golden image has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// Stable code.
    pub code: String,
    /// What is wrong.
    pub message: String,
}

/// All that a report is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The model that is tried.
    pub model: GateModel,
    /// What it is tried on.
    pub golden: GoldenSummary,
    /// What it has to reach.
    pub rules: GateRules,
    /// Its answers; empty if it could not be tried.
    pub answers: Vec<GoldenAnswer>,
    /// The model of production, and its answers to the same images.
    pub production: Option<(GateModel, Vec<GoldenAnswer>)>,
    /// What already stands in the way: the model cannot be loaded, the rules cannot be read.
    pub problems: Vec<String>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    /// When.
    pub made_at: DateTime<Utc>,
}

impl Trial {
    /// A trial of `model` on `golden` by the default rules, without answers so far.
    pub fn new(model: GateModel, golden: GoldenSummary, made_at: DateTime<Utc>) -> Self {
        Self {
            model,
            golden,
            rules: GateRules::default(),
            answers: Vec::new(),
            production: None,
            problems: Vec::new(),
            notes: Vec::new(),
            made_at,
        }
    }

    /// Whether the model answered anything at all.
    fn was_tried(&self) -> bool {
        !self.answers.is_empty()
    }
}

impl Trial {
    /// Whether the model passes, and why not.
    pub fn judge(self) -> GateReport {
        let trial = self;
        let mut failures = trial.problems.clone();
        let mut notes = trial.notes.clone();
        let confusion = confusion_of(&trial.answers);
        let labels = label_figures(&trial.model.labels, &confusion);
        let accuracy = accuracy_of(&trial.answers);
        judge_proof(&trial, &mut failures);
        judge_golden_set(&trial, &mut failures, &mut notes);
        if trial.was_tried() {
            judge_floors(&trial, accuracy, &labels, &mut failures);
        }
        let answered = || trial.answers.iter().filter_map(|image| image.answer.as_ref().ok());
        let needs_review =
            Proportion::of(answered().filter(|a| a.needs_review).count() as u64, answered().count() as u64);
        GateReport {
            schema: REPORT_SCHEMA.to_owned(),
            passed: failures.is_empty(),
            failures,
            notes,
            waiver: None,
            accuracy,
            labels,
            confusion,
            wrong: wrong_images(&trial.answers),
            unreadable: unreadable_images(&trial.answers),
            needs_review,
            speed: speed_of(&trial.answers),
            production: trial
                .production
                .as_ref()
                .map(|(model, answers)| compare(&trial.answers, model, answers)),
            model: trial.model,
            golden: trial.golden,
            rules: trial.rules,
            made_at: trial.made_at,
            software: concat!("giemsa ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

type Confusion = BTreeMap<String, BTreeMap<String, u64>>;

fn confusion_of(answers: &[GoldenAnswer]) -> Confusion {
    let mut confusion = Confusion::new();
    for image in answers {
        if let Ok(answered) = &image.answer {
            let row = confusion.entry(image.expected.clone()).or_default();
            *row.entry(answered.label.clone()).or_default() += 1;
        }
    }
    confusion
}

/// One label against the rest; images without an answer are in no figure, they are a failure of their own.
fn label_figures(model_labels: &[String], confusion: &Confusion) -> Vec<LabelFigures> {
    let known: BTreeSet<&String> = model_labels.iter().collect();
    let only_in_golden_set = confusion.keys().filter(|label| !known.contains(label));
    let figures = |label: &String| {
        let images: u64 = confusion.get(label).map_or(0, |row| row.values().sum());
        let hits = confusion.get(label).and_then(|row| row.get(label)).copied().unwrap_or(0);
        let others = || confusion.iter().filter(|(expected, _)| *expected != label).map(|(_, row)| row);
        let of_others: u64 = others().flat_map(BTreeMap::values).sum();
        let false_alarms: u64 = others().filter_map(|row| row.get(label)).sum();
        LabelFigures {
            label: label.clone(),
            images,
            sensitivity: Proportion::of(hits, images),
            specificity: Proportion::of(of_others - false_alarms, of_others),
        }
    };
    model_labels.iter().chain(only_in_golden_set).map(figures).collect()
}

fn accuracy_of(answers: &[GoldenAnswer]) -> Option<Proportion> {
    let answered = answers.iter().filter_map(|image| Some((&image.expected, image.answer.as_ref().ok()?)));
    let (right, all) = answered.fold((0, 0), |(right, all), (expected, answer)| {
        (right + u64::from(*expected == answer.label), all + 1)
    });
    Proportion::of(right, all)
}

/// Whether the model carries the proof that the rules ask for; one that does not hold is not loaded at all.
fn judge_proof(trial: &Trial, failures: &mut Vec<String>) {
    let was_loaded = !trial.model.labels.is_empty();
    if trial.rules.proof == ProofRule::Required && was_loaded && trial.model.proof.is_none() {
        failures.push(format!(
            "the model carries no giemsa.proof, which {RULES_KEY} asks for (\"proof\": \"required\"); convert it again \
             from its framework (models/README.md), or add one: giemsa model pack model.onnx --output model.onnx \
             --proof proof.json"
        ));
    }
}

/// What is wrong with the golden set itself, or with how it fits the model.
fn judge_golden_set(trial: &Trial, failures: &mut Vec<String>, notes: &mut Vec<String>) {
    let images = &trial.golden.images;
    if images.is_empty() {
        let nothing = "the golden set is empty: there is no image under golden/<label>/ in the model bucket, so nothing \
                       was measured";
        match trial.rules.empty_golden_set {
            EmptyGoldenSet::Fail => failures.push(format!(
                "{nothing}; put labelled images there and copy the model again, or set \"empty_golden_set\": \"pass\" \
                 in {RULES_KEY}"
            )),
            EmptyGoldenSet::Pass => {
                notes.push(format!("{nothing}; it passes because {RULES_KEY} says \"empty_golden_set\": \"pass\""));
            }
        }
        return;
    }
    let unanswered = trial.answers.iter().filter(|image| image.answer.is_err()).count();
    if unanswered > 0 {
        failures.push(format!(
            "{unanswered} of {} golden images could not be answered; repair or remove them (they are listed with their \
             reasons), and copy the model again",
            trial.answers.len()
        ));
    }
    if trial.model.labels.is_empty() {
        // The file could not be read so far, which is a failure of its own.
        return;
    }
    for (label, count) in images.iter().filter(|(label, _)| !trial.model.labels.contains(label)) {
        failures.push(format!(
            "golden/{label}/ holds {count} images, but {label:?} is none of the model's labels {:?}; rename the folder, \
             move it out of golden/, or train a model that knows the label",
            trial.model.labels
        ));
    }
    for label in trial.model.labels.iter().filter(|label| !images.contains_key(*label)) {
        notes.push(format!("there is no golden image of {label:?}: its sensitivity is not known"));
    }
}

fn judge_floors(
    trial: &Trial,
    accuracy: Option<Proportion>,
    labels: &[LabelFigures],
    failures: &mut Vec<String>,
) {
    let rules = &trial.rules;
    let mut judge = |what: String, key: String, found: Option<Proportion>, floor: f64| match found {
        Some(found) if found.reaches(floor) => {}
        Some(found) => failures.push(format!(
            "{what} is {} of {} ({:.1} %), below the {:.1} % that {key} asks for",
            found.count,
            found.of,
            100.0 * found.value,
            100.0 * floor
        )),
        None => failures.push(format!(
            "{what} cannot be measured, because no golden image for it was answered; {key} asks for {:.1} %",
            100.0 * floor
        )),
    };
    judge("accuracy".to_owned(), "accuracy_at_least".to_owned(), accuracy, rules.accuracy_at_least);
    type Figure = fn(&LabelFigures) -> Option<Proportion>;
    let floors: [(&str, &BTreeMap<String, f64>, Figure); 2] = [
        ("sensitivity", &rules.sensitivity_at_least, |figures| figures.sensitivity),
        ("specificity", &rules.specificity_at_least, |figures| figures.specificity),
    ];
    for (name, floors, figure) in floors {
        for (label, floor) in floors {
            let found = labels.iter().find(|figures| figures.label == *label).and_then(figure);
            judge(format!("{name} of {label:?}"), format!("{name}_at_least"), found, *floor);
        }
    }
    for (label, floor) in &rules.images_at_least {
        let found = labels.iter().find(|figures| figures.label == *label).map_or(0, |figures| figures.images);
        if found < *floor {
            failures.push(format!(
                "{found} golden images of {label:?} were answered, fewer than the {floor} that images_at_least asks for"
            ));
        }
    }
}

fn wrong_images(answers: &[GoldenAnswer]) -> Vec<WrongImage> {
    let mut wrong: Vec<WrongImage> = answers
        .iter()
        .filter_map(|image| Some((image, image.answer.as_ref().ok()?)))
        .filter(|(image, answered)| image.expected != answered.label)
        .map(|(image, answered)| WrongImage {
            key: image.key.clone(),
            expected: image.expected.clone(),
            answered: answered.label.clone(),
            confidence: answered.confidence,
            needs_review: answered.needs_review,
        })
        .collect();
    wrong.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then_with(|| a.key.cmp(&b.key)));
    wrong
}

fn unreadable_images(answers: &[GoldenAnswer]) -> Vec<UnreadableImage> {
    let unanswered = answers.iter().filter_map(|image| Some((image, image.answer.as_ref().err()?)));
    unanswered
        .map(|(image, reason)| UnreadableImage {
            key: image.key.clone(),
            expected: image.expected.clone(),
            code: reason.code.clone(),
            message: reason.message.clone(),
        })
        .collect()
}

fn speed_of(answers: &[GoldenAnswer]) -> Option<Speed> {
    let mut times: Vec<f64> =
        answers.iter().filter_map(|image| Some(image.answer.as_ref().ok()?.milliseconds)).collect();
    times.sort_by(f64::total_cmp);
    // Nearest rank: a time that an image really took.
    let at = |share: f64| {
        let rank = (share * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).map(|time| (time * 1e3).round() / 1e3)
    };
    Some(Speed { median_ms: at(0.5)?, p95_ms: at(0.95)? })
}

fn compare(answers: &[GoldenAnswer], model: &GateModel, production: &[GoldenAnswer]) -> ProductionComparison {
    let label_of = |image: &GoldenAnswer| image.answer.as_ref().ok().map(|answered| answered.label.clone());
    let by_key: BTreeMap<&str, Option<String>> =
        production.iter().map(|image| (image.key.as_str(), label_of(image))).collect();
    let differences = answers.iter().filter_map(|image| {
        let (answered, production_answered) = (label_of(image), by_key.get(image.key.as_str())?.clone());
        (answered != production_answered).then(|| Difference {
            key: image.key.clone(),
            expected: image.expected.clone(),
            answered,
            production_answered,
        })
    });
    ProductionComparison {
        name: model.name.clone().unwrap_or_default(),
        version: model.version.clone().unwrap_or_default(),
        sha256: model.sha256.clone(),
        accuracy: accuracy_of(production),
        speed: speed_of(production),
        differences: differences.collect(),
    }
}

#[cfg(test)]
mod tests;
