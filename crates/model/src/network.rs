//! Loads, checks and runs an ONNX network; the only file that names the inference engine (tract), with its folder.
//!
//! It never reads a file or a bucket, and knows nothing of labels' meaning. A `Network` that exists has one output with
//! a score for each label (or one for two labels), at most one other, [`OUTLIER_OUTPUT`], of one value, and gave on its
//! probes finite scores that are what the metadata says.

mod error;
mod memory;
mod operators;
mod outputs;
mod probe;
mod rewrites;
mod summary;
mod weights;
mod wire;

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::{
    Datum, Framework, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, TypedFact,
    TypedModel, TypedRunnableModel, tvec,
};
use tract_onnx::tract_hir::infer::InferenceFact;

use super::metadata::{GraphFacts, Metadata, ScoreKind};
use giemsa_image::InputTensor;

pub use error::{ModelError, Setting, too_large};
pub use memory::{LoadLimits, MemoryNeed};
pub use probe::ScoreError;
pub use summary::GraphSummary;

/// What the names and nodes of an ordinary network take decoded, beside its weights; part of the process's base memory.
const STRUCTURE_BYTES: u64 = 8 << 20;

/// Name of the second output that a graph may have: one number for each image, the higher the less the image is
/// like what the network was trained on.
pub const OUTLIER_OUTPUT: &str = "outlier";

/// An ONNX file, parsed but not built.
pub struct OnnxFile {
    proto: pb::ModelProto,
    input_shape: Vec<Option<usize>>,
    has_outlier_output: bool,
    is_quantised: bool,
}

impl OnnxFile {
    /// Parses the bytes of an ONNX file; the limits are those of the default configuration.
    ///
    /// # Errors
    /// As [`OnnxFile::parse_within`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        Self::parse_within(bytes, &LoadLimits::default())
    }

    /// Parses the bytes of an ONNX file, which may take what `limits` say.
    ///
    /// # Errors
    /// [`ModelError::NotOnnx`], [`ModelError::TooLarge`], [`ModelError::TooMuchMemory`], [`ModelError::TooManyNodes`],
    /// [`ModelError::Opset`], [`ModelError::ExternalWeights`], [`ModelError::TensorData`], [`ModelError::Operator`],
    /// [`ModelError::WeightsNotFinite`], [`ModelError::InputCount`], [`ModelError::InputType`],
    /// [`ModelError::NotClassifier`] or [`ModelError::Outputs`].
    pub fn parse_within(bytes: &[u8], limits: &LoadLimits) -> Result<Self, ModelError> {
        let size_bytes = bytes.len();
        let not_onnx = |detail: &str| ModelError::NotOnnx { size_bytes, detail: detail.to_owned() };
        if bytes.is_empty() {
            return Err(not_onnx("it is empty"));
        }
        let (file_bytes, limit_bytes) = (size_bytes as u64, limits.file_bytes());
        if file_bytes > limit_bytes {
            return Err(ModelError::TooLarge { size_bytes: file_bytes, limit_bytes });
        }
        let wire::WireSize { decoded_bytes, nodes } = wire::measure(bytes).map_err(|e| not_onnx(&e))?;
        if nodes > operators::MAX_NODES {
            return Err(ModelError::TooManyNodes { nodes });
        }
        // Beside the file and the copy that the engine's reader makes of it.
        let needed_bytes = decoded_bytes.saturating_add(2 * file_bytes).saturating_sub(STRUCTURE_BYTES);
        limits.check_model("the file and what it holds decoded", needed_bytes)?;
        let proto =
            guard(|| tract_onnx::onnx().proto_model_for_read(&mut &*bytes).map_err(|e| root_cause(&e)))
                .map_err(|detail| not_onnx(&detail))?;
        if proto.graph.is_none() {
            return Err(not_onnx("it holds no graph"));
        }
        Self::of_proto(proto)
    }

    fn of_proto(proto: pb::ModelProto) -> Result<Self, ModelError> {
        let graph = proto.graph.as_ref().expect("parse saw a graph");
        let is_quantised = is_quantised(graph);
        let opset = operators::check_opset(&proto)?;
        operators::check_graph(graph, opset)?;
        weights::check_finite(graph)?;
        let input = the_input(graph, &proto.producer_name)?;
        let input_shape = declared_shape(input);
        let has_outlier_output = outputs::check(graph)?;
        Ok(Self { proto, input_shape, has_outlier_output, is_quantised })
    }

    /// How often each operator is used, by name.
    pub fn operators(&self) -> BTreeMap<&str, usize> {
        let mut count = BTreeMap::new();
        for node in self.proto.graph.iter().flat_map(|graph| &graph.node) {
            *count.entry(node.op_type.as_str()).or_default() += 1;
        }
        count
    }

    /// All `metadata_props`, by key; the last of equal keys counts.
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.proto.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    }

    /// What the graph answers where metadata is silent.
    pub fn graph_facts(&self) -> GraphFacts {
        let last_operator = self.proto.graph.as_ref().and_then(last_operator);
        GraphFacts {
            input_shape: self.input_shape.clone(),
            ends_in_softmax: last_operator == Some("Softmax"),
            ends_in_sigmoid: last_operator == Some("Sigmoid"),
            has_outlier_output: self.has_outlier_output,
            is_quantised: self.is_quantised,
        }
    }
}

