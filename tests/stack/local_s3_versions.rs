//! Versioning of the local S3 over real HTTP with the real SDK: what AWS documents of versions, delete markers and the
//! version `null`; and what is kept on disk.

use std::collections::BTreeMap;
use std::path::Path;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, Delete, EncodingType, MetadataDirective,
    ObjectIdentifier, VersioningConfiguration,
};
use giemsa_core::record::{Record, Status};
use giemsa_local::RESULTS_BUCKET;
use giemsa_store::aws::Clients;
use giemsa_tests::local_s3_stack::{INPUT, MODELS, Stack, decoded, status};
use giemsa_tests::running_stack::{RunningStack, project};

/// A version as a listing shows it, in its place: key, id, whether it is the latest, whether it is a delete marker.
type Listed = (String, String, bool, bool);

async fn versioned(folder: &Path) -> Stack {
    let stack = Stack::start(folder).await;
    set_versioning(&stack, BucketVersioningStatus::Enabled).await;
    stack
}

async fn set_versioning(stack: &Stack, status: BucketVersioningStatus) {
    let configuration = VersioningConfiguration::builder().status(status).build();
    let put = stack.s3.put_bucket_versioning().bucket(INPUT).versioning_configuration(configuration);
    put.send().await.unwrap();
}

/// Puts an object and returns the version id of the answer.
async fn put(stack: &Stack, key: &str, body: &str) -> Option<String> {
    let body = ByteStream::from(body.as_bytes().to_vec());
    stack.s3.put_object().bucket(INPUT).key(key).body(body).send().await.unwrap().version_id
}

/// The content of a version, and the id that the answer names.
async fn get_version(
    stack: &Stack,
    key: &str,
    version: &str,
) -> Result<(String, Option<String>), SdkError<GetObjectError>> {
    let object = stack.s3.get_object().bucket(INPUT).key(key).version_id(version).send().await?;
    let version_id = object.version_id.clone();
    let bytes = object.body.collect().await.unwrap().to_vec();
    Ok((String::from_utf8(bytes).unwrap(), version_id))
}

fn header<E>(error: &SdkError<E>, name: &str) -> Option<String> {
    error.raw_response().unwrap().headers().get(name).map(str::to_owned)
}

/// Deletes a key or a version, and returns the version and the delete marker that the answer names.
async fn delete(stack: &Stack, key: &str, version: Option<&str>) -> (Option<String>, Option<bool>) {
    let request = stack.s3.delete_object().bucket(INPUT).key(key).set_version_id(version.map(str::to_owned));
    let deleted = request.send().await.unwrap();
    (deleted.version_id, deleted.delete_marker)
}

fn entries(page: &ListObjectVersionsOutput) -> Vec<Listed> {
    let text = |text: Option<&str>| text.unwrap().to_owned();
    let versions = page.versions().iter().map(|version| {
        (text(version.key()), text(version.version_id()), version.is_latest().unwrap(), false)
    });
    let markers = page
        .delete_markers()
        .iter()
        .map(|marker| (text(marker.key()), text(marker.version_id()), marker.is_latest().unwrap(), true));
    versions.chain(markers).collect()
}

/// All versions of the bucket in one page, by key; those of a key newest first.
async fn all_versions(stack: &Stack) -> Vec<Listed> {
    let page = stack.s3.list_object_versions().bucket(INPUT).send().await.unwrap();
    assert_eq!(page.is_truncated(), Some(false));
    let mut entries = entries(&page);
    // The ids of this stack rise with time, and `null` is in these tests the oldest.
    entries.sort_by(|a, b| {
        let age = |id: &String| if id == "null" { String::new() } else { id.clone() };
        (&a.0, age(&b.1)).cmp(&(&b.0, age(&a.1)))
    });
    entries
}

