//! The local S3 over real HTTP with the real SDK: any key, correct listings, conditions, multipart, notifications, and
//! what a restart or a crash leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, Delete, EncodingType, MetadataDirective, ObjectIdentifier,
};
use giemsa_local::queue::Queue;
use giemsa_local::{ServerSettings, Servers, Subscription, credentials};
use giemsa_tests::local_s3_stack::{INPUT, MODELS, Stack, client, decoded, status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NASTY_KEYS: [&str; 28] = [
    "a",
    "a/b",
    "a/b/",
    "a/",
    "a//b",
    "/leading",
    "//",
    ".",
    "..",
    "../../etc/passwd",
    "./x",
    "a/../b",
    "a/./b",
    "space in name.png",
    " leading and trailing ",
    "plus+plus.png",
    "percent%41.png",
    "percent%.png",
    "é/ü/日本.png",
    "e\u{301}.png",
    "back\\slash",
    "question?mark&and=x#hash",
    "quote\"'<>.xml",
    "star*tilde~(1)!.png",
    "colon:semi;comma,",
    "bell\u{7}tab\t.png",
    "line\nfeed\r.png",
    "\u{10ffff}",
];

#[tokio::test]
async fn any_key_is_stored_read_listed_notified_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let long = "x".repeat(1_000);
    let longest = format!("{}é", "y/".repeat(511));
    assert_eq!(longest.len(), 1_024);
    let mut keys: Vec<&str> = NASTY_KEYS.to_vec();
    keys.extend([long.as_str(), longest.as_str()]);
    for key in &keys {
        stack.put(key, key.as_bytes()).await;
    }
    for key in &keys {
        assert_eq!(stack.get(key).await.as_deref(), Some(key.as_bytes()), "{key:?}");
        let head = stack.s3.head_object().bucket(INPUT).key(*key).send().await.unwrap();
        assert_eq!(head.content_length(), Some(key.len() as i64), "{key:?}");
    }
    let mut sorted = keys.clone();
    sorted.sort_unstable_by_key(|key| key.as_bytes());
    assert_eq!(stack.listed().await, sorted);
    let notified: Vec<String> = stack
        .notifications("dev")
        .await
        .iter()
        .map(|event| decoded(event["Records"][0]["s3"]["object"]["key"].as_str().unwrap()))
        .collect();
    assert_eq!(notified, keys);

    // One half by single deletes, the other by a batch.
    let (single, batch) = keys.split_at(15);
    for key in single {
        stack.s3.delete_object().bucket(INPUT).key(*key).send().await.unwrap();
        assert_eq!(stack.get(key).await, None, "{key:?}");
    }
    // XML 1.0 has no way to write these two, in S3 as here.
    let in_xml = |key: &&&str| !key.contains(['\u{7}', '\r']);
    let objects =
        batch.iter().filter(in_xml).map(|key| ObjectIdentifier::builder().key(*key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(objects.collect())).build().unwrap();
    let deleted = stack.s3.delete_objects().bucket(INPUT).delete(delete).send().await.unwrap();
    assert!(deleted.errors().is_empty());
    for key in batch.iter().filter(|key| !in_xml(key)) {
        stack.s3.delete_object().bucket(INPUT).key(*key).send().await.unwrap();
    }
    assert_eq!(stack.listed().await, Vec::<String>::new());
    assert_eq!(stack.files(), BTreeSet::new(), "deleted objects leave nothing on disk");
    assert!(stack.s3.put_object().bucket(INPUT).key("k".repeat(1_025)).send().await.is_err());
}

#[tokio::test]
async fn listings_page_and_group() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    for key in ["a", "a+b", "s 1/x", "s 1/y", "s 2/x", "s 2/z/deep", "t"] {
        stack.put(key, b"1234").await;
    }
    let list = || stack.s3.list_objects_v2().bucket(INPUT);
    let mut seen = Vec::new();
    let mut pages = list().delimiter("/").into_paginator().page_size(2).send();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        let keys = page.contents().iter().map(|object| object.key().unwrap().to_owned());
        let prefixes = page.common_prefixes().iter().map(|prefix| prefix.prefix().unwrap().to_owned());
        let mut entries: Vec<String> = keys.chain(prefixes).collect();
        entries.sort();
        assert_eq!(page.key_count(), Some(entries.len() as i32));
        seen.extend(entries);
    }
    assert_eq!(seen, ["a", "a+b", "s 1/", "s 2/", "t"]);

    let page = list().prefix("s 2/").delimiter("/").encoding_type(EncodingType::Url).send().await.unwrap();
    assert_eq!(page.contents()[0].key(), Some("s+2/x"));
    assert_eq!(page.common_prefixes()[0].prefix(), Some("s+2/z/"));
    assert_eq!(page.prefix(), Some("s+2/"));

    let page = list().start_after("s 1/x").send().await.unwrap();
    let keys: Vec<_> = page.contents().iter().map(|object| object.key().unwrap()).collect();
    assert_eq!(keys, ["s 1/y", "s 2/x", "s 2/z/deep", "t"]);

    let mut marker = None;
    let mut keys = Vec::new();
    loop {
        let page = stack.s3.list_objects().bucket(INPUT).max_keys(3).set_marker(marker).send().await.unwrap();
        keys.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        if page.is_truncated() != Some(true) {
            break;
        }
        marker = page.next_marker;
    }
    assert_eq!(keys, ["a", "a+b", "s 1/x", "s 1/y", "s 2/x", "s 2/z/deep", "t"]);

    assert_eq!(list().max_keys(0).send().await.unwrap().is_truncated(), Some(false));
    let error = list().continuation_token("made up").send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidArgument"));
    let error = stack.s3.list_objects_v2().bucket("no-such-bucket").send().await.unwrap_err();
    assert_eq!(error.code(), Some("NoSuchBucket"));
}