/// The operator that the scores come from; what only moves or rounds them is passed over.
fn last_operator(graph: &pb::GraphProto) -> Option<&str> {
    const PASSES: [&str; 9] = [
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Cast",
        "QuantizeLinear",
        "DequantizeLinear",
    ];
    let mut tensor = &graph.output.first()?.name;
    // A graph of n nodes has no longer way; a cycle would.
    for _ in 0..=graph.node.len() {
        let node = graph.node.iter().find(|node| node.output.contains(tensor))?;
        match node.input.first() {
            Some(input) if PASSES.contains(&node.op_type.as_str()) => tensor = input,
            _ => return Some(&node.op_type),
        }
    }
    None
}

/// Whether the graph computes with fewer than 32 bits: rounded weights, or operators that round.
fn is_quantised(graph: &pb::GraphProto) -> bool {
    use pb::tensor_proto::DataType::{Bfloat16, Float16};
    let is_short = |tensor: &pb::TensorProto| [Float16 as i32, Bfloat16 as i32].contains(&tensor.data_type);
    graph.initializer.iter().any(is_short) || graph.node.iter().any(|node| node.op_type.contains("Quantize"))
}

/// The image among the inputs of `graph`.
fn the_input<'a>(graph: &'a pb::GraphProto, producer: &str) -> Result<&'a pb::ValueInfoProto, ModelError> {
    use pb::tensor_proto::DataType;
    use pb::type_proto::Value::TensorType;
    let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs: Vec<_> = graph.input.iter().filter(|input| !weights.contains(input.name.as_str())).collect();
    let [input] = inputs[..] else {
        let images = inputs.iter().filter(|input| declared_shape(input).len() == 4).count();
        let way_out = match inputs.len() {
            0 => "",
            _ if producer == "tf2onnx" || images == 1 => {
                ". The others look like values of the training that the exporter left open: convert the Keras network \
                 itself, with models/convert/from_keras.py"
            }
            _ => ". A network that compares or combines several images is not run",
        };
        let found = inputs.iter().map(|input| input.name.clone()).collect();
        return Err(ModelError::InputCount { found, way_out });
    };
    let data_type = match input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(TensorType(tensor)) => DataType::try_from(tensor.elem_type).ok(),
        None => None,
    };
    match data_type {
        None | Some(DataType::Undefined | DataType::Float | DataType::Float16 | DataType::Bfloat16) => {
            Ok(input)
        }
        Some(found) => Err(ModelError::InputType { input: input.name.clone(), found: shown_type(found) }),
    }
}

