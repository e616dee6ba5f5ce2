//! Appends withdrawals and restorations, and brings in order what follows from them.
//!
//! What is appended, the item of the withdrawal in force, the record's places in the indexes of each stage and the
//! marks that its slide and day have changed are one transaction.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_dynamodb::types::{AttributeValue, ConditionCheck, Delete, Put, TransactWriteItem, Update};
use chrono::{DateTime, TimeDelta, Utc};

use crate::results::upload_day;
use crate::table::reader::{ImageHistory, text};
use crate::table::reviews::verdict_writes::{FIRST_PAUSE, MAX_TRIES};
use crate::table::reviews::withdrawals::{Withdrawal, WithdrawalAction};
use crate::table::schema::{
    RESULT_SK, WITHDRAWN_SK, days_pk, image_pk, result_pk, time_text, withdrawals_pk,
};
use crate::table::writer::{Item, PLACES_OF_COUNTED, key_attributes, number, review_keys};
use crate::{StoreError, TableReader, TableWriter};
use giemsa_core::record::Record;

impl TableWriter {
    /// Appends a withdrawal or restoration of an upload, which is in force from now on in all of `stages`: all there are.
    /// Returns whether that changed anything; an upload that is withdrawn stays so, with the first reason.
    ///
    /// Its time is moved behind that of the last one of the image, so that the order of both is kept.
    ///
    /// # Errors
    /// [`StoreError::NotCurrent`] if no stage has the result of that upload; [`StoreError`] if the table does not take it.
    pub async fn append_withdrawal(
        &self,
        withdrawal: &Withdrawal,
        stages: &[impl AsRef<str> + Sync],
    ) -> Result<bool, StoreError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let history = self.history(&withdrawal.bucket, &withdrawal.key, stages).await?;
            let writes = self.writes_of(withdrawal, &history)?;
            if writes.is_empty() {
                return Ok(false);
            }
            let sent = self.dynamodb.transact_write_items().set_transact_items(Some(writes)).send().await;
            let Err(error) = sent else { return Ok(true) };
            tries += 1;
            // An answer, a reviewer or a batch on the same slide came in between: what is there is read again.
            if error.code() != Some("TransactionCanceledException") || tries >= MAX_TRIES {
                return Err(self.failed(DisplayErrorContext(&error).to_string()));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Takes a record out of what counts that a stage answered only after its image was withdrawn.
    pub(crate) async fn enforce(&self, withdrawal: &Withdrawal, stage: &str) -> Result<(), StoreError> {
        let history = self.history(&withdrawal.bucket, &withdrawal.key, &[stage]).await?;
        let is_late =
            |record: &&Record| record.withdrawn.is_none() && withdrawal.is_of(record.image.object_version());
        let Some(record) = history.results.iter().find(is_late) else { return Ok(()) };
        let is_in_force = ConditionCheck::builder()
            .table_name(&self.table)
            .key("pk", text(image_pk(&withdrawal.bucket, &withdrawal.key)))
            .key("sk", text(WITHDRAWN_SK.to_owned()))
            .condition_expression("object_version = :version")
            .expression_attribute_values(":version", text(withdrawal.object_version.clone()))
            .build()
            .expect("table, key and condition are set");
        let mut writes = vec![TransactWriteItem::builder().condition_check(is_in_force).build()];
        writes.extend(self.moved(record, Some(withdrawal), false, Utc::now())?);
        let sent = self.dynamodb.transact_write_items().set_transact_items(Some(writes)).send().await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

    /// All that the table knows of an image, read consistently.
    async fn history(
        &self,
        bucket: &str,
        key: &str,
        stages: &[impl AsRef<str> + Sync],
    ) -> Result<ImageHistory, StoreError> {
        let reader = TableReader::new(self.dynamodb.clone(), &self.table);
        let items = reader.image_items(bucket, key, stages, true).await;
        let history = items.and_then(|items| reader.history_of(items));
        history.map_err(|error| self.failed(error.to_string()))
    }

    /// All that has to be written for `new`; nothing if it is so already.
    fn writes_of(
        &self,
        new: &Withdrawal,
        history: &ImageHistory,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let is_same = |record: &&Record| new.is_of(record.image.object_version());
        let is_withdrawal = new.action == WithdrawalAction::Withdraw;
        if is_withdrawal && !history.results.iter().any(|record| is_same(&record)) {
            return Err(StoreError::NotCurrent {
                key: new.key.clone(),
                expected: new.object_version.clone(),
                found: history.results.first().map(|record| record.image.object_version().to_owned()),
            });
        }
        let in_force = history.withdrawal.as_ref();
        let is_in_force = in_force.is_some_and(|withdrawal| withdrawal.is_of(&new.object_version));
        let mut new = new.clone();
        if let Some(last) = history.withdrawals.last() {
            new.at = new.at.max(last.at + TimeDelta::milliseconds(1));
        }
        // A stage that answered late follows the withdrawal that is in force.
        let applied =
            if is_withdrawal { Some(in_force.filter(|_| is_in_force).unwrap_or(&new)) } else { None };
        let concerned = history.results.iter().filter(is_same);
        let mut writes = Vec::new();
        for record in concerned.filter(|record| record.withdrawn.is_some() != is_withdrawal) {
            let verdict = history.verdict_of(record.image.object_version());
            writes.extend(self.moved(record, applied, record.needs_review && verdict.is_none(), new.at)?);
        }
        let is_change = is_in_force != is_withdrawal;
        if is_change || (!is_withdrawal && !writes.is_empty()) {
            let item = self.withdrawal_item(&new, new.sort_key(), None)?;
            let appended = Put::builder().table_name(&self.table).set_item(Some(item));
            let appended = appended.condition_expression("attribute_not_exists(pk)");
            writes.push(put(appended.build().expect("table and item are set")));
        }
        if is_change {
            writes.push(self.in_force_write(&new, in_force)?);
        }
        Ok(writes)
    }

    /// Puts a record where it belongs when it is withdrawn, or not any more, and tells its slide and day.
    fn moved(
        &self,
        record: &Record,
        withdrawal: Option<&Withdrawal>,
        is_open: bool,
        at: DateTime<Utc>,
    ) -> Result<[TransactWriteItem; 3], StoreError> {
        let after = Record { withdrawn: withdrawal.map(Withdrawal::mark), ..record.clone() };
        let mut values: HashMap<&str, AttributeValue> =
            key_attributes(&after).into_iter().map(|(name, value)| (name, text(value))).collect();
        let mut removed = Vec::new();
        match &after.withdrawn {
            Some(mark) => {
                let mark: Item = serde_dynamo::to_item(mark).map_err(|e| self.failed(e.to_string()))?;
                values.insert("withdrawn", AttributeValue::M(mark));
                removed.extend(PLACES_OF_COUNTED);
            }
            None => {
                removed.push("withdrawn");
                if is_open {
                    let (pk, sk) = review_keys(record);
                    values.extend([("review_pk", text(pk)), ("review_sk", text(sk))]);
                }
            }
        }
        let set: Vec<String> = values.keys().map(|name| format!("{name} = :{name}")).collect();
        let is_counted = if after.withdrawn.is_some() { "attribute_not_exists" } else { "attribute_exists" };
        let update = Update::builder()
            .table_name(&self.table)
            .key("pk", text(result_pk(&record.stage, &record.image.bucket, &record.image.key)))
            .key("sk", text(RESULT_SK.to_owned()))
            .condition_expression(format!("result_id = :result_id AND {is_counted}(withdrawn)"))
            .update_expression(format!("SET {} REMOVE {}", set.join(", "), removed.join(", ")))
            .set_expression_attribute_values(Some(
                values.into_iter().map(|(name, value)| (format!(":{name}"), value)).collect(),
            ))
            .expression_attribute_values(":result_id", text(record.result_id.clone()));
        let day = Update::builder()
            .table_name(&self.table)
            .key("pk", text(days_pk(&record.stage)))
            .key("sk", text(upload_day(record)))
            .update_expression("SET changed_at = :now ADD changes :one REMOVE counts")
            .expression_attribute_values(":now", text(time_text(at.max(Utc::now()))))
            .expression_attribute_values(":one", number(1));
        // What is kept is not shown for another moment, as it may be while answers come in.
        let slide = self.slide_update(&record.stage, &record.slide, at, "REMOVE figure");
        let updates = [update, day].map(|update| update.build().expect("table, key and expression are set"));
        let [update, day] = updates;
        Ok([update, day, slide].map(|update| TransactWriteItem::builder().update(update).build()))
    }

    /// The item of the withdrawal in force: written or taken away, unless another one came in between.
    fn in_force_write(
        &self,
        new: &Withdrawal,
        seen: Option<&Withdrawal>,
    ) -> Result<TransactWriteItem, StoreError> {
        const AS_SEEN: &str = "#at = :seen_at AND #by = :seen_by";
        let names =
            || HashMap::from([("#at", "at"), ("#by", "by")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        let values = |seen: &Withdrawal| {
            let at: AttributeValue = serde_dynamo::to_attribute_value(seen.at).expect("a time is text");
            HashMap::from([(":seen_at".to_owned(), at), (":seen_by".to_owned(), text(seen.by.clone()))])
        };
        if new.action == WithdrawalAction::Restore {
            let delete = Delete::builder()
                .table_name(&self.table)
                .key("pk", text(image_pk(&new.bucket, &new.key)))
                .key("sk", text(WITHDRAWN_SK.to_owned()))
                .condition_expression(AS_SEEN)
                .set_expression_attribute_names(Some(names()))
                .set_expression_attribute_values(seen.map(values));
            let delete = delete.build().expect("table and key are set");
            return Ok(TransactWriteItem::builder().delete(delete).build());
        }
        let item = self.withdrawal_item(new, WITHDRAWN_SK.to_owned(), Some(withdrawals_pk(&new.slide)))?;
        let in_force = Put::builder().table_name(&self.table).set_item(Some(item));
        let in_force = match seen {
            None => in_force.condition_expression("attribute_not_exists(pk)"),
            Some(seen) => in_force
                .condition_expression(AS_SEEN)
                .set_expression_attribute_names(Some(names()))
                .set_expression_attribute_values(Some(values(seen))),
        };
        Ok(put(in_force.build().expect("table and item are set")))
    }

    fn withdrawal_item(
        &self,
        withdrawal: &Withdrawal,
        sk: String,
        listing_pk: Option<String>,
    ) -> Result<Item, StoreError> {
        let mut item: Item = serde_dynamo::to_item(withdrawal).map_err(|e| self.failed(e.to_string()))?;
        let pk = image_pk(&withdrawal.bucket, &withdrawal.key);
        item.extend([("pk", pk), ("sk", sk)].map(|(name, value)| (name.to_owned(), text(value))));
        if let Some(listing_pk) = listing_pk {
            let listing = [("listing_pk", listing_pk), ("listing_sk", withdrawal.key.clone())];
            item.extend(listing.map(|(name, value)| (name.to_owned(), text(value))));
        }
        Ok(item)
    }
}

fn put(put: Put) -> TransactWriteItem {
    TransactWriteItem::builder().put(put).build()
}
