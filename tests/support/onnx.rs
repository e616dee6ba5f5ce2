//! Writes small ONNX files, good and bad, field by field; nothing is checked on the way.

/// Data types of ONNX.
pub const FLOAT: i64 = 1;
pub const UINT8: i64 = 2;
pub const INT64: i64 = 7;

/// A protocol buffer message that is being written.
#[derive(Debug, Clone, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    pub fn all<'a>(self, field: u64, messages: impl IntoIterator<Item = &'a Self>) -> Self {
        messages.into_iter().fold(self, |outer, message| outer.message(field, message))
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A tensor of any dimensions with any data.
pub fn raw_tensor(name: &str, data_type: i64, dims: &[i64], data: &[u8]) -> Message {
    let tensor = dims.iter().fold(Message::default(), |tensor, dim| tensor.int(1, *dim));
    let tensor = tensor.int(2, data_type).text(8, name);
    if data.is_empty() { tensor } else { tensor.bytes(9, data) }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> Message {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    raw_tensor(name, FLOAT, dims, &data)
}

pub fn ints(name: &str, values: &[i64]) -> Message {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    raw_tensor(name, INT64, &[values.len() as i64], &data)
}

/// A single number, which has no dimension.
pub fn int(name: &str, value: i64) -> Message {
    raw_tensor(name, INT64, &[], &value.to_le_bytes())
}

/// A tensor whose data is in another file.
pub fn external(name: &str, dims: &[i64]) -> Message {
    let entry = Message::default().text(1, "location").text(2, "weights.bin");
    raw_tensor(name, FLOAT, dims, &[]).message(13, &entry).int(14, 1)
}

pub fn int_attribute(name: &str, value: i64) -> Message {
    Message::default().text(1, name).int(3, value).int(20, 2)
}

pub fn ints_attribute(name: &str, values: &[i64]) -> Message {
    values
        .iter()
        .fold(Message::default().text(1, name).int(20, 7), |attribute, value| attribute.int(8, *value))
}

pub fn tensor_attribute(name: &str, tensor: &Message) -> Message {
    Message::default().text(1, name).message(5, tensor).int(20, 4)
}

pub fn graph_attribute(name: &str, graph: &Message) -> Message {
    Message::default().text(1, name).message(6, graph).int(20, 5)
}

pub fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[Message]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
    node.text(2, output).text(3, &format!("node_{output}")).text(4, operator).all(5, attributes)
}

/// An input or output; a dimension of 0 is left open.
pub fn value(name: &str, data_type: i64, dims: &[i64]) -> Message {
    let dim = |dim: &i64| match dim {
        0 => Message::default().text(2, "N"),
        dim => Message::default().int(1, *dim),
    };
    let shape = Message::default().all(1, &dims.iter().map(dim).collect::<Vec<_>>());
    let tensor = Message::default().int(1, data_type).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

/// An ONNX file of which each part can be changed.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    pub nodes: Vec<Message>,
    pub weights: Vec<Message>,
    pub inputs: Vec<Message>,
    pub outputs: Vec<Message>,
    pub metadata: Vec<(&'static str, String)>,
}

impl OnnxModel {
    /// Means of the colours of an 8 × 8 image, weighed by `bias` alone: the answer names the model.
    pub fn toy(bias: f32) -> Self {
        let weights = [0.5, -0.25, 0.125, -0.5, 0.25, -0.125];
        Self {
            nodes: vec![
                node("GlobalAveragePool", &["image"], "pooled", &[]),
                node("Flatten", &["pooled"], "flat", &[]),
                node("Gemm", &["flat", "weights", "bias"], "scores", &[]),
            ],
            weights: vec![floats("weights", &[3, 2], &weights), floats("bias", &[2], &[bias, 0.0])],
            inputs: vec![value("image", FLOAT, &[0, 3, 8, 8])],
            outputs: vec![value("scores", FLOAT, &[0, 2])],
            metadata: vec![
                ("giemsa.name", "toy".to_owned()),
                ("giemsa.version", bias.to_string()),
                ("giemsa.labels", r#"["parasitized","uninfected"]"#.to_owned()),
                ("giemsa.output", "logits".to_owned()),
                ("giemsa.input", r#"{"layout":"nchw","width":8,"height":8,"resize":"stretch"}"#.to_owned()),
            ],
        }
    }

    /// The toy with `nodes` between the image and what is averaged, which they call `seen`.
    pub fn toy_seeing(nodes: Vec<Message>, weights: Vec<Message>) -> Self {
        let mut model = Self::toy(0.0);
        model.nodes[0] = node("GlobalAveragePool", &["seen"], "pooled", &[]);
        model.nodes.splice(0..0, nodes);
        model.weights.extend(weights);
        model
    }

    pub fn with(mut self, key: &'static str, text: &str) -> Self {
        self.metadata.retain(|(name, _)| *name != key);
        self.metadata.push((key, text.to_owned()));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.metadata.retain(|(name, _)| *name != key);
        self
    }

    pub fn graph(&self) -> Message {
        let graph = Message::default().all(1, &self.nodes).text(2, "toy").all(5, &self.weights);
        graph.all(11, &self.inputs).all(12, &self.outputs)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let opset = Message::default().int(2, 13);
        let model = Message::default().int(1, 8).message(7, &self.graph()).message(8, &opset);
        let entry = |(key, text): &(&str, String)| Message::default().text(1, key).text(2, text);
        model.all(14, &self.metadata.iter().map(entry).collect::<Vec<_>>()).0
    }
}
