//! The golden set: which objects belong to it, and what models answer to its images.
//!
//! It does not know where an image's bytes come from, so that the gate function and `giemsa model
//! check` share it. Every image and model has one answer or one reason for having none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::analysis::{Analysis, analyse_image};
use giemsa_config::Limits;
use giemsa_core::digest::sha256_of_parts;
use giemsa_core::gate_report::GoldenSummary;
use giemsa_core::gate_rules::RULES_KEY;
use giemsa_core::object::is_system_file;
use giemsa_core::record::{Finding, Reject};
use giemsa_image::DecodeLimits;
use giemsa_model::{Answered, GoldenAnswer, Model, Unanswered, panic_message};

/// Prefix of the golden set in the model bucket.
pub const GOLDEN_PREFIX: &str = "golden/";

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoldenImage {
    /// Its key in the model bucket, `golden/<label>/<image>`.
    pub key: String,
    /// The label it stands under.
    pub label: String,
    /// ETag without quotes: another content, another ETag.
    pub etag: String,
}

/// The golden set as it was listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GoldenSet {
    /// The images, by key.
    pub images: Vec<GoldenImage>,
    /// ETag of `golden/gate.json`, if there is one.
    pub rules_etag: Option<String>,
}

impl GoldenSet {
    /// Sorts out what is in the bucket: keys with their ETags, without quotes.
    ///
    /// Images are `golden/<label>/<image>`, in folders too. What lies directly under `golden/` is not an image, and neither
    /// are folder markers, hidden files and system files.
    pub fn of(objects: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut set = Self::default();
        for (key, etag) in objects {
            if key == RULES_KEY {
                set.rules_etag = Some(etag);
            } else if let Some((label, name)) =
                key.strip_prefix(GOLDEN_PREFIX).and_then(|path| path.split_once('/'))
            {
                let file = name.rsplit('/').next().unwrap_or_default();
                if !label.is_empty() && !file.is_empty() && !file.starts_with('.') && !is_system_file(&key) {
                    set.images.push(GoldenImage { label: label.to_owned(), key, etag });
                }
            }
        }
        set.images.sort_unstable();
        set
    }

    /// What identifies it, and how many images of each label are in it.
    pub fn summary(&self) -> GoldenSummary {
        let rules = self.rules_etag.iter().flat_map(|etag| [RULES_KEY, etag.as_str()]);
        let images = self.images.iter().flat_map(|image| [image.key.as_str(), image.etag.as_str()]);
        let mut summary =
            GoldenSummary { digest: sha256_of_parts(rules.chain(images)), ..GoldenSummary::default() };
        for image in &self.images {
            *summary.images.entry(image.label.clone()).or_default() += 1;
        }
        summary
    }
}

/// What reading a golden image gives: its bytes, or why it can have no answer.
pub type GoldenBytes = Result<Bytes, Unanswered>;

/// Lets each of `models` answer each of `images`, and returns their answers, model by model, in the order of the images.
///
/// Several images are read at once, and as many are analysed as there are processors, within `limits`.
///
/// # Errors
/// What `read` returns as an error; an image that `read` gives no bytes for is an answer of its own.
pub async fn answer_golden<E, F>(
    images: &[GoldenImage],
    read: impl Fn(&GoldenImage) -> F,
    models: &[Arc<Model>],
    limits: &Limits,
) -> Result<Vec<Vec<GoldenAnswer>>, E>
where
    E: Send,
    F: Future<Output = Result<GoldenBytes, E>> + Send,
{
    let permits = &Semaphore::new(limits.cpus.get());
    let candidates: Vec<Candidate> = models
        .iter()
        .map(|model| Candidate { model: model.clone(), hangs: AtomicBool::new(false) })
        .collect();
    let candidates = &candidates[..];
    // Each future is boxed because it is large, and many of them wait.
    let futures: Vec<BoxFuture<'_, Result<Vec<GoldenAnswer>, E>>> = images
        .iter()
        .map(|image| {
            let bytes = read(image);
            async move {
                let bytes = bytes.await?;
                let mut answers = Vec::with_capacity(candidates.len());
                for candidate in candidates {
                    let answer = match &bytes {
                        Ok(bytes) => candidate.answer(bytes.clone(), permits, limits).await,
                        Err(reason) => Err(reason.clone()),
                    };
                    let (key, expected) = (image.key.clone(), image.label.clone());
                    answers.push(GoldenAnswer { key, expected, answer });
                }
                Ok(answers)
            }
            .boxed()
        })
        .collect();
    let by_image: Vec<Vec<GoldenAnswer>> =
        stream::iter(futures).buffered(limits.fetch_concurrency.get()).try_collect().await?;
    let mut by_model: Vec<Vec<GoldenAnswer>> = models.iter().map(|_| Vec::new()).collect();
    for answers in by_image {
        by_model.iter_mut().zip(answers).for_each(|(of_model, answer)| of_model.push(answer));
    }
    Ok(by_model)
}

