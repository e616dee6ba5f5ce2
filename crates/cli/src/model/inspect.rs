//! `giemsa model inspect`: describes a model file, without a bucket.
//!
//! A file that cannot serve is shown as far as it can be read, with the reason and exit code 1. Memory and milliseconds are
//! measured, never estimated from a table.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::anyhow;
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::ProofOutcome;
use giemsa_core::statistics::Speed;
use giemsa_core::statistics::quantile;
use giemsa_image::{InputSpec, InputTensor};
use giemsa_model::{GraphSummary, LoadLimits, MemoryNeed, Model, OnnxFile, PROOF_KEY};
use serde::Serialize;

use super::super::{Failed, output};
use super::{FileArgument, limits, print, read_file, shown_proof, shown_size};

/// Runs whose time is taken.
const RUNS: usize = 25;

#[derive(Debug, clap::Args)]
pub struct InspectArguments {
    #[command(flatten)]
    file: FileArgument,
}

#[derive(Debug, Serialize)]
struct Inspection {
    file: String,
    sha256: String,
    size_bytes: u64,
    /// Whether it can serve.
    usable: bool,
    /// Why not.
    problem: Option<String>,
    graph: Option<GraphSummary>,
    /// All metadata as it is written.
    metadata: BTreeMap<String, String>,
    labels: Vec<String>,
    positive: Vec<String>,
    /// How pixels become the input, complete.
    input: Option<InputSpec>,
    /// How its scores compare with the training framework's, if the file says so.
    proof: Option<ProofOutcome>,
    /// What a person should know who lets it serve.
    notes: Vec<String>,
    /// What it takes by its shapes, estimated from above; functions compare this with their limits.
    estimated: Option<Estimated>,
    measured: Option<Measured>,
}

/// Memory by the network's shapes.
#[derive(Debug, Serialize)]
struct Estimated {
    /// Weights and constants.
    weights_bytes: u64,
    /// What one image takes in addition.
    run_bytes: u64,
}

/// On this machine, by running the network on even grey.
#[derive(Debug, Serialize)]
struct Measured {
    /// Milliseconds to load, check and optimise it.
    load_ms: f64,
    /// Milliseconds for one image in the network.
    run: Speed,
    /// Most memory that loading and running took, bytes; absent where the system does not say.
    memory_bytes: Option<u64>,
    /// Whether this build of the program is optimised.
    optimised_build: bool,
}

/// Inspects a file.
pub fn run(arguments: &InspectArguments, json: bool) -> Result<(), Failed> {
    let path = &arguments.file.file;
    let limits = LoadLimits::from(&limits()?);
    let memory_before = resident_bytes();
    let bytes = read_file(path)?;
    let mut inspection = Inspection {
        file: path.display().to_string(),
        sha256: sha256_hex(&bytes),
        size_bytes: bytes.len() as u64,
        usable: false,
        problem: None,
        graph: None,
        metadata: BTreeMap::new(),
        labels: Vec::new(),
        positive: Vec::new(),
        input: None,
        proof: None,
        notes: Vec::new(),
        estimated: None,
        measured: None,
    };
    let started = Instant::now();
    let loaded = Model::load_within(&bytes, &limits);
    let load_ms = milliseconds(started);
    match loaded.and_then(|model| Ok((run_times(&model)?, model))) {
        Ok((run, model)) => {
            let memory_bytes =
                peak_resident_bytes().zip(memory_before).map(|(peak, before)| peak.saturating_sub(before));
            let optimised_build = !cfg!(debug_assertions);
            let MemoryNeed { weights_bytes, run_bytes } = model.network.memory_need();
            inspection.estimated = Some(Estimated { weights_bytes, run_bytes });
            inspection.usable = true;
            inspection.measured = Some(Measured { load_ms, run, memory_bytes, optimised_build });
            inspection.labels.clone_from(&model.metadata.labels);
            inspection.positive.clone_from(&model.metadata.positive);
            inspection.input = Some(model.metadata.input.clone());
            inspection.proof.clone_from(&model.proof);
            inspection.notes.clone_from(&model.notes);
        }
        Err(error) => inspection.problem = Some(error.to_string()),
    }
    if let Ok(file) = OnnxFile::parse_within(&bytes, &limits) {
        inspection.graph = Some(file.summary());
        inspection.metadata = file.properties();
    }
    print(json, &inspection, shown)?;
    match inspection.problem {
        Some(problem) => Err(Failed::Work(anyhow!("{} cannot serve: {problem}", path.display()))),
        None => Ok(()),
    }
}

