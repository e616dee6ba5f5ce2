//! Whether a stage may serve a model: by its golden report, or without one.
//!
//! Where a report is required, a model without one that has its digest is not accepted.

use chrono::{DateTime, Utc};

use giemsa_config::GatePolicy;
use giemsa_core::gate_report::{report_key, report_page_key};
use giemsa_store::{BucketError, ModelBucket};

/// Why a model is not accepted now.
#[derive(Debug)]
pub(super) enum NotAccepted {
    /// By its report, or because it has none; says what to do.
    Refused(String),
    /// The report could not be asked for.
    Unreachable(BucketError),
}

/// Asks whether `stage` may serve the model of the digest `sha256`, and since when: when its report was written, where one
/// is asked for.
pub(super) async fn check(
    bucket: &ModelBucket,
    stage: &str,
    policy: GatePolicy,
    sha256: &str,
) -> Result<Option<DateTime<Utc>>, NotAccepted> {
    if policy == GatePolicy::Off {
        return Ok(None);
    }
    let (key, dev) = (report_key(sha256), bucket.location("dev/model.onnx"));
    let again = format!("delete the report and copy the model to {dev}, to have it tried again");
    let (report, reported_at) = match bucket.read_report(sha256).await.map_err(NotAccepted::Unreachable)? {
        Some((Ok(report), reported_at)) => (report, reported_at),
        Some((Err(error), _)) => {
            let detail = format!("its golden report {key} cannot be read ({error}); {again}");
            return Err(NotAccepted::Refused(detail));
        }
        None => {
            return Err(NotAccepted::Refused(format!(
                "it was not tried on the golden set, there is no {key}; copy it to {dev}, and it serves in {stage} once \
                 its report has passed"
            )));
        }
    };
    if report.model.sha256 != sha256 {
        let other = &report.model.sha256;
        let detail = format!("its golden report {key} is of another model (sha256 {other}); {again}");
        return Err(NotAccepted::Refused(detail));
    }
    if !report.lets_serve() {
        return Err(NotAccepted::Refused(format!(
            "it failed on the golden set: {} (see {}); copy a better model to {dev}",
            report.failures.join("; "),
            report_page_key(sha256),
        )));
    }
    Ok(Some(reported_at))
}
