"""TIFF files of every layout, with the pixels that they hold.

Samples are drawn, written by the code below or by libtiff's own tools (tiffcp), and read back by tifffile (or Pillow): a
case whose samples the reference reads otherwise than they were drawn stops the run. What the samples become in 8-bit
RGB is what docs/image-formats.md states; JPEG is read by libjpeg through Pillow.
"""

import io
import json
import os
import random as randoms
import struct
import subprocess
import tempfile
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

import pictures

NEEDS = ["tiffcp"]
#: Files are cheap to make, and of many kinds.
WEIGHT = 2

BYTE, ASCII, SHORT, LONG, RATIONAL, SHORTS, FLOAT, DOUBLE, LONG8 = 1, 2, 3, 4, 5, 8, 11, 12, 16
CODES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", RATIONAL: "I", SHORTS: "h", FLOAT: "f", DOUBLE: "d", LONG8: "Q", 7: "B"}
NONE, GROUP4, LZW, JPEG, DEFLATE, ADOBE, PACKBITS, ZSTD = 1, 4, 5, 7, 8, 32946, 32773, 50000
PLAIN = [NONE, LZW, DEFLATE, ADOBE, PACKBITS, ZSTD]
#: The longest side, where it is to be small.
LONGEST_PX = 300
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def TOLERANCE(name):
    """The largest difference to the reference, in levels: the colours of JPEG and of YCbCr are rounded differently."""
    return 3 if "jpeg" in name or "ycbcr" in name else 0


def size(random, most):
    """Width and height."""
    return pictures.size(random, min(most, LONGEST_PX))


# --- writing ---------------------------------------------------------------------------------------------------------


def pack(samples, bits):
    """Rows of [height, row samples] of unsigned samples to bytes, the highest bit first."""
    if bits in (8, 16, 32, 64):
        raise ValueError("whole bytes are written by numpy")
    planes = (samples.astype(np.int64)[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.reshape(len(samples), -1).astype(np.uint8), axis=1)


def predicted(rows, stride, predictor, order):
    """Rows of [height, row samples] with a predictor, as bytes of [height, row bytes]."""
    height = len(rows)
    if predictor == 2:
        whole = rows.view(f"u{rows.dtype.itemsize}")
        out = whole.copy()
        out[:, stride:] -= whole[:, :-stride]
        return out.astype(out.dtype.newbyteorder(order)).view(np.uint8).reshape(height, -1)
    if predictor == 3:
        big = rows.astype(rows.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1, rows.dtype.itemsize)
        planes = big.transpose(0, 2, 1).reshape(height, -1)
        out = planes.copy()
        out[:, stride:] -= planes[:, :-stride]
        return out
    return np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder(order))).view(np.uint8).reshape(height, -1)


def old_lzw(data):
    """LZW as it was before 1993: codes from the lowest bit, growing one code later."""
    bits, out, size = [], {}, 9

    def put(code):
        bits.extend(code >> at & 1 for at in range(size))

    put(256)
    table, following, prefix = {bytes([i]): i for i in range(256)}, 258, b""
    for byte in data:
        longer = prefix + bytes([byte])
        if longer in table:
            prefix = longer
            continue
        put(table[prefix])
        table[longer] = following
        following += 1
        if following > 1 << size:
            size += 1
        if following >= 4094:
            put(256)
            table, following, size = {bytes([i]): i for i in range(256)}, 258, 9
        prefix = bytes([byte])
    if prefix:
        put(table[prefix])
    put(257)
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def packbits(rows):
    """Each row by itself, as the specification asks."""
    return b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in rows)


def compress(rows, compression, level=None):
    """Rows of bytes of [height, row bytes]."""
    data = np.ascontiguousarray(rows).tobytes()
    if compression == LZW:
        return imagecodecs.lzw_encode(data)
    if compression in (DEFLATE, ADOBE):
        return zlib.compress(data, level or 6)
    if compression == PACKBITS:
        return packbits(rows)
    if compression == ZSTD:
        return imagecodecs.zstd_encode(data, level or 3)
    if compression == "old LZW":
        return old_lzw(data)
    return data