#[tokio::test]
async fn every_write_is_a_version_with_its_own_content_and_notification() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let key = "slide 1/cell+é.png";
    let first = put(&stack, key, "first").await.unwrap();
    let second = put(&stack, key, "second").await.unwrap();
    let copy = stack
        .s3
        .copy_object()
        .bucket(INPUT)
        .key(key)
        .copy_source(format!("{INPUT}/slide%201/cell%2B%C3%A9.png"));
    let copied = copy.metadata_directive(MetadataDirective::Replace).send().await.unwrap();
    assert_eq!(copied.copy_source_version_id(), Some(second.as_str()));
    let third = copied.version_id.unwrap();

    let create = stack.s3.create_multipart_upload().bucket(INPUT).key(key).send().await.unwrap();
    let id = create.upload_id.unwrap();
    let part = stack.s3.upload_part_copy().bucket(INPUT).key(key).upload_id(&id).part_number(1);
    let part = part
        .copy_source(format!("{INPUT}/slide%201/cell%2B%C3%A9.png?versionId={first}"))
        .send()
        .await
        .unwrap();
    assert_eq!(part.copy_source_version_id(), Some(first.as_str()));
    let e_tag = part.copy_part_result.unwrap().e_tag.unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(e_tag).build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let complete = stack.s3.complete_multipart_upload().bucket(INPUT).key(key).upload_id(&id);
    let fourth = complete.multipart_upload(parts).send().await.unwrap().version_id.unwrap();

    let ids = [&first, &second, &third, &fourth];
    assert!(ids.is_sorted_by(|a, b| a < b), "later ids are greater: {ids:?}");
    for (id, content) in ids.iter().zip(["first", "second", "second", "first"]) {
        assert!(id.len() <= 1_024 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        let (found, named) = get_version(&stack, key, id).await.unwrap();
        assert_eq!((found.as_str(), named.as_ref()), (content, Some(*id)));
        let head = stack.s3.head_object().bucket(INPUT).key(key).version_id(*id).send().await.unwrap();
        assert_eq!(
            (head.version_id(), head.content_length()),
            (Some(id.as_str()), Some(content.len() as i64))
        );
    }
    let latest = stack.s3.get_object().bucket(INPUT).key(key).send().await.unwrap();
    assert_eq!(latest.version_id(), Some(fourth.as_str()));
    let listed: Vec<Listed> =
        ids.iter().rev().map(|id| (key.to_owned(), (*id).clone(), *id == &fourth, false)).collect();
    assert_eq!(all_versions(&stack).await, listed);
    assert_eq!(stack.listed().await, [key], "a listing of objects shows the latest only");
    assert_eq!(stack.files().len(), 3, "each version is a file, a copy shares that of its source");

    for queue in ["dev", "prod"] {
        let events = stack.notifications(queue).await;
        let notified: Vec<&str> = events
            .iter()
            .map(|event| event["Records"][0]["s3"]["object"]["versionId"].as_str().unwrap())
            .collect();
        assert_eq!(notified, ids, "{queue}");
    }
}

