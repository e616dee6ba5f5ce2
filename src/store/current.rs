//! Which result of a key is the current one.
//!
//! It never lets the result of an older image replace that of a newer one, in any order of arrival. Invariant: order is
//! what S3 says it is. Two sequencers of one key are compared; where one is missing (S3 Batch Operations, or an object
//! that was replaced before it was read), S3 is asked which image is at the key now. Clocks decide only where neither
//! of two images is: `Last-Modified` has whole seconds, and of a multipart upload it is when that began.

use aws_sdk_s3::Client;

use super::objects::newest_version;
use super::results::upload_day;
use super::table::{Held, Over, PutResult};
use super::{StoreError, TableWriter};
use crate::classification::Record;
use crate::object::Sequencer;

/// How often a result that is replaced by others meanwhile is tried again.
const MAX_TRIES: usize = 8;

/// Makes `record` the current result of its image and stage, unless the result of a newer image is there.
///
/// `sequencer` is that of the write of the very image that was read. Returns whether the table holds this record now.
/// That an image is gone ([`Record::is_gone`]) replaces only what a sequencer shows to be of an earlier upload. The record
/// of an upload that was withdrawn is withdrawn as well.
///
/// # Errors
/// [`StoreError`] if the table does not take it, S3 cannot be asked, or others write the same result all the time.
pub async fn make_current(
    s3: &Client,
    table: &TableWriter,
    record: &Record,
    sequencer: Option<&Sequencer>,
) -> Result<bool, StoreError> {
    Ok(place(s3, table, record, sequencer).await?.is_some())
}

/// Like [`make_current`]; returns the upload days whose counts the record has changed, or `None` if the table does not
/// hold it.
///
/// # Errors
/// As of [`make_current`].
pub async fn place(
    s3: &Client,
    table: &TableWriter,
    record: &Record,
    sequencer: Option<&Sequencer>,
) -> Result<Option<Vec<String>>, StoreError> {
    let first = if record.is_gone() { Over::Earlier } else { Over::SameOrEarlier };
    let mut put = table.put_result(record, sequencer, first).await?;
    for _ in 0..MAX_TRIES {
        let held = match put {
            PutResult::Written(replaced) => {
                let mut days = vec![upload_day(record)];
                days.extend(replaced.filter(|day| *day != days[0]));
                return Ok(Some(days));
            }
            PutResult::Taken(held) => held,
        };
        if record.is_gone() {
            return Ok(None);
        }
        if let Some(withdrawn) = held.withdrawal_of(record) {
            let record = Record { withdrawn: Some(withdrawn.clone()), ..record.clone() };
            put = table.put_result(&record, sequencer, Over::Withdrawn).await?;
            continue;
        }
        if !is_newer(s3, record, sequencer, &held).await? {
            return Ok(None);
        }
        put = table.put_result(record, sequencer, Over::Held(&held)).await?;
    }
    Err(table.failed(format!("the result of {:?} is replaced by others all the time", record.image.key)))
}

/// Whether the image of `record` came to its key after the one whose result the table holds.
async fn is_newer(
    s3: &Client,
    record: &Record,
    sequencer: Option<&Sequencer>,
    held: &Held,
) -> Result<bool, StoreError> {
    if let (Some(own), Some(other)) = (sequencer, &held.sequencer) {
        return Ok(own >= other);
    }
    let (own, other) = (&record.image, &held.record.image);
    let newest = newest_version(s3, &own.bucket, &own.key)
        .await
        .map_err(|error| StoreError::Order { key: own.key.clone(), detail: error.to_string() })?;
    Ok(match newest.as_deref() {
        Some(newest) if newest == own.object_version() => true,
        Some(newest) if newest == other.object_version() => false,
        // Both were replaced or deleted; what came last has an event of its own.
        _ => own.uploaded_at > other.uploaded_at,
    })
}
