//! Decoding against pictures drawn by `tests/py/make_images.py`, and against files that lie.
//!
//! The expected pixels come from Pillow or from the arrays that were written into the files. An allocator that counts
//! shows that the memory limit holds for whatever bytes arrive.

use std::path::{Path, PathBuf};

use crate::counting::peak_bytes;
use giemsa_image::decode::{DecodeError, DecodeLimits, Decoded, ImageFormat, decode};
use proptest::prelude::*;

const LIMITS: DecodeLimits = DecodeLimits {
    max_width_px: 20_000,
    max_height_px: 20_000,
    max_pixels: 40_000_000,
    max_decoded_bytes: 400_000_000,
};

/// Just enough for the fixtures, so that a mutated size soon exceeds it.
const TIGHT: DecodeLimits =
    DecodeLimits { max_width_px: 300, max_height_px: 300, max_pixels: 20_000, max_decoded_bytes: 300_000 };

fn folder() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/data/images")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[derive(serde::Deserialize)]
struct Expectations {
    decoded: Vec<Expected>,
    refused: Vec<Refused>,
}

#[derive(serde::Deserialize)]
struct Expected {
    file: String,
    format: String,
    width_px: u32,
    height_px: u32,
    rgb: String,
    tolerance: u8,
}

#[derive(serde::Deserialize)]
struct Refused {
    file: String,
    code: String,
    message: String,
}

fn expectations() -> Expectations {
    serde_json::from_slice(&read("expected.json")).expect("expected.json is what the script writes")
}