#[tokio::test]
async fn a_deletion_hides_and_a_deleted_version_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let first = put(&stack, "k", "first").await.unwrap();
    let second = put(&stack, "k", "second").await.unwrap();
    let (marker, is_marker) = delete(&stack, "k", None).await;
    let marker = marker.unwrap();
    assert_eq!(is_marker, Some(true));

    let get = stack.s3.get_object().bucket(INPUT).key("k").send().await.unwrap_err();
    assert_eq!((status(&get), get.code()), (404, Some("NoSuchKey")));
    let head = stack.s3.head_object().bucket(INPUT).key("k").send().await.unwrap_err();
    assert_eq!(status(&head), 404);
    let of_marker = get_version(&stack, "k", &marker).await.unwrap_err();
    assert_eq!((status(&of_marker), of_marker.code()), (405, Some("MethodNotAllowed")));
    assert_eq!(header(&of_marker, "allow").as_deref(), Some("DELETE"));
    assert!(header(&of_marker, "last-modified").is_some());
    let head_marker =
        stack.s3.head_object().bucket(INPUT).key("k").version_id(&marker).send().await.unwrap_err();
    assert_eq!(status(&head_marker), 405);
    for (what, id, flag) in [
        ("get", header(&get, "x-amz-version-id"), header(&get, "x-amz-delete-marker")),
        ("head", header(&head, "x-amz-version-id"), header(&head, "x-amz-delete-marker")),
        ("get the marker", header(&of_marker, "x-amz-version-id"), header(&of_marker, "x-amz-delete-marker")),
        (
            "head the marker",
            header(&head_marker, "x-amz-version-id"),
            header(&head_marker, "x-amz-delete-marker"),
        ),
    ] {
        assert_eq!((id.as_deref(), flag.as_deref()), (Some(marker.as_str()), Some("true")), "{what}");
    }
    assert_eq!(get_version(&stack, "k", &second).await.unwrap().0, "second", "hidden is not gone");
    assert_eq!(stack.listed().await, Vec::<String>::new());
    let k = |id: &String, latest, is_marker| ("k".to_owned(), id.clone(), latest, is_marker);
    assert_eq!(
        all_versions(&stack).await,
        [k(&marker, true, true), k(&second, false, false), k(&first, false, false)]
    );
    assert_eq!(stack.notifications("prod").await.len(), 2, "a deletion is not notified");

    assert_eq!(delete(&stack, "k", Some(&marker)).await, (Some(marker.clone()), Some(true)));
    assert_eq!(stack.get("k").await.unwrap(), b"second", "without its marker it is back");
    assert_eq!(delete(&stack, "k", Some(&second)).await, (Some(second.clone()), None));
    assert_eq!(stack.get("k").await.unwrap(), b"first", "the version before is the latest again");
    assert_eq!(all_versions(&stack).await, [k(&first, true, false)]);
    let gone = get_version(&stack, "k", &second).await.unwrap_err();
    assert_eq!((status(&gone), gone.code()), (404, Some("NoSuchVersion")));
    assert_eq!(stack.files().len(), 1, "a version deleted for good frees its file");
    // What is not there is deleted already.
    assert_eq!(delete(&stack, "k", Some(&second)).await, (Some(second), None));
    assert_eq!(delete(&stack, "k", Some(&first)).await, (Some(first), None));
    assert_eq!(all_versions(&stack).await, []);
    assert!(stack.files().is_empty());
    // S3 makes a marker also where nothing was.
    let (never_there, is_marker) = delete(&stack, "never there", None).await;
    assert_eq!(is_marker, Some(true));
    assert_eq!(all_versions(&stack).await, [("never there".to_owned(), never_there.unwrap(), true, true)]);
}

#[tokio::test]
async fn many_are_deleted_at_once_by_key_and_by_version() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let old = put(&stack, "a", "old").await.unwrap();
    put(&stack, "a", "new").await;
    put(&stack, "b", "b").await;
    let (marker, _) = delete(&stack, "c", None).await;
    let marker = marker.unwrap();
    let object = |key: &str, version: Option<&str>| {
        ObjectIdentifier::builder().key(key).set_version_id(version.map(str::to_owned)).build().unwrap()
    };
    let objects = [
        object("a", Some(&old)),
        object("b", None),
        object("c", Some(&marker)),
        object("a", Some("no-such")),
    ];
    let delete = Delete::builder().set_objects(Some(objects.to_vec())).build().unwrap();
    let answer = stack.s3.delete_objects().bucket(INPUT).delete(delete).send().await.unwrap();
    let deleted: Vec<_> = answer
        .deleted()
        .iter()
        .map(|one| {
            (one.key().unwrap(), one.version_id(), one.delete_marker(), one.delete_marker_version_id())
        })
        .collect();
    let made = deleted[1].3.expect("the marker of b");
    assert_eq!(
        deleted,
        [
            ("a", Some(old.as_str()), None, None),
            ("b", None, Some(true), Some(made)),
            ("c", Some(marker.as_str()), Some(true), Some(marker.as_str())),
        ]
    );
    let refused: Vec<_> =
        answer.errors().iter().map(|one| (one.key(), one.version_id(), one.code())).collect();
    assert_eq!(refused, [(Some("a"), Some("no-such"), Some("NoSuchVersion"))]);
    assert_eq!(stack.get("a").await.unwrap(), b"new");
    assert_eq!(stack.get("b").await, None);
    let left: Vec<_> =
        all_versions(&stack).await.into_iter().map(|(key, .., marker)| (key, marker)).collect();
    assert_eq!(left, [("a".into(), false), ("b".into(), true), ("b".into(), false)]);
}

