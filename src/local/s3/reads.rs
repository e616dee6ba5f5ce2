//! Reads: get, head, and finding what a copy is made of.
//!
//! A read goes: look up the file → let s3s-fs read it → look again, and start over if that version is gone meanwhile.
//!
//! Invariant: what a reader gets (bytes, ETag, type, metadata, version id) is of one version.

use hyper::StatusCode;
use hyper::header::{ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use s3s::dto::{
    ETag, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range, TimestampFormat,
};
use s3s::header::X_AMZ_VERSION_ID;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::StoreError;
use super::conditions::{ReadConditions, Verdict};
use super::objects::{LocalS3, explain, timestamp};
use super::versions::{self, Found, ObjectRow, VersionRow, Wanted};

/// What S3 answers for objects that were stored without a type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

impl LocalS3 {
    pub(super) async fn get(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput {
            bucket,
            key,
            version_id,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            part_number,
            ..
        } = request.input.clone();
        let conditions = ReadConditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
        let wanted = Wanted::of(&key, version_id.as_deref())?;
        loop {
            let Found { object, version_id } = self.find_if(&bucket, &key, wanted, &conditions).await?;
            check_part_number(part_number, &object)?;
            let (e_tag, last_modified) =
                (Some(ETag::Strong(object.etag.clone())), Some(timestamp(object.modified_s)));
            let mut inner = request.clone();
            inner.input.key.clone_from(&object.file);
            inner.input.range =
                request.input.range.map(|range| within(range, object.size_bytes)).transpose()?;
            let answer = self.files.get_object(inner).await;
            if !self.is_still_there(&bucket, &object).await? {
                continue;
            }
            let mut answer = answer.map_err(explain)?;
            answer.output.e_tag = e_tag;
            answer.output.last_modified = last_modified;
            answer.output.version_id = version_id;
            answer.output.accept_ranges = Some("bytes".to_owned());
            answer.output.content_type.get_or_insert_with(|| DEFAULT_CONTENT_TYPE.to_owned());
            override_headers(&request.input, &mut answer.output);
            return Ok(answer);
        }
    }

    pub(super) async fn head(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput {
            bucket,
            key,
            version_id,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            part_number,
            ..
        } = request.input.clone();
        let conditions = ReadConditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
        let wanted = Wanted::of(&key, version_id.as_deref())?;
        loop {
            let Found { object, version_id } = self.find_if(&bucket, &key, wanted, &conditions).await?;
            check_part_number(part_number, &object)?;
            let (e_tag, last_modified) =
                (Some(ETag::Strong(object.etag.clone())), Some(timestamp(object.modified_s)));
            let mut inner = request.clone();
            inner.input.key.clone_from(&object.file);
            let answer = self.files.head_object(inner).await;
            if !self.is_still_there(&bucket, &object).await? {
                continue;
            }
            let mut answer = answer.map_err(explain)?;
            answer.output.e_tag = e_tag;
            answer.output.last_modified = last_modified;
            answer.output.version_id = version_id;
            answer.output.accept_ranges = Some("bytes".to_owned());
            answer.output.content_type.get_or_insert_with(|| DEFAULT_CONTENT_TYPE.to_owned());
            return Ok(answer);
        }
    }

    pub(super) async fn find(&self, bucket: &str, key: &str, wanted: Wanted) -> Result<Found, StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.state.read(move |connection| versions::find(connection, &bucket, &key, wanted)).await
    }

    /// Finds an object for a read; conditions that do not hold are "not modified" or an error.
    async fn find_if(
        &self,
        bucket: &str,
        key: &str,
        wanted: Wanted,
        conditions: &ReadConditions,
    ) -> S3Result<Found> {
        let found = self.find(bucket, key, wanted).await?;
        match conditions.judge(&found.object.etag, &timestamp(found.object.modified_s)) {
            Verdict::Proceed => Ok(found),
            Verdict::NotModified => Err(not_modified(&found)),
            Verdict::Failed => Err(StoreError::ConditionFailed { key: key.to_owned() }.into()),
        }
    }

    /// Finds the source of a copy; conditions that do not hold are one error, whichever way.
    pub(super) async fn find_source(
        &self,
        bucket: &str,
        key: &str,
        wanted: Wanted,
        conditions: &ReadConditions,
    ) -> S3Result<Found> {
        let source = match self.find(bucket, key, wanted).await {
            Ok(source) => source,
            // The method is allowed, the source is not; and the headers would speak of the copy.
            Err(StoreError::DeleteMarker { .. }) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "the source of a copy is a delete marker: name a version with content"
                ));
            }
            Err(StoreError::Deleted { .. }) => {
                return Err(StoreError::NoSuchKey { key: key.to_owned() }.into());
            }
            Err(error) => return Err(error.into()),
        };
        match conditions.judge(&source.object.etag, &timestamp(source.object.modified_s)) {
            Verdict::Proceed => Ok(source),
            Verdict::NotModified | Verdict::Failed => {
                Err(StoreError::ConditionFailed { key: key.to_owned() }.into())
            }
        }
    }

    /// Whether this version is neither replaced nor deleted for good, so that its files were there all the time.
    pub(super) async fn is_still_there(&self, bucket: &str, object: &ObjectRow) -> Result<bool, StoreError> {
        let (bucket, key, wanted) = (bucket.to_owned(), object.key.clone(), Wanted::Version(object.id));
        let now =
            self.state.read(move |connection| versions::lookup(connection, &bucket, &key, wanted)).await?;
        // The version `null` may be another one by now.
        Ok(now.and_then(VersionRow::into_object).is_some_and(|now| now.file == object.file))
    }
}

