//! The SQS of the local stack: the AWS JSON protocol over the durable queues.
//!
//! | file | what it holds |
//! |---|---|
//! | `error.rs` | what is wrong with a request, in SQS's codes |
//! | `queues.rs` | operations on queues, and how they are named |
//! | `messages.rs` | operations on messages |
//! | `attributes.rs` | the attributes of a received message, and the digests that clients check |
//!
//! Never keeps anything itself, and never acknowledges a message that is not on disk. Never serves a request that is
//! not signed with the local access key, so that nothing sent here was meant for an account at AWS. The signature is
//! not recomputed: the secret is printed by `giemsa up` and proves nothing beyond the key's name, which only a client
//! of this machine can send. Clients and workers receive by the same rules, at least once.

mod attributes;
mod error;
mod messages;
mod queues;

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::queue::Queue;
use super::s3::LOCAL_ACCESS_KEY_ID;
use super::servers::listener::{self, ListenError, SHUTDOWN_GRACE, bind_loopback, endpoint_url};
use error::SqsError;

/// The account that local queues belong to, in their URLs and ARNs.
const ACCOUNT: &str = "000000000000";

/// Longest request, bytes: a batch of the greatest size, with every byte escaped.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// Prefix of operation names in `X-Amz-Target`.
const TARGET_PREFIX: &str = "AmazonSQS.";

/// Operations of SQS that the local stack has no use for: its queues are declared by the stack itself.
const NOT_SERVED: [&str; 12] = [
    "AddPermission",
    "CancelMessageMoveTask",
    "CreateQueue",
    "DeleteQueue",
    "ListDeadLetterSourceQueues",
    "ListMessageMoveTasks",
    "ListQueueTags",
    "RemovePermission",
    "SetQueueAttributes",
    "StartMessageMoveTask",
    "TagQueue",
    "UntagQueue",
];

/// A running SQS server.
#[derive(Debug)]
pub struct SqsServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl SqsServer {
    /// Serves the queues on a port of 127.0.0.1 (0 takes any free one); when this returns it accepts connections.
    ///
    /// # Errors
    /// [`ListenError`] if the port cannot be had.
    pub fn start(queue: Queue, port: u16) -> Result<Self, ListenError> {
        let (server, flag) = ("SQS", "--sqs-port");
        let listener = bind_loopback(server, port, flag)?;
        let address =
            listener.local_addr().map_err(|source| ListenError::Bind { server, port, flag, source })?;
        let (stop, stopped) = watch::channel(false);
        let sqs = Sqs { queue, url: endpoint_url(address), stopped: stopped.clone() };
        let service = service_fn(move |request: Request<Incoming>| {
            let sqs = sqs.clone();
            async move { Ok::<_, Infallible>(sqs.answer(request).await) }
        });
        let task = tokio::spawn(listener::serve(listener, service, stopped));
        Ok(Self { address, stop, task })
    }

    /// The endpoint URL that SDKs are given.
    #[must_use]
    pub fn url(&self) -> String {
        endpoint_url(self.address)
    }

    /// Stops; whoever waits for messages is told that there are none.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(2 * SHUTDOWN_GRACE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Answers requests.
#[derive(Debug, Clone)]
struct Sqs {
    queue: Queue,
    url: String,
    stopped: watch::Receiver<bool>,
}

impl Sqs {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = match self.carry_out(request).await {
            Ok(answer) => response(StatusCode::OK, &answer),
            Err(error) => error_response(&error),
        };
        with_request_id(answer)
    }

    async fn carry_out(&self, request: Request<Incoming>) -> Result<Value, SqsError> {
        let (head, body) = request.into_parts();
        check_key(&head.headers)?;
        let operation = operation_of(&head.headers)?.to_owned();
        let body = to_bytes(Body::new(body), MAX_REQUEST_BYTES)
            .await
            .map_err(|error| SqsError::Unreadable { detail: error.to_string() })?;
        match operation.as_str() {
            "ListQueues" => self.list_queues(read(&body)?).await.and_then(written),
            "GetQueueUrl" => self.queue_url(read(&body)?).await.and_then(written),
            "GetQueueAttributes" => self.queue_attributes(read(&body)?).await.and_then(written),
            "PurgeQueue" => self.purge_queue(read(&body)?).await.and_then(written),
            "SendMessage" => self.send_message(read(&body)?).await.and_then(written),
            "SendMessageBatch" => self.send_message_batch(read(&body)?).await.and_then(written),
            "ReceiveMessage" => self.receive_message(read(&body)?).await.and_then(written),
            "DeleteMessage" => self.delete_message(read(&body)?).await.and_then(written),
            "DeleteMessageBatch" => self.delete_message_batch(read(&body)?).await.and_then(written),
            "ChangeMessageVisibility" => self.change_visibility(read(&body)?).await.and_then(written),
            "ChangeMessageVisibilityBatch" => {
                self.change_visibility_batch(read(&body)?).await.and_then(written)
            }
            other if NOT_SERVED.contains(&other) => Err(SqsError::NotServed { operation }),
            _ => Err(SqsError::UnknownOperation { operation }),
        }
    }
}

fn check_key(headers: &HeaderMap) -> Result<(), SqsError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (_, credential) = header.split_once("Credential=").ok_or(SqsError::Unsigned)?;
    let key = credential.split(['/', ',']).next().unwrap_or_default();
    if key == LOCAL_ACCESS_KEY_ID { Ok(()) } else { Err(SqsError::UnknownKey { key: key.to_owned() }) }
}

fn operation_of(headers: &HeaderMap) -> Result<&str, SqsError> {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    target.and_then(|target| target.strip_prefix(TARGET_PREFIX)).ok_or_else(|| SqsError::NoTarget {
        content_type: headers
            .get(CONTENT_TYPE)
            .map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, SqsError> {
    serde_json::from_slice(body).map_err(|error| SqsError::Unreadable { detail: error.to_string() })
}

fn written<T: Serialize>(answer: T) -> Result<Value, SqsError> {
    Ok(serde_json::to_value(answer).expect("answers have text as keys"))
}

fn response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    response
}

fn error_response(error: &SqsError) -> Response<Body> {
    let code = error.code();
    if code.status.is_server_error() {
        tracing::error!(error = error as &dyn std::error::Error, "local sqs failed");
    }
    let message = error.to_string();
    let body = serde_json::json!({ "__type": code.shape, "message": message });
    let mut response = response(code.status, &body);
    // Clients older than the JSON protocol know errors by these names.
    let fault = if code.status.is_server_error() { "Receiver" } else { "Sender" };
    let query_error = format!("{};{fault}", code.query);
    let query_error = HeaderValue::try_from(query_error).expect("codes are plain ASCII");
    response.headers_mut().insert(HeaderName::from_static("x-amzn-query-error"), query_error);
    response
}

fn with_request_id(mut response: Response<Body>) -> Response<Body> {
    let id = HeaderValue::try_from(Uuid::new_v4().to_string()).expect("a UUID is plain ASCII");
    response.headers_mut().insert(HeaderName::from_static("x-amzn-requestid"), id);
    response
}
