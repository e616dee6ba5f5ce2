//! Two stages on the same uploads: where their models agree, where not, and which one is right.
//!
//! It never mixes models: an image counts if both current models answered this very upload. Every image that counts is
//! agreed on or is in exactly one flip.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::{AnsweredQuery, ImageKey, QueryError, SHARDS, TableReader, Verdict};
use giemsa_core::record::{ModelInfo, Record};
use giemsa_core::statistics::{LabelFigures, Proportion, Speed, mcnemar_exact, quantile};

/// Name and version of the comparison's JSON.
pub const COMPARISON_SCHEMA: &str = "giemsa.comparison/1";

/// Below this p-value a difference is called one.
const SIGNIFICANT: f64 = 0.05;

/// Images asked for at once.
const CONCURRENCY: usize = 16;

/// Images named of each flip; all are counted.
const NAMED_IMAGES: usize = 20;

/// One page of the index, images.
const PAGE: i32 = 500;

/// What is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonQuery {
    /// The stage whose model may become the next, and its model.
    pub candidate: (String, ModelInfo),
    /// The stage that it is held against, and its model.
    pub reference: (String, ModelInfo),
    /// First upload time.
    pub since: Option<DateTime<Utc>>,
    /// The folder part of the images' keys.
    pub slide: Option<String>,
}

/// One image that both answered, or one rejected and the other did not.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// What the candidate says.
    pub candidate: Record,
    /// What the reference says.
    pub reference: Record,
    /// What a reviewer says.
    pub verdict: Option<Verdict>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Always [`COMPARISON_SCHEMA`].
    pub schema: &'static str,
    /// The model that may become the next.
    pub candidate: Side,
    /// The model that it is held against.
    pub reference: Side,
    /// Images that both classified.
    pub images: u64,
    /// Share of them with the same label; absent without images.
    pub agreement: Option<Proportion>,
    /// Images with different labels, by labels, the most frequent first.
    pub flips: Vec<Flip>,
    /// Images that only one of the two could classify.
    pub classified_by_one: u64,
    /// Images of the candidate that the reference's model has not answered.
    pub without_reference: u64,
    /// Where the labels agree: confidence of the candidate less that of the reference.
    pub confidence_shift: Option<Shift>,
    /// Whether the two find positives equally often; absent if a model names no positive label.
    pub positives: Option<PairedTest>,
    /// Against reviewers; absent without a verdict.
    pub verdicts: Option<AgainstVerdicts>,
    /// The sentence.
    pub conclusion: Conclusion,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The stage.
    pub stage: String,
    /// Its model.
    pub model: ModelInfo,
    /// Decoding, preprocessing and network together.
    pub speed: Option<Speed>,
}

/// Images whose label differs in one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flip {
    /// Label of the reference.
    pub reference: String,
    /// Label of the candidate.
    pub candidate: String,
    /// How many.
    pub images: u64,
    /// The first of them by key.
    pub first: Vec<ImageKey>,
}

/// Differences of confidence, each from -1 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shift {
    /// Mean.
    pub mean: f64,
    /// 5 % are at most this.
    pub p5: f64,
    /// 95 % are at most this.
    pub p95: f64,
}

/// McNemar's exact test on paired answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedTest {
    /// Pairs in which only the candidate has it.
    pub only_candidate: u64,
    /// Pairs in which only the reference has it.
    pub only_reference: u64,
    /// Two-sided p-value.
    pub p_value: f64,
}

/// Both against what reviewers say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgainstVerdicts {
    /// Images with a verdict.
    pub images: u64,
    /// Share of right answers of the candidate.
    pub candidate_accuracy: Option<Proportion>,
    /// Share of right answers of the reference.
    pub reference_accuracy: Option<Proportion>,
    /// Sensitivity and specificity of the candidate, by label.
    pub candidate: Vec<LabelFigures>,
    /// Sensitivity and specificity of the reference, by label.
    pub reference: Vec<LabelFigures>,
    /// Which of the two is right where only one is.
    pub right: PairedTest,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// There is no image that both answered.
    NothingToCompare,
    /// Nobody said which answers are right.
    NoVerdicts,
    /// The candidate is right significantly more often.
    CandidateBetter,
    /// The candidate is right significantly less often.
    CandidateWorse,
    /// Neither is shown to be better.
    NoDifferenceShown,
}

/// Adds up pairs; it holds numbers and the named images, never the records.
#[derive(Debug, Default)]
pub struct Tally {
    images: u64,
    agreed: u64,
    classified_by_one: u64,
    without_reference: u64,
    flips: BTreeMap<(String, String), (u64, BTreeSet<ImageKey>)>,
    shifts: Vec<f64>,
    milliseconds: [Vec<f64>; 2],
    positives: Option<[u64; 2]>,
    /// Images by label of the verdict, then of the answer; the candidate's and the reference's.
    confusion: [BTreeMap<(String, String), u64>; 2],
    only_right: [u64; 2],
}

