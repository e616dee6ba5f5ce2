//! Listings as S3 answers them: of objects by token and by marker, and of versions with their delete markers.
//!
//! Never gives a key in a form that XML cannot carry to a client that asked for encoded ones. What a truncated answer
//! says of the next page is enough to go on without a gap.

use s3s::dto::{
    CommonPrefix, DeleteMarkerEntry, ETag, EncodingType, ListObjectVersionsInput, ListObjectVersionsOutput,
    ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object, ObjectStorageClass,
    ObjectVersion, ObjectVersionStorageClass, Owner,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::s3::notify::encode_key;
use crate::s3::operations::objects::{LocalS3, timestamp};
use crate::s3::rows::listing::{self, Entry, Listing, MAX_PAGE_ENTRIES, Page, Resume, Shown};
use crate::s3::rows::versions::{Content, VersionId, VersionRow};
use crate::s3::{LOCAL_ACCESS_KEY_ID, StoreError};

impl LocalS3 {
    pub(crate) async fn list_by_token(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let encoding = Encoding::of(input.encoding_type.as_ref());
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let resume = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => Some(Resume::from_token(token).ok_or_else(|| {
                s3_error!(
                    InvalidArgument,
                    "the continuation token is not one that a listing of this stack gave out"
                )
            })?),
            (None, Some(key)) => Some(Resume::after(key, &prefix, delimiter.as_deref())),
            (None, None) => None,
        };
        let page =
            self.page(&input.bucket, Shown::Objects, prefix, delimiter, resume, input.max_keys).await?;
        let key_count = i32::try_from(page.entries.len()).ok();
        let next_continuation_token = page.next().as_ref().map(Resume::to_token);
        let (contents, common_prefixes) = encoding.objects(page, input.fetch_owner.unwrap_or(false));
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| encoding.apply(&prefix)),
            delimiter: input.delimiter.map(|delimiter| encoding.apply(&delimiter)),
            start_after: input.start_after.map(|key| encoding.apply(&key)),
            max_keys: Some(max_keys(input.max_keys)),
            encoding_type: input.encoding_type,
            continuation_token: input.continuation_token,
            is_truncated: Some(next_continuation_token.is_some()),
            next_continuation_token,
            key_count,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            ..Default::default()
        }))
    }

    pub(crate) async fn list_by_marker(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let encoding = Encoding::of(input.encoding_type.as_ref());
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let marker = input.marker.as_deref().filter(|marker| !marker.is_empty());
        let resume = marker.map(|marker| Resume::after(marker, &prefix, delimiter.as_deref()));
        let page =
            self.page(&input.bucket, Shown::Objects, prefix, delimiter, resume, input.max_keys).await?;
        let next_marker = page.resume_entry().map(|last| encoding.marker(last));
        let (contents, common_prefixes) = encoding.objects(page, true);
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| encoding.apply(&prefix)),
            delimiter: input.delimiter.map(|delimiter| encoding.apply(&delimiter)),
            marker: Some(encoding.apply(input.marker.as_deref().unwrap_or(""))),
            max_keys: Some(max_keys(input.max_keys)),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_marker.is_some()),
            next_marker,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            ..Default::default()
        }))
    }

    /// Lists versions; newest first, and delete markers in an element of their own, as the types of S3 have them.
    pub(crate) async fn list_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        let encoding = Encoding::of(input.encoding_type.as_ref());
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let key_marker = input.key_marker.as_deref().filter(|marker| !marker.is_empty());
        let (resume, behind) = match (key_marker, input.version_id_marker.as_deref()) {
            (None, None) => (None, None),
            (None, Some(_)) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "a version-id-marker needs the key-marker that belongs to it"
                ));
            }
            (Some(key), None) => (Some(Resume::after(key, &prefix, delimiter.as_deref())), None),
            (Some(key), Some(id)) => {
                let id = VersionId::parse(id).ok_or_else(|| {
                    s3_error!(InvalidArgument, "`{id}` is not a version id that this stack gave out")
                })?;
                (Some(Resume::AfterKey(key.to_owned())), Some(id))
            }
        };
        let shown = Shown::Versions { behind };
        let page = self.page(&input.bucket, shown, prefix, delimiter, resume, input.max_keys).await?;
        let is_truncated = Some(page.is_truncated);
        let next_key_marker = page.resume_entry().map(|last| encoding.marker(last));
        let next_version_id_marker = page.resume_entry().and_then(|last| match last {
            Entry::Version(version) => Some(version.id.to_string()),
            Entry::Prefix(_) => None,
        });
        let (mut versions, mut delete_markers, mut common_prefixes) = (Vec::new(), Vec::new(), Vec::new());
        for entry in page.entries {
            match entry {
                Entry::Version(version) => match &version.content {
                    Some(content) => versions.push(encoding.version(&version, content)),
                    None => delete_markers.push(encoding.delete_marker(&version)),
                },
                Entry::Prefix(prefix) => {
                    common_prefixes.push(CommonPrefix { prefix: Some(encoding.apply(&prefix)) });
                }
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| encoding.apply(&prefix)),
            delimiter: input.delimiter.map(|delimiter| encoding.apply(&delimiter)),
            key_marker: Some(encoding.apply(input.key_marker.as_deref().unwrap_or(""))),
            version_id_marker: input.version_id_marker,
            max_keys: Some(max_keys(input.max_keys)),
            encoding_type: input.encoding_type,
            is_truncated,
            next_key_marker,
            next_version_id_marker,
            versions: Some(versions),
            delete_markers: Some(delete_markers),
            common_prefixes: Some(common_prefixes),
            ..Default::default()
        }))
    }

    async fn page(
        &self,
        bucket: &str,
        shown: Shown,
        prefix: String,
        delimiter: Option<String>,
        resume: Option<Resume>,
        asked: Option<i32>,
    ) -> S3Result<Page> {
        if asked.is_some_and(|asked| asked < 0) {
            return Err(s3_error!(InvalidArgument, "max-keys must be 0 or more"));
        }
        self.require_bucket(bucket).await?;
        let max_entries = usize::try_from(max_keys(asked)).unwrap_or(0);
        let listing = Listing { bucket: bucket.to_owned(), shown, prefix, delimiter, resume, max_entries };
        let page = self.state.read(move |connection| listing::page(connection, &listing)).await;
        Ok(page.map_err(StoreError::from)?)
    }
}

