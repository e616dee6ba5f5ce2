//! How much memory a network needs, found out before it is taken.
//!
//! It never runs the network, and computes a constant only after its size is known and allowed. Invariant: a graph that
//! passes is built, probed and run within its limits.

use std::time::Duration;

use tract_onnx::prelude::{InferenceFact, InferenceModel, TractResult, TypedFact, TypedModel};
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::{TDim, TVec};

use super::error::{ModelError, Setting};
use super::root_cause;
use giemsa_config::{Limits, MODEL_MEMORY_FACTOR};

/// Weights are there twice while the network is built: as they are in the file, and as the kernels want them.
pub(super) const WEIGHT_COPIES: u64 = 2;

/// What one model may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadLimits {
    /// Most memory of one model while it is loaded and probed, bytes.
    pub model_bytes: u64,
    /// Most memory of one run beside the weights, bytes.
    pub run_bytes: u64,
    /// Longest run on one image.
    pub image_timeout: Duration,
}

impl From<&Limits> for LoadLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            model_bytes: limits.model_memory_bytes(),
            run_bytes: limits.run_memory_bytes(),
            image_timeout: limits.image_timeout,
        }
    }
}

impl Default for LoadLimits {
    /// Those of the default configuration.
    fn default() -> Self {
        Self::from(&Limits::default())
    }
}

/// What a network takes, estimated from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights and constants, bytes, once.
    pub weights_bytes: u64,
    /// Most that is held at once while one image runs, beside the weights, bytes.
    pub run_bytes: u64,
}

impl LoadLimits {
    /// The largest file, bytes.
    pub fn file_bytes(&self) -> u64 {
        self.model_bytes / MODEL_MEMORY_FACTOR
    }

    pub(super) fn check_model(&self, what: &str, needed_bytes: u64) -> Result<(), ModelError> {
        refuse_above(what, needed_bytes, self.model_bytes, Setting::ModelBytes)
    }

    fn check_run(&self, what: &str, needed_bytes: u64) -> Result<(), ModelError> {
        refuse_above(what, needed_bytes, self.run_bytes, Setting::Pixels)
    }
}

fn refuse_above(what: &str, needed_bytes: u64, limit_bytes: u64, setting: Setting) -> Result<(), ModelError> {
    if needed_bytes <= limit_bytes {
        return Ok(());
    }
    Err(ModelError::TooMuchMemory { what: what.to_owned(), needed_bytes, limit_bytes, setting })
}

/// Works out the shape of every tensor, from the input to the outputs, and the value of the small constants that shapes
/// are made of; each result is allowed before it is computed. Returns the size of all constants, bytes.
///
/// `model` is compact: its nodes are in the order of their computation, and all are needed.
///
/// # Errors
/// [`ModelError::TooMuchMemory`], [`ModelError::UnknownSize`] or [`ModelError::Unsupported`].
pub(super) fn size_tensors(
    model: &mut InferenceModel,
    limits: &LoadLimits,
    unsupported: impl Fn(String) -> ModelError,
) -> Result<u64, ModelError> {
    let fail = |e| unsupported(root_cause(&e));
    let mut constants_bytes = 0_u64;
    for id in 0..model.nodes().len() {
        let (inputs, outputs) = owned_facts(model, id).map_err(fail)?;
        let node = model.node(id);
        let (name, operator) = (node.name.clone(), node.op.name().into_owned());
        let in_node = |e| unsupported(format!("{operator} {name:?}: {}", root_cause(&e)));
        let mut op = node.op.clone();
        let is_constant = !inputs.is_empty() && inputs.iter().all(|fact| fact.value.is_concrete());
        let observed = observed_facts(model, id).map_err(in_node)?;
        let by_rules = op
            .infer_facts(inputs.iter().collect(), outputs.iter().collect(), observed.iter().collect())
            .map_err(in_node)?
            .1;
        for fact in &by_rules {
            match size_of_fact(fact) {
                Some(size_bytes) if is_constant || fact.value.is_concrete() => {
                    constants_bytes = constants_bytes.saturating_add(size_bytes);
                    let needed = constants_bytes.saturating_mul(WEIGHT_COPIES);
                    limits.check_model(&format!("its weights and constants up to {name:?}"), needed)?;
                }
                Some(size_bytes) => limits.check_run(&format!("the tensor {name:?}"), size_bytes)?,
                // The next step would compute it.
                None if is_constant => return Err(ModelError::UnknownSize { tensor: name, operator }),
                None => {}
            }
        }
        let inferred = op
            .infer(inputs.iter().collect(), outputs.iter().collect(), observed.iter().collect())
            .map_err(in_node)?
            .1;
        for (slot, (fact, known)) in inferred.into_iter().zip(&outputs).enumerate() {
            let fact = fact.unify(known).map_err(in_node)?;
            model.set_outlet_fact((id, slot).into(), fact).map_err(in_node)?;
        }
    }
    Ok(constants_bytes)
}

