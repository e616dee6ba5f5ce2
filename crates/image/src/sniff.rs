//! What a file is, told from its first bytes.
//!
//! The name of a file is never looked at: instruments and people rename files, content does not lie. No content is
//! ever repeated in what is returned, since the first line of a misplaced file can hold a patient's name.

use super::decode::ImageFormat;

/// What the first bytes of a file say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// A format that this crate decodes.
    Readable(ImageFormat),
    /// A known format that this crate does not decode, as a noun phrase that a person knows.
    Unreadable(&'static str),
    /// Nothing known; what it looks like, in words.
    Unknown(&'static str),
    /// Zero bytes.
    Empty,
}

/// Signatures at a fixed place, the more specific before the less.
const UNREADABLE: &[(usize, &[u8], &str)] = &[
    (12, b"CgBI", "a PNG file in the CgBI variant of Apple"),
    (0, b"%PDF-", "a PDF document"),
    (128, b"DICM", "a DICOM image"),
    (0, b"8BPS", "a Photoshop file (PSD)"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"ZISRAWFILE", "a Zeiss file (CZI)"),
    (0, b"\xda\xce\xbe\x0a", "a Nikon file (ND2)"),
    (0, b"\x70\x00\x00\x00", "a Leica file (LIF)"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE container (Olympus OIB, Zeiss ZVI, old Office)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Imaris)"),
    (0, b"SIMPLE  =", "a FITS image"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file (RAF)"),
    (8, b"CR\x02", "a camera raw file (CR2)"),
    (0, b"IIU\x00", "a camera raw file (RW2)"),
    (0, b"IIRO", "a camera raw file (ORF)"),
    (0, b"IIRS", "a camera raw file (ORF)"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"PK\x05\x06", "a ZIP archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"gimp xcf ", "a GIMP file (XCF)"),
    (0, b"\x8aMNG\r\n\x1a\n", "an MNG animation"),
    (0, b"qoif", "a QOI image"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska)"),
];

/// Brands of the ISO base media container (`ftyp`), which many unrelated formats share.
const FTYP_BRANDS: &[(&[u8], &str)] = &[
    (b"heic", "an HEIC image"),
    (b"heix", "an HEIC image"),
    (b"heim", "an HEIC image"),
    (b"hevc", "an HEIC image"),
    (b"mif1", "an HEIC image"),
    (b"msf1", "an HEIC image"),
    (b"avif", "an AVIF image"),
    (b"avis", "an AVIF image"),
    (b"crx ", "a camera raw file (CR3)"),
    (b"jp2 ", "a JPEG 2000 image"),
];

/// Sizes of the second BMP header that are in use; "BM" alone also starts ordinary text.
const BMP_HEADER_BYTES: &[u32] = &[12, 16, 40, 52, 56, 64, 108, 124];

/// Names the content of a file from its bytes.
pub(super) fn sniff(bytes: &[u8]) -> Content {
    use Content::{Empty, Readable, Unknown, Unreadable};

    if bytes.is_empty() {
        return Empty;
    }
    let has = |at: usize, signature: &[u8]| bytes.get(at..).is_some_and(|tail| tail.starts_with(signature));

    for &(at, signature, name) in UNREADABLE {
        if has(at, signature) {
            return Unreadable(name);
        }
    }
    if has(4, b"ftyp") {
        let brand = bytes.get(8..12).unwrap_or_default();
        let known = FTYP_BRANDS.iter().find(|(known, _)| *known == brand);
        return Unreadable(known.map_or("a video (MP4 or QuickTime)", |(_, name)| name));
    }
    if has(0, b"\xff\xd8\xff") {
        return Readable(ImageFormat::Jpeg);
    }
    if has(0, b"\x89PNG\r\n\x1a\n") {
        return Readable(ImageFormat::Png);
    }
    // 42 is TIFF, 43 is BigTIFF, each in two byte orders.
    if has(0, b"II*\0") || has(0, b"MM\0*") || has(0, b"II+\0") || has(0, b"MM\0+") {
        return Readable(ImageFormat::Tiff);
    }
    if has(0, b"GIF87a") || has(0, b"GIF89a") {
        return Readable(ImageFormat::Gif);
    }
    if has(0, b"RIFF") {
        return match bytes.get(8..12) {
            Some(b"WEBP") => Readable(ImageFormat::WebP),
            Some(b"AVI ") => Unreadable("a video (AVI)"),
            _ => Unknown("a RIFF file that is not WebP"),
        };
    }
    if has(0, b"BM") {
        let header = bytes.get(14..18).and_then(|field| field.try_into().ok()).map(u32::from_le_bytes);
        if header.is_some_and(|size| BMP_HEADER_BYTES.contains(&size)) {
            return Readable(ImageFormat::Bmp);
        }
    }
    if matches!(bytes, [b'P', b'1'..=b'7', b'\n' | b'\r' | b' ' | b'\t', ..]) {
        return Unreadable("a Netpbm image (PBM, PGM, PPM or PAM)");
    }
    sniff_text(bytes)
}

/// Tells text from binary data, and a drawing in SVG or a web page from other text.
fn sniff_text(bytes: &[u8]) -> Content {
    let head = &bytes[..bytes.len().min(1024)];
    if bytes.iter().take(4096).all(|&byte| byte == 0) {
        // What is left when a copy was cut off after the space was reserved.
        return Content::Unknown("nothing but zeros");
    }
    let is_text = std::str::from_utf8(head).map_or_else(
        // A character may be cut in two at the end of the head.
        |error| error.error_len().is_none() && error.valid_up_to() > 0,
        |text| !text.is_empty(),
    );
    if !is_text || head.contains(&0) {
        return Content::Unknown("unknown binary data");
    }
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    if text.contains("<svg") {
        return Content::Unreadable("an SVG drawing");
    }
    if text.contains("<html") || text.contains("<!doctype html") {
        return Content::Unknown("a web page");
    }
    Content::Unknown("text")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that holds `signature` at `at`, padded to 300 bytes with what no other signature begins with.
    fn file(at: usize, signature: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xEE; 300];
        bytes[at..at + signature.len()].copy_from_slice(signature);
        bytes
    }

    #[test]
    fn every_signature_is_recognised_at_its_place_only() {
        for &(at, signature, name) in UNREADABLE {
            assert_eq!(sniff(&file(at, signature)), Content::Unreadable(name));
            assert_eq!(sniff(&file(at + 1, signature)), Content::Unknown("unknown binary data"), "{name}");
        }
    }

    #[test]
    fn readable_formats_are_recognised() {
        let cases: &[(&[u8], ImageFormat)] = &[
            (b"\xff\xd8\xff\xe0", ImageFormat::Jpeg),
            (b"\x89PNG\r\n\x1a\n", ImageFormat::Png),
            (b"II*\0", ImageFormat::Tiff),
            (b"MM\0*", ImageFormat::Tiff),
            (b"II+\0", ImageFormat::Tiff),
            (b"GIF87a", ImageFormat::Gif),
            (b"GIF89a", ImageFormat::Gif),
            (b"RIFF\x10\0\0\0WEBPVP8 ", ImageFormat::WebP),
            (b"BM\x10\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", ImageFormat::Bmp),
        ];
        for &(signature, format) in cases {
            assert_eq!(sniff(&file(0, signature)), Content::Readable(format), "{format:?}");
        }
    }

    #[test]
    fn other_content_is_described_without_repeating_it() {
        let cases: &[(&[u8], Content)] = &[
            (b"", Content::Empty),
            (b"BMI of patient 17 is 23", Content::Unknown("text")),
            (b"name;date;result\nDoe;2026-01-02;positive\n", Content::Unknown("text")),
            (b"<!DOCTYPE html><html>", Content::Unknown("a web page")),
            (b"<?xml version='1.0'?><svg xmlns='x'/>", Content::Unreadable("an SVG drawing")),
            (b"\0\0\0\0\0\0\0\0", Content::Unknown("nothing but zeros")),
            (b"\x01\x02\xfe\xff\x80", Content::Unknown("unknown binary data")),
            (b"\0\0\0\x18ftypheic\0\0\0\0", Content::Unreadable("an HEIC image")),
            (b"\0\0\0\x18ftypavif\0\0\0\0", Content::Unreadable("an AVIF image")),
            (b"\0\0\0\x18ftypisom\0\0\0\0", Content::Unreadable("a video (MP4 or QuickTime)")),
            (b"RIFF\x10\0\0\0WAVEfmt ", Content::Unknown("a RIFF file that is not WebP")),
            (b"P6\n12 8\n255\n", Content::Unreadable("a Netpbm image (PBM, PGM, PPM or PAM)")),
        ];
        for (bytes, content) in cases {
            assert_eq!(sniff(bytes), *content, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn text_cut_inside_a_character_is_still_text() {
        let mut text = "ü".repeat(600).into_bytes();
        text.insert(0, b'x');
        assert_eq!(sniff(&text), Content::Unknown("text"));
    }
}
