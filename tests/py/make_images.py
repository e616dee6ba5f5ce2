"""Draws the image fixtures of tests/images/decode.rs and writes what a decoder must make of them.

    pip install -r tests/py/requirements-images.txt
    python tests/py/make_images.py

Writes tests/data/images/. Every file shows the same procedurally drawn, non-symmetric picture (or a part of it), so that a
flip, a swap of channels or a shift by one row cannot go unseen. Expected pixels come from Pillow where Pillow reads the kind
exactly, else from the arrays that were written; `tolerance` is the largest difference of one sample that a test accepts.
"""

import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

OUT = pathlib.Path(__file__).parents[1] / "data" / "images"
LOSSLESS = 0
# Inverse transform, upsampling and colour conversion may round differently.
LOSSY = 4

expected, rejected, stored = [], [], {}


def draw(width, height, seed=7):
    """A pink field, a dark cell off the centre, a gradient and a little noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    cell = np.exp(-(((x - width * 0.3) / (width * 0.18)) ** 2 + ((y - height * 0.65) / (height * 0.2)) ** 2))
    picture = np.stack(
        [
            235 - 60 * x / width - 120 * cell,
            200 - 90 * y / height - 150 * cell,
            215 - 40 * (x / width) * (y / height) - 60 * cell,
        ],
        axis=-1,
    )
    picture += np.random.default_rng(seed).normal(0, 2.0, picture.shape)
    # A bright bar at the top right: any flip or turn moves it.
    picture[1 : 1 + height // 6, width - width // 4 : width - 2] = [250, 240, 90]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


WIDTH, HEIGHT = 33, 23
RGB = draw(WIDTH, HEIGHT)
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
# An alpha that is 0, 255 and everything between.
ALPHA = np.clip(np.linspace(-40, 300, WIDTH)[None, :] + np.zeros((HEIGHT, 1)), 0, 255).astype(np.uint8)
# 16 bits whose low byte is not the high byte again.
DEEP = (RGB.astype(np.uint16) << 8) | (RGB[::-1, ::-1] // 2 + 3)
DEEP_GRAY = DEEP[..., 1]


def narrow(deep):
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def on_white(rgb, alpha):
    rgb, alpha = rgb.astype(np.uint32), alpha.astype(np.uint32)[..., None]
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def triple(gray):
    return np.repeat(gray[..., None], 3, axis=-1)


def add(name, data, rgb, tolerance, format_name):
    (OUT / name).write_bytes(data)
    raw = np.ascontiguousarray(rgb, dtype=np.uint8).tobytes()
    if raw not in stored:
        stored[raw] = pathlib.Path(name).stem + ".rgb"
        (OUT / stored[raw]).write_bytes(raw)
    expected.append(
        {
            "file": name,
            "format": format_name,
            "width_px": rgb.shape[1],
            "height_px": rgb.shape[0],
            "rgb": stored[raw],
            "tolerance": tolerance,
        }
    )


def reject(name, data, code, message):
    (OUT / name).write_bytes(data)
    rejected.append({"file": name, "code": code, "message": message})


def save(image, format_name, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def read(data):
    """What Pillow shows: first frame, upright, alpha on white, RGB."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "P" or "A" in image.mode:
        image = image.convert("RGBA")
        rgba = np.asarray(image)
        return on_white(rgba[..., :3], rgba[..., 3])
    return np.asarray(image.convert("RGB"))


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


# --- JPEG ------------------------------------------------------------------------------------------------------------

picture = Image.fromarray(RGB)


def jpeg(name, image, **options):
    data = save(image, "JPEG", quality=92, **options)
    add(name, data, read(data), LOSSY, "jpeg")
    return data


