//! `giemsa reclassify`: answers the images of one model again with the model that the stage has now.
//!
//! It leaves out images whose current result another model made. Interrupted at any moment and run again, it continues
//! with the rest.

use anyhow::{Context, anyhow};
use giemsa::pipeline::Pipeline;
use giemsa::reclassify::{Reclassified, reclassify};
use giemsa_store::AnsweredQuery;
use serde::Serialize;

use super::model::{Deployment, print};
use super::{Failed, ReclassifyArguments, complain, output};

/// Images named that are not answered.
const SHOWN_IMAGES: usize = 10;

#[derive(Debug, Serialize)]
struct Done {
    stage: String,
    from_sha256: String,
    to_sha256: String,
    /// Images that had a result of the old model at the start.
    found: u64,
    #[serde(flatten)]
    images: Reclassified,
}

/// Answers images again.
pub async fn run(arguments: &ReclassifyArguments) -> Result<(), Failed> {
    let sha256 = arguments.model_digest.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failed::Usage(anyhow!(
            "--model-digest is {:?}; expected the 64 hexadecimal digits of a sha256 (giemsa model list --json)",
            arguments.model_digest
        )));
    }
    let deployment = Deployment::of_environment(&arguments.stage).await?;
    let query = AnsweredQuery { stage: arguments.stage.clone(), sha256, since: arguments.since };
    let found = deployment.table.count_answered(&query).await.map_err(anyhow::Error::from)?;
    let pipeline = Pipeline::new(deployment.config.clone(), deployment.clients.clone());
    let to_sha256 = pipeline.model_digest().await.map_err(|error| anyhow!("{error}"))?;
    if to_sha256 == query.sha256 {
        return Err(Failed::Work(anyhow!(
            "{} already serves this model, so the answers would be the same; promote another one first",
            query.stage
        )));
    }
    let bar = output::progress("answered", usize::try_from(found).unwrap_or(usize::MAX));
    let images = if arguments.dry_run {
        Reclassified::default()
    } else {
        let done =
            reclassify(&deployment.table, &pipeline, &query, |done| bar.set_position(done.total())).await;
        done.context("answers so far stay; run the command again to continue")?
    };
    bar.finish_and_clear();
    for unanswered in images.unanswered.iter().take(SHOWN_IMAGES) {
        complain(&format!("giemsa: {}: {}", unanswered.image.key, unanswered.reason));
    }
    let done = Done { stage: query.stage, from_sha256: query.sha256, to_sha256, found, images };
    print(arguments.json, &done, |done| {
        let (from, to) = (&done.from_sha256[..12], &done.to_sha256[..12]);
        if arguments.dry_run {
            return format!(
                "{} images have their result from {from}; {to} would answer them again",
                done.found
            );
        }
        let Reclassified { classified, rejected, skipped, unanswered } = &done.images;
        format!(
            "{classified} images classified and {rejected} rejected by {to} instead of {from}; {skipped} skipped, {} left",
            unanswered.len()
        )
    })?;
    match done.images.unanswered.len() {
        0 => Ok(()),
        left => Err(Failed::Work(anyhow!(
            "{left} images keep their old result; run the command again to retry \
                them"
        ))),
    }
}
