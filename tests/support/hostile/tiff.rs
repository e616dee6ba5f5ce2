//! Hostile TIFF and BigTIFF files.

use super::File;
use super::bits::{Order, lzw_clears, lzw_zeros, zlib_zeros, zstd_zeros};

const SHORT: u16 = 3;
const LONG: u16 = 4;

/// An entry: tag, type, count, and the value or its place.
type Entry = (u16, u16, u32, u32);

/// A little-endian file: header, then `data` at byte 8, then one directory whose successor is at `next`.
fn tiff(data: &[u8], entries: &[Entry], next: u32) -> Vec<u8> {
    let mut bytes = b"II*\0".to_vec();
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(2), 0);
    bytes.extend((8 + data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(next.to_le_bytes());
    bytes
}

/// Entries of a gray page in one strip at byte 8.
fn gray(width: u32, height: u32, compression: u32, strip_bytes: u32) -> Vec<Entry> {
    vec![
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 1, 8),
        (259, SHORT, 1, compression),
        (262, SHORT, 1, 1),
        (273, LONG, 1, 8),
        (277, SHORT, 1, 1),
        (278, LONG, 1, height),
        (279, LONG, 1, strip_bytes),
    ]
}

fn strip(width: u32, height: u32, compression: u32, data: &[u8]) -> Vec<u8> {
    tiff(data, &gray(width, height, compression, data.len() as u32), 0)
}

/// Entries as [`gray`], with those of `changes` instead of their namesakes.
fn changed(mut entries: Vec<Entry>, changes: &[Entry]) -> Vec<Entry> {
    entries.retain(|entry| changes.iter().all(|change| change.0 != entry.0));
    entries.extend(changes);
    entries.sort_unstable();
    entries
}

/// A page of tiles, all of which are the same bytes.
fn tiled(page: (u32, u32), tile: (u32, u32), compression: u32, data: &[u8], tables: &[u8]) -> Vec<u8> {
    let tiles = page.0.div_ceil(tile.0) * page.1.div_ceil(tile.1);
    let mut body = data.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let offsets = 8 + body.len() as u32;
    (0..tiles).for_each(|_| body.extend(8_u32.to_le_bytes()));
    let lengths = 8 + body.len() as u32;
    (0..tiles).for_each(|_| body.extend((data.len() as u32).to_le_bytes()));
    let tables_at = 8 + body.len() as u32;
    body.extend(tables);
    // One value stands in the entry itself.
    let place = |at, value| if tiles == 1 { value } else { at };
    let mut entries = gray(page.0, page.1, compression, 0);
    entries.retain(|entry| !matches!(entry.0, 273 | 278 | 279));
    entries.extend([
        (322, LONG, 1, tile.0),
        (323, LONG, 1, tile.1),
        (324, LONG, tiles, place(offsets, 8)),
        (325, LONG, tiles, place(lengths, data.len() as u32)),
    ]);
    if !tables.is_empty() {
        entries.push((347, 7, tables.len() as u32, tables_at));
    }
    entries.sort_unstable();
    tiff(&body, &entries, 0)
}

const DEFLATE: u32 = 8;
const LZW: u32 = 5;
const PACKBITS: u32 = 32_773;
const JPEG: u32 = 7;
const ZSTD: u32 = 50_000;

