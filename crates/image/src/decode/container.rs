//! Sizes and completeness of PNG, GIF, WebP and BMP files, read from their structure without decoding.
//!
//! Each walk answers two questions before a decoder sees the file: how large a picture does it declare, and is
//! every byte there that it promises. Nothing is allocated and each walk ends at the latest with the file.

/// What is wrong with the structure of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The file ends before the picture does.
    EndsEarly,
    /// The file is whole, and of a kind that is not read.
    Unsupported(&'static str),
    /// What stands at byte `at` cannot be.
    Damaged { at: usize, what: &'static str },
}

/// What the structure of a file declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub width_px: u32,
    pub height_px: u32,
    /// Length of the file without what follows its end.
    pub end: usize,
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Fault> {
    let end = at.checked_add(N).ok_or(Fault::EndsEarly)?;
    let field = bytes.get(at..end).ok_or(Fault::EndsEarly)?;
    Ok(field.try_into().expect("the slice has N bytes"))
}

fn advance(bytes: &[u8], at: usize, length: u32) -> Result<usize, Fault> {
    let end =
        usize::try_from(length).ok().and_then(|length| at.checked_add(length)).ok_or(Fault::EndsEarly)?;
    if end > bytes.len() { Err(Fault::EndsEarly) } else { Ok(end) }
}

/// Walks the chunks of a PNG to its end chunk.
pub(super) fn walk_png(bytes: &[u8]) -> Result<Layout, Fault> {
    const LENGTH_AND_TYPE: usize = 8;
    const CHECKSUM: u32 = 4;
    /// Encoders write 4 KB and more into one, or a row; the decoder takes a twentieth of a millisecond even for an empty one.
    const MAX_CHUNKS: usize = 1 << 15;
    const MAX_PALETTE_BYTES: u32 = 3 * 256;

    if bytes_at::<4>(bytes, 12)? != *b"IHDR" {
        return Err(Fault::Damaged { at: 12, what: "its header chunk is missing" });
    }
    let width_px = u32::from_be_bytes(bytes_at(bytes, 16)?);
    let height_px = u32::from_be_bytes(bytes_at(bytes, 20)?);
    let (mut at, mut has_data) = (8, false);
    for _ in 0..MAX_CHUNKS {
        let length = u32::from_be_bytes(bytes_at(bytes, at)?);
        let kind: [u8; 4] = bytes_at(bytes, at + 4)?;
        if length > i32::MAX.unsigned_abs() || !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(Fault::Damaged { at, what: "a chunk is impossible" });
        }
        let end = advance(bytes, at + LENGTH_AND_TYPE, length + CHECKSUM)?;
        has_data |= kind == *b"IDAT";
        // The decoder takes its colours for whole and few, and panics if they are not.
        if kind == *b"PLTE" && (length == 0 || length % 3 != 0 || length > MAX_PALETTE_BYTES) {
            return Err(Fault::Damaged { at, what: "its palette is impossible" });
        }
        if kind == *b"IEND" {
            return if has_data {
                Ok(Layout { width_px, height_px, end })
            } else {
                Err(Fault::Damaged { at, what: "it holds no picture" })
            };
        }
        at = end;
    }
    Err(Fault::Damaged { at, what: "it has more chunks than any encoder writes" })
}

/// The content of the first chunk of this kind in a PNG whose chunks were walked, wherever it stands.
pub(super) fn find_png_chunk<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    let mut at = 8;
    loop {
        let length = u32::from_be_bytes(bytes_at(bytes, at).ok()?);
        let end = advance(bytes, at + 8, length).ok()?;
        if bytes.get(at + 4..at + 8)? == kind {
            return bytes.get(at + 8..end);
        }
        at = end + 4;
    }
}

