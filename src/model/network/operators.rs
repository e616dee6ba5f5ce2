//! What a graph may be made of: the operators that a network may use, and tensors that hold what they say.
//!
//! It never runs anything. Invariant: what passes has no loop, no branch, no chance in it and no weight elsewhere, and
//! the size of each of its tensors follows from the size of the input.

use tract_onnx::pb;

use super::error::ModelError;

/// Most nodes of a graph; some passes of the engine take their square in time.
pub(super) const MAX_NODES: usize = 10_000;

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
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
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
    "GlobalLpPool",
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
    "MatMulInteger",
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
    "QLinearConv",
    "QLinearMatMul",
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
    "Rsqrt",
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

/// Checks the nodes and tensors of `graph`.
///
/// # Errors
/// [`ModelError::ExternalWeights`], [`ModelError::TensorData`] or [`ModelError::Operator`].
pub(super) fn check_graph(graph: &pb::GraphProto) -> Result<(), ModelError> {
    graph.initializer.iter().try_for_each(|tensor| check_tensor(tensor, &tensor.name))?;
    for node in &graph.node {
        check_operator(node)?;
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

fn check_operator(node: &pb::NodeProto) -> Result<(), ModelError> {
    let is_own_domain = matches!(node.domain.as_str(), "" | "ai.onnx");
    let name = node.op_type.as_str();
    if is_own_domain && OPERATORS.binary_search(&name).is_ok() {
        return Ok(());
    }
    let why = match name {
        "If" | "Loop" | "Scan" | "SequenceMap" => {
            "loops and branches have no bound on time and memory; export it with fixed shapes, or unroll them: \
             pip install onnxsim; onnxsim model.onnx model.onnx"
        }
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Bernoulli"
        | "Multinomial" => {
            "the same image has to get the same answer each time; export it for inference (model.eval() in PyTorch)"
        }
        _ => {
            "export it with the standard operators of ONNX that image classifiers are made of \
             (docs/shipping-a-model.md lists them)"
        }
    };
    let operator = if is_own_domain { name.to_owned() } else { format!("{}.{name}", node.domain) };
    Err(ModelError::Operator { operator, node: node.name.clone(), why })
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
}
