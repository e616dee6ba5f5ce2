//! Models: scores equal to those of the framework they come from, or refused.

#![cfg(unix)]
mod bring_your_own;
mod engine_parity;
mod golden;
mod model_fuzz;
mod scores;