/// Walks a GIF to the end of its first frame.
pub(super) fn walk_gif(bytes: &[u8]) -> Result<Layout, Fault> {
    const PALETTE_FLAG: u8 = 0x80;
    const SPARE_BYTES: u64 = 4096;

    /// Bytes of the palette that a flag byte announces.
    fn palette_bytes(flags: u8) -> u32 {
        if flags & PALETTE_FLAG == 0 { 0 } else { 3 << ((flags & 7) + 1) }
    }
    /// Passes a chain of sub-blocks and its terminator.
    fn pass_sub_blocks(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
        loop {
            let [length] = bytes_at(bytes, at)?;
            at = advance(bytes, at + 1, u32::from(length))?;
            if length == 0 {
                return Ok(at);
            }
        }
    }

    let width_px = u32::from(u16::from_le_bytes(bytes_at(bytes, 6)?));
    let height_px = u32::from(u16::from_le_bytes(bytes_at(bytes, 8)?));
    let [flags] = bytes_at(bytes, 10)?;
    let mut at = advance(bytes, 13, palette_bytes(flags))?;
    loop {
        let [introducer] = bytes_at(bytes, at)?;
        match introducer {
            0x21 => at = pass_sub_blocks(bytes, at + 2)?,
            0x2C => {
                let [flags] = bytes_at(bytes, at + 9)?;
                let data = advance(bytes, at + 10, palette_bytes(flags))?;
                // One byte of code size, then the compressed picture.
                let end = pass_sub_blocks(bytes, data + 1)?;
                // A code has at most 12 bits and gives a pixel at least; the rest is codes that give nothing.
                let frame = u64::from(u16::from_le_bytes(bytes_at(bytes, at + 5)?))
                    * u64::from(u16::from_le_bytes(bytes_at(bytes, at + 7)?));
                if (end - data) as u64 > 4 * frame + SPARE_BYTES {
                    return Err(Fault::Damaged {
                        at: data,
                        what: "it holds more data than its picture can take",
                    });
                }
                return Ok(Layout { width_px, height_px, end });
            }
            0x3B => return Err(Fault::Damaged { at, what: "it holds no picture" }),
            // Some writers pad between blocks.
            0x00 => at += 1,
            _ => return Err(Fault::Damaged { at, what: "a block is impossible" }),
        }
    }
}

/// Walks the chunks of a WebP; the size is the largest of the canvas and of what any stream in it declares.
pub(super) fn walk_webp(bytes: &[u8]) -> Result<Layout, Fault> {
    const HEADER: usize = 8;
    /// Position, size, duration and flags of one frame of an animation, before its own chunks.
    const FRAME_HEADER: usize = 16;

    let end = advance(bytes, HEADER, u32::from_le_bytes(bytes_at(bytes, 4)?))?;
    let file = &bytes[..end];
    let (mut width_px, mut height_px, mut has_picture) = (0, 0, false);
    let mut at = 12;
    while at < end {
        let kind: [u8; 4] = bytes_at(file, at)?;
        let length = u32::from_le_bytes(bytes_at(file, at + 4)?);
        let body = at + HEADER;
        let next = advance(file, body, length)?;
        // Fields are read inside the chunk only, so that a short chunk cannot borrow from the next.
        let chunk = &file[..next];
        let size = match &kind {
            b"VP8X" => {
                let [_, _, _, _, w0, w1, w2, h0, h1, h2] = bytes_at(chunk, body)?;
                Some((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1))
            }
            b"VP8 " => {
                has_picture = true;
                let [w0, w1, h0, h1] = bytes_at(chunk, body + 6)?;
                let pair = (u16::from_le_bytes([w0, w1]) & 0x3FFF, u16::from_le_bytes([h0, h1]) & 0x3FFF);
                Some((u32::from(pair.0), u32::from(pair.1)))
            }
            b"VP8L" => {
                has_picture = true;
                let field = u32::from_le_bytes(bytes_at(chunk, body + 1)?);
                Some(((field & 0x3FFF) + 1, (field >> 14 & 0x3FFF) + 1))
            }
            _ => None,
        };
        if let Some((width, height)) = size {
            (width_px, height_px) = (width.max(width_px), height.max(height_px));
        }
        if kind == *b"ANMF" {
            // Its chunks are walked like the rest: they lie inside the file and carry sizes of their own.
            at = body + FRAME_HEADER;
            if at > next {
                return Err(Fault::Damaged { at: body, what: "a frame is too short" });
            }
            continue;
        }
        // Chunks are padded to even length; the last may lack its padding.
        at = next + (length as usize & 1);
    }
    if has_picture {
        Ok(Layout { width_px, height_px, end })
    } else {
        Err(Fault::Damaged { at: end, what: "it holds no picture" })
    }
}

