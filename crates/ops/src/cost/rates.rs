//! Which rate of uploads reaches which limit: a simulation of uploads, second by second, over the real keys of the table.
//!
//! It never asks AWS and knows no retry: a limit that is reached is reported, not modelled. The same seed gives the
//! same figures on every machine, and every write is at the partition where the store would put it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::INVOCATION_MS;
use giemsa_core::digest::short_id;
use giemsa_core::object::slide_of_key;
use giemsa_core::record::{ImageInfo, ModelInfo, RECORD_SCHEMA, Record, Status};
use giemsa_store::{StoreError, writes_of_batch};

/// Rates of the table, images a second.
pub const RATES: [u32; 5] = [1, 10, 100, 1_000, 10_000];

/// Seconds that are simulated with the keys of every image.
const KEYED_SECONDS: u32 = 3;

/// Seconds that the queue is simulated for.
const QUEUE_SECONDS: u32 = 3_600;

/// Batches that a mapping takes at once from the first second, and how many more each second: 300 a minute.
const FIRST_POLLERS: f64 = 5.0;
const MORE_POLLERS: f64 = 5.0;

/// Batches that a mapping takes at once at most.
const MAPPING_CONCURRENCY: f64 = 1_250.0;

/// Invocations at once of an account.
const ACCOUNT_CONCURRENCY: f64 = 1_000.0;

/// A limit of an account or a service.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// Name for people.
    pub name: &'static str,
    /// How much, in the unit of the name.
    pub value: f64,
    /// What moves it.
    pub setting: &'static str,
}

/// All limits that are looked at, defaults of us-east-1.
#[rustfmt::skip]
pub const LIMITS: [Limit; 18] = [
    limit("Lambda: batches of a stage at once, the template's MaxConcurrency", 10.0, "parameter MaxConcurrency of the template, up to 1,000"),
    limit("Lambda: batches at once, all stages", ACCOUNT_CONCURRENCY, "Service Quotas, Lambda, Concurrent executions"),
    limit("Lambda: batches of one queue at once", MAPPING_CONCURRENCY, "ProvisionedPollerConfig of the queue's mapping, in place of MaximumConcurrency: up to 20,000"),
    limit("EventBridge: sends a second, all stages", 18_750.0, "Service Quotas, EventBridge, Invocations; other regions start at 750"),
    limit("SQS: messages in flight in a queue", 120_000.0, "a support case"),
    limit("S3: PUTs a second of one prefix, uploads", 3_500.0, "S3 divides a busy prefix by itself within minutes; spread uploads over folders, or a support case"),
    limit("S3: GETs a second of one prefix, uploads", 5_500.0, "as for PUTs"),
    limit("S3: PUTs a second of one prefix, results of a stage and day", 3_500.0, "as for uploads; a new day is a new prefix, so the first minutes of a day can be slower"),
    limit("DynamoDB: write units a second of a new table", 4_000.0, "WarmThroughput of the table; it grows by itself to twice the last peak"),
    limit("DynamoDB: write units a second of the table", 40_000.0, "Service Quotas, DynamoDB, Table-level write throughput"),
    limit("DynamoDB: write units a second of one index", 40_000.0, "as for the table"),
    limit("DynamoDB: writes to the item of a day", 1_000.0, "BatchSize of the queue's mapping: a day is marked once for each batch"),
    limit("DynamoDB: writes to the item of a slide", 1_000.0, "smaller folders, or BatchSize"),
    limit("DynamoDB: index slide, one slide", 1_000.0, "smaller folders, or a slower upload of one folder: 500 images a second"),
    limit("DynamoDB: index label, one shard", 1_000.0, "more digits of the result id as shards in store/schema.rs"),
    limit("DynamoDB: index review, one shard", 1_000.0, "as for label"),
    limit("DynamoDB: indexes recent and model, one shard", 1_000.0, "as for label"),
    limit("DynamoDB: index listing, one shard", 1_000.0, "BatchSize, or larger folders: a slide is marked once for each batch"),
];

const fn limit(name: &'static str, value: f64, setting: &'static str) -> Limit {
    Limit { name, value, setting }
}

/// What is taken for granted of uploads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Assumptions {
    /// Another seed gives other keys.
    pub seed: u64,
    /// Milliseconds of one image.
    pub image_ms: f64,
    /// Images of one invocation.
    pub batch: u32,
    /// Stages that answer each image.
    pub stages: u32,
    /// Images of one slide.
    pub slide_images: u32,
    /// Images a second that one slide is uploaded with at most.
    pub slide_rate: u32,
    /// Part of the images that has the most frequent label.
    pub common_label: f64,
    /// Part of the images that needs a human look.
    pub reviewed: f64,
}

