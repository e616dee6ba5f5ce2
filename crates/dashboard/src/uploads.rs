//! Uploads from the page: signed links that put one image of one size and type at one key, straight into the input bucket.
//!
//! It never takes an image itself and never signs for another bucket. What a link can put is an image that may be
//! classified by its name and size; each part of a large one has its own link with its own size.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Dashboard;
use crate::pictures::signing::{self, Signed};
use crate::request::parameters::{JsonBody, shown};
use crate::request::problem::Problem;
use giemsa_core::digest::hex;
use giemsa_core::object::MAX_KEY_BYTES;
use giemsa_image::ImageFormat;

/// Files of one request.
const MAX_FILES: usize = 100;

/// Larger files go in parts, so that a broken connection costs one part.
const PART_BYTES: u64 = 8 << 20;

/// Parts of one file; a file that would have more gets larger parts.
const MAX_PARTS: u64 = 100;

/// Requests to S3 at once for one request of the page.
const CONCURRENCY: usize = 16;

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new()
        .route("/api/uploads", post(sign_uploads))
        .route("/api/uploads/parts", post(sign_parts))
        .route("/api/uploads/complete", post(complete))
        .route("/api/uploads/abort", post(abort))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Uploads {
    files: Vec<NewFile>,
}

/// A file as the browser knows it.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewFile {
    /// Its path in what was dropped, e.g. `slide-001/cell.png`; it becomes the key.
    name: String,
    size_bytes: u64,
    /// What the browser takes it for; empty if it does not know.
    #[serde(default)]
    content_type: String,
}