def file_of(pages, order="<", big=False, padding=0):
    """A TIFF of pages of (chunks, tags); the tags map a number to (type, values)."""
    head = 16 if big else 8
    offset, entry, room = ("Q", "HHQ", 8) if big else ("I", "HHI", 4)
    out = bytearray(struct.pack(order + "2sH", b"II" if order == "<" else b"MM", 43 if big else 42))
    out += struct.pack(order + "HHQ", 8, 0, 0) if big else struct.pack(order + "I", 0)
    link = 8 if big else 4
    for chunks, tags in pages:
        tiled = 322 in tags
        offsets = []
        for chunk in chunks:
            out += b"\0" * (len(out) % 2 + padding)
            offsets.append(len(out))
            out += chunk
        tags = dict(tags)
        tags[324 if tiled else 273] = (LONG8 if big else LONG, offsets)
        counts = 325 if tiled else 279
        if tags.get(counts, 0) is not None:
            tags[counts] = (LONG, [len(chunk) for chunk in chunks])
        tags = {tag: value for tag, value in tags.items() if value is not None}
        places = {}
        for tag, (kind, values) in tags.items():
            packed = bytes(values) if kind in (ASCII, 7) else struct.pack(order + CODES[kind] * len(values), *values)
            if len(packed) > room:
                out += b"\0" * (len(out) % 2)
                places[tag] = struct.pack(order + offset, len(out))
                out += packed
            else:
                places[tag] = packed.ljust(room, b"\0")
        out += b"\0" * (len(out) % 2)
        struct.pack_into(order + offset, out, link, len(out))
        out += struct.pack(order + ("Q" if big else "H"), len(tags))
        for tag in sorted(tags):
            kind, values = tags[tag]
            count = len(values) // 2 if kind == RATIONAL else len(values)
            out += struct.pack(order + entry, tag, kind, count) + places[tag]
        link = len(out)
        out += struct.pack(order + offset, 0)
    return bytes(out)


def page_of(samples, bits, photometric, *, kind=1, compression=NONE, predictor=1, planar=False, tile=None, rows=None,
            order="<", reverse=False, more=None, encode=None):
    """The chunks and tags of [height, width, channels]."""
    height, width, channels = samples.shape
    tags = {256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [bits] * channels),
            259: (SHORT, [LZW if compression == "old LZW" else compression]), 262: (SHORT, [photometric]),
            277: (SHORT, [channels]), 284: (SHORT, [2 if planar else 1])}
    if kind != 1:
        tags[339] = (SHORT, [kind] * channels)
    if predictor != 1:
        tags[317] = (SHORT, [predictor])
    if reverse:
        tags[266] = (SHORT, [2])
    if tile:
        tags[322], tags[323] = (SHORT, [tile[0]]), (SHORT, [tile[1]])
        padding = ((0, -height % tile[1]), (0, -width % tile[0]), (0, 0))
        samples = np.pad(samples, padding, mode="edge")
        boxes = [(y, x) for y in range(0, height, tile[1]) for x in range(0, width, tile[0])]
        pieces = [samples[y:y + tile[1], x:x + tile[0]] for y, x in boxes]
    else:
        rows = rows or height
        tags[278] = (LONG, [rows])
        pieces = [samples[y:y + rows] for y in range(0, height, rows)]
    if planar:
        pieces = [piece[..., channel:channel + 1] for channel in range(channels) for piece in pieces]
    chunks = []
    for piece in pieces:
        if encode:
            chunks.append(encode(piece))
            continue
        flat = np.ascontiguousarray(piece).reshape(len(piece), -1)
        whole = bits in (8, 16, 32, 64)
        data = predicted(flat, piece.shape[2], predictor, order) if whole else pack(flat, bits)
        chunk = compress(data, compression)
        chunks.append(chunk.translate(REVERSED) if reverse else chunk)
    tags.update(more or {})
    return chunks, tags


# --- pictures and what they become -----------------------------------------------------------------------------------


