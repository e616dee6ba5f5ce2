"""Pictures to encode, and what becomes of pixels that are not 8-bit RGB, as docs/image-formats.md states it."""

import numpy as np

#: EXIF orientation -> the stored picture turned upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def size(random, most=70):
    """Width and height, one time in eight of one or two pixels."""
    return tuple(random.choice((1, 2)) if random.random() < 0.125 else random.randint(1, most) for _ in range(2))


def draw(random, width, height, channels=3, levels=256):
    """A smooth picture with an edge and some noise, [height, width, channels], 0 to levels - 1."""
    numbers = np.random.default_rng(random.getrandbits(32))
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = []
    for _ in range(channels):
        fx, fy, phase = numbers.uniform(0.02, 0.5, 2).tolist() + [numbers.uniform(0, 6)]
        plane = 0.5 + 0.35 * np.sin(fx * x + fy * y + phase)
        plane[x * numbers.uniform(-1, 1) + y > numbers.uniform(0, height)] += numbers.uniform(-0.5, 0.5)
        planes.append(plane + numbers.normal(0, numbers.choice([0, 0.02, 0.1]), plane.shape))
    picture = np.stack(planes, -1).clip(0, 1) * (levels - 1)
    return picture.round().astype(np.uint8 if levels <= 256 else np.uint16)


def to_eight_bits(samples, most):
    """v * 255 / most, rounded to the nearest."""
    return ((samples.astype(np.int64) * 255 * 2 + most) // (2 * most)).clip(0, 255).astype(np.uint8)


def on_white(rgb, alpha):
    """8-bit RGB over white; an alpha that is zero everywhere counts as none."""
    rgb, alpha = rgb.astype(np.int64), alpha.astype(np.int64)[..., None]
    if not alpha.any():
        return rgb.astype(np.uint8)
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def gray_to_rgb(gray):
    """One sample a pixel to three."""
    return np.repeat(gray[..., None], 3, -1)


def exif(orientation, order="<", kind=3):
    """A TIFF structure that holds an orientation as SHORT (3) or LONG (4)."""
    import struct

    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "HHHI", 1, 0x112, kind, 1) + value + struct.pack(order + "I", 0)
