//! Thumbnails: small JPEGs of images, made when they are first wanted and kept in the results bucket.
//!
//! A thumbnail is of one version of one image; a replaced image has another.

use std::sync::Arc;

use crate::Dashboard;
use crate::pictures::{NoPicture, Source, failed};
use giemsa_config::THUMBNAIL_PREFIX;
use giemsa_image::{JPEG_MEDIA_TYPE, Peek, encode_jpeg, shrink_to_fit};

/// Longest side of a thumbnail, pixels.
pub(crate) const THUMBNAIL_PX: u32 = 320;

/// Whether an image is small enough to be its own thumbnail, and of a kind that browsers show.
pub(crate) fn is_its_own(peeked: Peek) -> bool {
    let is_small = peeked.size_px.is_some_and(|(width, height)| width.max(height) <= THUMBNAIL_PX);
    peeked.format.is_shown_by_browsers() && is_small
}

/// Key of an image's thumbnail in the results bucket; it is made if it is not there.
pub(crate) async fn ensure(dashboard: &Arc<Dashboard>, source: &Source) -> Result<String, NoPicture> {
    let name = source.picture_name(&dashboard.buckets.input);
    let key = format!("{THUMBNAIL_PREFIX}/{name}.jpg");
    if let Some(detail) = dashboard.pictures.unshown(&name) {
        return Err(NoPicture::Of(detail));
    }
    if dashboard.is_made(&key).await? {
        return Ok(key);
    }
    let (dashboard, source) = (dashboard.clone(), source.clone());
    // Goes on when the page is closed: it will be wanted again.
    let making = tokio::spawn(async move {
        let _turn = dashboard.pictures.turn(&name).await;
        if let Some(detail) = dashboard.pictures.unshown(&name) {
            return Err(NoPicture::Of(detail));
        }
        if dashboard.is_made(&key).await? {
            return Ok(key);
        }
        let shrink = |pixels| encode_jpeg(&shrink_to_fit(&pixels, THUMBNAIL_PX));
        let jpeg = dashboard.with_pixels(&source, &name, shrink).await?;
        dashboard.keep(&key, JPEG_MEDIA_TYPE, jpeg).await?;
        Ok(key)
    });
    making.await.unwrap_or_else(|error| Err(failed(&error)))
}
