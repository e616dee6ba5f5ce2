//! Runs ONNX networks as a function would, for `tests/py/parity/engine.py`, which compares the scores with onnxruntime's.
//!
//! ```text
//! printf 'network.onnx\tinput.f32\n' | run_network
//! ```
//!
//! Each line asked, `NETWORK<tab>INPUT`, names a model file with its `giemsa.*` metadata, and a file of 32-bit floats
//! in the order of its input. It is answered by one line of JSON: `{"scores": [...], "outlier": ...}`, or `{"refused":
//! "..."}`. A network that it runs was loaded by the code that loads models in production.

use std::io::{BufRead, Write};

use anyhow::{Context, Result};
use giemsa_config::Limits;
use giemsa_image::InputTensor;
use giemsa_model::{LoadLimits, Model};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let mut answers = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (network, input) = line.split_once('\t').context("expected NETWORK<tab>INPUT")?;
        let answer = run(network, input).with_context(|| network.to_owned())?;
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn run(network: &str, input: &str) -> Result<Value> {
    let limits = LoadLimits::from(&Limits::default());
    let model = match Model::load_within(std::fs::read(network)?, &limits) {
        Ok(model) => model,
        Err(error) => return Ok(json!({ "refused": error.to_string() })),
    };
    let values = std::fs::read(input)?.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let shape = model.metadata.input.shape();
    Ok(match model.network.run(InputTensor { shape, values }) {
        Ok(scores) => json!({ "scores": scores.labels, "outlier": scores.outlier }),
        Err(error) => json!({ "refused": error.to_string() }),
    })
}
