//! Operations on queues: which there are, what they hold, emptying one.
//!
//! A queue is known by the last part of its URL, whatever host the client wrote before it.

use std::collections::BTreeMap;

use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::queue::{DEAD_LETTER_TIMEOUT, QueueError, dead_letter_queue, source_of_dead_letters};
use super::error::SqsError;
use super::messages::MAX_MESSAGE_BYTES;
use super::{ACCOUNT, Sqs};
use giemsa_store::aws::LOCAL_REGION;

/// Queues of a page, unless the client says otherwise.
const PAGE: usize = 1_000;

/// Attributes of SQS that a local queue has no value for.
const UNSET_ATTRIBUTES: [&str; 12] = [
    "ContentBasedDeduplication",
    "CreatedTimestamp",
    "DeduplicationScope",
    "FifoQueue",
    "FifoThroughputLimit",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "LastModifiedTimestamp",
    "MessageRetentionPeriod",
    "Policy",
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListQueues {
    queue_name_prefix: Option<String>,
    next_token: Option<String>,
    max_results: Option<i64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueueList {
    queue_urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueUrl {
    queue_name: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueueUrl {
    queue_url: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueAttributes {
    queue_url: Option<String>,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueueAttributes {
    attributes: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PurgeQueue {
    queue_url: Option<String>,
}

/// An answer without content.
#[derive(Debug, Serialize)]
pub(super) struct Empty {}

impl Sqs {
    pub(super) async fn list_queues(&self, request: ListQueues) -> Result<QueueList, SqsError> {
        let most = match request.max_results {
            None => PAGE,
            Some(most @ 1..=1_000) => usize::try_from(most).expect("at most 1,000"),
            Some(found) => {
                let expected = "between 1 and 1000";
                return Err(SqsError::Invalid {
                    parameter: "MaxResults",
                    found: found.to_string(),
                    expected,
                });
            }
        };
        let prefix = request.queue_name_prefix.unwrap_or_default();
        let after = request.next_token.unwrap_or_default();
        let declared = self.queue.declared().await?;
        let names = declared.iter().flat_map(|(name, _)| [name.clone(), dead_letter_queue(name)]);
        let mut names: Vec<String> =
            names.filter(|name| name.starts_with(&prefix) && *name > after).collect();
        names.sort_unstable();
        let is_more = names.len() > most;
        names.truncate(most);
        let next_token = if is_more { names.last().cloned() } else { None };
        Ok(QueueList { queue_urls: names.iter().map(|name| self.url_of(name)).collect(), next_token })
    }

    pub(super) async fn queue_url(&self, request: GetQueueUrl) -> Result<QueueUrl, SqsError> {
        let name = request.queue_name.ok_or(SqsError::Missing { parameter: "QueueName" })?;
        let name = self.existing(Some(name)).await?;
        Ok(QueueUrl { queue_url: self.url_of(&name) })
    }

    pub(super) async fn queue_attributes(
        &self,
        request: GetQueueAttributes,
    ) -> Result<QueueAttributes, SqsError> {
        let name = self.existing(request.queue_url).await?;
        let depth = self.queue.depth(&name, Utc::now()).await?;
        let mut all = BTreeMap::from([
            ("QueueArn", arn(&name)),
            ("ApproximateNumberOfMessages", depth.visible.to_string()),
            ("ApproximateNumberOfMessagesNotVisible", depth.in_flight.to_string()),
            ("ApproximateNumberOfMessagesDelayed", depth.delayed.to_string()),
            ("DelaySeconds", "0".to_owned()),
            ("ReceiveMessageWaitTimeSeconds", "0".to_owned()),
            ("MaximumMessageSize", MAX_MESSAGE_BYTES.to_string()),
        ]);
        let declared = self.queue.declared().await?;
        if let Some((_, settings)) = declared.iter().find(|(declared, _)| *declared == name) {
            all.insert("VisibilityTimeout", settings.visibility_timeout.as_secs().to_string());
            let policy = json!({
                "deadLetterTargetArn": arn(&dead_letter_queue(&name)),
                "maxReceiveCount": settings.max_receive_count,
            });
            all.insert("RedrivePolicy", policy.to_string());
        } else {
            all.insert("VisibilityTimeout", DEAD_LETTER_TIMEOUT.as_secs().to_string());
        }
        let asked = &request.attribute_names;
        let is_known = |asked: &str| {
            asked == "All"
                || asked == "RedrivePolicy"
                || all.contains_key(asked)
                || UNSET_ATTRIBUTES.contains(&asked)
        };
        if let Some(unknown) = asked.iter().find(|name| !is_known(name)) {
            return Err(SqsError::AttributeName { name: unknown.clone() });
        }
        let is_asked = |name: &str| asked.iter().any(|asked| asked == "All" || asked == name);
        let given = all.into_iter().filter(|(name, _)| is_asked(name));
        Ok(QueueAttributes { attributes: given.map(|(name, value)| (name.to_owned(), value)).collect() })
    }

    pub(super) async fn purge_queue(&self, request: PurgeQueue) -> Result<Empty, SqsError> {
        let name = self.existing(request.queue_url).await?;
        let count = self.queue.purge(&name).await?;
        tracing::warn!(queue = name, messages = count, "queue purged by a client");
        Ok(Empty {})
    }

    /// The name of the queue that a URL names, or a name by itself.
    pub(super) async fn existing(&self, url: Option<String>) -> Result<String, SqsError> {
        let url = url.ok_or(SqsError::Missing { parameter: "QueueUrl" })?;
        let name = url.rsplit('/').next().unwrap_or_default().to_owned();
        match self.queue.require(&name).await {
            Ok(()) => Ok(name),
            Err(QueueError::Undeclared { queue }) => Err(SqsError::NoQueue { queue }),
            Err(source) => Err(source.into()),
        }
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.url)
    }
}

/// The ARN of a local queue.
pub(super) fn arn(name: &str) -> String {
    format!("arn:aws:sqs:{LOCAL_REGION}:{ACCOUNT}:{name}")
}

/// The ARN of the queue whose dead letters `name` holds.
pub(super) fn source_arn(name: &str) -> Option<String> {
    source_of_dead_letters(name).map(arn)
}
