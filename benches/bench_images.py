"""The images of the benchmark, made of `sample-images/`, so that it needs no data of its own.

The same samples give the same pixels. It never writes a file.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

FIELD_SIZE_PX = (4000, 3000)


def samples(folder: Path) -> list[Image.Image]:
    """Every sample that is a single cell."""
    found = []
    for path in sorted(folder.rglob("*.png")) + sorted(folder.rglob("*.jpg")):
        try:
            with Image.open(path) as image:
                if max(image.size) <= 400:
                    found.append(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
            continue  # The samples hold bad files on purpose.
    if not found:
        raise SystemExit(f"{folder} holds no crops")
    return found


def crops(folder: Path, count: int):
    """`count` different single-cell PNG files: the samples turned, mirrored and a little lighter or darker."""
    cells = samples(folder)
    random = np.random.default_rng(400)
    for index in range(count):
        image = cells[index % len(cells)].rotate(90 * (index % 4))
        if index % 8 >= 4:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        light = random.uniform(0.92, 1.06)
        image = image.point(lambda value: min(255, round(value * light)))
        yield f"cell {index:03}.png", encoded(image, "PNG")


def fields(folder: Path, count: int):
    """`count` JPEG files of 12 megapixels: cells strewn on a light, noisy ground; five different ones."""
    cells = [image for image in samples(folder) if min(image.size) >= 60]
    random = np.random.default_rng(12)
    bodies = []
    for _ in range(5):
        width, height = FIELD_SIZE_PX
        ground = random.normal(225, 3, (height, width, 3)).clip(0, 255).astype(np.uint8)
        field = Image.fromarray(ground)
        for _ in range(700):
            cell = cells[random.integers(len(cells))]
            field.paste(cell, (int(random.integers(width - cell.width)), int(random.integers(height - cell.height))))
        bodies.append(encoded(field, "JPEG", quality=88))
    for index in range(count):
        yield f"field {index:02}.jpg", bodies[index % len(bodies)]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
