//! Weights: whether they are numbers, and 16-bit ones as the 32-bit floats that the engine computes with.
//!
//! What passes holds no NaN anywhere, and an infinity only where a graph uses it as a bound or a mask; what is widened
//! has the same values.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude::f16;

use super::error::ModelError;

/// Operators that hand numbers on as they are.
const HANDS_ON: [&str; 14] = [
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];

/// What a tensor holds beside finite numbers.
#[derive(Debug, Default, Clone, Copy)]
struct Census {
    numbers: usize,
    nan: usize,
    plus_infinity: usize,
    minus_infinity: usize,
    first: Option<usize>,
}

impl Census {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut census = Self::default();
        for number in numbers {
            if !number.is_finite() {
                census.first.get_or_insert(census.numbers);
                census.nan += usize::from(number.is_nan());
                census.plus_infinity += usize::from(number == f64::INFINITY);
                census.minus_infinity += usize::from(number == f64::NEG_INFINITY);
            }
            census.numbers += 1;
        }
        census
    }

    /// `None` for a tensor that is not of floats.
    fn of_tensor(tensor: &pb::TensorProto) -> Option<Self> {
        let raw = &tensor.raw_data;
        let halves = || raw.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "ONNX keeps 16 bits in 32"
        )]
        let typed_halves = || tensor.int32_data.iter().map(|bits| *bits as u16);
        Some(match DataType::try_from(tensor.data_type).ok()? {
            DataType::Float if raw.is_empty() => Self::of(tensor.float_data.iter().map(|v| f64::from(*v))),
            DataType::Float => {
                Self::of(raw.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))))
            }
            DataType::Double if raw.is_empty() => Self::of(tensor.double_data.iter().copied()),
            DataType::Double => Self::of(raw.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes))),
            DataType::Float16 if raw.is_empty() => Self::of(typed_halves().map(|v| f64::from(of_f16(v)))),
            DataType::Float16 => Self::of(halves().map(|bits| f64::from(of_f16(bits)))),
            DataType::Bfloat16 if raw.is_empty() => Self::of(typed_halves().map(|v| f64::from(of_bf16(v)))),
            DataType::Bfloat16 => Self::of(halves().map(|bits| f64::from(of_bf16(bits)))),
            _ => return None,
        })
    }

    fn refuse(&self, tensor: &str) -> Result<(), ModelError> {
        let Some(first) = self.first else { return Ok(()) };
        Err(ModelError::WeightsNotFinite {
            tensor: tensor.to_owned(),
            numbers: self.numbers,
            nan: self.nan,
            infinite: self.plus_infinity + self.minus_infinity,
            first,
        })
    }
}

/// Refuses weights and constants that are not finite: activations such as ReLU and sigmoid make ordinary numbers of NaN,
/// so that the scores would not show it.
///
/// An infinity may be a value of `Where`, a bound of `Clip`, what `Pad` fills with, what a comparison compares with, or,
/// minus infinity, a mask of two or more dimensions that is added right before a softmax.
///
/// # Errors
/// [`ModelError::WeightsNotFinite`].
pub(super) fn check_finite(graph: &pb::GraphProto) -> Result<(), ModelError> {
    let uses = Uses { graph, by_name: std::cell::OnceCell::new() };
    for tensor in &graph.initializer {
        check_constant(&uses, &tensor.name, Some(tensor), Census::of_tensor(tensor))?;
    }
    for node in &graph.node {
        let output = node.output.first().map_or(node.name.as_str(), String::as_str);
        let is_constant = matches!(node.op_type.as_str(), "Constant" | "ConstantOfShape");
        for attribute in &node.attribute {
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                check_constant(&uses, output, Some(tensor), Census::of_tensor(tensor))?;
            }
            let single = (attribute.r#type == AttributeType::Float as i32).then_some(attribute.f);
            let census = Census::of(single.iter().chain(&attribute.floats).map(|v| f64::from(*v)));
            if is_constant {
                check_constant(&uses, output, None, Some(census))?;
            } else if census.nan > 0 || !is_bound(&node.op_type, &attribute.name) {
                census.refuse(&format!("{} of {output}", attribute.name))?;
            }
        }
    }
    Ok(())
}