/// How much of a limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Use {
    /// The limit.
    pub limit: Limit,
    /// Used, in its unit; of rates in the busiest second.
    pub load: f64,
}

impl Use {
    /// Part of the limit that is used; it gives above 1.
    pub fn part(&self) -> f64 {
        self.load / self.limit.value
    }
}

/// What one rate does to each limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RateReport {
    /// Images a second.
    pub rate: u32,
    /// One for each of [`LIMITS`], in their order.
    pub uses: Vec<Use>,
    /// Seconds until a queue that was empty holds nothing that waits, with MaxConcurrency as high as it goes and the account
    /// shared evenly by the stages; `None` if that is never within an hour.
    pub caught_up_s: Option<u32>,
    /// Longest that an image waits meanwhile, seconds.
    pub longest_wait_s: f64,
}

impl RateReport {
    /// The limits that give, the one that gave first at the lowest rate before the others.
    pub fn given(&self) -> Vec<&Use> {
        let mut given: Vec<&Use> = self.uses.iter().filter(|used| used.part() > 1.0).collect();
        given.sort_by(|one, other| other.part().total_cmp(&one.part()));
        given
    }
}

/// Write units of the busiest second, by what they are written to.
#[derive(Debug, Default)]
struct Writes {
    table: f64,
    index: f64,
    day: f64,
    slide_item: f64,
    partitions: BTreeMap<&'static str, f64>,
}

/// Simulates uploads at `rate` images a second.
///
/// # Errors
/// [`StoreError::Item`] if a record does not fit the table, which would be a defect.
pub fn simulate(rate: u32, assumptions: &Assumptions) -> Result<RateReport, StoreError> {
    let images = f64::from(rate);
    let stages = f64::from(assumptions.stages);
    let batch_images = f64::from(assumptions.batch).min(images.max(1.0));
    let batch_s = (batch_images * assumptions.image_ms + INVOCATION_MS) / 1e3;
    let batches_at_once = images / batch_images * batch_s;
    let writes = busiest_second(rate, assumptions)?;
    let of_index = |name: &str| writes.partitions.get(name).copied().unwrap_or_default();
    let loads = [
        batches_at_once,
        stages * batches_at_once,
        batches_at_once,
        stages * images,
        batches_at_once * batch_images,
        images,
        stages * images,
        images,
        // The stages' keys are different, so only what is counted for a whole table adds up.
        stages * writes.table,
        stages * writes.table,
        stages * writes.index,
        writes.day,
        writes.slide_item,
        of_index("slide"),
        of_index("label"),
        of_index("review"),
        of_index("recent").max(of_index("model")),
        of_index("listing"),
    ];
    let uses = LIMITS.iter().zip(loads).map(|(limit, load)| Use { limit: *limit, load }).collect();
    let most = MAPPING_CONCURRENCY.min(ACCOUNT_CONCURRENCY / stages);
    let (caught_up_s, longest_wait_s) = queue(images, batch_images, batch_s, most);
    Ok(RateReport { rate, uses, caught_up_s, longest_wait_s })
}

/// How long a queue of one stage takes until nothing waits in it, and the longest wait of an image.
fn queue(rate: f64, batch_images: f64, batch_s: f64, most: f64) -> (Option<u32>, f64) {
    let (mut waiting, mut longest): (f64, f64) = (0.0, 0.0);
    for second in 0..QUEUE_SECONDS {
        let at_once = (FIRST_POLLERS + MORE_POLLERS * f64::from(second)).min(most);
        let answered_a_second = at_once * batch_images / batch_s;
        waiting = (waiting + rate - answered_a_second).max(0.0);
        longest = longest.max(waiting / answered_a_second);
        if waiting == 0.0 {
            return (Some(second), longest);
        }
    }
    (None, longest)
}

