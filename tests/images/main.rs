//! Images: decoded as other libraries decode them, or refused, within time and memory whatever a file claims.

#![cfg(target_os = "linux")]
mod counting;
mod decode;
mod decode_parity;
mod fuzz_corpus;
mod hostile;
mod memory_limit;
mod renders;
