"""JPEG files of every sampling, scan script and restart interval, with what libjpeg makes of them.

Files come from cjpeg (of libjpeg-turbo) and Pillow, and from edits of their bytes; the reference is libjpeg through Pillow.
"""

import io
import os
import random as randoms
import shutil
import subprocess
import tempfile

import numpy as np
from PIL import Image

import pictures

#: The largest difference to the reference, in levels.
TOLERANCE = 3
NEEDS = ["cjpeg"]

LUMA = ["1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "3x1", "1x3", "3x3", "3x2", "4x4"]
#: Sampling factors that are not of luma above whole multiples of chroma.
UNUSUAL = ["1x1,2x2,2x2", "1x1,2x1,1x1", "1x1,1x1,2x1", "1x1,1x2,1x2", "3x1,2x1,1x1", "2x1,1x2,1x1", "2x2,1x2,2x1",
           "4x1,3x1,1x1", "2x2,2x1,1x1", "2x2,2x2,1x1", "2x2,1x1,2x2", "4x2,2x2,1x1", "4x1,2x1,1x1"]
SEQUENTIAL = ["0; 1; 2;", "0; 1 2;", "2; 1; 0;", "1 2; 0;", "0 1; 2;", "0 2; 1;"]


def progressive_script(random):
    """A complete progressive script: DC together or apart, AC in bands, each refined to the last bit."""
    depth = random.choice([0, 0, 1, 1, 2, 3])
    scans = [f"{members}: 0-0, 0, {depth};" for members in random.choice([["0 1 2"], ["0", "1", "2"], ["0 1", "2"]])]
    bands = []
    for component in random.sample([0, 1, 2], 3):
        cuts = sorted(random.sample(range(2, 63), random.choice([0, 1, 2, 4])))
        low = random.choice([0, 0, 1, 2])
        for first, last in zip([1, *cuts], [*(cut - 1 for cut in cuts), 63]):
            bands.append([f"{component}: {first}-{last}, 0, {low};"]
                         + [f"{component}: {first}-{last}, {bit}, {bit - 1};" for bit in range(low, 0, -1)])
    bands.append([f"0 1 2: 0-0, {bit}, {bit - 1};" for bit in range(depth, 0, -1)])
    while any(bands):
        scans.append(random.choice([band for band in bands if band]).pop(0))
    return "\n".join(scans)


def cjpeg(picture, *arguments, scans=None):
    """The bytes that cjpeg writes of [height, width, 3] or [height, width]; None where it refuses the arguments."""
    kind = b"P6" if picture.ndim == 3 else b"P5"
    source = kind + b"\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes()
    with tempfile.NamedTemporaryFile("w", suffix=".scans") as script:
        if scans:
            script.write(scans)
            script.flush()
            arguments = [*arguments, "-scans", script.name]
        done = subprocess.run(["cjpeg", *arguments], input=source, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def libjpeg(data):
    """RGB by Pillow; None where libjpeg does not read the file."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except OSError:
        return None
    if image.mode == "CMYK":
        ink = np.asarray(image).astype(int)
        return (((255 - ink[..., :3]) * (255 - ink[..., 3:]) + 127) // 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


def segments(data):
    """(marker, start, end) of each segment up to the first scan."""
    at = 2
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2:at + 4], "big")
        yield data[at + 1], at, at + 2 + length
        at += 2 + length


def without(data, marker):
    """The file without its segments of one kind."""
    out, last = b"", 0
    for found, start, end in segments(data):
        if found == marker:
            out, last = out + data[last:start], end
    return out + data[last:]


def insert(data, segment):
    """The file with a segment behind its start marker."""
    return data[:2] + segment + data[2:]


def app(number, body):
    """An application segment."""
    return bytes([0xFF, 0xE0 + number]) + (len(body) + 2).to_bytes(2, "big") + body


def encoded(random):
    """A name and the bytes of one ordinary or unusual file."""
    picture = pictures.draw(random, *pictures.size(random))
    quality = ["-quality", str(random.choice([5, 30, 60, 75, 85, 90, 95, 100]))]
    options = [*quality, *random.choice([[], [], ["-optimize"]]),
               *random.choice([[], [], ["-restart", str(random.randint(1, 3))], ["-restart", f"{random.randint(1, 9)}B"]])]
    kind = random.choice(["sampled"] * 4 + ["progressive"] * 3 + ["unusual", "gray", "rgb", "cmyk", "arithmetic"])
    name = " ".join([kind, *options])
    if kind == "arithmetic":
        return name, cjpeg(picture, *options, "-arithmetic")
    if kind == "gray":
        gray = np.ascontiguousarray(picture[..., 0])
        factors = random.choice(["1x1", "2x2", "3x1"])
        mode = random.choice([[], ["-progressive"]])
        return f"{name} {factors} {mode}", cjpeg(gray, *options, *mode, "-sample", factors)
    if kind == "rgb":
        mode = random.choice([[], ["-progressive"]])
        return f"{name} {mode}", cjpeg(picture, *options, *mode, "-rgb")
    if kind == "cmyk":
        image = Image.fromarray(pictures.draw(random, *pictures.size(random), channels=4), "CMYK")
        out = io.BytesIO()
        subsampling, progressive = random.choice([0, 1, 2]), random.random() < 0.5
        image.save(out, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
        data, form = out.getvalue(), random.choice(["cmyk", "ycck", "bare"])
        if form == "bare":
            data = without(data, 0xEE)
        elif form == "ycck":
            data = data.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")
        return f"{form} {subsampling} progressive {progressive}", data
    factors = random.choice(UNUSUAL) if kind == "unusual" else random.choice(LUMA) + ",1x1,1x1"
    scans = None
    if kind == "progressive" or (kind == "unusual" and random.random() < 0.4):
        scans = random.choice([None, progressive_script(random)])
        options = options if scans else [*options, "-progressive"]
    elif random.random() < 0.5:
        scans = random.choice(SEQUENTIAL)
    return f"{name} {factors} {(scans or '').replace(chr(10), ' ')}", cjpeg(
        picture, *options, "-sample", factors, scans=scans
    )


def edited(random):
    """A name, bytes, the expected pixels and the words of a refusal, for files that no encoder writes at once."""
    picture = pictures.draw(random, *pictures.size(random))
    progressive = random.random() < 0.5
    mode = ["-progressive"] if progressive else []
    data = cjpeg(picture, "-quality", "90", "-sample", random.choice(["1x1", "2x2", "2x1"]), *mode)
    whole = libjpeg(data)
    kind = random.choice(["orientation", "no end", "trailer", "fill bytes", "no tables", "closed early", "cut", "12 bits",
                          "stray", "appended", "sof55"])
    if kind == "orientation":
        orientation, order = random.randint(1, 8), random.choice("<>")
        body = b"Exif\0\0" + pictures.exif(orientation, order, random.choice([3, 4]))
        return f"{kind} {orientation}", insert(data, app(1, body)), pictures.UPRIGHT[orientation](whole), []
    if kind == "no end":
        return kind, data[:-2], whole, []
    if kind == "trailer":
        return kind, data[:-2] + b"\0" * 9 + b"Image_UTC_Data1732", whole, []
    if kind == "stray":
        return kind, data[:-2] + b"\x55" * random.choice([2, 900, 1500, 40_000]) + b"\xff\xd9", whole, []
    if kind == "appended":
        return kind, data + b"\0\0\0\x18ftypmp42" + bytes(range(256)), whole, []
    if kind == "fill bytes":
        at = next(start for marker, start, _ in segments(data) if marker == 0xDB)
        return kind, data[:at] + b"\xff" * random.randint(1, 40) + data[at:], whole, []
    if kind == "no tables" and not progressive:
        return kind, without(data, 0xC4), whole, []
    if kind == "closed early" and progressive:
        starts = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] == 0xDA]
        end = random.choice(starts[1:])
        tables = data.rfind(b"\xff\xc4", 0, end)
        end = tables if tables > starts[0] and tables > max(s for s in [0, *starts] if s < end) else end
        return kind, data[:end] + b"\xff\xd9", None, ["incomplete"]
    if kind == "12 bits":
        at = next(start for marker, start, _ in segments(data) if marker in (0xC0, 0xC2))
        return kind, data[:at + 4] + b"\x0c" + data[at + 5:], None, ["12-bit"]
    if kind == "sof55":
        return kind, data[:2] + b"\xff\xf7" + data[4:], None, ["JPEG-LS"]
    start = data.rfind(b"\xff\xda") + 14
    if len(data) - start < 40:
        return "whole", data, whole, []
    return "cut", data[:random.randint(start, len(data) - 20)], None, ["incomplete"]


def cases(count, seed):
    """Yields (name, bytes, expected RGB or None, words that the refusal holds)."""
    random = randoms.Random(seed)
    made = 0
    while made < count:
        if random.random() < 0.25:
            name, data, expected, words = edited(random)
        else:
            name, data = encoded(random)
            if data is None:
                continue
            expected = libjpeg(data)
            words = ["sampling"] if expected is None else []
            if name.startswith("arithmetic"):
                expected, words = None, ["arithmetic"]
        yield f"{made:05} {name}.jpg", data, expected, words
        made += 1
