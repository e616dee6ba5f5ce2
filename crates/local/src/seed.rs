//! What a data folder needs before the stack can serve: buckets, table, models, golden set, a first report.
//!
//! It never replaces anything that is there. What it puts into an empty folder serves in every stage, and a folder of
//! an earlier version gets what it lacks.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use include_dir::{Dir, include_dir};
use serde_json::json;

use super::process::ClassifierProcess;
use super::stack::StackError;
use super::worker::{AnswerError, EventHandler};
use giemsa::golden::GOLDEN_PREFIX;
use giemsa_config::local::{INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE};
use giemsa_config::{PRODUCTION_STAGE, model_key};
use giemsa_store::aws::Clients;
use giemsa_store::create_table;

/// The model that is put in place where there is none.
pub(crate) const SAMPLE_MODEL: &[u8] = include_bytes!("../../../models/thin-smear.onnx");

/// Time for the first report.
const LONGEST_FIRST_REPORT: Duration = Duration::from_secs(900);

/// The golden set that is put in place where there is none: a folder for each label.
static SAMPLE_GOLDEN_SET: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../models/golden");

/// Makes the buckets and the table, and fills the model bucket where it is empty.
pub(crate) async fn seed(clients: &Clients, stages: &[&str]) -> Result<(), StackError> {
    for bucket in [INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET] {
        let made = clients.s3.create_bucket().bucket(bucket).send().await;
        made.map_err(|error| failed(bucket, &DisplayErrorContext(&error)))?;
    }
    keep_versions(clients).await?;
    create_table(&clients.dynamodb, TABLE).await?;
    // Before the models, whose notification may start the gate at once.
    if !holds(clients, GOLDEN_PREFIX).await? {
        for image in SAMPLE_GOLDEN_SET.dirs().flat_map(Dir::files) {
            let key = format!("{GOLDEN_PREFIX}{}", image.path().display());
            put(clients, &key, ByteStream::from_static(image.contents())).await?;
        }
    }
    let production_key = model_key(PRODUCTION_STAGE);
    if !is_there(clients, &production_key).await? {
        put(clients, &production_key, ByteStream::from_static(SAMPLE_MODEL)).await?;
    }
    for key in stages.iter().map(|stage| model_key(stage)) {
        if !is_there(clients, &key).await? {
            // Other stages begin with what production serves.
            let copy = clients.s3.copy_object().bucket(MODEL_BUCKET).key(&key);
            let copied = copy.copy_source(format!("{MODEL_BUCKET}/{production_key}")).send().await;
            copied.map_err(|error| failed(&key, &DisplayErrorContext(&error)))?;
        }
    }
    Ok(())
}

/// Tries the model of production if the folder holds no report at all: it is new, or of a version without the gate.
///
/// Later a model without a report is one that somebody copied to production past the gate.
pub(crate) async fn first_report(clients: &Clients, gate: &Arc<ClassifierProcess>) -> Result<(), StackError> {
    if holds(clients, "reports/").await? {
        return Ok(());
    }
    let request = json!({"gate": {"stage": PRODUCTION_STAGE}});
    loop {
        match gate.answer(&request, LONGEST_FIRST_REPORT, false).await {
            Ok(_) => return Ok(()),
            // It is refused the next time or the time after that, and that is a report.
            Err(AnswerError::ProcessEnded(reason)) => {
                tracing::error!(%reason, "the first report is tried again")
            }
            Err(error) => return Err(failed("the first golden report", &error)),
        }
    }
}

/// Turns on versioning of the input bucket, as in the template for AWS: an image that is replaced while its notification
/// waits is still there to be answered.
///
/// Whoever suspended it meant to, and finds it suspended.
async fn keep_versions(clients: &Clients) -> Result<(), StackError> {
    let asked = clients.s3.get_bucket_versioning().bucket(INPUT_BUCKET).send().await;
    let found = asked.map_err(|error| failed(INPUT_BUCKET, &DisplayErrorContext(&error)))?;
    if found.status().is_some() {
        return Ok(());
    }
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let put = clients.s3.put_bucket_versioning().bucket(INPUT_BUCKET).versioning_configuration(enabled);
    put.send().await.map(drop).map_err(|error| failed(INPUT_BUCKET, &DisplayErrorContext(&error)))
}

async fn holds(clients: &Clients, prefix: &str) -> Result<bool, StackError> {
    let listed = clients.s3.list_objects_v2().bucket(MODEL_BUCKET).prefix(prefix).max_keys(1).send().await;
    let listed =
        listed.map_err(|error| failed("a question for the model bucket", &DisplayErrorContext(&error)))?;
    Ok(!listed.contents().is_empty())
}

async fn is_there(clients: &Clients, key: &str) -> Result<bool, StackError> {
    match clients.s3.head_object().bucket(MODEL_BUCKET).key(key).send().await {
        Ok(_) => Ok(true),
        Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => Ok(false),
        Err(error) => Err(failed("a question for the model", &DisplayErrorContext(&error))),
    }
}

async fn put(clients: &Clients, key: &str, body: ByteStream) -> Result<(), StackError> {
    let sent = clients.s3.put_object().bucket(MODEL_BUCKET).key(key).body(body).send().await;
    sent.map(drop).map_err(|error| failed(key, &DisplayErrorContext(&error)))
}

fn failed(what: &str, detail: &dyn std::fmt::Display) -> StackError {
    StackError::S3 { what: what.to_owned(), detail: detail.to_string() }
}