/// Reads the declared size of a BMP; its decoder itself refuses pixel data that is cut short, but for runs that end early.
pub(super) fn read_bmp(bytes: &[u8]) -> Result<Layout, Fault> {
    let (width, height) = match u32::from_le_bytes(bytes_at(bytes, 14)?) {
        12 => {
            let width = u16::from_le_bytes(bytes_at(bytes, 18)?);
            let height = u16::from_le_bytes(bytes_at(bytes, 20)?);
            (i32::from(width), i32::from(height))
        }
        _ => (i32::from_le_bytes(bytes_at(bytes, 18)?), i32::from_le_bytes(bytes_at(bytes, 22)?)),
    };
    if width <= 0 || height == 0 {
        return Err(Fault::Damaged { at: 18, what: "its size is impossible" });
    }
    let compression = if bytes_at(bytes, 14).map(u32::from_le_bytes)? < 40 {
        0
    } else {
        u32::from_le_bytes(bytes_at(bytes, 30)?)
    };
    if matches!(compression, 1 | 2) {
        walk_runs(bytes, compression == 2, height.unsigned_abs())?;
    }
    // A negative height says that the first row is the topmost.
    Ok(Layout { width_px: width.unsigned_abs(), height_px: height.unsigned_abs(), end: bytes.len() })
}

