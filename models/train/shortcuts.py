"""Asks whether the model reads parasites, or the cut-out, the lamp and the file format.

It never trains. It keeps one invariant: a changed picture is answered by a network that has not seen its patient, and is
compared with the same network's answer to the unchanged one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from data import POSITIVE, SIDE_PX, Sample, as_jpeg, fit, load, open_rgb
from measure import auc


@dataclass(frozen=True)
class Change:
    """What is done to a whole picture before it is resized for the model."""

    name: str
    apply: Callable[[Image.Image], Image.Image]


def _cell(image):
    return np.asarray(image).any(axis=2)


def _median_colour(image):
    pixels, cell = np.asarray(image), _cell(image)
    return Image.fromarray(np.where(cell[..., None], np.median(pixels[cell], axis=0), 0).astype(np.uint8))


def _silhouette(image):
    return Image.fromarray(np.where(_cell(image)[..., None], np.uint8([210, 180, 185]), 0).astype(np.uint8))


def _hue(image, degrees):
    bands = image.convert("HSV").split()
    turned = bands[0].point(lambda v: (v + round(degrees * 256 / 360)) % 256)
    return Image.merge("HSV", (turned, *bands[1:])).convert("RGB")


def _brightness(image, factor):
    return ImageEnhance.Brightness(image).enhance(factor)


def _cast(image, red, blue):
    return Image.fromarray((np.asarray(image) * np.array([red, 1, blue])).clip(0, 255).round().astype(np.uint8))


def _blur(image, sigma_px):
    return image.filter(ImageFilter.GaussianBlur(sigma_px))


def _turn(image, degrees):
    return image.rotate(degrees, Image.Resampling.BILINEAR, expand=True)


def _scale(image, factor):
    return image.resize([max(1, round(v * factor)) for v in image.size], Image.Resampling.BILINEAR)


def _in_frame(image, share):
    wider = Image.new("RGB", [round(v / share) for v in image.size])
    wider.paste(image, [(w - v) // 2 for w, v in zip(wider.size, image.size)])
    return wider


def _white_background(image):
    return Image.fromarray(np.where(_cell(image)[..., None], np.asarray(image), np.uint8(255)))


# Nothing of a parasite is left: an honest model is near chance.
BLINDED = [
    Change("outline only: filled with one colour", _silhouette),
    Change("outline and colour: filled with its own median colour", _median_colour),
]
# All of it is left: an honest model answers nearly as before.
HARMLESS = [
    Change("hue turned by -15 degrees", partial(_hue, degrees=-15)),
    Change("hue turned by +15 degrees", partial(_hue, degrees=15)),
    Change("brightness x 0.8", partial(_brightness, factor=0.8)),
    Change("brightness x 1.2", partial(_brightness, factor=1.2)),
    Change("warmer light: red x 1.1, blue x 0.9", partial(_cast, red=1.1, blue=0.9)),
    Change("colder light: red x 0.9, blue x 1.1", partial(_cast, red=0.9, blue=1.1)),
    Change("blur, sigma 1 px of the file", partial(_blur, sigma_px=1)),
    Change("blur, sigma 2 px of the file", partial(_blur, sigma_px=2)),
    Change("JPEG of quality 60", partial(as_jpeg, quality=60)),
    Change("turned by 45 degrees", partial(_turn, degrees=45)),
    Change("turned by 90 degrees", partial(_turn, degrees=90)),
    Change("turned by 200 degrees", partial(_turn, degrees=200)),
    Change("scaled to 0.75", partial(_scale, factor=0.75)),
    Change("scaled to 1.33", partial(_scale, factor=1.33)),
    Change("cell fills 0.75 of the frame", partial(_in_frame, share=0.75)),
    Change("white background instead of black", _white_background),
]


def _changed_pixels(sample: Sample, change: Change):
    return np.asarray(fit(change.apply(open_rgb(sample.path)), SIDE_PX))


def measure(samples: list[Sample], answer: Callable[[np.ndarray], np.ndarray], before: np.ndarray) -> list[dict]:
    """For each change accuracy, its difference to `before` in points, and the area under the ROC curve.

    `answer` gives the probabilities [n, 2] of pixels in the order of `samples`, each by a network that has not seen the
    patient; `before` are the probabilities of the unchanged pictures.
    """
    labels = np.array([s.label for s in samples])
    accuracy = (before.argmax(axis=1) == labels).mean()
    majority = max(np.bincount(labels)) / len(labels)
    rows = [{"change": "none", "accuracy": float(accuracy), "points": 0.0, "auc": auc(before[:, POSITIVE], labels == POSITIVE)}]
    for change in [*BLINDED, *HARMLESS]:
        found = answer(load(samples, partial(_changed_pixels, change=change)))
        row = {"change": change.name, "accuracy": float((found.argmax(axis=1) == labels).mean())}
        row["points"] = 100 * (row["accuracy"] - float(accuracy))
        row["auc"] = auc(found[:, POSITIVE], labels == POSITIVE)
        if change in BLINDED:
            row["always_the_commoner_label"] = float(majority)
        rows.append(row)
        print(f"{change.name}: accuracy {row['accuracy']:.4f} ({row['points']:+.2f} points)", flush=True)
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
