//! What is uploaded: keys that hurt, contents that all differ, in an order that depends on the seed only.

use std::collections::BTreeMap;

use md5::{Digest, Md5};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use giemsa_tests::running_stack::{files_below, project};

/// Uploaders at work; each key belongs to one, so that no two writes of a key overlap.
pub const UPLOADERS: usize = 8;

/// Of 100 uploads, those that are no image.
const BAD_PERCENT: f64 = 2.0;

/// Of 100 uploads, those that replace an earlier one.
const OVERWRITE_PERCENT: f64 = 25.0;

/// One upload.
#[derive(Clone)]
pub struct Upload {
    pub key: String,
    pub content: Vec<u8>,
}

/// All uploads, in the order in which an uploader sends its own.
pub struct Plan {
    pub uploads: Vec<Upload>,
}

impl Plan {
    pub fn new(seed: u64, count: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let samples = images();
        let mut uploads: Vec<Upload> = Vec::with_capacity(count);
        let mut keys: Vec<String> = Vec::new();
        for number in 0..count {
            let is_overwrite = !keys.is_empty() && random.random_bool(OVERWRITE_PERCENT / 100.0);
            let key = if is_overwrite {
                keys[random.random_range(0..keys.len())].clone()
            } else {
                keys.push(key_of(keys.len(), &mut random));
                keys[keys.len() - 1].clone()
            };
            let content = if random.random_bool(BAD_PERCENT / 100.0) || number < 4 {
                // The first four, so that the smallest run has one of each.
                bad_file(number, &samples)
            } else {
                varied(&samples[random.random_range(0..samples.len())], number)
            };
            uploads.push(Upload { key, content });
        }
        Self { uploads }
    }

    /// The uploads of one uploader, in order.
    pub fn of_uploader(&self, uploader: usize) -> Vec<Upload> {
        let mine = |key: &str| usize::from(Md5::digest(key.as_bytes())[0]) % UPLOADERS == uploader;
        self.uploads.iter().filter(|upload| mine(&upload.key)).cloned().collect()
    }

    /// The ETags of each key's contents, in the order of upload.
    pub fn etags(&self) -> BTreeMap<&str, Vec<String>> {
        let mut etags = BTreeMap::<&str, Vec<String>>::new();
        for upload in &self.uploads {
            etags.entry(&upload.key).or_default().push(etag_of(&upload.content));
        }
        etags
    }
}

/// The ETag of content that is uploaded in one piece.
pub fn etag_of(content: &[u8]) -> String {
    Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key of five folders, with whatever keys may hold.
fn key_of(number: usize, random: &mut ChaCha8Rng) -> String {
    let folders = [
        ["clinic north", "clinic+south", "Kliniğı 100%", "診療所"],
        ["2026-11", "date=2026-11-22", "a%2Fb", "..x"],
        ["patient & co", "patient (1)", "patient's", "patient~é"],
        ["slide 001", "slide+002", "slide%20003", "スライド 4"],
        ["fields", "cells #1", "cells?", "[cells]"],
    ];
    let folders = folders.map(|names| *names.choose(random).expect("there are names"));
    let names = ["cell", "cell a", "a+b", "50%", "赤血球", "it's ok", "x=y&z"];
    let name = names.choose(random).expect("there are names");
    format!("{}/{name} {number:05}.png", folders.join("/"))
}

/// The sample images that are PNG or JPEG files and can be decoded or not, as they are.
fn images() -> Vec<Vec<u8>> {
    let folder = project("sample-images");
    let files =
        files_below(&folder).into_iter().filter(|file| file.ends_with(".png") || file.ends_with(".jpg"));
    let contents = files.map(|file| std::fs::read(folder.join(file)).unwrap());
    let images: Vec<Vec<u8>> =
        contents.filter(|content| is_png(content) || content.starts_with(&[0xff, 0xd8])).collect();
    assert!(images.len() > 50, "{}", images.len());
    images
}

fn is_png(content: &[u8]) -> bool {
    content.starts_with(b"\x89PNG\r\n\x1a\n") && content.len() > 33
}

/// The same picture with another text in its metadata.
fn varied(image: &[u8], number: usize) -> Vec<u8> {
    let text = format!("upload {number}");
    if is_png(image) {
        let chunk = png_chunk(b"tEXt", format!("Comment\0{text}").as_bytes());
        // After the header, which is 8 bytes of signature and a chunk of 25.
        [&image[..33], &chunk, &image[33..]].concat()
    } else {
        let length = u16::try_from(text.len() + 2).unwrap().to_be_bytes();
        [&image[..2], &[0xff, 0xfe], &length, text.as_bytes(), &image[2..]].concat()
    }
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut sum = flate2::Crc::new();
    sum.update(kind);
    sum.update(data);
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&length, &kind[..], data, &sum.sum().to_be_bytes()].concat()
}

/// A truncated JPEG, a text, a bomb, or nothing at all.
fn bad_file(number: usize, samples: &[Vec<u8>]) -> Vec<u8> {
    match number % 4 {
        0 => {
            let jpeg = samples.iter().find(|image| !is_png(image)).expect("a JPEG among the samples");
            let mut jpeg = varied(jpeg, number);
            jpeg.truncate(jpeg.len() * 2 / 3);
            jpeg
        }
        1 => format!("not an image, number {number}\n").into_bytes(),
        2 => {
            let side = 50_000_u32.to_be_bytes();
            let header = png_chunk(b"IHDR", &[&side[..], &side, &[8, 2, 0, 0, 0]].concat());
            let text = png_chunk(b"tEXt", format!("Comment\0{number}").as_bytes());
            [
                b"\x89PNG\r\n\x1a\n",
                &header[..],
                &text,
                &png_chunk(b"IDAT", &[0; 64]),
                &png_chunk(b"IEND", b""),
            ]
            .concat()
        }
        _ => Vec::new(),
    }
}
