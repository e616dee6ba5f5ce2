//! Which result of a key is the current one.
//!
//! It never lets the result of an older image replace that of a newer one, in any order of arrival. Invariant: order is
//! what S3 says it is. Two sequencers of one key are compared; where one is missing (S3 Batch Operations, or an object
//! that was replaced before it was read), S3 is asked which image is at the key now. Clocks decide only where neither
//! of two images is: `Last-Modified` has whole seconds, and of a multipart upload it is when that began.

use std::borrow::Cow;

use aws_sdk_s3::Client;

use crate::objects::newest_version;
use crate::results::upload_day;
use crate::table::writer::{HeldResult, Over, PutResult};
use crate::{Counter, StoreError, TableWriter};
use giemsa_core::object::{Sequencer, slide_of_key};
use giemsa_core::record::Record;

/// How often a result that is replaced by others meanwhile is tried again.
const MAX_TRIES: usize = 8;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It is the current result of its image and stage; these counts are not right any more
    /// ([`TableWriter::invalidate`]).
    Current(Vec<Counter>),
    /// The result of a newer image is there, or of the image that this one is gone from.
    Superseded,
}

impl Placement {
    /// Of a record that the table holds, which replaced a result of the upload day `left`, if any.
    pub fn current(record: &Record, left: Option<String>) -> Self {
        let day = upload_day(record);
        let left = left.filter(|left| *left != day).map(Counter::Day);
        let slide = Counter::Slide(slide_of_key(&record.image.key));
        Self::Current([slide, Counter::Day(day)].into_iter().chain(left).collect())
    }
}

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
    Ok(place(s3, table, record, sequencer).await? != Placement::Superseded)
}

/// Like [`make_current`]; returns also which counts the record has changed.
///
/// # Errors
/// As of [`make_current`].
pub async fn place(
    s3: &Client,
    table: &TableWriter,
    record: &Record,
    sequencer: Option<&Sequencer>,
) -> Result<Placement, StoreError> {
    let mut record = Cow::Borrowed(record);
    let mut held: Option<Box<HeldResult>> = None;
    for _ in 0..MAX_TRIES {
        let over = match &held {
            None if record.is_gone() => Over::Earlier,
            None => Over::SameOrEarlier,
            Some(held) if held.withdrawal_of(&record).is_some() => Over::Withdrawn,
            Some(held) => Over::Held(held),
        };
        match table.put_result(&record, sequencer, over).await? {
            PutResult::Written(left) => return Ok(Placement::current(&record, left)),
            PutResult::Taken(_) if record.is_gone() => return Ok(Placement::Superseded),
            PutResult::Taken(found) => {
                if let Some(withdrawn) = found.withdrawal_of(&record) {
                    record.to_mut().withdrawn = Some(withdrawn.clone());
                } else if !is_newer(s3, &record, sequencer, &found).await? {
                    return Ok(Placement::Superseded);
                }
                held = Some(found);
            }
        }
    }
    Err(table.failed(format!("the result of {:?} is replaced by others all the time", record.image.key)))
}

/// Whether the image of `record` came to its key after the one whose result the table holds.
async fn is_newer(
    s3: &Client,
    record: &Record,
    sequencer: Option<&Sequencer>,
    held: &HeldResult,
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
