use super::*;
use giemsa_core::gate_report::{ProofOutcome, Waiver};

fn image(key: &str, expected: &str, answered: &str) -> GoldenAnswer {
    let answered =
        Answered { label: answered.to_owned(), confidence: 0.9, needs_review: false, milliseconds: 2.0 };
    GoldenAnswer {
        key: format!("golden/{expected}/{key}"),
        expected: expected.to_owned(),
        answer: Ok(answered),
    }
}

/// `rows`: expected, answered, how many.
fn trial(rows: &[(&str, &str, usize)]) -> Trial {
    let images = |&(expected, answered, count): &(&str, &str, usize)| {
        (0..count).map(move |n| image(&format!("{answered}-{n}.png"), expected, answered)).collect::<Vec<_>>()
    };
    let answers: Vec<GoldenAnswer> = rows.iter().flat_map(images).collect();
    let mut golden = GoldenSummary { digest: "d".repeat(64), ..GoldenSummary::default() };
    for answer in &answers {
        *golden.images.entry(answer.expected.clone()).or_default() += 1;
    }
    Trial {
        model: GateModel {
            name: Some("m".to_owned()),
            version: Some("1".to_owned()),
            sha256: "a".repeat(64),
            size_bytes: 1,
            labels: vec!["sick".to_owned(), "well".to_owned()],
            positive: vec!["sick".to_owned()],
            proof: None,
        },
        golden,
        rules: GateRules::default(),
        answers,
        production: None,
        problems: Vec::new(),
        notes: Vec::new(),
        made_at: DateTime::UNIX_EPOCH,
    }
}

fn assert_failure(report: &GateReport, parts: &[&str]) {
    assert!(!report.passed);
    let is_named = |failure: &&String| parts.iter().all(|part| failure.contains(part));
    assert!(report.failures.iter().any(|failure| is_named(&failure)), "{parts:?} in {:?}", report.failures);
}