#[tokio::test]
async fn what_is_said_of_an_object_agrees_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let put =
        stack.s3.put_object().bucket(INPUT).key("k.png").content_type("image/png").metadata("slide", "s-1");
    let etag = put.body(ByteStream::from_static(b"bytes")).send().await.unwrap().e_tag.unwrap();
    let get = stack.s3.get_object().bucket(INPUT).key("k.png").send().await.unwrap();
    let head = stack.s3.head_object().bucket(INPUT).key("k.png").send().await.unwrap();
    let list = stack.s3.list_objects_v2().bucket(INPUT).send().await.unwrap();
    let listed = &list.contents()[0];
    for (e_tag, modified) in [
        (get.e_tag(), get.last_modified()),
        (head.e_tag(), head.last_modified()),
        (listed.e_tag(), listed.last_modified()),
    ] {
        assert_eq!(e_tag, Some(etag.as_str()));
        assert_eq!(modified, get.last_modified());
    }
    assert_eq!(listed.size(), Some(5));
    for (content_type, metadata) in
        [(get.content_type(), get.metadata()), (head.content_type(), head.metadata())]
    {
        assert_eq!(content_type, Some("image/png"));
        assert_eq!(metadata.unwrap()["slide"], "s-1");
    }

    let put = stack.s3.put_object().bucket(INPUT).key("headers").body(ByteStream::from_static(b"x"));
    let put = put.cache_control("no-store").content_disposition("inline").content_encoding("identity");
    put.content_language("de").website_redirect_location("/k.png").send().await.unwrap();
    let get = stack.s3.get_object().bucket(INPUT).key("headers").send().await.unwrap();
    let head = stack.s3.head_object().bucket(INPUT).key("headers").send().await.unwrap();
    for (header, of_get, of_head) in [
        ("no-store", get.cache_control(), head.cache_control()),
        ("inline", get.content_disposition(), head.content_disposition()),
        ("identity", get.content_encoding(), head.content_encoding()),
        ("de", get.content_language(), head.content_language()),
        ("/k.png", get.website_redirect_location(), head.website_redirect_location()),
    ] {
        assert_eq!((of_get, of_head), (Some(header), Some(header)));
    }
}

