//! Rewrites nodes that the engine would compute otherwise than ONNX says into nodes that it computes alike.
//!
//! What has no equal form is refused by `operators.rs`. A rewritten graph means what the graph meant; `make
//! engine-parity` compares both with onnxruntime.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

/// Rewrites the nodes of `graph`, whose floats have 32 bits and whose operators are those of `opset`.
pub(super) fn apply(graph: &mut pb::GraphProto, opset: i64) {
    let mut rewriter = Rewriter { opset, constants: scalars(graph), nodes: Vec::new(), weights: Vec::new() };
    for node in std::mem::take(&mut graph.node) {
        rewriter.take(node);
    }
    graph.node = rewriter.nodes;
    graph.initializer.extend(rewriter.weights);
    name_apart(graph);
}

/// A constant of one number.
#[derive(Debug, Clone, Copy)]
struct Scalar {
    data_type: DataType,
    value: f32,
}

/// All constants of one number, by the name of their tensor.
fn scalars(graph: &pb::GraphProto) -> HashMap<String, Scalar> {
    let weights = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor));
    let constants = graph.node.iter().filter(|node| node.op_type == "Constant").filter_map(|node| {
        let tensor = node.attribute.iter().find_map(|attribute| attribute.t.as_ref())?;
        Some((node.output.first()?.as_str(), tensor))
    });
    weights
        .chain(constants)
        .filter(|(_, tensor)| tensor.dims.iter().all(|dim| *dim == 1))
        .filter_map(|(name, tensor)| Some((name.to_owned(), scalar(tensor)?)))
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "of eight bits")]
fn scalar(tensor: &pb::TensorProto) -> Option<Scalar> {
    let data_type = DataType::try_from(tensor.data_type).ok()?;
    let raw = tensor.raw_data.as_slice();
    let typed = || tensor.int32_data.first().map(|value| *value as f32);
    let value = match data_type {
        DataType::Float => match <[u8; 4]>::try_from(raw) {
            Ok(bytes) => Some(f32::from_le_bytes(bytes)),
            Err(_) => tensor.float_data.first().copied(),
        },
        DataType::Uint8 => raw.first().map(|byte| f32::from(*byte)).or_else(typed),
        DataType::Int8 => raw.first().map(|byte| f32::from(byte.cast_signed())).or_else(typed),
        _ => None,
    };
    value.map(|value| Scalar { data_type, value })
}

struct Rewriter {
    opset: i64,
    constants: HashMap<String, Scalar>,
    nodes: Vec<pb::NodeProto>,
    weights: Vec<pb::TensorProto>,
}

impl Rewriter {
    fn take(&mut self, mut node: pb::NodeProto) {
        // An input that is left out at the end may be named by nothing.
        while node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
        let alpha = float_attribute(&node, "alpha").unwrap_or(1.0);
        match node.op_type.as_str() {
            // The engine would fill with the third input, which only the mode "constant" reads.
            "Pad" if text_attribute(&node, "mode").is_some_and(|mode| mode != b"constant") => {
                match node.input.len() {
                    0..=2 => {}
                    3 => node.input.truncate(2),
                    _ => node.input[2].clear(),
                }
                self.nodes.push(node);
            }
            // alpha × Elu(x / alpha), for an alpha above zero.
            "Celu" if alpha != 1.0 && is_unary(&node) => {
                let alpha = self.number(&node, "alpha", alpha);
                let scaled = self.step(&node, "scaled", "Div", &[&node.input[0], &alpha]);
                let bent = self.step(&node, "bent", "Elu", &[&scaled]);
                self.last(node, "Mul", &[&bent, &alpha]);
            }
            // x × Sigmoid(alpha × x)
            "Swish" if alpha != 1.0 && is_unary(&node) => {
                let alpha = self.number(&node, "alpha", alpha);
                let scaled = self.step(&node, "scaled", "Mul", &[&node.input[0], &alpha]);
                let gate = self.step(&node, "gate", "Sigmoid", &[&scaled]);
                let input = node.input[0].clone();
                self.last(node, "Mul", &[&input, &gate]);
            }
            // Down where the divisor is negative, as whole numbers are divided in Python.
            "Mod" if int_attribute(&node, "fmod") != Some(1) && node.input.len() == 2 => {
                let divisor = node.input[1].clone();
                let rest = self.step(&node, "rest", "Mod", &[&node.input[0], &divisor]);
                self.nodes.last_mut().expect("pushed just now").attribute.push(int("fmod", 1));
                let shifted = self.step(&node, "shifted", "Add", &[&rest, &divisor]);
                self.last(node, "Mod", &[&shifted, &divisor]);
                self.nodes.last_mut().expect("pushed just now").attribute.push(int("fmod", 1));
            }
            // x - max - log(sum(exp(x - max))): the logarithm of a softmax that is zero is minus infinity.
            "LogSoftmax" if self.opset >= 13 && is_unary(&node) => self.log_softmax(node),
            // The engine counts inputs as if none of these were left out.
            "Resize" if (11..=12).contains(&self.opset) => {
                for (slot, what) in [(1, "roi"), (2, "scales")] {
                    if node.input.get(slot).is_some_and(String::is_empty) {
                        node.input[slot] = self.weight(&node, what, DataType::Float, vec![], &[0]);
                    }
                }
                self.nodes.push(node);
            }
            // Without padding, and rounded up.
            "AveragePool" | "MaxPool" if text_attribute(&node, "auto_pad") == Some(b"VALID") => {
                node.attribute.retain(|attribute| attribute.name != "auto_pad");
                self.nodes.push(node);
            }
            "QuantizeLinear" => self.quantize(node),
            _ => self.nodes.push(node),
        }
    }

