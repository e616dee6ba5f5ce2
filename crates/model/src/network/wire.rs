//! Walks the bytes of an ONNX file without decoding them: how much memory would decoding take, how many nodes are there.
//!
//! It allocates nothing and believes no length. A file that passes decodes within the bound that was asked for, however
//! it was made: an empty node costs two bytes in a file and two hundred in memory.

use std::mem::size_of;

use tract_onnx::pb;

/// Messages within messages; the decoder itself stops at 100.
const MAX_DEPTH: usize = 32;

/// A list doubles when it is full, and holds its old and new place while it moves.
const LIST_GROWTH: u64 = 3;

/// An owned text or byte string, beside its characters.
const TEXT_BYTES: u64 = 32;

/// What a file would need.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WireSize {
    /// Most memory that the decoded file takes, bytes.
    pub decoded_bytes: u64,
    /// Nodes of all graphs and functions.
    pub nodes: usize,
}

/// The messages of ONNX that hold something repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dim,
    Entry,
    Opset,
    Training,
    Function,
    Annotation,
}

impl Message {
    /// The message that a field holds, if it holds one.
    fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            (Self::Model, 8) | (Self::Function, 9) => Self::Opset,
            (Self::Model, 14) | (Self::Tensor, 13) | (Self::Training, 3 | 4) | (Self::Annotation, 2) => {
                Self::Entry
            }
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Graph, 11..=13) => Self::ValueInfo,
            (Self::Graph, 14) => Self::Annotation,
            (Self::Node, 5) => Self::Attribute,
            (Self::Attribute, 15) | (Self::ValueInfo, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Shape, 1) => Self::Dim,
            _ => return None,
        })
    }

    /// Whether a field packs numbers that may take one byte in the file and eight in memory.
    fn packs_numbers(self, field: u64) -> bool {
        matches!(
            (self, field),
            (Self::Tensor, 1 | 5 | 7 | 11) | (Self::Attribute, 8) | (Self::SparseTensor, 3)
        )
    }

    /// Size of the decoded message beside what it owns, bytes.
    fn size_bytes(self) -> u64 {
        let size = match self {
            Self::Model => size_of::<pb::ModelProto>(),
            Self::Graph => size_of::<pb::GraphProto>(),
            Self::Node => size_of::<pb::NodeProto>(),
            Self::Attribute => size_of::<pb::AttributeProto>(),
            Self::Tensor => size_of::<pb::TensorProto>(),
            Self::SparseTensor => size_of::<pb::SparseTensorProto>(),
            Self::ValueInfo => size_of::<pb::ValueInfoProto>(),
            Self::Type | Self::TensorType => size_of::<pb::TypeProto>(),
            Self::Shape => size_of::<pb::TensorShapeProto>(),
            Self::Dim => size_of::<pb::tensor_shape_proto::Dimension>(),
            Self::Entry => size_of::<pb::StringStringEntryProto>(),
            Self::Opset => size_of::<pb::OperatorSetIdProto>(),
            Self::Training => size_of::<pb::TrainingInfoProto>(),
            Self::Function => size_of::<pb::FunctionProto>(),
            Self::Annotation => size_of::<pb::TensorAnnotation>(),
        };
        size as u64
    }
}

/// Measures the bytes of an ONNX file.
///
/// # Errors
/// Where the bytes are no protocol buffer, and why.
pub fn measure(bytes: &[u8]) -> Result<WireSize, String> {
    let mut size = WireSize::default();
    measure_message(&mut Reader { bytes, at: 0 }, Message::Model, 0, &mut size)?;
    Ok(size)
}

fn measure_message(
    reader: &mut Reader<'_>,
    message: Message,
    depth: usize,
    size: &mut WireSize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("it nests more than {MAX_DEPTH} levels deep at byte {}", reader.at));
    }
    size.decoded_bytes = size.decoded_bytes.saturating_add(message.size_bytes() * LIST_GROWTH);
    size.nodes += usize::from(message == Message::Node);
    while !reader.is_at_end() {
        let tag = reader.varint()?;
        let (field, wire_type) = (tag >> 3, tag & 7);
        let found = match wire_type {
            0 => {
                reader.varint()?;
                8 * LIST_GROWTH
            }
            1 => reader.take(8).map(|_| 8 * LIST_GROWTH)?,
            5 => reader.take(4).map(|_| 4 * LIST_GROWTH)?,
            2 => {
                let length = reader.varint()?;
                let start = reader.at;
                let inner = reader.take(length)?;
                match message.child(field) {
                    Some(child) => {
                        // Places are counted from the start of the file, for the message.
                        let mut inner = Reader { bytes: &reader.bytes[..start + inner.len()], at: start };
                        measure_message(&mut inner, child, depth + 1, size)?;
                        0
                    }
                    None if message.packs_numbers(field) => length.saturating_mul(8 * LIST_GROWTH),
                    None => length.saturating_add(TEXT_BYTES * LIST_GROWTH),
                }
            }
            other => return Err(format!("it has a field of the kind {other} before byte {}", reader.at)),
        };
        size.decoded_bytes = size.decoded_bytes.saturating_add(found);
    }
    Ok(())
}

struct Reader<'a> {
    /// The file up to the end of the message that is read.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
            format!("it is cut: {length} bytes should follow byte {}, and {} do", self.at, rest.len())
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("it has no number where one is expected, at byte {start}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_of_empty_nodes_is_seen_before_it_is_decoded() {
        // Field 7 of the model, a graph; in it, field 1, an empty node, again and again.
        let nodes = 100_000;
        let mut graph = Vec::new();
        for _ in 0..nodes {
            graph.extend([0x0a, 0x00]);
        }
        let mut file = vec![0x3a];
        let mut length = graph.len();
        while length >= 0x80 {
            file.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        file.push(length as u8);
        file.extend(graph);
        let size = measure(&file).unwrap();
        assert_eq!(size.nodes, nodes);
        assert!(size.decoded_bytes > 100 * file.len() as u64, "{size:?} of {} bytes", file.len());
    }

    #[test]
    fn what_is_no_message_is_named_with_its_place() {
        let cases: [(&[u8], &str); 4] = [
            (b"\x3a\x05ab", "5 bytes should follow byte 2, and 2 do"),
            (
                b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                "no number where one is expected, at byte 1",
            ),
            (b"\x3b", "a field of the kind 3"),
            (b"\xff", "1 bytes should follow byte 1, and 0 do"),
        ];
        for (bytes, expected) in cases {
            let message = measure(bytes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        // A graph in an attribute in a node in a graph, fifty times, from the inside out.
        let mut bytes = Vec::new();
        for _ in 0..50 {
            for field in [6_u8, 5, 1] {
                let tag = (field << 3) | 2;
                let mut outer = vec![tag];
                outer.push((bytes.len() & 0x7f) as u8 | 0x80);
                outer.push((bytes.len() >> 7) as u8);
                outer.extend(&bytes);
                bytes = outer;
            }
        }
        let mut file = vec![0x3a, (bytes.len() & 0x7f) as u8 | 0x80, (bytes.len() >> 7) as u8];
        file.extend(bytes);
        let message = measure(&file).unwrap_err();
        assert!(message.contains("nests more than 32 levels"), "{message}");
    }
}