#[tokio::test]
async fn ranges_and_conditions_are_honoured() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let etag = stack.put("k", b"0123456789").await;
    let get = || stack.s3.get_object().bucket(INPUT).key("k");
    let head = || stack.s3.head_object().bucket(INPUT).key("k");
    for (range, expected) in [
        ("bytes=2-4", "234"),
        ("bytes=7-", "789"),
        ("bytes=-3", "789"),
        ("bytes=-99", "0123456789"),
        ("bytes=8-99", "89"),
    ] {
        let part = get().range(range).send().await.unwrap();
        assert_eq!(part.body.collect().await.unwrap().to_vec(), expected.as_bytes(), "{range}");
    }
    assert_eq!(status(&get().range("bytes=10-").send().await.unwrap_err()), 416);
    stack.put("empty", b"").await;
    let empty = || stack.s3.get_object().bucket(INPUT).key("empty");
    assert_eq!(empty().send().await.unwrap().content_length(), Some(0));
    for range in ["bytes=0-", "bytes=-3"] {
        assert_eq!(status(&empty().range(range).send().await.unwrap_err()), 416, "{range}");
    }

    assert_eq!(status(&get().if_none_match(&etag).send().await.unwrap_err()), 304);
    assert_eq!(status(&head().if_none_match(&etag).send().await.unwrap_err()), 304);
    assert_eq!(status(&get().if_match("\"other\"").send().await.unwrap_err()), 412);
    assert_eq!(status(&head().if_match("\"other\"").send().await.unwrap_err()), 412);
    get().if_none_match("\"other\"").send().await.unwrap();
    let modified = *head().send().await.unwrap().last_modified().unwrap();
    assert_eq!(status(&get().if_modified_since(modified).send().await.unwrap_err()), 304);

    let put = |key: &str| stack.s3.put_object().bucket(INPUT).key(key).body(ByteStream::from_static(b"new"));
    assert_eq!(status(&put("k").if_none_match("*").send().await.unwrap_err()), 412);
    assert_eq!(status(&put("k").if_match("\"other\"").send().await.unwrap_err()), 412);
    assert_eq!(stack.get("k").await.unwrap(), b"0123456789");
    put("fresh").if_none_match("*").send().await.unwrap();
    put("k").if_match(&etag).send().await.unwrap();
    assert_eq!(stack.get("k").await.unwrap(), b"new");
    assert_eq!(status(&head().if_match(&etag).send().await.unwrap_err()), 412);
    assert_eq!(stack.notifications("prod").await.len(), 4, "a refused write is not notified");
}

#[tokio::test]
async fn a_304_has_its_etag_and_no_body_on_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let etag = stack.put("k", b"0123456789").await;
    let presigned = stack.s3.get_object().bucket(INPUT).key("k");
    let presigned =
        presigned.presigned(PresigningConfig::expires_in(Duration::from_secs(60)).unwrap()).await.unwrap();
    let path = presigned.uri().split_once(&stack.servers.s3.to_string()).unwrap().1;
    let ask = async |headers: &str| {
        let mut stream = tokio::net::TcpStream::connect(stack.servers.s3).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n",
            stack.servers.s3
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let whole = ask("").await;
    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with("0123456789"), "{whole}");
    let unchanged = ask(&format!("If-None-Match: {etag}\r\n")).await;
    let (head, body) = unchanged.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 304") && head.contains(&etag), "{head}");
    assert_eq!(body, "");
    assert!(!head.to_lowercase().contains("content-length"), "{head}");
}

