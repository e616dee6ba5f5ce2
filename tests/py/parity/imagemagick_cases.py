"""BMP, GIF, PNG and TIFF files that ImageMagick writes, with what Pillow (libpng, libtiff) makes of them."""

import io
import random as randoms
import subprocess

import numpy as np
from PIL import Image, ImageOps

import pictures

NEEDS = ["convert"]


def TOLERANCE(name):
    """Pillow rounds down where Giemsa rounds to the nearest: 5 and 6 bits to 8, and 16 bits of a PNG in colour to 8."""
    return 1 if "RGB5" in name or "depth 16" in name else 0


def options(random):
    """The name of a kind, its ending, and how ImageMagick is asked for it."""
    kind = random.choice(["bmp", "gif", "png", "tiff"])
    if kind == "bmp":
        form = random.choice(["bmp2", "bmp3", "bmp4"])
        subtype = random.choice(["RGB555", "RGB565", "ARGB4444", "ARGB1555"]) if form != "bmp2" else None
        colors = random.choice([None, None, "2", "12", "200"])
        arguments = ["-define", f"bmp:format={form}"]
        if colors:
            arguments += ["-colors", colors, "-type", "Palette", *random.choice([[], ["-compress", "RLE"]])]
        elif subtype:
            arguments += ["-define", f"bmp:subtype={subtype}"]
        # ImageMagick calls the fourth version by the plain name.
        return f"{form} {subtype} colors {colors}", form.upper().removesuffix("4"), arguments
    if kind == "gif":
        moved = f"+{random.randint(0, 5)}+{random.randint(0, 5)}"
        return f"gif frame at {moved}", "GIF", ["-repage", f"80x80{moved}", "-interlace", random.choice(["None", "GIF"])]
    if kind == "png":
        depth, color = random.choice([("8", "2"), ("16", "2"), ("8", "0"), ("16", "0"), ("8", "3"), ("8", "6"), ("16", "6")])
        return f"png color {color} depth {depth}", "PNG", [
            "-define", f"png:color-type={color}", "-define", f"png:bit-depth={depth}",
            "-interlace", random.choice(["None", "PNG"])]
    compression = random.choice(["None", "LZW", "Zip", "RLE", "ZSTD"])
    tile = random.choice([[], ["-define", "tiff:tile-geometry=32x16"], ["-define", "tiff:rows-per-strip=3"]])
    order = random.choice(["msb", "lsb"])
    plane = random.choice(["None", "Plane"])
    # Pillow does not turn the bits of uncompressed planes, as libtiff and tifffile do.
    fill_order = random.choice(["msb", "lsb"]) if (compression, plane) != ("None", "Plane") else "msb"
    orientation = random.choice(["TopLeft", "BottomRight", "LeftTop", "RightBottom"])
    arguments = ["-compress", compression, *tile, "-define", f"tiff:endian={order}", "-interlace", plane, "-orient", orientation,
                 "-define", f"tiff:fill-order={fill_order}",
                 *random.choice([[], ["-type", "Palette"], ["-colorspace", "Gray"], ["-type", "Bilevel"]])]
    return f"tiff {' '.join(arguments)}", "TIFF", arguments


def reference(data):
    """Upright RGB on white by Pillow; None where it does not read the file."""
    try:
        image = Image.open(io.BytesIO(data))
        if image.format != "GIF":
            image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError):
        return None
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.int64)
        return pictures.gray_to_rgb(pictures.to_eight_bits(samples, 65535))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        alpha = pixels[..., 3] if pixels[..., 3].any() else np.full_like(pixels[..., 3], 255)
        return pictures.on_white(pixels[..., :3], alpha)
    rgb = np.array(image.convert("RGB"))
    if image.format == "GIF":
        # What the frame leaves free is transparent in browsers, and the colour of the background in Pillow.
        left, top, right, bottom = image.dispose_extent
        around = np.ones(rgb.shape[:2], bool)
        around[top:bottom, left:right] = False
        rgb[around] = 255
    return rgb


def cases(count, seed):
    """Yields (name, bytes, expected RGB or None, words that the refusal holds)."""
    random, made = randoms.Random(seed), 0
    while made < count:
        picture = pictures.draw(random, *pictures.size(random))
        source = b"P6\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes()
        name, form, arguments = options(random)
        done = subprocess.run(["convert", "ppm:-", *arguments, f"{form}:-"], input=source, capture_output=True)
        expected = reference(done.stdout) if done.returncode == 0 else None
        if expected is None:
            continue
        yield f"{made:05} {name}", done.stdout, expected, []
        made += 1
