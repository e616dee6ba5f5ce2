//! Fills the table with results as the classifier writes them, through the same writer.
//!
//! It never invents the form of a record: each is a copy of one that the stack made of a sample image. The same numbers
//! give the same table, but for the day it is.

use anyhow::Context;
use aws_sdk_s3::primitives::ByteStream;
use chrono::{Duration, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use giemsa_core::record::Record;
use giemsa_local::{INPUT_BUCKET, TABLE};
use giemsa_store::{TableReader, TableWriter, make_current};

use crate::stack::Stack;

/// Records written at once.
const CONCURRENCY: usize = 32;

/// Days over which uploads are spread.
const DAYS: usize = 14;

/// An image that the stack answers, as it is in this repository.
pub const SAMPLE: &[u8] = include_bytes!("../../../tests/data/golden/field.png");

/// What was put in the table.
pub struct Seeded {
    /// All slides.
    pub slides: Vec<String>,
    /// The label of most images.
    pub label: String,
    /// Images of a slide.
    pub images: usize,
}

/// Key of an image.
pub fn key(slide: &str, image: usize) -> String {
    format!("{slide}/cell-{image:05}.png")
}

/// Writes `count` results in slides of `images`.
pub async fn fill(stack: &Stack, count: usize, images: usize) -> anyhow::Result<Seeded> {
    let template = template(stack).await?;
    let writer = TableWriter::new(stack.clients.dynamodb.clone(), TABLE);
    let slides: Vec<String> = (0..count.div_ceil(images)).map(|n| format!("load/slide-{n:05}")).collect();
    let now = Utc::now();
    let records = (0..count).map(|number| {
        let (slide, image) = (&slides[number / images], number % images);
        let age = Duration::minutes((number % (DAYS * 24 * 60)) as i64);
        record(&template, slide, image, number, now - age)
    });
    stream::iter(records)
        .map(|record| {
            let writer = &writer;
            async move { make_current(&stack.clients.s3, writer, &record, None).await.map(drop) }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    for day in 0..=DAYS {
        let day = (now - Duration::days(day as i64)).format("%Y-%m-%d").to_string();
        writer.invalidate_day("prod", &day, now).await?;
    }
    for (number, slide) in slides.iter().enumerate() {
        writer.invalidate_slide("prod", slide, now - Duration::minutes(number as i64)).await?;
    }
    Ok(Seeded { slides, label: template.label.context("the sample was rejected")?, images })
}

/// Has the stack answer an image, and takes its record.
async fn template(stack: &Stack) -> anyhow::Result<Record> {
    let (s3, key) = (&stack.clients.s3, "load/template/field.png");
    let body = ByteStream::from_static(SAMPLE);
    s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send().await?;
    let table = TableReader::new(stack.clients.dynamodb.clone(), TABLE);
    loop {
        let history = table.image(INPUT_BUCKET, key, &giemsa_config::DEFAULT_STAGES).await?;
        if let Some(record) = history.results.into_iter().find(|record| record.stage == "prod") {
            return Ok(record);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn record(
    template: &Record,
    slide: &str,
    image: usize,
    number: usize,
    uploaded_at: chrono::DateTime<Utc>,
) -> Record {
    let mut record = template.clone();
    // A number of its own in the sixteen digits that a hash would have.
    record.result_id = format!("{:016x}", (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    record.image.key = key(slide, image);
    record.image.version_id = Some(format!("{number:032x}"));
    record.image.uploaded_at = Some(uploaded_at);
    record.slide = slide.to_owned();
    record.classified_at = Some(uploaded_at + Duration::seconds(2));
    // One in thirty needs a look, and certainty differs from image to image.
    let confidence = 0.5 + (number % 1_000) as f64 / 2_001.0;
    record.confidence = Some(confidence);
    record.needs_review = number.is_multiple_of(30);
    record.review_reason = record.needs_review.then(|| "confidence is below its limit".to_owned());
    record.outlier = record.outlier.map(|_| false);
    record
}
