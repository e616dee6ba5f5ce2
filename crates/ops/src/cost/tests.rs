//! The arithmetic against figures that were worked out by hand, the constants against what they stand for.

use std::time::Duration;

use serde_json::Value;

use super::*;
use giemsa_core::price::batch_cost;
use giemsa_store::{stored_bytes, writes_of_batch};

fn workload() -> Workload {
    Workload {
        images: 1e6,
        size_mb: 2.0,
        image_ms: 40.0,
        python_ms: 60.0,
        memory_mb: 2048,
        architecture: Architecture::Arm64,
        stages: 1,
        batch: 10,
        image_months: 1.0,
        result_months: 1.0,
    }
}

fn assumptions() -> Assumptions {
    Assumptions {
        seed: 1,
        image_ms: CROPS.image_ms,
        batch: 10,
        stages: 2,
        slide_images: 500,
        slide_rate: 50,
        common_label: 0.9,
        reviewed: 0.1,
    }
}

fn usd(bill: &Bill, service: Service) -> f64 {
    by_service(&bill.images).iter().find(|(known, _)| *known == service).unwrap().1
}

#[track_caller]
fn assert_near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 0.000_5, "{found}, expected {expected}");
}

#[test]
fn a_million_images_cost_what_was_worked_out_by_hand() {
    let bill = bill(&workload());
    // 1,000,000 · 0.040 s + 100,000 · 0.1 s = 50,000 s; · 2 GB · 0.0000133334 = 1.33334; 100,000 requests 0.02.
    assert_near(usd(&bill, Service::Lambda), 1.353_34);
    // 2,000,000 PUTs 10; 1,200,000 GETs 0.48; 2,000 GB and 1 GB of results for a month 46.023; 3,200,000 lines of access
    // logs, 1.6 GB for three months, 0.1104.
    assert_near(usd(&bill, Service::S3), 56.613_4);
    assert_near(usd(&bill, Service::EventBridge), 1.0);
    // 1,000,000 sent, 100,000 received, 100,000 deleted.
    assert_near(usd(&bill, Service::Sqs), 0.48);
    // 16,000,000 units 10; 7.6 GB 1.90; 1.6 GB of backup 0.32.
    assert_near(usd(&bill, Service::DynamoDb), 12.22);
    // 0.3 GB of logs 0.15, kept for three months 0.027.
    assert_near(usd(&bill, Service::CloudWatch), 0.177);
    // 100,000 invocations.
    assert_near(usd(&bill, Service::XRay), 0.5);
    assert_near(bill.images.total_usd, 72.343_74);
    // 657,000 polls 0.2628; 17 metrics 5.10; 16 metrics of alarms 1.60; a dashboard 3.00.
    assert_near(bill.idle_month.total_usd, 9.962_8);
}

#[test]
fn stages_batches_memory_and_months_are_charged() {
    let one = bill(&workload());
    let two = bill(&Workload { stages: 2, ..workload() });
    assert_near(usd(&two, Service::Lambda), 2.0 * usd(&one, Service::Lambda));
    assert_near(usd(&two, Service::EventBridge), usd(&one, Service::EventBridge));
    let single = bill(&Workload { batch: 1, ..workload() });
    // 900,000 more invocations: 90,000 s · 2 GB · 0.0000133334, and their requests.
    assert_near(usd(&single, Service::Lambda) - usd(&one, Service::Lambda), 2.400_012 + 0.18);
    let none_kept = bill(&Workload { image_months: 0.0, result_months: 0.0, ..workload() });
    assert_near(one.images.total_usd - none_kept.images.total_usd, 46.023 + 2.22);
    let few = Workload { images: 11.0, ..workload() };
    assert_eq!(few.invocations(), 2.0, "a batch that is not full is one");
}

#[test]
fn a_bill_and_the_metric_of_its_batches_agree() {
    let one_batch = Workload { images: 10.0, ..workload() };
    let reads_and_time = bill(&one_batch).images.lines.into_iter().filter(|line| {
        matches!(
            line.charge,
            Charge::LambdaGbSecondArm64 | Charge::LambdaRequest | Charge::S3Get | Charge::TableWriteUnit
        )
    });
    // The upload's own PUT is nothing that the classifier does.
    let expected: f64 = reads_and_time.map(|line| line.usd).sum::<f64>() + Charge::S3Put.usd(10.0);
    let metric = batch_cost(Architecture::Arm64, 2048, Duration::from_millis(500), 10);
    assert!((metric - expected).abs() < 1e-12, "{metric}, expected {expected}");
}