/// A data type of ONNX, in words.
fn shown_type(data_type: pb::tensor_proto::DataType) -> &'static str {
    use pb::tensor_proto::DataType;
    match data_type {
        DataType::Uint8 => "8-bit whole numbers (uint8)",
        DataType::Int8 => "8-bit whole numbers (int8)",
        DataType::Uint16 | DataType::Int16 => "16-bit whole numbers",
        DataType::Uint32 | DataType::Int32 => "32-bit whole numbers",
        DataType::Uint64 | DataType::Int64 => "64-bit whole numbers",
        DataType::Double => "64-bit floats (double)",
        DataType::Bool => "truth values (bool)",
        DataType::String => "texts",
        _ => "numbers of another kind",
    }
}

fn declared_shape(input: &pb::ValueInfoProto) -> Vec<Option<usize>> {
    use pb::tensor_shape_proto::dimension::Value::DimValue;
    use pb::type_proto::Value::TensorType;
    let Some(TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Vec::new();
    };
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    dims.iter()
        .map(|dim| match dim.value {
            Some(DimValue(size)) => usize::try_from(size).ok().filter(|size| *size > 0),
            _ => None,
        })
        .collect()
}

fn forget_shape(input: &mut pb::ValueInfoProto) {
    use pb::type_proto::Value::TensorType;
    if let Some(TensorType(tensor)) = input.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.shape = None;
    }
}

/// What a network says of one image; all numbers are finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// One score for each label, in their order; of a network with one score for two labels both.
    pub labels: Vec<f32>,
    /// How little the image is like what the network was trained on, if it has the output; any range.
    pub outlier: Option<f32>,
}

/// A network, optimised for one image at a time, shared by all threads.
///
/// One image at a time because a batch dimension above 1 was slower for each image when measured.
#[derive(Debug, Clone)]
pub struct Network {
    plan: Arc<TypedRunnableModel>,
    kind: ScoreKind,
    is_single: bool,
    need: MemoryNeed,
    saturated: Option<Vec<f32>>,
}

impl Network {
    /// Builds and probes the network of `file`, which `metadata` is of, within `limits`.
    ///
    /// It takes the file, so that no third copy of the weights is held while the engine makes its own.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`], [`ModelError::TooMuchMemory`], [`ModelError::UnknownSize`],
    /// [`ModelError::NotClassifier`], [`ModelError::ScoreCount`], [`ModelError::OutlierShape`], [`ModelError::Run`],
    /// [`ModelError::NotFinite`], [`ModelError::OutlierNotFinite`], [`ModelError::TooSlow`] or [`ModelError::Scores`].
    pub fn build(file: OnnxFile, metadata: &Metadata, limits: &LoadLimits) -> Result<Self, ModelError> {
        let shape = metadata.input.shape();
        let graph = file.graph_facts();
        let unsupported = |detail: String| ModelError::Unsupported { shape, detail };
        let (plan, need) = catch_unwind(AssertUnwindSafe(|| optimised_plan(file, shape, limits)))
            .unwrap_or_else(|panic| Err(unsupported(panic_message(&*panic))))?;
        let output_fact = |index| plan.model().output_fact(index).map_err(|e| unsupported(root_cause(&e)));
        let scores = output_fact(0)?;
        let labels = metadata.labels.len();
        // A trailing [1, k, 1, 1] is as good as [1, k]; anything else is another kind of network.
        let has_scores = |count: usize| {
            let dims = scores.shape.as_concrete();
            dims.is_some_and(|dims| dims.iter().product::<usize>() == count && dims.contains(&count))
        };
        let is_single = labels == 2 && has_scores(1);
        if !is_single && !has_scores(labels) {
            outputs::check_shape(scores.shape.as_concrete())?;
            return Err(ModelError::ScoreCount { labels, found: shown_shape(scores) });
        }
        if graph.has_outlier_output {
            let outlier = output_fact(1)?;
            // Without a dimension it would be one number for a whole batch.
            let is_one = outlier
                .shape
                .as_concrete()
                .is_some_and(|dims| !dims.is_empty() && dims.iter().product::<usize>() == 1);
            if !is_one || !outlier.datum_type.is_float() {
                let kind = if outlier.datum_type.is_float() { "floats" } else { "whole numbers" };
                let found = format!("{kind} of the shape {}", shown_shape(outlier));
                return Err(ModelError::OutlierShape { found });
            }
        }
        let mut network = Self { plan, kind: metadata.output, is_single, need, saturated: None };
        network.saturated = network.probe(metadata, &graph, limits)?;
        Ok(network)
    }

