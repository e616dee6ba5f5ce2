"""Trains one network; the same settings for every fold and for the model that ships.

It never looks at a patient that is held out, and stops after a fixed number of epochs: nothing is picked by a result. It keeps
one invariant: the same pictures and seed give the same weights on the same machine.
"""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import augment
from network import Network, normalise

EPOCHS = 18
CELLS, DRAWN_OUTLIERS, SPOILT = 56, 8, 4  # pictures of a batch
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.05
LABEL_SMOOTHING = 0.05  # one reader's labels are partly wrong
AVERAGE_DECAY = 0.998  # of the moving average of the weights that is kept in the end


@dataclass
class Pictures:
    """Pictures to train on: `exact` and `fine` of data.py as uint8 tensors; labels [n]."""

    exact: torch.Tensor
    fine: torch.Tensor
    labels: torch.Tensor

    def rows(self, rows: np.ndarray) -> "Pictures":
        rows = torch.from_numpy(rows)
        return Pictures(self.exact[rows], self.fine[rows], self.labels[rows])


def train(cells: Pictures, outliers: Pictures, seed: int, name: str, epochs: int = EPOCHS) -> Network:
    """A network trained on `cells` (labels 0 and 1) and `outliers` (their labels are not read)."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network = Network().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    steps_an_epoch = len(cells.labels) // CELLS
    optimizer = torch.optim.AdamW([
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps_an_epoch * epochs, pct_start=0.15, div_factor=20, final_div_factor=100)
    step = 0
    for epoch in range(epochs):
        begun, losses = time.monotonic(), []
        network.train()
        order = torch.randperm(len(cells.labels), generator=rng)
        for index in range(steps_an_epoch):
            rows = order[index * CELLS : (index + 1) * CELLS]
            loss = _loss(network, _batch(cells, rows, outliers, rng), cells.labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            _follow(average, network, min(AVERAGE_DECAY, (1 + step) / (10 + step)))
            losses.append(loss.item())
        print(f"{name}: epoch {epoch + 1}/{epochs}, loss {np.mean(losses):.4f}, {time.monotonic() - begun:.0f} s", flush=True)
    return average.eval()


def _batch(cells, rows, outliers, rng):
    """CELLS changed cells, then DRAWN_OUTLIERS drawn outliers, then SPOILT cells."""
    drawn = torch.randint(len(outliers.labels), (DRAWN_OUTLIERS,), generator=rng)
    good = augment.change(cells.exact[rows], cells.fine[rows], rng)
    bad = augment.change(outliers.exact[drawn], outliers.fine[drawn], rng)
    spoilt = augment.spoil(cells.fine[torch.randint(len(cells.labels), (SPOILT,), generator=rng)], rng)
    return normalise(torch.cat([good, bad, spoilt])).to(memory_format=torch.channels_last)


def _loss(network, batch, labels):
    """Cross-entropy of the cells' labels; what is not a cell is told from cells, and drawn to an even answer
    (outlier exposure: Hendrycks et al. 2019, arXiv:1812.04606)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, outlier = network(batch)
    logits, outlier, n = logits.float(), outlier.float(), len(labels)
    is_outlier = torch.cat([torch.zeros(n), torch.ones(len(batch) - n)])
    even = -F.log_softmax(logits[n:], 1).mean()
    return (F.cross_entropy(logits[:n], labels, label_smoothing=LABEL_SMOOTHING)
            + 0.5 * F.binary_cross_entropy_with_logits(outlier, is_outlier) + 0.1 * even)


@torch.no_grad()
def _follow(average, network, decay):
    for kept, new in zip(average.state_dict().values(), network.state_dict().values()):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


@torch.no_grad()
def score(network: Network, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, 2] and outlier scores [n], 0 to 1, of uint8 pixels [n, SIDE_PX, SIDE_PX, 3]; in 32 bits."""
    logits, outlier = [], []
    for part in np.array_split(exact, max(1, len(exact) // 256)):
        pixels = normalise(torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float() / 255)
        found = network(pixels.contiguous(memory_format=torch.channels_last))
        logits.append(found[0].numpy())
        outlier.append(torch.sigmoid(found[1]).numpy())
    return np.concatenate(logits), np.concatenate(outlier)
