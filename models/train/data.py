"""Reads the labelled cells, deals the patients into folds, and prepares pixels exactly as the Rust side does.

It never splits by image: cells of one patient look alike, and a split by image flatters the model.
It keeps one invariant: all cells of a patient are in the same fold.
"""

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ["parasitized", "uninfected"]
POSITIVE = 0  # index of `parasitized`
SIDE_PX = 64
# The picture that augmentation turns and shifts: a little finer, so that the result is as sharp as SIDE_PX.
FINE_PX = 80


@dataclass(frozen=True)
class Sample:
    """One picture. `label` indexes LABELS, or is -1 for a picture that is not a cell; `patient` is empty for a drawing."""

    path: Path
    label: int
    patient: str = ""
    kind: str = "cell"


def fit_size(width_px: int, height_px: int, side_px: int) -> tuple[int, int]:
    """Width and height after scaling the longer side to `side_px`; the shorter rounded half up, at least 1."""
    longer = max(width_px, height_px)
    scaled = [(2 * v * side_px + longer) // (2 * longer) for v in (width_px, height_px)]
    return max(1, scaled[0]), max(1, scaled[1])


def fit(image: Image.Image, side_px: int) -> Image.Image:
    """Scales into a square of `side_px` pixels (antialiased triangle filter), centred and padded with black."""
    size = fit_size(*image.size, side_px)
    square = Image.new(image.mode, (side_px, side_px))
    offset = ((side_px - size[0]) // 2, (side_px - size[1]) // 2)
    square.paste(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=None), offset)
    return square


def open_rgb(path: Path) -> Image.Image:
    """The image as 8-bit RGB; what is transparent becomes white."""
    image = Image.open(path)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after a round trip through JPEG of this quality, 1 to 95, with halved colour resolution."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file).convert("RGB")


def exact_pixels(sample: Sample) -> np.ndarray:
    """Pixels [SIDE_PX, SIDE_PX, 3], uint8: what the model sees when it serves."""
    return np.asarray(fit(open_rgb(sample.path), SIDE_PX))


def fine_pixels(sample: Sample) -> np.ndarray:
    """Pixels [FINE_PX, FINE_PX, 8], uint8: red, green, blue, share of cell, share of picture, the colours as JPEG.

    The two shares tell the black around a cut-out cell from the black that pads a picture to a square. The quality of the
    JPEG, 30 to 90, follows from the file's name, so that it is the same in each run.
    """
    image = open_rgb(sample.path)
    cell = Image.fromarray(np.where(np.asarray(image).any(axis=2), 255, 0).astype(np.uint8))
    quality = 30 + sum(sample.path.name.encode()) % 61
    parts = [image, cell, Image.new("L", image.size, 255), as_jpeg(image, quality)]
    return np.concatenate([np.asarray(fit(p, FINE_PX)).reshape(FINE_PX, FINE_PX, -1) for p in parts], axis=2)


def load(samples: list[Sample], pixels_of) -> np.ndarray:
    """`pixels_of` of each sample, stacked; on all processors."""
    with Pool() as pool:
        return np.stack(pool.map(pixels_of, samples, chunksize=64))


def read_manifest(folder: Path) -> tuple[list[Sample], dict[str, str]]:
    """The real cells, and for each patient whether the donor was `infected` or `healthy`."""
    samples, donors = [], {}
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            donors[row["patient"]] = row["donor"]
            samples.append(Sample(folder / row["path"], LABELS.index(row["label"]), row["patient"]))
    return samples, donors


def read_renders(folder: Path) -> list[Sample]:
    """The drawn cells of `render_samples training`."""
    return [Sample(path, label, kind="drawn cell") for label, name in enumerate(LABELS)
            for path in sorted((folder / name).glob("*.png"))]


def read_outliers(folder: Path) -> list[Sample]:
    """The drawn pictures of `render_samples outliers`, which are not cells; the folder's name is the kind."""
    return [Sample(path, -1, kind=path.parent.name) for path in sorted(folder.glob("*/*.png"))]


def deal_patients(donors: dict[str, str], folds: int, seed: int) -> dict[str, int]:
    """For each patient the fold, 0 to `folds` - 1; infected and healthy donors are dealt out evenly."""
    by_donor = defaultdict(list)
    for patient, donor in sorted(donors.items()):
        by_donor[donor].append(patient)
    rng = np.random.default_rng(seed)
    fold_of = {}
    for donor in sorted(by_donor):
        for rank, patient in enumerate(rng.permutation(by_donor[donor])):
            fold_of[str(patient)] = rank % folds
    return fold_of