    /// The probabilities of all probes, if they are the same, all 0 or 1.
    pub fn saturated(&self) -> Option<&[f32]> {
        self.saturated.as_deref()
    }

    /// Whether it gives one score for two labels: of the second one, as its probability or its logit.
    pub fn is_single(&self) -> bool {
        self.is_single
    }

    /// What it takes of memory, estimated from above.
    pub fn memory_need(&self) -> MemoryNeed {
        self.need
    }

    /// Runs the network on one image.
    ///
    /// # Errors
    /// [`ModelError::Run`], [`ModelError::NotFinite`] or [`ModelError::OutlierNotFinite`].
    pub fn run(&self, input: InputTensor) -> Result<Scores, ModelError> {
        self.run_on(input, "this image")
    }

    /// As [`Network::run`], on what errors call `what`.
    pub(super) fn run_on(&self, input: InputTensor, what: &'static str) -> Result<Scores, ModelError> {
        let Scores { labels, outlier } = self.raw_scores(input, what)?;
        Ok(Scores { labels: self.for_labels(labels), outlier })
    }

    /// A score for each label: the one score of two labels is that of the second.
    pub(super) fn for_labels(&self, scores: Vec<f32>) -> Vec<f32> {
        match (self.is_single, self.kind, &scores[..]) {
            // softmax([0, z]) is sigmoid(z) for the second.
            (true, ScoreKind::Logits, [logit]) => vec![0.0, *logit],
            (true, ScoreKind::Probabilities, [probability]) => vec![1.0 - probability, *probability],
            _ => scores,
        }
    }

    /// The scores as the network gives them.
    fn raw_scores(&self, input: InputTensor, what: &'static str) -> Result<Scores, ModelError> {
        let outputs = guard(|| {
            let tensor = Tensor::from_shape(&input.shape, &input.values).map_err(|e| root_cause(&e))?;
            let outputs = self.plan.run(tvec!(tensor.into_tvalue())).map_err(|e| root_cause(&e))?;
            outputs.iter().map(|output| values_of(output)).collect::<Result<Vec<_>, _>>()
        })
        .map_err(|detail| ModelError::Run { input: what, detail })?;
        let mut outputs = outputs.into_iter();
        let labels = outputs.next().expect("OnnxFile::parse saw the output of the scores");
        // `build` made sure that it is one value.
        let outlier = outputs.next().map(|values| values[0]);
        if !labels.iter().all(|score| score.is_finite()) {
            return Err(ModelError::NotFinite { scores: labels, input: what });
        }
        match outlier {
            Some(found) if !found.is_finite() => Err(ModelError::OutlierNotFinite { found, input: what }),
            _ => Ok(Scores { labels, outlier }),
        }
    }
}

fn shown_shape(output: &TypedFact) -> String {
    let dims = output.shape.as_concrete();
    dims.map_or_else(|| "an unknown size".to_owned(), |dims| format!("{dims:?}"))
}

fn values_of(output: &Tensor) -> Result<Vec<f32>, String> {
    let output = output.cast_to::<f32>().map_err(|e| root_cause(&e))?;
    let view = output.to_plain_array_view::<f32>().map_err(|e| root_cause(&e))?;
    Ok(view.iter().copied().collect())
}

