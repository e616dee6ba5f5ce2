//! Files that are made to do harm, written by the programs beside this one; none was fetched from anywhere.

mod bits;
pub mod jpeg;
pub mod mutations;
pub mod pixels;
mod tiff;

/// A file, and what it tries.
pub struct File {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Sizes that no microscope makes: of nothing, of one row, and those whose product overflows.
const SIZES: [(u32, u32); 10] = [
    (0, 0),
    (0, 16),
    (16, 0),
    (1, u32::MAX),
    (u32::MAX, 1),
    (u32::MAX, u32::MAX),
    (65_535, 65_535),
    (65_536, 65_536),
    (1 << 31, 2),
    (i32::MAX as u32, i32::MAX as u32),
];

const MAGIC: [(&str, &[u8]); 9] = [
    ("jpeg", b"\xff\xd8\xff"),
    ("png", b"\x89PNG\r\n\x1a\n"),
    ("tiff", b"II*\0"),
    ("tiff of the other order", b"MM\0*"),
    ("bigtiff", b"II+\0"),
    ("gif", b"GIF89a"),
    ("webp", b"RIFF\x10\0\0\0WEBP"),
    ("webp of a chunk", b"RIFF\x10\0\0\0WEBPVP8L"),
    ("bmp", b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"),
];

/// All of them, a part at a time: the largest part is 150 MB.
pub const PARTS: [fn() -> Vec<File>; 7] = [
    of_no_format,
    jpeg::files,
    pixels::png_files,
    pixels::gif_files,
    pixels::bmp_files,
    pixels::webp_files,
    tiff::files,
];

/// Nothing, next to nothing, and one format behind the other's first bytes.
fn of_no_format() -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(File { name, bytes });
    add("empty".to_owned(), Vec::new());
    for byte in 0..=255 {
        add(format!("the byte {byte:#04x}"), vec![byte]);
    }
    for fill in [0, 0x20, 0xFF] {
        add(format!("a megabyte of {fill:#04x}"), vec![fill; 1 << 20]);
    }
    let whole = jpeg::flat(64, 64);
    for (name, magic) in MAGIC {
        for length in 1..=magic.len() {
            add(format!("the first {length} bytes of {name}"), magic[..length].to_vec());
        }
        for fill in [0, 0xFF] {
            add(format!("{name} and a megabyte of {fill:#04x}"), [magic, &vec![fill; 1 << 20]].concat());
        }
        add(format!("{name} before a jpeg"), [magic, &whole].concat());
        add(format!("{name} behind a jpeg"), [&whole, magic].concat());
        let mut over = whole.clone();
        over[..magic.len()].copy_from_slice(magic);
        add(format!("{name} over the head of a jpeg"), over);
    }
    for (name, head) in [("PDF", &b"%PDF-1.7\n"[..]), ("ZIP", b"PK\x03\x04"), ("web page", b"<html>")] {
        add(format!("{name} that is a jpeg"), [head, &whole].concat());
        add(format!("jpeg that is a {name}"), [&whole, head].concat());
    }
    files
}
