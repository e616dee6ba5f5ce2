//! Decodes every file of a folder for `tests/py/parity/decode.py`, which compares the pixels with those of other decoders.
//!
//! ```text
//! cargo run --example decode_dump -- FOLDER OUT_FOLDER
//! ```
//!
//! Writes `<name>.rgb` (rows from the top, three bytes a pixel) for each file that is decoded, and prints one line of JSON
//! for each file: its name, and its size or the code and sentence of its refusal, or the message of a panic.

use std::path::Path;

use anyhow::{Context, Result, bail};
use giemsa_image::decode::{DecodeLimits, Decoded, decode};
use serde_json::json;

const LIMITS: DecodeLimits = DecodeLimits {
    max_width_px: 20_000,
    max_height_px: 20_000,
    max_pixels: 40_000_000,
    max_decoded_bytes: 480_000_000,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out] = arguments.as_slice() else { bail!("usage: decode_dump FOLDER OUT_FOLDER") };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.clone())? {
        names.push(entry?.file_name().into_string().ok().context("a name that is not UTF-8")?);
    }
    names.sort();
    for name in names {
        let bytes = std::fs::read(Path::new(folder).join(&name)).with_context(|| name.clone())?;
        let line = match std::panic::catch_unwind(|| decode(&bytes, &LIMITS)) {
            Err(_) => json!({"name": name, "panic": "see above"}),
            Ok(Ok(Decoded { pixels, .. })) => {
                std::fs::write(Path::new(out).join(format!("{name}.rgb")), &pixels.rgb)?;
                json!({"name": name, "width": pixels.width_px, "height": pixels.height_px})
            }
            Ok(Err(error)) => json!({"name": name, "code": error.code(), "message": error.to_string()}),
        };
        println!("{line}");
    }
    Ok(())
}