impl Tally {
    /// Counts an image that the reference's model has not answered.
    pub fn add_without_reference(&mut self) {
        self.without_reference += 1;
    }

    /// Counts an image that both answered.
    pub fn add(&mut self, pair: &Pair) {
        let Pair { candidate, reference, verdict } = pair;
        for (times, record) in self.milliseconds.iter_mut().zip([candidate, reference]) {
            if let (Some(timings), Some(_)) = (record.timings_ms, &record.label) {
                times.push(timings.decode + timings.preprocess + timings.infer);
            }
        }
        let (Some(ours), Some(theirs)) = (&candidate.label, &reference.label) else {
            self.classified_by_one += u64::from(candidate.label.is_some() != reference.label.is_some());
            return;
        };
        self.images += 1;
        if ours == theirs {
            self.agreed += 1;
            if let (Some(a), Some(b)) = (candidate.confidence, reference.confidence) {
                self.shifts.push(a - b);
            }
        } else {
            let key = ImageKey { bucket: candidate.image.bucket.clone(), key: candidate.image.key.clone() };
            let (count, named) = self.flips.entry((theirs.clone(), ours.clone())).or_default();
            *count += 1;
            named.insert(key);
            if named.len() > NAMED_IMAGES {
                named.pop_last();
            }
        }
        if let (Some(ours), Some(theirs)) = (candidate.positive, reference.positive) {
            let only = self.positives.get_or_insert_default();
            only[0] += u64::from(ours && !theirs);
            only[1] += u64::from(theirs && !ours);
        }
        if let Some(Verdict { label: truth, .. }) = verdict {
            for (confusion, answer) in self.confusion.iter_mut().zip([ours, theirs]) {
                *confusion.entry((truth.clone(), answer.clone())).or_default() += 1;
            }
            self.only_right[0] += u64::from(ours == truth && theirs != truth);
            self.only_right[1] += u64::from(theirs == truth && ours != truth);
        }
    }

    /// What came out for these two stages and models.
    pub fn finish(self, candidate: (String, ModelInfo), reference: (String, ModelInfo)) -> Comparison {
        let mut flips: Vec<Flip> = self
            .flips
            .into_iter()
            .map(|((reference, candidate), (images, first))| Flip {
                reference,
                candidate,
                images,
                first: first.into_iter().collect(),
            })
            .collect();
        flips.sort_by_key(|flip| std::cmp::Reverse(flip.images));
        let verdicts = against_verdicts(&self.confusion, self.only_right);
        let [our_times, their_times] = self.milliseconds;
        let side = |(stage, model), times| Side { stage, model, speed: speed_of(times) };
        Comparison {
            schema: COMPARISON_SCHEMA,
            candidate: side(candidate, our_times),
            reference: side(reference, their_times),
            images: self.images,
            agreement: Proportion::of(self.agreed, self.images),
            flips,
            classified_by_one: self.classified_by_one,
            without_reference: self.without_reference,
            confidence_shift: shift_of(self.shifts),
            positives: self.positives.map(paired_test),
            conclusion: conclusion_of(self.images, verdicts.as_ref()),
            verdicts,
        }
    }
}

fn speed_of(mut milliseconds: Vec<f64>) -> Option<Speed> {
    milliseconds.sort_by(f64::total_cmp);
    Some(Speed { median_ms: quantile(&milliseconds, 0.5)?, p95_ms: quantile(&milliseconds, 0.95)? })
}

fn shift_of(mut shifts: Vec<f64>) -> Option<Shift> {
    shifts.sort_by(f64::total_cmp);
    let mean = shifts.iter().sum::<f64>() / shifts.len() as f64;
    Some(Shift { mean, p5: quantile(&shifts, 0.05)?, p95: quantile(&shifts, 0.95)? })
}

fn paired_test([only_candidate, only_reference]: [u64; 2]) -> PairedTest {
    PairedTest { only_candidate, only_reference, p_value: mcnemar_exact(only_candidate, only_reference) }
}

fn against_verdicts(
    confusion: &[BTreeMap<(String, String), u64>; 2],
    only_right: [u64; 2],
) -> Option<AgainstVerdicts> {
    let [candidate, reference] = confusion;
    let images: u64 = candidate.values().sum();
    let labels: BTreeSet<&String> = confusion.iter().flat_map(|c| c.keys().map(|(truth, _)| truth)).collect();
    let accuracy = |confusion: &BTreeMap<(String, String), u64>| {
        let right = confusion.iter().filter(|((truth, answer), _)| truth == answer).map(|(_, n)| n).sum();
        Proportion::of(right, images)
    };
    let figures = |confusion: &BTreeMap<(String, String), u64>| {
        labels.iter().map(|label| figures_of(label, confusion)).collect()
    };
    (images > 0).then(|| AgainstVerdicts {
        images,
        candidate_accuracy: accuracy(candidate),
        reference_accuracy: accuracy(reference),
        candidate: figures(candidate),
        reference: figures(reference),
        right: paired_test(only_right),
    })
}

