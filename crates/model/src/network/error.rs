//! Why a model file cannot serve, or a network failed on an image.
//!
//! Each message names what is wrong, what was expected, and how the person who made the file mends it.

use std::time::Duration;

use super::super::metadata::MetadataError;
use super::super::proof::ProofError;
use super::OUTLIER_OUTPUT;
use super::operators::{MAX_NODES, OPSETS};
use super::probe::ScoreError;
use giemsa_config::{MODEL_MEMORY_FACTOR, RUN_BYTES_PER_PIXEL};

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
    /// The file is larger than a model file may be.
    #[error("{}", too_large(*size_bytes, *limit_bytes))]
    TooLarge {
        /// Size of the file, bytes.
        size_bytes: u64,
        /// Largest model file, bytes.
        limit_bytes: u64,
    },
    /// The graph has more nodes than it may have.
    #[error(
        "the graph has {nodes} nodes, more than the {MAX_NODES} nodes allowed; export the network alone, for \
         inference and without loops that are unrolled, and simplify it: pip install onnxsim; onnxsim model.onnx \
         model.onnx"
    )]
    TooManyNodes {
        /// Nodes of all its graphs.
        nodes: usize,
    },
    /// The file uses operators of a version that was not compared with onnxruntime.
    #[error(
        "the file uses {} of ONNX's operators; expected an opset of {} to {}. Export it again, e.g. with opset_version=18, \
         or convert it, in Python: import onnx; from onnx import version_converter; \
         onnx.save(version_converter.convert_version(onnx.load(\"model.onnx\"), 18), \"model.onnx\")",
        found.map_or("no version (opset)".to_owned(), |version| format!("version {version} (opset)")),
        OPSETS.start(), OPSETS.end()
    )]
    Opset {
        /// The version, if the file names one.
        found: Option<i64>,
    },
    /// Weights are not numbers.
    #[error(
        "the weights {tensor:?} are not all finite: of {numbers} numbers {nan} are NaN and {infinite} infinite, the first \
         at place {first}; such a network can answer with confidence whatever it sees. Training diverged, or the file is \
         damaged: export the weights of an earlier epoch, or copy the file again"
    )]
    WeightsNotFinite {
        /// Name of the first such tensor.
        tensor: String,
        /// Numbers that it holds.
        numbers: usize,
        /// How many of them are NaN.
        nan: usize,
        /// How many of them are infinite.
        infinite: usize,
        /// Place of the first one that is not finite, from 0.
        first: usize,
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
    #[error("the graph uses the operator {operator:?} (node {node:?}), which Giemsa does not run: {why}")]
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
        "the network would need {} MiB for {what}, more than the {} MiB allowed; {}",
        mib(*needed_bytes), mib(*limit_bytes), setting.way_out(*needed_bytes)
    )]
    TooMuchMemory {
        /// For what: a tensor, the weights, or a run.
        what: String,
        /// What it would need, bytes.
        needed_bytes: u64,
        /// What it may have, bytes.
        limit_bytes: u64,
        /// The setting that says so.
        setting: Setting,
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
    #[error("the graph has {} inputs{}; expected one, the image{way_out}", found.len(), listed(found))]
    InputCount {
        /// Names of the inputs that are not weights.
        found: Vec<String>,
        /// What may help, or nothing.
        way_out: &'static str,
    },
    /// The input takes something else than 32-bit floats.
    #[error(
        "its input {input:?} takes {found}; expected 32-bit floats. Export the network with a float input: Giemsa makes \
         numbers of the pixels as giemsa.input says (\"scale\": 1 gives 0 to 255)"
    )]
    InputType {
        /// Name of the input.
        input: String,
        /// What it takes.
        found: &'static str,
    },
    /// The outputs are those of another kind of network.
    #[error(
        "this looks like {kind}: {found}; Giemsa needs a classifier, which gives one score for each label of a picture of \
         one cell. Cut the cells out of the field and train a classifier on them, or export the classifying part alone"
    )]
    NotClassifier {
        /// What it seems to be.
        kind: &'static str,
        /// What says so.
        found: String,
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
    #[error(
        "the network cannot be built for an input of the shape {shape:?}; simplify it (pip install onnxsim; onnxsim \
         model.onnx model.onnx), or export it again. The engine says: {detail}"
    )]
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
        "the output {OUTLIER_OUTPUT:?} holds {found} for one image; expected floating-point numbers of the shape [1] \
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

/// The setting that bounds what a network may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `GIEMSA_MAX_MODEL_BYTES`: what a model may take, a multiple of it.
    ModelBytes,
    /// `GIEMSA_MAX_PIXELS`: a run uses the memory that decoding has left.
    Pixels,
}

impl Setting {
    fn way_out(self, needed_bytes: u64) -> String {
        match self {
            Self::ModelBytes => format!(
                "use a network with fewer weights, or set GIEMSA_MAX_MODEL_BYTES to {} or more; a function whose memory is \
                 too small for that says at its start how much it needs",
                needed_bytes.div_ceil(MODEL_MEMORY_FACTOR)
            ),
            Self::Pixels => format!(
                "use a smaller input or a network with fewer channels, or set GIEMSA_MAX_PIXELS to {} or more; a function \
                 whose memory is too small for that says at its start how much it needs",
                needed_bytes.div_ceil(RUN_BYTES_PER_PIXEL)
            ),
        }
    }
}

/// Why a file of `size_bytes` is not read where `limit_bytes` are allowed, and the way out.
pub fn too_large(size_bytes: u64, limit_bytes: u64) -> String {
    // Two models are held while one is swapped for another.
    let more_bytes = size_bytes.saturating_sub(limit_bytes).saturating_mul(2 * MODEL_MEMORY_FACTOR);
    format!(
        "the file has {size_bytes} bytes, more than the {limit_bytes} allowed (GIEMSA_MAX_MODEL_BYTES); use a network with \
         fewer weights, or set GIEMSA_MAX_MODEL_BYTES to {size_bytes} or more and give the function {} MB more memory",
        more_bytes.div_ceil(1 << 20)
    )
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
