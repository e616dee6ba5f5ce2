"""Changes training pictures at random, so that the model learns parasites and not the cut-out, the lamp or the scanner.

It never touches a picture that a figure is taken from. It keeps one invariant: the same generator state changes a batch in
the same way.
"""

import math

import torch
import torch.nn.functional as F

from data import FINE_PX, SIDE_PX

# Red, green and blue after a turn of the hue by an angle: rotation about the grey axis (1, 1, 1).
_GREY = torch.full((3, 3), 1 / 3)
_CROSS = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)


def change(exact: torch.Tensor, fine: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Turns, scales, shifts, mirrors, tints and blurs each picture of a batch.

    `exact` is uint8 [n, SIDE_PX, SIDE_PX, 3], `fine` uint8 [n, FINE_PX, FINE_PX, 8]; gives float32 [n, 3, SIDE_PX, SIDE_PX]
    of 0 to 1.
    """
    # Pictures come in a new order each time, so that a part of the batch by place is a part of it at random.
    # A quarter stays exactly as the model will see it, but for a quarter turn: the others are resampled once more.
    untouched = len(exact) // 4
    plain = torch.rot90(exact[:untouched].permute(0, 3, 1, 2), _integer(4, rng), (2, 3)).float() / 255
    turned = _recolour_background(_turn(_source(fine[untouched:], rng), rng), rng)
    batch = torch.cat([plain, turned])
    if _integer(2, rng):
        batch = batch.flip(3)
    window = _window(len(batch), 0.75, rng)
    batch[window] = _tint(batch[window], rng)
    window = _window(len(batch), 0.25, rng)
    batch[window] = _blur(batch[window], rng)
    return batch


def spoil(fine: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Makes pictures that are no whole, sharp cell out of cells: far out of focus, a detail of a cell, or many cells.

    `fine` as in `change`, n divisible by 4; gives float32 [n, 3, SIDE_PX, SIDE_PX] of 0 to 1.
    """
    n = len(fine) // 4
    source = _source(fine, rng)
    whole = _recolour_background(_turn(source[: 2 * n], rng), rng)
    sigma = _uniform(2 * n, 4.0, 12.0, rng)
    defocused = torch.cat([_gauss(whole[i : i + 1], float(sigma[i])) for i in range(n)])
    detail = _affine(source[2 * n : 3 * n], _uniform(n, 2.4, 5.0, rng), _uniform(n, -0.55, 0.55, rng),
                     _uniform(n, -0.55, 0.55, rng), rng)
    small = F.interpolate(source[3 * n :, :3], SIDE_PX // 2, mode="area")
    quarters = [small[torch.randperm(n, generator=rng)] for _ in range(4)]
    many = torch.cat([torch.cat(quarters[:2], 3), torch.cat(quarters[2:], 3)], 2)
    torn = whole[n:].clone()
    torn[:, :, _uniform(1, 8, 22, rng).int() :] = 0
    torn = torch.rot90(torn, _integer(4, rng), (2, 3))
    return _tint(torch.cat([defocused, detail[:, :3], many, torn]), rng)


def _source(fine, rng):
    """The five channels to turn, float32 0 to 1; a quarter of the pictures as JPEG."""
    channels = fine[..., :5].clone()
    window = _window(len(fine), 0.25, rng)
    channels[window, ..., :3] = fine[window, ..., 5:8] * (fine[window, ..., 3:4] > 0)
    return channels.permute(0, 3, 1, 2).float() / 255


def _turn(source, rng):
    """0.72 to 1.08 of the size, a little off the centre."""
    n = len(source)
    scale = torch.exp(_uniform(n, math.log(0.72), math.log(1.08), rng))
    return _affine(source, scale, _uniform(n, -0.12, 0.12, rng), _uniform(n, -0.12, 0.12, rng), rng)


def _affine(source, scale, dx, dy, rng):
    """Any angle, a little squeezed, half of them mirrored; `dx` and `dy` in halves of a side."""
    n = len(source)
    angle, squeeze = _uniform(n, 0, 2 * math.pi, rng), _uniform(n, 0.92, 1.08, rng)
    mirror = torch.where(_chance(n, 0.5, rng).view(n), -1.0, 1.0)
    a, b = squeeze * mirror * torch.cos(angle) / scale, -torch.sin(angle) / squeeze / scale
    c, d = squeeze * mirror * torch.sin(angle) / scale, torch.cos(angle) / squeeze / scale
    theta = torch.stack([torch.stack([a, b, dx], 1), torch.stack([c, d, dy], 1)], 1)
    grid = F.affine_grid(theta, (n, source.shape[1], SIDE_PX, SIDE_PX), align_corners=False)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _recolour_background(turned, rng):
    """One in five gets a white or light background instead of black: not every upload is cut out onto black."""
    coloured, window = turned[:, :3].clone(), _window(len(turned), 0.2, rng)
    chosen = turned[window]
    n = len(chosen)
    light = _uniform(n, 0.7, 1.0, rng).view(n, 1, 1, 1) + (torch.rand(n, 3, 1, 1, generator=rng) - 0.5) * 0.1
    colour = torch.where(_chance(n, 0.5, rng), torch.ones(()), light.clamp(0, 1))
    coloured[window] += colour * (chosen[:, 4:] - chosen[:, 3:4]).clamp(0, 1)
    return coloured


def _tint(batch, rng):
    """Changes hue, saturation, brightness, contrast and each colour's share, adds grain; black stays black."""
    n = len(batch)
    hue = _uniform(n, -0.3, 0.3, rng).view(n, 1, 1)
    turn = _GREY + torch.cos(hue) * (torch.eye(3) - _GREY) + torch.sin(hue) * _CROSS
    saturation = _uniform(n, 0.7, 1.3, rng).view(n, 1, 1)
    mixing = (saturation * torch.eye(3) + (1 - saturation) * _GREY) @ turn
    mixing = mixing * _uniform(n, 0.78, 1.22, rng).view(n, 1, 1) * (1 + 0.12 * (torch.rand(n, 3, 1, generator=rng) - 0.5))
    tinted = torch.bmm(mixing, batch.flatten(2)).view_as(batch)
    gamma = _uniform(n, 0.8, 1.25, rng).view(n, 1, 1, 1)
    tinted = tinted.clamp_(1e-4, 1) ** gamma
    grain = torch.randn(tinted.shape, generator=rng) * _uniform(n, 0, 0.015, rng).view(n, 1, 1, 1)
    return (tinted + grain).mul_(batch.amax(1, keepdim=True) > 0).clamp_(0, 1)


def _blur(batch, rng):
    """A little out of focus or sharpened, standard deviation 0.3 to 1.3 px."""
    strength = _uniform(len(batch), -0.7, 1.0, rng).view(-1, 1, 1, 1)
    return (batch + strength * (_gauss(batch, float(_uniform(1, 0.3, 1.3, rng))) - batch)).clamp_(0, 1)


def _gauss(batch, sigma_px):
    reach = max(1, math.ceil(2.5 * sigma_px))
    steps = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-(steps**2) / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1).contiguous()
    across = F.conv2d(batch, kernel, padding=(0, reach), groups=3)
    return F.conv2d(across, kernel.transpose(2, 3).contiguous(), padding=(reach, 0), groups=3)


def _uniform(n, low, high, rng):
    return low + (high - low) * torch.rand(n, generator=rng)


def _chance(n, share, rng):
    return torch.rand(n, 1, 1, 1, generator=rng) < share


def _window(n, share, rng):
    """A run of rows, this share of n, at least one, at a random place."""
    rows = max(1, round(n * share))
    first = _integer(n - rows + 1, rng)
    return slice(first, first + rows)


def _integer(below, rng):
    return int(torch.randint(below, (1,), generator=rng))
