//! Uploads, links, thumbnails and tiles of the dashboard, against the running stack over HTTP.

use std::io::Cursor;
use std::time::Instant;

use futures::StreamExt;
use giemsa_config::Limits;
use giemsa_image::{DecodeLimits, Pixels, decode, encode_jpeg};
use giemsa_local::{MODEL_BUCKET, RESULTS_BUCKET};
use giemsa_tests::open_page::{PATIENCE, Page, encoded, keys_of, sample};
use giemsa_tests::raw_http::ask;
use serde_json::{Value, json};

/// Blocks of 250 px in different colours.
fn blocks(width_px: u32, height_px: u32) -> Pixels {
    let colour = |x: u32, y: u32| [(x / 250 * 37 % 256) as u8, (y / 250 * 53 % 256) as u8, 120];
    let rgb = (0..height_px).flat_map(|y| (0..width_px).flat_map(move |x| colour(x, y))).collect();
    Pixels { width_px, height_px, rgb }
}

fn pixels_of(jpeg: &[u8]) -> Pixels {
    decode(jpeg, &DecodeLimits::of(&Limits::default())).unwrap().pixels
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_by_a_link_is_answered_and_the_link_takes_nothing_else() {
    let page = Page::open().await;
    let image = sample("parasitized");
    let upload = page.sign("slide 1/=cmd()+é.png", &image, "image/png").await;
    assert_eq!(upload["key"], "slide 1/=cmd()+é.png");
    assert_eq!(upload["replaces"], false);
    assert_eq!(upload["headers"], json!({ "content-type": "image/png" }));
    let expires: chrono::DateTime<chrono::Utc> = upload["expires_at"].as_str().unwrap().parse().unwrap();
    let lives = expires - chrono::Utc::now();
    assert!((880..=900).contains(&lives.num_seconds()), "{lives}");

    let longer = [image.as_slice(), b"x"].concat();
    assert_eq!(page.send(&upload, &longer).await.status, 403);
    assert_eq!(page.send(&upload, &image[1..]).await.status, 403);
    let mut changed = upload.clone();
    changed["headers"]["content-type"] = json!("text/html");
    assert_eq!(page.send(&changed, &image).await.status, 403);
    changed = upload.clone();
    changed["url"] = json!(upload["url"].as_str().unwrap().replace("slide%201", "slide%202"));
    assert_eq!(page.send(&changed, &image).await.status, 403);

    let sent = page.send(&upload, &image).await;
    assert_eq!((sent.status, sent.header("access-control-allow-origin")), (200, page.url.as_str()));
    let record = page.result("slide 1/=cmd()+é.png", &image).await;
    assert_eq!((record["status"].as_str(), record["slide"].as_str()), (Some("classified"), Some("slide 1")));
    assert_eq!(page.sign("slide 1/=cmd()+é.png", &image, "").await["replaces"], true);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_uploaded_is_said_in_a_sentence_and_the_rest_goes_on() {
    let page = Page::open().await;
    let file = |name: &str, size_bytes: u64, content_type: &str| json!({ "name": name, "size_bytes": size_bytes, "content_type": content_type });
    let hostile = "<script>alert(1)</script>/\u{202e}gnp.=cmd().png";
    let files = [
        (file(hostile, 10, "image/png"), ""),
        (file("a.png", 10, "image/png"), ""),
        (file("a.png", 10, "image/png"), "given twice"),
        (file("../giemsa-models/prod/model.png", 10, "image/png"), "relative path"),
        (file("a\r\nSet-Cookie: x=1\r\n.png", 10, "image/png"), "control character"),
        (file("notes.txt", 10, "text/plain"), "does not end like an image"),
        (file("page.png", 10, "text/html"), "expected an image"),
        (file("empty.png", 0, "image/png"), "empty"),
        (file("large.png", (32 << 20) + 1, "image/png"), "more than the 33554432 allowed"),
    ];
    let request: Vec<&Value> = files.iter().map(|(file, _)| file).collect();
    let answer = page.post("/api/uploads", &json!({ "files": request })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.headers.contains_key("set-cookie"));
    let uploads = answer.json()["uploads"].clone();
    for (index, (file, problem)) in files.iter().enumerate() {
        let upload = &uploads[index];
        assert_eq!(upload["name"], file["name"], "names come back as they are");
        if problem.is_empty() {
            assert!(upload["url"].is_string(), "{upload}");
        } else {
            let detail = upload["problem"]["detail"].as_str().unwrap_or_else(|| panic!("{upload}"));
            assert!(detail.contains(problem) && upload["url"].is_null(), "{detail}");
        }
    }
    for wrong in [
        json!({ "files": [] }),
        json!({ "files": vec![file("a.png", 1, ""); 101] }),
        json!({ "files": [{ "name": "a.png", "size_bytes": 1, "bucket": MODEL_BUCKET }] }),
        json!({ "files": [{ "name": "a.png", "size_bytes": -1 }] }),
    ] {
        let answer = page.post("/api/uploads", &wrong).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    let headers = [("Content-Type", "application/json"), ("Origin", "http://evil.example")];
    let body = json!({ "files": [file("a.png", 10, "image/png")] }).to_string();
    let foreign = ask("POST", &format!("{}/api/uploads", page.url), &headers, body.as_bytes()).await;
    assert_eq!(foreign.status, 403, "{}", foreign.text());
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_in_parts_that_can_be_signed_again() {
    let page = Page::open().await;
    // A bitmap: its size is what it is.
    let mut bmp = Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(2_000, 2_000, |x, y| image::Rgb([x as u8, y as u8, 9]));
    picture.write_to(&mut bmp, image::ImageFormat::Bmp).unwrap();
    let bytes = bmp.into_inner();
    assert!(bytes.len() > 8 << 20 && bytes.len() < 16 << 20);

    let upload = page.sign("s/large.bmp", &bytes, "image/bmp").await;
    let (key, upload_id) = (upload["key"].clone(), upload["upload_id"].clone());
    let part_size = upload["part_size_bytes"].as_u64().unwrap() as usize;
    assert_eq!((upload["parts"].as_array().unwrap().len(), part_size), (2, 8 << 20));
    let open = json!({ "key": key, "upload_id": upload_id, "parts": [2] });
    let fresh = page.posted("/api/uploads/parts", &open).await;
    let urls = [&upload["parts"][0]["url"], &fresh["parts"][0]["url"]].map(|url| url.as_str().unwrap());
    let mut parts = Vec::new();
    for (index, (url, part)) in urls.iter().zip(bytes.chunks(part_size)).enumerate() {
        assert_eq!(ask("PUT", url, &[], &part[1..]).await.status, 403, "a part of another size");
        let answer = ask("PUT", url, &[("Origin", &page.url)], part).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.header("access-control-expose-headers").contains("ETag"));
        parts.push(json!({ "number": index + 1, "etag": answer.header("etag") }));
    }
    let complete = |parts: &[Value]| json!({ "key": key, "upload_id": upload_id, "parts": parts });
    let missing = page.post("/api/uploads/complete", &complete(&parts[..1])).await;
    assert_eq!(missing.status, 400, "{}", missing.text());
    let wrong = [json!({ "number": 1, "etag": "\"00000000000000000000000000000000\"" }), parts[1].clone()];
    let wrong = page.post("/api/uploads/complete", &complete(&wrong)).await;
    assert_eq!(wrong.status, 409, "{}", wrong.text());
    assert_eq!(page.posted("/api/uploads/complete", &complete(&parts)).await["key"], "s/large.bmp");
    // The answer was lost, and the page asks again.
    assert_eq!(page.posted("/api/uploads/complete", &complete(&parts)).await["key"], "s/large.bmp");
    let record = page.result("s/large.bmp", &bytes).await;
    assert_eq!(record["image"]["size_bytes"], bytes.len());

    let other = page.sign("s/other.bmp", &bytes, "image/bmp").await;
    let open = json!({ "key": "s/other.bmp", "upload_id": other["upload_id"] });
    assert_eq!(page.post("/api/uploads/abort", &open).await.status, 204);
    let gone = json!({ "key": "s/other.bmp", "upload_id": other["upload_id"], "parts": parts });
    let gone = page.post("/api/uploads/complete", &gone).await;
    assert_eq!(gone.status, 404, "{}", gone.text());
    let elsewhere = json!({ "key": "../x.bmp", "upload_id": other["upload_id"] });
    assert_eq!(page.post("/api/uploads/abort", &elsewhere).await.status, 400);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_lead_into_the_input_bucket_only_and_run_nothing() {
    let page = Page::open().await;
    let image = sample("uninfected");
    page.put("s/<b>&\"'+%41 é\u{202e}.png", &image).await;
    page.put("s/page.png", b"<script>alert(1)</script>").await;
    page.put("s/empty.png", b"").await;
    page.put("../dots.png", &image).await;
    let link = page.link("s/<b>&\"'+%41 é\u{202e}.png", "image").await;
    assert_eq!(link["key"], "s/<b>&\"'+%41 é\u{202e}.png");
    let answer = page.follow(&link).await;
    assert_eq!((answer.body, answer.headers["content-type"].as_str()), (image.clone(), "image/png"));
    let changed = link["url"].as_str().unwrap().replace("image%2Fpng", "text%2Fhtml");
    assert_eq!(ask("GET", &changed, &[], &[]).await.status, 403);

    let script = page.follow(&page.link("s/page.png", "image").await).await;
    assert_eq!(script.headers["content-type"], "application/octet-stream");
    assert_eq!(script.headers["content-disposition"], "attachment");

    let report = keys_of(
        &page
            .stack
            .clients
            .s3
            .list_objects_v2()
            .bucket(MODEL_BUCKET)
            .prefix("reports/")
            .send()
            .await
            .unwrap(),
    );
    for key in [
        "prod/model.onnx",
        "../giemsa-models/prod/model.onnx",
        "..%2fgiemsa-models%2fprod%2fmodel.onnx",
        "/giemsa-models/prod/model.onnx",
        "giemsa-models/prod/model.onnx",
        "s/../../giemsa-models/prod/model.onnx",
        "?versionId=1",
        report[0].as_str(),
        "",
        "no such image.png",
        "s/empty.png",
        "../dots.png",
    ] {
        let link = page.link(key, "image").await;
        assert!(link["url"].is_null() && link["problem"]["detail"].is_string(), "{link}");
    }
    // Its thumbnail has a name of ours, and is what the image is.
    assert!(page.link("../dots.png", "thumbnail").await["url"].is_string());
    let other = json!({ "images": [{ "key": "s/page.png", "version_id": "no-such" }], "kind": "image" });
    assert!(page.posted("/api/links", &other).await["links"][0]["problem"].is_object());
    let other = json!({ "images": [{ "key": "a", "bucket": MODEL_BUCKET }], "kind": "image" });
    assert_eq!(page.post("/api/links", &other).await.status, 400);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_can_be_to_an_earlier_version() {
    let page = Page::open().await;
    let (first, second) = (sample("uninfected"), sample("parasitized"));
    page.put("s/a.png", &first).await;
    let old = page.link("s/a.png", "image").await;
    page.put("s/a.png", &second).await;
    let new = page.link("s/a.png", "image").await;
    assert_ne!(old["version_id"], new["version_id"]);
    assert_eq!(page.follow(&new).await.body, second);
    let wanted =
        json!({ "images": [{ "key": "s/a.png", "version_id": old["version_id"] }], "kind": "image" });
    let again = page.posted("/api/links", &wanted).await["links"][0].clone();
    assert_eq!(page.follow(&again).await.body, first);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thumbnails_are_made_of_what_browsers_cannot_show_or_is_large() {
    let page = Page::open().await;
    let small = sample("uninfected");
    let mut tiff = Cursor::new(Vec::new());
    let gray: Vec<u16> = (0..700 * 500_u32).map(|i| (i % 700 * 93) as u16).collect();
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut tiff).unwrap();
    encoder.write_image::<tiff::encoder::colortype::Gray16>(700, 500, &gray).unwrap();
    let mut png = Cursor::new(Vec::new());
    let deep: image::ImageBuffer<image::Rgb<u16>, _> =
        image::ImageBuffer::from_fn(640, 1_280, |x, _| image::Rgb([(x * 100) as u16, 30_000, 65_535]));
    image::DynamicImage::ImageRgb16(deep).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let jpeg = encode_jpeg(&blocks(4_000, 3_000));
    for (key, bytes, size) in [
        ("s/small.png", &small, None),
        ("s/a.tif", &tiff.into_inner(), Some((320, 229))),
        ("s/deep.png", &png.into_inner(), Some((160, 320))),
        ("s/12mp.jpg", &jpeg, Some((320, 240))),
    ] {
        page.put(key, bytes).await;
        let started = Instant::now();
        let link = page.link(key, "thumbnail").await;
        let first = started.elapsed();
        let answer = page.follow(&link).await;
        match size {
            None => assert_eq!(answer.body, small, "small enough to be its own"),
            Some(size) => {
                assert_eq!(answer.headers["content-type"], "image/jpeg");
                let pixels = pixels_of(&answer.body);
                assert_eq!((pixels.width_px, pixels.height_px), size, "{key}");
            }
        }
        let started = Instant::now();
        assert_eq!(page.follow(&page.link(key, "thumbnail").await).await.body, answer.body);
        println!("{key}: first link after {first:?}, the next after {:?}", started.elapsed());
    }
    // Who does not want to wait asks again.
    page.put("s/other.jpg", &encode_jpeg(&blocks(3_000, 3_000))).await;
    let wanted = json!({ "images": [{ "key": "s/other.jpg" }], "kind": "thumbnail", "wait_ms": 1 });
    let mut link = page.posted("/api/links", &wanted).await["links"][0].clone();
    assert_eq!((&link["pending"], &link["url"]), (&json!(true), &json!(null)), "{link}");
    let started = Instant::now();
    while link["pending"] == true {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let wanted = json!({ "images": [{ "key": "s/other.jpg" }], "kind": "thumbnail", "wait_ms": 1_000 });
        link = page.posted("/api/links", &wanted).await["links"][0].clone();
    }
    assert_eq!(pixels_of(&page.follow(&link).await.body).width_px, 320);
    let kept = page.stack.clients.s3.list_objects_v2().bucket(RESULTS_BUCKET).prefix("thumbnails/").send();
    assert_eq!(keys_of(&kept.await.unwrap()).len(), 4);
    // A replaced image has another thumbnail at once.
    page.put("s/12mp.jpg", &encode_jpeg(&blocks(900, 400))).await;
    let replaced = page.follow(&page.link("s/12mp.jpg", "thumbnail").await).await;
    assert_eq!(pixels_of(&replaced.body).height_px, 142);

    page.put("s/cut.jpg", &jpeg[..jpeg.len() / 2]).await;
    for _ in 0..2 {
        let link = page.link("s/cut.jpg", "thumbnail").await;
        assert!(link["problem"]["detail"].as_str().unwrap().contains("incomplete"), "{link}");
    }
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_image_comes_in_tiles() {
    let page = Page::open().await;
    let picture = blocks(4_000, 3_000);
    let jpeg = encode_jpeg(&picture);
    page.upload("s/field 1.jpg", &jpeg, "image/jpeg").await;
    page.result("s/field 1.jpg", &jpeg).await;
    let deep_zoom = page.image("s/field 1.jpg").await["deep_zoom"].clone();
    let expected =
        json!({ "width": 4_000, "height": 3_000, "tile_size": 512, "overlap": 1, "max_level": 12 });
    assert_eq!(deep_zoom, expected);

    let tile = async |level: u32, column: u32, row: u32| {
        let place = format!("level={level}&column={column}&row={row}");
        page.get(&format!("/api/image/tile?key={}&{place}", encoded("s/field 1.jpg"))).await
    };
    let started = Instant::now();
    // Eight at once, as a viewer asks: the pyramid is made once.
    let firsts = futures::stream::iter((0..8).map(|column| tile(12, column, 0))).buffered(8);
    let firsts: Vec<_> = firsts.collect().await;
    println!("first tiles after {:?}", started.elapsed());
    for (column, answer) in firsts.iter().enumerate() {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), "image/jpeg");
        let pixels = pixels_of(&answer.body);
        let width = match column {
            0 => 513,
            7 => 4_000 - 7 * 512 + 1,
            _ => 514,
        };
        assert_eq!((pixels.width_px, pixels.height_px), (width, 513), "column {column}");
    }
    for (level, size) in
        [(12, (4_000_u32, 3_000_u32)), (11, (2_000, 1_500)), (10, (1_000, 750)), (9, (500, 375)), (0, (1, 1))]
    {
        let last = (size.0.div_ceil(512) - 1, size.1.div_ceil(512) - 1);
        let answer = tile(level, last.0, last.1).await;
        assert_eq!(answer.status, 200, "level {level}: {}", answer.text());
        let pixels = pixels_of(&answer.body);
        let side = |side: u32, last: u32| side - last * 512 + u32::from(last > 0);
        assert_eq!((pixels.width_px, pixels.height_px), (side(size.0, last.0), side(size.1, last.1)));
        // The middle of the tile, against the image: in blocks it is the same at every level.
        if level >= 10 {
            let (x, y) = (pixels.width_px / 2, pixels.height_px / 2);
            let in_level =
                (last.0 * 512 + x - u32::from(last.0 > 0), last.1 * 512 + y - u32::from(last.1 > 0));
            let factor = 1 << (12 - level);
            let at = |pixels: &Pixels, x: u32, y: u32| {
                let at = ((y * pixels.width_px + x) * 3) as usize;
                pixels.rgb[at..at + 3].to_vec()
            };
            let (found, whole) = (at(&pixels, x, y), at(&picture, in_level.0 * factor, in_level.1 * factor));
            assert!(
                found.iter().zip(&whole).all(|(a, b)| a.abs_diff(*b) < 24),
                "{level}: {found:?} {whole:?}"
            );
        }
    }
    for (level, column, row) in [(12, 8, 0), (12, 0, 6), (13, 0, 0)] {
        assert_eq!(tile(level, column, row).await.status, 404);
    }
    for query in
        ["key=s%2Ffield%201.jpg&level=1&column=0", "key=x&level=33&column=0&row=0", "level=1&column=0&row=0"]
    {
        assert_eq!(page.get(&format!("/api/image/tile?{query}")).await.status, 400, "{query}");
    }
    let elsewhere = "/api/image/tile?key=..%2Fgiemsa-models%2Fprod%2Fmodel.onnx&level=0&column=0&row=0";
    assert_eq!(page.get(elsewhere).await.status, 404);
    // The mark and all tiles, nothing half made.
    let kept = page.stack.clients.s3.list_objects_v2().bucket(RESULTS_BUCKET).prefix("pyramids/").send();
    let kept = keys_of(&kept.await.unwrap());
    assert_eq!(kept.len(), 1 + 48 + 12 + 4 + 10, "{kept:?}");
    assert_eq!(kept.iter().filter(|key| key.ends_with("/pyramid.json")).count(), 1);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_end_when_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = giemsa_tests::running_stack::up(folder.path(), &["--no-worker"]);
    let stack = giemsa_tests::running_stack::RunningStack::start_as({
        command.env("GIEMSA_LINK_SECONDS", "6");
        command
    });
    let address = giemsa_tests::running_stack::dashboard_address(&stack.stdout()).unwrap();
    let url = format!("http://{address}");
    let image = sample("uninfected");
    let body = json!({ "files": [{ "name": "s/a.png", "size_bytes": image.len() }] }).to_string();
    let headers = [("Content-Type", "application/json")];
    let sign = async || {
        let answer = ask("POST", &format!("{url}/api/uploads"), &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["uploads"][0]["url"].as_str().unwrap().to_owned()
    };
    let link = sign().await;
    tokio::time::sleep(std::time::Duration::from_millis(7_100)).await;
    let put = async |link: &str| {
        let headers = [("content-type", "image/png"), ("Origin", url.as_str())];
        ask("PUT", link, &headers, &image).await
    };
    let late = put(&link).await;
    assert_eq!(late.status, 403);
    // So that the page sees why, and asks for another.
    assert_eq!(late.header("access-control-allow-origin"), url);
    assert!(late.text().contains("expired"), "{}", late.text());
    assert_eq!(put(&sign().await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --test stack how_long_the_largest -- --ignored --nocapture"]
async fn how_long_the_largest_image_takes() {
    let page = Page::open().await;
    let jpeg = encode_jpeg(&blocks(8_000, 5_000));
    page.put("s/40mp.jpg", &jpeg).await;
    println!("{} kB of JPEG", jpeg.len() >> 10);
    let started = Instant::now();
    page.link("s/40mp.jpg", "thumbnail").await;
    println!("thumbnail after {:?}", started.elapsed());
    let started = Instant::now();
    let tile = page.get("/api/image/tile?key=s%2F40mp.jpg&level=13&column=0&row=0").await;
    assert_eq!(tile.status, 200, "{}", tile.text());
    println!("a tile of the largest level after {:?}", started.elapsed());
    let started = Instant::now();
    page.get("/api/image/tile?key=s%2F40mp.jpg&level=13&column=3&row=3").await;
    println!("the next after {:?}", started.elapsed());
    page.close().await;
}
