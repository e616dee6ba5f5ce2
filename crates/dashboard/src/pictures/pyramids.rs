//! Tiles of large images: a Deep Zoom pyramid, made when its first tile is wanted and kept in the results bucket.
//!
//! It never decodes an image twice for its tiles. The mark of a pyramid is written after its last tile, so that a tile
//! that is not there beside it never was one.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::error::DisplayErrorContext;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Dashboard;
use crate::pictures::{NoPicture, Source, failed};
use crate::request::parameters::{Key, Query, Text, Whole};
use crate::request::problem::Problem;
use giemsa_config::PYRAMID_PREFIX;
use giemsa_image::pyramid::{OVERLAP_PX, TILE_SIZE_PX};
use giemsa_image::{Ended, JPEG_MEDIA_TYPE, Pyramid, TilePlace, render_pyramid};
use giemsa_store::is_gone;

/// Longest side of an image that the page shows as it is, pixels.
const WHOLE_IMAGE_PX: u32 = 2_048;

/// Greatest column or row that can be asked for.
const MAX_INDEX: u32 = 1 << 20;

/// How often a tile is looked for while its pyramid is made.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Tiles of an image may take this many times the time of one image: they are encoded and sent after it is decoded.
const TIMES_AN_IMAGE: u32 = 4;

/// Tiles on their way to S3 at once.
const UPLOADS_AT_ONCE: usize = 8;

/// How an image is asked for in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct DeepZoom {
    pub width: u32,
    pub height: u32,
    pub tile_size: u32,
    pub overlap: u32,
    pub max_level: u32,
}

impl DeepZoom {
    /// For an image of this size and format (as records name it), unless browsers show it well as it is.
    pub fn of(width_px: u32, height_px: u32, format: &str) -> Option<Self> {
        let is_wanted = width_px.max(height_px) > WHOLE_IMAGE_PX || format == "tiff";
        (is_wanted && width_px.min(height_px) > 0).then(|| Self {
            width: width_px,
            height: height_px,
            tile_size: TILE_SIZE_PX,
            overlap: OVERLAP_PX,
            max_level: Pyramid::new(width_px, height_px).max_level(),
        })
    }
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct TileQuery {
    key: Key,
    /// The S3 version; the current one unless it is given.
    version_id: Option<String>,
    /// 0 is one pixel.
    level: Whole<0, 32>,
    /// From the left.
    column: Whole<0, MAX_INDEX>,
    /// From the top.
    row: Whole<0, MAX_INDEX>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/image/tile", get(tile))
}

async fn tile(
    State(dashboard): State<Arc<Dashboard>>,
    headers: HeaderMap,
    Query(query): Query<TileQuery>,
) -> Result<Response, Problem> {
    let TileQuery { key: Text(key), version_id, level: Whole(level), column: Whole(column), row: Whole(row) } =
        query;
    let place = TilePlace { level, column, row };
    let source = dashboard.find_image(&key, version_id.as_deref()).await?;
    let name = source.picture_name(&dashboard.buckets.input);
    let etag = format!("\"{name}-{}-{}-{}\"", place.level, place.column, place.row);
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let mut found = read_tile(&dashboard, &name, place).await?;
    if found.is_none() {
        found = dashboard.make_tile(&source, &name, place).await?;
    }
    let Some(jpeg) = found else {
        let TilePlace { level, column, row } = place;
        let detail = format!(
            "the image has no tile {column}, {row} at level {level}; see its deep_zoom in /api/image"
        );
        return Err(Problem::not_found(detail));
    };
    // A version never changes. Without one the browser asks again whether it is still this image.
    let is_fixed = version_id.is_some() && source.version_id.is_some();
    let caching = if is_fixed { "private, max-age=86400, immutable" } else { "private, no-cache" };
    let headers = [(CONTENT_TYPE, JPEG_MEDIA_TYPE), (CACHE_CONTROL, caching), (ETAG, etag.as_str())];
    Ok((headers, jpeg).into_response())
}

fn tile_key(name: &str, TilePlace { level, column, row }: TilePlace) -> String {
    format!("{PYRAMID_PREFIX}/{name}/{level}/{column}_{row}.jpg")
}

impl Dashboard {
    /// A tile that is not there yet: of a pyramid that is made now, or of none.
    async fn make_tile(
        self: &Arc<Self>,
        source: &Source,
        name: &str,
        place: TilePlace,
    ) -> Result<Option<Bytes>, NoPicture> {
        let mut making = pin!(ensure(self, source, name));
        loop {
            match timeout(LOOK_AGAIN_AFTER, making.as_mut()).await {
                Ok(Err(none)) => return Err(none),
                Ok(Ok(Made::Before)) => return Ok(None),
                Ok(Ok(Made::Now)) => return read_tile(self, name, place).await,
                // The levels that a viewer begins with are kept long before the last tile.
                Err(_) => {
                    if let Some(jpeg) = read_tile(self, name, place).await? {
                        return Ok(Some(jpeg));
                    }
                }
            }
        }
    }
}

async fn read_tile(dashboard: &Dashboard, name: &str, place: TilePlace) -> Result<Option<Bytes>, NoPicture> {
    let get = dashboard.s3.get_object().bucket(&dashboard.buckets.results).key(tile_key(name, place));
    let found = match get.send().await {
        Ok(found) => found,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(failed(&DisplayErrorContext(&error))),
    };
    let body = found.body.collect().await.map_err(|error| failed(&DisplayErrorContext(&error)))?;
    Ok(Some(body.into_bytes()))
}

/// Whether a pyramid has tiles now that it had not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Before,
    Now,
}

