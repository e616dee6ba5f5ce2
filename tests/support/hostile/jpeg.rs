//! Hostile JPEG files.

use super::File;
use super::bits::{Bits, Order};

/// One Huffman table: a DC code of two symbols, 0 (bit 0) and 5 (bits 10).
pub const HUFFMAN_TABLE: [u8; 23] =
    [0xFF, 0xC4, 0, 21, 0x00, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
/// An AC code: end of block (bit 0), and end of a run of 2^14 blocks and more (bits 10).
const AC_TABLE: [u8; 23] =
    [0xFF, 0xC4, 0, 21, 0x10, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0xE0];

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 2).expect("fits a segment");
    [&[0xFF, marker], &length.to_be_bytes()[..], body].concat()
}

fn quantization() -> Vec<u8> {
    segment(0xDB, &[&[0][..], &[1; 64]].concat())
}

/// A frame header; each component is its sampling factors.
fn frame(marker: u8, width: u32, height: u32, components: &[u8]) -> Vec<u8> {
    let mut body = vec![8];
    body.extend(u16::try_from(height & 0xFFFF).expect("16 bits").to_be_bytes());
    body.extend(u16::try_from(width & 0xFFFF).expect("16 bits").to_be_bytes());
    body.push(u8::try_from(components.len()).expect("few"));
    for (id, factors) in (1..=255).zip(components) {
        body.extend([id, *factors, 0]);
    }
    segment(marker, &body)
}

fn head(marker: u8, width: u32, height: u32, components: &[u8]) -> Vec<u8> {
    [&[0xFF, 0xD8][..], &quantization(), &HUFFMAN_TABLE, &AC_TABLE, &frame(marker, width, height, components)]
        .concat()
}

fn scan(components: &[u8], band: [u8; 3], data: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::try_from(components.len()).expect("few")];
    components.iter().for_each(|id| body.extend([*id, 0]));
    body.extend(band);
    [&segment(0xDA, &body), data].concat()
}

const SEQUENTIAL: [u8; 3] = [0, 63, 0];
const END: [u8; 2] = [0xFF, 0xD9];

/// A whole gray picture of one value: two bits a block.
pub fn flat(width: u32, height: u32) -> Vec<u8> {
    let blocks = width.div_ceil(8) * height.div_ceil(8);
    let data = vec![0; (blocks as usize * 2).div_ceil(8)];
    [&head(0xC0, width, height, &[0x11]), &scan(&[1], SEQUENTIAL, &data)[..], &END].concat()
}

/// A progressive picture of one value with `scans` scans after the first; its sides are in blocks.
pub fn progressive((across, down): (u32, u32), components: u8, scans: usize) -> Vec<u8> {
    let blocks = (across * down) as usize;
    let ids: Vec<u8> = (1..=components).collect();
    let mut bytes = head(0xC2, across * 8, down * 8, &vec![0x11; ids.len()]);
    bytes.extend(scan(&ids, [0, 0, 0x0D], &vec![0; (blocks * ids.len()).div_ceil(8)]));
    let runs = ends_of_bands(blocks);
    ids.iter().cycle().take(scans).for_each(|id| bytes.extend(scan(&[*id], [1, 63, 0], &runs)));
    bytes.extend(END);
    bytes
}

/// The data of a scan in which no block holds anything.
fn ends_of_bands(blocks: usize) -> Vec<u8> {
    // 16,384 + 16,383 blocks at the end of a band, again and again.
    let mut runs = Bits::new(Order::HighFirst);
    for _ in 0..blocks.div_ceil(32_767) {
        runs.put(0b10, 2).put((1 << 14) - 1, 14);
    }
    // Stuffed, where eight ones meet.
    runs.bytes().iter().flat_map(|&b| if b == 0xFF { vec![b, 0] } else { vec![b] }).collect()
}

/// A complete progressive picture of one value, each coefficient refined twice; its sides are in blocks.
pub fn whole_progressive((across, down): (u32, u32), components: u8) -> Vec<u8> {
    const PASSES: [u8; 3] = [0x02, 0x21, 0x10];
    let blocks = (across * down) as usize;
    let ids: Vec<u8> = (1..=components).collect();
    let mut bytes = head(0xC2, across * 8, down * 8, &vec![0x11; ids.len()]);
    for pass in PASSES {
        bytes.extend(scan(&ids, [0, 0, pass], &vec![0; (blocks * ids.len()).div_ceil(8)]));
    }
    let runs = ends_of_bands(blocks);
    for pass in PASSES {
        ids.iter().for_each(|id| bytes.extend(scan(&[*id], [1, 63, pass], &runs)));
    }
    bytes.extend(END);
    bytes
}

/// A picture of blocks with a restart marker behind each; `interval` is what the header says.
fn restarts(interval: Option<u16>) -> Vec<u8> {
    let mut bytes = head(0xC0, 2048, 2048, &[0x11]);
    if let Some(interval) = interval {
        bytes.extend(segment(0xDD, &interval.to_be_bytes()));
    }
    bytes.extend(scan(&[1], SEQUENTIAL, b""));
    for block in 0..65_536_u32 {
        bytes.push(0x3F);
        if block < 65_535 {
            bytes.extend([0xFF, 0xD0 + u8::try_from(block % 8).expect("below 8")]);
        }
    }
    bytes.extend(END);
    bytes
}

/// EXIF whose directory leads to `next` and holds an orientation of `count` values at `value`.
pub fn exif(count: u32, value: u32, next: u32) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0\x02\0".to_vec();
    for tag in [274_u16, 34_665] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(4_u16.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(next.to_le_bytes());
    bytes
}

