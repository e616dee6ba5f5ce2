//! A model: the network and what it says of itself, and which one a stage serves.

mod gate;
mod gate_html;
mod gate_report;
mod gate_rules;
mod metadata;
mod network;
mod pack;
mod registry;
mod watch;

use std::sync::Arc;

use crate::digest::sha256_hex;

pub use gate::{Answered, GoldenAnswer, Trial, Unanswered};
pub use gate_html::render_report;
pub use gate_report::{
    Difference, GateModel, GateReport, GoldenSummary, LabelFigures, ProductionComparison, Proportion,
    REPORT_SCHEMA, Speed, UnreadableImage, Waiver, WrongImage, archive_key, report_key, report_page_key,
};
pub use gate_rules::{EmptyGoldenSet, GateRules, RULES_KEY, RulesError};
pub use metadata::{GraphFacts, Metadata, MetadataError, ReviewRule, ScoreKind};
pub use network::{
    GraphSummary, LoadLimits, MemoryNeed, ModelError, Network, OUTLIER_OUTPUT, OnnxFile, Scores,
    panic_message,
};
pub use pack::{MetadataChanges, PackError, pack};
pub use registry::{LoadCheck, Registry, RegistryError, Release};
pub use watch::{Watch, Watched, Work};

/// A model that can serve: built, checked against its metadata, and probed.
#[derive(Debug, Clone)]
pub struct Model {
    /// What it says of itself.
    pub metadata: Metadata,
    /// Its network.
    pub network: Network,
    /// Lower-case hexadecimal SHA-256 of the file: the model's identity.
    pub sha256: String,
}

impl Model {
    /// Loads a model from the bytes of its ONNX file, within the limits of the default configuration.
    ///
    /// # Errors
    /// As [`Model::load_within`].
    pub fn load(bytes: &[u8]) -> Result<Arc<Self>, ModelError> {
        Self::load_within(bytes, &LoadLimits::default())
    }

    /// Loads a model from the bytes of its ONNX file; given away, they are let go before the network is built.
    ///
    /// # Errors
    /// [`ModelError`] if it does not parse, contradicts its metadata, cannot be built, would take more than `limits`
    /// allow, or gives scores that are not finite on a probe.
    pub fn load_within(bytes: impl AsRef<[u8]>, limits: &LoadLimits) -> Result<Arc<Self>, ModelError> {
        let file = OnnxFile::parse_within(bytes.as_ref(), limits)?;
        let sha256 = sha256_hex(bytes.as_ref());
        drop(bytes);
        let metadata = Metadata::parse(&file.properties(), &file.graph_facts())?;
        let network = Network::build(file, &metadata.input, metadata.labels.len(), limits)?;
        Ok(Arc::new(Self { metadata, network, sha256 }))
    }
}