/// Bounds that older operator sets have as attributes.
fn is_bound(operator: &str, attribute: &str) -> bool {
    matches!((operator, attribute), ("Clip", "min" | "max") | ("Pad", "value"))
}

fn check_constant<'a>(
    uses: &Uses<'a>,
    name: &'a str,
    tensor: Option<&pb::TensorProto>,
    census: Option<Census>,
) -> Result<(), ModelError> {
    let Some(census) = census.filter(|census| census.first.is_some()) else { return Ok(()) };
    // A mask leaves something to look at, and is not a bias, which has one dimension.
    let is_mask = census.plus_infinity == 0
        && census.minus_infinity < census.numbers
        && tensor.is_some_and(|t| t.dims.iter().rev().take(2).filter(|dim| **dim > 1).count() == 2);
    if census.nan == 0 && uses.may_be_infinite(name, is_mask, &mut HashSet::new()) {
        return Ok(());
    }
    census.refuse(name)
}

/// Who uses which tensor.
struct Uses<'a> {
    graph: &'a pb::GraphProto,
    by_name: std::cell::OnceCell<HashMap<&'a str, Vec<(&'a pb::NodeProto, usize)>>>,
}

impl<'a> Uses<'a> {
    fn of(&self, name: &str) -> &[(&'a pb::NodeProto, usize)] {
        let by_name = self.by_name.get_or_init(|| {
            let mut by_name: HashMap<&str, Vec<_>> = HashMap::new();
            for node in &self.graph.node {
                for (slot, input) in node.input.iter().enumerate() {
                    by_name.entry(input).or_default().push((node, slot));
                }
            }
            by_name
        });
        by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether an infinity in the tensor `name` ends only where one has a meaning.
    fn may_be_infinite(&self, name: &'a str, is_mask: bool, seen: &mut HashSet<&'a str>) -> bool {
        if !seen.insert(name) {
            return true;
        }
        let is_output = self.graph.output.iter().any(|output| output.name == name);
        !is_output
            && self.of(name).iter().all(|(node, slot)| match (node.op_type.as_str(), slot) {
                ("Where" | "Clip", 1 | 2) | ("Pad", 2) => true,
                ("Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "IsInf", _) => true,
                ("Add", _) => is_mask && self.are_softmaxes(&node.output),
                (operator, _) if HANDS_ON.contains(&operator) => {
                    node.output.iter().all(|output| self.may_be_infinite(output, is_mask, seen))
                }
                _ => false,
            })
    }

    fn are_softmaxes(&self, outputs: &[String]) -> bool {
        let mut users = outputs.iter().flat_map(|output| self.of(output)).peekable();
        users.peek().is_some() && users.all(|(node, _)| node.op_type == "Softmax")
    }
}

/// What all weights and constants take as 32-bit floats, bytes.
pub(super) fn widened_bytes(graph: &pb::GraphProto) -> u64 {
    let constants =
        graph.node.iter().flat_map(|node| &node.attribute).flat_map(|a| a.t.iter().chain(&a.tensors));
    let size_of = |tensor: &pb::TensorProto| {
        let typed = 4 * (tensor.float_data.len() + tensor.int32_data.len()) as u64;
        let raw = tensor.raw_data.len() as u64;
        typed + if is_half(tensor.data_type) { 2 * raw } else { raw }
    };
    graph.initializer.iter().chain(constants).map(size_of).fold(0, u64::saturating_add)
}

/// Makes 32-bit floats of all 16-bit ones: weights, constants, inputs, outputs, and what casts make.
pub(super) fn widen(graph: &mut pb::GraphProto) {
    graph.initializer.iter_mut().for_each(widen_tensor);
    for values in [&mut graph.input, &mut graph.output, &mut graph.value_info] {
        values.iter_mut().for_each(widen_value);
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(widen_tensor);
        if matches!(attribute.name.as_str(), "to" | "stash_type" | "output_dtype")
            && i32::try_from(attribute.i).is_ok_and(is_half)
        {
            attribute.i = DataType::Float as i64;
        }
    }
}

fn is_half(data_type: i32) -> bool {
    matches!(DataType::try_from(data_type), Ok(DataType::Float16 | DataType::Bfloat16))
}

fn widen_value(value: &mut pb::ValueInfoProto) {
    use pb::type_proto::Value::TensorType;
    if let Some(TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut())
        && is_half(tensor.elem_type)
    {
        tensor.elem_type = DataType::Float as i32;
    }
}

fn widen_tensor(tensor: &mut pb::TensorProto) {
    let to_float = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float16) => of_f16,
        Ok(DataType::Bfloat16) => of_bf16,
        _ => return,
    };
    let raw = std::mem::take(&mut tensor.raw_data);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ONNX keeps 16 bits in 32")]
    let typed = std::mem::take(&mut tensor.int32_data).into_iter().map(|bits| bits as u16);
    let bits = raw.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).chain(typed);
    tensor.raw_data = bits.flat_map(|bits| to_float(bits).to_le_bytes()).collect();
    tensor.data_type = DataType::Float as i32;
}