type Facts = TVec<InferenceFact>;

fn owned_facts(model: &InferenceModel, id: usize) -> TractResult<(Facts, Facts)> {
    let (inputs, outputs) = model.node_facts(id)?;
    Ok((inputs.into_iter().cloned().collect(), outputs.into_iter().cloned().collect()))
}

/// What an operator looks at besides its inputs and outputs.
fn observed_facts(model: &InferenceModel, id: usize) -> TractResult<Facts> {
    let node = model.node(id);
    node.op.observe_outlets(model, node)?.into_iter().map(|at| model.outlet_fact(at).cloned()).collect()
}

/// Bytes of a tensor, or `None` where its shape or type is open.
fn size_of_fact(fact: &InferenceFact) -> Option<u64> {
    let element_bytes = fact.datum_type.concretize()?.size_of();
    size_of_shape(&fact.shape.concretize()?, element_bytes)
}

fn size_of_shape(shape: &[TDim], element_bytes: usize) -> Option<u64> {
    shape.iter().try_fold(element_bytes as u64, |size, dim| {
        let dim = u64::try_from(dim.to_i64().ok()?).ok()?;
        Some(size.saturating_mul(dim))
    })
}

fn size_of_typed(fact: &TypedFact) -> Option<u64> {
    size_of_shape(&fact.shape.to_tvec(), fact.datum_type.size_of())
}

/// Checks each tensor of a graph before the engine optimises it.
///
/// # Errors
/// [`ModelError::TooMuchMemory`] or [`ModelError::UnknownSize`].
pub(super) fn check_tensors(model: &TypedModel, limits: &LoadLimits) -> Result<(), ModelError> {
    for node in &model.nodes {
        for output in node.outputs.iter().filter(|output| output.fact.konst.is_none()) {
            let Some(size_bytes) = size_of_typed(&output.fact) else {
                let operator = node.op.name().into_owned();
                return Err(ModelError::UnknownSize { tensor: node.name.clone(), operator });
            };
            limits.check_run(&format!("the tensor {:?}", node.name), size_bytes)?;
        }
    }
    Ok(())
}

/// Most bytes held at once when the nodes of an optimised graph run one after the other, each result let go after its
/// last use, together with what the kernels may need beside it.
///
/// # Errors
/// [`ModelError::TooMuchMemory`], [`ModelError::UnknownSize`] or [`ModelError::Unsupported`].
pub(super) fn check_run(
    model: &TypedModel,
    constants_bytes: u64,
    limits: &LoadLimits,
    unsupported: impl Fn(String) -> ModelError,
) -> Result<MemoryNeed, ModelError> {
    check_tensors(model, limits)?;
    let order = model.eval_order().map_err(|e| unsupported(root_cause(&e)))?;
    let mut uses_left = vec![0_usize; model.nodes.len()];
    for input in order.iter().flat_map(|id| &model.nodes[*id].inputs) {
        uses_left[input.node] += 1;
    }
    // What is asked for at the end stays to the end.
    model
        .output_outlets()
        .map_err(|e| unsupported(root_cause(&e)))?
        .iter()
        .for_each(|o| uses_left[o.node] += 1);
    let size_of_node = |id: usize| -> u64 {
        let outputs = model.nodes[id].outputs.iter().filter(|output| output.fact.konst.is_none());
        outputs.map(|output| size_of_typed(&output.fact).unwrap_or(0)).fold(0, u64::saturating_add)
    };
    let (mut held, mut run_bytes) = (0_u64, 0_u64);
    for id in order {
        held = held.saturating_add(size_of_node(id));
        run_bytes = run_bytes.max(held);
        for input in &model.nodes[id].inputs {
            uses_left[input.node] -= 1;
            if uses_left[input.node] == 0 {
                held = held.saturating_sub(size_of_node(input.node));
            }
        }
    }
    limits.check_run("one run", run_bytes)?;
    let need = MemoryNeed { weights_bytes: constants_bytes, run_bytes };
    let loading = constants_bytes.saturating_mul(WEIGHT_COPIES).saturating_add(run_bytes);
    limits.check_model("its weights, twice while it is built, and one run", loading)?;
    Ok(need)
}