/// Walks run-length codes of 8 or 4 bits a pixel, which must reach the last row before they say that they end.
fn walk_runs(bytes: &[u8], is_four_bits: bool, height_px: u32) -> Result<(), Fault> {
    let mut at = u32::from_le_bytes(bytes_at(bytes, 10)?) as usize;
    let mut row = 0_u32;
    while row + 1 < height_px {
        let [count, value] = bytes_at(bytes, at)?;
        at += 2;
        match (count, value) {
            (0, 0) => row += 1,
            (0, 1) => {
                return Err(Fault::Unsupported("a BMP file whose run lengths end before its last row"));
            }
            (0, 2) => {
                let [_, down] = bytes_at(bytes, at)?;
                row = row.saturating_add(u32::from(down));
                at += 2;
            }
            (0, pixels) => {
                let pixels = usize::from(pixels);
                let length = if is_four_bits { pixels.div_ceil(2) } else { pixels };
                at += length.next_multiple_of(2);
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, body) in chunks {
            bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend(*kind);
            bytes.extend(*body);
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn a_png_ends_with_its_end_chunk() {
        let header = [0, 0, 0, 7, 0, 0, 0, 5, 8, 2, 0, 0, 0];
        let mut whole = png(&[(b"IHDR", &header), (b"IDAT", b"abc"), (b"IEND", b"")]);
        let end = whole.len();
        assert_eq!(walk_png(&whole), Ok(Layout { width_px: 7, height_px: 5, end }));
        for length in 8..end {
            assert_eq!(walk_png(&whole[..length]), Err(Fault::EndsEarly), "{length} bytes");
        }
        whole.extend(b"appended");
        assert_eq!(walk_png(&whole).unwrap().end, end);

        let empty = png(&[(b"IHDR", &header), (b"IEND", b"")]);
        assert!(matches!(walk_png(&empty), Err(Fault::Damaged { what: "it holds no picture", .. })));
    }

    #[test]
    fn a_png_that_would_harm_its_decoder_is_refused() {
        let header = [0, 0, 0, 7, 0, 0, 0, 5, 8, 3, 0, 0, 0];
        for (colors, is_possible) in
            [(0, false), (1, false), (3, true), (4, false), (768, true), (769, false), (771, false)]
        {
            let file =
                png(&[(b"IHDR", &header), (b"PLTE", &vec![0; colors]), (b"IDAT", b"abc"), (b"IEND", b"")]);
            assert_eq!(walk_png(&file).is_ok(), is_possible, "{colors} bytes");
        }
        let mut many = png(&[(b"IHDR", &header)]);
        (0..1 << 15).for_each(|_| many.extend(b"\0\0\0\0IDAT\0\0\0\0"));
        many.extend(b"\0\0\0\0IEND\0\0\0\0");
        assert!(matches!(
            walk_png(&many),
            Err(Fault::Damaged { what: "it has more chunks than any encoder writes", .. })
        ));
    }

    #[test]
    fn a_webp_declares_the_largest_of_its_sizes() {
        let mut stream = vec![0; 10];
        stream[6..].copy_from_slice(&[0x00, 0x10, 0x05, 0x00]);
        let mut body = b"WEBPVP8X\x0a\0\0\0\0\0\0\0\x03\0\0\x09\0\0VP8 \x0a\0\0\0".to_vec();
        body.extend(stream);
        let mut file = b"RIFF".to_vec();
        file.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        file.extend(body);
        let end = file.len();
        assert_eq!(walk_webp(&file), Ok(Layout { width_px: 4096, height_px: 10, end }));
        for length in 8..end {
            assert_eq!(walk_webp(&file[..length]), Err(Fault::EndsEarly), "{length} bytes");
        }
    }

    #[test]
    fn a_gif_holds_no_more_data_than_its_picture_can_take() {
        let file = |blocks: usize| {
            let mut file = b"GIF89a\x02\0\x02\0\0\0\0\x2c\0\0\0\0\x02\0\x02\0\0\x08".to_vec();
            (0..blocks).for_each(|_| file.extend([&[255][..], &[0; 255]].concat()));
            file.extend(b"\0\x3b");
            file
        };
        assert!(walk_gif(&file(16)).is_ok());
        let fault = walk_gif(&file(17));
        assert!(matches!(fault, Err(Fault::Damaged { at: 23, .. })), "{fault:?}");
    }

    #[test]
    fn a_gif_without_a_frame_is_refused() {
        let file = b"GIF89a\x02\0\x02\0\0\0\0\x21\xfe\x01x\0\x3b";
        assert!(matches!(walk_gif(file), Err(Fault::Damaged { at: 18, what: "it holds no picture" })));
    }

    #[test]
    fn runs_reach_the_last_row() {
        let codes = |codes: &[u8]| {
            let mut file = vec![0; 54];
            (file[10], file[14], file[18], file[22], file[30]) = (54, 40, 4, 3, 1);
            file.extend(codes);
            read_bmp(&file).map(|layout| layout.height_px)
        };
        assert_eq!(codes(&[4, 1, 0, 0, 4, 1, 0, 0, 4, 1, 0, 1]), Ok(3));
        // A step of two rows, and pixels one by one, padded.
        assert_eq!(codes(&[4, 1, 0, 2, 0, 2, 4, 1, 0, 1]), Ok(3));
        assert_eq!(codes(&[0, 3, 1, 2, 3, 0, 0, 0, 4, 1, 0, 0]), Ok(3));
        assert!(matches!(codes(&[4, 1, 0, 0, 4, 1, 0, 1]), Err(Fault::Unsupported(_))));
        assert_eq!(codes(&[4, 1, 0, 0]), Err(Fault::EndsEarly));
    }

    #[test]
    fn a_bmp_may_be_stored_from_the_top() {
        let mut file = vec![0; 54];
        file[14] = 40;
        file[18] = 9;
        file[22..26].copy_from_slice(&(-4_i32).to_le_bytes());
        assert_eq!(read_bmp(&file), Ok(Layout { width_px: 9, height_px: 4, end: 54 }));
        file[22..26].copy_from_slice(&0_i32.to_le_bytes());
        assert!(read_bmp(&file).is_err());
    }
}
