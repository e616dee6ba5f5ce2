//! Why a model file cannot serve, or a network failed on an image.
//!
//! It never decides what follows from it. Invariant: each message names what is wrong, what was expected, and how the
//! person who made the file mends it.

use std::time::Duration;

use super::super::metadata::MetadataError;
use super::super::proof::ProofError;
use super::OUTLIER_OUTPUT;
use super::operators::MAX_NODES;
use super::probe::ScoreError;

/// Why a model file cannot serve, or a network failed on an image.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The bytes are no ONNX file.
    #[error(
        "the file ({size_bytes} bytes) is not a whole ONNX model: {detail}; copy it again, or export it as ONNX"
    )]
    NotOnnx {
        /// Size of the file, bytes.
        size_bytes: usize,
        /// What the reader says.
        detail: String,
    },
    /// The file would take more memory to decode than it may.
    #[error(
        "decoding the file ({size_bytes} bytes) may take {} MiB in {nodes} nodes, more than the {} MiB and \
         {MAX_NODES} nodes allowed; export the network alone, without training data and unused parts",
        mib(*decoded_bytes), mib(*limit_bytes)
    )]
    TooManyParts {
        /// Size of the file, bytes.
        size_bytes: usize,
        /// What decoding may take, bytes.
        decoded_bytes: u64,
        /// Nodes of all its graphs.
        nodes: usize,
        /// What it may take, bytes.
        limit_bytes: u64,
    },
    /// A tensor in the file has not the data that its shape says.
    #[error(
        "the tensor {tensor:?} says it has the shape {dims:?}, and holds {found}; the file is damaged: copy it \
         again, or export it again"
    )]
    TensorData {
        /// Its name.
        tensor: String,
        /// Its dimensions.
        dims: Vec<i64>,
        /// What it holds.
        found: String,
    },
    /// An operator is none of those that a network may use.
    #[error(
        "the graph uses the operator {operator:?} (node {node:?}), which is none of those that Giemsa runs: {why}"
    )]
    Operator {
        /// Its name, with its domain unless it is ONNX's own.
        operator: String,
        /// Name of the first such node.
        node: String,
        /// Why not, and the way out.
        why: &'static str,
    },
    /// The network would take more memory than it may.
    #[error(
        "the network would need {} MiB for {what}, more than the {} MiB allowed; make it smaller (a smaller input, \
         fewer channels), or raise {setting} and the function's memory",
        mib(*needed_bytes), mib(*limit_bytes)
    )]
    TooMuchMemory {
        /// For what: a tensor, the weights, or a run.
        what: String,
        /// What it would need, bytes.
        needed_bytes: u64,
        /// What it may have, bytes.
        limit_bytes: u64,
        /// The setting that says so.
        setting: &'static str,
    },
    /// How much memory a tensor would take cannot be told without computing it.
    #[error(
        "the size of {tensor:?} cannot be told before it is computed (operator {operator:?}); expected a network \
         whose shapes follow from its input; simplify it: pip install onnxsim; onnxsim model.onnx model.onnx"
    )]
    UnknownSize {
        /// Name of the node.
        tensor: String,
        /// Its operator.
        operator: String,
    },
    /// The network takes longer for an image than an image may take.
    #[error(
        "the network takes {} ms for one image, more than the {} ms allowed (GIEMSA_IMAGE_TIMEOUT_MS); make it \
         smaller, or raise the limit", took.as_millis(), limit.as_millis()
    )]
    TooSlow {
        /// Fastest of the probes.
        took: Duration,
        /// The limit.
        limit: Duration,
    },
    /// Weights are in another file.
    #[error(
        "the weights of {tensor:?} are in another file; expected one file that holds everything: \
         onnx.save(onnx.load(\"model.onnx\"), \"one.onnx\", save_as_external_data=False)"
    )]
    ExternalWeights {
        /// Name of the first such tensor.
        tensor: String,
    },
    /// The graph has not exactly one input.
    #[error("the graph has {found} inputs; expected one, the image")]
    InputCount {
        /// Inputs that are no weights.
        found: usize,
    },
    /// The graph gives something that nobody would read.
    #[error(
        "the graph has the outputs {found:?}; expected the scores, and after them at most one output, named \
         {OUTLIER_OUTPUT:?}. To drop what comes after the scores, in Python: import onnx; \
         m = onnx.load(\"model.onnx\"); del m.graph.output[1:]; onnx.save(m, \"model.onnx\")"
    )]
    Outputs {
        /// Names of the outputs, in order.
        found: Vec<String>,
    },
    /// The metadata cannot be used.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The scores are not what the metadata says.
    #[error(transparent)]
    Scores(#[from] ScoreError),
    /// The model's own proof fails.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The engine cannot build the network.
    #[error("the network cannot be built for an input of the shape {shape:?}: {detail}")]
    Unsupported {
        /// Input shape that was asked for.
        shape: [usize; 4],
        /// What the engine says.
        detail: String,
    },
    /// Labels and scores differ in number.
    #[error(
        "giemsa.labels names {labels} labels, but the network gives scores of the shape {found}; expected [1, {labels}]"
    )]
    ScoreCount {
        /// Labels in the metadata.
        labels: usize,
        /// Shape of the scores.
        found: String,
    },
    /// The outlier score is not one number for each image.
    #[error(
        "the output {OUTLIER_OUTPUT:?} is {found} for one image; expected floating-point numbers of the shape [1] \
         or [1, 1], which is [N] or [N, 1] for N images"
    )]
    OutlierShape {
        /// Its type and shape.
        found: String,
    },
    /// A score is NaN or infinite.
    #[error("the network gave the scores {scores:?} on {input}; expected finite numbers")]
    NotFinite {
        /// The scores, in order.
        scores: Vec<f32>,
        /// What it was run on.
        input: &'static str,
    },
    /// The outlier score is NaN or infinite.
    #[error("the network gave the outlier score {found} on {input}; expected a finite number")]
    OutlierNotFinite {
        /// The outlier score.
        found: f32,
        /// What it was run on.
        input: &'static str,
    },
    /// The engine failed while running.
    #[error("the network failed on {input}: {detail}")]
    Run {
        /// What it was run on.
        input: &'static str,
        /// What the engine says.
        detail: String,
    },
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
