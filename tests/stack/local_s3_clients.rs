//! What clients of S3 ask of the local one beyond plain reads and writes: forms, storage classes, parts.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, StorageClass};
use base64::Engine;
use giemsa_local::credentials;
use giemsa_tests::local_s3_stack::{INPUT, Stack, status};
use giemsa_tests::raw_http::{Answer, ask};
use ring::hmac;
use serde_json::json;

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Sends a form as `generate_presigned_post` of boto3 makes it, with a file.
async fn post_form(
    stack: &Stack,
    key: &str,
    prefix: &str,
    file: &str,
    bytes: &[u8],
    is_signed: bool,
) -> Answer {
    let credentials = credentials();
    let now = chrono::Utc::now();
    let day = now.format("%Y%m%d").to_string();
    let scope = format!("{}/{day}/us-east-1/s3/aws4_request", credentials.access_key_id());
    let date = now.format("%Y%m%dT%H%M%SZ").to_string();
    let policy = json!({
        "expiration": (now + chrono::TimeDelta::minutes(5)).format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "conditions": [
            {"bucket": INPUT},
            ["starts-with", "$key", prefix],
            {"success_action_status": "201"},
            {"x-amz-algorithm": "AWS4-HMAC-SHA256"},
            {"x-amz-credential": scope},
            {"x-amz-date": date},
        ],
    });
    let policy = base64::engine::general_purpose::STANDARD.encode(policy.to_string());
    let mut signing_key = format!("AWS4{}", credentials.secret_access_key()).into_bytes();
    for part in [day.as_str(), "us-east-1", "s3", "aws4_request"] {
        signing_key = hmac_sha256(&signing_key, part);
    }
    let signature: String =
        hmac_sha256(&signing_key, &policy).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut fields = vec![("key", key), ("success_action_status", "201")];
    if is_signed {
        fields.extend([
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", &scope),
            ("x-amz-date", &date),
            ("policy", &policy),
            ("x-amz-signature", &signature),
        ]);
    }
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(
            format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes(),
        );
    }
    body.extend(
        format!("--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file}\"\r\n\r\n")
            .bytes(),
    );
    body.extend(bytes);
    body.extend(b"\r\n--edge--\r\n");
    let url = format!("http://{}/{INPUT}", stack.servers.s3);
    ask("POST", &url, &[("content-type", "multipart/form-data; boundary=edge")], &body).await
}

#[tokio::test]
async fn a_form_puts_each_file_under_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    // Larger than what is looked at for the name, and with the placeholder in it.
    let large = b"${filename}".repeat(20_000);
    for (file, bytes) in [("cell 1.png", &b"one"[..]), ("é.png", b"two"), (r"C:\Images\large.png", &large)] {
        let answer = post_form(&stack, "posted/${filename}", "posted/", file, bytes, true).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let name = file.rsplit('\\').next().unwrap();
        assert!(answer.text().contains(&format!("<Key>posted/{name}</Key>")), "{}", answer.text());
        assert_eq!(stack.get(&format!("posted/{name}")).await.as_deref(), Some(bytes), "{file}");
    }
    assert_eq!(stack.listed().await, ["posted/cell 1.png", "posted/large.png", "posted/é.png"]);
    assert_eq!(stack.notifications("prod").await.len(), 3);

    let plain = post_form(&stack, "posted/cell 1.png", "posted/", "x.png", b"new", true).await;
    assert_eq!((plain.status, stack.get("posted/cell 1.png").await.unwrap()), (201, b"new".to_vec()));
    // The policy is about the name that comes of it.
    for (key, prefix, is_signed) in [
        ("${filename}", "posted/", true),
        ("posted/${filename}", "posted/$", true),
        ("posted/${filename}", "", false),
    ] {
        let refused = post_form(&stack, key, prefix, "x.png", b"x", is_signed).await;
        assert!(matches!(refused.status, 400 | 403), "{key} {prefix}: {} {}", refused.status, refused.text());
    }
    assert_eq!(stack.listed().await.len(), 3);
}

#[tokio::test]
async fn storage_classes_that_are_read_at_once_are_taken_and_archives_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    for class in [StorageClass::StandardIa, StorageClass::IntelligentTiering, StorageClass::GlacierIr] {
        let put = stack.s3.put_object().bucket(INPUT).key(class.as_str()).storage_class(class.clone());
        put.body(ByteStream::from_static(b"x")).send().await.unwrap();
        let copy = stack.s3.copy_object().bucket(INPUT).key("copy").storage_class(class.clone());
        copy.copy_source(format!("{INPUT}/{class}")).send().await.unwrap();
        let upload = stack.s3.create_multipart_upload().bucket(INPUT).key("parts").storage_class(class);
        upload.send().await.unwrap();
    }
    let put = stack.s3.put_object().bucket(INPUT).key("archived").storage_class(StorageClass::DeepArchive);
    let refused = put.send().await.unwrap_err();
    assert_eq!((status(&refused), refused.code()), (501, Some("NotImplemented")));
    assert!(refused.message().unwrap().contains("DEEP_ARCHIVE"), "{refused:?}");
    let put = stack.s3.put_object().bucket(INPUT).key("odd").storage_class(StorageClass::from("COLD"));
    let refused = put.send().await.unwrap_err();
    assert_eq!(refused.code(), Some("InvalidStorageClass"));
    assert!(refused.message().unwrap().contains("COLD"), "{refused:?}");
    assert_eq!(stack.get("archived").await, None);
}

#[tokio::test]
async fn numbers_of_parts_may_have_gaps_but_ascend() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let create = stack.s3.create_multipart_upload().bucket(INPUT).key("k").send().await.unwrap();
    let id = create.upload_id.unwrap();
    let mut completed = Vec::new();
    // Part 2 is uploaded and not listed.
    for (number, length) in [(1, 5 << 20), (2, 3), (5, 5 << 20), (9_999, 7)] {
        let body = ByteStream::from(vec![number as u8; length]);
        let part =
            stack.s3.upload_part().bucket(INPUT).key("k").upload_id(&id).part_number(number).body(body);
        let e_tag = part.send().await.unwrap().e_tag.unwrap();
        completed.push(CompletedPart::builder().part_number(number).e_tag(e_tag).build());
    }
    completed.remove(1);
    let complete = |parts: Vec<CompletedPart>| {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        stack
            .s3
            .complete_multipart_upload()
            .bucket(INPUT)
            .key("k")
            .upload_id(&id)
            .multipart_upload(parts)
            .send()
    };
    let descending = complete(completed.iter().rev().cloned().collect()).await.unwrap_err();
    assert_eq!(descending.code(), Some("InvalidPartOrder"));
    let done = complete(completed).await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-3\""));
    let expected = [vec![1_u8; 5 << 20], vec![5; 5 << 20], vec![9_999_i32 as u8; 7]].concat();
    assert!(stack.get("k").await.unwrap() == expected);
    assert_eq!(stack.files().len(), 1, "one object, no part: {:?}", stack.files());

    let of_parts = stack.s3.get_object().bucket(INPUT).key("k").part_number(2).send().await.unwrap_err();
    assert_eq!(of_parts.code(), Some("NotImplemented"));
    let head = stack.s3.head_object().bucket(INPUT).key("k").part_number(2).send().await.unwrap_err();
    assert_eq!(status(&head), 501);
    stack.put("whole", b"12345").await;
    let head = |number| stack.s3.head_object().bucket(INPUT).key("whole").part_number(number).send();
    assert_eq!(head(1).await.unwrap().content_length(), Some(5));
    assert_eq!(status(&head(2).await.unwrap_err()), 416);
}
