"""Makes `giemsa.proof`: a few small pictures, and the scores that the training framework gave for them.

It never runs a network: who calls it gives the scores of the *original* model, so that whatever goes wrong between the
framework and an answer of Giemsa (conversion, damaged weights, another scale, swapped channels, another engine) shows.
Invariant: the pictures have the size of the network's input, so that no resize takes part in the comparison.

    pictures = proof.pictures(64, 48)
    scores = [net(preprocess(picture)) for picture in pictures]
    text = proof.proof(pictures, scores, by="torch 2.9.0")   # the value of the metadata key giemsa.proof
"""

import base64
import json
import math
import struct
import zlib

import numpy as np

# What the engine refuses to read (crates/model/src/proof.rs).
MAX_BYTES = 256 * 1024
MAX_INPUTS = 8


def pictures(width: int, height: int, gray: bool = False, count: int = 4) -> list[np.ndarray]:
    """`count` pictures, uint8 [height, width, 3 or 1]: round bodies with dots on a light ground, all different.

    Their colours are few and flat, so that they stay small as PNG at any size; red, green and blue differ everywhere,
    so that swapped channels show.
    """
    rng = np.random.default_rng(14)
    channels = 1 if gray else 3
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    rows, columns = (rows + 0.5) / height, (columns + 0.5) / width
    made = []
    for index in range(count):
        ground = rng.integers(170, 251, 3)
        picture = np.broadcast_to(ground, (height, width, 3)).copy()
        # A band of another colour, a large body, and as many small dots as the picture's number.
        picture[rows + columns < rng.uniform(0.3, 0.9)] = rng.integers(0, 256, 3)
        bodies = [(rng.uniform(0.4, 0.6, 2), rng.uniform(0.25, 0.45), rng.integers([140, 60, 60], [240, 160, 200]))]
        bodies += [(rng.uniform(0.25, 0.75, 2), rng.uniform(0.03, 0.12), rng.integers(0, [130, 80, 160]))
                   for _ in range(index)]
        for (y, x), radius, colour in bodies:
            picture[(rows - y) ** 2 + (columns - x) ** 2 < radius ** 2] = colour
        made.append(np.ascontiguousarray(picture[:, :, :channels].astype(np.uint8)))
    return made


def png(picture: np.ndarray) -> bytes:
    """The PNG file of a uint8 picture [height, width, 3 or 1]."""
    height, width, channels = picture.shape
    if picture.dtype != np.uint8 or channels not in (1, 3):
        raise ValueError(f"the picture is {picture.dtype} {list(picture.shape)}; expected uint8 [height, width, 1 or 3]")
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    content = zlib.compress(lines.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def tensor(picture: np.ndarray, spec: dict) -> np.ndarray:
    """A picture as the network gets it by `spec` (`giemsa.input`, complete): float32 [1, ...]."""
    mean, std = (np.float32(spec[key]) for key in ("mean", "std"))
    values = ((picture.astype(np.float32) * np.float32(spec["scale"]) - mean) / std)[None]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if spec["layout"] == "nchw" else values)


def proof(pictures, scores, by: str, outliers=None, tolerance: float | None = None) -> str:
    """The value of `giemsa.proof`.

    `scores`: for each picture what the framework gave, raw, as `giemsa.output` says. `outliers`: for each picture the
    outlier score, if the network has one. `by`: the framework and its version. `tolerance`: only for networks with
    quantised or 16-bit weights; at most 0.05.
    """
    if not 1 <= len(pictures) <= MAX_INPUTS or len(scores) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures and {len(scores)} rows of scores; expected 1 to {MAX_INPUTS} of each")
    inputs = []
    for index, (picture, row) in enumerate(zip(pictures, scores)):
        entry = {"png": base64.b64encode(png(picture)).decode(), "scores": _numbers(row)}
        if outliers is not None:
            entry["outlier"] = _numbers(outliers[index])[0]
        inputs.append(entry)
    value = {"by": by, "inputs": inputs} | ({} if tolerance is None else {"tolerance": float(tolerance)})
    text = json.dumps(value)
    if len(text) > MAX_BYTES:
        raise ValueError(f"the proof takes {len(text)} bytes, more than the {MAX_BYTES} that are read; give fewer pictures, "
                         f"or plainer ones")
    return text


def _numbers(values) -> list[float]:
    numbers = [float(value) for value in np.asarray(values, dtype=np.float64).ravel()]
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"the scores are {numbers}; expected finite numbers")
    return numbers