#[tokio::test]
async fn null_versions_are_kept_replaced_and_deleted_by_the_state_of_the_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let status_of = async |bucket: &str| {
        stack.s3.get_bucket_versioning().bucket(bucket).send().await.unwrap().status().cloned()
    };
    assert_eq!(status_of(INPUT).await, None);
    assert_eq!(put(&stack, "k", "before").await, None, "never versioned: nothing is named");
    assert_eq!(get_version(&stack, "k", "null").await.unwrap(), ("before".into(), None));
    assert_eq!(all_versions(&stack).await, [("k".into(), "null".into(), true, false)]);

    set_versioning(&stack, BucketVersioningStatus::Enabled).await;
    assert_eq!(status_of(INPUT).await, Some(BucketVersioningStatus::Enabled));
    assert_eq!(status_of(MODELS).await, None);
    assert_eq!(get_version(&stack, "k", "null").await.unwrap(), ("before".into(), Some("null".into())));
    let second = put(&stack, "k", "second").await.unwrap();
    assert_eq!(get_version(&stack, "k", "null").await.unwrap().0, "before", "enabled: it is kept");

    set_versioning(&stack, BucketVersioningStatus::Suspended).await;
    assert_eq!(status_of(INPUT).await, Some(BucketVersioningStatus::Suspended));
    stack.notifications("prod").await;
    assert_eq!(put(&stack, "k", "third").await.as_deref(), Some("null"));
    assert_eq!(stack.get("k").await.unwrap(), b"third", "the version null is the latest now");
    assert_eq!(get_version(&stack, "k", &second).await.unwrap().0, "second");
    assert_eq!(stack.files().len(), 2, "suspended: the version null before is gone");
    let events = stack.notifications("prod").await;
    assert_eq!(events.len(), 1);
    assert!(events[0]["Records"][0]["s3"]["object"].get("versionId").is_none(), "{}", events[0]);

    assert_eq!(delete(&stack, "k", None).await, (Some("null".into()), Some(true)));
    assert_eq!(stack.get("k").await, None);
    assert_eq!(status(&get_version(&stack, "k", "null").await.unwrap_err()), 405);
    assert_eq!(
        delete(&stack, "k", None).await,
        (Some("null".into()), Some(true)),
        "one marker null, not two"
    );
    let listed = stack.s3.list_object_versions().bucket(INPUT).send().await.unwrap();
    assert_eq!(listed.delete_markers().len(), 1);
    assert_eq!(delete(&stack, "k", Some("null")).await, (Some("null".into()), Some(true)));
    assert_eq!(stack.get("k").await.unwrap(), b"second");
    assert_eq!(stack.files().len(), 1);

    // Everything of it outlives a restart.
    let stack = stack.restart().await;
    let kept = stack.s3.get_bucket_versioning().bucket(INPUT).send().await.unwrap();
    assert_eq!(kept.status(), Some(&BucketVersioningStatus::Suspended));
    assert_eq!(get_version(&stack, "k", &second).await.unwrap().0, "second");

    let without_status = stack.s3.put_bucket_versioning().bucket(INPUT);
    let without_status = without_status.versioning_configuration(VersioningConfiguration::builder().build());
    let refused = without_status.send().await.unwrap_err();
    assert_eq!(refused.code(), Some("IllegalVersioningConfigurationException"));
    let absent = stack.s3.get_bucket_versioning().bucket("no-such-bucket").send().await.unwrap_err();
    assert_eq!(absent.code(), Some("NoSuchBucket"));
}

