//! What is wrong with a request, as SQS says it.
//!
//! It never blames the client for a failure of the file. Every error has SQS's own code, so that SDKs give the same
//! type as on AWS, and a sentence that says the way out.

use hyper::StatusCode;
use thiserror::Error;

use super::super::queue::QueueError;
use super::super::s3::{LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY};

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub(super) enum SqsError {
    /// No signature at all.
    #[error(
        "the request is not signed: set AWS_ACCESS_KEY_ID={LOCAL_ACCESS_KEY_ID} and \
         AWS_SECRET_ACCESS_KEY={LOCAL_SECRET_ACCESS_KEY}"
    )]
    Unsigned,
    /// Signed with a key of somebody else.
    #[error(
        "the local stack does not know the access key `{key}`: set AWS_ACCESS_KEY_ID={LOCAL_ACCESS_KEY_ID} and \
         AWS_SECRET_ACCESS_KEY={LOCAL_SECRET_ACCESS_KEY}"
    )]
    UnknownKey { key: String },
    /// Not the AWS JSON protocol.
    #[error(
        "the request names no operation of SQS in X-Amz-Target (content type {content_type:?}): the local stack \
         speaks the AWS JSON protocol 1.0; use an SDK or aws client of 2024 or later"
    )]
    NoTarget { content_type: String },
    /// An operation that SQS does not have.
    #[error("the operation {operation} is not known")]
    UnknownOperation { operation: String },
    /// An operation that SQS has and the local stack has not.
    #[error("the local stack does not serve {operation}: its queues are declared by `giemsa up` itself")]
    NotServed { operation: String },
    /// The body is not what the operation takes.
    #[error("the request cannot be read: {detail}")]
    Unreadable { detail: String },
    /// A field that has to be there.
    #[error("the request must contain the parameter {parameter}")]
    Missing { parameter: &'static str },
    /// A field out of range.
    #[error("value {found} for parameter {parameter} is invalid: it must be {expected}")]
    Invalid { parameter: &'static str, found: String, expected: &'static str },
    /// The queue does not exist.
    #[error("there is no queue `{queue}`; ListQueues names those of the local stack")]
    NoQueue { queue: String },
    /// A name that no queue attribute has.
    #[error("there is no queue attribute `{name}`")]
    AttributeName { name: String },
    /// A receipt that was never given out for this queue.
    #[error("the receipt handle {handle:?} is none of the queue `{queue}`")]
    Receipt { queue: String, handle: String },
    /// A receipt whose message is not held any more.
    #[error(
        "the message of this receipt handle is not in flight: it was received again, given back or deleted"
    )]
    NotInFlight,
    /// A batch without entries.
    #[error("the batch has no entries, expected 1 to 10")]
    EmptyBatch,
    /// A batch with too many entries.
    #[error("the batch has {found} entries, expected 1 to 10")]
    TooManyEntries { found: usize },
    /// Two entries with one id.
    #[error("the id {id:?} occurs twice in the batch")]
    RepeatedId { id: String },
    /// An id that SQS would not take.
    #[error("the id {id:?} must be 1 to 80 letters, digits, hyphens and underscores")]
    EntryId { id: String },
    /// A batch whose bodies are too long together.
    #[error("the messages of the batch have {found} bytes together, at most {most} are allowed")]
    BatchTooLong { found: usize, most: usize },
    /// A character that no message may hold.
    #[error("the message holds the character U+{character:04X}, which SQS does not take")]
    Character { character: u32 },
    /// The queues failed.
    #[error("the queues of the local stack failed")]
    Queue {
        #[from]
        source: QueueError,
    },
}

/// An error's code in both protocols of SQS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code {
    pub status: StatusCode,
    /// `__type` of the JSON protocol.
    pub shape: &'static str,
    /// Code of the older query protocol.
    pub query: &'static str,
}

impl SqsError {
    /// SQS's code.
    pub(super) fn code(&self) -> Code {
        let bad = |shape, query| Code { status: StatusCode::BAD_REQUEST, shape, query };
        match self {
            Self::Unsigned => Code {
                status: StatusCode::FORBIDDEN,
                shape: "com.amazon.coral.service#MissingAuthenticationTokenException",
                query: "MissingAuthenticationToken",
            },
            Self::UnknownKey { .. } => Code {
                status: StatusCode::FORBIDDEN,
                shape: "com.amazon.coral.service#UnrecognizedClientException",
                query: "InvalidClientTokenId",
            },
            Self::NoTarget { .. } | Self::UnknownOperation { .. } => {
                bad("com.amazon.coral.service#UnknownOperationException", "InvalidAction")
            }
            Self::NotServed { .. } => {
                bad("com.amazonaws.sqs#UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation")
            }
            Self::Unreadable { .. } => {
                bad("com.amazon.coral.service#SerializationException", "MalformedInput")
            }
            Self::Missing { .. } => {
                bad("com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter")
            }
            Self::Invalid { .. } => {
                bad("com.amazon.coral.service#InvalidParameterValueException", "InvalidParameterValue")
            }
            Self::NoQueue { .. } | Self::Queue { source: QueueError::Undeclared { .. } } => {
                bad("com.amazonaws.sqs#QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue")
            }
            Self::AttributeName { .. } => {
                bad("com.amazonaws.sqs#InvalidAttributeName", "InvalidAttributeName")
            }
            Self::Receipt { .. } => bad("com.amazonaws.sqs#ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid"),
            Self::NotInFlight => {
                bad("com.amazonaws.sqs#MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight")
            }
            Self::EmptyBatch => {
                bad("com.amazonaws.sqs#EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest")
            }
            Self::TooManyEntries { .. } => bad(
                "com.amazonaws.sqs#TooManyEntriesInBatchRequest",
                "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            ),
            Self::RepeatedId { .. } => bad(
                "com.amazonaws.sqs#BatchEntryIdsNotDistinct",
                "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            ),
            Self::EntryId { .. } => {
                bad("com.amazonaws.sqs#InvalidBatchEntryId", "AWS.SimpleQueueService.InvalidBatchEntryId")
            }
            Self::BatchTooLong { .. } => {
                bad("com.amazonaws.sqs#BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong")
            }
            Self::Character { .. } => {
                bad("com.amazonaws.sqs#InvalidMessageContents", "InvalidMessageContents")
            }
            Self::Queue { .. } => Code {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                shape: "com.amazon.coral.service#InternalFailure",
                query: "InternalFailure",
            },
        }
    }
}