/// Uploads of [`KEYED_SECONDS`], in batches as a standard queue mixes them; what their writes reach in the busiest second.
fn busiest_second(rate: u32, assumptions: &Assumptions) -> Result<Writes, StoreError> {
    let mut busiest = Writes::default();
    let slides_at_once = rate.div_ceil(assumptions.slide_rate.max(1)).max(1);
    let mut uploaded = vec![0_u32; slides_at_once as usize];
    for second in 0..KEYED_SECONDS {
        let mut records: Vec<Record> = Vec::with_capacity(rate as usize);
        for number in 0..rate {
            let chance = Chance::of(assumptions.seed, u64::from(second) << 32 | u64::from(number));
            // Bounded by the number of slides, which came from a u32.
            let at = (chance.first * f64::from(slides_at_once)) as usize;
            let slide = at as u32 + slides_at_once * (uploaded[at] / assumptions.slide_images);
            let key = format!("slide-{slide:06}/image-{:05}.png", uploaded[at] % assumptions.slide_images);
            uploaded[at] += 1;
            records.push(record(&key, second, &chance, assumptions));
        }
        let mut sums: BTreeMap<(Option<&'static str>, String), usize> = BTreeMap::new();
        for batch in records.chunks(assumptions.batch.max(1) as usize) {
            for write in writes_of_batch(batch)? {
                *sums.entry((write.index, write.partition)).or_default() += write.units;
            }
        }
        busiest.take(&sums);
    }
    Ok(busiest)
}

impl Writes {
    /// Keeps the larger of what is known and the sums of one second.
    fn take(&mut self, sums: &BTreeMap<(Option<&'static str>, String), usize>) {
        let (mut table, mut indexes) = (0.0, BTreeMap::<&'static str, f64>::new());
        for ((index, partition), units) in sums {
            let units = *units as f64;
            match index {
                None => {
                    table += units;
                    if partition.starts_with("days#") {
                        self.day = self.day.max(units);
                    } else if partition.starts_with("slide#") {
                        self.slide_item = self.slide_item.max(units);
                    }
                }
                Some(index) => {
                    *indexes.entry(index).or_default() += units;
                    let known = self.partitions.entry(index).or_default();
                    *known = known.max(units);
                }
            }
        }
        self.table = self.table.max(table);
        self.index = indexes.into_values().fold(self.index, f64::max);
    }
}

/// Two numbers from 0 to 1 that depend on a seed and a number only: by SHA-256, which is the same everywhere.
#[derive(Debug, Clone, Copy)]
struct Chance {
    first: f64,
    second: f64,
}

impl Chance {
    fn of(seed: u64, number: u64) -> Self {
        let digits = short_id(&["rates", &seed.to_string(), &number.to_string()]);
        let part = |digits: &str| {
            let value = u32::from_str_radix(digits, 16).expect("a digest is hexadecimal");
            f64::from(value) / (f64::from(u32::MAX) + 1.0)
        };
        Self { first: part(&digits[..8]), second: part(&digits[8..]) }
    }
}

/// Record of an image as the sample model answers it, of the size that such records have.
pub fn typical_record(assumptions: &Assumptions) -> Record {
    record("slide-000001/image-00001.png", 0, &Chance { first: 0.5, second: 0.999 }, assumptions)
}

fn record(key: &str, second: u32, chance: &Chance, assumptions: &Assumptions) -> Record {
    let uploaded_at =
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(second.into());
    let sha256 = "2de72f05".repeat(8);
    let is_common = chance.second < assumptions.common_label;
    // Those that need a look are taken from the rare ones first, as a model of few positives does it.
    let needs_review = chance.second >= 1.0 - assumptions.reviewed;
    let label = if is_common { "uninfected" } else { "parasitized" };
    let version_id = "3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY".to_owned();
    let bucket = "giemsa-input-123456789012".to_owned();
    Record {
        schema: RECORD_SCHEMA.to_owned(),
        result_id: short_id(&[&bucket, key, &version_id, &sha256]),
        image: ImageInfo {
            bucket,
            key: key.to_owned(),
            version_id: Some(version_id),
            etag: Some("d41d8cd98f00b204e9800998ecf8427e".to_owned()),
            size_bytes: Some(17_331),
            uploaded_at: Some(uploaded_at),
            width_px: Some(142),
            height_px: Some(148),
            format: Some("png".to_owned()),
            sha256: Some(sha256.clone()),
        },
        slide: slide_of_key(key),
        stage: "prod".to_owned(),
        status: Status::Classified,
        label: Some(label.to_owned()),
        confidence: Some(0.987_654),
        probabilities: Some(
            [("parasitized".to_owned(), 0.012_346), ("uninfected".to_owned(), 0.987_654)].into(),
        ),
        positive: Some(!is_common),
        outlier_score: Some(-3.271_46),
        outlier: Some(false),
        needs_review,
        review_reason: needs_review
            .then(|| "parasitized is possible: 0.030 is above the limit of 0.020".to_owned()),
        reject: None,
        model: ModelInfo { name: "thin-smear".to_owned(), version: "2".to_owned(), sha256 },
        timings_ms: None,
        classified_at: Some(uploaded_at),
        software: "giemsa 0.1.0".to_owned(),
        withdrawn: None,
    }
}
