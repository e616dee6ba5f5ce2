//! How often a model ended the process that ran it, kept in the table so that every process of the stage knows.
//!
//! Of two who count the same end at once, one is told that it came too late.

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::table::reader::text;
use crate::table::schema::{crash_sk, model_pk};
use crate::table::writer::{Item, number};
use crate::{QueryError, StoreError, TableReader, TableWriter};

/// What is known of a model that ended processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashNote {
    /// The stage.
    pub stage: String,
    /// SHA-256 of the model file, lower-case hexadecimal.
    pub sha256: String,
    /// Processes that it ended.
    pub crashes: u64,
    /// How the last of them ended, e.g. `SIGSEGV`.
    pub cause: String,
    /// The upload that was being answered then, where only one was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upload: Option<String>,
    /// When the last of them ended, or was found to have ended.
    pub last_at: DateTime<Utc>,
}

impl TableReader {
    /// What is known of a model's crashes in a stage; the answer is never older than the last write.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn crash_note(&self, stage: &str, sha256: &str) -> Result<Option<CrashNote>, QueryError> {
        let request = self.dynamodb.get_item().table_name(&self.table).consistent_read(true);
        let sent = request.key("pk", text(model_pk(stage))).key("sk", text(crash_sk(sha256))).send().await;
        let found = sent.map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
        found.item.map(|item| self.read_item(item)).transpose()
    }
}

impl TableWriter {
    /// Puts `note` in the place of `before`; `false` if another is there by now.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn put_crash_note(
        &self,
        note: &CrashNote,
        before: Option<&CrashNote>,
    ) -> Result<bool, StoreError> {
        let mut item: Item = serde_dynamo::to_item(note).map_err(|e| self.failed(e.to_string()))?;
        item.insert("pk".to_owned(), AttributeValue::S(model_pk(&note.stage)));
        item.insert("sk".to_owned(), AttributeValue::S(crash_sk(&note.sha256)));
        let request = self.dynamodb.put_item().table_name(&self.table).set_item(Some(item));
        let request = match before {
            None => request.condition_expression("attribute_not_exists(pk)"),
            Some(before) => request
                .condition_expression("crashes = :before")
                .expression_attribute_values(":before", number(before.crashes)),
        };
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(self.failed(DisplayErrorContext(&error).to_string())),
        }
    }
}