/// One label against all others.
fn figures_of(label: &str, confusion: &BTreeMap<(String, String), u64>) -> LabelFigures {
    let count = |is_truth: bool, is_answer: bool| -> u64 {
        let counted = confusion
            .iter()
            .filter(|((truth, answer), _)| (truth == label) == is_truth && (answer == label) == is_answer);
        counted.map(|(_, images)| images).sum()
    };
    let (hits, misses) = (count(true, true), count(true, false));
    let (false_alarms, others) = (count(false, true), count(false, false));
    LabelFigures {
        label: label.to_owned(),
        images: hits + misses,
        sensitivity: Proportion::of(hits, hits + misses),
        specificity: Proportion::of(others, others + false_alarms),
    }
}

fn conclusion_of(images: u64, verdicts: Option<&AgainstVerdicts>) -> Conclusion {
    match verdicts {
        _ if images == 0 => Conclusion::NothingToCompare,
        None => Conclusion::NoVerdicts,
        Some(AgainstVerdicts { right, .. }) if right.p_value >= SIGNIFICANT => Conclusion::NoDifferenceShown,
        Some(AgainstVerdicts { right, .. }) if right.only_candidate > right.only_reference => {
            Conclusion::CandidateBetter
        }
        Some(_) => Conclusion::CandidateWorse,
    }
}

