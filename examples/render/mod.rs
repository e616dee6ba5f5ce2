//! Draws single red cells as they look in a Giemsa-stained thin smear, and what is no such cell, and packs
//! the pictures into files.
//!
//! Each picture is drawn from numbers alone, so the pictures may be shared freely. It keeps one invariant: a cell
//! depends only on its slide's look and its own seed, so that the same seed draws the same cell, whatever is drawn
//! before it.

pub mod blob;
pub mod canvas;
pub mod cell;
pub mod files;
pub mod golden;
pub mod noise;
pub mod outliers;
pub mod parasite;
pub mod plate;
pub mod slides;