def narrow(samples, bits):
    """Unsigned samples to 8 bits."""
    return pictures.to_eight_bits(samples, (1 << bits) - 1)


def scaled(values, low, high):
    """Real numbers to 8 bits."""
    return np.floor((values.astype(np.float64) - low) / (high - low) * 255 + 0.5).astype(np.uint8)


def model(random, width, height):
    """name, samples, bits, photometric, kind, tags, expected RGB."""
    draw = lambda channels, levels: pictures.draw(random, width, height, channels, levels)
    name = random.choice(["gray", "gray", "gray", "rgb", "rgb", "rgb", "indexed", "alpha", "alpha", "cmyk", "ycbcr", "signed", "float",
                          "float", "used bits", "extra", "u32"])
    bits = random.choice([8, 8, 8, 16, 16])
    if name == "gray":
        bits = random.choice([1, 2, 4, 8, 12, 16, random.randint(3, 15)])
        samples, inverted = draw(1, 1 << bits), random.random() < 0.3
        gray = narrow(samples[..., 0], bits)
        rgb = pictures.gray_to_rgb(255 - gray if inverted else gray)
        return f"gray{bits} inverted {inverted}", samples, bits, 0 if inverted else 1, 1, {}, rgb
    if name == "rgb":
        bits = random.choice([8, 8, 8, 16, 16, 4, 12, 10, 2])
        samples = draw(3, 1 << bits)
        return f"rgb{bits}", samples, bits, 2, 1, {}, narrow(samples, bits)
    if name == "indexed":
        bits = random.choice([1, 2, 4, 8, 8])
        samples = draw(1, 1 << bits)
        colors = np.random.default_rng(random.getrandbits(32)).integers(0, 256, (3, 1 << bits))
        times = random.choice([1, 256, 257])
        if times == 1 or (colors == 0).all():
            times = 1
        tags = {320: (SHORT, [int(value) * times for value in colors.ravel()])}
        return f"indexed{bits} times {times}", samples, bits, 3, 1, tags, colors.T[samples[..., 0]].astype(np.uint8)
    if name == "alpha":
        colors, kind = random.choice([1, 3, 3, 3]), random.choice([1, 2, 2, None, 999])
        samples = draw(colors + 1, 1 << bits)
        empty = random.random() < 0.2
        if empty:
            samples[..., -1] = 0
        elif random.random() < 0.3:
            samples[..., -1] = (1 << bits) - 1
        if colors == 1 and kind is None:
            kind = 2
        if kind == 1:
            # Never more than the alpha.
            if not empty:
                samples[..., :-1] = np.minimum(samples[..., :-1], samples[..., -1:])
        small = narrow(samples, bits)
        alpha = small[..., -1]
        color = pictures.gray_to_rgb(small[..., 0]) if colors == 1 else small[..., :3]
        if kind == 1:
            rgb = color if not alpha.any() else np.minimum(color.astype(int) + 255 - alpha[..., None], 255).astype(np.uint8)
        else:
            rgb = pictures.on_white(color, alpha)
        tags = {} if kind is None else {338: (SHORT, [kind])}
        return f"alpha{bits} of {colors} kind {kind} empty {empty}", samples, bits, 1 if colors == 1 else 2, 1, tags, rgb
    if name == "extra":
        extra = random.randint(1, 3)
        samples = draw(3 + extra, 1 << bits)
        return f"extra{bits} {extra}", samples, bits, 2, 1, {338: (SHORT, [0] * extra)}, narrow(samples[..., :3], bits)
    if name == "cmyk":
        samples = draw(4, 1 << bits)
        ink = narrow(samples, bits).astype(int)
        rgb = (((255 - ink[..., :3]) * (255 - ink[..., 3:]) + 127) // 255).astype(np.uint8)
        return f"cmyk{bits}", samples, bits, 5, 1, {}, rgb
    if name == "ycbcr":
        samples = draw(3, 256)
        rgb = np.asarray(Image.fromarray(samples, "YCbCr").convert("RGB"))
        return "ycbcr", samples, 8, 6, 1, {530: (SHORT, [1, 1])}, rgb
    if name == "signed":
        bits = random.choice([8, 16, 32])
        top = 1 << (bits - 1)
        high = random.randint(1, top - 1)
        low = random.choice([0, -high, -top, random.randint(-top, 0)])
        channels = random.choice([1, 3])
        parts = draw(channels, 65_536).astype(np.float64) / 65_535
        samples = np.rint(low + parts * (high - low)).astype(f"i{bits // 8}")
        rgb = scaled(samples, low, high)
        rgb = rgb if channels == 3 else pictures.gray_to_rgb(rgb[..., 0])
        kind = random.choice([DOUBLE, 9])
        code = {9: "i", DOUBLE: "d"}[kind]
        CODES[9] = "i"
        tags = {340: (kind, [low] * channels), 341: (kind, [high] * channels)}
        return f"signed{bits} {low} to {high} {code}", samples, bits, 1 if channels == 1 else 2, 2, tags, rgb
    if name == "u32":
        high = random.choice([255, 4095, 65_535, (1 << 32) - 1, random.randint(1, 1 << 31)])
        parts = draw(1, 65_536).astype(np.float64) / 65_535
        samples = np.rint(parts * high).astype(np.uint32)
        return f"u32 to {high}", samples, 32, 1, 1, {341: (LONG, [high])}, pictures.gray_to_rgb(scaled(samples[..., 0], 0, high))
    if name == "float":
        bits = random.choice([16, 32, 32, 64])
        low, high = random.choice([(0, 1), (0, 1), (0, 255), (-1, 1), (0, 2048), (0.25, 0.75)])
        channels = random.choice([1, 3])
        parts = draw(channels, 65_536).astype(np.float64) / 65_535
        samples = (low + parts * (high - low)).astype(f"f{bits // 8}")
        stated = (low, high) != (0, 1) or random.random() < 0.3
        tags = {340: (DOUBLE, [low] * channels), 341: (DOUBLE, [high] * channels)} if stated else {}
        inside = low >= 0 and high <= 1
        rgb = scaled(samples, *((0, 1) if inside else (low, high)))
        rgb = rgb if channels == 3 else pictures.gray_to_rgb(rgb[..., 0])
        return f"float{bits} {low} to {high} stated {stated}", samples, bits, 1 if channels == 1 else 2, 3, tags, rgb
    used = random.choice([10, 12, 14])
    channels = random.choice([1, 3])
    samples = draw(channels, 1 << used)
    rgb = narrow(samples, used)
    rgb = rgb if channels == 3 else pictures.gray_to_rgb(rgb[..., 0])
    if random.random() < 0.5:
        tags = {281: (SHORT, [(1 << used) - 1] * channels)}
    else:
        text = f'<?xml version="1.0"?><OME><Image><Pixels SizeC="1" SizeZ="1" SignificantBits="{used}"/></Image></OME>'
        tags = {270: (ASCII, text.encode() + b"\0")}
    return f"used {used} of 16", samples.astype(np.uint16), 16, 1 if channels == 1 else 2, 1, tags, rgb


def flat_corner(random, samples):
    """Saturates a part, as the background of a field is: long runs and a full table of LZW."""
    if samples.dtype.kind == "u" and random.random() < 0.4:
        samples = samples.copy()
        samples[len(samples) // 3:, samples.shape[1] // 4:] = samples.max()
    return samples


def drawn(random):
    """A file written here."""
    width, height = size(random, random.choice([20, 70, 70, 300]))
    name, samples, bits, photometric, kind, tags, rgb = model(random, width, height)
    order, big = random.choice("<>"), random.random() < 0.2
    compression = random.choice(PLAIN + [LZW])
    predictors = [1]
    if compression in (LZW, DEFLATE, ADOBE, ZSTD):
        if bits in (8, 16, 32, 64):
            predictors += [2, 2]
        if kind == 3:
            predictors += [3, 3]
    if compression == LZW and random.random() < 0.1 and bits == 8 and samples[0, 0, 0] % 2 == 0:
        compression = "old LZW"
    predictor = random.choice(predictors)
    tile = (16 * random.randint(1, 5), 16 * random.randint(1, 5)) if random.random() < 0.4 else None
    planar = samples.shape[2] > 1 and random.random() < 0.35
    orientation = random.choice([1, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    more = {274: (SHORT, [orientation]), **tags}
    if random.random() < 0.1:
        more[258] = (SHORT, [bits])
    if tile is None and random.random() < 0.1:
        more[279] = None
    reverse = random.random() < 0.25
    rows = random.choice([None, None, 1, random.randint(1, height)])
    chunks, tags = page_of(samples, bits, photometric, kind=kind, compression=compression, predictor=predictor, planar=planar,
                           tile=tile, rows=rows, order=order, reverse=reverse, more=more)
    if tile is None and rows is None and random.random() < 0.3:
        tags[278] = random.choice([None, (LONG, [2**32 - 1])])
    data = file_of([(chunks, tags)], order, big, random.choice([0, 0, 2]))
    name = (f"{name} {width}x{height} c{compression} p{predictor} tile {tile} rows {rows} planar {planar} {order} big {big} "
            f"reverse {reverse} turned {orientation} counts {more.get(279, 0) is not None}")
    if compression != "old LZW" and 279 not in more and 258 not in more:
        check(name, data, samples, planar, bits)
    return name, data, pictures.UPRIGHT[orientation](rgb), []


def check(name, data, samples, planar, bits):
    """The reference reads the samples as they were drawn."""
    if bits not in (1, 2, 4, 8, 10, 12, 14, 16, 32, 64):
        return
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        read = file.pages[0].asarray()
    drawn = samples.transpose(2, 0, 1) if planar else samples
    if read.size != samples.size or not np.array_equal(read.reshape(drawn.shape).astype(samples.dtype), drawn):
        raise AssertionError(f"tifffile reads other samples: {name}")


def by_tiffcp(random):
    """A file that libtiff writes."""
    width, height = size(random, random.choice([70, 70, 200]))
    while True:
        name, samples, bits, photometric, kind, tags, rgb = model(random, width, height)
        if bits in (1, 8, 16) and kind == 1 and "ycbcr" not in name and 270 not in tags:
            break
    samples = np.ascontiguousarray(samples)
    compression = random.choice(["none", "lzw", "lzw:2", "lzw:2", "zip", "zip:2", "packbits", "zstd", "zstd:2"] + ["g4"] * 3)
    if compression == "g4" and (bits != 1 or samples.shape[2] != 1 or photometric == 3):
        compression = "lzw"
    if bits == 1:
        compression = compression.replace(":2", "")
    arguments = ["-c", compression, "-f", random.choice(["lsb2msb", "msb2lsb"]), random.choice(["-B", "-L"])]
    if random.random() < 0.5:
        arguments += ["-t", "-w", str(16 * random.randint(1, 4)), "-l", str(16 * random.randint(1, 4))]
    else:
        arguments += ["-r", str(random.randint(1, height))]
    # tiffcp turns planes of 8 bits only.
    planar = bits == 8 and samples.shape[2] > 1 and random.random() < 0.4
    arguments += ["-p", "separate" if planar else "contig"]
    arguments += ["-8"] if random.random() < 0.2 else []
    source = file_of([page_of(samples, bits, photometric, more=tags)])
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("in.tif", "out.tif")]
        with open(paths[0], "wb") as file:
            file.write(source)
        subprocess.run(["tiffcp", *arguments, *paths], check=True, capture_output=True)
        with open(paths[1], "rb") as file:
            data = file.read()
    return f"tiffcp {name} {width}x{height} {' '.join(arguments)}", data, rgb, []


def jpeg_inside(random):
    """Strips and tiles compressed as JPEG, by libtiff or tifffile."""
    width, height = size(random, 120)
    color = random.random() < 0.7
    picture = pictures.draw(random, width, height, 3 if color else 1)
    if random.random() < 0.5:
        image, out = Image.fromarray(picture if color else picture[..., 0]), io.BytesIO()
        rows = random.choice([8, 16, 64])
        image.save(out, "TIFF", compression="jpeg", quality=random.randint(60, 95), tiffinfo={278: rows})
        data, name = out.getvalue(), f"jpeg by libtiff rows {rows}"
    else:
        out = io.BytesIO()
        tile = random.choice([None, (16, 16), (32, 48), (64, 64)])
        photometric = random.choice(["rgb", "ycbcr"]) if color else "minisblack"
        sampling = random.choice([(1, 1), (2, 1), (2, 2)]) if photometric == "ycbcr" else None
        options = {"subsampling": sampling} if sampling else {}
        tifffile.imwrite(out, picture if color else picture[..., 0], photometric=photometric, compression="jpeg", tile=tile,
                         rowsperstrip=None if tile else 16, compressionargs={"level": 90, **({} if photometric != "rgb" else {})},
                         metadata=None, **options)
        data, name = out.getvalue(), f"jpeg by tifffile {photometric} {tile} {sampling}"
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        rgb = file.pages[0].asarray()
    return f"{name} {width}x{height}", data, rgb if color else pictures.gray_to_rgb(rgb), []


def imagej(channels, mode, extra=""):
    """The description that ImageJ writes."""
    text = f"ImageJ=1.54f\nimages={channels}\nchannels={channels}\nhyperstack=true\nmode={mode}\nloop=false\n{extra}"
    return {270: (ASCII, text.encode() + b"\0")}


def ome(channels, used=None):
    """The description of an OME-TIFF."""
    bits = f' SignificantBits="{used}"' if used else ""
    inside = "".join(f'<Channel ID="Channel:0:{index}" SamplesPerPixel="1" {text}/>' for index, text in enumerate(channels))
    text = (f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeC="{len(channels)}" SizeZ="1" SizeT="1"{bits}>'
            f'{inside}<TiffData/></Pixels></Image></OME>')
    return {270: (ASCII, text.encode() + b"\0")}


def several_pages(random):
    """Channels and slices as pages."""
    width, height = size(random, 70)
    bits = random.choice([8, 8, 16])
    kind = random.choice(["imagej", "imagej luts", "imagej unclear", "ome", "ome unclear", "slices", "shaped", "missing"])
    count = 3 if kind in ("imagej", "imagej luts", "ome", "missing", "shaped") else random.choice([2, 4])
    samples = pictures.draw(random, width, height, count, 1 << bits)
    rgb = narrow(samples, bits)
    words, expected = [], rgb
    options = {"compression": random.choice(PLAIN), "order": random.choice("<>"), "tile": random.choice([None, (16, 16)])}
    if kind == "imagej":
        more = imagej(3, random.choice(["composite", "color"]))
    elif kind == "imagej luts":
        order = random.sample(range(3), 3)
        luts = b"".join(bytes(range(256)).join([b"\0" * 256 * color, b"\0" * 256 * (2 - color)]) for color in order)
        head = b"IJIJ" + b"luts" + struct.pack(options["order"] + "I", 3)
        if options["order"] == "<":
            head = b"JIJI" + b"stul" + struct.pack("<I", 3)
        more = {**imagej(3, "composite"), 50838: (LONG, [len(head), 768, 768, 768]), 50839: (BYTE, head + luts)}
        expected = np.empty_like(rgb)
        expected[..., order] = rgb
    elif kind == "imagej unclear":
        more, words = imagej(count, random.choice(["composite", "grayscale"])), ["ImageJ", f"{count} channels"]
    elif kind == "ome":
        more = ome(random.choice([['Color="-16776961"', 'Color="16711935"', 'Color="65535"'], ['Name="Red"', 'Name="Green"', 'Name="Blue"']]))
    elif kind == "ome unclear":
        more, words = ome(['Name="DAPI"'] * count), ["OME-TIFF", f"{count} channels"]
    elif kind == "slices":
        more = {270: (ASCII, f"ImageJ=1.54f\nimages={count}\nslices={count}\n\0".encode())}
        expected = pictures.gray_to_rgb(rgb[..., 0])
    elif kind == "shaped":
        more, words = {270: (ASCII, json.dumps({"shape": [3, height, width]}).encode() + b"\0")}, ["3 channels"]
    else:
        more, words = imagej(3, "composite"), ["does not have"]
    pages = [page_of(np.ascontiguousarray(samples[..., index:index + 1]), bits, 1, more=more if index == 0 else None, **options)
             for index in range(count)]
    data = file_of(pages[:random.choice([1, 2])] if kind == "missing" else pages, options["order"])
    return f"pages {kind} {bits} {options} {width}x{height}", data, None if words else expected, words


def refused(random):
    """What has no certain pixels, each with the words that name it."""
    width, height = size(random, 70)
    draw = lambda channels, levels=256: pictures.draw(random, width, height, channels, levels)
    gray = lambda **options: page_of(draw(1), 8, 1, **options)
    tag = lambda number, *values: {number: (SHORT, list(values))}
    choices = {
        "CCITT Group 3": lambda: gray(more=tag(259, 3)),
        "old-style JPEG": lambda: gray(more=tag(259, 6)),
        "LERC": lambda: gray(more=tag(259, 34887)),
        "LZMA": lambda: gray(more=tag(259, 34925)),
        "WebP": lambda: gray(more=tag(259, 50001)),
        "JPEG 2000": lambda: gray(more=tag(259, 33003)),
        "a method that is not known": lambda: gray(more=tag(259, 4242)),
        "predictor": lambda: gray(compression=random.choice([NONE, PACKBITS]), more=tag(317, 2)),
        "Lab": lambda: page_of(draw(3), 8, 8),
        "LogLuv": lambda: page_of(draw(3), 8, 32845),
        "raw sensor data": lambda: gray(more=tag(262, 32803)),
        "transparency mask": lambda: gray(more=tag(262, 4)),
        "PhotometricInterpretation": lambda: gray(more={262: None}),
        "only a preview": lambda: gray(more={254: (LONG, [1])}),
        "3 gray channels": lambda: page_of(draw(3), 8, 1, planar=random.random() < 0.5),
        "subsampled": lambda: page_of(draw(3), 8, 6, more=random.choice([{}, tag(530, 2, 2)])),
        "signed": lambda: page_of(draw(1).astype(np.int16), 16, 1, kind=2),
        "32-bit": lambda: page_of(draw(1).astype(np.uint32), 32, 1),
        "outside 0 to 1": lambda: page_of(draw(1).astype(np.float32) + 2, 32, 1, kind=3),
        "outside the range": lambda: page_of(draw(1, 65536) | 0x8000, 16, 1, more=tag(281, 4095)),
        "different depths": lambda: page_of(draw(3), 8, 2, more=tag(258, 8, 8, 16)),
        "complex": lambda: page_of(draw(1).astype(np.complex64).view(np.uint64), 64, 1, kind=6),
        "inks other than CMYK": lambda: page_of(draw(4), 8, 5, more=tag(332, 2)),
        "leaves out": lambda: page_of(draw(1), 8, 1),
        "more than 8 bits": lambda: page_of(draw(1, 65536), 16, 3, more=tag(320, *([0] * 6))),
    }
    words = random.choice(list(choices))
    chunks, tags = choices[words]()
    data = file_of([(chunks, tags)])
    if words == "leaves out":
        at = data.rfind(struct.pack("<HHI", 273, LONG, 1)) + 8
        data = data[:at] + bytes(4) + data[at + 4:]
        at = data.rfind(struct.pack("<HHI", 279, LONG, 1)) + 8
        data = data[:at] + bytes(4) + data[at + 4:]
    return f"refused {words} {width}x{height}", data, None, [words]


def cases(count, seed):
    """Yields (name, bytes, expected RGB or None, words that the refusal holds)."""
    random = randoms.Random(seed)
    kinds = [drawn] * 60 + [by_tiffcp] * 20 + [jpeg_inside] * 8 + [several_pages] * 6 + [refused] * 6
    for index in range(count):
        name, data, expected, words = random.choice(kinds)(random)
        yield f"{index:05} {name}.tif".replace("/", "-"), data, expected, words