#[tokio::test]
async fn a_client_that_waits_for_continue_gets_it_or_a_closed_connection() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let expires = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let presigned = stack.s3.put_object().bucket(INPUT).key("k").presigned(expires).await.unwrap();
    let path = presigned.uri().split_once(&stack.servers.s3.to_string()).unwrap().1.to_owned();
    let ask = async |path: &str, length: usize| {
        let mut stream = tokio::net::TcpStream::connect(stack.servers.s3).await.unwrap();
        let host = stack.servers.s3;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4_096];
        let count = stream.read(&mut answer).await.unwrap();
        (stream, String::from_utf8(answer[..count].to_vec()).unwrap())
    };
    let (mut stream, answer) = ask(&path, 5).await;
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    stream.write_all(b"12345").await.unwrap();
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");

    let (_, answer) = ask(&path, 0).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    let (_, answer) = ask(&path.replace(INPUT, "no-such-bucket"), 5).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn only_the_keys_of_this_stack_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let foreign = |id: &str, secret: &str| {
        client(stack.servers.s3, aws_sdk_s3::config::Credentials::new(id, secret, None, None, "test"))
    };
    let error = foreign("other", "giemsa-local").list_buckets().send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidAccessKeyId"));
    assert!(error.message().unwrap().contains("AWS_ACCESS_KEY_ID=giemsa"));
    let error = foreign("giemsa", "wrong").list_buckets().send().await.unwrap_err();
    assert_eq!(error.code(), Some("SignatureDoesNotMatch"));
    let names: Vec<_> = stack
        .s3
        .list_buckets()
        .send()
        .await
        .unwrap()
        .buckets()
        .iter()
        .map(|b| b.name().unwrap().to_owned())
        .collect();
    assert_eq!(names, [INPUT, MODELS]);
}

async fn upload(stack: &Stack, key: &str, parts: &[Vec<u8>]) -> (String, CompletedMultipartUpload) {
    let create = stack
        .s3
        .create_multipart_upload()
        .bucket(INPUT)
        .key(key)
        .content_type("image/tiff")
        .metadata("slide", "s-2");
    let id = create.send().await.unwrap().upload_id.unwrap();
    let mut completed = CompletedMultipartUpload::builder();
    for (number, part) in (1..).zip(parts) {
        let body = ByteStream::from(part.clone());
        let sent =
            stack.s3.upload_part().bucket(INPUT).key(key).upload_id(&id).part_number(number).body(body);
        let e_tag = sent.send().await.unwrap().e_tag.unwrap();
        completed = completed.parts(CompletedPart::builder().part_number(number).e_tag(e_tag).build());
    }
    (id, completed.build())
}

