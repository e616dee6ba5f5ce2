//! What a graph may be made of: the operators that a network may use, and tensors that hold what they say.
//!
//! What passes has no loop, no branch, no chance in it and no weight elsewhere, and the size of each of its tensors
//! follows from the size of the input.

use tract_onnx::pb;

use super::error::ModelError;
use super::rewrites::{float_attribute, text_attribute};

/// Versions of ONNX's operators that are compared with onnxruntime (`make engine-parity`).
pub(super) const OPSETS: std::ops::RangeInclusive<i64> = 7..=24;

/// Most nodes of a graph; some passes of the engine take their square in time.
pub(super) const MAX_NODES: usize = 5_000;

/// Most positions of a pooling or convolution kernel; the engine lists them.
const MAX_KERNEL: i64 = 1 << 16;

/// Sorted. Operators of which the engine knows the size of the result before it computes it.
const OPERATORS: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QuantizeLinear",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
    "Xor",
];

const EXTERNAL: i32 = pb::tensor_proto::DataLocation::External as i32;

/// Checks which version of ONNX's operators a file uses, and returns it.
///
/// # Errors
/// [`ModelError::Opset`].
pub(super) fn check_opset(proto: &pb::ModelProto) -> Result<i64, ModelError> {
    let found = opset(proto);
    found.filter(|version| OPSETS.contains(version)).ok_or(ModelError::Opset { found })
}

/// Version of ONNX's own operators, as the engine picks it.
pub(super) fn opset(proto: &pb::ModelProto) -> Option<i64> {
    proto.opset_import.iter().find(|entry| is_own_domain(&entry.domain)).map(|entry| entry.version)
}

fn is_own_domain(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Checks the nodes and tensors of `graph`.
///
/// # Errors
/// [`ModelError::ExternalWeights`], [`ModelError::TensorData`] or [`ModelError::Operator`].
pub(super) fn check_graph(graph: &pb::GraphProto, opset: i64) -> Result<(), ModelError> {
    graph.initializer.iter().try_for_each(|tensor| check_tensor(tensor, &tensor.name))?;
    for node in &graph.node {
        check_operator(node, graph, opset)?;
        for attribute in &node.attribute {
            // Of a constant, which has no name of its own.
            let name = node.output.first().map_or(node.name.as_str(), String::as_str);
            attribute.t.iter().chain(&attribute.tensors).try_for_each(|tensor| check_tensor(tensor, name))?;
            if attribute.name == "kernel_shape" {
                check_kernel(node, &attribute.ints)?;
            }
        }
    }
    Ok(())
}

fn check_operator(node: &pb::NodeProto, graph: &pb::GraphProto, opset: i64) -> Result<(), ModelError> {
    let name = node.op_type.as_str();
    let is_own = is_own_domain(&node.domain);
    let is_known = is_own && OPERATORS.binary_search(&name).is_ok();
    let why = if is_known { why_not_so(node, graph, opset) } else { Some(why_not(node)) };
    let Some(why) = why else { return Ok(()) };
    let operator = if is_own { name.to_owned() } else { format!("{}.{name}", node.domain) };
    Err(ModelError::Operator { operator, node: shown_name(node), why })
}

/// Name of a node, or of what it makes.
fn shown_name(node: &pb::NodeProto) -> String {
    let output = node.output.first().filter(|_| node.name.is_empty());
    output.unwrap_or(&node.name).clone()
}

/// Why an operator that is not on the list is not run, and the way out.
fn why_not(node: &pb::NodeProto) -> &'static str {
    let is_microsoft = node.domain == "com.microsoft";
    match node.op_type.as_str() {
        "If" | "Loop" | "Scan" | "SequenceMap" => {
            "loops and branches have no bound on time and memory; export it with fixed shapes, or unroll them: \
             pip install onnxsim; onnxsim model.onnx model.onnx"
        }
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Bernoulli"
        | "Multinomial" => {
            "the same image has to get the same answer each time; export it for inference (model.eval() in PyTorch)"
        }
        "ConvInteger" | "MatMulInteger" | "DynamicQuantizeLinear" => {
            "it computes with 8-bit integers, which the engine does not do safely; use the float model, or quantise \
             statically with onnxruntime's quantize_static(..., quant_format=QuantFormat.QDQ)"
        }
        name if name.starts_with("QLinear") || name.starts_with("QGemm") => {
            "it computes with 8-bit integers, which the engine does not do safely; use the float model, or quantise \
             with quant_format=QuantFormat.QDQ instead of QOperator"
        }
        "NonMaxSuppression" => {
            "it selects boxes, so this is a detector of objects; Giemsa needs a classifier, which gives one score for \
             each label of a picture of one cell"
        }
        "GlobalLpPool" => {
            "the engine computes another formula; use ReduceL1 or ReduceL2 over height and width, or GlobalAveragePool"
        }
        _ if is_microsoft => {
            "it is onnxruntime's own, written by its optimiser or quantiser; use the file that those started from, or \
             optimise with onnxsim, which keeps to the standard operators"
        }
        _ if node.domain == "ai.onnx.ml" => {
            "it is classical machine learning on columns of numbers; Giemsa runs neural networks that take an image"
        }
        _ => {
            "export it with the standard operators of ONNX that image classifiers are made of \
             (docs/model-limits.md lists them)"
        }
    }
}

