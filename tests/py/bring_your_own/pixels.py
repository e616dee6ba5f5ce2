"""Pictures to score, and how they become the input of a network, with Pillow.

It never uses anything of Giemsa: what it computes is what Giemsa's answers are compared with.
The formula is that of crates/image/src/preprocess.rs.
"""

import numpy as np


def colour_ramp(width: int, height: int, seed: int) -> np.ndarray:
    """Pixels [height, width, 3], uint8, by integers only: the same everywhere. Wide stripes, other ones each time."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * (3 + seed) + y * (7 - seed) * (c + 1) + 60 * seed * (c + 1)) % 256 for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def tensor(image, spec: dict) -> np.ndarray:
    """A Pillow image as float32 [1, height, width, C], by `spec` of the form of `giemsa.input`."""
    from PIL import Image  # Not needed, and not installed, where Keras 2 is.

    w, h = spec["width"], spec["height"]
    size = _scaled_size(image, spec)
    image = image.convert("L" if spec["color"] == "gray" else "RGB").resize(size, Image.Resampling.BILINEAR)
    if spec["resize"] == "fit":
        canvas = Image.new(image.mode, (w, h), tuple(spec["pad"]) if image.mode == "RGB" else spec["pad"][0])
        canvas.paste(image, ((w - size[0]) // 2, (h - size[1]) // 2))
        image = canvas
    elif spec["resize"] == "crop":
        left, top = (size[0] - w) // 2, (size[1] - h) // 2
        image = image.crop((left, top, left + w, top + h))
    levels = np.asarray(image, dtype=np.float32).reshape(h, w, -1)
    return ((levels * np.float32(spec["scale"]) - np.float32(spec["mean"])) / np.float32(spec["std"]))[None]


def is_resampled(image, spec: dict) -> bool:
    """Whether pixels are mixed; then Giemsa and Pillow may differ by one level in a sample, by rounding."""
    return _scaled_size(image, spec) != image.size


def _scaled_size(image, spec: dict) -> tuple[int, int]:
    w, h, (W, H) = spec["width"], spec["height"], image.size
    if spec["resize"] == "stretch":
        return w, h
    # `fit` is bound by the side that is relatively longer, `crop` by the other.
    if (w * H <= h * W) == (spec["resize"] == "fit"):
        return w, max(1, _half_up(H, w, W))
    return max(1, _half_up(W, h, H)), h


def _half_up(side: int, numerator: int, denominator: int) -> int:
    return (2 * side * numerator + denominator) // (2 * denominator)
