//! Jobs of S3 Batch Operations: create, find, follow, cancel.
//!
//! It never touches a job that is not a backfill of this project. One manifest makes one job, however often its
//! creation is tried.

use aws_sdk_s3control::Client;
use aws_sdk_s3control::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3control::types::{
    JobManifest, JobManifestFieldName, JobManifestFormat, JobManifestLocation, JobManifestSpec, JobOperation,
    JobProgressSummary, JobReport, JobReportFormat, JobReportScope, JobStatus, LambdaInvokeOperation,
    RequestedJobStatus, S3Tag,
};
use serde::Serialize;

use super::BackfillError;
use super::manifest::Manifest;
use giemsa_config::BatchSettings;
use giemsa_core::digest::sha256_of_parts;

/// Priority of a backfill among the jobs of an account: the lowest of S3's 0 to 2,147,483,647.
const PRIORITY: i32 = 0;

/// Longest description of a job, characters.
const MAX_DESCRIPTION: usize = 256;

/// Jobs of this account that invoke the backfill's function.
#[derive(Debug, Clone)]
pub struct BatchJobs {
    client: Client,
    settings: BatchSettings,
}

/// What S3 says of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobState {
    /// Its id.
    pub job_id: String,
    /// Its status as S3 names it, e.g. `Active`.
    pub status: String,
    /// Whether nothing more will happen.
    pub is_over: bool,
    /// Tasks in all; 0 until the manifest is read.
    pub total: u64,
    /// Tasks that succeeded.
    pub succeeded: u64,
    /// Tasks that failed for good; an image that is rejected counts as one, and is answered all the same.
    pub failed: u64,
    /// Why it failed or ended early, in S3's words.
    pub reasons: Vec<String>,
}

/// Whose backfill a job is; the beginning of its description.
fn title(stage: &str, input_bucket: &str) -> String {
    format!("giemsa backfill stage={stage} bucket={input_bucket} ")
}

impl BatchJobs {
    /// Jobs as `settings` say, of the account that they name.
    pub fn new(client: Client, settings: BatchSettings) -> Self {
        Self { client, settings }
    }

    /// Creates the job of a manifest, and returns its id; of a manifest that has one, that one.
    ///
    /// # Errors
    /// [`BackfillError::Job`] if S3 does not take it.
    pub async fn create(
        &self,
        manifest: &Manifest,
        stage: &str,
        input_bucket: &str,
        prefix: &str,
    ) -> Result<String, BackfillError> {
        let BatchSettings { account_id, role_arn, function_arn, .. } = &self.settings;
        let lambda =
            LambdaInvokeOperation::builder().function_arn(function_arn).invocation_schema_version("2.0");
        let operation = JobOperation::builder().lambda_invoke(lambda.build()).build();
        let report = JobReport::builder()
            .bucket(format!("arn:aws:s3:::{}", manifest.bucket))
            .prefix(manifest.report_prefix())
            .format(JobReportFormat::ReportCsv20180820)
            .report_scope(JobReportScope::FailedTasksOnly)
            .enabled(true)
            .build();
        // The token is of all that makes the job; a request that is sent again, with its answer lost, names the same job.
        let token =
            sha256_of_parts([&*manifest.bucket, &*manifest.id, &*manifest.etag, stage, &**function_arn]);
        let description: String =
            format!("{}prefix={prefix}", title(stage, input_bucket)).chars().take(MAX_DESCRIPTION).collect();
        let created = self
            .client
            .create_job()
            .account_id(account_id)
            .confirmation_required(false)
            .operation(operation)
            .report(report)
            .client_request_token(token)
            .manifest(location_of(manifest))
            .description(description)
            .priority(PRIORITY)
            .role_arn(role_arn)
            .tags(tag("giemsa:stage", stage))
            .tags(tag("giemsa:backfill", &manifest.id))
            .send()
            .await
            .map_err(|error| failed("a job cannot be created", &error))?;
        created.job_id.ok_or_else(|| BackfillError::Job {
            what: "a job cannot be created".to_owned(),
            detail: "S3 named no job".to_owned(),
        })
    }

    /// What S3 says of a job now.
    ///
    /// # Errors
    /// [`BackfillError::Job`] if there is no such job, or it is none of this project's backfills.
    pub async fn describe(&self, job_id: &str) -> Result<JobState, BackfillError> {
        let what = || format!("job {job_id} cannot be looked at");
        let request = self.client.describe_job().account_id(&self.settings.account_id).job_id(job_id);
        let answer = request.send().await.map_err(|error| failed(&what(), &error))?;
        let job = answer
            .job
            .ok_or_else(|| BackfillError::Job { what: what(), detail: "S3 said nothing of it".to_owned() })?;
        let function = job.operation.as_ref().and_then(|operation| operation.lambda_invoke.as_ref());
        let function = function.and_then(|lambda| lambda.function_arn.as_deref());
        if function != Some(self.settings.function_arn.as_str()) {
            return Err(BackfillError::ForeignJob {
                job_id: job_id.to_owned(),
                found: function.unwrap_or("no function").to_owned(),
                expected: self.settings.function_arn.clone(),
            });
        }
        let reasons = job.failure_reasons().iter().map(|reason| {
            let parts = [reason.failure_code(), reason.failure_reason()];
            parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
        });
        let reasons = reasons.chain(job.status_update_reason().map(str::to_owned)).collect();
        Ok(state_of(job_id, job.status(), job.progress_summary(), reasons))
    }