/// How keys are written in a listing: XML cannot carry every character, so clients ask for encoded ones.
#[derive(Debug, Clone, Copy)]
struct Encoding {
    url: bool,
}

impl Encoding {
    fn of(asked: Option<&EncodingType>) -> Self {
        Self { url: asked.is_some_and(|kind| kind.as_str() == EncodingType::URL) }
    }

    fn apply(self, text: &str) -> String {
        if self.url { encode_key(text) } else { text.to_owned() }
    }

    /// The marker by which a client asks for what follows this entry.
    fn marker(self, last: &Entry) -> String {
        match last {
            Entry::Version(version) => self.apply(&version.key),
            Entry::Prefix(prefix) => self.apply(prefix),
        }
    }

    fn objects(self, page: Page, with_owner: bool) -> (Vec<Object>, Vec<CommonPrefix>) {
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for entry in page.entries {
            match entry {
                Entry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(self.apply(&prefix)) }),
                // A listing of objects has no markers: a deleted key is not there.
                Entry::Version(VersionRow { key, modified_s, content, .. }) => {
                    objects.extend(content.map(|content| Object {
                        key: Some(self.apply(&key)),
                        size: i64::try_from(content.size_bytes).ok(),
                        e_tag: Some(ETag::Strong(content.etag)),
                        last_modified: Some(timestamp(modified_s)),
                        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                        owner: with_owner.then(owner),
                        ..Default::default()
                    }));
                }
            }
        }
        (objects, prefixes)
    }

    fn version(self, version: &VersionRow, content: &Content) -> ObjectVersion {
        ObjectVersion {
            key: Some(self.apply(&version.key)),
            version_id: Some(version.id.to_string()),
            is_latest: Some(version.is_latest),
            size: i64::try_from(content.size_bytes).ok(),
            e_tag: Some(ETag::Strong(content.etag.clone())),
            last_modified: Some(timestamp(version.modified_s)),
            storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
            owner: Some(owner()),
            ..Default::default()
        }
    }

    fn delete_marker(self, marker: &VersionRow) -> DeleteMarkerEntry {
        DeleteMarkerEntry {
            key: Some(self.apply(&marker.key)),
            version_id: Some(marker.id.to_string()),
            is_latest: Some(marker.is_latest),
            last_modified: Some(timestamp(marker.modified_s)),
            owner: Some(owner()),
        }
    }
}

fn max_keys(asked: Option<i32>) -> i32 {
    let most = i32::try_from(MAX_PAGE_ENTRIES).unwrap_or(i32::MAX);
    asked.unwrap_or(most).min(most)
}

pub(crate) fn owner() -> Owner {
    Owner { display_name: None, id: Some(LOCAL_ACCESS_KEY_ID.to_owned()) }
}
