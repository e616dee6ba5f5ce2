//! Withdrawals: images that a person took out of what counts, and brought back; as they are read.
//!
//! A withdrawal is of one upload of a key. A newer upload counts, whatever became of the one before it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::table::lookups::{BATCH_KEYS, item_key};
use crate::table::merged::{MAX_ROWS, Merged, Range, Row};
use crate::table::schema::{
    LISTING_INDEX, MAX_SORT_KEY_BYTES, WITHDRAWAL_SK_START, WITHDRAWN_SK, image_pk, time_text, withdrawals_pk,
};
use crate::{ImageKey, QueryError, TableReader};
use giemsa_core::record::Withdrawn;

/// What was done to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithdrawalAction {
    /// It was taken out of what counts.
    Withdraw,
    /// It was brought back.
    Restore,
}

/// What one person did to one upload of an image at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// Bucket name.
    pub bucket: String,
    /// Object key.
    pub key: String,
    /// The slide of the key.
    pub slide: String,
    /// What was done.
    pub action: WithdrawalAction,
    /// Why.
    pub reason: String,
    /// Who, as it is shown.
    pub by: String,
    /// Who signed in under that name, `<iss>|<sub>`; absent where nobody signs in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by_id: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// Version, or else ETag, of the upload.
    pub object_version: String,
}

impl Withdrawal {
    /// Whether it is of the upload `object_version`.
    pub fn is_of(&self, object_version: &str) -> bool {
        self.object_version == object_version
    }

    pub(crate) fn sort_key(&self) -> String {
        let mut sk = format!("{WITHDRAWAL_SK_START}{}#{}", time_text(self.at), self.by);
        sk.truncate(sk.floor_char_boundary(MAX_SORT_KEY_BYTES));
        sk
    }

    /// As a record has it.
    pub(crate) fn mark(&self) -> Withdrawn {
        Withdrawn { reason: self.reason.clone(), by: self.by.clone(), at: self.at }
    }
}

impl TableReader {
    /// The withdrawals in force on images of a slide, by key. Whether one is of the image that is there now says
    /// [`Withdrawal::is_of`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn withdrawals_of_slide(
        &self,
        slide: &str,
    ) -> Result<BTreeMap<String, Withdrawal>, QueryError> {
        let pk = vec![withdrawals_pk(slide)];
        let mut rows = Merged::new(self, LISTING_INDEX, pk, Range::default(), MAX_ROWS);
        let mut withdrawals = BTreeMap::new();
        while let Some(Row { item, .. }) = rows.next().await? {
            let withdrawal: Withdrawal = self.read_item(item)?;
            withdrawals.insert(withdrawal.key.clone(), withdrawal);
        }
        Ok(withdrawals)
    }

    /// The withdrawals in force on some images, by image.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn withdrawals_of(
        &self,
        images: &[ImageKey],
    ) -> Result<BTreeMap<ImageKey, Withdrawal>, QueryError> {
        let mut withdrawals = BTreeMap::new();
        for batch in images.chunks(BATCH_KEYS) {
            let wanted =
                batch.iter().map(|image| item_key(image_pk(&image.bucket, &image.key), WITHDRAWN_SK));
            for item in self.batch_get(wanted.collect(), &[]).await? {
                withdrawals.insert(self.image_key(&item)?, self.read_item(item)?);
            }
        }
        Ok(withdrawals)
    }
}
