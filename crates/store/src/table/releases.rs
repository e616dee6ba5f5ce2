//! Releases that commands make, and the ledger of what was served: written and read in the table.
//!
//! It never changes an entry that somebody else wrote. An entry is there before the model's file is touched, so that no
//! release goes unrecorded, whenever a command is ended.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::table::schema::{RELEASES_END, model_pk, release_pk, time_text};
use crate::table::writer::{Item, TableWriter};
use crate::{LedgerEntry, QueryError, StoreError, TableReader};
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::AttributeValue;
use giemsa_core::record::ModelInfo;

/// What a command did to a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseKind {
    /// A model that passed the gate was copied from another stage.
    Promote,
    /// A model that was in production before was put back.
    Rollback,
    /// A model without a passing report was released all the same.
    Force,
}

/// How far a release came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseState {
    /// It began; if it stays so, the command was ended before it could say.
    Started,
    /// The model is in its place.
    Released,
    /// Somebody else released first; nothing was changed.
    Lost,
    /// The bucket did not take the file; nothing was changed.
    Failed,
}

/// One release, as a command recorded it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseEntry {
    /// The stage.
    pub stage: String,
    /// When the command began to change it.
    pub started_at: DateTime<Utc>,
    /// Last-Modified of the stage's file after it, whole seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub released_at: Option<DateTime<Utc>>,
    /// What was done.
    pub kind: ReleaseKind,
    /// How far it came.
    pub state: ReleaseState,
    /// The model that was released.
    pub model: ModelInfo,
    /// Digest of the model that it replaces.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous_sha256: Option<String>,
    /// Who did it.
    pub who: String,
    /// Why, if it was said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// Releases of one stage that may begin in the same milliseconds.
const MAX_ATTEMPTS: usize = 100;

impl TableWriter {
    /// Records that a release begins. Its time is moved by milliseconds where that of another has the same key.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn begin_release(&self, entry: &mut ReleaseEntry) -> Result<(), StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let request = self.dynamodb.put_item().table_name(&self.table);
            let request = request.set_item(Some(self.release_item(entry)?));
            match request.condition_expression("attribute_not_exists(pk)").send().await {
                Ok(_) => return Ok(()),
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(|e| e.is_conditional_check_failed_exception()) =>
                {
                    entry.started_at += TimeDelta::milliseconds(1);
                }
                Err(error) => return Err(self.failed(DisplayErrorContext(&error).to_string())),
            }
        }
        Err(self.failed(format!("{MAX_ATTEMPTS} releases of {} began at the same moment", entry.stage)))
    }

    /// Records how a release ended.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn end_release(&self, entry: &ReleaseEntry) -> Result<(), StoreError> {
        let request = self.dynamodb.put_item().table_name(&self.table);
        let sent = request.set_item(Some(self.release_item(entry)?)).send().await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

    fn release_item(&self, entry: &ReleaseEntry) -> Result<Item, StoreError> {
        let mut item: Item = serde_dynamo::to_item(entry).map_err(|e| self.failed(e.to_string()))?;
        let sk = format!("{}#{}", time_text(entry.started_at), entry.model.sha256);
        item.insert("pk".to_owned(), AttributeValue::S(release_pk(&entry.stage)));
        item.insert("sk".to_owned(), AttributeValue::S(sk));
        Ok(item)
    }
}

impl TableReader {
    /// All that commands did to a stage, oldest first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn releases(&self, stage: &str) -> Result<Vec<ReleaseEntry>, QueryError> {
        self.entries(release_pk(stage)).await
    }

    /// All that a stage was seen to serve, oldest first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn ledger(&self, stage: &str) -> Result<Vec<LedgerEntry>, QueryError> {
        self.entries(model_pk(stage)).await
    }

    async fn entries<T: serde::de::DeserializeOwned>(&self, pk: String) -> Result<Vec<T>, QueryError> {
        // Consistent, because a command reads what the one before it wrote.
        let query = self.query(None, "pk = :pk AND sk < :end").consistent_read(true);
        let query = query
            .expression_attribute_values(":pk", AttributeValue::S(pk))
            .expression_attribute_values(":end", AttributeValue::S(RELEASES_END.to_owned()));
        self.all_items(query).await?.into_iter().map(|item| self.read_item(item)).collect()
    }
}