jpeg("jpeg_444.jpg", picture, subsampling=0)
jpeg("jpeg_422.jpg", picture, subsampling=1)
jpeg("jpeg_420.jpg", picture, subsampling=2)
jpeg("jpeg_gray.jpg", Image.fromarray(GRAY))
jpeg("jpeg_progressive_444.jpg", picture, subsampling=0, progressive=True)
jpeg("jpeg_progressive_420.jpg", picture, subsampling=2, progressive=True)
jpeg("jpeg_progressive_gray.jpg", Image.fromarray(GRAY), progressive=True)
jpeg("jpeg_restarts.jpg", picture, subsampling=2, restart_marker_blocks=2)
jpeg("jpeg_progressive_restarts.jpg", picture, subsampling=2, progressive=True, restart_marker_blocks=3)
jpeg("jpeg_rgb_stored.jpg", picture, keep_rgb=True, subsampling=0)
# Flat enough for long runs of empty blocks, with detail in one corner.
flat = np.full((64, 96, 3), [214, 180, 200], dtype=np.uint8)
flat[:16, 72:] = draw(24, 16, seed=11)
jpeg("jpeg_flat.jpg", Image.fromarray(flat), subsampling=2, optimize=True)
jpeg("jpeg_progressive_flat.jpg", Image.fromarray(flat), subsampling=2, progressive=True)
small = Image.fromarray(draw(21, 13))
for value in range(1, 9):
    jpeg(f"jpeg_orientation_{value}.jpg", small, subsampling=0, exif=orientation(value))
# With a preview inside, whose own end marker must not be taken for the end of the picture.
thumb = save(small, "JPEG")
jpeg("jpeg_thumbnail.jpg", picture, subsampling=0, extra=b"\xff\xe3" + struct.pack(">H", len(thumb) + 2) + thumb)

cmyk = np.dstack([255 - RGB, (GRAY // 3)])
data = jpeg("jpeg_cmyk.jpg", Image.fromarray(cmyk, "CMYK"))
# The same samples, declared as YCCK.
mark = data.index(b"Adobe")
data = data[: mark + 11] + b"\x02" + data[mark + 12 :]
add("jpeg_ycck.jpg", data, read(data), LOSSY, "jpeg")
# Phones append videos and depth maps.
data = save(picture, "JPEG", quality=92, subsampling=2)
add("jpeg_appended.jpg", data + b"\x00\x01MotionPhoto" + bytes(range(256)), read(data), LOSSY, "jpeg")

# --- PNG -------------------------------------------------------------------------------------------------------------

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, depth, color, palette=None, transparency=None, interlaced=False, extra=()):
    """`samples` has the shape (height, width, channels)."""

    def rows(part):
        height, width, channels = part.shape
        out = bytearray()
        for row in part.reshape(height, width * channels):
            out.append(0)
            if depth == 16:
                out += row.astype(">u2").tobytes()
            elif depth == 8:
                out += row.astype(np.uint8).tobytes()
            else:
                bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).ravel()
                out += np.packbits(bits).tobytes()
        return bytes(out)

    if interlaced:
        parts = [samples[y0::dy, x0::dx] for x0, y0, dx, dy in ADAM7]
        raw = b"".join(rows(part) for part in parts if part.size)
    else:
        raw = rows(samples)
    height, width, _ = samples.shape

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
    for kind, body in extra:
        out += chunk(kind, body)
    if palette is not None:
        out += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparency is not None:
        out += chunk(b"tRNS", transparency)
    packed = zlib.compress(raw, 9)
    half = len(packed) // 2
    return out + chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:]) + chunk(b"IEND", b"")


def add_png(name, rgb, *args, by_pillow=True, **options):
    data = png(*args, **options)
    if by_pillow:
        assert np.array_equal(read(data), rgb), name
    add(name, data, rgb, LOSSLESS, "png")