#[test]
fn every_fixture_decodes_to_the_expected_pixels() {
    let expectations = expectations();
    assert!(expectations.decoded.len() >= 70, "fixtures are missing");
    let mut failures = Vec::new();
    for expected in expectations.decoded {
        let name = &expected.file;
        match decode(&read(name), &LIMITS) {
            Err(error) => failures.push(format!("{name}: {error} ({error:?})")),
            Ok(Decoded { format, pixels }) => {
                let size = (pixels.width_px, pixels.height_px);
                if format.as_str() != expected.format || size != (expected.width_px, expected.height_px) {
                    failures.push(format!("{name}: {format} of {size:?}"));
                    continue;
                }
                let rgb = read(&expected.rgb);
                assert_eq!(rgb.len(), pixels.rgb.len(), "{name}");
                let worst =
                    rgb.iter().zip(&pixels.rgb).map(|(a, b)| a.abs_diff(*b)).max().expect("not empty");
                println!("{name}: differs by {worst} at most");
                if worst > expected.tolerance {
                    failures.push(format!("{name}: differs by {worst}, {} allowed", expected.tolerance));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_is_not_read_is_refused_with_a_reason() {
    for refused in expectations().refused {
        let error = decode(&read(&refused.file), &LIMITS).expect_err(&refused.file);
        assert_eq!(error.code(), refused.code, "{}: {error}", refused.file);
        assert!(error.to_string().contains(&refused.message), "{}: {error}", refused.file);
    }
}

#[test]
fn an_empty_file_is_empty() {
    assert_eq!(decode(b"", &LIMITS).unwrap_err().code(), "empty");
}

#[test]
fn a_file_cut_anywhere_is_never_answered_with_part_of_the_picture() {
    for expected in expectations().decoded {
        let bytes = read(&expected.file);
        let whole = decode(&bytes, &LIMITS).unwrap();
        let mut refused = 0;
        for length in 0..bytes.len() {
            match decode(&bytes[..length], &LIMITS) {
                // What follows the picture may be missing: then the pixels are all there.
                Ok(cut) => {
                    assert!(cut == whole, "{} cut to {length} of {} bytes", expected.file, bytes.len())
                }
                Err(error) => {
                    refused += 1;
                    // Too little is left to tell what it was, or it is told to be cut.
                    let is_head = length < 150 || whole.format == ImageFormat::Tiff;
                    assert!(
                        error.code() == "corrupt" || is_head,
                        "{} cut to {length}: {error}",
                        expected.file
                    );
                }
            }
        }
        // Two pages, two frames, or an appended video: at least the first picture is needed.
        assert!(refused * 3 > bytes.len(), "{}: only {refused} cuts were refused", expected.file);
    }
}

#[test]
fn a_cut_file_says_where_it_ends() {
    for name in [
        "jpeg_420.jpg",
        "png_rgb8.png",
        "gif_plain.gif",
        "webp_lossy.webp",
        "bmp_rgb24.bmp",
        "tiff_tiled.tif",
    ] {
        let bytes = read(name);
        let length = bytes.len() * 3 / 5;
        let error = decode(&bytes[..length], &LIMITS).unwrap_err();
        assert!(error.to_string().contains(&format!("ends at byte {length}")), "{name}: {error}");
    }
}

#[test]
fn a_jpeg_that_was_cut_and_closed_is_never_answered_with_grey() {
    let names = expectations().decoded.into_iter().map(|expected| expected.file);
    // A progressive file closed between two scans is a complete coarser picture, so only the others are held to this.
    for name in names.filter(|name| name.starts_with("jpeg_") && !name.contains("progressive")) {
        let bytes = read(&name);
        let whole = decode(&bytes, &LIMITS).unwrap();
        for length in 0..bytes.len() {
            let mut closed = bytes[..length].to_vec();
            closed.extend([0xFF, 0xD9]);
            if let Ok(cut) = decode(&closed, &LIMITS) {
                assert!(cut == whole, "{name} closed after {length} of {} bytes", bytes.len());
            }
        }
    }
}

#[test]
fn a_progressive_jpeg_cut_inside_a_scan_is_refused_even_when_closed() {
    let bytes = read("jpeg_progressive_420.jpg");
    let markers = bytes.windows(2).enumerate().filter(|(_, pair)| pair[0] == 0xFF && pair[1] >= 0xC0);
    let markers: Vec<(usize, u8)> = markers.map(|(at, pair)| (at, pair[1])).collect();
    let mut cut_scans = 0;
    for pair in markers.windows(2) {
        let [(start, 0xDA), (end, _)] = *pair else { continue };
        if end - start < 30 {
            continue;
        }
        cut_scans += 1;
        // In the middle of the scan's data, and just before its end.
        for length in [(start + end) / 2, end - 3] {
            let mut closed = bytes[..length].to_vec();
            closed.extend([0xFF, 0xD9]);
            let error = decode(&closed, &LIMITS).expect_err("part of a scan is missing");
            assert_eq!(error.code(), "corrupt", "{error}");
        }
    }
    assert!(cut_scans >= 3, "the fixture has several scans, {cut_scans} were cut");
}

/// A PNG of two chunks that declares `width_px` x `height_px` and holds next to nothing.
fn hollow_png(width_px: u32, height_px: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width_px.to_be_bytes());
    bytes.extend(height_px.to_be_bytes());
    bytes.extend(b"\x08\x02\0\0\0\0\0\0\0\0\0\0\x02IDAT\x78\x9c\0\0\0\0\0\0\0\0IEND\xae\x42\x60\x82");
    bytes
}

/// A fixture with some bytes replaced.
fn patched(name: &str, at: usize, replacement: &[u8]) -> Vec<u8> {
    let mut bytes = read(name);
    bytes[at..at + replacement.len()].copy_from_slice(replacement);
    bytes
}

#[test]
fn huge_pictures_are_refused_at_once_and_without_memory() {
    let start_of_frame = {
        let bytes = read("jpeg_420.jpg");
        bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("baseline")
    };
    let width_tag = {
        // Tag 256, type LONG, one value.
        let (bytes, tag) = (read("tiff_rgb8_planar.tif"), [0, 1, 4, 0, 1, 0, 0, 0]);
        bytes.windows(8).position(|window| window == tag).expect("has a width") + 8
    };
    let cases = [
        ("png", hollow_png(30_000, 30_000)),
        ("jpeg", patched("jpeg_420.jpg", start_of_frame + 5, &[0xFF, 0xFF, 0xFF, 0xFF])),
        ("gif", patched("gif_plain.gif", 6, &[0xFF, 0xFF, 0xFF, 0xFF])),
        ("bmp", patched("bmp_rgb24.bmp", 18, &[0, 0, 1, 0, 0, 0, 1, 0])),
        ("webp", patched("webp_lossy.webp", 26, &[0xFF, 0x3F, 0xFF, 0x3F])),
        ("tiff", patched("tiff_rgb8_planar.tif", width_tag, &[0xFF, 0xFF, 0xFF, 0x7F])),
    ];
    for (name, bytes) in cases {
        let (result, peak) = peak_bytes(|| decode(&bytes, &LIMITS));
        let error = result.expect_err(name);
        assert!(matches!(error, DecodeError::TooLarge { .. }), "{name}: {error}");
        assert!(peak < 100_000, "{name}: held {peak} bytes");
    }
    let message = decode(&hollow_png(30_000, 30_000), &LIMITS).unwrap_err().to_string();
    assert!(
        message.starts_with(
            "the image is 30000 x 30000 px (900 megapixels), more than the 40 megapixels allowed"
        )
    );
}

#[test]
fn a_canvas_without_rows_is_no_picture() {
    let error = decode(&patched("gif_plain.gif", 8, &[0, 0]), &LIMITS).unwrap_err();
    assert!(matches!(error, DecodeError::Corrupt { detail: "its size is impossible", .. }), "{error}");
}

#[test]
fn every_limit_is_checked_for_every_format() {
    for expected in expectations().decoded {
        let bytes = read(&expected.file);
        // A turned picture is stored with its sides exchanged.
        let longest = expected.width_px.max(expected.height_px);
        let pixels = u64::from(expected.width_px) * u64::from(expected.height_px);
        let cases = [
            DecodeLimits { max_width_px: expected.width_px.min(expected.height_px) - 1, ..LIMITS },
            DecodeLimits { max_height_px: expected.width_px.min(expected.height_px) - 1, ..LIMITS },
            DecodeLimits { max_pixels: pixels - 1, ..LIMITS },
            DecodeLimits { max_decoded_bytes: pixels * 3 - 1, ..LIMITS },
        ];
        for limits in cases {
            let error = decode(&bytes, &limits).expect_err(&expected.file);
            assert!(matches!(error, DecodeError::TooLarge { .. }), "{}: {error}", expected.file);
        }
        let fitting =
            DecodeLimits { max_width_px: longest, max_height_px: longest, max_pixels: pixels, ..LIMITS };
        assert!(decode(&bytes, &fitting).is_ok(), "{}: limits are inclusive", expected.file);
    }
}

#[test]
fn memory_stays_within_the_limit_that_just_fits() {
    /// Tables and windows of the decoders, and copies of the small files; half of one picture.
    const OVERHEAD: u64 = 480_000;
    const PIXELS: u64 = 640 * 480;

    let mut failures = Vec::new();
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("large_"))
        .collect();
    files.sort();
    assert!(files.len() >= 17, "fixtures are missing");
    for name in files {
        let bytes = read(&name);
        let with = |per_pixel| {
            let limits = DecodeLimits { max_decoded_bytes: per_pixel * PIXELS, ..LIMITS };
            peak_bytes(|| decode(&bytes, &limits))
        };
        let smallest = (3..=24).find(|&per_pixel| with(per_pixel).0.is_ok()).expect(&name);
        let (result, peak) = with(smallest);
        assert_eq!(result.unwrap().pixels.rgb.len() as u64, 3 * PIXELS);
        let peak_per_pixel = peak as f64 / PIXELS as f64;
        println!("{name}: asks for {smallest} bytes a pixel, held {peak_per_pixel:.2}");
        if peak > smallest * PIXELS + OVERHEAD {
            failures.push(format!("{name}: asks for {smallest} bytes a pixel, held {peak_per_pixel:.2}"));
        }
        // And the file is not refused for memory that it does not need.
        if (smallest as f64) > peak_per_pixel * 2.0 + 1.0 {
            failures
                .push(format!("{name}: asks for {smallest} bytes a pixel, needs only {peak_per_pixel:.2}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What a decoder may hold that does not grow with the picture: a copy of the file, tables, windows.
fn slack(bytes: &[u8]) -> u64 {
    // A damaged WebP may claim a partition of up to 16 MiB (24 bits) before it turns out that the file does not hold it.
    let partition = if bytes.starts_with(b"RIFF") { 16 << 20 } else { 0 };
    500_000 + 2 * bytes.len() as u64 + partition
}

#[test]
fn compressed_text_and_profiles_cannot_fill_memory() {
    for name in ["bomb_text.png", "bomb_profile.png"] {
        let bytes = read(name);
        let (result, peak) = peak_bytes(|| decode(&bytes, &TIGHT));
        println!("{name}: {:?}, held {peak} bytes", result.as_ref().map(|decoded| decoded.format));
        assert!(peak < TIGHT.max_decoded_bytes + slack(&bytes), "{name}: held {peak} bytes");
    }
}

fn check_mutated(bytes: &[u8], name: &str) {
    let (result, peak) = peak_bytes(|| decode(bytes, &TIGHT));
    assert!(peak < TIGHT.max_decoded_bytes + slack(bytes), "{name}: held {peak} bytes");
    if let Ok(Decoded { pixels, .. }) = result {
        let count = u64::from(pixels.width_px) * u64::from(pixels.height_px);
        assert!(count > 0 && count <= TIGHT.max_pixels);
        assert_eq!(pixels.rgb.len() as u64, count * 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic_or_exceed_the_limits(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        header_edits in prop::collection::vec((0_usize..160, any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let all = expectations().decoded;
        let name = &pick.get(&all).file;
        let mut bytes = read(name);
        for (place, value) in edits {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        for (at, value) in header_edits {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check_mutated(&bytes, name);
    }

    #[test]
    fn no_noise_behind_a_signature_makes_it_panic(
        signature in prop::sample::select(vec![
            &b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"GIF89a",
            b"RIFF\x40\0\0\0WEBPVP8X", b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", b"",
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        check_mutated(&[signature, &noise].concat(), "noise");
    }
}
