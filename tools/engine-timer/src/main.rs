//! Times ONNX networks in the inference engine, for `models/train/candidates.py`.
//!
//! ```text
//! echo '0 40' | engine-timer network.onnx
//! ```
//!
//! Each line asked, `INDEX RUNS`, runs that file so many times and is answered by the mean in milliseconds: whoever
//! asks measures something else in between. One thread, one image at a time, as Giemsa serves.

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tract_onnx::prelude::{
    Datum, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TValue, Tensor,
    TypedRunnableModel, tvec,
};
use tract_onnx::tract_hir::infer::Factoid;

/// A network, optimised, and a picture of noise for it.
struct Subject {
    plan: Arc<TypedRunnableModel>,
    image: TValue,
}

fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!files.is_empty(), "usage: engine-timer FILE.onnx...; then lines of INDEX RUNS");
    let subjects =
        files.iter().map(|file| load(file).with_context(|| file.clone())).collect::<Result<Vec<_>>>()?;
    let mut answers = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (index, runs) = line.split_once(' ').context("expected INDEX RUNS")?;
        let subject = subjects.get(index.parse::<usize>()?).with_context(|| format!("no file {index}"))?;
        writeln!(answers, "{}", mean_ms(subject, runs.parse()?)?)?;
        answers.flush()?;
    }
    Ok(())
}

fn load(file: &str) -> Result<Subject> {
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut model = onnx.model_for_path(file)?;
    let declared = model.input_fact(0)?.shape.clone();
    // An open dimension is the batch.
    let shape: Vec<usize> = declared
        .dims()
        .map(|dim| dim.concretize().and_then(|dim| dim.to_i64().ok()?.try_into().ok()).unwrap_or(1))
        .collect();
    model.set_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), &shape))?;
    let plan = model.into_optimized()?.into_runnable()?;
    #[expect(clippy::cast_precision_loss, reason = "any numbers will do")]
    let noise: Vec<f32> =
        (0..shape.iter().product()).map(|i: usize| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    Ok(Subject { plan, image: Tensor::from_shape(&shape, &noise)?.into_tvalue() })
}

fn mean_ms(subject: &Subject, runs: u32) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..runs {
        black_box(subject.plan.run(tvec!(subject.image.clone()))?);
    }
    Ok(begun.elapsed().as_secs_f64() * 1000.0 / f64::from(runs))
}
