//! A proxy in front of a server of the stack, which does to requests what was decided.
//!
//! Whatever client comes, ours or the aws command, meets the same faults. Never invents an answer that the service
//! would not give. A request that is done was passed on exactly once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, ETAG, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

use crate::cloudwatch::{ServiceCounts, ServiceEvent};
use crate::s3::{BrowserOrigins, allow};
use crate::servers::listener;
use giemsa_faults::connection::{Connection, Cut};
use giemsa_faults::{Faults, Kind, Strike, body, dynamodb, fraction, s3};

/// Whatever ends a connection.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What is spoken behind the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// REST, with errors in XML.
    S3,
    /// JSON; the operation is in a header.
    DynamoDb,
}

/// The proxy.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) faults: Arc<Faults>,
    /// What AWS would count of requests that are refused.
    pub(crate) counts: Arc<ServiceCounts>,
    pub(crate) protocol: Protocol,
    /// The server behind it.
    pub(crate) upstream: SocketAddr,
    /// Whose pages may read an answer of S3, also that it refuses.
    pub(crate) origins: BrowserOrigins,
}

impl Front {
    /// Serves on `listener` until `stop` turns true.
    pub(crate) async fn serve(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        let front = Arc::new(self);
        let accept = move |stream: TcpStream| {
            let cut = Cut::default();
            let client =
                Arc::new(Client { front: front.clone(), cut: cut.clone(), upstream: Mutex::default() });
            let service = service_fn(move |request| {
                let client = client.clone();
                async move { client.answer(request).await }
            });
            (Connection::new(stream, cut), service)
        };
        listener::serve_each(listener, accept, stop).await;
    }
}

/// One connection of a client, with one behind it.
struct Client {
    front: Arc<Front>,
    cut: Cut,
    upstream: Mutex<Option<SendRequest<Body>>>,
}

/// A request that was read as far as it has to be to know what it is about.
struct Asked {
    request: Request<Body>,
    subject: String,
    kinds: &'static [Kind],
    /// What a batch has to return as unprocessed.
    held: Option<(String, Value)>,
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        let origin = self.front.origins.of(request.headers());
        let asked = match self.front.protocol {
            Protocol::S3 => Asked {
                subject: s3::subject(request.method(), request.uri()),
                kinds: s3::kinds(request.method(), request.uri()),
                request: request.map(Body::new),
                held: None,
            },
            Protocol::DynamoDb => self.read_dynamodb(request).await?,
        };
        let faults = &self.front.faults;
        let Some(strike) = faults.decide(asked.kinds, &asked.subject) else {
            return self.done(asked).await;
        };
        if matches!(strike.kind, Kind::Truncate | Kind::Checksum | Kind::Slow) {
            let method = asked.request.method().clone();
            let answer = self.done(asked).await?;
            return self.damaged(&method, answer, &strike).await;
        }
        if !faults.record(&strike) {
            return self.done(asked).await;
        }
        if strike.kind == Kind::Throughput {
            let mut words = asked.subject.split(' ').map(str::to_owned);
            if let (Some(operation), Some(table)) = (words.next(), words.next()) {
                self.front.counts.add(ServiceEvent::ThrottledRequest { table, operation });
            }
        }
        match strike.kind {
            Kind::Timeout => {
                tokio::time::sleep(strike.duration).await;
                Err(self.reset())
            }
            Kind::LostAnswer => {
                // The body too: the client may have taken the first byte of it for success.
                to_bytes(self.done(asked).await?.into_body(), usize::MAX).await?;
                Err(self.reset())
            }
            Kind::Kill => {
                to_bytes(self.done(asked).await?.into_body(), usize::MAX).await?;
                faults.kill_process()
            }
            Kind::Reset => Err(self.reset()),
            refused => Ok(match self.front.protocol {
                Protocol::S3 => {
                    let mut refusal = s3::refusal(refused);
                    // The server behind would let the page see that it is refused.
                    if let Some(origin) = origin {
                        allow(&origin, refusal.headers_mut());
                    }
                    refusal
                }
                Protocol::DynamoDb => dynamodb::refusal(refused),
            }),
        }
    }

    fn reset(&self) -> Broken {
        self.cut.now();
        io::Error::new(io::ErrorKind::ConnectionReset, "a fault was injected: the connection is reset").into()
    }

    async fn read_dynamodb(&self, request: Request<Incoming>) -> Result<Asked, Broken> {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
        let (mut head, body) = request.into_parts();
        let mut bytes = to_bytes(Body::new(body), usize::MAX).await?;
        let mut json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let subject = dynamodb::subject(&operation, &json);
        let faults = &self.front.faults;
        let held = dynamodb::hold_back(&mut json, |item| {
            faults.strike(&[Kind::Unprocessed], &format!("{operation} {item}")).is_some()
        });
        if held.is_some() {
            bytes = Bytes::from(json.to_string());
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        let request = Request::from_parts(head, Body::from(bytes));
        let kinds = dynamodb::kinds(&operation);
        Ok(Asked { request, subject, kinds, held: held.map(|held| (operation, held)) })
    }

    /// Passes the request on.
    async fn done(&self, asked: Asked) -> Result<Response<Body>, Broken> {
        let mut upstream = self.upstream.lock().await;
        let mut sender = match upstream.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => connect(self.front.upstream).await?,
        };
        sender.ready().await?;
        let answer = sender.send_request(asked.request).await?;
        *upstream = Some(sender);
        let answer = answer.map(Body::new);
        let Some((operation, held)) = asked.held else {
            return Ok(answer);
        };
        let (mut head, body) = answer.into_parts();
        let mut bytes = to_bytes(body, usize::MAX).await?;
        if head.status.is_success() {
            let mut json: Value = serde_json::from_slice(&bytes)?;
            dynamodb::with_unprocessed(&operation, &mut json, held);
            bytes = Bytes::from(json.to_string());
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            // It is of the answer as it was, and the aws command checks it.
            head.headers.remove("x-amz-crc32");
        }
        Ok(Response::from_parts(head, Body::from(bytes)))
    }

    /// The answer with its body cut, changed or slow, if it has one that a client can tell it by.
    async fn damaged(
        &self,
        method: &Method,
        answer: Response<Body>,
        strike: &Strike,
    ) -> Result<Response<Body>, Broken> {
        let (mut head, body) = answer.into_parts();
        let bytes = to_bytes(body, usize::MAX).await?;
        let can_be_told = *method != Method::HEAD
            && match strike.kind {
                // A part of an object comes without checksum.
                Kind::Checksum => {
                    let is_summed =
                        |name: &str| name.starts_with("x-amz-checksum-") && name != "x-amz-checksum-type";
                    let names = &mut head.headers.keys();
                    head.status == StatusCode::OK
                        && (head.headers.contains_key(ETAG) || names.any(|name| is_summed(name.as_str())))
                }
                _ => head.status != StatusCode::NOT_MODIFIED && head.status != StatusCode::NO_CONTENT,
            };
        if !can_be_told || bytes.is_empty() || !self.front.faults.record(strike) {
            return Ok(Response::from_parts(head, Body::from(bytes)));
        }
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        let part = fraction(strike.draw);
        let body = match strike.kind {
            Kind::Truncate => body::truncated(&bytes, part),
            Kind::Checksum => body::flipped(&bytes, part),
            _ => body::trickled(bytes, strike.duration),
        };
        Ok(Response::from_parts(head, body))
    }
}

async fn connect(upstream: SocketAddr) -> Result<SendRequest<Body>, Broken> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection behind the fault injector ended early");
        }
    });
    Ok(sender)
}
