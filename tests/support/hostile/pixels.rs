//! Hostile PNG, GIF, BMP and WebP files.

use super::File;
use super::bits::{Bits, Order, crc32, lzw_clears, lzw_zeros, zlib_zeros};

fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("fits a chunk").to_be_bytes();
    [&length[..], kind, body, &crc32(&[kind, body]).to_be_bytes()].concat()
}

/// A PNG of `depth` bits and colour type `color`, with `extra` chunks before its data.
fn png(size: (u32, u32), [depth, color, interlace]: [u8; 3], extra: &[u8], data: &[u8]) -> Vec<u8> {
    let mut header = size.0.to_be_bytes().to_vec();
    header.extend(size.1.to_be_bytes());
    header.extend([depth, color, 0, 0, interlace]);
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        extra.to_vec(),
        chunk(b"IDAT", data),
        chunk(b"IEND", b""),
    ]
    .concat()
}

const GRAY: [u8; 3] = [8, 0, 0];

pub fn png_files() -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(File { name: format!("png {name}"), bytes });
    let bomb = zlib_zeros(256 << 20);
    let small = zlib_zeros(16 * 17);
    let with = |extra: &[u8]| png((16, 16), GRAY, extra, &small);

    add("whole".to_owned(), with(b""));
    add("picture bomb in 256 pixels".to_owned(), png((16, 16), GRAY, b"", &bomb));
    add("picture bomb that is the largest picture".to_owned(), png((2000, 2000), GRAY, b"", &bomb));
    add("picture bomb of 16-bit RGBA, interlaced".to_owned(), png((1000, 1000), [16, 6, 1], b"", &bomb));
    for (kind, head) in
        [(b"iCCP", &b"p\0\0"[..]), (b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\x01\0\0\0")]
    {
        let one = chunk(kind, &[head, &bomb].concat());
        let name = String::from_utf8_lossy(kind).into_owned();
        add(format!("{name} bomb"), with(&one));
        add(format!("{name} bomb, 50 times"), with(&one.repeat(50)));
    }
    for (width, height) in super::SIZES {
        for form in [GRAY, [16, 6, 1], [1, 3, 0]] {
            add(format!("{width} x {height}, {form:?}"), png((width, height), form, b"", &small));
        }
    }
    for form in [[0, 0, 0], [3, 0, 0], [16, 3, 0], [8, 1, 0], [8, 7, 0], [255, 255, 255], [8, 0, 2]] {
        add(format!("form {form:?}"), png((16, 16), form, b"", &small));
    }
    add("200,000 empty texts".to_owned(), with(&chunk(b"tEXt", b"a\0").repeat(200_000)));
    add("200,000 empty unknown chunks".to_owned(), with(&chunk(b"zzZz", b"").repeat(200_000)));
    add("30,000 empty data chunks".to_owned(), with(&chunk(b"IDAT", b"").repeat(30_000)));
    add("200,000 empty data chunks".to_owned(), with(&chunk(b"IDAT", b"").repeat(200_000)));
    add("no palette".to_owned(), png((16, 16), [8, 3, 0], b"", &small));
    add("a palette of one".to_owned(), png((16, 16), [8, 3, 0], &chunk(b"PLTE", &[0; 3]), &small));
    for length in [0, 1, 2, 4, 5, 767, 768, 769, 771, 100_000] {
        let palette = chunk(b"PLTE", &vec![0; length]);
        for form in [GRAY, [8, 3, 0], [4, 3, 0], [8, 2, 0]] {
            add(format!("a palette of {length} bytes, {form:?}"), png((16, 16), form, &palette, &small));
        }
    }
    add("transparency of 1,000 colours".to_owned(), with(&chunk(b"tRNS", &[0; 1000])));
    let frames = [&u32::MAX.to_be_bytes()[..], &[0; 4]].concat();
    add("2^32 - 1 frames".to_owned(), with(&chunk(b"acTL", &frames)));
    let mut control = vec![0; 26];
    control[4..12].fill(0xFF);
    let animated = [chunk(b"acTL", &[0, 0, 0, 9, 0, 0, 0, 0]), chunk(b"fcTL", &control)].concat();
    add("a frame of 2^32 - 1 squared".to_owned(), with(&animated));
    // Stored blocks without a byte: input that never becomes output.
    let mut idle = vec![0x78, 0x01];
    (0..2_000_000).for_each(|_| idle.extend([0, 0, 0, 0xFF, 0xFF]));
    add("two million empty blocks".to_owned(), png((16, 16), GRAY, b"", &idle));
    for (name, exif) in
        [("leads to itself", super::jpeg::exif(1, 8, 8)), ("claims much", super::jpeg::exif(u32::MAX, 8, 0))]
    {
        add(format!("EXIF that {name}"), with(&chunk(b"eXIf", &exif)));
    }
    add("chunk of 2^31 bytes".to_owned(), {
        let mut bytes = with(b"");
        bytes[33..37].copy_from_slice(&(1_u32 << 31).to_be_bytes());
        bytes
    });
    files
}

fn sub_blocks(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in data.chunks(255) {
        bytes.push(u8::try_from(block.len()).expect("at most 255"));
        bytes.extend(block);
    }
    bytes.push(0);
    bytes
}

fn gif_head(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend(&width.to_le_bytes()[..2]);
    bytes.extend(&height.to_le_bytes()[..2]);
    // A palette of two.
    bytes.extend([0x80, 0, 0, 1, 2, 3, 4, 5, 6]);
    bytes
}

fn gif_frame(width: u32, height: u32, flags: u8, code_bits: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x2C, 0, 0, 0, 0];
    bytes.extend(&width.to_le_bytes()[..2]);
    bytes.extend(&height.to_le_bytes()[..2]);
    bytes.extend([flags, code_bits]);
    bytes.extend(sub_blocks(data));
    bytes
}

