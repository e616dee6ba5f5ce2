//! A proxy in front of a server of the laboratory that notes which rights its client's requests need.
//!
//! It never changes a request or an answer, unless it stands in for IAM: then what the role does not allow is refused
//! as AWS refuses it, and does not reach the server. A request is noted before its client has the answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::calls;
use super::roles::{Right, Statement, allows};

/// Largest body, bytes: a whole part of an upload.
const MAX_BODY_BYTES: usize = 64 << 20;

/// What a server behind a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    S3,
    /// DynamoDB and SQS: the operation is in a header.
    Json,
}

/// Rights that a client was seen to need.
pub type Rights = Arc<Mutex<Vec<Right>>>;

#[derive(Clone)]
struct Front {
    protocol: Protocol,
    behind: String,
    seen: Rights,
    /// What is allowed, where that is enforced.
    role: Option<Arc<Vec<Statement>>>,
}

/// Serves `behind` (`host:port`) on another port of this machine, for one client.
pub async fn record(
    protocol: Protocol,
    behind: &str,
    seen: Rights,
    role: Option<Arc<Vec<Statement>>>,
) -> SocketAddr {
    let front = Front { protocol, behind: behind.trim_start_matches("http://").to_owned(), seen, role };
    let router = axum::Router::new().fallback(pass_on).with_state(front);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn pass_on(State(front): State<Front>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
    let needed = |status: u16| match front.protocol {
        Protocol::S3 => calls::of_s3(&head.method, &head.uri, &head.headers, status),
        Protocol::Json => {
            let target = head.headers.get("x-amz-target").map_or("", |target| target.to_str().unwrap());
            calls::of_json(target, &serde_json::from_slice(&body).unwrap_or_default())
        }
    };
    let is_refused = |needed: &[Right]| {
        front.role.as_ref().is_some_and(|role| !needed.iter().all(|right| allows(role, right)))
    };
    let asked = needed(0);
    if is_refused(&asked) {
        front.seen.lock().unwrap().extend(asked);
        return refusal(front.protocol);
    }
    let stream = TcpStream::connect(&front.behind).await.unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let again = Request::from_parts(head.clone(), Body::from(body.clone()));
    let answer = sender.send_request(again).await.unwrap();
    let used = needed(answer.status().as_u16());
    let is_hidden = is_refused(&used);
    front.seen.lock().unwrap().extend(used);
    // Whoever may not list is not told that something is missing.
    if is_hidden { refusal(front.protocol) } else { answer.map(Body::new) }
}

fn refusal(protocol: Protocol) -> Response {
    const OF_S3: &str =
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    const OF_DYNAMODB: &str = "{\"__type\":\"com.amazon.coral.service#AccessDeniedException\",\
                               \"Message\":\"User is not authorized to perform this action\"}";
    match protocol {
        Protocol::S3 => (StatusCode::FORBIDDEN, [("content-type", "application/xml")], OF_S3).into_response(),
        Protocol::Json => {
            (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.0")], OF_DYNAMODB)
                .into_response()
        }
    }
}