    /// The backfill of `stage` that is not over yet, if there is one.
    ///
    /// # Errors
    /// [`BackfillError::Job`] if the account's jobs cannot be listed.
    pub async fn running(&self, stage: &str, input_bucket: &str) -> Result<Option<JobState>, BackfillError> {
        let request = self.client.list_jobs().account_id(&self.settings.account_id).max_results(1000);
        let unfinished = STATUSES_BEFORE_THE_END.to_vec();
        let mut pages = request.set_job_statuses(Some(unfinished)).into_paginator().send();
        let title = title(stage, input_bucket);
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed("the account's jobs cannot be listed", &error))?;
            let mut jobs = page.jobs().iter();
            let found = jobs.find(|job| {
                // S3 drops spaces at the end, which an empty prefix does not leave; the title is followed by one.
                job.description().is_some_and(|d| d.starts_with(&title)) && !job.status().is_some_and(is_over)
            });
            if let Some(job) = found {
                let job_id = job.job_id().unwrap_or_default();
                return Ok(Some(state_of(job_id, job.status(), job.progress_summary(), Vec::new())));
            }
        }
        Ok(None)
    }

    /// Ends a job: what it has begun is finished, nothing more is.
    ///
    /// # Errors
    /// [`BackfillError::Job`] if S3 does not take it, [`BackfillError::ForeignJob`] if it is none of this project's.
    pub async fn cancel(&self, job_id: &str) -> Result<(), BackfillError> {
        if self.describe(job_id).await?.is_over {
            return Ok(());
        }
        let request = self.client.update_job_status().account_id(&self.settings.account_id).job_id(job_id);
        let request = request.requested_job_status(RequestedJobStatus::Cancelled);
        let sent = request.status_update_reason("giemsa backfill --stop").send().await;
        sent.map(drop).map_err(|error| failed(&format!("job {job_id} cannot be cancelled"), &error))
    }
}

/// Statuses of a job that still does or will do something.
const STATUSES_BEFORE_THE_END: &[JobStatus] = &[
    JobStatus::New,
    JobStatus::Preparing,
    JobStatus::Suspended,
    JobStatus::Ready,
    JobStatus::Active,
    JobStatus::Pausing,
    JobStatus::Paused,
    JobStatus::Completing,
];

fn is_over(status: &JobStatus) -> bool {
    matches!(status, JobStatus::Complete | JobStatus::Failed | JobStatus::Cancelled)
}

fn state_of(
    job_id: &str,
    status: Option<&JobStatus>,
    progress: Option<&JobProgressSummary>,
    reasons: Vec<String>,
) -> JobState {
    let count = |of: fn(&JobProgressSummary) -> Option<i64>| {
        progress.and_then(of).and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
    };
    JobState {
        job_id: job_id.to_owned(),
        status: status.map_or("unknown", JobStatus::as_str).to_owned(),
        is_over: status.is_some_and(is_over),
        total: count(JobProgressSummary::total_number_of_tasks),
        succeeded: count(JobProgressSummary::number_of_tasks_succeeded),
        failed: count(JobProgressSummary::number_of_tasks_failed),
        reasons,
    }
}

fn location_of(manifest: &Manifest) -> JobManifest {
    let fields = [JobManifestFieldName::Bucket, JobManifestFieldName::Key, JobManifestFieldName::VersionId];
    let spec = JobManifestSpec::builder()
        .format(JobManifestFormat::S3BatchOperationsCsv20180820)
        .set_fields(Some(fields.to_vec()))
        .build()
        .expect("the format is set");
    let location = JobManifestLocation::builder()
        .object_arn(format!("arn:aws:s3:::{}/{}", manifest.bucket, Manifest::key_of(&manifest.id)))
        .e_tag(&manifest.etag)
        .build()
        .expect("object and ETag are set");
    JobManifest::builder().spec(spec).location(location).build()
}

fn tag(key: &str, value: &str) -> S3Tag {
    S3Tag::builder().key(key).value(value).build().expect("key and value are set")
}

fn failed<E>(what: &str, error: &SdkError<E>) -> BackfillError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let detail = DisplayErrorContext(error).to_string();
    BackfillError::Job { what: what.to_owned(), detail }
}

/// A client of S3 Control, where jobs of S3 Batch Operations are made, by the SDK's standard environment.
pub async fn control_client() -> aws_sdk_s3control::Client {
    let config = aws_sdk_s3control::config::Builder::from(&giemsa_store::aws::sdk_config().await);
    let config = match giemsa_config::own_control_endpoint() {
        Some(url) => config.endpoint_resolver(OneHost { url }),
        None => config,
    };
    aws_sdk_s3control::Client::from_conf(config.build())
}

/// A server other than AWS has one host name, while S3 Control puts the account before it.
#[derive(Debug)]
struct OneHost {
    url: String,
}

impl aws_sdk_s3control::config::endpoint::ResolveEndpoint for OneHost {
    fn resolve_endpoint<'a>(
        &'a self,
        _: &'a aws_sdk_s3control::config::endpoint::Params,
    ) -> aws_sdk_s3control::config::endpoint::EndpointFuture<'a> {
        let endpoint = aws_sdk_s3control::config::endpoint::Endpoint::builder().url(self.url.clone()).build();
        aws_sdk_s3control::config::endpoint::EndpointFuture::ready(Ok(endpoint))
    }
}