/// An object that was not uploaded in parts is its own part 1; where one ended in the others is not remembered.
fn check_part_number(asked: Option<i32>, object: &ObjectRow) -> S3Result<()> {
    match asked {
        None => Ok(()),
        Some(_) if object.etag.contains('-') => Err(s3_error!(
            NotImplemented,
            "the local stack does not remember the parts of an object: read it without partNumber, by ranges if need be"
        )),
        Some(1) => Ok(()),
        Some(number) => Err(s3_error!(
            InvalidRange,
            "part {number} was asked for, but the object was not uploaded in parts and has only part 1"
        )),
    }
}

/// Headers that a reader asks for in place of the object's own, as signed links do; s3s-fs does not know them.
fn override_headers(asked: &GetObjectInput, answer: &mut GetObjectOutput) {
    let replace = |own: &mut Option<String>, asked: &Option<String>| {
        if asked.is_some() {
            own.clone_from(asked);
        }
    };
    replace(&mut answer.content_type, &asked.response_content_type);
    replace(&mut answer.content_disposition, &asked.response_content_disposition);
    replace(&mut answer.content_encoding, &asked.response_content_encoding);
    replace(&mut answer.content_language, &asked.response_content_language);
    replace(&mut answer.cache_control, &asked.response_cache_control);
}

/// A time in seconds since 1970 as HTTP headers have it.
pub(super) fn http_date(seconds: i64) -> Option<HeaderValue> {
    let mut date = Vec::new();
    timestamp(seconds).format(TimestampFormat::HttpDate, &mut date).ok()?;
    HeaderValue::from_bytes(&date).ok()
}

/// The answer to a reader that has this version already; it repeats the headers by which the reader knows.
fn not_modified(Found { object, version_id }: &Found) -> S3Error {
    let mut headers = HeaderMap::new();
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", object.etag)) {
        headers.insert(ETAG, etag);
    }
    if let Some(date) = http_date(object.modified_s) {
        headers.insert(LAST_MODIFIED, date);
    }
    if let Some(Ok(version_id)) = version_id.as_ref().map(HeaderValue::try_from) {
        headers.insert(X_AMZ_VERSION_ID, version_id);
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_status_code(StatusCode::NOT_MODIFIED);
    error.set_headers(headers);
    error
}

/// The range in absolute positions: s3s-fs fails on a suffix longer than the object.
fn within(range: Range, size_bytes: u64) -> S3Result<Range> {
    match range {
        Range::Suffix { length } if length == 0 || size_bytes == 0 => Err(s3_error!(InvalidRange)),
        Range::Suffix { length } => {
            Ok(Range::Int { first: size_bytes.saturating_sub(length), last: Some(size_bytes - 1) })
        }
        Range::Int { .. } => Ok(range),
    }
}