#[tokio::test]
async fn multipart_uploads_are_checked_joined_and_notified() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let key = "big slide+é.tif";
    // What an earlier version said of itself must not stick to the new one.
    stack.put(key, b"small").await;
    stack.notifications("prod").await;
    let (first, second) = (vec![1_u8; 5 << 20], vec![2_u8; 1_000]);
    let (id, parts) = upload(&stack, key, &[first.clone(), second.clone()]).await;
    assert_eq!(stack.get(key).await.unwrap(), b"small", "not visible before it is completed");

    let listed = stack.s3.list_parts().bucket(INPUT).key(key).upload_id(&id).send().await.unwrap();
    let sizes: Vec<_> =
        listed.parts().iter().map(|part| (part.part_number().unwrap(), part.size().unwrap())).collect();
    assert_eq!(sizes, [(1, 5 << 20), (2, 1_000)]);
    assert_eq!(listed.parts()[0].e_tag(), parts.parts()[0].e_tag());
    let open = stack.s3.list_multipart_uploads().bucket(INPUT).send().await.unwrap();
    assert_eq!(open.uploads()[0].key(), Some(key));

    let complete = |parts| {
        stack.s3.complete_multipart_upload().bucket(INPUT).key(key).upload_id(&id).multipart_upload(parts)
    };
    let wrong = CompletedPart::builder().part_number(1).e_tag("\"0\"").build();
    let error = complete(CompletedMultipartUpload::builder().parts(wrong).build()).send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidPart"));
    // A refused list leaves the parts where they are.
    let done = complete(parts.clone()).send().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-2\""));
    assert_eq!(stack.get(key).await.unwrap(), [first, second].concat());
    let head = stack.s3.head_object().bucket(INPUT).key(key).send().await.unwrap();
    assert_eq!((head.e_tag(), head.content_type()), (done.e_tag(), Some("image/tiff")));
    assert_eq!(head.metadata().unwrap()["slide"], "s-2");
    assert_eq!(complete(parts).send().await.unwrap_err().code(), Some("NoSuchUpload"));

    let events = stack.notifications("prod").await;
    assert_eq!(events.len(), 1);
    let record = &events[0]["Records"][0];
    assert_eq!(record["eventName"], "ObjectCreated:CompleteMultipartUpload");
    assert_eq!(record["s3"]["object"]["size"], (5 << 20) + 1_000);
    assert_eq!(format!("{:?}", record["s3"]["object"]["eTag"].as_str().unwrap()), done.e_tag().unwrap());
    let before = stack.files();
    assert_eq!(before.len(), 1, "one object, no part: {before:?}");

    let (id, parts) = upload(&stack, "aborted", &[vec![0; 10]]).await;
    stack.s3.abort_multipart_upload().bucket(INPUT).key("aborted").upload_id(&id).send().await.unwrap();
    let complete = stack
        .s3
        .complete_multipart_upload()
        .bucket(INPUT)
        .key("aborted")
        .upload_id(&id)
        .multipart_upload(parts);
    assert_eq!(complete.send().await.unwrap_err().code(), Some("NoSuchUpload"));
    assert_eq!(stack.get("aborted").await, None);
    let (id, parts) = upload(&stack, "too small", &[vec![0; 10], vec![0; 10]]).await;
    let complete = stack
        .s3
        .complete_multipart_upload()
        .bucket(INPUT)
        .key("too small")
        .upload_id(&id)
        .multipart_upload(parts);
    assert_eq!(complete.send().await.unwrap_err().code(), Some("EntityTooSmall"));
    stack.s3.abort_multipart_upload().bucket(INPUT).key("too small").upload_id(&id).send().await.unwrap();
    assert_eq!(stack.files(), before, "aborted uploads leave nothing on disk");
    assert!(stack.notifications("prod").await.is_empty());
}

#[tokio::test]
async fn an_upload_that_cannot_be_completed_now_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    stack.put("k", b"there").await;
    let (id, parts) = upload(&stack, "k", &[vec![7; 100]]).await;
    let complete = || {
        let complete = stack.s3.complete_multipart_upload().bucket(INPUT).key("k").upload_id(&id);
        complete.multipart_upload(parts.clone())
    };
    assert_eq!(status(&complete().if_none_match("*").send().await.unwrap_err()), 412);
    assert_eq!(status(&complete().if_match("\"other\"").send().await.unwrap_err()), 412);
    assert_eq!(stack.get("k").await.unwrap(), b"there");
    assert_eq!(stack.files().len(), 2, "the object and the part: {:?}", stack.files());

    // A part that is sent again replaces the one before; one that is damaged on the way does not.
    let part = || stack.s3.upload_part().bucket(INPUT).key("k").upload_id(&id).part_number(1);
    let damaged = part().body(ByteStream::from_static(b"new")).checksum_crc32("AAAAAA==").send().await;
    assert_eq!(damaged.unwrap_err().code(), Some("BadDigest"));
    part().body(ByteStream::from(vec![7; 100])).send().await.unwrap();
    assert_eq!(stack.files().len(), 2, "the object and the part: {:?}", stack.files());
    // Of two that complete it at once, one does.
    let (one, other) = tokio::join!(complete().send(), complete().send());
    let refused = match (one, other) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        both => panic!("{both:?}"),
    };
    assert_eq!(refused.code(), Some("NoSuchUpload"));
    assert_eq!(stack.get("k").await.unwrap(), vec![7; 100]);
    assert_eq!(stack.notifications("prod").await.len(), 2);
    assert_eq!(stack.files().len(), 1, "{:?}", stack.files());
}