gray_planes = GRAY[..., None]
add_png("png_rgb8.png", RGB, RGB, 8, 2)
add_png("png_rgb8_interlaced.png", RGB, RGB, 8, 2, interlaced=True)
add_png("png_rgb16.png", narrow(DEEP), DEEP, 16, 2, by_pillow=False)
add_png("png_gray8.png", triple(GRAY), gray_planes, 8, 0)
add_png("png_gray16.png", triple(narrow(DEEP_GRAY)), DEEP_GRAY[..., None], 16, 0, by_pillow=False)
add_png("png_gray1.png", triple((GRAY >> 7) * 255), gray_planes >> 7, 1, 0)
add_png("png_gray2.png", triple((GRAY >> 6) * 85), gray_planes >> 6, 2, 0)
add_png("png_gray4.png", triple((GRAY >> 4) * 17), gray_planes >> 4, 4, 0)
add_png("png_gray4_interlaced.png", triple((GRAY >> 4) * 17), gray_planes >> 4, 4, 0, interlaced=True)
add_png("png_rgba8.png", on_white(RGB, ALPHA), np.dstack([RGB, ALPHA]), 8, 6)
add_png(
    "png_rgba16.png",
    on_white(narrow(DEEP), ALPHA),
    np.dstack([DEEP, ALPHA.astype(np.uint16) * 257]),
    16,
    6,
    by_pillow=False,
)
add_png("png_gray_alpha8.png", on_white(triple(GRAY), ALPHA), np.dstack([GRAY, ALPHA]), 8, 4)
for depth in (1, 2, 4, 8):
    colors = 1 << depth
    quantized = picture.quantize(colors)
    palette = np.array(quantized.getpalette()[: 3 * colors], dtype=np.uint8).reshape(-1, 3)
    index = np.asarray(quantized)
    add_png(f"png_palette{depth}.png", palette[index], index[..., None], depth, 3, palette=palette)
alphas = np.linspace(0, 255, len(palette)).astype(np.uint8)
add_png(
    "png_palette8_transparent.png",
    on_white(palette[index], alphas[index]),
    index[..., None],
    8,
    3,
    palette=palette,
    transparency=alphas.tobytes(),
)
# The orientation that a phone app writes into a screenshot.
add_png("png_orientation_6.png", np.rot90(RGB, -1), RGB, 8, 2, extra=[(b"eXIf", orientation(6)[6:])])

# --- TIFF ------------------------------------------------------------------------------------------------------------

SHORT, LONG, LONG8 = 3, 4, 16


def tiff(chunks, tags, order="<", big=False):
    """A single page; `chunks` are the bytes of its strips or tiles, `tags` maps a tag to (type, values)."""
    tiled = 322 in tags
    offsets_tag, counts_tag = (324, 325) if tiled else (273, 279)
    head = 16 if big else 8
    offsets, body = [], b""
    for chunk in chunks:
        offsets.append(head + len(body))
        body += chunk + b"\0" * (len(chunk) % 2)
    tags = dict(tags)
    tags[offsets_tag] = (LONG, offsets)
    tags[counts_tag] = (LONG, [len(chunk) for chunk in chunks])
    codes = {SHORT: "H", LONG: "I", LONG8: "Q"}
    room, entry = (8, 20) if big else (4, 12)
    start = head + len(body)
    tail_at = start + (8 if big else 2) + entry * len(tags) + room
    directory, tail = b"", b""
    for tag in sorted(tags):
        kind, values = tags[tag]
        packed = struct.pack(order + codes[kind] * len(values), *values)
        directory += struct.pack(order + "HH" + ("Q" if big else "I"), tag, kind, len(values))
        if len(packed) <= room:
            directory += packed.ljust(room, b"\0")
        else:
            directory += struct.pack(order + ("Q" if big else "I"), tail_at + len(tail))
            tail += packed + b"\0" * (len(packed) % 2)
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    mark = b"II" if order == "<" else b"MM"
    if big:
        header = mark + struct.pack(order + "HHHQ", 43, 8, 0, start)
        end = struct.pack(order + "Q", 0)
    else:
        header = mark + struct.pack(order + "HI", 42, start)
        end = struct.pack(order + "I", 0)
    return header + body + count + directory + end + tail


def page(samples, bits, photometric, compression=1, strips=1, extra=None, planar=False, more=None, order="<", big=False):
    height, width, channels = samples.shape
    kind = {8: "u1", 16: order + "u2"}[bits]
    rows = -(-height // strips)
    planes = [samples[..., c : c + 1] for c in range(channels)] if planar else [samples]
    pack = {1: lambda raw: raw, 8: zlib.compress}[compression]
    chunks = [pack(plane[y : y + rows].astype(kind).tobytes()) for plane in planes for y in range(0, height, rows)]
    tags = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * channels),
        259: (SHORT, [compression]),
        262: (SHORT, [photometric]),
        277: (SHORT, [channels]),
        278: (LONG, [rows]),
        284: (SHORT, [2 if planar else 1]),
    }
    if extra is not None:
        tags[338] = (SHORT, [extra])
    tags.update(more or {})
    return tiff(chunks, tags, order, big)