/// Builds the network step by step, and asks before each what it will take.
fn optimised_plan(
    mut file: OnnxFile,
    shape: [usize; 4],
    limits: &LoadLimits,
) -> Result<(Arc<TypedRunnableModel>, MemoryNeed), ModelError> {
    let unsupported = |detail: String| ModelError::Unsupported { shape, detail };
    let fail = |e| unsupported(root_cause(&e));
    let float = f32::datum_type();
    // Shapes that the exporter wrote for a symbolic batch contradict the one image that is run here;
    // the engine infers them anew.
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let opset = operators::opset(&file.proto).unwrap_or_default();
    let graph = file.proto.graph.as_mut().expect("parse saw a graph");
    limits.check_model(
        "its weights as 32-bit floats, twice while it is built",
        weights::widened_bytes(graph).saturating_mul(memory::WEIGHT_COPIES),
    )?;
    weights::widen(graph);
    rewrites::apply(graph, opset);
    // It is told the shape of one image, and would read the names of open dimensions as formulas.
    graph.input.iter_mut().for_each(forget_shape);
    let mut model: InferenceModel = onnx.model_for_proto_model(&file.proto).map_err(fail)?;
    drop(file);
    model.set_input_fact(0, InferenceFact::dt_shape(float, shape)).map_err(fail)?;
    // Without what no output needs, in the order of computation.
    let mut model = model.into_compact().map_err(fail)?;
    let constants_bytes = memory::size_tensors(&mut model, limits, unsupported)?;
    let model: TypedModel = model.into_typed().map_err(fail)?;
    memory::check_tensors(&model, limits)?;
    check_products(&model)?;
    let model = model.into_optimized().map_err(fail)?;
    let need = memory::check_run(&model, constants_bytes, limits, unsupported)?;
    Ok((model.into_runnable().map_err(fail)?, need))
}

/// Refuses products of whole numbers: some kernels of the engine read past the end of their operands.
fn check_products(model: &TypedModel) -> Result<(), ModelError> {
    for node in &model.nodes {
        let operator = node.op.name();
        let is_product = matches!(&*operator, "EinSum" | "Conv" | "Deconv" | "PrefixMatMul");
        if is_product && node.outputs.iter().any(|output| !output.fact.datum_type.is_float()) {
            return Err(ModelError::Operator {
                operator: operator.into_owned(),
                node: node.name.clone(),
                why: "it multiplies whole numbers, which the engine does not do safely; cast both to 32-bit floats first",
            });
        }
    }
    Ok(())
}

/// Runs engine code, and turns a panic into its message: a bad file must not end the process.
fn guard<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_message(&*panic)))
}

/// The first paragraph of a caught panic's text, at most 500 characters: where backtraces are switched on, an error that
/// was unwrapped brings its own along.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    text.split("\n\n").next().unwrap_or_default().chars().take(500).collect()
}

/// The engine nests contexts; outermost and innermost name the node and the reason.
fn root_cause(error: &tract_onnx::prelude::TractError) -> String {
    let (outer, inner) = (error.to_string(), error.root_cause().to_string());
    let text = if outer == inner { outer } else { format!("{outer}: {inner}") };
    text.chars().take(500).collect()
}

