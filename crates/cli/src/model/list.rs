//! `giemsa model list`: the models in the model bucket.
//!
//! A model of a stage is named by the digest of its bytes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use giemsa_core::gate_report::{GateReport, report_key};
use giemsa_core::record::ModelInfo;
use giemsa_ops::release::ReportState;
use giemsa_store::FileFacts;
use serde::Serialize;

use super::super::{Failed, output};
use super::{Deployment, PROD, info_of, print, short, shown_size, shown_time};

/// One model of the bucket.
#[derive(Debug, Serialize)]
struct Listed {
    model: ModelInfo,
    size_bytes: u64,
    /// Stages that have it.
    stages: Vec<String>,
    /// Since when it is in the first of them, or in the archive.
    since: DateTime<Utc>,
    archived: bool,
    report: ReportState,
}

/// Lists the bucket.
pub async fn run(json: bool) -> Result<(), Failed> {
    let deployment = Deployment::of_environment(PROD).await?;
    let models = list(&deployment).await?;
    print(json, &models, |models| {
        let mut table =
            output::new_table(["model", "sha256", "size", "stages", "archived", "golden set", "since"]);
        for listed in models {
            table.add_row([
                output::printable(&format!("{} {}", listed.model.name, listed.model.version)),
                short(&listed.model.sha256).to_owned(),
                shown_size(listed.size_bytes),
                listed.stages.join(", "),
                if listed.archived { "yes" } else { "no" }.to_owned(),
                match &listed.report {
                    ReportState::Passed => "passed".to_owned(),
                    ReportState::Waived => "failed, waived".to_owned(),
                    ReportState::Failed(_) => "failed".to_owned(),
                    ReportState::Missing => "no report".to_owned(),
                },
                shown_time(listed.since),
            ]);
        }
        table.trim_fmt()
    })
}

async fn list(deployment: &Deployment) -> anyhow::Result<Vec<Listed>> {
    let mut by_digest: BTreeMap<String, Listed> = BTreeMap::new();
    let files = deployment.models.list("").await?;
    for file in &files {
        if let Some(stage) = file.key.strip_suffix("/model.onnx").filter(|stage| !stage.contains('/')) {
            // It may be replaced between the listing and this.
            let Some(found) = deployment.models.get(&file.key).await? else { continue };
            let model = info_of(&found.bytes, &deployment.load_limits());
            let listed = by_digest.entry(model.sha256.clone()).or_insert_with(|| listed(model, &found.facts));
            listed.stages.push(stage.to_owned());
        }
    }
    for file in &files {
        let digest = file.key.strip_prefix("archive/").and_then(|name| name.strip_suffix(".onnx"));
        let Some(sha256) = digest else { continue };
        let model = ModelInfo { name: String::new(), version: String::new(), sha256: sha256.to_owned() };
        let listed = by_digest.entry(sha256.to_owned()).or_insert_with(|| listed(model, file));
        listed.archived = true;
    }
    let releaser = deployment.releaser();
    let mut models = Vec::with_capacity(by_digest.len());
    for (_, mut listed) in by_digest {
        listed.report = releaser.report_state(&listed.model.sha256).await?;
        if listed.model.name.is_empty() {
            listed.model = named(deployment, listed.model).await?;
        }
        models.push(listed);
    }
    // Production first, then what may come next, then the archive, newest first.
    models.sort_by_key(|m| {
        let rank = if m.stages.iter().any(|s| s == PROD) { 0 } else { usize::from(m.stages.is_empty()) + 1 };
        (rank, std::cmp::Reverse(m.since))
    });
    Ok(models)
}

fn listed(model: ModelInfo, file: &FileFacts) -> Listed {
    Listed {
        model,
        size_bytes: file.size_bytes,
        stages: Vec::new(),
        since: file.modified_at,
        archived: false,
        report: ReportState::Missing,
    }
}

/// The name of an archived model, by its report, which is smaller than the model.
async fn named(deployment: &Deployment, model: ModelInfo) -> anyhow::Result<ModelInfo> {
    let report = deployment.models.get(&report_key(&model.sha256)).await?;
    let report = report.and_then(|file| serde_json::from_slice::<GateReport>(&file.bytes).ok());
    if let Some((name, version)) = report.and_then(|report| report.model.name.zip(report.model.version)) {
        return Ok(ModelInfo { name, version, ..model });
    }
    let file = deployment.models.get(&giemsa_core::gate_report::archive_key(&model.sha256)).await?;
    Ok(file.map_or_else(
        || model.clone(),
        |file| ModelInfo { sha256: model.sha256.clone(), ..info_of(&file.bytes, &deployment.load_limits()) },
    ))
}
