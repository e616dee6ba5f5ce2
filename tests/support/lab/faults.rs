//! Faults between the SDKs and their servers: chosen requests are refused, cut off, delayed or passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use giemsa_store::aws::Clients;
use tokio::sync::Barrier;

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The server answers with this status and body, and does nothing.
    Refuse { status: u16, body: &'static str },
    /// The server does what it was asked, but the answer is lost.
    LoseAnswer,
    /// The connection breaks before the request arrives.
    Break,
    /// One bit of the answer's body is another on the way.
    Damage,
    /// The request arrives late.
    Delay(Duration),
    /// The request arrives when as many have come as the barrier waits for.
    Meet(Arc<Barrier>),
}

impl Fault {
    pub const SLOW_DOWN: Self = Self::Refuse {
        status: 503,
        body: "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>",
    };
    pub const ACCESS_DENIED: Self = Self::Refuse {
        status: 403,
        body: "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    };
    pub const TRANSACTION_CONFLICT: Self = Self::Refuse {
        status: 400,
        body: "{\"__type\":\"com.amazonaws.dynamodb.v20120810#TransactionConflictException\",\"message\":\"Transaction is ongoing for the item\"}",
    };
    pub const THROUGHPUT_EXCEEDED: Self = Self::Refuse {
        status: 400,
        body: "{\"__type\":\"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException\",\"message\":\"slow\"}",
    };
}

/// One request, as a rule sees it.
#[derive(Debug)]
pub struct Seen<'a> {
    pub method: &'a str,
    /// Path and query, percent-encoded.
    pub uri: &'a str,
    /// DynamoDB operation, e.g. `PutItem`.
    pub operation: &'a str,
    /// Body, if it is text and in memory.
    pub body: &'a str,
    /// Requests of this client before it.
    pub number: usize,
}

type Rule = Arc<dyn Fn(&Seen<'_>) -> Option<Fault> + Send + Sync>;

/// Clients of the same servers whose requests go through `rule`, each client counting its own.
pub fn faulty(
    clients: &Clients,
    rule: impl Fn(&Seen<'_>) -> Option<Fault> + Send + Sync + 'static,
) -> Clients {
    let rule: Rule = Arc::new(rule);
    let http = || {
        let inner = aws_smithy_http_client::Builder::new().build_http();
        SharedHttpClient::new(FaultyClient { inner, rule: rule.clone(), count: Arc::default() })
    };
    // As many attempts as in production, with short waits between them.
    let retries =
        RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(10));
    // What is delayed stays delayed, however long, and on a busy machine too.
    let (patient, stalls) = (TimeoutConfig::disabled(), StalledStreamProtectionConfig::disabled());
    let s3 = clients.s3.config().to_builder().retry_config(retries.clone()).http_client(http());
    let s3 = s3.timeout_config(patient.clone()).stalled_stream_protection(stalls.clone()).build();
    let dynamodb = clients.dynamodb.config().to_builder().retry_config(retries).http_client(http());
    let dynamodb = dynamodb.timeout_config(patient).stalled_stream_protection(stalls).build();
    Clients { s3: aws_sdk_s3::Client::from_conf(s3), dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb) }
}

#[derive(Clone)]
struct FaultyClient {
    inner: SharedHttpClient,
    rule: Rule,
    count: Arc<AtomicUsize>,
}

impl std::fmt::Debug for FaultyClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultyClient")
    }
}

impl HttpClient for FaultyClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(FaultyConnector {
            inner,
            rule: self.rule.clone(),
            count: self.count.clone(),
        })
    }
}

struct FaultyConnector {
    inner: SharedHttpConnector,
    rule: Rule,
    count: Arc<AtomicUsize>,
}

impl std::fmt::Debug for FaultyConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultyConnector")
    }
}

impl HttpConnector for FaultyConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let seen = Seen {
            method: request.method(),
            uri: request.uri(),
            operation: target.rsplit('.').next().unwrap_or_default(),
            body: request.body().bytes().and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default(),
            number: self.count.fetch_add(1, Ordering::SeqCst),
        };
        let lost = || ConnectorError::io("the connection was reset by a fault".into());
        match (self.rule)(&seen) {
            None => self.inner.call(request),
            Some(Fault::Refuse { status, body }) => {
                let status = status.try_into().unwrap();
                HttpConnectorFuture::ready(Ok(HttpResponse::new(status, body.into())))
            }
            Some(Fault::Break) => HttpConnectorFuture::ready(Err(lost())),
            Some(Fault::LoseAnswer) => {
                let answer = self.inner.call(request);
                HttpConnectorFuture::new(async move {
                    answer.await?;
                    Err(lost())
                })
            }
            Some(Fault::Damage) => {
                let answer = self.inner.call(request);
                HttpConnectorFuture::new(async move {
                    let mut answer = answer.await?;
                    let body = ByteStream::new(answer.take_body()).collect().await;
                    let mut bytes = body.map_err(|error| ConnectorError::io(error.into()))?.to_vec();
                    let middle = bytes.len() / 2;
                    if let Some(byte) = bytes.get_mut(middle) {
                        *byte ^= 1;
                    }
                    *answer.body_mut() = bytes.into();
                    Ok(answer)
                })
            }
            Some(Fault::Meet(barrier)) => {
                let inner = self.inner.clone();
                HttpConnectorFuture::new(async move {
                    barrier.wait().await;
                    inner.call(request).await
                })
            }
            Some(Fault::Delay(delay)) => {
                let inner = self.inner.clone();
                HttpConnectorFuture::new(async move {
                    tokio::time::sleep(delay).await;
                    inner.call(request).await
                })
            }
        }
    }
}