async fn ensure(dashboard: &Arc<Dashboard>, source: &Source, name: &str) -> Result<Made, NoPicture> {
    let mark = format!("{PYRAMID_PREFIX}/{name}/pyramid.json");
    let unshown = dashboard.pictures.unshown(name).or_else(|| dashboard.pictures.unshown(&mark));
    if let Some(detail) = unshown {
        return Err(NoPicture::Of(detail));
    }
    if dashboard.is_made(&mark).await? {
        return Ok(Made::Before);
    }
    let (dashboard, source, name) = (dashboard.clone(), source.clone(), name.to_owned());
    // Goes on when the page is closed: the work would be lost.
    let making = tokio::spawn(async move {
        // Not the turn of the thumbnail, which should not wait for hundreds of tiles.
        let _turn = dashboard.pictures.turn(&mark).await;
        if !dashboard.is_made(&mark).await? {
            make(&dashboard, &source, &name, &mark).await?;
        }
        Ok(Made::Now)
    });
    making.await.unwrap_or_else(|error| Err(failed(&error)))
}

async fn make(dashboard: &Arc<Dashboard>, source: &Source, name: &str, mark: &str) -> Result<(), NoPicture> {
    let (sender, receiver) = mpsc::channel::<(TilePlace, Vec<u8>)>(UPLOADS_AT_ONCE);
    let limit = dashboard.limits.image_timeout.saturating_mul(TIMES_AN_IMAGE);
    let rendering = dashboard.with_pixels(source, name, move |pixels| {
        let size = (pixels.width_px, pixels.height_px);
        // Waits when S3 is slower, so that tiles do not pile up; its time begins when the pixels are there.
        let take = |place, jpeg| sender.blocking_send((place, jpeg)).is_ok();
        render_pyramid(pixels, Instant::now() + limit, take).map(|()| size)
    });
    let tiles = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|tile| (Ok(tile), receiver))
    });
    let keeping = tiles.try_for_each_concurrent(UPLOADS_AT_ONCE, |(place, jpeg)| {
        let key = tile_key(name, place);
        let dashboard = dashboard.clone();
        async move { dashboard.keep(&key, JPEG_MEDIA_TYPE, jpeg).await }
    });
    // When keeping fails its end of the channel goes, and rendering ends by itself.
    let (rendered, kept) = futures::join!(rendering, keeping);
    kept?;
    let (width_px, height_px) = match rendered? {
        Ok(size) => size,
        Err(Ended::Refused) => return Err(failed(&"the tiles of the image were not taken")),
        Err(Ended::OutOfTime) => {
            let detail = format!(
                "the tiles of the image took more than {} s, {TIMES_AN_IMAGE} times GIEMSA_IMAGE_TIMEOUT_MS",
                limit.as_secs()
            );
            dashboard.pictures.remember_for_now(mark, &detail);
            return Err(NoPicture::Of(detail));
        }
    };
    let json = json!({
        "width_px": width_px, "height_px": height_px, "tile_size_px": TILE_SIZE_PX, "overlap_px": OVERLAP_PX,
    });
    dashboard.keep(mark, "application/json", json.to_string().into_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_images_and_tiffs_come_in_tiles() {
        assert_eq!(DeepZoom::of(2_048, 1_536, "jpeg"), None);
        assert_eq!(DeepZoom::of(0, 3, "tiff"), None);
        let expected = DeepZoom { width: 4_000, height: 3_000, tile_size: 512, overlap: 1, max_level: 12 };
        assert_eq!(DeepZoom::of(4_000, 3_000, "jpeg"), Some(expected));
        assert_eq!(DeepZoom::of(97, 61, "tiff").unwrap().max_level, 7);
    }
}
