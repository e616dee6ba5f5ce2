//! How long each step of one image takes: decode, preprocess, infer, and all of it.
//!
//! ```text
//! cargo bench --bench stages
//! cargo bench --bench stages -- decode
//! ```
//!
//! The 12-megapixel JPEG is made at run time, so that none is committed. It never touches the network or a bucket.

use std::hint::black_box;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use giemsa::analysis::analyse_image;
use giemsa_config::Limits;
use giemsa_image::{DecodeLimits, decode, preprocess};
use giemsa_model::Model;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, RgbImage, imageops};

const FIELD_WIDTH_PX: u32 = 4000;
const FIELD_HEIGHT_PX: u32 = 3000;

/// What is measured on: the file, and how it is called.
struct Subject {
    name: &'static str,
    bytes: Vec<u8>,
}

fn stages(criterion: &mut Criterion) {
    let limits = DecodeLimits::of(&Limits::default());
    let model = sample_model();
    let crop =
        Subject { name: "crop_png", bytes: std::fs::read(sample_crop()).expect("the sample is there") };
    let field = Subject { name: "field_jpeg_12mp", bytes: field_jpeg(&crop.bytes) };
    let subjects = [crop, field];

    let mut group = criterion.benchmark_group("decode");
    for Subject { name, bytes } in &subjects {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(*name, |b| b.iter(|| decode(black_box(bytes), &limits)));
    }
    group.finish();

    let mut group = criterion.benchmark_group("preprocess");
    for Subject { name, bytes } in &subjects {
        let pixels = decode(bytes, &limits).expect("the subject is whole").pixels;
        group.throughput(Throughput::Elements(u64::from(pixels.width_px) * u64::from(pixels.height_px)));
        group.bench_function(*name, |b| b.iter(|| preprocess(black_box(&pixels), &model.metadata.input)));
    }
    group.finish();

    let pixels = decode(&subjects[0].bytes, &limits).expect("the subject is whole").pixels;
    let tensor = preprocess(&pixels, &model.metadata.input);
    criterion.bench_function("infer/thin_smear", |b| {
        // The copy of the tensor is within: the network takes its input by value.
        b.iter(|| model.network.run(black_box(tensor.clone())));
    });

    let mut group = criterion.benchmark_group("analyse_image");
    for Subject { name, bytes } in &subjects {
        group.throughput(Throughput::Elements(1));
        group.bench_function(*name, |b| b.iter(|| analyse_image(black_box(bytes), &model, &limits)));
    }
    group.finish();

    let file = model_file();
    criterion.bench_function("load_model/thin_smear", |b| b.iter(|| Model::load(black_box(&file))));
}

fn project_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn model_file() -> Vec<u8> {
    std::fs::read(project_file("models/thin-smear.onnx")).expect("the sample model is there")
}

fn sample_model() -> Arc<Model> {
    Model::load(&model_file()).expect("the sample model loads")
}

/// The first crop of the first slide.
fn sample_crop() -> PathBuf {
    let folder = project_file("sample-images/slide-001-healthy");
    let files = std::fs::read_dir(folder).expect("the folder is there").flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|e| e == "png")).min().expect("the folder holds a PNG")
}

/// The crop, again and again at pseudo-random places on light ground with some noise, as JPEG of quality 88.
fn field_jpeg(crop: &[u8]) -> Vec<u8> {
    let cell = decode(crop, &DecodeLimits::of(&Limits::default())).expect("the sample is whole").pixels;
    let cell = RgbImage::from_raw(cell.width_px, cell.height_px, cell.rgb).expect("sizes agree");
    let mut state = 1u32;
    let mut random = move |below: u32| {
        // The constants of Numerical Recipes; any generator will do here.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let mut field = RgbImage::new(FIELD_WIDTH_PX, FIELD_HEIGHT_PX);
    for pixel in field.pixels_mut() {
        pixel.0 = [(); 3].map(|()| 220 + random(10) as u8);
    }
    for _ in 0..700 {
        let (x, y) = (random(FIELD_WIDTH_PX), random(FIELD_HEIGHT_PX));
        imageops::overlay(&mut field, &cell, x.into(), y.into());
    }
    let mut file = Cursor::new(Vec::new());
    let mut encoder = JpegEncoder::new_with_quality(&mut file, 88);
    encoder
        .encode(&field, FIELD_WIDTH_PX, FIELD_HEIGHT_PX, ExtendedColorType::Rgb8)
        .expect("memory takes every byte");
    file.into_inner()
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(4));
    targets = stages
}
criterion_main!(benches);
