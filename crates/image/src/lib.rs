//! From the bytes of an uploaded file to the numbers a network reads.
//!
//! `sniff` names the file type, [`mod@decode`] turns bytes into pixels within limits, [`mod@preprocess`] turns pixels
//! into a tensor as an [`input_spec`] says; [`mod@peek`], [`render`] and [`pyramid`] are for pages that show images. Nothing here reads a file, the network or the environment, and the
//! clock only to give up at a deadline that was passed in: the same bytes always give the same tensor or the same error.

pub mod decode;
pub mod input_spec;
pub mod peek;
pub mod preprocess;
pub mod pyramid;
pub mod render;
mod resample;
mod sniff;

pub use decode::{DecodeError, DecodeLimits, Decoded, ImageFormat, Pixels, decode, decode_until};
pub use input_spec::{ColorMode, InputSpec, InputSpecError, InputSpecJson, Layout, Resize};
pub use peek::{PEEK_BYTES, Peek, peek};
pub use preprocess::{InputTensor, preprocess};
pub use pyramid::{Ended, Pyramid, TilePlace, render_pyramid};
pub use render::{JPEG_MEDIA_TYPE, encode_jpeg, shrink_to_fit};
