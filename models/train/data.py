"""Reads the labelled cells, splits them by patient, and prepares them exactly as the Rust side does.

It never splits by image: cells of one patient look alike, and a split by image flatters the model.
It keeps one invariant: a patient is in one part only (train, calibration or test).
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ["parasitized", "uninfected"]
SIDE_PX = 64
# The picture that augmentation turns and shifts: a little finer, so that the result is as sharp as SIDE_PX.
FINE_PX = 80


@dataclass
class Sample:
    """One labelled cell; `patient` is empty for a render."""

    path: Path
    label: int
    patient: str


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


def load_exact(samples: list[Sample]) -> np.ndarray:
    """Pixels [n, SIDE_PX, SIDE_PX, 3], uint8: what the model sees when it serves."""
    return np.stack([np.asarray(fit(open_rgb(s.path), SIDE_PX)) for s in samples])


def load_fine(samples: list[Sample]) -> np.ndarray:
    """Pixels [n, FINE_PX, FINE_PX, 5], uint8: red, green, blue, share of cell, share of picture.

    The last two tell the black around a cut-out cell from the black that pads a picture to a square.
    """
    out = np.zeros((len(samples), FINE_PX, FINE_PX, 5), np.uint8)
    for index, sample in enumerate(samples):
        image = open_rgb(sample.path)
        cell = Image.fromarray(np.where(np.asarray(image).any(axis=2), 255, 0).astype(np.uint8))
        out[index, ..., :3] = fit(image, FINE_PX)
        out[index, ..., 3] = fit(cell, FINE_PX)
        out[index, ..., 4] = fit(Image.new("L", image.size, 255), FINE_PX)
    return out


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
    return [
        Sample(path, label, "")
        for label, name in enumerate(LABELS)
        for path in sorted((folder / name).glob("*.png"))
    ]


def split_patients(donors: dict[str, str], seed: int) -> dict[str, str]:
    """For each patient `test` (20 %), `calibration` (10 %) or `train`, infected and healthy donors alike."""
    by_donor = defaultdict(list)
    for patient, donor in sorted(donors.items()):
        by_donor[donor].append(patient)
    parts = {}
    rng = np.random.default_rng(seed)
    for donor in sorted(by_donor):
        order = rng.permutation(by_donor[donor])
        test, calibration = round(0.2 * len(order)), round(0.1 * len(order))
        for rank, patient in enumerate(order):
            part = "test" if rank < test else "calibration" if rank < test + calibration else "train"
            parts[str(patient)] = part
    return parts