/// What the page does to upload one file, or why it cannot.
#[derive(Debug, Serialize)]
struct Upload {
    name: String,
    #[serde(flatten)]
    how: How,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum How {
    Put {
        key: String,
        replaces: bool,
        #[serde(flatten)]
        link: Signed,
    },
    Parts {
        key: String,
        replaces: bool,
        upload_id: String,
        part_size_bytes: u64,
        parts: Vec<PartLink>,
        expires_at: DateTime<Utc>,
    },
    Problem {
        problem: Detail,
    },
}

#[derive(Debug, Serialize)]
struct Detail {
    detail: String,
}

#[derive(Debug, Serialize)]
struct PartLink {
    number: u64,
    url: String,
}

/// An upload in parts as the page names it.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenUpload {
    key: String,
    upload_id: String,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct MoreParts {
    key: String,
    upload_id: String,
    parts: Vec<u64>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Completion {
    key: String,
    upload_id: String,
    parts: Vec<DonePart>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct DonePart {
    number: u64,
    etag: String,
}

async fn sign_uploads(
    State(dashboard): State<Arc<Dashboard>>,
    JsonBody(Uploads { files }): JsonBody<Uploads>,
) -> Result<Json<Value>, Problem> {
    if files.is_empty() || files.len() > MAX_FILES {
        let detail = format!("files holds {}; expected 1 to {MAX_FILES} files a request", files.len());
        return Err(Problem::bad_parameter("files", detail));
    }
    let mut keys = BTreeSet::new();
    let checked = files.into_iter().map(|file| {
        let format = dashboard.check_file(&file).and_then(|format| match keys.insert(file.name.clone()) {
            true => Ok(format),
            false => Err("the name is given twice in one request; expected each file once".to_owned()),
        });
        (file, format)
    });
    let checked: Vec<_> = checked.collect();
    let uploads = stream::iter(checked).map(|(file, format)| sign_upload(&dashboard, file, format));
    let uploads: Vec<Upload> = uploads.buffered(CONCURRENCY).try_collect().await?;
    Ok(Json(json!({ "uploads": uploads })))
}

async fn sign_upload(
    dashboard: &Dashboard,
    file: NewFile,
    format: Result<ImageFormat, String>,
) -> Result<Upload, Problem> {
    let name = file.name.clone();
    let format = match format {
        Ok(format) => format,
        Err(detail) => return Ok(Upload { name, how: How::Problem { problem: Detail { detail } } }),
    };
    let (key, size_bytes) = (file.name, file.size_bytes);
    let replaces = head(dashboard, &key).await?.is_some();
    if size_bytes <= PART_BYTES {
        let put = dashboard.s3.put_object().bucket(&dashboard.buckets.input).key(&key);
        let put = put.content_type(format.media_type()).content_length(signing::length(size_bytes));
        let config = signing::until(dashboard.limits.link_lifetime);
        let link = put.presigned(config.clone()).await.map_err(|error| signing::failed(&error))?;
        return Ok(Upload { name, how: How::Put { key, replaces, link: Signed::of(&link, &config) } });
    }
    let create = dashboard.s3.create_multipart_upload().bucket(&dashboard.buckets.input).key(&key);
    let created = create.content_type(format.media_type()).send().await;
    let created = created.map_err(|error| unavailable(&DisplayErrorContext(&error)))?;
    let plan = Plan { size_bytes, id: created.upload_id().unwrap_or_default().to_owned() };
    let numbers: Vec<u64> = (1..=plan.parts()).collect();
    let (parts, expires_at) = sign_each(dashboard, &key, &plan, numbers).await?;
    let (upload_id, part_size_bytes) = (plan.to_text(), plan.part_bytes());
    Ok(Upload { name, how: How::Parts { key, replaces, upload_id, part_size_bytes, parts, expires_at } })
}

async fn sign_parts(
    State(dashboard): State<Arc<Dashboard>>,
    JsonBody(MoreParts { key, upload_id, parts }): JsonBody<MoreParts>,
) -> Result<Json<Value>, Problem> {
    let plan = dashboard.check_open(&key, &upload_id)?;
    if parts.is_empty() || parts.iter().any(|number| !(1..=plan.parts()).contains(number)) {
        let detail = format!("parts is {:?}; expected numbers from 1 to {}", parts, plan.parts());
        return Err(Problem::bad_parameter("parts", shown(&detail)));
    }
    let numbers = BTreeSet::from_iter(parts).into_iter().collect();
    let (parts, expires_at) = sign_each(&dashboard, &key, &plan, numbers).await?;
    Ok(Json(json!({ "key": key, "upload_id": upload_id, "parts": parts, "expires_at": expires_at })))
}

async fn sign_each(
    dashboard: &Dashboard,
    key: &str,
    plan: &Plan,
    numbers: Vec<u64>,
) -> Result<(Vec<PartLink>, DateTime<Utc>), Problem> {
    let config = signing::until(dashboard.limits.link_lifetime);
    let mut parts = Vec::with_capacity(numbers.len());
    for number in numbers {
        let part = dashboard.s3.upload_part().bucket(&dashboard.buckets.input).key(key).upload_id(&plan.id);
        let part = part.part_number(part_number(number));
        let part = part.content_length(signing::length(plan.bytes_of(number)));
        let link = part.presigned(config.clone()).await.map_err(|error| signing::failed(&error))?;
        parts.push(PartLink { number, url: link.uri().to_owned() });
    }
    Ok((parts, signing::end_of(&config)))
}

async fn complete(
    State(dashboard): State<Arc<Dashboard>>,
    JsonBody(Completion { key, upload_id, mut parts }): JsonBody<Completion>,
) -> Result<Json<Value>, Problem> {
    let plan = dashboard.check_open(&key, &upload_id)?;
    parts.sort_by_key(|part| part.number);
    if !parts.iter().map(|part| part.number).eq(1..=plan.parts()) {
        let detail = format!("parts holds {} of them; expected each of 1 to {}", parts.len(), plan.parts());
        return Err(Problem::bad_parameter("parts", detail));
    }
    let done = parts
        .iter()
        .map(|part| CompletedPart::builder().part_number(part_number(part.number)).e_tag(&part.etag).build());
    let done = CompletedMultipartUpload::builder().set_parts(Some(done.collect())).build();
    let complete = dashboard.s3.complete_multipart_upload().bucket(&dashboard.buckets.input).key(&key);
    let Err(error) = complete.upload_id(&plan.id).multipart_upload(done).send().await else {
        return Ok(Json(json!({ "key": key })));
    };
    match error.code() {
        Some("NoSuchUpload") => {
            // The answer to an earlier request may have been lost on its way.
            let expected = whole_etag(&parts);
            let there = head(&dashboard, &key).await?;
            if there
                .and_then(|found| found.e_tag)
                .is_some_and(|etag| Some(bare(&etag)) == expected.as_deref())
            {
                return Ok(Json(json!({ "key": key })));
            }
            Err(Problem::not_found(format!(
                "the upload of {:?} is not open any more: it was aborted or took too long; upload the file again",
                shown(&key)
            )))
        }
        Some("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" | "MalformedXML") => {
            let detail = format!(
                "the parts of {:?} do not fit what was uploaded: {}; upload the file again",
                shown(&key),
                error.message().unwrap_or_default()
            );
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        _ => Err(unavailable(&DisplayErrorContext(&error))),
    }
}

async fn abort(
    State(dashboard): State<Arc<Dashboard>>,
    JsonBody(OpenUpload { key, upload_id }): JsonBody<OpenUpload>,
) -> Result<StatusCode, Problem> {
    let plan = dashboard.check_open(&key, &upload_id)?;
    let abort = dashboard.s3.abort_multipart_upload().bucket(&dashboard.buckets.input).key(&key);
    match abort.upload_id(&plan.id).send().await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error) if error.code() == Some("NoSuchUpload") => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(unavailable(&DisplayErrorContext(&error))),
    }
}

impl Dashboard {
    /// The format of a file by its name, or a sentence that says why it is not taken.
    fn check_file(&self, file: &NewFile) -> Result<ImageFormat, String> {
        let format = check_name(&file.name)?;
        let content_type = &file.content_type;
        if !content_type.is_empty() && !content_type.starts_with("image/") {
            return Err(format!("the file is {:?}; expected an image", shown(content_type)));
        }
        let most = self.limits.max_object_bytes;
        match file.size_bytes {
            0 => Err("the file is empty; expected an image".to_owned()),
            size if size > most => Err(format!(
                "the file has {size} bytes, more than the {most} allowed; export it at a lower resolution or compressed"
            )),
            _ => Ok(format),
        }
    }

    fn check_open(&self, key: &str, upload_id: &str) -> Result<Plan, Problem> {
        check_name(key).map_err(|detail| Problem::bad_parameter("key", detail))?;
        let plan = Plan::parse(upload_id).filter(|plan| plan.size_bytes <= self.limits.max_object_bytes);
        plan.ok_or_else(|| {
            let expected = "expected the upload_id that POST /api/uploads answered";
            Problem::bad_parameter("upload_id", format!("upload_id is {:?}; {expected}", shown(upload_id)))
        })
    }
}

/// The format that a file's name says, or a sentence that says why nothing can be uploaded under it.
fn check_name(name: &str) -> Result<ImageFormat, String> {
    let quoted = || format!("the name {:?}", shown(name));
    if name.len() > MAX_KEY_BYTES {
        return Err(format!("{} has {} bytes; expected at most {MAX_KEY_BYTES}", quoted(), name.len()));
    }
    // XML cannot hold the last two, so that no listing could show them.
    let is_unwritable = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    if name.chars().any(is_unwritable) {
        return Err(format!("{} holds a control character; expected none: rename the file", quoted()));
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!(
            "{} has a part that is empty, `.` or `..`; expected a relative path such as slide-001/cell.png",
            quoted()
        ));
    }
    let ending = name.rsplit('/').next().and_then(|file| file.rsplit_once('.'));
    let ending = ending.map(|(_, ending)| ending.to_lowercase()).unwrap_or_default();
    let format = ImageFormat::ALL.into_iter().find(|format| format.extensions().contains(&ending.as_str()));
    format.ok_or_else(|| {
        let known: Vec<String> = extensions().collect();
        format!("{} does not end like an image; expected one of {}", quoted(), known.join(", "))
    })
}

/// Endings of names that are taken, with their dots.
pub(crate) fn extensions() -> impl Iterator<Item = String> {
    ImageFormat::ALL.into_iter().flat_map(ImageFormat::extensions).map(|ending| format!(".{ending}"))
}

/// An open upload in parts: what the page gets as one opaque text.
///
/// The size goes with S3's own id, so that fresh links for parts are signed for the same sizes as the first ones. Whoever
/// changes it gets links for other sizes, within the limit all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    size_bytes: u64,
    id: String,
}

