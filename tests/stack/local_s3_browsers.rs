//! What a browser can do with the local S3 by a presigned link: exactly what was signed, from the dashboard's page only.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use giemsa_faults::{FaultSpec, Faults};
use giemsa_local::queue::Queue;
use giemsa_local::{ServerSettings, Servers, credentials};
use giemsa_tests::local_s3_stack::{INPUT, MODELS, PAGE, Stack, client};
use giemsa_tests::raw_http::ask;

const IMAGE: &[u8] = b"sixteen bytes ok";

/// A link to put [`IMAGE`] as `image/png` at `slide 1/cell+é.png`.
async fn put_link(stack: &Stack, lives: Duration) -> String {
    let put = stack.s3.put_object().bucket(INPUT).key("slide 1/cell+é.png");
    let put = put.content_length(IMAGE.len() as i64).content_type("image/png");
    put.presigned(PresigningConfig::expires_in(lives).unwrap()).await.unwrap().uri().to_owned()
}

#[tokio::test]
async fn a_link_takes_what_was_signed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let link = put_link(&stack, Duration::from_secs(60)).await;
    let png = [("content-type", "image/png")];
    let refused = [
        ("another size", ask("PUT", &link, &png, b"fifteen bytes..").await),
        ("a larger size", ask("PUT", &link, &png, &[0; 17]).await),
        ("another type", ask("PUT", &link, &[("content-type", "text/html")], IMAGE).await),
        ("no type", ask("PUT", &link, &[], IMAGE).await),
        ("another method", ask("GET", &link, &png, &[]).await),
        ("another key", ask("PUT", &link.replace("cell", "bell"), &png, IMAGE).await),
        ("another bucket", ask("PUT", &link.replace(INPUT, MODELS), &png, IMAGE).await),
        (
            "a longer life",
            ask("PUT", &link.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), &png, IMAGE).await,
        ),
        ("without its length", {
            let chunked = [png[0], ("transfer-encoding", "chunked")];
            ask("PUT", &link, &chunked, b"10\r\nsixteen bytes ok\r\n0\r\n\r\n").await
        }),
        ("with both lengths", {
            let both = [png[0], ("content-length", "16"), ("transfer-encoding", "chunked")];
            ask("PUT", &link, &both, b"11\r\nsixteen bytes ok!\r\n0\r\n\r\n").await
        }),
    ];
    for (what, answer) in &refused {
        assert!(matches!(answer.status, 400 | 403), "{what}: {} {}", answer.status, answer.text());
    }
    assert_eq!(stack.listed().await, Vec::<String>::new());

    let answer = ask("PUT", &link, &png, IMAGE).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(stack.get("slide 1/cell+é.png").await.as_deref(), Some(IMAGE));
    assert_eq!(stack.notifications("prod").await.len(), 1);
}

#[tokio::test]
async fn a_link_cannot_be_turned_into_a_copy_of_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let put = stack.s3.put_object().bucket(MODELS).key("secret").body(b"secret".to_vec().into());
    put.send().await.unwrap();
    let link = put_link(&stack, Duration::from_secs(60)).await;
    let headers = [("content-type", "image/png"), ("x-amz-copy-source", "/giemsa-models/secret")];
    let answer = ask("PUT", &link, &headers, IMAGE).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("not signed: x-amz-copy-source"), "{}", answer.text());
    assert_eq!(stack.listed().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_link_ends_when_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let link = put_link(&stack, Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let headers = [("content-type", "image/png"), ("origin", PAGE)];
    let answer = ask("PUT", &link, &headers, IMAGE).await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("expired"), "{}", answer.text());
    // Else the page would see a broken network, and not that it needs another link.
    assert_eq!(answer.header("access-control-allow-origin"), PAGE);
}

#[tokio::test]
async fn a_link_to_read_has_the_type_that_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    stack.put("evil.png", b"<script>alert(1)</script>").await;
    let get = stack.s3.get_object().bucket(INPUT).key("evil.png");
    let get = get
        .response_content_type("application/octet-stream")
        .response_content_disposition("attachment")
        .response_cache_control("private");
    let expires = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let link = get.presigned(expires).await.unwrap().uri().to_owned();
    let answer = ask("GET", &link, &[], &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("content-disposition"), "attachment");
    assert_eq!(answer.header("cache-control"), "private");
    let changed = link.replace("application%2Foctet-stream", "text%2Fhtml");
    assert_ne!(changed, link);
    assert_eq!(ask("GET", &changed, &[], &[]).await.status, 403);
}

#[tokio::test]
async fn only_the_page_may_read_across_origins() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(folder.path()).await;
    let link = put_link(&stack, Duration::from_secs(60)).await;
    for (origin, may) in
        [(PAGE, true), ("http://127.0.0.1:1", false), ("https://evil.example", false), ("null", false)]
    {
        let preflight = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "content-type"),
        ];
        let answer = ask("OPTIONS", &link, &preflight, &[]).await;
        assert_eq!(answer.status, if may { 200 } else { 403 }, "{origin}");
        let expected = if may { origin } else { "" };
        assert_eq!(answer.header("access-control-allow-origin"), expected);
        if may {
            assert!(answer.header("access-control-allow-methods").contains("PUT"));
            assert_eq!(answer.header("access-control-allow-headers"), "content-type");
        }
        let answer = ask("PUT", &link, &[("origin", origin), ("content-type", "image/png")], IMAGE).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), expected);
        assert_eq!(answer.header("access-control-expose-headers").contains("ETag"), may);
    }
    let plain = ask("PUT", &link, &[("content-type", "image/png")], IMAGE).await;
    assert!(!plain.headers.keys().any(|name| name.starts_with("access-control-")), "{:?}", plain.headers);
}

#[tokio::test]
async fn the_page_sees_that_a_fault_refused_it() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
    let settings = ServerSettings {
        data_dir: folder.path().to_owned(),
        s3_port: 0,
        dynamodb_port: 0,
        subscriptions: vec![],
        browser_origins: vec![PAGE.to_owned()],
    };
    let spec: FaultSpec = "slow-down=1".parse().unwrap();
    let faults = std::sync::Arc::new(Faults::open(spec, folder.path()).unwrap());
    let servers = Servers::start_behind(faults.clone(), &settings, queue).await.unwrap();
    let s3 = client(servers.s3, credentials());
    faults.arm();
    let get = s3.get_object().bucket(INPUT).key("k");
    let expires = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let link = get.presigned(expires).await.unwrap().uri().to_owned();
    let answer = ask("GET", &link, &[("origin", PAGE)], &[]).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (503, PAGE),
        "{}",
        answer.text()
    );
    let answer = ask("GET", &link, &[("origin", "http://evil.example")], &[]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (503, ""));
    servers.shutdown().await;
}