/// Why an operator that is on the list is not run with these attributes: the engine would compute something else.
fn why_not_so(node: &pb::NodeProto, graph: &pb::GraphProto, opset: i64) -> Option<&'static str> {
    let has = |name: &str| node.attribute.iter().any(|attribute| attribute.name == name);
    match node.op_type.as_str() {
        "ConvTranspose" if has("output_shape") => {
            Some("it has an output_shape; export it with pads and output_padding, which say the same")
        }
        "Celu" if float_attribute(node, "alpha").is_some_and(|alpha| alpha <= 0.0) => {
            Some("its alpha is not above 0; use Elu or LeakyRelu")
        }
        "Pad" if text_attribute(node, "mode").is_some_and(|mode| mode == b"wrap") => {
            Some("its mode is wrap; use constant, reflect or edge")
        }
        "Pad" if cuts(node, graph) => Some("it cuts with negative pads; export the cut as a Slice"),
        "Resize" if opset < 11 && text_attribute(node, "mode").is_none_or(|mode| mode == b"nearest") => Some(
            "its mode is nearest, and opset 10 does not say which pixel that is; export it with opset 11 or later",
        ),
        "Resize"
            if text_attribute(node, "coordinate_transformation_mode")
                .is_some_and(|mode| mode == b"align_corners")
                && node.input.get(2).is_some_and(|scales| !are_whole(scales, graph)) =>
        {
            Some(
                "it has align_corners and scales that are not whole numbers, of which engines make different sizes; \
                  export it with the sizes of the result (size=... instead of scale_factor=...)",
            )
        }
        _ => None,
    }
}

/// Whether the constant `name` holds whole numbers, or nothing.
fn are_whole(name: &str, graph: &pb::GraphProto) -> bool {
    let Some(tensor) = constant(name, graph) else { return name.is_empty() };
    let raw = tensor.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    raw.chain(tensor.float_data.iter().copied()).all(|scale| scale.fract() == 0.0)
}

/// Whether a `Pad` takes away instead of adding.
fn cuts(node: &pb::NodeProto, graph: &pb::GraphProto) -> bool {
    let tensor = node.input.get(1).and_then(|name| constant(name, graph));
    let raw = tensor.map_or(&[][..], |tensor| &tensor.raw_data);
    let in_tensor = raw.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
    let typed = tensor.map_or(&[][..], |tensor| &tensor.int64_data).iter().copied();
    let in_attribute =
        node.attribute.iter().filter(|a| a.name == "pads").flat_map(|a| a.ints.iter().copied());
    in_tensor.chain(typed).chain(in_attribute).any(|pad| pad < 0)
}

/// The constant `name`: a weight, or what a `Constant` makes.
fn constant<'a>(name: &str, graph: &'a pb::GraphProto) -> Option<&'a pb::TensorProto> {
    let made = graph.node.iter().find(|node| node.output.iter().any(|output| output == name));
    let made = made.and_then(|node| node.attribute.iter().find_map(|attribute| attribute.t.as_ref()));
    graph.initializer.iter().find(|tensor| tensor.name == name).or(made)
}

fn check_kernel(node: &pb::NodeProto, shape: &[i64]) -> Result<(), ModelError> {
    let positions = shape.iter().try_fold(1_i64, |product, side| product.checked_mul(*side));
    if shape.iter().all(|side| *side > 0) && positions.is_some_and(|positions| positions <= MAX_KERNEL) {
        return Ok(());
    }
    Err(ModelError::Operator {
        operator: node.op_type.clone(),
        node: node.name.clone(),
        why: "its kernel_shape is not a window of 1 to 65,536 positions; to pool a whole image use GlobalAveragePool",
    })
}

/// Whether a tensor holds as many numbers as its shape says; the engine would make room for what the shape says.
fn check_tensor(tensor: &pb::TensorProto, name: &str) -> Result<(), ModelError> {
    if tensor.data_location == Some(EXTERNAL) {
        return Err(ModelError::ExternalWeights { tensor: name.to_owned() });
    }
    let elements =
        tensor.dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(u64::try_from(*dim).ok()?));
    let (found, is_whole) = if tensor.raw_data.is_empty() {
        let found = numbers_of(tensor);
        (format!("{found} numbers"), elements == Some(found as u64))
    } else {
        let found = tensor.raw_data.len() as u64;
        let expected = bytes_of(tensor.data_type).zip(elements).map(|(size, count)| size.checked_mul(count));
        // What the engine has no type for, it names itself.
        (format!("{found} bytes"), expected.map_or(elements.is_some(), |expected| expected == Some(found)))
    };
    if is_whole {
        return Ok(());
    }
    let dims = tensor.dims.iter().copied().take(8).collect();
    Err(ModelError::TensorData { tensor: name.to_owned(), dims, found })
}

/// Numbers that are not packed into `raw_data`; a tensor has them in one list.
fn numbers_of(tensor: &pb::TensorProto) -> usize {
    tensor.float_data.len()
        + tensor.int32_data.len()
        + tensor.int64_data.len()
        + tensor.double_data.len()
        + tensor.uint64_data.len()
        + tensor.string_data.len()
}

/// Size of one number, bytes, by its ONNX data type.
fn bytes_of(data_type: i32) -> Option<u64> {
    use pb::tensor_proto::DataType;
    Some(match DataType::try_from(data_type).ok()? {
        DataType::Bool | DataType::Uint8 | DataType::Int8 => 1,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 2,
        DataType::Uint32 | DataType::Int32 | DataType::Float => 4,
        DataType::Uint64 | DataType::Int64 | DataType::Double => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_can_be_searched_and_are_the_engine_s() {
        assert!(OPERATORS.is_sorted());
        let engine = tract_onnx::onnx();
        for name in OPERATORS {
            assert!(engine.op_register.0.contains_key(*name), "{name}");
        }
    }

    #[test]
    fn the_documentation_lists_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/model-limits.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (text, list) = text.split_once("graph by constants.").unwrap();
        let listed: Vec<&str> =
            list.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        assert_eq!(listed, OPERATORS);
        assert!(text.contains("5,000; 32") && MAX_NODES == 5_000, "the number of nodes is documented");
    }
}
