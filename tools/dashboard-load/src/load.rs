//! Clients that ask every route in turn, and an uploader beside them.
//!
//! Routes are asked equally often, so that a slow one does not hide behind quick ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_sdk_s3::primitives::ByteStream;
use futures::future::try_join_all;
use giemsa_local::INPUT_BUCKET;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::http::Connection;
use crate::seed::{SAMPLE, Seeded, key};
use crate::stack::Stack;

/// Times of the answers of each route.
pub type Times = BTreeMap<&'static str, Vec<Duration>>;

/// Time of the list of slides, asked for the first time.
pub async fn first_view(address: &str) -> anyhow::Result<Duration> {
    let mut connection = Connection::open(address).await?;
    let started = Instant::now();
    connection.get("/api/slides").await?;
    Ok(started.elapsed())
}

/// Lets `clients` ask for `duration` while `uploads` images a second arrive.
pub async fn run(
    stack: &Stack,
    seeded: &Seeded,
    clients: usize,
    duration: Duration,
    uploads: u32,
) -> anyhow::Result<Times> {
    let (is_over, turn) = (AtomicBool::new(false), AtomicUsize::new(0));
    let uploader = async {
        let mut number = 0;
        while uploads > 0 && !is_over.load(Ordering::Relaxed) {
            let name = format!("load/live/cell-{number:06}.png");
            let body = ByteStream::from_static(SAMPLE);
            stack.clients.s3.put_object().bucket(INPUT_BUCKET).key(name).body(body).send().await?;
            number += 1;
            tokio::time::sleep(Duration::from_secs(1) / uploads).await;
        }
        anyhow::Ok(())
    };
    let end = Instant::now() + duration;
    let work = async {
        let all = try_join_all((0..clients).map(|_| client(&stack.dashboard, seeded, end, &turn))).await;
        is_over.store(true, Ordering::Relaxed);
        all
    };
    let (all, ()) = futures::future::try_join(work, uploader).await?;
    let mut times = Times::new();
    for (route, of_client) in all.into_iter().flatten() {
        times.entry(route).or_default().extend(of_client);
    }
    Ok(times)
}

async fn client(address: &str, seeded: &Seeded, end: Instant, turn: &AtomicUsize) -> anyhow::Result<Times> {
    let mut connection = Connection::open(address).await?;
    let mut times = Times::new();
    // A page that is turned is asked for with the cursor of the one before.
    let mut cursor: Option<Arc<str>> = None;
    while Instant::now() < end {
        let number = turn.fetch_add(1, Ordering::Relaxed);
        let (route, path) = request(seeded, number, cursor.as_deref());
        let started = Instant::now();
        let body = connection.get(&path).await?;
        times.entry(route).or_default().push(started.elapsed());
        if route == NEWEST {
            let page: Value = serde_json::from_slice(&body).context("a page is JSON")?;
            cursor = page["next"].as_str().map(Arc::from);
        }
    }
    Ok(times)
}

const NEWEST: &str = "/api/results, newest first";

/// The request whose turn it is: its name in the report, and its path.
fn request(seeded: &Seeded, number: usize, cursor: Option<&str>) -> (&'static str, String) {
    let text = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let slide_name = &seeded.slides[number * 7 % seeded.slides.len()];
    let slide = text(slide_name);
    let image = text(&key(slide_name, number % seeded.images));
    match number % 12 {
        0 => ("/api/slides", "/api/slides".to_owned()),
        1 => ("/api/slides, searched", format!("/api/slides?search={}", number % 100)),
        2 => ("/api/slide", format!("/api/slide?slide={slide}")),
        3 => ("/api/slide/cells", format!("/api/slide/cells?slide={slide}")),
        4 => {
            let cursor = cursor.map_or_else(String::new, |cursor| format!("?cursor={cursor}"));
            (NEWEST, format!("/api/results{cursor}"))
        }
        5 => ("/api/results of a label", format!("/api/results?label={}", text(&seeded.label))),
        6 => (
            "/api/results of a slide, suspicious first",
            format!("/api/results?slide={slide}&order=suspicion"),
        ),
        7 => ("/api/review/queue", "/api/review/queue".to_owned()),
        8 => ("/api/image", format!("/api/image?key={image}")),
        9 => ("/api/summary", "/api/summary".to_owned()),
        10 => ("/api/models", "/api/models".to_owned()),
        _ => ("/api/health", "/api/health".to_owned()),
    }
}