pub fn files() -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(File { name: format!("tiff {name}"), bytes });

    let packed = b"\x81\0".repeat(2 << 20);
    for (name, compression, data) in [
        ("deflate", DEFLATE, zlib_zeros(256 << 20)),
        ("LZW", LZW, lzw_zeros(64 << 20, Order::HighFirst)),
        ("PackBits", PACKBITS, packed),
        ("ZSTD", ZSTD, zstd_zeros(256 << 20)),
    ] {
        add(format!("{name} bomb in a page of 100 pixels"), strip(10, 10, compression, &data));
        add(format!("{name} bomb that is a page"), strip(2000, 2000, compression, &data));
        add(format!("{name} bomb beyond the limit"), strip(60_000, 60_000, compression, &data));
        add(
            format!("{name} tiles far wider than the page"),
            tiled((1, 20_000), (20_000, 16), compression, &data, b""),
        );
        add(format!("{name} tiles of one pixel"), tiled((400, 400), (1, 1), compression, &data[..40], b""));
    }
    for side in [10, 2000] {
        let clears = lzw_clears(4_000_000, Order::HighFirst);
        add(format!("4 million clear codes, {side} px"), strip(side, side, LZW, &clears));
    }
    for compression in [2, 3, 4, 6, 32_946, 34_712, ZSTD, 65_535] {
        for fill in [0x00, 0xFF, 0x55] {
            let bytes = strip(2000, 2000, compression, &vec![fill; 5000]);
            add(format!("compression {compression} of bytes {fill:#04x}"), bytes);
            let entries = changed(gray(2000, 2000, compression, 5000), &[(258, SHORT, 1, 1)]);
            let bytes = tiff(&vec![fill; 5000], &entries, 0);
            add(format!("compression {compression} of bytes {fill:#04x}, one bit a pixel"), bytes);
        }
    }

    for (width, height) in super::SIZES {
        add(format!("{width} x {height}"), strip(width, height, 1, &[0; 100]));
        add(
            format!("tile {width} x {height}"),
            tiled((10, 10), (width.max(11), height.max(11)), 1, &[0; 100], b""),
        );
    }

    // Directories that lead back.
    let whole = strip(4, 4, 1, &[0; 16]);
    let first = 8 + 16;
    for (name, next) in
        [("itself", first), ("the header", 0), ("the data", 8), ("beyond the end", u32::MAX - 1)]
    {
        add(format!("next directory is {name}"), tiff(&[0; 16], &gray(4, 4, 1, 16), next));
        for tag in [330, 34_665, 34_853, 40_965] {
            let entries = changed(gray(4, 4, 1, 16), &[(tag, LONG, 1, next)]);
            add(format!("sub-directory {tag} is {name}"), tiff(&[0; 16], &entries, first));
        }
    }
    let mut chain = whole.clone();
    let end = chain.len() - 4;
    let start = chain.len() as u32;
    chain[end..].copy_from_slice(&start.to_le_bytes());
    for link in 1..=100_000_u32 {
        chain.extend([0, 0]);
        chain.extend((start + link * 6).to_le_bytes());
    }
    add("100,000 directories in a chain".to_owned(), chain.clone());
    // The last leads back to the first of the chain, and to where reading begins.
    let end = chain.len() - 4;
    chain[end..].copy_from_slice(&start.to_le_bytes());
    add("100,000 directories in a circle".to_owned(), chain.clone());
    chain[4..8].copy_from_slice(&start.to_le_bytes());
    add("100,000 empty directories in a circle".to_owned(), chain);

    // Every tag that a decoder may look at, with every claim.
    for tag in [
        254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 281, 284, 293, 317, 320, 322, 323,
        324, 325, 332, 338, 339, 340, 341, 347, 529, 530, 532, 34_675, 50_838, 50_839,
    ] {
        for (name, kind, count, value) in [
            ("2^32 - 1 values", LONG, u32::MAX, 8),
            ("2^32 - 1 bytes at the end", 7, u32::MAX, u32::MAX),
            ("a value beyond the end", LONG, 2, u32::MAX - 4),
            ("no value", LONG, 0, 0),
            ("the value 0", LONG, 1, 0),
            ("the value 2^32 - 1", LONG, 1, u32::MAX),
            ("16 values", SHORT, 16, 8),
            ("the type 0", 0, 1, 1),
            ("the type 65535", 65_535, 1, 1),
            ("text", 2, 20, 8),
            ("fractions", 5, 3, 8),
            ("doubles", 12, 3, 8),
            ("eight-byte numbers", 16, 2, 8),
        ] {
            let entries = changed(gray(4, 4, 1, 16), &[(tag, kind, count, value)]);
            add(format!("tag {tag} with {name}"), tiff(&[0; 64], &entries, 0));
        }
    }

    // Strips that overlap: each row is the same bytes, and so is each page.
    let rows = 4000_u32;
    let mut body = vec![0; 1000];
    (0..rows).for_each(|_| body.extend(8_u32.to_le_bytes()));
    (0..rows).for_each(|_| body.extend(1000_u32.to_le_bytes()));
    let strips = [(273, LONG, rows, 1008), (278, LONG, 1, 1), (279, LONG, rows, 1008 + 4 * rows)];
    add("4,000 strips at one place".to_owned(), tiff(&body, &changed(gray(1000, rows, 1, 0), &strips), 0));
    let many = (1 << 18) + 1;
    let strips = [(273, LONG, many, 8), (278, LONG, 1, 1), (279, LONG, many, 8)];
    let body = vec![8; 4 * many as usize];
    add("262,145 strips".to_owned(), tiff(&body, &changed(gray(10, 10, 1, 0), &strips), 0));
    for samples in [0, 2, 5, 255, 65_535] {
        let entries = changed(gray(100, 100, 1, 100), &[(277, SHORT, 1, samples)]);
        add(format!("{samples} samples a pixel"), tiff(&[0; 100], &entries, 0));
    }

    // Channels as pages: a page that is its own successor, and descriptions that no program writes.
    let page = changed(gray(4, 4, 1, 16), &[(270, 2, 60, 24)]);
    let text = b"ImageJ=1.54f\nimages=3\nchannels=3\nmode=composite\nloop=false\n\0";
    let body = [&[0; 16], &text[..]].concat();
    let own = 8 + body.len().next_multiple_of(2) as u32;
    add("three channels that are one page".to_owned(), tiff(&body, &page, own));
    add("three channels of which two are missing".to_owned(), tiff(&body, &page, 0));
    for (name, text) in [
        (
            "a million elements",
            b"<OME><Pixels SizeC='3'>".iter().chain(b"<Channel/>".repeat(1 << 20).iter()).copied().collect(),
        ),
        ("a million attributes", [&b"<OME><Pixels "[..], &b"a='b' ".repeat(1 << 20), b">"].concat()),
        ("a million open quotes", [&b"<OME><Pixels SizeC="[..], &b"'".repeat(1 << 20)].concat()),
        ("a million channels", [&b"ImageJ="[..], &b"channels=3\n".repeat(1 << 20)].concat()),
    ] {
        let text: Vec<u8> = text;
        let entries = changed(gray(4, 4, 1, 16), &[(270, 2, text.len() as u32, 24)]);
        add(format!("description of {name}"), tiff(&[&[0; 16], &text[..]].concat(), &entries, 0));
    }
    for (name, bits, format, compression) in
        [("doubles", 64, 3, 1), ("halves", 16, 3, 1), ("samples of 3 bits", 3, 1, LZW), ("ints", 32, 2, ZSTD)]
    {
        let entries = changed(
            gray(2000, 2000, compression, 5000),
            &[(258, SHORT, 1, bits), (339, SHORT, 1, format), (317, SHORT, 1, 2), (266, SHORT, 1, 2)],
        );
        add(format!("4 million {name} in 5,000 bytes"), tiff(&[0x55; 5000], &entries, 0));
    }

    let gray_jpeg = super::jpeg::flat(16, 16);
    add("compressed as JPEG, 62,500 tiles".to_owned(), tiled((4000, 4000), (16, 16), JPEG, &gray_jpeg, b""));
    let mut tables = vec![0xFF, 0xD8];
    (0..9000).for_each(|_| tables.extend(super::jpeg::HUFFMAN_TABLE));
    tables.extend([0xFF, 0xD9]);
    add(
        "9,000 tables for each of 62,500 tiles".to_owned(),
        tiled((4000, 4000), (16, 16), JPEG, &gray_jpeg, &tables),
    );
    tables.truncate(4000);
    tables.extend([0xFF, 0xD9]);
    add(
        "4,000 bytes of tables for each of 62,500 tiles".to_owned(),
        tiled((4000, 4000), (16, 16), JPEG, &gray_jpeg, &tables),
    );
    let large = super::jpeg::flat(4000, 4000);
    add("tile of JPEG larger than it says".to_owned(), tiled((16, 16), (16, 16), JPEG, &large, b""));

    // BigTIFF: counts and places of 64 bits.
    for count in [0, 1, u64::from(u32::MAX), u64::MAX] {
        let mut bytes = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0".to_vec();
        bytes.extend(count.to_le_bytes());
        let repeated: Vec<u8> = [256_u16, 16].iter().flat_map(|v| v.to_le_bytes()).collect();
        for _ in 0..1000 {
            bytes.extend(&repeated);
            bytes.extend(u64::MAX.to_le_bytes());
            bytes.extend(u64::MAX.to_le_bytes());
        }
        add(format!("BigTIFF with {count} entries"), bytes);
    }
    let mut bytes = b"II+\0\x08\0\0\0".to_vec();
    bytes.extend((u64::MAX - 3).to_le_bytes());
    add("BigTIFF whose directory is at 2^64 - 4".to_owned(), bytes);
    let mut entries = gray(4, 4, 1, 16);
    entries.extend((1000..60_000).map(|tag| (tag, LONG, 1, 1)));
    add("59,000 entries".to_owned(), tiff(&[0; 16], &entries, 0));
    files
}