/// A whole picture of one colour.
pub fn gif_of_zeros(width: u32, height: u32) -> Vec<u8> {
    let data = lzw_zeros((width * height) as usize, Order::LowFirst);
    [&gif_head(width, height), &gif_frame(width, height, 0, 8, &data)[..], b"\x3b"].concat()
}

pub fn gif_files() -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(File { name: format!("gif {name}"), bytes });
    let bomb = lzw_zeros(64 << 20, Order::LowFirst);
    let small = lzw_zeros(256, Order::LowFirst);
    let with = |size: (u32, u32), frame: &[u8]| [&gif_head(size.0, size.1), frame, b"\x3b"].concat();

    add("whole".to_owned(), with((16, 16), &gif_frame(16, 16, 0, 8, &small)));
    add("bomb in 256 pixels".to_owned(), with((16, 16), &gif_frame(16, 16, 0, 8, &bomb)));
    add(
        "bomb that is the largest picture".to_owned(),
        with((2000, 2000), &gif_frame(2000, 2000, 0, 8, &bomb)),
    );
    add("interlaced bomb".to_owned(), with((2000, 2000), &gif_frame(2000, 2000, 0x40, 8, &bomb)));
    add("frame larger than the canvas".to_owned(), with((16, 16), &gif_frame(65_535, 65_535, 0, 8, &bomb)));
    add("frame smaller than the canvas".to_owned(), with((2000, 2000), &gif_frame(1, 1, 0, 8, &small)));
    for size in [(0, 0), (16, 0), (0, 16)] {
        add(format!("canvas of {size:?}"), with(size, &gif_frame(16, 16, 0, 8, &small)));
        add(format!("canvas of {size:?}, frame too"), with(size, &gif_frame(size.0, size.1, 0, 8, &small)));
    }
    add("frame of nothing".to_owned(), with((16, 16), &gif_frame(0, 0, 0, 8, &small)));
    for (width, height) in super::SIZES {
        add(
            format!("{} x {}", width & 0xFFFF, height & 0xFFFF),
            with((width, height), &gif_frame(width, height, 0, 8, &small)),
        );
    }
    let one = gif_frame(16, 16, 0, 8, &small);
    add("200,000 frames".to_owned(), with((16, 16), &one.repeat(200_000)));
    add("no trailer".to_owned(), [gif_head(16, 16), one.clone()].concat());
    add("200,000 frames, no trailer".to_owned(), [gif_head(16, 16), one.repeat(200_000)].concat());
    add(
        "a million extensions".to_owned(),
        with((16, 16), &[b"\x21\xF9\0".repeat(1_000_000), one.clone()].concat()),
    );
    add("extensions without end".to_owned(), [gif_head(16, 16), b"\x21\xFE\x01x".repeat(1_000_000)].concat());
    add("a comment of 10 MB".to_owned(), {
        let comment = [b"\x21\xFE".to_vec(), sub_blocks(&vec![b'x'; 10 << 20])].concat();
        with((16, 16), &[comment, one.clone()].concat())
    });
    add("10 MB of padding".to_owned(), with((16, 16), &[vec![0; 10 << 20], one.clone()].concat()));
    add("data of one-byte blocks".to_owned(), {
        let mut frame = gif_frame(16, 16, 0, 8, b"");
        frame.pop();
        small.iter().for_each(|byte| frame.extend([1, *byte]));
        frame.push(0);
        with((16, 16), &frame)
    });
    for code_bits in [0, 1, 9, 11, 12, 13, 255] {
        add(format!("codes of {code_bits} bits"), with((16, 16), &gif_frame(16, 16, 0, code_bits, &small)));
    }
    for (size, count) in [((16, 16), 4_000_000), ((2000, 2000), 7_000_000)] {
        let clears = lzw_clears(count, Order::LowFirst);
        add(
            format!("{count} clear codes in {size:?}"),
            with(size, &gif_frame(size.0, size.1, 0, 8, &clears)),
        );
    }
    let mut bare = gif_head(16, 16);
    bare[10] = 0;
    bare.truncate(13);
    add("no palette".to_owned(), [bare, one, b"\x3b".to_vec()].concat());
    files
}

