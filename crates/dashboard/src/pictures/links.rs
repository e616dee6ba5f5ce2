//! Signed links to images and to their thumbnails.
//!
//! It never signs for another bucket than the input bucket, but for thumbnails that it made itself, whose names no
//! request chooses. A link is to an image that was there, answers with the type that its content has, and never with
//! one that a browser would run.

use std::sync::Arc;

use aws_sdk_s3::presigning::PresigningConfig;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, timeout_at};

use crate::Dashboard;
use crate::pictures::{NoPicture, Source};
use crate::pictures::{signing, thumbnails};
use crate::request::parameters::JsonBody;
use crate::request::problem::Problem;
use giemsa_core::object::MAX_KEY_BYTES;
use giemsa_image::Peek;

/// Images of one request.
const MAX_IMAGES: usize = 100;

/// Longest wait that a request may ask for; without one it waits until all are made.
const MAX_WAIT_MS: u64 = 60_000;

/// Images looked up at once for one request.
const CONCURRENCY: usize = 16;

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/links", post(sign_links))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    images: Vec<WantedImage>,
    kind: Kind,
    /// How long to wait for thumbnails that have to be made; later ones are answered as pending, and go on being made.
    #[serde(default)]
    wait_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedImage {
    key: String,
    #[serde(default)]
    version_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum Kind {
    Image,
    Thumbnail,
}

/// A link, or why there is none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Link {
    Signed {
        key: String,
        version_id: Option<String>,
        url: String,
        expires_at: DateTime<Utc>,
    },
    /// Asked for again a moment later, it is there.
    Pending {
        key: String,
        pending: bool,
        problem: Value,
    },
    None {
        key: String,
        problem: Value,
    },
}

async fn sign_links(
    State(dashboard): State<Arc<Dashboard>>,
    JsonBody(Wanted { images, kind, wait_ms }): JsonBody<Wanted>,
) -> Result<Json<Value>, Problem> {
    if images.is_empty() || images.len() > MAX_IMAGES {
        let detail = format!("images holds {}; expected 1 to {MAX_IMAGES} a request", images.len());
        return Err(Problem::bad_parameter("images", detail));
    }
    let config = signing::shared(dashboard.limits.link_lifetime);
    let until = wait_ms.map(|wait_ms| Instant::now() + Duration::from_millis(wait_ms.min(MAX_WAIT_MS)));
    let links = stream::iter(images).map(|image| {
        let (dashboard, config) = (dashboard.clone(), config.clone());
        async move {
            let key = image.key.clone();
            let signing = sign_link(&dashboard, image, kind, config);
            let signed = match until {
                Some(until) if kind == Kind::Thumbnail => match timeout_at(until, signing).await {
                    Ok(signed) => signed,
                    Err(_) => {
                        let problem =
                            json!({ "detail": "the thumbnail is being made; ask again in a second" });
                        return Ok(Link::Pending { key, pending: true, problem });
                    }
                },
                _ => signing.await,
            };
            match signed {
                Ok(link) => Ok(link),
                Err(NoPicture::Of(detail)) => Ok(Link::None { key, problem: json!({ "detail": detail }) }),
                Err(NoPicture::Failed(problem)) => Err(problem),
            }
        }
    });
    let links: Vec<Link> = links.buffered(CONCURRENCY).try_collect().await?;
    Ok(Json(json!({ "links": links })))
}

async fn sign_link(
    dashboard: &Arc<Dashboard>,
    image: WantedImage,
    kind: Kind,
    config: PresigningConfig,
) -> Result<Link, NoPicture> {
    let WantedImage { key, version_id } = image;
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(NoPicture::Of(
            "the key is empty or longer than 1024 bytes; S3 has no such keys".to_owned(),
        ));
    }
    let (source, peeked) = dashboard.peek_image(&key, version_id.as_deref()).await?;
    let expires_at = signing::end_of(&config);
    let url = match kind {
        Kind::Image if has_dot_parts(&key) => {
            let detail =
                "a browser cannot load a name with a part `.` or `..`; its tiles and thumbnail can be shown";
            return Err(NoPicture::Of(detail.to_owned()));
        }
        Kind::Image => sign_image(dashboard, &source, peeked, config).await?,
        Kind::Thumbnail => {
            let is_small = peeked.is_some_and(thumbnails::is_its_own) && !has_dot_parts(&key);
            if is_small {
                sign_image(dashboard, &source, peeked, config).await?
            } else {
                let made = thumbnails::ensure(dashboard, &source).await?;
                let get = dashboard.s3.get_object().bucket(&dashboard.buckets.results).key(made);
                let get = get.response_cache_control(signing::CACHE_CONTROL);
                get.presigned(config).await.map_err(cannot_sign)?.uri().to_owned()
            }
        }
    };
    Ok(Link::Signed { key, version_id: source.version_id, url, expires_at })
}

/// Signs a read of an image, as what its content is.
async fn sign_image(
    dashboard: &Dashboard,
    source: &Source,
    peeked: Option<Peek>,
    config: PresigningConfig,
) -> Result<String, NoPicture> {
    // What is not an image is saved, never shown: it may be a page with scripts.
    let (media_type, disposition) = match peeked {
        Some(Peek { format, .. }) => (format.media_type(), "inline"),
        None => ("application/octet-stream", "attachment"),
    };
    let get = dashboard.s3.get_object().bucket(&dashboard.buckets.input).key(&source.key);
    let get = get.set_version_id(source.version_id.clone());
    let get = get.response_content_type(media_type).response_content_disposition(disposition);
    let link = get.response_cache_control(signing::CACHE_CONTROL).presigned(config).await;
    Ok(link.map_err(cannot_sign)?.uri().to_owned())
}

fn cannot_sign(error: impl std::error::Error + 'static) -> NoPicture {
    NoPicture::Failed(signing::failed(&error))
}

/// Whether browsers would take the key for a path and shorten it.
fn has_dot_parts(key: &str) -> bool {
    key.split('/').any(|part| matches!(part, "." | ".."))
}
