"""PNG, GIF, BMP and WebP files of every kind that Pillow writes, with what Pillow (libpng, libwebp) makes of them."""

import io
import random as randoms
import struct
import zlib

import numpy as np
from PIL import Image

import pictures


def TOLERANCE(name):
    """Levels: lossy WebP is upsampled by another rounding; all else is exact."""
    return 2 if "lossy" in name else 0


def save(image, kind, **options):
    """The bytes of an image in a format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind, body):
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pack(samples, depth):
    """Rows of [height, width, channels] in PNG's order of bits, each behind the filter 0."""
    height = samples.shape[0]
    rows = samples.reshape(height, -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png(random):
    """A PNG written here, so that every depth, colour, interlace and order of chunks is met."""
    width, height = pictures.size(random)
    color, depth = random.choice([(0, d) for d in (1, 2, 4, 8, 16)] + [(2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)]
                                 + [(3, d) for d in (1, 2, 4, 8)])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    unclear, measured = False, 12 if depth == 16 and color in (0, 2) and random.random() < 0.3 else depth
    samples = pictures.draw(random, width, height, channels, 2**measured)
    if measured < depth and not (samples & 15 > 1).any():
        unclear = True  # These may as well have been scaled up, and are refused.
    empty_alpha = color in (4, 6) and random.random() < 0.2
    if empty_alpha:
        samples[..., -1] = 0
    interlaced, extra, late = random.random() < 0.4, b"", b""
    eight = pictures.to_eight_bits(samples, 2**measured - 1)
    if color == 3:
        palette = np.random.default_rng(random.getrandbits(32)).integers(0, 256, (2**depth, 3), np.uint8)
        extra, rgb = chunk(b"PLTE", palette.tobytes()), palette[samples[..., 0]]
    elif color in (0, 4):
        rgb = pictures.gray_to_rgb(eight[..., 0])
    else:
        rgb = eight[..., :3]
    if color in (4, 6):
        rgb = pictures.on_white(rgb, eight[..., -1])
    if measured < depth:
        extra = chunk(b"sBIT", bytes([measured] * channels))
    orientation = random.choice([1, 1, *range(1, 9)])
    if orientation > 1:
        body = chunk(b"eXIf", pictures.exif(orientation, random.choice("<>"), random.choice([3, 4])))
        extra, late = (extra + body, b"") if random.random() < 0.5 else (extra, body)
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    data = zlib.compress(b"".join(pack(part, depth) for part in parts if part.size))
    cut = random.randint(0, len(data))
    file = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
            + extra + chunk(b"IDAT", data[:cut]) + chunk(b"IDAT", data[cut:]) + late + chunk(b"IEND", b""))
    name = f"color {color} depth {depth} of {measured} interlaced {interlaced} orientation {orientation} empty alpha {empty_alpha}.png"
    if unclear:
        return name, file, None, ["sBIT"]
    return name, file, pictures.UPRIGHT[orientation](rgb), []


def gif(random):
    """A GIF of one or two frames, some transparent."""
    picture = pictures.draw(random, *pictures.size(random))
    image = Image.fromarray(picture).quantize(random.choice([2, 4, 16, 64, 256]))
    frames = [image, image.transpose(Image.Transpose.ROTATE_180)] if random.random() < 0.3 else [image]
    data = save(frames[0], "GIF", interlace=random.random() < 0.5, save_all=len(frames) > 1, append_images=frames[1:],
                disposal=random.randint(0, 3))
    return f"frames {len(frames)}.gif", data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), []


def bmp(random):
    """A BMP of 1, 4, 8 or 24 bits, or run lengths that may stop early."""
    width, height = pictures.size(random)
    picture = pictures.draw(random, width, height)
    mode = random.choice(["1", "P", "L", "RGB", "rle", "early"])
    if mode in ("rle", "early"):
        gray = pictures.draw(random, width, height, 1)[..., 0] // 64
        codes, kept = b"", height // 2 if mode == "early" else height
        if mode == "early" and kept + 1 >= height:
            mode, kept = "rle", height
        for index, row in enumerate(gray[::-1][:kept]):
            codes += b"".join(bytes([1, value]) for value in row)
            codes += b"\0\1" if index == kept - 1 else b"\0\0"
        palette = b"".join(bytes([b, b // 2, 255 - b, 0]) for b in range(256))
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
        offset = 14 + len(head) + len(palette)
        file = b"BM" + struct.pack("<IHHI", offset + len(codes), 0, 0, offset) + head + palette + codes
        rgb = np.stack([255 - gray, gray // 2, gray], -1).astype(np.uint8)
        return f"{mode}.bmp", file, *((None, ["run lengths end before its last row"]) if mode == "early" else (rgb, []))
    image = Image.fromarray(picture)
    image = image.quantize(200) if mode == "P" else image.convert(mode)
    return f"{mode}.bmp", save(image, "BMP"), np.asarray(image.convert("RGB")), []


def webp(random):
    """A WebP, lossy or lossless, some with alpha or an orientation with and without its prefix."""
    picture = pictures.draw(random, *pictures.size(random), channels=random.choice([3, 4]))
    kind, orientation = random.choice(["lossy", "lossless"]), random.choice([1, 1, *range(2, 9)])
    options = {"lossless": kind == "lossless", "quality": random.choice([20, 75, 95])}
    if orientation > 1:
        options["exif"] = random.choice([b"", b"Exif\0\0"]) + pictures.exif(orientation, random.choice("<>"))
    data = save(Image.fromarray(picture), "WEBP", **options)
    read = np.asarray(Image.open(io.BytesIO(data)))
    rgb = pictures.on_white(read[..., :3], read[..., 3]) if read.shape[2] == 4 else read
    return f"{kind} {picture.shape[2]} orientation {orientation}.webp", data, pictures.UPRIGHT[orientation](rgb), []


def cases(count, seed):
    """Yields (name, bytes, expected RGB or None, words that the refusal holds)."""
    random = randoms.Random(seed)
    for index in range(count):
        name, data, expected, words = random.choice([png, png, gif, bmp, webp])(random)
        yield f"{index:05} {name}", data, expected, words
