//! The dashboard as a Lambda function behind an HTTP API of API Gateway: log, configuration, clients, run.
//!
//! It never looks into a request but for the claims of its token, which the HTTP API has verified; the router of
//! [`giemsa_dashboard`] does, the same as in the embedded stack. A request is answered by that router or the invocation
//! fails.

use std::process::ExitCode;
use std::sync::Arc;

use giemsa_config::{DashboardConfig, QueueUrls};
use giemsa_dashboard::{
    Access, Authorizer, Buckets, Caller, Dashboard, Denied, Pictures, QueuePair, SignIn, SqsOperations,
    link_origins, router,
};
use giemsa_store::aws::{Clients, sqs_client_from_env};
use giemsa_store::queues::QueueClient;
use giemsa_store::{TableReader, TableWriter};
use lambda_http::http::request::Parts;
use lambda_http::request::RequestContext;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> ExitCode {
    giemsa_lambda::run(DashboardConfig::from_env, serve).await
}

async fn serve(config: DashboardConfig) -> Result<(), Error> {
    let clients = Clients::from_env().await;
    let sqs = sqs_client_from_env().await;
    let pair = |urls: &QueueUrls| QueuePair {
        queue: QueueClient::new(sqs.clone(), &urls.queue),
        dead_letters: urls.dead_letters.as_ref().map(|url| QueueClient::new(sqs.clone(), url)),
    };
    let operations = SqsOperations {
        stages: config.queues.iter().map(|(stage, urls)| (stage.clone(), pair(urls))).collect(),
        gate: config.gate.as_ref().map(pair),
    };
    let s3_origins = link_origins(&clients.s3, &[&config.input_bucket, &config.results_bucket]).await?;
    let pictures = Pictures::new(&config.limits);
    let dashboard = Dashboard {
        table: TableReader::new(clients.dynamodb.clone(), &config.table),
        writer: TableWriter::new(clients.dynamodb, &config.table),
        s3: clients.s3,
        buckets: Buckets {
            input: config.input_bucket,
            models: config.model_bucket,
            results: config.results_bucket,
            results_prefix: config.results_prefix,
        },
        stages: config.stages,
        limits: config.limits,
        operations: Arc::new(operations),
        access: Access::any_host(s3_origins),
        sign_in: Some(SignIn {
            authorizer: Arc::new(Gateway { origins: config.sign_in.origins().to_vec() }),
            settings: config.sign_in,
        }),
        pictures,
    };
    lambda_http::run(router(dashboard)).await
}

/// The JWT authorizer of the HTTP API in front, whose claims come with the request's context and from nowhere else.
#[derive(Debug)]
struct Gateway {
    /// As they were configured: a page is not to wait for a request to the issuer.
    origins: Vec<String>,
}

#[async_trait::async_trait]
impl Authorizer for Gateway {
    async fn caller(&self, request: &Parts) -> Result<Caller, Denied> {
        let claims = match request.extensions.get::<RequestContext>() {
            Some(RequestContext::ApiGatewayV2(context)) => context
                .authorizer
                .as_ref()
                .and_then(|authorizer| authorizer.jwt.as_ref())
                .map(|jwt| &jwt.claims),
            _ => None,
        };
        let caller = claims.and_then(|claims| Caller::of_claims(|name| claims.get(name).map(String::as_str)));
        caller.ok_or_else(|| Denied::NoToken {
            detail: "the HTTP API has verified no token of this request, or one that names nobody".to_owned(),
        })
    }

    async fn origins(&self) -> Vec<String> {
        self.origins.clone()
    }
}