#[tokio::test]
async fn an_open_upload_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let (id, parts) = upload(&stack, "slide.tif", &[vec![7; 100]]).await;
    let stack = stack.restart().await;
    let complete = stack.s3.complete_multipart_upload().bucket(INPUT).key("slide.tif").upload_id(&id);
    complete.multipart_upload(parts).send().await.unwrap();
    assert_eq!(stack.get("slide.tif").await.unwrap(), vec![7; 100]);
    assert_eq!(stack.notifications("dev").await.len(), 1);
}

#[tokio::test]
async fn copies_carry_what_they_should_and_are_notified() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let put = stack
        .s3
        .put_object()
        .bucket(MODELS)
        .key("dev/model +é.onnx")
        .metadata("a", "1")
        .content_type("x/onnx");
    put.body(ByteStream::from_static(b"model")).send().await.unwrap();
    assert!(stack.notifications("prod").await.is_empty(), "nobody subscribed to this bucket");

    let source = format!("{MODELS}/dev/model%20%2B%C3%A9.onnx");
    let copy = |key: &str| stack.s3.copy_object().bucket(INPUT).key(key).copy_source(&source);
    let result = copy("copy").send().await.unwrap().copy_object_result.unwrap();
    let head = stack.s3.head_object().bucket(INPUT).key("copy").send().await.unwrap();
    assert_eq!((head.e_tag(), head.last_modified()), (result.e_tag(), result.last_modified()));
    assert_eq!((head.content_type(), head.metadata().unwrap()["a"].as_str()), (Some("x/onnx"), "1"));
    assert_eq!(stack.get("copy").await.unwrap(), b"model");
    copy("replaced").metadata_directive(MetadataDirective::Replace).metadata("b", "2").send().await.unwrap();
    let head = stack.s3.head_object().bucket(INPUT).key("replaced").send().await.unwrap();
    assert_eq!(head.metadata().unwrap().get("a"), None);

    let onto_itself =
        || stack.s3.copy_object().bucket(INPUT).key("copy").copy_source(format!("{INPUT}/copy"));
    assert_eq!(onto_itself().send().await.unwrap_err().code(), Some("InvalidRequest"));
    onto_itself().metadata_directive(MetadataDirective::Replace).send().await.unwrap();
    assert_eq!(stack.get("copy").await.unwrap(), b"model");

    let refused = copy("x").copy_source_if_match("\"other\"").send().await.unwrap_err();
    assert_eq!(status(&refused), 412);
    let missing =
        stack.s3.copy_object().bucket(INPUT).key("x").copy_source(format!("{MODELS}/none")).send().await;
    assert_eq!(missing.unwrap_err().code(), Some("NoSuchKey"));
    let events = stack.notifications("prod").await;
    let names: Vec<_> =
        events.iter().map(|event| event["Records"][0]["eventName"].as_str().unwrap()).collect();
    assert_eq!(names, ["ObjectCreated:Copy"; 3]);
}