#[tokio::test]
async fn a_copy_names_its_version_and_brings_an_old_one_back() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let first = put(&stack, "k", "first").await.unwrap();
    put(&stack, "k", "second").await;
    let (marker, _) = delete(&stack, "k", None).await;
    let copy = |source: String| stack.s3.copy_object().bucket(INPUT).key("k").copy_source(source);
    let deleted = copy(format!("{INPUT}/k")).metadata_directive(MetadataDirective::Replace);
    assert_eq!(deleted.send().await.unwrap_err().code(), Some("NoSuchKey"));
    let of_marker = copy(format!("{INPUT}/k?versionId={}", marker.unwrap())).send().await.unwrap_err();
    assert_eq!((status(&of_marker), of_marker.code()), (400, Some("InvalidRequest")));
    let unknown = copy(format!("{INPUT}/k?versionId=00000000000000ff")).send().await.unwrap_err();
    assert_eq!((status(&unknown), unknown.code()), (404, Some("NoSuchVersion")));
    assert_eq!(stack.get("k").await, None);

    let back = copy(format!("{INPUT}/k?versionId={first}")).send().await.unwrap();
    assert_eq!(back.copy_source_version_id(), Some(first.as_str()));
    assert!(back.version_id().is_some_and(|id| id > first.as_str()));
    assert_eq!(stack.get("k").await.unwrap(), b"first");
    assert_eq!(all_versions(&stack).await.len(), 4, "two writes, a marker, and the one brought back");
    // Into a bucket without versioning: the source has a version, the copy has none.
    let elsewhere = stack.s3.copy_object().bucket(MODELS).key("k");
    let elsewhere = elsewhere.copy_source(format!("{INPUT}/k?versionId={first}")).send().await.unwrap();
    assert_eq!((elsewhere.version_id(), elsewhere.copy_source_version_id()), (None, Some(first.as_str())));

    // The three of them share a file, which goes with the last of them.
    assert_eq!(stack.files().len(), 2);
    for id in [first.as_str(), back.version_id().unwrap()] {
        delete(&stack, "k", Some(id)).await;
    }
    let stack = stack.restart().await;
    let copy = stack.s3.get_object().bucket(MODELS).key("k").send().await.unwrap();
    assert_eq!(copy.body.collect().await.unwrap().to_vec(), b"first");
    stack.s3.put_object().bucket(MODELS).key("k").body(ByteStream::from_static(b"new")).send().await.unwrap();
    assert_eq!(stack.files().len(), 2, "the second version and what replaced the copy");
}

#[tokio::test]
async fn conditions_are_about_the_latest_version() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let old = stack.put("k", b"old").await;
    let old_id = all_versions(&stack).await.remove(0).1;
    let new = stack.put("k", b"new").await;
    let put = || stack.s3.put_object().bucket(INPUT).key("k").body(ByteStream::from_static(b"x"));
    assert_eq!(status(&put().if_match(&old).send().await.unwrap_err()), 412);
    assert_eq!(status(&put().if_none_match("*").send().await.unwrap_err()), 412);
    let refused = stack.s3.delete_object().bucket(INPUT).key("k").if_match(&old).send().await.unwrap_err();
    assert_eq!(status(&refused), 412);
    let get = || stack.s3.get_object().bucket(INPUT).key("k");
    assert_eq!(status(&get().if_match(&old).send().await.unwrap_err()), 412);
    get().if_match(&old).version_id(&old_id).send().await.expect("a read judges what it reads");
    assert_eq!(status(&get().if_none_match(&old).version_id(&old_id).send().await.unwrap_err()), 304);
    stack.s3.delete_object().bucket(INPUT).key("k").if_match(&new).send().await.unwrap();
    assert_eq!(
        status(&put().if_match(&new).send().await.unwrap_err()),
        412,
        "deleted: there is nothing to replace"
    );
    put().if_none_match("*").send().await.expect("deleted: the key is free");
    assert_eq!(all_versions(&stack).await.len(), 4, "a refused write or deletion is not a version");
}