#[test]
fn other_ways_cost_what_was_worked_out_by_hand() {
    let ways = alternatives(&workload());
    let [giemsa, python, container, sagemaker] = &ways[..] else { panic!("{ways:?}") };
    assert_near(giemsa.total_usd(), bill(&workload()).images.total_usd);
    // 20 ms more: 20,000 s · 2 GB · 0.0000133334.
    assert_near(python.compute_usd - giemsa.compute_usd, 0.533_336);
    assert_near(python.rest_usd, giemsa.rest_usd);
    // 40,000 s of 2,628,000 s are 0.015 processors, ten times that is one: 730 · (0.03238 + 2 · 0.00356).
    assert_near(container.compute_usd, 28.835);
    // 40,000 s on four processors are 2.7778 h, 30 starts of four minutes 2 h; · 0.204.
    assert_near(sagemaker.compute_usd, 0.974_667);
    assert_near(giemsa.rest_usd - sagemaker.rest_usd, 1.0 + 0.48 + 0.177 + 0.5);
    let much = alternatives(&Workload { images: 1e8, ..workload() });
    // 1.522 processors in the mean, 16 at the peak.
    assert_near(much[2].compute_usd, 16.0 * 28.835);
}

#[test]
fn the_constants_are_not_below_what_the_store_writes() {
    let record = typical_record(&assumptions());
    assert!(record.needs_review, "the largest of them");
    let units: usize = writes_of_batch(std::slice::from_ref(&record)).unwrap().iter().map(|w| w.units).sum();
    assert_eq!(units as f64, WRITE_UNITS_OF_NEW, "{:#?}", writes_of_batch(&[record]));
    let json = serde_json::to_vec(&typical_record(&assumptions())).unwrap().len() as f64;
    assert!((0.8..=1.0).contains(&(json / RESULT_BYTES)), "{json}");
    let stored = stored_bytes(&typical_record(&assumptions())).unwrap();
    // Each item and each of its seven entries has 100 bytes more.
    let (table, indexes) = (stored.table as f64 + 100.0, stored.indexes as f64 + 700.0);
    assert!((0.8..=1.0).contains(&(table / TABLE_BYTES)), "{table}");
    assert!((0.8..=1.0).contains(&(indexes / INDEX_BYTES)), "{indexes}");
}

#[test]
fn presets_are_what_was_measured() {
    let median = |rounds: &[Value], contestant: &str| {
        let mut rates: Vec<f64> =
            rounds.iter().map(|round| round[contestant]["images_per_s"].as_f64().unwrap()).collect();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    for (preset, results) in [
        (CROPS, include_str!("../../../../benches/results/2026-11-23-crops-1vcpu.json")),
        (FIELDS, include_str!("../../../../benches/results/2026-11-23-fields-1vcpu.json")),
    ] {
        let results: Value = serde_json::from_str(results).unwrap();
        let workload = &results["workloads"][0];
        let rounds = workload["rounds"].as_array().unwrap();
        for (found, expected) in [
            (preset.image_ms, 1e3 / median(rounds, "giemsa")),
            (preset.python_ms, 1e3 / median(rounds, "tuned")),
            (preset.size_mb, workload["mean_image_bytes"].as_f64().unwrap() / 1e6),
        ] {
            assert!((found / expected - 1.0).abs() < 0.005, "{found}, expected {expected}");
        }
    }
}

#[test]
fn rates_follow_the_keys() {
    let report = simulate(1_000, &assumptions()).unwrap();
    assert_eq!(report, simulate(1_000, &assumptions()).unwrap(), "the same seed, the same figures");
    let load = |name: &str| report.uses.iter().find(|used| used.limit.name.contains(name)).unwrap().load;
    // A hundred batches a second, each tells the day once.
    assert_eq!(load("item of a day"), 100.0);
    // 900 of a label, two units each, on sixteen shards: 112.5 in the mean, more in the busiest.
    assert!((112.5..200.0).contains(&load("label")), "{}", load("label"));
    assert!((62.5..110.0).contains(&load("recent")), "{}", load("recent"));
    // Twenty slides at once of 50 images a second, two units each.
    assert!((100.0..180.0).contains(&load("index slide")), "{}", load("index slide"));
    // Two stages, sixteen units less those of indexes: two for a result, one for its slide in nearly each batch, one a batch.
    assert!((5_500.0..6_200.0).contains(&load("of the table")), "{}", load("of the table"));
    // One slide that takes all of it has one key in the index.
    let one = simulate(1_000, &Assumptions { slide_images: 100_000, slide_rate: 1_000, ..assumptions() });
    let one = one.unwrap();
    let slide = one.given().into_iter().find(|used| used.limit.name.contains("index slide")).unwrap().load;
    assert_eq!(slide, 2_000.0);
}

#[test]
fn queues_catch_up_by_their_pollers() {
    // 0.133 s for 10 images: five batches at once take 375 a second.
    let report = simulate(100, &assumptions()).unwrap();
    assert_eq!((report.caught_up_s, report.longest_wait_s), (Some(0), 0.0));
    // One second an image: 5,000 batches at once would be needed of each stage, of 500 that the account has for it.
    let slow = simulate(1_000, &Assumptions { image_ms: 5_000.0, ..assumptions() }).unwrap();
    assert_eq!(slow.caught_up_s, None);
    assert!(slow.given()[0].limit.name.contains("MaxConcurrency"), "{:?}", slow.given());
}
