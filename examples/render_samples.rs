//! Draws Giemsa-stained red cells: the folder `sample-images/`, or more cells of the same kind to train on;
//! and pictures that are no single red cell, so that a model can learn to doubt them.
//!
//! ```text
//! cargo run --example render_samples -- samples sample-images
//! cargo run --example render_samples -- training /tmp/renders --seed 1 --count 2000
//! cargo run --example render_samples -- golden models/golden
//! cargo run --example render_samples -- outliers /tmp/outliers --seed 1 --count 250
//! ```
//!
//! It never reads an image or a model. It keeps one invariant: the same arguments write the same bytes.

mod render;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: render_samples samples OUT_DIR
       render_samples golden OUT_DIR
       render_samples training OUT_DIR --seed N --count K
       render_samples outliers OUT_DIR --seed N --count K";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["samples", folder] => {
            let count = render::slides::write_samples(&PathBuf::from(folder))?;
            println!("{count} files in {folder}");
        }
        ["training", folder, "--seed", seed, "--count", count] => {
            let seed = number("--seed", seed)?;
            let count = number("--count", count)?;
            render::slides::write_training(&PathBuf::from(folder), seed, count)?;
            println!("{count} cells in {folder}");
        }
        ["golden", folder] => {
            let count = render::golden::write_golden(&PathBuf::from(folder))?;
            println!("{count} cells in {folder}");
        }
        ["outliers", folder, "--seed", seed, "--count", count] => {
            let (seed, count) = (number("--seed", seed)?, number("--count", count)?);
            let total = render::outliers::write_outliers(&PathBuf::from(folder), seed, count)?;
            println!("{total} pictures in {folder}, {count} of each kind");
        }
        _ => bail!("{USAGE}"),
    }
    Ok(())
}

fn number(flag: &str, text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{flag} {text}: expected a whole number of 0 or more\n{USAGE}"))
}
