//! Which slides and files there are, under which names, and what is true of each of them.
//!
//! It keeps one invariant: `expected.csv` has one row for every file of the folder, itself included.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cell::{Cell, CellKind, Look, draw_cell};
use super::files::{Container, cut_short, heic, large_png, pack, pdf, quick_png};
use super::outliers::{OutlierKind, draw_outlier};

/// Seeds of the samples and of the training renders never meet: they start in different families.
const SAMPLES: u64 = 0x5341_4D50_4C45_5300;
const TRAINING: u64 = 0x5452_4149_4E00_0000;

/// The first number of the samples that are no cell, far from those of the slides.
const NOT_A_CELL: u64 = 60;

/// Cells of one slide among the training renders.
const CELLS_PER_LOOK: u64 = 12;

/// What must come out for a file.
enum Truth {
    Classified(CellKind),
    Doubted,
    Rejected(&'static str),
}

impl Truth {
    /// The row's columns after the path: status, label, reject code, whether review is needed.
    /// Nothing in the last one means that either will do, as no label means any.
    fn columns(&self) -> String {
        match self {
            Self::Classified(kind) => format!("classified,{},,", kind.label()),
            Self::Doubted => "classified,,,yes".into(),
            Self::Rejected(code) => format!("rejected,,{code},"),
        }
    }
}

/// A file of the folder of samples.
pub struct SampleFile {
    /// Where it lies in the folder.
    pub path: String,
    /// What it holds.
    pub bytes: Vec<u8>,
    truth: Truth,
}

/// Writes the whole folder of samples with its `expected.csv`, and tells how many files that were.
///
/// # Errors
/// If a file cannot be written or packed.
pub fn write_samples(folder: &Path) -> Result<usize> {
    let mut files = Vec::new();
    files.extend(healthy_slide()?);
    files.extend(falciparum_slide()?);
    files.extend(mixed_slide()?);
    files.extend(oddly_named_slide()?);
    files.extend(trouble_slide()?);
    files.extend(not_a_cell()?);
    for file in &files {
        write(&folder.join(&file.path), &file.bytes)?;
    }
    write(&folder.join("expected.csv"), expected_csv(&files).as_bytes())?;
    Ok(files.len() + 1)
}

/// Writes `count` cells for training, half of them infected, into `parasitized/` and `uninfected/`.
///
/// # Errors
/// If a file cannot be written or packed.
pub fn write_training(folder: &Path, seed: u64, count: u64) -> Result<()> {
    for index in 0..count {
        let look = Look::of_slide(seed_of(TRAINING ^ seed, index / CELLS_PER_LOOK, 0));
        let kind = match index % 4 {
            0 | 1 => CellKind::Uninfected,
            2 => CellKind::Ring,
            _ => CellKind::Trophozoite,
        };
        let cell = draw_cell(seed_of(TRAINING ^ seed, index, 1), &look, kind);
        let path = format!("{}/render-{seed}-{index:05}.png", kind.label());
        write(&folder.join(path), &pack(&cell, Container::Png)?)?;
    }
    Ok(())
}

fn healthy_slide() -> Result<Vec<SampleFile>> {
    slide(1, "slide-001-healthy", &[(CellKind::Uninfected, 24)])
}

fn falciparum_slide() -> Result<Vec<SampleFile>> {
    slide(2, "slide-002-falciparum", &[(CellKind::Uninfected, 24), (CellKind::Ring, 6)])
}

/// A slide of PNG cells in random order, named by number as a segmentation names them.
fn slide(number: u64, name: &str, counts: &[(CellKind, usize)]) -> Result<Vec<SampleFile>> {
    let mut kinds: Vec<CellKind> = counts.iter().flat_map(|&(kind, n)| vec![kind; n]).collect();
    kinds.shuffle(&mut ChaCha8Rng::seed_from_u64(SAMPLES ^ number));
    let cells = kinds.into_iter().enumerate();
    cells
        .map(|(index, kind)| {
            let path = format!("{name}/cell-{:02}.png", index + 1);
            sample(number, index as u64, path, kind, Container::Png)
        })
        .collect()
}

fn mixed_slide() -> Result<Vec<SampleFile>> {
    use CellKind::{Ring, Trophozoite, Uninfected};
    let cells = [
        ("cell-01.png", Ring, Container::Png),
        ("cell-02.jpg", Trophozoite, Container::Jpeg),
        ("cell-03.jpg", Uninfected, Container::Jpeg),
        ("cell-04.tif", Ring, Container::TiffLzw),
        ("cell-05.tif", Uninfected, Container::TiffLzw),
        ("cell-06.bmp", Uninfected, Container::Bmp),
        ("cell-07.bmp", Trophozoite, Container::Bmp),
        ("cell-08.webp", Ring, Container::WebP),
        ("cell-09.webp", Uninfected, Container::WebP),
        ("cell-10.gif", Trophozoite, Container::Gif),
        ("cell-11.gif", Uninfected, Container::Gif),
        ("cell-12-16-bit.png", Trophozoite, Container::Png16),
        ("cell-13-16-bit.png", Uninfected, Container::Png16),
        ("cell-14-transparent.png", Ring, Container::PngTransparent),
        ("cell-15-transparent.png", Uninfected, Container::PngTransparent),
        ("cell-16.JPG", Ring, Container::Jpeg),
        ("cell-17.jpeg", Trophozoite, Container::Jpeg),
        ("cell-18.jpg", Uninfected, Container::Jpeg),
        ("cell-19.jpg", Uninfected, Container::Jpeg),
        ("cell-20-wrong-ending.jpg", Trophozoite, Container::Png),
    ];
    named_slide(3, "slide-003-mixed-forms", &cells)
}

/// Names that break a key that is decoded twice, or not at all. Letters with accents are one character each.
fn oddly_named_slide() -> Result<Vec<SampleFile>> {
    use CellKind::{Ring, Trophozoite, Uninfected};
    let cells = [
        ("cell a+b.jpg", Ring, Container::Jpeg),
        ("cell a b.jpg", Uninfected, Container::Jpeg),
        ("100%.png", Uninfected, Container::Png),
        ("50%25.jpg", Trophozoite, Container::Jpeg),
        ("cellule é.png", Ring, Container::Png),
        ("cell (1).jpg", Uninfected, Container::Jpeg),
        ("date=2026-11-22.jpg", Uninfected, Container::Jpeg),
        ("cell #4 & 5.jpg", Trophozoite, Container::Jpeg),
        ("it's ~ok~.jpg", Uninfected, Container::Jpeg),
        ("赤血球.jpg", Uninfected, Container::Jpeg),
    ];
    named_slide(4, "slide 004 été +50%", &cells)
}

fn trouble_slide() -> Result<Vec<SampleFile>> {
    let name = "slide-005-trouble";
    let cells = [
        ("cell-01.png", CellKind::Uninfected, Container::Png),
        ("cell-02.png", CellKind::Ring, Container::Png),
    ];
    let mut files = named_slide(5, name, &cells)?;
    let png = pack(&sample_cell(5, 2, CellKind::Uninfected), Container::Png)?;
    let jpeg = pack(&sample_cell(5, 3, CellKind::Trophozoite), Container::Jpeg)?;
    let notes = "Slide 005, thin smear, Giemsa 3 %, 45 minutes. This is a note, not a picture.\n";
    for (file, bytes, code) in [
        ("cut-short.png", cut_short(&png, 60)?, "corrupt"),
        ("cut-short.jpg", cut_short(&jpeg, 60)?, "corrupt"),
        ("empty.png", Vec::new(), "empty"),
        ("notes.txt", notes.into(), "not_an_image"),
        ("notes-renamed.png", notes.into(), "not_an_image"),
        ("stitched-48-megapixels.png", large_png()?, "too_large"),
        ("report.pdf", pdf(), "unsupported_format"),
        ("phone-photo.heic", heic(), "unsupported_format"),
    ] {
        let path = format!("{name}/{file}");
        files.push(SampleFile { path, bytes, truth: Truth::Rejected(code) });
    }
    Ok(files)
}

/// The samples that are no cell; the numbers pick drawings that are typical of their kind.
///
/// # Errors
/// If a file cannot be packed.
pub fn not_a_cell() -> Result<Vec<SampleFile>> {
    [
        ("blank.png", OutlierKind::Blank, 0),
        ("debris.png", OutlierKind::Debris, 13),
        ("out-of-focus.png", OutlierKind::Defocus, 0),
        ("text.png", OutlierKind::Text, 12),
        ("cat.png", OutlierKind::Cat, 0),
    ]
    .into_iter()
    .map(|(name, kind, index)| {
        let picture = draw_outlier(seed_of(SAMPLES, NOT_A_CELL + index, kind as u64), kind);
        let (path, bytes) = (format!("not-a-cell/{name}"), quick_png(&picture)?);
        Ok(SampleFile { path, bytes, truth: Truth::Doubted })
    })
    .collect()
}

fn named_slide(number: u64, name: &str, cells: &[(&str, CellKind, Container)]) -> Result<Vec<SampleFile>> {
    let cells = cells.iter().enumerate();
    cells
        .map(|(index, &(file, kind, container))| {
            sample(number, index as u64, format!("{name}/{file}"), kind, container)
        })
        .collect()
}

fn sample(slide: u64, index: u64, path: String, kind: CellKind, container: Container) -> Result<SampleFile> {
    // A combining accent would name another S3 key than the letter that people type.
    ensure!(
        !path.chars().any(|c| ('\u{300}'..='\u{36f}').contains(&c)),
        "{path:?} holds a combining accent, expected precomposed letters"
    );
    let bytes = pack(&sample_cell(slide, index, kind), container)?;
    Ok(SampleFile { path, bytes, truth: Truth::Classified(kind) })
}

fn sample_cell(slide: u64, index: u64, kind: CellKind) -> Cell {
    let look = Look::of_slide(seed_of(SAMPLES, slide, 0));
    draw_cell(seed_of(SAMPLES, slide, index + 1), &look, kind)
}

/// The seed of one picture: `family` keeps purposes apart, `a` and `b` the pictures of one purpose.
pub fn seed_of(family: u64, a: u64, b: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(family.wrapping_add(a.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    rng.set_stream(b);
    rng.random()
}

fn expected_csv(files: &[SampleFile]) -> String {
    let mut rows: Vec<String> =
        files.iter().map(|file| format!("{},{}", file.path, file.truth.columns())).collect();
    rows.push(format!("expected.csv,{}", Truth::Rejected("not_an_image").columns()));
    rows.sort();
    format!("path,status,label,reject_code,needs_review\n{}\n", rows.join("\n"))
}

/// Writes a file and the folder it lies in.
///
/// # Errors
/// If one of them cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().expect("every sample lies in a folder");
    fs::create_dir_all(folder).with_context(|| format!("creating the folder {}", folder.display()))?;
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}