def add_tiff(name, data, rgb=None, tolerance=LOSSLESS, by_pillow=True):
    if rgb is None:
        rgb = read(data)
    elif by_pillow:
        assert np.array_equal(read(data), rgb), name
    add(name, data, rgb, tolerance, "tiff")


for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
    short = compression.removeprefix("tiff_").removeprefix("adobe_")
    add_tiff(f"tiff_rgb8_{short}.tif", save(picture, "TIFF", compression=compression), RGB)
add_tiff("tiff_rgb8_jpeg.tif", save(picture, "TIFF", compression="jpeg", quality=92), tolerance=LOSSY)
add_tiff("tiff_gray8_jpeg.tif", save(Image.fromarray(GRAY), "TIFF", compression="jpeg", quality=92), tolerance=LOSSY)
add_tiff("tiff_gray8_lzw.tif", save(Image.fromarray(GRAY), "TIFF", compression="tiff_lzw"), triple(GRAY))
add_tiff("tiff_gray16_lzw.tif", save(Image.fromarray(DEEP_GRAY), "TIFF", compression="tiff_lzw"), triple(narrow(DEEP_GRAY)), by_pillow=False)
bilevel = Image.fromarray(GRAY).point(lambda value: 255 * (value > 150), "1")
add_tiff("tiff_bilevel.tif", save(bilevel, "TIFF"))
add_tiff("tiff_bilevel_fax.tif", save(bilevel, "TIFF", compression="group4"))
add_tiff("tiff_rgba8.tif", save(Image.fromarray(np.dstack([RGB, ALPHA])), "TIFF"), on_white(RGB, ALPHA))
add_tiff("tiff_gray_alpha8.tif", page(np.dstack([GRAY, ALPHA]), 8, 1, extra=2), on_white(triple(GRAY), ALPHA), by_pillow=False)
premultiplied = (RGB.astype(np.uint32) * ALPHA[..., None] // 255).astype(np.uint8)
add_tiff(
    "tiff_rgba8_premultiplied.tif",
    page(np.dstack([premultiplied, ALPHA]), 8, 2, extra=1),
    premultiplied + (255 - ALPHA[..., None]),
    by_pillow=False,
)
add_tiff("tiff_cmyk8.tif", save(Image.fromarray(cmyk, "CMYK"), "TIFF"), tolerance=1)
add_tiff("tiff_white_is_zero8.tif", page(255 - gray_planes, 8, 0), triple(GRAY))
add_tiff("tiff_white_is_zero16.tif", page(65535 - DEEP_GRAY[..., None], 16, 0), triple(narrow(DEEP_GRAY)), by_pillow=False)
add_tiff("tiff_rgb16_big_endian.tif", page(DEEP, 16, 2, strips=4, order=">"), narrow(DEEP), by_pillow=False)
add_tiff("tiff_rgb16_deflate.tif", page(DEEP, 16, 2, compression=8, strips=3), narrow(DEEP), by_pillow=False)
add_tiff("tiff_rgb8_planar.tif", page(RGB, 8, 2, strips=2, planar=True), RGB)
add_tiff("tiff_bigtiff.tif", page(RGB, 8, 2, strips=2, big=True), RGB)
tile = 16
padded = np.pad(RGB, ((0, -HEIGHT % tile), (0, -WIDTH % tile), (0, 0)))
tiles = [
    padded[y : y + tile, x : x + tile].tobytes() for y in range(0, HEIGHT, tile) for x in range(0, WIDTH, tile)
]
tile_tags = {
    256: (LONG, [WIDTH]),
    257: (LONG, [HEIGHT]),
    258: (SHORT, [8, 8, 8]),
    259: (SHORT, [1]),
    262: (SHORT, [2]),
    277: (SHORT, [3]),
    322: (SHORT, [tile]),
    323: (SHORT, [tile]),
}
add_tiff("tiff_tiled.tif", tiff(tiles, tile_tags), RGB)
for value in (3, 6):
    turned = {3: RGB[::-1, ::-1], 6: np.rot90(RGB, -1)}[value]
    add_tiff(f"tiff_orientation_{value}.tif", page(RGB, 8, 2, more={274: (SHORT, [value])}), turned)
pages = [picture, Image.fromarray(RGB[::-1])]
add_tiff("tiff_two_pages.tif", save(pages[0], "TIFF", save_all=True, append_images=pages[1:]), RGB)

add_tiff("tiff_palette8.tif", save(quantized, "TIFF"), palette[index])
add_tiff("tiff_rgb8_zstd.tif", save(picture, "TIFF", compression="zstd"), RGB)

# --- BMP -------------------------------------------------------------------------------------------------------------


def bmp(width, height, bits, compression, data, palette=b""):
    offset = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 2835, 2835, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def add_bmp(name, data, rgb):
    assert np.array_equal(read(data), rgb), name
    add(name, data, rgb, LOSSLESS, "bmp")


def padded_rows(samples):
    rows = [row.tobytes() for row in samples]
    return b"".join(row + b"\0" * (-len(row) % 4) for row in rows)


add_bmp("bmp_rgb24.bmp", save(picture, "BMP"), RGB)
add_bmp("bmp_gray8.bmp", save(Image.fromarray(GRAY), "BMP"), triple(GRAY))
add_bmp("bmp_bilevel.bmp", save(bilevel, "BMP"), np.asarray(bilevel.convert("RGB")))
add_bmp("bmp_palette8.bmp", save(quantized, "BMP"), palette[index])
add_bmp("bmp_top_down.bmp", bmp(WIDTH, -HEIGHT, 24, 0, padded_rows(RGB[..., ::-1])), RGB)
few = GRAY // 64
runs = bytearray()
for row in few[::-1]:
    start = 0
    while start < WIDTH:
        end = start
        while end < WIDTH and row[end] == row[start]:
            end += 1
        runs += bytes([end - start, row[start]])
        start = end
    runs += b"\0\0"
runs += b"\0\1"
levels = np.array([[20, 30, 40], [90, 80, 120], [160, 200, 140], [250, 240, 230]], dtype=np.uint8)
table = b"".join(bytes([b, g, r, 0]) for r, g, b in levels)
add_bmp("bmp_rle8.bmp", bmp(WIDTH, HEIGHT, 8, 1, bytes(runs), table), levels[few])

# --- GIF -------------------------------------------------------------------------------------------------------------

colors64 = picture.quantize(64)
gif_rgb = np.asarray(colors64.convert("RGB"))


def add_gif(name, data, rgb=None):
    rgb = read(data) if rgb is None else rgb
    assert np.array_equal(read(data), rgb), name
    add(name, data, rgb, LOSSLESS, "gif")


add_gif("gif_plain.gif", save(colors64, "GIF", interlace=0), gif_rgb)
add_gif("gif_interlaced.gif", save(colors64, "GIF", interlace=1), gif_rgb)
add_gif("gif_transparent.gif", save(colors64, "GIF", transparency=5))
second = Image.fromarray(RGB[:, ::-1]).quantize(64)
add_gif("gif_two_frames.gif", save(colors64, "GIF", save_all=True, append_images=[second], duration=100), gif_rgb)

# --- WebP ------------------------------------------------------------------------------------------------------------


def add_webp(name, data, tolerance):
    add(name, data, read(data), tolerance, "webp")


rgba = Image.fromarray(np.dstack([RGB, ALPHA]))
add_webp("webp_lossy.webp", save(picture, "WEBP", quality=90), LOSSY)
add_webp("webp_lossless.webp", save(picture, "WEBP", lossless=True), LOSSLESS)
add_webp("webp_lossy_alpha.webp", save(rgba, "WEBP", quality=90), LOSSY)
add_webp("webp_lossless_alpha.webp", save(rgba, "WEBP", lossless=True, exact=True), LOSSLESS)
add_webp("webp_two_frames.webp", save(picture, "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])], lossless=True), LOSSLESS)
add_webp("webp_orientation_8.webp", save(picture, "WEBP", lossless=True, exif=orientation(8)), LOSSLESS)

# --- What must not cost memory ----------------------------------------------------------------------------------------

# Large enough that memory is told from overhead, smooth enough to be small files.
wide = np.repeat(np.linspace([250, 180, 90], [60, 200, 220], 640).astype(np.uint8)[None], 480, axis=0)
wide_image = Image.fromarray(wide)
wide_alpha = np.dstack([wide, wide[..., 0]])
wide_deep = wide.astype(np.uint16) * 257
large = {
    "baseline.jpg": save(wide_image, "JPEG", subsampling=2),
    "gray.jpg": save(wide_image.convert("L"), "JPEG"),
    "progressive.jpg": save(wide_image, "JPEG", progressive=True, subsampling=0),
    "turned.jpg": save(wide_image, "JPEG", subsampling=2, exif=orientation(6)),
    "rgb8.png": png(wide, 8, 2),
    "rgba16.png": png(wide_alpha.astype(np.uint16) * 257, 16, 6),
    "gray16.png": png(wide_deep[..., :1], 16, 0),
    "rgb8.tif": page(wide, 8, 2, compression=8),
    "rgb16.tif": page(wide_deep, 16, 2, compression=8),
    "planar16.tif": page(wide_deep, 16, 2, compression=8, planar=True),
    "gray16.tif": page(wide_deep[..., :1], 16, 1, compression=8),
    "jpeg.tif": save(wide_image, "TIFF", compression="jpeg", strip_size=1 << 30),
    "zstd.tif": save(wide_image, "TIFF", compression="zstd", strip_size=1 << 30),
    "palette.tif": save(wide_image.quantize(4), "TIFF", compression="tiff_adobe_deflate"),
    "float.tif": save(Image.fromarray((wide[..., 0] / 255).astype(np.float32)), "TIFF", compression="tiff_adobe_deflate"),
    "plain.gif": save(wide_image.quantize(4), "GIF"),
    "lossy.webp": save(wide_image, "WEBP", quality=80),
    "lossy_alpha.webp": save(Image.fromarray(wide_alpha), "WEBP", quality=80),
    "lossless.webp": save(wide_image, "WEBP", lossless=True),
    "two_frames.webp": save(wide_image, "WEBP", save_all=True, append_images=[Image.fromarray(wide[:, ::-1])], quality=80),
}
for name, data in large.items():
    (OUT / f"large_{name}").write_bytes(data)

# Eight megabytes of text in eight kilobytes.
comment = b"Comment\0\0" + zlib.compress(b" " * (8 << 20), 9)
(OUT / "bomb_text.png").write_bytes(png(RGB, 8, 2, extra=[(b"zTXt", comment)]))
profile = b"profile\0\0" + zlib.compress(b"\0" * (8 << 20), 9)
(OUT / "bomb_profile.png").write_bytes(png(RGB, 8, 2, extra=[(b"iCCP", profile)]))

# --- What is refused --------------------------------------------------------------------------------------------------

whole = save(picture, "JPEG", quality=92, subsampling=2)
half = whole[: len(whole) * 9 // 10]
reject("refused_cut.jpg", half, "corrupt", f"ends at byte {len(half)}")
# Repair tools close what was cut: it opens everywhere, half of it grey.
reject("refused_cut_and_closed.jpg", half + b"\xff\xd9", "corrupt", "the picture data stops early")
reject("refused_float.tif", save(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "unsupported_format", "floating-point")
reject(
    "refused_preview.tif",
    page(RGB, 8, 2, more={254: (LONG, [1])}),
    "unsupported_format",
    "only a preview",
)
reject("refused_text.jpg", b"slide;field;result\n17;3;negative\n", "not_an_image", "text")
reject("refused_heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format", "HEIC")

(OUT / "expected.json").write_text(
    json.dumps({"decoded": expected, "refused": rejected}, indent=1, sort_keys=True) + "\n"
)
