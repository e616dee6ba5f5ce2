//! Reads: get, head, and which part of an object is asked for.
//!
//! What a reader gets (bytes, ETag, type, metadata, version id) is of one version.

use std::fs::File;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use rusqlite::Connection;
use s3s::dto::{
    Checksum, ETag, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, StreamingBlob,
    TimestampFormat,
};
use s3s::header::{X_AMZ_DELETE_MARKER, X_AMZ_VERSION_ID};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use crate::s3::StoreError;
use crate::s3::bytes::blobs::chunks;
use crate::s3::operations::conditions::{ReadConditions, Verdict, failed};
use crate::s3::operations::objects::{LocalS3, timestamp};
use crate::s3::rows::about::{About, move_checksums, move_headers};
use crate::s3::rows::versions::{self, Content, Found, VersionId, Wanted};

/// What S3 answers for objects that were stored without a type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Takes the conditions out of a request, and judges what was found by them.
macro_rules! check {
    ($input:expr, $found:expr) => {
        let conditions = ReadConditions {
            if_match: $input.if_match.take(),
            if_none_match: $input.if_none_match.take(),
            if_modified_since: $input.if_modified_since.take(),
            if_unmodified_since: $input.if_unmodified_since.take(),
        };
        match conditions.judge(&$found.object.etag, &timestamp($found.modified_s)) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Err(not_modified(&$found)),
            Verdict::Failed => return Err(failed(&$found.key)),
        }
        check_part_number($input.part_number, &$found.object)?;
    };
}

/// An answer that says everything of an object but its bytes.
macro_rules! describe {
    ($output:ident, $found:expr) => {{
        let Found { object, modified_s, version_id, .. } = $found;
        let mut about = About::from_json(&object.about)?;
        let mut output = $output {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(object.size_bytes).ok(),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(timestamp(modified_s)),
            version_id,
            ..Default::default()
        };
        move_headers!(about, output);
        move_checksums!(about, output);
        output.content_type.get_or_insert_with(|| DEFAULT_CONTENT_TYPE.to_owned());
        output
    }};
}

impl LocalS3 {
    pub(crate) async fn get(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let mut input = request.input;
        let wanted = Wanted::of(&input.key, input.version_id.as_deref())?;
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let find = move |connection: &Connection| versions::find(connection, &bucket, &key, wanted);
        let (found, file) = self.open_found(find).await?;
        check!(input, found);
        let size_bytes = found.object.size_bytes;
        let mut output = describe!(GetObjectOutput, found);
        let mut positions = 0..size_bytes;
        if let Some(range) = input.range {
            positions = range.check(size_bytes)?;
            if positions.is_empty() {
                return Err(s3_error!(InvalidRange));
            }
            output.content_range =
                Some(format!("bytes {}-{}/{size_bytes}", positions.start, positions.end - 1));
            output.content_length = i64::try_from(positions.end - positions.start).ok();
        }
        if positions != (0..size_bytes) {
            // Those of the object are of all its bytes.
            let mut none = Checksum::default();
            move_checksums!(none, output);
        }
        output.body = Some(StreamingBlob::wrap(chunks(file, positions)));
        override_headers(&input, &mut output);
        Ok(S3Response::new(output))
    }

    pub(crate) async fn head(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let mut input = request.input;
        let wanted = Wanted::of(&input.key, input.version_id.as_deref())?;
        let found = self.find(&input.bucket, &input.key, wanted).await?;
        check!(input, found);
        Ok(S3Response::new(describe!(HeadObjectOutput, found)))
    }

    pub(crate) async fn find(&self, bucket: &str, key: &str, wanted: Wanted) -> Result<Found, StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.state.read(move |connection| versions::find(connection, &bucket, &key, wanted)).await
    }

    /// Finds a version and opens its blob.
    pub(crate) async fn open_found(
        &self,
        find: impl FnOnce(&Connection) -> Result<Found, StoreError> + Send + 'static,
    ) -> Result<(Found, File), StoreError> {
        let blobs = Arc::clone(&self.blobs);
        let open = move |connection: &Connection| {
            let _lock = blobs.reading();
            let found = find(connection)?;
            let file = blobs.file(found.object.blob)?;
            Ok((found, file))
        };
        self.state.read(open).await
    }
}

/// An object that was not uploaded in parts is its own part 1; where one ended in the others is not remembered.
fn check_part_number(asked: Option<i32>, object: &Content) -> S3Result<()> {
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

/// Headers that a reader asks for in place of the object's own, as signed links do.
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
fn http_date(seconds: i64) -> Option<HeaderValue> {
    let mut date = Vec::new();
    timestamp(seconds).format(TimestampFormat::HttpDate, &mut date).ok()?;
    HeaderValue::from_bytes(&date).ok()
}

/// The answer to a reader of a key whose latest version is the delete marker `id`.
pub(crate) fn deleted(key: &str, id: VersionId) -> S3Error {
    let mut answer =
        s3_error!(NoSuchKey, "there is no object `{key}`: it is deleted, by the delete marker `{id}`");
    answer.set_headers(marker_headers(id));
    answer
}

/// The answer to a reader of the delete marker `id`, made at `modified_s` (seconds since 1970).
pub(crate) fn delete_marker(key: &str, id: VersionId, modified_s: i64) -> S3Error {
    let mut answer = s3_error!(
        MethodNotAllowed,
        "version `{id}` of `{key}` is a delete marker: it has no content and can only be deleted"
    );
    let mut headers = marker_headers(id);
    headers.insert(ALLOW, HeaderValue::from_static("DELETE"));
    headers.extend(http_date(modified_s).map(|date| (LAST_MODIFIED, date)));
    answer.set_headers(headers);
    answer
}

/// By these headers a reader sees that there is a delete marker and not nothing; they replace all others of s3s.
fn marker_headers(id: VersionId) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    headers.insert(X_AMZ_DELETE_MARKER, HeaderValue::from_static("true"));
    headers.extend(HeaderValue::try_from(id.to_string()).map(|id| (X_AMZ_VERSION_ID, id)));
    headers
}

/// The answer to a reader that has this version already; it repeats the headers by which the reader knows.
fn not_modified(Found { object, modified_s, version_id, .. }: &Found) -> S3Error {
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::try_from(format!("\"{}\"", object.etag)).map(|etag| (ETAG, etag)));
    headers.extend(http_date(*modified_s).map(|date| (LAST_MODIFIED, date)));
    headers.extend(version_id.iter().flat_map(HeaderValue::try_from).map(|id| (X_AMZ_VERSION_ID, id)));
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_status_code(StatusCode::NOT_MODIFIED);
    error.set_headers(headers);
    error
}
