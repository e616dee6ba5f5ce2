//! What a Linux binary asks of the machine that runs it: its processor and its C library.
//!
//! A symbol version that cannot be read is an error, never "needs nothing".

use anyhow::{Context, Result, bail};
use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader};

/// The C library of `provided.al2023`, major and minor.
pub const NEWEST_GLIBC: (u32, u32) = (2, 34);

/// What a binary asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The processor, as Lambda names it: `x86_64` or `arm64`.
    pub architecture: &'static str,
    /// Versions of the C library whose symbols it uses, oldest first, each major and minor.
    pub glibc_versions: Vec<(u32, u32)>,
}

impl Needs {
    /// Versions that are newer than Lambda's C library.
    pub fn too_new(&self) -> Vec<(u32, u32)> {
        self.glibc_versions.iter().copied().filter(|version| *version > NEWEST_GLIBC).collect()
    }
}

/// Reads what the ELF file `bytes` asks for.
///
/// # Errors
/// If it is no 64-bit Linux binary for one of Lambda's processors, or its symbol versions cannot be read.
pub fn read_needs(bytes: &[u8]) -> Result<Needs> {
    let header =
        FileHeader64::<object::Endianness>::parse(bytes).context("not a 64-bit Linux binary (ELF)")?;
    let endian = header.endian()?;
    let architecture = match header.e_machine(endian) {
        EM_X86_64 => "x86_64",
        EM_AARCH64 => "arm64",
        other => bail!(
            "the binary is for ELF machine {other}; expected {EM_X86_64} (x86_64) or {EM_AARCH64} (arm64)"
        ),
    };
    let mut glibc_versions = Vec::new();
    for section in header.sections(endian, bytes)?.iter() {
        let Some((mut libraries, strings)) = section.gnu_verneed(endian, bytes)? else { continue };
        let strings = header.sections(endian, bytes)?.strings(endian, bytes, strings)?;
        while let Some((_, mut symbols)) = libraries.next()? {
            while let Some(symbol) = symbols.next()? {
                let name = String::from_utf8_lossy(symbol.name(endian, strings)?);
                if let Some(version) = name.strip_prefix("GLIBC_") {
                    glibc_versions
                        .push(parse_version(version).with_context(|| format!("symbol version {name}"))?);
                }
            }
        }
    }
    glibc_versions.sort_unstable();
    glibc_versions.dedup();
    Ok(Needs { architecture, glibc_versions })
}

/// Major and minor; a third number (`2.2.5`) is never what decides.
fn parse_version(text: &str) -> Result<(u32, u32)> {
    let mut numbers = text.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("{text:?} is not a version; expected numbers such as 2.34"),
    }
}
