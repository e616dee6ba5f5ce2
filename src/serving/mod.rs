//! Which model a stage serves: looks for a new file, loads it beside the old one, swaps, keeps the last good one.

mod acceptance;
mod error;
mod registry;
mod state;

pub use self::error::RegistryError;
pub use self::registry::Registry;
pub use self::state::Release;
