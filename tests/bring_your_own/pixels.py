"""Pictures to score, and how they become the input of a network, with Pillow.

It never uses anything of Giemsa: what it computes is what Giemsa's answers are compared with.
The formula is that of src/image/preprocess.rs.
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

    w, h, (W, H) = spec["width"], spec["height"], image.size
    image = image.convert("L" if spec["color"] == "gray" else "RGB")
    width_binds = w * H <= h * W
    if spec["resize"] == "stretch":
        image = image.resize((w, h), Image.Resampling.BILINEAR)
    elif spec["resize"] == "fit":
        size = (w, max(1, _half_up(H, w, W))) if width_binds else (max(1, _half_up(W, h, H)), h)
        canvas = Image.new(image.mode, (w, h), tuple(spec["pad"]) if image.mode == "RGB" else spec["pad"][0])
        canvas.paste(image.resize(size, Image.Resampling.BILINEAR), ((w - size[0]) // 2, (h - size[1]) // 2))
        image = canvas
    else:
        size = (_half_up(W, h, H), h) if width_binds else (w, _half_up(H, w, W))
        left, top = (size[0] - w) // 2, (size[1] - h) // 2
        image = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + w, top + h))
    levels = np.asarray(image, dtype=np.float32).reshape(h, w, -1)
    return ((levels * np.float32(spec["scale"]) - np.float32(spec["mean"])) / np.float32(spec["std"]))[None]


def _half_up(side: int, numerator: int, denominator: int) -> int:
    return (2 * side * numerator + denominator) // (2 * denominator)
