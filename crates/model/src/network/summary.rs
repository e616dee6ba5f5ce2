//! What a graph consists of, for people.
//!
//! A hostile file costs no more here than its parsed form already takes.

use std::collections::{BTreeMap, HashSet};

use super::OnnxFile;

/// What a graph consists of, for people; nothing computes with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GraphSummary {
    /// Name of the image input.
    pub input: String,
    /// Its dimensions as declared; `None` where the graph leaves one open.
    pub input_shape: Vec<Option<usize>>,
    /// Names of the outputs, the scores first.
    pub outputs: Vec<String>,
    /// How often each operator occurs, by name.
    pub operators: BTreeMap<String, usize>,
    /// Numbers in all weights.
    pub weights: u64,
    /// Version of the default operator set.
    pub opset: i64,
    /// The exporter, as it names itself.
    pub producer: String,
}

impl OnnxFile {
    /// What the graph consists of.
    pub fn summary(&self) -> GraphSummary {
        let graph = self.proto.graph.as_ref().expect("parse saw a graph");
        let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let operators = self.operators().into_iter().map(|(name, count)| (name.to_owned(), count));
        // Dimensions are the file's claim; a sum that cannot be right is shown as the largest number.
        let size_of = |dims: &[i64]| {
            dims.iter().fold(1_u64, |size, dim| size.saturating_mul(u64::try_from(*dim).unwrap_or(0)))
        };
        let default_opset = self.proto.opset_import.iter().find(|opset| opset.domain.is_empty());
        let input = graph.input.iter().find(|input| !weights.contains(input.name.as_str()));
        GraphSummary {
            input: input.map(|input| input.name.clone()).unwrap_or_default(),
            input_shape: self.input_shape.clone(),
            outputs: graph.output.iter().map(|output| output.name.clone()).collect(),
            operators: operators.collect(),
            weights: graph.initializer.iter().fold(0, |sum, t| u64::saturating_add(sum, size_of(&t.dims))),
            opset: default_opset.map_or(0, |opset| opset.version),
            producer: format!("{} {}", self.proto.producer_name, self.proto.producer_version)
                .trim()
                .to_owned(),
        }
    }
}
