//! Whether a stage may serve a model: by its golden report, or without one.
//!
//! It never loads a model, and reads only the small report. Invariant: where a report is required, a model without one
//! that says so in its own name (its digest) is not accepted.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use chrono::{DateTime, Utc};

use super::Registry;
use crate::config::GatePolicy;
use crate::model::{GateReport, report_key, report_page_key};

/// What a stage asks of a model beside that it loads.
#[derive(Debug)]
pub(super) struct Acceptance {
    s3: Client,
    bucket: String,
    stage: String,
    policy: GatePolicy,
}

/// Why a model is not accepted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotAccepted {
    /// By its report, or because it has none; says what to do.
    Refused(String),
    /// The report could not be asked for.
    Unreachable(String),
}

impl Registry {
    /// Why the file in the stage's place does not serve, if it is refused; `None` also while it is being looked at.
    pub fn refusal(&self) -> Option<String> {
        self.state.try_lock().ok()?.refusal.clone()
    }
}

impl Acceptance {
    pub(super) fn new(s3: Client, bucket: &str, stage: &str, policy: GatePolicy) -> Self {
        Self { s3, bucket: bucket.to_owned(), stage: stage.to_owned(), policy }
    }

    /// Asks whether the model of the digest `sha256` may serve, and since when: when its report was written, where one
    /// is asked for.
    pub(super) async fn check(&self, sha256: &str) -> Result<Option<DateTime<Utc>>, NotAccepted> {
        if self.policy == GatePolicy::Off {
            return Ok(None);
        }
        let key = report_key(sha256);
        let refused = |detail: String| Err(NotAccepted::Refused(detail));
        let found = match self.s3.get_object().bucket(&self.bucket).key(&key).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => {
                return refused(format!(
                    "it was not tried on the golden set, there is no {key}; copy it to s3://{}/dev/model.onnx, and it \
                     serves in {} once its report has passed",
                    self.bucket, self.stage
                ));
            }
            Err(error) => return Err(self.unreachable(&key, &DisplayErrorContext(&error))),
        };
        let reported_at =
            found.last_modified().and_then(|at| DateTime::from_timestamp(at.secs(), at.subsec_nanos()));
        let json = found.body.collect().await.map_err(|error| self.unreachable(&key, &error))?.into_bytes();
        let report: GateReport = match serde_json::from_slice(&json) {
            Ok(report) => report,
            Err(error) => {
                return refused(format!(
                    "its golden report {key} cannot be read ({error}); delete the report and copy the model to \
                     s3://{}/dev/model.onnx, to have it tried again",
                    self.bucket
                ));
            }
        };
        if report.model.sha256 != sha256 {
            return refused(format!(
                "its golden report {key} is of another model (sha256 {}); delete the report and copy the model to \
                 s3://{}/dev/model.onnx, to have it tried again",
                report.model.sha256, self.bucket
            ));
        }
        if !report.lets_serve() {
            return refused(format!(
                "it failed on the golden set: {} (see {}); copy a better model to s3://{}/dev/model.onnx",
                report.failures.join("; "),
                report_page_key(sha256),
                self.bucket
            ));
        }
        Ok(reported_at)
    }

    fn unreachable(&self, key: &str, detail: &dyn std::fmt::Display) -> NotAccepted {
        NotAccepted::Unreachable(format!("its golden report s3://{}/{key}: {detail}", self.bucket))
    }
}
