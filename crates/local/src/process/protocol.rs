//! What the stack and the processes that answer for it write to each other: one JSON document a line.
//!
//! Never anything that grows with an image: objects are named, and fetched by who needs them. Each line is whole,
//! written in one call.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use giemsa_model::Work;

/// Whose work a process does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It answers the images of this stage.
    Stage(String),
    /// It tries models.
    Gate,
}

impl Role {
    /// Name in logs, in arguments, and in the table.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Stage(stage) => stage,
            Self::Gate => "gate",
        }
    }
}

/// The first line to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duties {
    /// What it does.
    pub role: Role,
    /// Where S3 is.
    pub s3_url: String,
    /// Where DynamoDB is.
    pub dynamodb_url: String,
    /// The data folder, where faults on purpose are written down.
    pub data_dir: PathBuf,
    /// What is to go wrong on purpose.
    pub faults: Option<String>,
    /// File that metrics are appended to.
    pub metrics_file: Option<PathBuf>,
    /// Id of the stack's process, which a fault may have to end.
    pub stack_pid: u32,
}

/// Each further line to a process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Things may go wrong on purpose from now on.
    Arm,
    /// Answer this event.
    Answer {
        /// Repeated in the answer.
        id: u64,
        /// As SQS sends it, or a request to the gate.
        event: Value,
        /// Time for it, milliseconds.
        time_ms: u64,
    },
}

/// Each line of a process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It takes orders.
    Ready {
        /// What it has to answer with.
        model: ModelState,
    },
    /// A thread is about to do this.
    Begins {
        /// The thread.
        thread: u64,
        /// The work.
        work: Begun,
    },
    /// An order is carried out.
    Answered {
        /// That of the order.
        id: u64,
        /// What the trigger is to be told, or why the whole event failed.
        answer: Result<Value, String>,
        /// What it has to answer with.
        model: ModelState,
    },
}

/// [`Work`], as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Begun {
    Load { sha256: String },
    Decode { key: String },
    Infer { key: String, sha256: String },
    Nothing,
}

impl From<Work<'_>> for Begun {
    fn from(work: Work<'_>) -> Self {
        match work {
            Work::Load { sha256 } => Self::Load { sha256: sha256.to_owned() },
            Work::Decode { key } => Self::Decode { key: key.to_owned() },
            Work::Infer { key, sha256 } => Self::Infer { key: key.to_owned(), sha256: sha256.to_owned() },
            Work::Nothing => Self::Nothing,
        }
    }
}

/// What a process has to answer with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ModelState {
    /// Whether a model serves.
    pub serves: bool,
    /// Why the file in its place does not, if it is refused.
    pub refusal: Option<String>,
}

/// A document as a line.
pub(super) fn line_of(document: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(document).expect("text, numbers and JSON");
    line.push(b'\n');
    line
}