/// The value of a half-precision float.
fn of_f16(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// The value of a bfloat16: the upper half of a 32-bit float.
fn of_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::super::OnnxFile;
    use super::*;

    fn sample() -> pb::ModelProto {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/thin-smear.onnx");
        OnnxFile::parse(&std::fs::read(path).unwrap()).unwrap().proto
    }

    fn tensor(data_type: DataType, dims: &[i64], values: &[f32]) -> pb::TensorProto {
        let raw_data = match data_type {
            DataType::Float => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataType::Double => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
            DataType::Float16 => {
                values.iter().flat_map(|v| f16::from_f32(*v).to_bits().to_le_bytes()).collect()
            }
            DataType::Bfloat16 => {
                values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
            }
            _ => unreachable!(),
        };
        let (name, dims) = ("weights".to_owned(), dims.to_vec());
        pb::TensorProto { name, dims, data_type: data_type as i32, raw_data, ..pb::TensorProto::default() }
    }

    fn node(operator: &str, inputs: &[&str], output: &str) -> pb::NodeProto {
        pb::NodeProto {
            op_type: operator.to_owned(),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output.to_owned()],
            ..pb::NodeProto::default()
        }
    }

    #[test]
    fn each_tensor_of_the_sample_model_is_refused_when_it_holds_what_is_no_number() {
        let proto = sample();
        let tensors = proto.graph.as_ref().unwrap().initializer.len();
        let mut refused = 0;
        for at in 0..tensors {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for is_all in [false, true] {
                    let mut changed = proto.clone();
                    let weights = &mut changed.graph.as_mut().unwrap().initializer[at];
                    if weights.data_type != DataType::Float as i32 {
                        continue;
                    }
                    let last = weights.raw_data.len() / 4 - 1;
                    for (i, number) in weights.raw_data.chunks_exact_mut(4).enumerate() {
                        if is_all || i == last {
                            number.copy_from_slice(&bad.to_le_bytes());
                        }
                    }
                    let name = weights.name.clone();
                    let message = OnnxFile::of_proto(changed).map(drop).unwrap_err().to_string();
                    let first = if is_all { 0 } else { last };
                    assert!(message.contains(&format!("{name:?}")), "{message}");
                    assert!(message.contains(&format!("at place {first};")), "{message}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 60, "{refused} of {tensors} tensors");
    }

    #[test]
    fn all_kinds_of_floats_are_looked_at_wherever_they_stand() {
        let bad = f32::INFINITY;
        let of_type = |data_type| tensor(data_type, &[2], &[1.0, bad]);
        let typed = |change: fn(&mut pb::TensorProto)| {
            let mut tensor = tensor(DataType::Float, &[2], &[]);
            change(&mut tensor);
            tensor
        };
        let tensors = [
            of_type(DataType::Float),
            of_type(DataType::Double),
            of_type(DataType::Float16),
            of_type(DataType::Bfloat16),
            typed(|t| t.float_data = vec![1.0, f32::NAN]),
            typed(|t| (t.data_type, t.double_data) = (DataType::Double as i32, vec![1.0, f64::NAN])),
            typed(|t| (t.data_type, t.int32_data) = (DataType::Float16 as i32, vec![0, 0x7e00])),
            typed(|t| (t.data_type, t.int32_data) = (DataType::Bfloat16 as i32, vec![0, 0xff80])),
        ];
        for tensor in tensors {
            let use_it = node("Mul", &["image", "weights"], "scores");
            let as_weights = pb::GraphProto {
                node: vec![use_it.clone()],
                initializer: vec![tensor.clone()],
                ..Default::default()
            };
            let mut constant = node("Constant", &[], "weights");
            let value =
                pb::AttributeProto { name: "value".to_owned(), t: Some(tensor), ..Default::default() };
            constant.attribute.push(value);
            let as_constant = pb::GraphProto { node: vec![constant, use_it], ..Default::default() };
            for graph in [as_weights, as_constant] {
                let message = check_finite(&graph).unwrap_err().to_string();
                assert!(
                    message.contains("the weights \"weights\"") && message.contains("at place 1"),
                    "{message}"
                );
            }
        }
        let mut elu = node("Elu", &["image"], "scores");
        elu.attribute.push(pb::AttributeProto {
            name: "alpha".to_owned(),
            r#type: AttributeType::Float as i32,
            f: f32::NAN,
            ..Default::default()
        });
        let message = check_finite(&pb::GraphProto { node: vec![elu], ..Default::default() }).unwrap_err();
        assert!(message.to_string().contains("alpha of scores"), "{message}");
    }

    #[test]
    fn an_infinity_is_allowed_only_as_a_bound_or_a_mask() {
        let low = f32::NEG_INFINITY;
        let scalar = [low];
        let mask = [0.0, low, 0.0, 0.0];
        let softmax = || node("Softmax", &["y"], "z");
        type Case<'a> = (&'a [i64], &'a [f32], Vec<pb::NodeProto>, bool);
        let cases: [Case<'_>; 12] = [
            (&[], &scalar, vec![node("Where", &["c", "x", "weights"], "y")], true),
            (&[], &scalar, vec![node("Where", &["weights", "x", "x"], "y")], false),
            (&[], &[f32::NAN], vec![node("Where", &["c", "x", "weights"], "y")], false),
            (&[], &scalar, vec![node("Pad", &["x", "p", "weights"], "y")], true),
            (&[], &scalar, vec![node("Clip", &["x", "weights"], "y")], true),
            (
                &[],
                &scalar,
                vec![node("Expand", &["weights", "s"], "w"), node("Where", &["c", "x", "w"], "y")],
                true,
            ),
            (
                &[],
                &scalar,
                vec![node("Expand", &["weights", "s"], "w"), node("Mul", &["x", "w"], "y")],
                false,
            ),
            (&[2, 2], &mask, vec![node("Add", &["x", "weights"], "y"), softmax()], true),
            (&[2, 2], &mask, vec![node("Add", &["x", "weights"], "y"), node("Relu", &["y"], "z")], false),
            (&[2, 2], &[low; 4], vec![node("Add", &["x", "weights"], "y"), softmax()], false),
            (&[1, 4], &mask, vec![node("Add", &["x", "weights"], "y"), softmax()], false),
            (
                &[],
                &scalar,
                vec![node("Identity", &["weights"], "w"), node("Identity", &["w"], "weights")],
                true,
            ),
        ];
        for (dims, values, nodes, is_allowed) in cases {
            let initializer = vec![tensor(DataType::Float, dims, values)];
            let graph = pb::GraphProto { node: nodes, initializer, ..Default::default() };
            assert_eq!(check_finite(&graph).is_ok(), is_allowed, "{:?}", graph.node);
        }
    }

    #[test]
    fn sixteen_bits_become_the_same_numbers() {
        let mut half = tensor(DataType::Float16, &[4], &[1.0, -0.5, 65504.0, 6e-8]);
        let mut brain = tensor(DataType::Bfloat16, &[2], &[1.0, -3.0]);
        widen_tensor(&mut half);
        widen_tensor(&mut brain);
        assert_eq!(
            half.raw_data,
            tensor(DataType::Float, &[4], &[1.0, -0.5, 65504.0, 5.960_464_5e-8]).raw_data
        );
        assert_eq!(brain.raw_data, tensor(DataType::Float, &[2], &[1.0, -3.0]).raw_data);
        assert_eq!([half.data_type, brain.data_type], [DataType::Float as i32; 2]);
    }
}
