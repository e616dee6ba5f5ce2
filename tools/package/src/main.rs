//! `package BINARY ZIP ARCH`: zips a binary as an AWS Lambda package, if Lambda can run it.
//!
//! The same binary gives the same bytes: one entry, `bootstrap`, mode 0755, with the oldest time a zip can name.

use std::io::{Cursor, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

mod elf;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("package: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let [binary, package, architecture] = arguments else {
        bail!("expected three arguments: the binary, the zip to write, and x86_64 or arm64");
    };
    // An old package must not pass for the one that was refused.
    let _ = std::fs::remove_file(package);
    let bytes = std::fs::read(binary).with_context(|| format!("cannot read {binary}"))?;
    let needs = elf::read_needs(&bytes).with_context(|| binary.clone())?;
    if needs.architecture != architecture {
        bail!("{binary} is for {}; expected {architecture}", needs.architecture);
    }
    let text = |(major, minor): &(u32, u32)| format!("{major}.{minor}");
    let too_new = needs.too_new();
    if !too_new.is_empty() {
        bail!(
            "{binary} needs glibc {}; provided.al2023 has {}. This machine's C library is too new to build on: run \
             `make package CROSS=1`, which builds against an older one",
            too_new.iter().map(text).collect::<Vec<_>>().join(", "),
            text(&elf::NEWEST_GLIBC),
        );
    }
    let zipped = zip_bootstrap(&bytes)?;
    std::fs::write(package, &zipped).with_context(|| format!("cannot write {package}"))?;
    println!(
        "{package}: {:.2} MB, bootstrap {:.2} MB, {architecture}, needs glibc {}",
        megabytes(zipped.len()),
        megabytes(bytes.len()),
        needs.glibc_versions.last().map_or_else(|| "none".to_owned(), text),
    );
    Ok(())
}

fn zip_bootstrap(binary: &[u8]) -> Result<Vec<u8>> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(9))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("bootstrap", options)?;
    writer.write_all(binary)?;
    Ok(writer.finish()?.into_inner())
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