#[tokio::test]
async fn versions_are_listed_in_pages_of_any_size_with_markers_in_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    for key in ["a", "a b", "s 1/x", "s 1/y", "s+2/x", "t"] {
        for content in ["1", "2"] {
            put(&stack, key, content).await;
        }
    }
    delete(&stack, "a b", None).await;
    put(&stack, "a b", "3").await;
    delete(&stack, "s 1/y", None).await;
    let whole = all_versions(&stack).await;
    assert_eq!(whole.len(), 15);
    let of_key = |wanted: &str| {
        whole
            .iter()
            .filter(|(key, ..)| key == wanted)
            .map(|(.., latest, marker)| (*latest, *marker))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_key("a b"), [(true, false), (false, true), (false, false), (false, false)]);
    assert_eq!(of_key("s 1/y"), [(true, true), (false, false), (false, false)]);

    for size in 1..=16 {
        let (mut found, mut key_marker, mut version_marker) = (Vec::new(), None, None);
        loop {
            let list = stack.s3.list_object_versions().bucket(INPUT).max_keys(size);
            let list = list.set_key_marker(key_marker).set_version_id_marker(version_marker);
            let page = list.send().await.unwrap();
            let mut listed = entries(&page);
            assert!(listed.len() <= usize::try_from(size).unwrap());
            // Markers come in an element of their own; within a page the rest is in order.
            listed.sort_by_key(|entry| whole.iter().position(|other| other == entry));
            found.extend(listed);
            if page.is_truncated() != Some(true) {
                break;
            }
            (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
        }
        assert_eq!(found, whole, "pages of {size}");
    }

    let list = || stack.s3.list_object_versions().bucket(INPUT);
    let page = list().delimiter("/").encoding_type(EncodingType::Url).send().await.unwrap();
    let prefixes: Vec<_> =
        page.common_prefixes().iter().map(|prefix| decoded(prefix.prefix().unwrap())).collect();
    assert_eq!(prefixes, ["s 1/", "s+2/"]);
    let keys: Vec<_> = page.versions().iter().map(|version| decoded(version.key().unwrap())).collect();
    assert_eq!(keys, ["a", "a", "a b", "a b", "a b", "t", "t"]);
    let page = list().prefix("s 1/").send().await.unwrap();
    assert_eq!((page.versions().len(), page.delete_markers().len()), (4, 1));
    let page = list().key_marker("s 1/y").max_keys(2).send().await.unwrap();
    assert!(
        page.versions().iter().all(|version| version.key() == Some("s+2/x")),
        "behind all versions of its key"
    );
    let page = list().delimiter("/").max_keys(6).send().await.unwrap();
    assert_eq!(
        (page.next_key_marker(), page.next_version_id_marker()),
        (Some("a b"), Some(whole[5].1.as_str()))
    );
    let page = list().delimiter("/").max_keys(7).send().await.unwrap();
    assert_eq!((page.next_key_marker(), page.next_version_id_marker()), (Some("s 1/"), None));
    let page = list().delimiter("/").key_marker("s 1/").send().await.unwrap();
    assert_eq!(
        (page.common_prefixes().len(), page.versions().len()),
        (1, 2),
        "a common prefix is skipped whole"
    );

    for (request, what) in [
        (list().version_id_marker("null"), "a version marker without a key"),
        (list().key_marker("a").version_id_marker("made up"), "a version marker of nobody"),
        (list().max_keys(-1), "a negative page"),
    ] {
        assert_eq!(request.send().await.unwrap_err().code(), Some("InvalidArgument"), "{what}");
    }
}

#[tokio::test]
async fn a_bucket_with_versions_or_markers_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let id = put(&stack, "k", "x").await.unwrap();
    let (marker, _) = delete(&stack, "k", None).await;
    let delete_bucket = || stack.s3.delete_bucket().bucket(INPUT).send();
    assert_eq!(
        delete_bucket().await.unwrap_err().code(),
        Some("BucketNotEmpty"),
        "it looks empty and is not"
    );
    delete(&stack, "k", Some(&id)).await;
    assert_eq!(delete_bucket().await.unwrap_err().code(), Some("BucketNotEmpty"));
    delete(&stack, "k", marker.as_deref()).await;
    delete_bucket().await.unwrap();
}

