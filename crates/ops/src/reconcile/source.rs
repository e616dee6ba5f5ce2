//! Where uploads are read from: the bucket's own listing, or an inventory of it.
//!
//! Started again from the position of a page, it goes on exactly after it.

use serde::{Deserialize, Serialize};

use super::ReconcileError;
use crate::inventory::{InventoryPages, InventoryPosition};
use giemsa_store::{Upload, UploadListing, UploadMarker};

/// How far uploads have been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Nothing yet.
    Start,
    /// Up to this entry of the bucket's listing.
    Listing(UploadMarker),
    /// Up to this row of an inventory.
    Inventory(InventoryPosition),
    /// All.
    End,
}

/// Some uploads, and how far they go.
#[derive(Debug)]
pub struct SourcePage {
    /// The uploads.
    pub uploads: Vec<Upload>,
    /// The position after them.
    pub position: Position,
}

/// Gives uploads page by page.
#[derive(Debug)]
pub enum Source {
    /// From S3.
    Listing {
        /// The bucket.
        listing: UploadListing,
        /// Where the next page starts.
        position: Position,
    },
    /// From an inventory.
    Inventory(InventoryPages),
}

impl Source {
    /// The next page, or `None` after the last.
    ///
    /// # Errors
    /// [`ReconcileError`].
    pub async fn next(&mut self) -> Result<Option<SourcePage>, ReconcileError> {
        match self {
            Self::Listing { listing, position } => {
                let after = match position {
                    Position::End => return Ok(None),
                    Position::Listing(marker) => Some(&*marker),
                    Position::Start | Position::Inventory(_) => None,
                };
                let (uploads, next) = listing.page(after).await?;
                *position = next.map_or(Position::End, Position::Listing);
                Ok(Some(SourcePage { uploads, position: position.clone() }))
            }
            Self::Inventory(pages) => {
                let page = pages.next().await?;
                Ok(page.map(|(uploads, position)| SourcePage {
                    uploads,
                    position: Position::Inventory(position),
                }))
            }
        }
    }
}
