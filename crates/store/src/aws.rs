//! The SDK clients: from the SDK's standard environment, or for servers on this machine.
//!
//! It never holds a credential of AWS. Every request ends, by its own timeouts.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::config::{Credentials, SharedHttpClient};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpConnector;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;

use giemsa_config::has_own_s3_endpoint;

/// Attempts for one request, the first included.
const MAX_ATTEMPTS: u32 = 3;

/// Region that requests to the embedded stack are signed for.
pub const LOCAL_REGION: &str = "us-east-1";

/// Clients of S3 and DynamoDB.
#[derive(Debug, Clone)]
pub struct Clients {
    /// S3.
    pub s3: aws_sdk_s3::Client,
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
}

impl Clients {
    /// Reads the SDK's standard environment: credentials, region, endpoints.
    pub async fn from_env() -> Self {
        let sdk_config = sdk_config().await;
        // Servers other than AWS have one host name, so buckets go into the path there.
        let s3 = aws_sdk_s3::config::Builder::from(&sdk_config).force_path_style(has_own_s3_endpoint());
        let dynamodb =
            aws_sdk_dynamodb::config::Builder::from(&sdk_config).retry_classifier(TransactionConflicts);
        Self {
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.build()),
        }
    }

    /// For servers at the given URLs. Nothing of the environment matters, so that a profile for AWS on this
    /// machine can neither get in the way nor be touched.
    pub fn at(s3_url: &str, dynamodb_url: &str, credentials: Credentials) -> Self {
        let s3 = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(LOCAL_REGION))
            .credentials_provider(credentials.clone())
            .endpoint_url(s3_url)
            .force_path_style(true)
            .http_client(http_client())
            .timeout_config(timeouts())
            .retry_config(retries());
        let dynamodb = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(LOCAL_REGION))
            .credentials_provider(credentials)
            .endpoint_url(dynamodb_url)
            .http_client(http_client())
            .timeout_config(timeouts())
            .retry_config(retries())
            .retry_classifier(TransactionConflicts);
        Self {
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.build()),
        }
    }
}

/// A client of SQS by the SDK's standard environment.
pub async fn sqs_client_from_env() -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(&sdk_config().await)
}

/// A client of the SQS at a URL; as with [`Clients::at`], nothing of the environment matters.
pub fn sqs_client_at(sqs_url: &str, credentials: Credentials) -> aws_sdk_sqs::Client {
    let sqs = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(LOCAL_REGION))
        .credentials_provider(credentials)
        .endpoint_url(sqs_url)
        .http_client(http_client())
        .timeout_config(timeouts())
        .retry_config(retries());
    aws_sdk_sqs::Client::from_conf(sqs.build())
}

/// The SDK's standard environment, with the limits of time and the retries of all clients.
pub async fn sdk_config() -> aws_config::SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .timeout_config(timeouts())
        .retry_config(retries())
        .load()
        .await
}

/// Tries again what met somebody's transaction on the same item: it is over in milliseconds, but the SDK gives up.
#[derive(Debug)]
struct TransactionConflicts;

impl ClassifyRetry for TransactionConflicts {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let body = context.response().and_then(|response| response.body().bytes()).unwrap_or_default();
        let is_conflict =
            std::str::from_utf8(body).is_ok_and(|text| text.contains("#TransactionConflictException"));
        if is_conflict { RetryAction::transient_error() } else { RetryAction::NoActionIndicated }
    }

    fn name(&self) -> &'static str {
        "transaction conflicts"
    }
}

fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// What asks a server that is not a service of AWS, by HTTP or HTTPS with the same TLS as the clients; it sets no limit of
/// time.
#[must_use]
pub fn connector() -> SharedHttpConnector {
    SharedHttpConnector::new(Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring)).build())
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .read_timeout(Duration::from_secs(10))
        .operation_attempt_timeout(Duration::from_secs(30))
        .build()
}

fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS)
}