impl Plan {
    fn to_text(&self) -> String {
        format!("{}.{}", self.size_bytes, self.id)
    }

    fn parse(text: &str) -> Option<Self> {
        let (size, id) = text.split_once('.')?;
        let size_bytes = size.parse().ok().filter(|size| *size > PART_BYTES)?;
        (!id.is_empty()).then(|| Self { size_bytes, id: id.to_owned() })
    }

    /// A whole number of MiB, so that there are at most [`MAX_PARTS`].
    fn part_bytes(&self) -> u64 {
        (self.size_bytes.div_ceil(MAX_PARTS).div_ceil(1 << 20) << 20).max(PART_BYTES)
    }

    fn parts(&self) -> u64 {
        self.size_bytes.div_ceil(self.part_bytes())
    }

    /// Size of a part, from 1 to [`parts`](Self::parts).
    fn bytes_of(&self, number: u64) -> u64 {
        self.part_bytes().min(self.size_bytes - (number - 1) * self.part_bytes())
    }
}

fn part_number(number: u64) -> i32 {
    i32::try_from(number).expect("there are at most 100 parts")
}

/// The ETag that S3 gives an object of these parts: MD5 of their MD5s, and their count.
fn whole_etag(parts: &[DonePart]) -> Option<String> {
    let mut md5 = Md5::new();
    for part in parts {
        let digest = bare(&part.etag);
        let bytes = digest
            .as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        md5.update(bytes.collect::<Option<Vec<u8>>>()?);
    }
    Some(format!("{}-{}", hex(&md5.finalize()), parts.len()))
}

fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// What is at a key of the input bucket now.
async fn head(dashboard: &Dashboard, key: &str) -> Result<Option<HeadObjectOutput>, Problem> {
    match dashboard.s3.head_object().bucket(&dashboard.buckets.input).key(key).send().await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => Ok(None),
        Err(error) => Err(unavailable(&DisplayErrorContext(&error))),
    }
}

fn unavailable(detail: &dyn std::fmt::Display) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("S3 does not answer: {detail}; try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_keys_or_sentences() {
        for name in [
            "cell.png",
            "slide 1/field/cell.TIFF",
            "<script>alert(1)</script>.png",
            "=cmd()|' /C calc'!A0.jpg",
            "\u{202e}gnp.exe.png",
            "日本/é+%41.webp",
            "back\\slash.bmp",
            "...png",
            "a/..png",
        ] {
            assert!(check_name(name).is_ok(), "{name:?}: {:?}", check_name(name));
        }
        let long = format!("{}.png", "x".repeat(1_021));
        for (name, part) in [
            ("", "empty"),
            ("/etc/cell.png", "relative path"),
            ("../cell.png", "relative path"),
            ("a/../../cell.png", "relative path"),
            ("a/./cell.png", "relative path"),
            ("a//cell.png", "relative path"),
            ("a/", "relative path"),
            ("cell.png\r\nX-Evil: 1", "control character"),
            ("cell\0.png", "control character"),
            ("cell\u{85}.png", "control character"),
            ("cell\u{ffff}.png", "control character"),
            ("cell", "does not end like an image"),
            ("cell.svg", ".png"),
            ("cell.png/notes", "does not end like an image"),
            ("cell.png.exe", "does not end like an image"),
            (long.as_str(), "at most 1024"),
        ] {
            let problem = check_name(name).unwrap_err();
            assert!(problem.contains(part), "{name:?}: {problem}");
        }
    }

    #[test]
    fn parts_add_up_to_the_file() {
        for (size_bytes, parts) in [(PART_BYTES + 1, 2), (32 << 20, 4), (800 << 20, 100), (5 << 30, 99)] {
            let plan = Plan { size_bytes, id: "a.b".to_owned() };
            assert_eq!(plan.parts(), parts, "{size_bytes}");
            assert_eq!((1..=parts).map(|number| plan.bytes_of(number)).sum::<u64>(), size_bytes);
            assert_eq!(Plan::parse(&plan.to_text()), Some(plan));
        }
        for text in ["", "abc", "1.", "-1.x", "100.x", "x.9000000", ".9000000"] {
            assert_eq!(Plan::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_etag_of_parts_is_that_of_s3() {
        // Two parts of five bytes, `hello` and `world`: md5(md5(hello) + md5(world)).
        let part = |number, etag: &str| DonePart { number, etag: format!("\"{etag}\"") };
        let parts =
            [part(1, "5d41402abc4b2a76b9719d911017c592"), part(2, "7d793037a0760186574b0282f2f435e7")];
        assert_eq!(whole_etag(&parts).unwrap(), "065947336a2f2a95ba8899f3675c3be6-2");
        assert_eq!(whole_etag(&[part(1, "not hex")]), None);
    }
}