fn run_times(model: &Model) -> Result<Speed, giemsa_model::ModelError> {
    let shape = model.metadata.input.shape();
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let values = vec![0.1; shape.iter().product()];
        let started = Instant::now();
        model.network.run(InputTensor { shape, values })?;
        times.push(milliseconds(started));
    }
    times.sort_by(f64::total_cmp);
    let at = |q| quantile(&times, q).expect("it ran");
    Ok(Speed { median_ms: at(0.5), p95_ms: at(0.95) })
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_micros() as f64 / 1e3
}

/// Memory that the process holds now, bytes; Linux only.
fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// The most memory that the process has held, bytes; Linux only.
fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn shown(inspection: &Inspection) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<12} {}", output::printable(&text)));
    line("file", inspection.file.clone());
    line("sha256", inspection.sha256.clone());
    line("size", shown_size(inspection.size_bytes));
    let property = |key: &str| inspection.metadata.get(key).cloned().unwrap_or_default();
    if inspection.usable {
        line("model", format!("{} {}", property("giemsa.name"), property("giemsa.version")));
        line("labels", inspection.labels.join(", "));
        line("positive", inspection.positive.join(", "));
    }
    if let Some(input) = &inspection.input {
        let json = serde_json::to_string(input).unwrap_or_default();
        let [n, a, b, c] = input.shape();
        line("input", format!("[{n}, {a}, {b}, {c}]: {json}"));
    }
    if let Some(graph) = &inspection.graph {
        line("outputs", graph.outputs.join(", "));
        line("weights", graph.weights.to_string());
        let operators = graph.operators.iter().map(|(name, count)| format!("{name} {count}"));
        line("operators", operators.collect::<Vec<_>>().join(", "));
        line("exporter", format!("{}, opset {}", graph.producer, graph.opset));
    }
    for (key, value) in &inspection.metadata {
        if !matches!(
            key.as_str(),
            "giemsa.name"
                | "giemsa.version"
                | "giemsa.labels"
                | "giemsa.positive"
                | "giemsa.input"
                | PROOF_KEY
        ) {
            line(key.strip_prefix("giemsa.").unwrap_or(key), value.clone());
        }
    }
    if inspection.usable {
        line("proof", shown_proof(inspection.proof.as_ref()));
    }
    for note in &inspection.notes {
        line("note", note.clone());
    }
    if let Some(Estimated { weights_bytes, run_bytes }) = &inspection.estimated {
        let (weights, run) = (shown_size(*weights_bytes), shown_size(*run_bytes));
        line("estimate", format!("{weights} of weights, and at most {run} for each image"));
    }
    if let Some(measured) = &inspection.measured {
        let build = if measured.optimised_build { "" } else { ", a development build" };
        line(
            "speed",
            format!(
                "{:.2} ms an image, 95 % within {:.2} ms; loaded in {:.0} ms (this machine{build})",
                measured.run.median_ms, measured.run.p95_ms, measured.load_ms
            ),
        );
        if let Some(bytes) = measured.memory_bytes {
            line(
                "memory",
                format!("{} at most while it was loaded and run (this machine)", shown_size(bytes)),
            );
        }
    }
    if let Some(problem) = &inspection.problem {
        line("problem", problem.clone());
    }
    lines.join("\n")
}