pub fn files() -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(File { name: format!("jpeg {name}"), bytes });
    let picture = flat(64, 64);
    let insert = |at: usize, extra: &[u8]| [&picture[..at], extra, &picture[at..]].concat();

    add("flat, largest".to_owned(), flat(2000, 2000));
    for (width, height) in super::SIZES {
        for marker in [0xC0, 0xC2] {
            let bytes =
                [head(marker, width, height, &[0x11]), scan(&[1], SEQUENTIAL, &[0; 64]), END.to_vec()]
                    .concat();
            add(format!("{width} x {height}, frame {marker:#04x}"), bytes);
        }
    }
    add("65,535 restart markers, as announced".to_owned(), restarts(Some(1)));
    for interval in [None, Some(0), Some(2), Some(65_535)] {
        add(format!("65,535 restart markers where the interval is {interval:?}"), restarts(interval));
    }
    add("nothing but restart markers".to_owned(), {
        let mut bytes = head(0xC0, 2048, 2048, &[0x11]);
        bytes.extend(scan(&[1], SEQUENTIAL, b""));
        (0..65_535_u32).for_each(|i| bytes.extend([0xFF, 0xD0 + u8::try_from(i % 8).expect("below 8")]));
        [bytes, END.to_vec()].concat()
    });
    let interval: Vec<u8> = (0..=u16::MAX).flat_map(|i| segment(0xDD, &i.to_be_bytes())).collect();
    add("65,536 restart intervals".to_owned(), insert(2, &interval));
    add("restart interval without a value".to_owned(), insert(2, &segment(0xDD, b"")));
    add("1,000 Huffman tables".to_owned(), insert(2, &HUFFMAN_TABLE.repeat(1000)));
    add("100,000 Huffman tables".to_owned(), insert(2, &HUFFMAN_TABLE.repeat(100_000)));
    add("100,000 quantisation tables".to_owned(), insert(2, &quantization().repeat(100_000)));
    add("10 MB of fill bytes".to_owned(), insert(2, &vec![0xFF; 10 << 20]));
    add("10 MB of fill bytes in the scan".to_owned(), insert(picture.len() - 8, &vec![0xFF; 10 << 20]));
    add(
        "10 MB of fill bytes at the end".to_owned(),
        [&picture[..picture.len() - 2], &vec![0xFF; 10 << 20]].concat(),
    );
    add("10 MB of stuffed zeros".to_owned(), insert(2, &[0xFF, 0].repeat(5 << 20)));
    add("200 comments of 64 KB".to_owned(), insert(2, &segment(0xFE, &vec![b'x'; 65_533]).repeat(200)));
    add("a million empty comments".to_owned(), insert(2, &segment(0xFE, b"").repeat(1_000_000)));

    for scans in [1, 99, 100, 5000] {
        for components in [1, 3, 4] {
            let bytes = progressive((250, 250), components, scans);
            add(format!("progressive, {components} channels, {scans} scans after the first"), bytes);
        }
    }
    add("5,000 scans".to_owned(), {
        let one = scan(&[1], SEQUENTIAL, &[0; 16]);
        [head(0xC0, 64, 64, &[0x11]), one.repeat(5000), END.to_vec()].concat()
    });
    add(
        "refined before it is there".to_owned(),
        [head(0xC2, 64, 64, &[0x11]), scan(&[1], [1, 63, 0x10], &[0; 64]), END.to_vec()].concat(),
    );
    for factors in
        [&[0x44, 0x11, 0x11][..], &[0x11, 0x44, 0x44], &[0x41, 0x14, 0x11], &[0x00, 0x11, 0x11], &[0xFF; 4]]
    {
        for size in [16, 2000, 65_500] {
            let ids: Vec<u8> = (1..=u8::try_from(factors.len()).expect("few")).collect();
            let data = vec![0; 1 << 20];
            let bytes =
                [head(0xC0, size, size, factors), scan(&ids, SEQUENTIAL, &data), END.to_vec()].concat();
            add(format!("sampling factors {factors:x?} at {size}"), bytes);
        }
    }
    add("255 components".to_owned(), [head(0xC0, 16, 16, &[0x11; 255]), END.to_vec()].concat());
    add("two frames".to_owned(), insert(2, &frame(0xC0, 8, 8, &[0x11])));
    add("a second image inside".to_owned(), insert(2, &picture));
    add("scan before the frame".to_owned(), insert(2, &scan(&[1], SEQUENTIAL, &[0; 16])));
    add("no end".to_owned(), picture[..picture.len() - 2].to_vec());
    add("a table of 16-bit codes only".to_owned(), {
        let mut body = vec![0x00; 17];
        body[16] = 255;
        body.extend(0..255);
        insert(2, &segment(0xC4, &body))
    });
    add("a table with more codes than there are".to_owned(), {
        let mut body = vec![0x00; 17];
        body[1] = 200;
        body.extend(0..200);
        insert(2, &segment(0xC4, &body))
    });
    for (name, exif) in [
        ("leads to itself", exif(1, 8, 8)),
        ("claims 2^32 - 1 orientations", exif(u32::MAX, 8, 0)),
        ("lies beyond the end", exif(9, u32::MAX, u32::MAX)),
    ] {
        let body = [b"Exif\0\0", &exif[..]].concat();
        add(format!("EXIF that {name}"), insert(2, &segment(0xE1, &body)));
        add(format!("EXIF that {name}, 1,000 times"), insert(2, &segment(0xE1, &body).repeat(1000)));
    }
    let profile =
        |index: u8, count: u8| segment(0xE2, &[b"ICC_PROFILE\0", &[index, count][..], &[0; 60_000]].concat());
    add(
        "a profile of 255 parts".to_owned(),
        insert(2, &(1..=255).flat_map(|i| profile(i, 255)).collect::<Vec<u8>>()),
    );
    add("a profile of part 255 of 1".to_owned(), insert(2, &profile(255, 1)));
    files
}
