//! Lambda's Runtime API on loopback, for the real binaries of the functions.

use std::net::SocketAddr;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// A cold start under a debug build on a busy machine takes seconds; what takes longer hangs.
pub const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Ends with the test, however the test ends.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the function posted: `response` or `error`, with its invocation.
#[derive(Debug)]
pub struct Posted {
    pub invocation: String,
    pub kind: String,
    pub body: Value,
}

#[derive(Clone)]
struct ApiState {
    events: Arc<Mutex<mpsc::UnboundedReceiver<(String, Duration, String)>>>,
    posted: mpsc::UnboundedSender<Posted>,
}

/// The Runtime API of Lambda, version 2018-06-01.
pub struct RuntimeApi {
    pub address: SocketAddr,
    events: mpsc::UnboundedSender<(String, Duration, String)>,
    posted: mpsc::UnboundedReceiver<Posted>,
}

impl RuntimeApi {
    pub async fn start() -> Self {
        let (events, events_out) = mpsc::unbounded_channel();
        let (posted_in, posted) = mpsc::unbounded_channel();
        let state = ApiState { events: Arc::new(Mutex::new(events_out)), posted: posted_in };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next_invocation))
            .fallback(post(take_posted))
            .with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, events, posted }
    }

    /// Invokes the function, whose answer nobody waits for.
    pub fn begin(&self, invocation: &str, time_left: Duration, payload: &str) {
        self.events.send((invocation.to_owned(), time_left, payload.to_owned())).unwrap();
    }

    /// Invokes the function with `payload`, which need not be JSON, and returns what it posts.
    pub async fn invoke(&mut self, invocation: &str, time_left: Duration, payload: &str) -> Posted {
        self.begin(invocation, time_left, payload);
        let posted = timeout(LONGEST_WAIT, self.posted.recv()).await.expect("no answer in time").unwrap();
        assert_eq!(posted.invocation, invocation);
        posted
    }
}

async fn next_invocation(State(state): State<ApiState>) -> Response {
    let next = state.events.lock().await.recv().await;
    let Some((invocation, time_left, payload)) = next else { return StatusCode::GONE.into_response() };
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time_left;
    let headers = [
        ("Content-Type", "application/json".to_owned()),
        ("Lambda-Runtime-Aws-Request-Id", invocation),
        ("Lambda-Runtime-Deadline-Ms", deadline.as_millis().to_string()),
        (
            "Lambda-Runtime-Invoked-Function-Arn",
            "arn:aws:lambda:eu-central-1:123456789012:function:classifier".to_owned(),
        ),
        (
            "Lambda-Runtime-Trace-Id",
            "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=53995c3f42cd8ad8;Sampled=1".to_owned(),
        ),
    ];
    (AppendHeaders(headers), payload).into_response()
}

async fn take_posted(State(state): State<ApiState>, uri: Uri, body: String) -> StatusCode {
    let path = uri.path().strip_prefix("/2018-06-01/runtime/invocation/").unwrap_or(uri.path());
    let (invocation, kind) = path.rsplit_once('/').unwrap_or(("", path));
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    let _ = state.posted.send(Posted { invocation: invocation.to_owned(), kind: kind.to_owned(), body });
    StatusCode::ACCEPTED
}