#[tokio::test]
async fn a_notification_is_what_aws_sends_and_reaches_every_subscriber() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let before = chrono::Utc::now() - chrono::TimeDelta::seconds(1);
    let etag = stack.put("slide 1/cell+é.png", b"12345").await;
    let (dev, prod) = (stack.notifications("dev").await, stack.notifications("prod").await);
    assert_eq!(dev, prod);
    let record = &dev[0]["Records"][0];
    let time: chrono::DateTime<chrono::Utc> = record["eventTime"].as_str().unwrap().parse().unwrap();
    assert!(before <= time && time <= chrono::Utc::now());
    let sequencer = record["s3"]["object"]["sequencer"].as_str().unwrap();
    assert!(sequencer.len() == 18 && u128::from_str_radix(sequencer, 16).is_ok(), "{sequencer}");
    let request_id = &record["responseElements"]["x-amz-request-id"];
    let expected = serde_json::json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1",
        "eventTime": record["eventTime"], "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "giemsa"}, "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": request_id, "x-amz-id-2": request_id},
        "s3": {
            "s3SchemaVersion": "1.0", "configurationId": "giemsa-local",
            "bucket": {"name": INPUT, "ownerIdentity": {"principalId": "giemsa"}, "arn": format!("arn:aws:s3:::{INPUT}")},
            "object": {"key": "slide+1/cell%2B%C3%A9.png", "size": 5, "eTag": etag.trim_matches('"'), "sequencer": sequencer},
        },
    });
    assert_eq!(*record, expected);
}

#[tokio::test]
async fn a_restart_keeps_everything_and_sequencers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let etag = stack.put("a/b.png", b"one").await;
    stack.put("a", b"two").await;
    let head = stack.s3.head_object().bucket(INPUT).key("a/b.png").send().await.unwrap();
    let stack = stack.restart().await;
    let again = stack.s3.head_object().bucket(INPUT).key("a/b.png").send().await.unwrap();
    assert_eq!((again.e_tag(), again.last_modified()), (Some(etag.as_str()), head.last_modified()));
    assert_eq!(stack.get("a").await.unwrap(), b"two");
    assert_eq!(stack.listed().await, ["a", "a/b.png"]);
    stack.put("a", b"three").await;
    let sequencers: Vec<_> = stack
        .notifications("prod")
        .await
        .iter()
        .map(|event| event["Records"][0]["s3"]["object"]["sequencer"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(sequencers.len(), 3);
    assert!(sequencers.is_sorted_by(|a, b| a < b), "{sequencers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_concurrent_writers_has_the_greatest_sequencer_and_readers_see_whole_versions() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let body = |writer: u8| vec![writer; 50_000 + usize::from(writer)];
    stack.put("k", &body(0)).await;
    let (mut writers, mut readers) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for writer in 1..=12_u8 {
        let put = stack.s3.put_object().bucket(INPUT).key("k").body(ByteStream::from(body(writer)));
        writers.spawn(async move { (writer, put.send().await.unwrap().e_tag.unwrap()) });
        let get = stack.s3.get_object().bucket(INPUT).key("k");
        readers.spawn(async move {
            let object = get.send().await.unwrap();
            let etag = object.e_tag.clone().unwrap();
            (etag, object.body.collect().await.unwrap().to_vec())
        });
    }
    let etags: BTreeMap<u8, String> = writers.join_all().await.into_iter().collect();
    for (etag, bytes) in readers.join_all().await {
        let writer = bytes[0];
        assert!(bytes == body(writer), "bytes of one version");
        assert!(writer == 0 || etags[&writer] == etag, "ETag of the same version as the bytes");
    }
    let events = stack.notifications("prod").await;
    assert_eq!(events.len(), 13);
    let last = events
        .iter()
        .max_by_key(|event| event["Records"][0]["s3"]["object"]["sequencer"].to_string())
        .unwrap();
    let head = stack.s3.head_object().bucket(INPUT).key("k").send().await.unwrap();
    assert_eq!(last["Records"][0]["s3"]["object"]["eTag"], head.e_tag().unwrap().trim_matches('"'));
    assert_eq!(stack.files().len(), 1, "replaced versions are gone from disk: {:?}", stack.files());
}

#[tokio::test]
async fn an_upload_cut_short_is_not_visible_not_notified_and_cleared_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    stack.put("k", b"old").await;
    stack.notifications("prod").await;
    let before = stack.files();
    let presigned = stack.s3.put_object().bucket(INPUT).key("k");
    let presigned =
        presigned.presigned(PresigningConfig::expires_in(Duration::from_secs(60)).unwrap()).await.unwrap();
    let path = presigned.uri().split_once(&stack.servers.s3.to_string()).unwrap().1;
    let mut stream = tokio::net::TcpStream::connect(stack.servers.s3).await.unwrap();
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\nhalf of it",
        stack.servers.s3
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(stack.get("k").await.unwrap(), b"old", "half an upload is not visible");
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stack = stack.restart().await;
    assert_eq!(stack.get("k").await.unwrap(), b"old");
    assert!(stack.notifications("prod").await.is_empty());
    assert_eq!(stack.files(), before);
}

#[tokio::test]
async fn a_body_that_does_not_match_its_checksum_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    stack.put("k", b"old").await;
    let put = stack.s3.put_object().bucket(INPUT).key("k").body(ByteStream::from_static(b"new"));
    let error = put.content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await.unwrap_err();
    assert_eq!(error.code(), Some("BadDigest"));
    assert_eq!(stack.get("k").await.unwrap(), b"old");
    assert_eq!(stack.notifications("prod").await.len(), 1);
    assert_eq!(stack.files().len(), 1);
}

