//! What the first bytes of a file say of it: its type and, where they reach that far, its size.
//!
//! Never decodes a pixel and never vouches that the rest is whole. A type that is named here is one that `decode`
//! reads, told from the content and never from the name.

use std::io::Cursor;

use ::image::{ImageFormat as Known, ImageReader};

use super::decode::ImageFormat;
use super::sniff::{self, Content};

/// How many bytes from the start are enough for the size of nearly every file.
pub const PEEK_BYTES: u64 = 16 << 10;

/// What is known of a file by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peek {
    /// Its type.
    pub format: ImageFormat,
    /// Width and height as stored, pixels, if `start` holds them.
    pub size_px: Option<(u32, u32)>,
}

/// Looks at the first bytes of a file; `None` if it is not an image that is read.
pub fn peek(start: &[u8]) -> Option<Peek> {
    let Content::Readable(format) = sniff::sniff(start) else { return None };
    let known = match format {
        ImageFormat::Jpeg => Some(Known::Jpeg),
        ImageFormat::Png => Some(Known::Png),
        ImageFormat::Bmp => Some(Known::Bmp),
        ImageFormat::Gif => Some(Known::Gif),
        ImageFormat::WebP => Some(Known::WebP),
        // Its size may be anywhere in the file, and no browser shows it.
        ImageFormat::Tiff => None,
    };
    let read = |known| ImageReader::with_format(Cursor::new(start), known).into_dimensions().ok();
    Some(Peek { format, size_px: known.and_then(read) })
}

impl ImageFormat {
    /// The media type, as browsers name it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Tiff => "image/tiff",
            Self::Bmp => "image/bmp",
            Self::Gif => "image/gif",
            Self::WebP => "image/webp",
        }
    }

    /// The format by its media type.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.media_type() == media_type)
    }

    /// Endings of file names, in lower case, without the dot.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Jpeg => &["jpg", "jpeg", "jfif"],
            Self::Png => &["png"],
            Self::Tiff => &["tif", "tiff"],
            Self::Bmp => &["bmp"],
            Self::Gif => &["gif"],
            Self::WebP => &["webp"],
        }
    }

    /// Whether every browser shows it.
    pub fn is_shown_by_browsers(self) -> bool {
        self != Self::Tiff
    }

    /// All formats that are read.
    pub const ALL: [Self; 6] = [Self::Jpeg, Self::Png, Self::Tiff, Self::Bmp, Self::Gif, Self::WebP];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pixels;
    use crate::render::encode_jpeg;

    #[test]
    fn a_start_tells_type_and_size() {
        let jpeg = encode_jpeg(&Pixels { width_px: 97, height_px: 61, rgb: vec![120; 97 * 61 * 3] });
        assert_eq!(peek(&jpeg[..700]), Some(Peek { format: ImageFormat::Jpeg, size_px: Some((97, 61)) }));
        // Cut before the size.
        assert_eq!(peek(&jpeg[..20]), Some(Peek { format: ImageFormat::Jpeg, size_px: None }));
        let gif = b"GIF89a\x40\x01\xf0\x00\x00\x00\x00,\0\0\0\0\x40\x01\xf0\x00\0\x02";
        assert_eq!(peek(gif), Some(Peek { format: ImageFormat::Gif, size_px: Some((320, 240)) }));
        assert_eq!(peek(b"II*\0\x08\0\0\0"), Some(Peek { format: ImageFormat::Tiff, size_px: None }));
        for none in [&b""[..], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"<!doctype html>"]
        {
            assert_eq!(peek(none), None);
        }
    }

    #[test]
    fn media_types_are_the_formats() {
        for format in ImageFormat::ALL {
            assert_eq!(ImageFormat::of_media_type(format.media_type()), Some(format));
            assert!(!format.extensions().is_empty());
        }
        assert_eq!(ImageFormat::of_media_type("image/svg+xml"), None);
    }
}
