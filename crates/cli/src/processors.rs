//! Processor architectures of a function on AWS, as an argument of commands that calculate prices.

use giemsa_core::price::Architecture;

/// Processors as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Processors {
    /// The template's default.
    Arm64,
    /// Intel and AMD.
    #[value(name = "x86_64")]
    X86_64,
}

impl From<Processors> for Architecture {
    fn from(processors: Processors) -> Self {
        match processors {
            Processors::Arm64 => Self::Arm64,
            Processors::X86_64 => Self::X86_64,
        }
    }
}