#[test]
fn a_model_without_a_proof_fails_where_the_rules_ask_for_one() {
    let rows = [("sick", "sick", 20), ("well", "well", 20)];
    assert!(trial(&rows).judge().passed, "nobody asks");
    let mut asked = trial(&rows);
    asked.rules = GateRules::parse(br#"{"proof": "required"}"#).unwrap();
    let report = asked.clone().judge();
    assert_failure(&report, &["no giemsa.proof", "golden/gate.json", "giemsa model pack", "--proof"]);
    asked.model.proof =
        Some(ProofOutcome { by: "torch".to_owned(), inputs: 4, greatest_difference: 1e-6, bound: 1e-3 });
    let report = asked.clone().judge();
    assert!(report.passed, "{:?}", report.failures);
    assert!(crate::render_report(&report).contains("4 inputs differ by 1.0e-6 at most from torch"));
    // A file that could not be loaded fails for that reason alone.
    let mut broken = Trial::new(GateModel::default(), asked.golden, DateTime::UNIX_EPOCH);
    (broken.rules, broken.problems) = (asked.rules, vec!["the model cannot be loaded".to_owned()]);
    assert_eq!(broken.judge().failures, ["the model cannot be loaded"]);
}

#[test]
fn figures_are_of_one_label_against_the_others() {
    // Of 20 sick 18 are found; of 30 well 3 are called sick.
    let report =
        trial(&[("sick", "sick", 18), ("sick", "well", 2), ("well", "well", 27), ("well", "sick", 3)])
            .judge();
    let sick = &report.labels[0];
    assert_eq!((sick.label.as_str(), sick.images), ("sick", 20));
    assert_eq!(sick.sensitivity.map(|p| (p.count, p.of, p.value)), Some((18, 20, 0.9)));
    assert_eq!(sick.specificity.map(|p| (p.count, p.of, p.value)), Some((27, 30, 0.9)));
    // With two labels the one's sensitivity is the other's specificity.
    assert_eq!(
        (report.labels[1].sensitivity, report.labels[1].specificity),
        (sick.specificity, sick.sensitivity)
    );
    assert_eq!(report.accuracy.map(|p| (p.count, p.of)), Some((45, 50)));
    assert_eq!(report.confusion["sick"]["well"], 2);
    assert_eq!(report.wrong.len(), 5);
    assert!(report.passed, "{:?}", report.failures);
}

#[test]
fn a_floor_is_reached_by_equality_and_missed_by_one_image() {
    let floors = |mut trial: Trial| {
        trial.rules.sensitivity_at_least.insert("sick".to_owned(), 0.95);
        trial
    };
    let reached = floors(trial(&[("sick", "sick", 19), ("sick", "well", 1), ("well", "well", 20)])).judge();
    assert!(reached.passed, "{:?}", reached.failures);
    let missed = floors(trial(&[("sick", "sick", 18), ("sick", "well", 2), ("well", "well", 20)])).judge();
    assert_failure(
        &missed,
        &["sensitivity of \"sick\"", "18 of 20", "90.0 %", "95.0 %", "sensitivity_at_least"],
    );
}

#[test]
fn each_rule_can_fail_alone() {
    let good = &[("sick", "sick", 9), ("well", "well", 9)];
    let with = |change: fn(&mut GateRules)| {
        let mut trial = trial(good);
        change(&mut trial.rules);
        trial.judge()
    };
    assert!(with(|_| ()).passed);
    let few = with(|rules| _ = rules.images_at_least.insert("well".to_owned(), 10));
    assert_failure(&few, &["9 golden images of \"well\"", "10", "images_at_least"]);
    let unknown = with(|rules| _ = rules.specificity_at_least.insert("wel".to_owned(), 0.5));
    assert_failure(&unknown, &["specificity of \"wel\"", "cannot be measured"]);
    let inaccurate = trial(&[("sick", "well", 2), ("well", "well", 17)]).judge();
    assert_failure(&inaccurate, &["accuracy is 17 of 19", "accuracy_at_least"]);
}

#[test]
fn an_empty_golden_set_fails_unless_the_rules_let_it_pass() {
    let report = trial(&[]).judge();
    assert_failure(&report, &["golden set is empty", "empty_golden_set"]);
    assert_eq!(
        report.failures.len(),
        1,
        "floors that cannot be measured are not repeated: {:?}",
        report.failures
    );
    let mut lenient = trial(&[]);
    lenient.rules.empty_golden_set = EmptyGoldenSet::Pass;
    let report = lenient.judge();
    assert!(report.passed);
    assert!(report.notes.iter().any(|note| note.contains("nothing was measured")), "{:?}", report.notes);
}

#[test]
fn an_image_without_an_answer_fails_and_is_in_no_figure() {
    let mut trial = trial(&[("sick", "sick", 9), ("well", "well", 10)]);
    trial.answers[0].answer =
        Err(Unanswered { code: "corrupt".to_owned(), message: "cut at byte 7".to_owned() });
    let report = trial.judge();
    assert_failure(&report, &["1 of 19 golden images could not be answered"]);
    assert_eq!(report.labels[0].images, 8);
    assert_eq!(report.unreadable[0].message, "cut at byte 7");
}

#[test]
fn a_folder_that_is_no_label_fails_and_a_label_without_a_folder_is_noted() {
    let report = trial(&[("sick", "sick", 20), ("gametocyte", "sick", 1)]).judge();
    assert_failure(&report, &["golden/gametocyte/ holds 1", "sick"]);
    assert!(
        report.notes.iter().any(|note| note.contains("no golden image of \"well\"")),
        "{:?}",
        report.notes
    );
    assert_eq!(report.labels.last().unwrap().label, "gametocyte");
}

#[test]
fn a_model_that_cannot_be_loaded_fails_for_that_reason_alone() {
    let mut trial = trial(&[("sick", "sick", 3)]);
    trial.answers.clear();
    trial.model = GateModel { sha256: "b".repeat(64), size_bytes: 9, ..GateModel::default() };
    trial.problems.push("it is not ONNX".to_owned());
    let report = trial.judge();
    assert_eq!((report.passed, report.failures), (false, vec!["it is not ONNX".to_owned()]));
}

#[test]
fn differences_to_production_are_counted_by_image() {
    let mut both = trial(&[("sick", "sick", 2), ("well", "well", 2)]);
    let mut production = both.answers.clone();
    production[0].answer =
        Ok(Answered { label: "well".to_owned(), confidence: 0.6, needs_review: true, milliseconds: 1.0 });
    production[1].answer = Err(Unanswered { code: "network_failed".to_owned(), message: "NaN".to_owned() });
    both.production = Some((GateModel { sha256: "c".repeat(64), ..GateModel::default() }, production));
    let comparison = both.judge().production.unwrap();
    assert_eq!(comparison.accuracy.map(|p| (p.count, p.of)), Some((2, 3)));
    let shown: Vec<_> = comparison
        .differences
        .iter()
        .map(|d| (d.answered.as_deref(), d.production_answered.as_deref()))
        .collect();
    assert_eq!(shown, [(Some("sick"), Some("well")), (Some("sick"), None)]);
}

#[test]
fn speed_is_by_nearest_rank() {
    let mut answers = trial(&[("sick", "sick", 20)]).answers;
    for (index, image) in answers.iter_mut().enumerate() {
        image.answer.as_mut().unwrap().milliseconds = 20.0 - index as f64;
    }
    assert_eq!(speed_of(&answers), Some(Speed { median_ms: 10.0, p95_ms: 19.0 }));
    assert_eq!(speed_of(&[]), None);
}

#[test]
fn a_waiver_lets_a_failed_model_serve_and_a_report_reads_back() {
    let mut report = trial(&[]).judge();
    assert!(!report.lets_serve());
    let at = DateTime::UNIX_EPOCH;
    report.waiver = Some(Waiver { by: "a".to_owned(), reason: "b".to_owned(), at });
    assert!(report.lets_serve() && !report.passed);
    let json = serde_json::to_vec(&report).unwrap();
    assert_eq!(serde_json::from_slice::<GateReport>(&json).unwrap(), report);
}
