//! `giemsa results show`: one image. An image without a result is a failure that says what to do.

use std::io::Write;

use anyhow::anyhow;
use giemsa_config::stages_of_command;
use giemsa_core::record::Record;
use giemsa_store::{ImageHistory, Withdrawal, WithdrawalAction};
use serde_json::json;

use super::super::Failed;
use super::super::form::{Form, FormArguments};
use super::super::model::{PROD, print};
use super::super::output::printable;
use super::pages::failed;
use super::rows::{Rows, answer_and_remark, shown_minute};
use super::{deployment_of, image_named};

#[derive(Debug, clap::Args)]
pub struct ShowArguments {
    /// Key of the image in the input bucket, or s3://<bucket>/<key>.
    key: String,
    #[command(flatten)]
    form: FormArguments,
}

/// Shows an image.
pub(super) async fn run(arguments: &ShowArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let deployment = deployment_of(PROD).await?;
    let (bucket, key) = image_named(&arguments.key, &deployment);
    let stages = stages_of_command().map_err(|error| Failed::Usage(error.into()))?;
    let history = deployment.table.image(bucket, key, &stages).await.map_err(failed)?;
    if history.results.is_empty() {
        return Err(Failed::Work(anyhow!(
            "s3://{bucket}/{key} has no result; expected the key of an image that was answered: `giemsa results list` \
             shows keys, `giemsa reconcile --prefix '{key}'` shows why an upload has no answer"
        )));
    }
    match form {
        Form::Json => {
            let ImageHistory { results, reviews, verdict, withdrawals, .. } = history;
            let document = json!({
                "bucket": bucket, "key": key, "results": results, "reviews": reviews, "verdict": verdict,
                "withdrawals": withdrawals,
            });
            print(true, &document, |_| String::new())
        }
        Form::Csv(_) => {
            let mut rows = Rows::new(std::io::stdout().lock(), form)?;
            for record in history.results {
                rows.write(record)?;
            }
            rows.finish()?.flush().map_err(anyhow::Error::from)?;
            Ok(())
        }
        Form::Table => {
            writeln!(std::io::stdout().lock(), "{}", shown(&history)).map_err(anyhow::Error::from)?;
            Ok(())
        }
    }
}

fn shown(history: &ImageHistory) -> String {
    let mut lines = Vec::new();
    if let Some(record) = history.results.first() {
        lines.push(printable(&record.image.key));
    }
    for record in &history.results {
        lines.push(String::new());
        lines.extend(shown_result(record));
    }
    if !history.reviews.is_empty() {
        lines.push("\nreviews".to_owned());
    }
    for review in &history.reviews {
        let note = review.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        let text = format!("{} by {}{note}", review.label, review.reviewer);
        lines.push(format!("  {}  {}", shown_minute(Some(review.reviewed_at)), printable(&text)));
    }
    if let Some(verdict) = &history.verdict {
        let text = format!("{} (by {})", verdict.label, verdict.reviewer);
        lines.push(format!("verdict       {}", printable(&text)));
    }
    if !history.withdrawals.is_empty() {
        lines.push("\nwithdrawals".to_owned());
    }
    for Withdrawal { action, reason, by, at, object_version, .. } in &history.withdrawals {
        let done = match action {
            WithdrawalAction::Withdraw => "withdrawn",
            WithdrawalAction::Restore => "restored",
        };
        let text = format!("{done} by {by}: {reason} (version {object_version})");
        lines.push(format!("  {}  {}", shown_minute(Some(*at)), printable(&text)));
    }
    lines.join("\n")
}

fn shown_result(record: &Record) -> Vec<String> {
    let (answer, remark) = answer_and_remark(record);
    let confidence = record.confidence.map(|c| format!("  {:.1} %", 100.0 * c)).unwrap_or_default();
    let mut lines =
        vec![format!("stage         {}", record.stage), format!("answer        {answer}{confidence}")];
    let mut add = |name: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("{name:<13} {}", printable(&text)));
        }
    };
    add("remark", remark);
    let probabilities = record.probabilities.iter().flatten();
    let probabilities: Vec<String> =
        probabilities.map(|(label, p)| format!("{label} {:.1} %", 100.0 * p)).collect();
    add("probabilities", probabilities.join(", "));
    let outlier = record.outlier_score.map(|score| {
        format!(
            "score {score}{}",
            if record.outlier == Some(true) { ", above the model's limit" } else { "" }
        )
    });
    add("outlier", outlier.unwrap_or_default());
    let model = &record.model;
    add("model", format!("{} {} ({})", model.name, model.version, model.sha256));
    let image = &record.image;
    let sides = image.width_px.zip(image.height_px).map(|(w, h)| format!("{w} x {h} px"));
    let size = image.size_bytes.map(|size| format!("{size} bytes"));
    let facts: Vec<String> = [image.format.clone(), sides, size].into_iter().flatten().collect();
    add("image", facts.join(", "));
    add("version", image.object_version().to_owned());
    add("uploaded", shown_minute(image.uploaded_at));
    add("classified", shown_minute(record.classified_at));
    if let Some(t) = record.timings_ms {
        let steps =
            [("fetch", t.fetch), ("decode", t.decode), ("preprocess", t.preprocess), ("infer", t.infer)];
        add("timings", steps.map(|(name, ms)| format!("{name} {ms:.1} ms")).join(", "));
    }
    add("result id", record.result_id.clone());
    lines
}
