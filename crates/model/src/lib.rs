//! A model: the network and what it says of itself.

mod decision;
mod gate;
mod loader;
mod metadata;
mod network;
mod pack;
mod proof;
mod watch;

use std::sync::Arc;

use self::proof::Proof;
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::{GateModel, ProofOutcome};
use giemsa_core::record::ModelInfo;

pub use decision::decide;
pub use gate::{Answered, GoldenAnswer, Trial, Unanswered, render_report};
pub use loader::{LoadCheck, LoadError, Loader, Loading};
pub use metadata::{GraphFacts, Metadata, MetadataError, ReviewRule, ScoreKind};
pub use network::{
    GraphSummary, LoadLimits, MemoryNeed, ModelError, Network, OUTLIER_OUTPUT, OnnxFile, ScoreError, Scores,
    Setting, panic_message, too_large,
};
pub use pack::{MetadataChanges, PackError, pack, pack_within};
pub use proof::{PROOF_KEY, ProofError};
pub use watch::{Watch, Watched, Work};

/// A model that can serve: built, checked against its metadata, probed, and compared with its own proof.
#[derive(Debug, Clone)]
pub struct Model {
    /// What it says of itself.
    pub metadata: Metadata,
    /// Its network.
    pub network: Network,
    /// Lower-case hexadecimal SHA-256 of the file: the model's identity.
    pub sha256: String,
    /// How its scores compare with the training framework's; `None` if the file has no proof.
    pub proof: Option<ProofOutcome>,
    /// What a person should know of it who lets it serve, one sentence each.
    pub notes: Vec<String>,
}

impl Model {
    /// Its name, version and digest.
    pub fn info(&self) -> ModelInfo {
        ModelInfo {
            name: self.metadata.name.clone(),
            version: self.metadata.version.clone(),
            sha256: self.sha256.clone(),
        }
    }

    /// Writes into a report what the model says of itself.
    pub fn describe(&self, reported: &mut GateModel) {
        reported.name = Some(self.metadata.name.clone());
        reported.version = Some(self.metadata.version.clone());
        reported.labels.clone_from(&self.metadata.labels);
        reported.positive.clone_from(&self.metadata.positive);
        reported.proof.clone_from(&self.proof);
    }

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
    /// allow, gives scores on a probe that are not finite or not what the metadata says, or fails its own proof.
    pub fn load_within(bytes: impl AsRef<[u8]>, limits: &LoadLimits) -> Result<Arc<Self>, ModelError> {
        let file = OnnxFile::parse_within(bytes.as_ref(), limits)?;
        let sha256 = sha256_hex(bytes.as_ref());
        drop(bytes);
        Self::of_file(file, sha256, limits)
    }

    /// The model of a parsed file whose digest is `sha256`.
    fn of_file(file: OnnxFile, sha256: String, limits: &LoadLimits) -> Result<Arc<Self>, ModelError> {
        let (properties, graph) = (file.properties(), file.graph_facts());
        let metadata = Metadata::parse(&properties, &graph)?;
        let proof = properties.get(PROOF_KEY).map(|text| Proof::parse(text, &graph)).transpose()?;
        let network = Network::build(file, &metadata, limits)?;
        let outcome = proof.map(|proof| proof.check(&network, &metadata)).transpose()?;
        let mut notes = Vec::new();
        if let (Some(scores), None | Some((_, false))) = (network.saturated(), &outcome) {
            notes.push(format!(
                "the network gave the probabilities {scores:?} on every probe (black, grey, white, noise, blocks, a \
                 drawn cell): unless it is very sure of itself, it does not look at the image; compare its answers on \
                 images you know"
            ));
        }
        let proof = outcome.map(|(proof, _)| proof);
        Ok(Arc::new(Self { metadata, network, sha256, proof, notes }))
    }
}