/// A model that is tried.
struct Candidate {
    model: Arc<Model>,
    /// Whether it did not end in time on an image. It is not asked again: each time would cost a thread for ever.
    hangs: AtomicBool,
}

impl Candidate {
    async fn answer(
        &self,
        bytes: Bytes,
        permits: &Semaphore,
        limits: &Limits,
    ) -> Result<Answered, Unanswered> {
        let unanswered = |code: &str, message: String| Unanswered { code: code.to_owned(), message };
        let _permit = permits.acquire().await.expect("the semaphore is never closed");
        if self.hangs.load(Ordering::Relaxed) {
            let message = "not tried, because the model did not end in time on another image".to_owned();
            return Err(unanswered("image_timeout", message));
        }
        let (model, decode_limits) = (self.model.clone(), DecodeLimits::of(limits));
        let work = tokio::task::spawn_blocking(move || analyse_image(&bytes, &model, &decode_limits));
        match timeout(limits.image_timeout, work).await {
            Ok(Ok(Ok(analysis))) => answered_of(analysis),
            Ok(Ok(Err(error))) => Err(unanswered("network_failed", error.to_string())),
            Ok(Err(join_error)) => {
                let message =
                    join_error.try_into_panic().map(|panic| panic_message(&*panic)).unwrap_or_default();
                Err(unanswered("network_failed", format!("the analysis panicked: {message}")))
            }
            Err(_) => {
                self.hangs.store(true, Ordering::Relaxed);
                let limit_ms = limits.image_timeout.as_millis();
                Err(unanswered(
                    "image_timeout",
                    format!("it took more than {limit_ms} ms (GIEMSA_IMAGE_TIMEOUT_MS)"),
                ))
            }
        }
    }
}

fn answered_of(analysis: Analysis) -> Result<Answered, Unanswered> {
    let times = analysis.timings_ms;
    match analysis.finding {
        Finding::Classified(decision) => Ok(Answered {
            label: decision.label,
            confidence: decision.confidence,
            needs_review: decision.review_reason.is_some(),
            milliseconds: times.decode + times.preprocess + times.infer,
        }),
        Finding::Rejected(Reject { code, message }) => Err(Unanswered { code, message }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &[(&str, &str)]) -> GoldenSet {
        GoldenSet::of(keys.iter().map(|(key, etag)| ((*key).to_owned(), (*etag).to_owned())))
    }

    #[test]
    fn only_images_in_the_folder_of_a_label_count() {
        let found = set(&[
            ("golden/well/b.png", "1"),
            ("golden/sick/scope-a/a.png", "2"),
            ("golden/README.md", "3"),
            ("golden/gate.json", "4"),
            ("golden/sick/", "5"),
            ("golden/sick/.DS_Store", "6"),
            ("golden/sick/Thumbs.db", "6"),
            ("golden//x.png", "7"),
            ("reports/x.json", "8"),
        ]);
        let images: Vec<(&str, &str)> =
            found.images.iter().map(|image| (image.key.as_str(), image.label.as_str())).collect();
        assert_eq!(images, [("golden/sick/scope-a/a.png", "sick"), ("golden/well/b.png", "well")]);
        assert_eq!(found.rules_etag.as_deref(), Some("4"));
        assert_eq!(found.summary().images, [("sick".to_owned(), 1), ("well".to_owned(), 1)].into());
    }

    #[test]
    fn another_content_name_or_rule_is_another_set() {
        let digest = |keys: &[(&str, &str)]| set(keys).summary().digest;
        let first = digest(&[("golden/a/1.png", "x"), ("golden/a/2.png", "y")]);
        assert_eq!(
            first,
            digest(&[("golden/a/2.png", "y"), ("golden/a/1.png", "x"), ("golden/README.md", "z")])
        );
        for other in [
            &[("golden/a/1.png", "x"), ("golden/a/2.png", "z")][..],
            &[("golden/a/1.png", "x"), ("golden/b/2.png", "y")],
            &[("golden/a/1.png", "x")],
            &[("golden/a/1.png", "x"), ("golden/a/2.png", "y"), ("golden/gate.json", "r")],
        ] {
            assert_ne!(first, digest(other), "{other:?}");
        }
    }
}