/// Compares two stages by what the table holds, streamed; `progress` is called with the images seen so far.
///
/// # Errors
/// [`QueryError`].
pub async fn compare(
    table: &TableReader,
    query: &ComparisonQuery,
    mut progress: impl FnMut(u64),
) -> Result<Comparison, QueryError> {
    let mut tally = Tally::default();
    let mut seen = 0;
    let answered = AnsweredQuery {
        stage: query.candidate.0.clone(),
        sha256: query.candidate.1.sha256.clone(),
        since: query.since,
    };
    let is_wanted = |image: &ImageKey| {
        query.slide.as_ref().is_none_or(|slide| *slide == giemsa_core::object::slide_of_key(&image.key))
    };
    for shard in 0..SHARDS.len() {
        let mut after = None;
        loop {
            let (images, next) = table.answered_page(&answered, shard, after, PAGE).await?;
            let reads: Vec<_> = images
                .into_iter()
                .filter(is_wanted)
                .map(|image| async move { read_pair(table, query, &image).await })
                .collect();
            let mut pairs = stream::iter(reads).buffer_unordered(CONCURRENCY);
            while let Some(pair) = pairs.try_next().await? {
                match pair {
                    Some(pair) => tally.add(&pair),
                    None => tally.add_without_reference(),
                }
                seen += 1;
                progress(seen);
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(tally.finish(query.candidate.clone(), query.reference.clone()))
}

/// Both answers to the same upload, if the reference's model has answered it.
async fn read_pair(
    table: &TableReader,
    query: &ComparisonQuery,
    image: &ImageKey,
) -> Result<Option<Pair>, QueryError> {
    let stages = [&query.candidate.0, &query.reference.0];
    let history = table.image(&image.bucket, &image.key, &stages).await?;
    let of = |(stage, model): &(String, ModelInfo)| {
        let is_it = |record: &&Record| record.stage == *stage && record.model.sha256 == model.sha256;
        history.results.iter().find(is_it).cloned()
    };
    let (Some(candidate), Some(reference)) = (of(&query.candidate), of(&query.reference)) else {
        return Ok(None);
    };
    if candidate.image.object_version() != reference.image.object_version() {
        return Ok(None);
    }
    let verdict = history.verdict_of(candidate.image.object_version()).map(Verdict::from);
    Ok(Some(Pair { candidate, reference, verdict }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(stage: &str, key: usize, label: Option<&str>, confidence: f64) -> Record {
        serde_json::from_value(json!({
            "schema": "giemsa.record/1", "result_id": "0123456789abcdef",
            "image": {"bucket": "b", "key": format!("s/{key:03}.png"), "etag": "e"}, "slide": "s", "stage": stage,
            "status": if label.is_some() { "classified" } else { "rejected" }, "label": label,
            "confidence": confidence, "positive": label.map(|label| label == "parasitized"),
            "needs_review": false, "model": {"name": "m", "version": "1", "sha256": stage},
            "timings_ms": {"fetch": 9.0, "decode": 1.0, "preprocess": 1.0, "infer": confidence},
            "software": "giemsa 0.1.0",
        }))
        .unwrap()
    }

    const LABELS: [&str; 2] = ["parasitized", "uninfected"];

    /// Both stages on 100 images, every second one parasitized; each is wrong where `wrong` says so.
    fn compared(
        candidate_wrong: impl Fn(usize) -> bool,
        reference_wrong: impl Fn(usize) -> bool,
        has_verdicts: bool,
    ) -> Comparison {
        let mut tally = Tally::default();
        for i in 0..100 {
            let truth = i % 2;
            let label = |is_wrong: bool| Some(LABELS[if is_wrong { 1 - truth } else { truth }]);
            let verdict = Verdict {
                label: LABELS[truth].to_owned(),
                object_version: "e".to_owned(),
                reviewer: "ada".to_owned(),
                reviewed_at: DateTime::UNIX_EPOCH,
            };
            tally.add(&Pair {
                candidate: record("dev", i, label(candidate_wrong(i)), 0.9),
                reference: record("prod", i, label(reference_wrong(i)), 0.8),
                verdict: has_verdicts.then_some(verdict),
            });
        }
        let side = |stage: &str| (stage.to_owned(), record(stage, 0, None, 0.0).model);
        tally.finish(side("dev"), side("prod"))
    }

    #[test]
    fn a_planted_better_and_a_planted_worse_model_get_the_right_verdict() {
        type IsRight = fn(usize) -> bool;
        let cases: [(IsRight, IsRight, bool, Conclusion); 6] = [
            (|i| i < 3, |i| (20..40).contains(&i), true, Conclusion::CandidateBetter),
            (|i| (20..40).contains(&i), |i| i < 3, true, Conclusion::CandidateWorse),
            // As often wrong, on other images.
            (|i| i < 10, |i| (20..30).contains(&i), true, Conclusion::NoDifferenceShown),
            // Better by a hair, which may be chance.
            (|_| false, |i| i < 5, true, Conclusion::NoDifferenceShown),
            (|_| false, |i| i < 6, true, Conclusion::CandidateBetter),
            (|i| i < 3, |i| (20..40).contains(&i), false, Conclusion::NoVerdicts),
        ];
        for (index, (candidate, reference, has_verdicts, expected)) in cases.into_iter().enumerate() {
            assert_eq!(compared(candidate, reference, has_verdicts).conclusion, expected, "case {index}");
        }
    }

    #[test]
    fn figures_are_those_of_the_planted_errors() {
        // The candidate misses images 0 and 2 (parasitized) and calls 1 parasitized; the reference is right.
        let found = compared(|i| i < 3, |_| false, true);
        assert_eq!((found.images, found.agreement.unwrap().count), (100, 97));
        let flips: Vec<_> =
            found.flips.iter().map(|f| (f.reference.as_str(), f.candidate.as_str(), f.images)).collect();
        assert_eq!(flips, [("parasitized", "uninfected", 2), ("uninfected", "parasitized", 1)]);
        let keys: Vec<&str> = found.flips[0].first.iter().map(|image| image.key.as_str()).collect();
        assert_eq!(keys, ["s/000.png", "s/002.png"]);
        let positives = found.positives.unwrap();
        assert_eq!((positives.only_candidate, positives.only_reference), (1, 2));
        let verdicts = found.verdicts.unwrap();
        let parasitized = &verdicts.candidate[0];
        assert_eq!(parasitized.label, "parasitized");
        assert_eq!(parasitized.sensitivity.map(|p| (p.count, p.of)), Some((48, 50)));
        assert_eq!(parasitized.specificity.map(|p| (p.count, p.of)), Some((49, 50)));
        assert_eq!(verdicts.reference_accuracy.unwrap().value, 1.0);
        assert_eq!((verdicts.right.only_candidate, verdicts.right.only_reference), (0, 3));
        let shift = found.confidence_shift.unwrap();
        assert!((shift.mean - 0.1).abs() < 1e-9 && (shift.p95 - 0.1).abs() < 1e-9, "{shift:?}");
        assert!((found.candidate.speed.unwrap().median_ms - 2.9).abs() < 1e-9);
    }

    #[test]
    fn an_image_that_one_rejects_is_counted_apart() {
        let mut tally = Tally::default();
        let pair = |ours: Option<&str>, theirs: Option<&str>| Pair {
            candidate: record("dev", 0, ours, 0.9),
            reference: record("prod", 0, theirs, 0.9),
            verdict: None,
        };
        tally.add(&pair(None, Some("uninfected")));
        tally.add(&pair(None, None));
        tally.add_without_reference();
        let side = || ("dev".to_owned(), record("dev", 0, None, 0.0).model);
        let found = tally.finish(side(), side());
        assert_eq!((found.images, found.classified_by_one, found.without_reference), (0, 1, 1));
        assert_eq!((found.agreement, found.conclusion), (None, Conclusion::NothingToCompare));
    }
}