/// A BMP with a header of 40 bytes: `size` may be negative, `place` is where pixels begin.
fn bmp(size: (i32, i32), bits: u16, compression: u32, colors: u32, place: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    bytes.extend(u32::try_from(54 + data.len()).expect("small").to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(place.to_le_bytes());
    bytes.extend(40_u32.to_le_bytes());
    bytes.extend(size.0.to_le_bytes());
    bytes.extend(size.1.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(compression.to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend(colors.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

pub fn bmp_files() -> Vec<File> {
    const RLE8: u32 = 1;
    const RLE4: u32 = 2;
    const FIELDS: u32 = 3;
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(File { name: format!("bmp {name}"), bytes });

    let palette = [0; 1024];
    for (bits, rle) in [(8, RLE8), (4, RLE4)] {
        for (name, step) in [
            ("runs", &b"\xFF\x01"[..]),
            ("ends of lines", b"\0\0"),
            ("jumps", b"\0\x02\xFF\xFF"),
            ("jumps of nothing", b"\0\x02\0\0"),
            ("runs of nothing", b"\0\xFF"),
            ("ends", b"\0\x01"),
        ] {
            for size in [(16, 16), (2000, 2000), (16, -16)] {
                let data = [&palette[..], &step.repeat(1_000_000)].concat();
                add(
                    format!("{name} of {bits} bits in {size:?}"),
                    bmp(size, bits, rle, 256, 54 + 1024, &data),
                );
            }
        }
    }
    for (width, height) in super::SIZES {
        for bits in [1, 8, 24, 32] {
            let size = (i32::from_le_bytes(width.to_le_bytes()), i32::from_le_bytes(height.to_le_bytes()));
            add(format!("{size:?} of {bits} bits"), bmp(size, bits, 0, 0, 54, &palette));
        }
    }
    add("height -2^31".to_owned(), bmp((1, i32::MIN), 24, 0, 0, 54, &palette));
    add("2^32 - 1 colours".to_owned(), bmp((16, 16), 8, 0, u32::MAX, 54, &palette));
    for place in [0, 1, 54, u32::MAX] {
        add(format!("pixels at {place}"), bmp((16, 16), 24, 0, 0, place, &palette));
    }
    for bits in [0, 2, 3, 16, 64, 65_535] {
        add(format!("{bits} bits"), bmp((16, 16), bits, 0, 0, 54, &palette));
    }
    for compression in [FIELDS, 4, 5, 6, u32::MAX] {
        for bits in [8, 16, 32] {
            add(
                format!("compression {compression}, {bits} bits"),
                bmp((16, 16), bits, compression, 0, 66, &palette),
            );
        }
    }
    add("channels of all bits".to_owned(), bmp((16, 16), 32, FIELDS, 0, 66, &[0xFF; 2000]));
    add("whole".to_owned(), bmp((16, 16), 24, 0, 0, 54, &palette));
    files
}

fn riff(chunks: &[u8]) -> Vec<u8> {
    let length = u32::try_from(chunks.len() + 4).expect("small").to_le_bytes();
    [b"RIFF", &length[..], b"WEBP", chunks].concat()
}

fn webp_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = [kind, &u32::try_from(body.len()).expect("small").to_le_bytes()[..], body].concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

/// A lossless stream's header; alpha is used.
fn lossless_head(width: u32, height: u32) -> Bits {
    let mut bits = Bits::new(Order::LowFirst);
    bits.put(0x2F, 8)
        .put(width.wrapping_sub(1) & 0x3FFF, 14)
        .put(height.wrapping_sub(1) & 0x3FFF, 14)
        .put(1, 1)
        .put(0, 3);
    bits
}

/// A code of one symbol below 256, which takes no bits.
fn single(bits: &mut Bits, symbol: u32) {
    bits.put(1, 1).put(0, 1).put(1, 1).put(symbol, 8);
}

/// A code of the lengths 1, 2, 3 … 10, 10: the smallest with a full table.
fn full_table(bits: &mut Bits) {
    // Lengths are written by a code of four bits each, for 0 to 15: 17, 18, 0, 1 … as the order goes.
    bits.put(0, 1).put(15, 4);
    for place in [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15_u32] {
        bits.put(if place < 16 { 4 } else { 0 }, 3);
    }
    // Eleven lengths are written, the other symbols do not occur.
    bits.put(1, 1).put(1, 3).put(9, 4);
    for length in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10_u32] {
        bits.put(length.reverse_bits() >> 28, 4);
    }
}

/// A lossless stream of one colour with 65,536 groups of codes.
fn groups(mut code: impl FnMut(&mut Bits), head: Option<(u32, u32)>) -> Vec<u8> {
    let mut bits = match head {
        Some((width, height)) => lossless_head(width, height),
        None => Bits::new(Order::LowFirst),
    };
    // No transform, no colour cache, groups by squares of 512 pixels: one pixel of red 255 and green 255.
    bits.put(0, 1).put(0, 1).put(1, 1).put(7, 3).put(0, 1);
    for symbol in [255, 255, 0, 0] {
        single(&mut bits, symbol);
    }
    bits.put(1, 1).put(0, 1).put(0, 1).put(0, 1);
    for _ in 0..65_536 * 5 {
        code(&mut bits);
    }
    bits.bytes()
}

/// A lossless stream of one colour, without any bits for its pixels.
fn uniform(width: u32, height: u32) -> Vec<u8> {
    let mut bits = lossless_head(width, height);
    bits.put(0, 1).put(0, 1).put(0, 1);
    (0..4).for_each(|_| single(&mut bits, 200));
    bits.put(1, 1).put(0, 1).put(0, 1).put(0, 1).put(0, 32);
    bits.bytes()
}

fn three(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

fn extended(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let body =
        [&[flags, 0, 0, 0][..], &three(width.wrapping_sub(1)), &three(height.wrapping_sub(1))].concat();
    webp_chunk(b"VP8X", &body)
}

fn animation_frame(width: u32, height: u32, chunks: &[u8]) -> Vec<u8> {
    let head = [&[0; 6][..], &three(width.wrapping_sub(1)), &three(height.wrapping_sub(1)), &[0; 4]].concat();
    webp_chunk(b"ANMF", &[&head[..], chunks].concat())
}

/// A lossy stream's header, and `data`.
fn lossy(width: u32, height: u32, first_partition: u32, data: &[u8]) -> Vec<u8> {
    let tag = three(first_partition << 5 | 1 << 4);
    let sizes = [&width.to_le_bytes()[..2], &height.to_le_bytes()[..2]].concat();
    [&tag[..], b"\x9d\x01\x2a", &sizes, data].concat()
}

pub fn webp_files() -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(File { name: format!("webp {name}"), bytes });
    let lossless = |data: &[u8]| riff(&webp_chunk(b"VP8L", data));

    add("of no bits, largest".to_owned(), lossless(&uniform(2000, 2000)));
    add("of no bits".to_owned(), lossless(&uniform(16, 16)));
    for (width, height) in
        super::SIZES.into_iter().chain([(16_384, 1), (1, 16_384), (16_384, 16_384), (16_383, 100)])
    {
        add(format!("lossless {width} x {height}"), lossless(&uniform(width, height)));
        add(
            format!("lossy {width} x {height}"),
            riff(&webp_chunk(b"VP8 ", &lossy(width, height, 20, &[0; 2000]))),
        );
        let inside = [extended(0x10, width, height), webp_chunk(b"VP8L", &uniform(width, height))].concat();
        add(format!("extended {width} x {height}"), riff(&inside));
    }
    let small_groups = groups(|bits| _ = bits.put(1, 1).put(0, 3), Some((16, 16)));
    add("65,536 groups of single codes".to_owned(), lossless(&small_groups));
    add("65,536 groups of full tables".to_owned(), lossless(&groups(full_table, Some((16, 16)))));
    let alpha = [&[1][..], &groups(full_table, None)].concat();
    let picture = webp_chunk(b"VP8 ", &lossy(16, 16, 20, &[0; 2000]));
    let behind = [extended(0x10, 16, 16), webp_chunk(b"ALPH", &alpha), picture.clone()].concat();
    add("65,536 groups of full tables in the alpha plane".to_owned(), riff(&behind));
    let clock = webp_chunk(b"ANIM", &[0; 6]);
    let framed =
        |chunks: &[u8]| [extended(0x12, 16, 16), clock.clone(), animation_frame(16, 16, chunks)].concat();
    add(
        "65,536 groups of full tables in a frame".to_owned(),
        riff(&framed(&webp_chunk(b"VP8L", &groups(full_table, Some((16, 16)))))),
    );
    add(
        "65,536 groups of full tables in a frame's alpha plane".to_owned(),
        riff(&framed(&[webp_chunk(b"ALPH", &alpha), picture].concat())),
    );
    let frame = animation_frame(16, 16, &webp_chunk(b"VP8L", &uniform(16, 16)));
    add(
        "100,000 frames".to_owned(),
        riff(&[extended(0x12, 16, 16), clock.clone(), frame.repeat(100_000)].concat()),
    );
    let large = animation_frame(1 << 24, 1 << 24, &webp_chunk(b"VP8L", &uniform(16, 16)));
    add("a frame larger than the canvas".to_owned(), riff(&[extended(0x12, 16, 16), clock, large].concat()));
    for partition in [0, 1, 2000, (1 << 19) - 1] {
        for partitions in [0x00, 0xFF] {
            let data = lossy(64, 64, partition, &[partitions; 2000]);
            add(
                format!("partition of {partition} among {partitions:#04x}"),
                riff(&webp_chunk(b"VP8 ", &data)),
            );
        }
    }
    add("200,000 unknown chunks".to_owned(), {
        let chunks = webp_chunk(b"abcd", b"").repeat(200_000);
        riff(&[extended(0x10, 16, 16), chunks, webp_chunk(b"VP8L", &uniform(16, 16))].concat())
    });
    let mut endless = lossless(&uniform(16, 16));
    endless[4..8].fill(0xFF);
    add("2^32 - 1 bytes by its own account".to_owned(), endless);
    let mut endless = lossless(&uniform(16, 16));
    endless[16..20].fill(0xFF);
    add("a chunk of 2^32 - 1 bytes".to_owned(), endless);
    for (name, exif) in
        [("leads to itself", super::jpeg::exif(1, 8, 8)), ("claims much", super::jpeg::exif(u32::MAX, 8, 0))]
    {
        let chunks =
            [extended(0x18, 16, 16), webp_chunk(b"VP8L", &uniform(16, 16)), webp_chunk(b"EXIF", &exif)];
        add(format!("EXIF that {name}"), riff(&chunks.concat()));
    }
    files
}