    /// In steps of floats, with one scale: the engine multiplies by the reciprocal of the scale, and makes tables of
    /// what stands between two quantised tensors as if both had the same type.
    fn quantize(&mut self, node: pb::NodeProto) {
        let input = |slot: usize| node.input.get(slot).filter(|name| !name.is_empty());
        let scale = input(1).and_then(|name| self.constants.get(name)).copied();
        let zero = match input(2) {
            Some(name) => self.constants.get(name).copied(),
            None => Some(Scalar { data_type: DataType::Uint8, value: 0.0 }),
        };
        let (Some(scale), Some(zero)) = (scale, zero) else { return self.nodes.push(node) };
        let data_type = zero.data_type;
        let (low, high) = match data_type {
            DataType::Uint8 => (0.0, 255.0),
            DataType::Int8 => (-128.0, 127.0),
            _ => return self.nodes.push(node),
        };
        if scale.data_type != DataType::Float || node.output.len() != 1 {
            return self.nodes.push(node);
        }
        let [scale, zero, low, high] =
            [("scale", scale.value), ("zero", zero.value), ("low", low), ("high", high)]
                .map(|(what, value)| self.number(&node, what, value));
        let scaled = self.step(&node, "scaled", "Div", &[&node.input[0], &scale]);
        let rounded = self.step(&node, "rounded", "Round", &[&scaled]);
        let shifted = self.step(&node, "shifted", "Add", &[&rounded, &zero]);
        let raised = self.step(&node, "raised", "Max", &[&shifted, &low]);
        let bounded = self.step(&node, "bounded", "Min", &[&raised, &high]);
        self.last(node, "Cast", &[&bounded]);
        self.nodes.last_mut().expect("pushed just now").attribute.push(int("to", data_type as i64));
    }

    fn log_softmax(&mut self, node: pb::NodeProto) {
        let axis = int_attribute(&node, "axis").unwrap_or(-1);
        let axes = self.weight(&node, "axes", DataType::Int64, vec![axis], &[1]);
        let input = node.input[0].clone();
        let most = match self.opset {
            ..18 => {
                let most = self.step(&node, "most", "ReduceMax", &[&input]);
                let axes = pb::AttributeProto {
                    name: "axes".to_owned(),
                    r#type: AttributeType::Ints as i32,
                    ints: vec![axis],
                    ..pb::AttributeProto::default()
                };
                self.nodes.last_mut().expect("pushed just now").attribute.push(axes);
                most
            }
            _ => self.step(&node, "most", "ReduceMax", &[&input, &axes]),
        };
        let below = self.step(&node, "below", "Sub", &[&input, &most]);
        let powers = self.step(&node, "powers", "Exp", &[&below]);
        let sum = self.step(&node, "sum", "ReduceSum", &[&powers, &axes]);
        let logarithm = self.step(&node, "logarithm", "Log", &[&sum]);
        self.last(node, "Sub", &[&below, &logarithm]);
    }

    /// A constant of one number; returns its name.
    fn number(&mut self, node: &pb::NodeProto, what: &str, value: f32) -> String {
        let name = self.weight(node, what, DataType::Float, vec![], &[]);
        self.weights.last_mut().expect("pushed just now").float_data = vec![value];
        name
    }

    /// A constant; returns its name.
    fn weight(
        &mut self,
        node: &pb::NodeProto,
        what: &str,
        data_type: DataType,
        int64_data: Vec<i64>,
        dims: &[i64],
    ) -> String {
        let name = format!("{}/{what}", node.output.first().unwrap_or(&node.name));
        self.weights.push(pb::TensorProto {
            name: name.clone(),
            data_type: data_type as i32,
            int64_data,
            dims: dims.to_vec(),
            ..pb::TensorProto::default()
        });
        name
    }

    /// One step of what `node` does; returns the name of its result.
    fn step(&mut self, node: &pb::NodeProto, what: &str, operator: &str, inputs: &[&str]) -> String {
        let name = format!("{}/{what}", node.output.first().unwrap_or(&node.name));
        self.nodes.push(pb::NodeProto {
            name: name.clone(),
            op_type: operator.to_owned(),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.clone()],
            ..pb::NodeProto::default()
        });
        name
    }

    /// The last step, which keeps the name and the output of `node`.
    fn last(&mut self, mut node: pb::NodeProto, operator: &str, inputs: &[&str]) {
        operator.clone_into(&mut node.op_type);
        node.input = inputs.iter().map(|input| (*input).to_owned()).collect();
        node.attribute.clear();
        self.nodes.push(node);
    }
}

fn is_unary(node: &pb::NodeProto) -> bool {
    node.input.len() == 1 && node.output.len() == 1
}

fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..pb::AttributeProto::default()
    }
}

/// A whole-number attribute of a node, if it has it.
fn int_attribute(node: &pb::NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
}

/// A float attribute of a node, if it has it.
pub(super) fn float_attribute(node: &pb::NodeProto, name: &str) -> Option<f32> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.f)
}

/// A text attribute of a node, if it has it.
pub(super) fn text_attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a [u8]> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.s.as_slice())
}

/// Gives each node a name of its own: exporters and converters repeat them, and the engine would refuse the graph.
fn name_apart(graph: &mut pb::GraphProto) {
    let inputs = graph.input.iter().map(|input| &input.name);
    let mut taken: HashSet<String> =
        graph.initializer.iter().map(|t| &t.name).chain(inputs).cloned().collect();
    for (at, node) in graph.node.iter_mut().enumerate() {
        if node.name.is_empty() {
            node.name = node.output.first().cloned().unwrap_or_default();
        }
        if !taken.insert(node.name.clone()) {
            node.name = format!("{}#{at}", node.name);
            taken.insert(node.name.clone());
        }
    }
}