#[cfg(test)]
mod proof_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A toy network with an outlier output, parsed but not built.
    fn parse_toy() -> OnnxFile {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden/toy_outlier.onnx");
        OnnxFile::parse(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The toy network, its outputs and nodes changed by `change`, as [`OnnxFile::parse`] and
    /// [`Network::build`] see it.
    fn changed(change: impl FnOnce(&mut pb::GraphProto)) -> Result<Network, ModelError> {
        let mut proto = parse_toy().proto;
        change(proto.graph.as_mut().unwrap());
        let file = OnnxFile::of_proto(proto)?;
        let metadata = Metadata::parse(&file.properties(), &file.graph_facts())?;
        Network::build(file, &metadata, &LoadLimits::default())
    }

    #[test]
    fn the_second_output_is_the_outlier_score() {
        let network = changed(|_| {}).unwrap();
        let shape = [1, 3, 20, 24];
        let length = shape.iter().product::<usize>();
        let blank = network.run(InputTensor { shape, values: vec![0.3; length] }).unwrap();
        assert_eq!(blank.labels.len(), 2);
        // sigmoid(4): the toy's answer to a picture without contrast.
        assert!((blank.outlier.unwrap() - 0.982_013_8).abs() < 1e-5, "{blank:?}");
        let striped = (0..length).map(|i| (i % 2) as f32).collect();
        let striped = network.run(InputTensor { shape, values: striped }).unwrap();
        assert!(striped.outlier.unwrap() < 0.01, "{striped:?}");
    }

    #[test]
    fn a_graph_with_other_outputs_is_refused_with_the_way_out() {
        type Change = fn(&mut pb::GraphProto);
        let cases: [(Change, &[&str]); 8] = [
            (
                |graph| graph.output[1].name = "contrast".to_owned(),
                &["the outputs [\"logits\", \"contrast\"]", "named \"outlier\"", "del m.graph.output[1:]"],
            ),
            (
                |graph| graph.output.push(graph.output[0].clone()),
                &["the outputs [\"logits\", \"outlier\", \"logits\"]"],
            ),
            (|graph| graph.output.swap(0, 1), &["the outputs [\"outlier\", \"logits\"]"]),
            (|graph| graph.output.clear(), &["the outputs []", "expected the scores"]),
            (
                |graph| {
                    graph.output.pop();
                },
                &["outlier_above is 0.5, but the graph has no output named \"outlier\""],
            ),
            (
                // One number for the whole batch: the mean over all axes.
                |graph| graph.node.iter_mut().for_each(|node| node.attribute.retain(|a| a.name != "axes")),
                &["\"outlier\" holds floats of the shape [] for one image"],
            ),
            (
                // One number for each colour.
                |graph| is_made_of(graph, "mean"),
                &["\"outlier\" holds floats of the shape [1, 3, 1, 1] for one image", "[1] or [1, 1]"],
            ),
            (
                |graph| {
                    let mut node = graph.node[4].clone();
                    node.op_type = "ArgMax".to_owned();
                    (node.input, node.output) = (vec!["logits".to_owned()], vec!["outlier".to_owned()]);
                    node.attribute.clear();
                    graph.node.retain(|node| node.output[0] != "outlier");
                    graph.node.push(node);
                },
                &["\"outlier\" holds whole numbers"],
            ),
        ];
        for (change, expected) in cases {
            let message = changed(change).unwrap_err().to_string();
            for part in expected {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }

    /// Makes the outlier output from another tensor of the graph.
    fn is_made_of(graph: &mut pb::GraphProto, tensor: &str) {
        let last = graph.node.last_mut().unwrap();
        assert_eq!(last.output, ["outlier"]);
        last.input = vec![tensor.to_owned()];
    }

    #[test]
    fn an_outlier_score_that_is_no_number_is_refused_on_the_probe() {
        // The logarithm of the contrast of a blank probe image.
        let error = changed(|graph| {
            is_made_of(graph, "contrast");
            graph.node.last_mut().unwrap().op_type = "Log".to_owned();
        })
        .unwrap_err();
        let expected = "the network gave the outlier score -inf on a uniform image of pixel value 0; expected a finite number";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_image_on_which_the_network_fails_is_an_error_and_never_an_answer() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden/toy_gaps.onnx");
        let file = OnnxFile::parse(&std::fs::read(path).unwrap()).unwrap();
        let metadata = Metadata::parse(&file.properties(), &file.graph_facts()).unwrap();
        let network = Network::build(file, &metadata, &LoadLimits::default()).unwrap();
        let shape = metadata.input.shape();
        // Dark red, green or blue.
        let run = |dark: Option<usize>| {
            let value = |i: usize| if dark == Some(i / 64) { 0.3 } else { 0.0 };
            network.run(InputTensor { shape, values: (0..192).map(value).collect() })
        };
        let cases = [
            (0, "the network gave the scores [NaN, 1.0] on this image"),
            (1, "the network gave the outlier score NaN on this image"),
            (2, "the network failed on this image: "),
        ];
        for (color, expected) in cases {
            let message = run(Some(color)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            // And the next image is answered.
            assert!(run(None).is_ok());
        }
    }

    #[test]
    fn a_network_that_takes_longer_than_an_image_may_is_refused() {
        let file = parse_toy();
        let metadata = Metadata::parse(&file.properties(), &file.graph_facts()).unwrap();
        let limits = LoadLimits { image_timeout: Duration::from_nanos(1), ..LoadLimits::default() };
        let error = Network::build(file, &metadata, &limits).unwrap_err();
        assert!(
            error.to_string().contains("more than the 0 ms allowed (GIEMSA_IMAGE_TIMEOUT_MS)"),
            "{error}"
        );
    }
}
