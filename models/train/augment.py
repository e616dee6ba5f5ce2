"""Changes training cells at random, so that the model learns parasites and not the cut-out or the lamp.

It never touches calibration or test cells. It keeps one invariant: the same seed changes a batch in the same way.
"""

import keras
import numpy as np
import tensorflow as tf

from data import FINE_PX, SIDE_PX


class Batches(keras.utils.PyDataset):
    """Batches of changed cells, (float32 0..=255 [n, SIDE_PX, SIDE_PX, 3], one-hot [n, 2]), in a new order each epoch."""

    def __init__(self, exact, fine, labels, batch, seed):
        super().__init__()
        self.exact, self.fine, self.labels, self.batch = exact, fine, labels, batch
        self.seed, self.epoch = seed, 0
        self.order = np.random.default_rng([seed, 0]).permutation(len(labels))

    def __len__(self):
        return len(self.labels) // self.batch

    def __getitem__(self, index):
        rows = self.order[index * self.batch : (index + 1) * self.batch]
        seed = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0] >> 1
        return change(self.exact[rows], self.fine[rows], int(seed)), np.eye(2, dtype="float32")[self.labels[rows]]

    def on_epoch_end(self):
        self.epoch += 1
        self.order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.labels))


def change(exact: np.ndarray, fine: np.ndarray, seed: int) -> np.ndarray:
    """Turns, scales, shifts, mirrors and tints each cell of a batch."""
    rng = np.random.default_rng(seed)
    n = len(exact)
    turned = _recolour_background(rng, _turn(rng, fine))
    # A third stays exactly as the model will see it, but for a quarter turn: the others are resampled once more.
    keep = rng.random((n, 1, 1, 1)) < 0.33
    batch = np.where(keep, np.rot90(exact, rng.integers(4), axes=(1, 2)), turned)
    if rng.random() < 0.5:
        batch = batch[:, :, ::-1]
    return _tint(rng, batch.astype("float32"))


def _turn(rng, fine):
    """Any angle, 0.75 to 1.05 of the size, a little squeezed and off the centre; half of them mirrored."""
    n = len(fine)
    angle = rng.uniform(0, 2 * np.pi, n)
    scale = (FINE_PX / SIDE_PX) / rng.uniform(0.75, 1.05, n)
    squeeze = rng.uniform(0.92, 1.08, n)
    mirror = rng.choice([-1.0, 1.0], n)
    a, b = scale * squeeze * mirror * np.cos(angle), -scale / squeeze * np.sin(angle)
    c, d = scale * squeeze * mirror * np.sin(angle), scale / squeeze * np.cos(angle)
    middle_out, middle_in = (SIDE_PX - 1) / 2, (FINE_PX - 1) / 2
    dx, dy = rng.uniform(-4, 4, (2, n))
    e = middle_in + dx - (a + b) * middle_out
    f = middle_in + dy - (c + d) * middle_out
    zero = np.zeros(n)
    matrices = np.stack([a, b, e, c, d, f, zero, zero], axis=1).astype("float32")
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=fine.astype("float32"),
        transforms=matrices,
        output_shape=[SIDE_PX, SIDE_PX],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    ).numpy()


def _recolour_background(rng, turned):
    """One in five gets a white or light background instead of black: not every upload is cut out onto black."""
    n = len(turned)
    light = rng.uniform(0.75, 1.0, (n, 1, 1, 1)) * 255 + rng.uniform(-12, 12, (n, 1, 1, 3))
    white = rng.random((n, 1, 1, 1)) < 0.5
    colour = np.where(white, 255.0, np.clip(light, 0, 255))
    background = (turned[..., 4:] - turned[..., 3:4]).clip(0, 255) / 255
    chosen = rng.random((n, 1, 1, 1)) < 0.2
    return turned[..., :3] + np.where(chosen, colour * background, 0.0)


def _tint(rng, batch):
    """Changes brightness, contrast, and each colour's share; black stays black, as multiplication leaves it."""
    n = len(batch)
    mixing = np.eye(3) + rng.normal(0, 0.035, (n, 3, 3))
    mixing *= rng.uniform(0.85, 1.15, (n, 1, 1)) * rng.uniform(0.93, 1.07, (n, 1, 3))
    gamma = rng.uniform(0.85, 1.18, (n, 1, 1, 1))
    tinted = np.einsum("nhwc,ncd->nhwd", batch, mixing.astype("float32"))
    tinted = 255 * (tinted.clip(0, 255) / 255) ** gamma.astype("float32")
    tinted += rng.normal(0, 2.0, tinted.shape).astype("float32") * (batch.max(axis=3, keepdims=True) > 0)
    # Rounded, because the model only ever sees whole levels.
    return np.round(tinted.clip(0, 255)).astype("float32")