#[tokio::test]
async fn only_ids_of_this_stack_name_a_version() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let id = put(&stack, "k", "x").await.unwrap();
    let other = put(&stack, "other", "y").await.unwrap();
    for wrong in
        ["null", &id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A"), &id[1..], &other, "x"]
    {
        let error = get_version(&stack, "k", wrong).await.unwrap_err();
        assert_eq!((status(&error), error.code()), (404, Some("NoSuchVersion")), "{wrong}");
        let head = stack.s3.head_object().bucket(INPUT).key("k").version_id(wrong).send().await.unwrap_err();
        assert_eq!(status(&head), 404, "{wrong}");
    }
    assert_eq!(get_version(&stack, "k", "").await.unwrap_err().code(), Some("InvalidArgument"));
    let tags = stack.s3.get_object_tagging().bucket(INPUT).key("k").version_id(&id).send().await.unwrap();
    assert_eq!(tags.version_id(), Some(id.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_all_have_their_version_in_the_order_of_their_sequencers() {
    let folder = tempfile::tempdir().unwrap();
    let stack = versioned(folder.path()).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let content = format!("writer {writer}").repeat(5_000);
        let put =
            stack.s3.put_object().bucket(INPUT).key("k").body(ByteStream::from(content.clone().into_bytes()));
        writers.spawn(async move { (put.send().await.unwrap().version_id.unwrap(), content) });
    }
    let contents: BTreeMap<String, String> = writers.join_all().await.into_iter().collect();
    assert_eq!(contents.len(), 16);
    for (id, content) in &contents {
        assert!(get_version(&stack, "k", id).await.unwrap().0 == *content, "{id}");
    }
    let newest_first: Vec<String> = all_versions(&stack).await.into_iter().map(|(_, id, ..)| id).collect();
    let mut events = stack.notifications("prod").await;
    events.sort_by_key(|event| event["Records"][0]["s3"]["object"]["sequencer"].as_str().unwrap().to_owned());
    let by_sequencer: Vec<&str> = events
        .iter()
        .rev()
        .map(|event| event["Records"][0]["s3"]["object"]["versionId"].as_str().unwrap())
        .collect();
    assert_eq!(newest_first, by_sequencer);
    let page = stack.s3.list_object_versions().bucket(INPUT).send().await.unwrap();
    let as_listed: Vec<&str> = page.versions().iter().map(|version| version.version_id().unwrap()).collect();
    assert_eq!(as_listed, newest_first);
}

async fn versioning_of(clients: &Clients, bucket: &str) -> Option<BucketVersioningStatus> {
    clients.s3.get_bucket_versioning().bucket(bucket).send().await.unwrap().status().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn giemsa_up_answers_each_version_of_an_image_also_replaced_and_deleted_ones() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    let clients = stack.clients();
    assert_eq!(versioning_of(&clients, INPUT).await, Some(BucketVersioningStatus::Enabled));
    assert_eq!(versioning_of(&clients, MODELS).await, None);
    assert_eq!(versioning_of(&clients, RESULTS_BUCKET).await, None);

    let mut uploaded = Vec::new();
    for file in ["cell-01.png", "cell-02.png", "cell-03.png"] {
        let image = std::fs::read(project("sample-images/slide-001-healthy").join(file)).unwrap();
        let put = clients.s3.put_object().bucket(INPUT).key("slide/cell.png").body(ByteStream::from(image));
        let put = put.send().await.unwrap();
        uploaded.push((put.version_id.unwrap(), put.e_tag.unwrap().trim_matches('"').to_owned()));
    }
    clients.s3.delete_object().bucket(INPUT).key("slide/cell.png").send().await.unwrap();
    stack.wait_until_answered();
    let listed =
        clients.s3.list_objects_v2().bucket(RESULTS_BUCKET).prefix("results/stage=prod/").send().await;
    let mut answered = Vec::new();
    for object in listed.unwrap().contents() {
        let result =
            clients.s3.get_object().bucket(RESULTS_BUCKET).key(object.key().unwrap()).send().await.unwrap();
        let record: Record = serde_json::from_slice(&result.body.collect().await.unwrap().to_vec()).unwrap();
        assert_eq!(record.status, Status::Classified, "{record:?}");
        answered.push((record.image.version_id.unwrap(), record.image.etag.unwrap()));
    }
    answered.sort();
    assert_eq!(answered, uploaded, "each version has its own result, made of its own content");

    // What a person suspended stays suspended.
    let suspended = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended).build();
    let put = clients.s3.put_bucket_versioning().bucket(INPUT).versioning_configuration(suspended);
    put.send().await.unwrap();
    stack.stop("INT");
    let stack = RunningStack::start(folder.path(), &[]);
    assert_eq!(versioning_of(&stack.clients(), INPUT).await, Some(BucketVersioningStatus::Suspended));
}

#[tokio::test(flavor = "multi_thread")]
async fn giemsa_up_versions_the_input_bucket_of_an_existing_folder() {
    let folder = tempfile::tempdir().unwrap();
    let before = Stack::start(folder.path()).await;
    before.put("slide/k", b"an image of before").await;
    let Stack { servers, queue, s3, .. } = before;
    drop((queue, s3));
    servers.shutdown().await;

    let stack = RunningStack::start(folder.path(), &[]);
    let clients = stack.clients();
    assert_eq!(versioning_of(&clients, INPUT).await, Some(BucketVersioningStatus::Enabled));
    let replaced = clients.s3.put_object().bucket(INPUT).key("slide/k").body(ByteStream::from_static(b"new"));
    assert!(replaced.send().await.unwrap().version_id().is_some_and(|id| id != "null"));
    let old = clients.s3.get_object().bucket(INPUT).key("slide/k").version_id("null").send().await.unwrap();
    assert_eq!(old.body.collect().await.unwrap().to_vec(), b"an image of before");
}
