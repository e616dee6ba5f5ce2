//! The page: its files, its libraries, what it has to know first, and the description of the API.

pub(crate) mod assets;
pub(crate) mod library;
pub(crate) mod openapi;
pub(crate) mod settings;