#[tokio::test]
async fn objects_and_index_that_do_not_belong_together_are_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    stack.put("k", b"precious").await;
    let files = stack.files();
    let Stack { servers, queue, s3, .. } = stack;
    drop((queue, s3));
    servers.shutdown().await;
    for name in ["queue.sqlite", "queue.sqlite-wal", "queue.sqlite-shm"] {
        let _ = std::fs::remove_file(folder.path().join(name));
    }
    let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
    let settings = ServerSettings {
        data_dir: folder.path().into(),
        s3_port: 0,
        dynamodb_port: 0,
        subscriptions: vec![],
        browser_origins: vec![],
    };
    let error = Servers::start(&settings, queue).await.unwrap_err();
    assert!(error.to_string().contains("do not belong together"), "{error}");
    for file in files {
        assert!(folder.path().join("s3").join(file).exists());
    }
}

#[tokio::test]
async fn an_undeclared_queue_and_a_port_in_use_are_clear_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let other = tempfile::tempdir().unwrap();
    let queue = Queue::open(&other.path().join("queue.sqlite")).unwrap();
    let mut settings = ServerSettings {
        data_dir: other.path().into(),
        s3_port: stack.servers.s3.port(),
        dynamodb_port: 0,
        subscriptions: vec![Subscription { bucket: INPUT.into(), queue: "nobody".into() }],
        browser_origins: vec![],
    };
    let error = Servers::start(&settings, queue.clone()).await.unwrap_err();
    assert!(error.to_string().contains(INPUT), "{error}");
    settings.subscriptions.clear();
    let error = Servers::start(&settings, queue).await.unwrap_err().to_string();
    assert!(error.contains(&settings.s3_port.to_string()) && error.contains("--s3-port"), "{error}");
}

#[tokio::test]
async fn dynamodb_answers_the_sdk_and_keeps_its_tables() {
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    };
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let dynamodb = |stack: &Stack| {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
            .region(aws_sdk_dynamodb::config::Region::new("us-east-1"))
            .endpoint_url(format!("http://{}", stack.servers.dynamodb))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(credentials())
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    };
    let client = dynamodb(&stack);
    let key = KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap();
    let attribute = AttributeDefinition::builder()
        .attribute_name("pk")
        .attribute_type(ScalarAttributeType::S)
        .build()
        .unwrap();
    let create = client.create_table().table_name("results").key_schema(key).attribute_definitions(attribute);
    create.billing_mode(BillingMode::PayPerRequest).send().await.unwrap();
    client.put_item().table_name("results").item("pk", AttributeValue::S("x".into())).send().await.unwrap();
    drop(client);
    let stack = stack.restart().await;
    let item = dynamodb(&stack)
        .get_item()
        .table_name("results")
        .key("pk", AttributeValue::S("x".into()))
        .send()
        .await
        .unwrap();
    assert!(item.item.is_some());
}
