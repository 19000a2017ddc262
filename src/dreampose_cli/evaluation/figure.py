"""Metrics of the figure alone, for clips whose poses are known: one number a frame, None where it is undefined.

Backdrops fill half of a fashion picture and are easily right, so a mean over all pixels says little of the clothes; and
both a mean difference and SSIM forgive blur. `texture` does not: of a picture that has a garment's colours but not its
pattern it is 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .metrics import C1, C2, RADIUS, WINDOW, Pictures, unit

METRICS = ("figure_l1", "figure_ssim", "texture")  # their keys
SMALLEST = 16  # pixels of a body part that count
DETAIL = 40  # what is coarser than about a fortieth of the picture's height is colour and light, not texture


def figure_mask(parts: np.ndarray, reach: int = 2) -> np.ndarray:
    """Part labels (N, H, W), 0 off the body -> bool (N, H, W): the body, grown by `reach` pixels on all sides."""
    body = torch.from_numpy(np.ascontiguousarray(parts) > 0).float().unsqueeze(1)
    return F.max_pool2d(body, 2 * reach + 1, stride=1, padding=reach)[:, 0].numpy() > 0


def figure_ssim(prediction: Pictures, reference: Pictures, mask: np.ndarray) -> list[float | None]:
    """As `metrics.ssim`, the mean over the pixels of `mask` (N, H, W) whose window lies inside the picture."""
    a, b = unit(prediction), unit(reference)
    inner = torch.from_numpy(np.ascontiguousarray(mask))[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
    values: list[float | None] = []
    for x, y, inside in zip(a, b, inner, strict=True):
        if not inside.any():
            values.append(None)
            continue
        rows, columns = _box(inside)
        inside, reach = inside[rows, columns], 2 * RADIUS  # what the windows of these pixels see
        seen = slice(rows.start, rows.stop + reach), slice(columns.start, columns.stop + reach)
        x, y = x[seen].permute(2, 0, 1), y[seen].permute(2, 0, 1)  # (3, H, W)
        means = _windowed(torch.cat([x, y, x * x, y * y, x * y]))
        mx, my, xx, yy, xy = means.split(3)
        likeness = (2 * mx * my + C1) * (2 * (xy - mx * my) + C2)
        likeness /= (mx * mx + my * my + C1) * (xx - mx * mx + yy - my * my + C2)
        values.append(float(likeness[:, inside].mean()))
    return values


def texture(prediction: Pictures, reference: Pictures, parts: np.ndarray) -> list[float | None]:
    """The share of the garments' texture that is there, where it belongs: 1 all of it, 0 none, below 0 its opposite.

    From both pictures each body part's local mean colour is taken away (Gaussian of sigma height / 40, over the pixels
    of that part alone), so that colour, light and outline do not count. Of what remains, x and y: 2 sum(x y) /
    (sum(x^2) + sum(y^2)), Lin's coefficient of concordance (1989) without its term for the means, over all parts of at
    least 16 pixels. `parts` (N, H, W) are the reference's labels, 0 off the body. A blurred reference loses by its
    contrast, a pattern out of place by its correlation. None where the reference has no texture.
    """
    a, b = unit(prediction), unit(reference)
    sigma = a.shape[1] / DETAIL
    values = []
    for x, y, labels in zip(a, b, torch.from_numpy(np.ascontiguousarray(parts)), strict=True):
        both = torch.cat([x, y], dim=2).permute(2, 0, 1)  # (6, H, W)
        shared = energy = expected = 0.0
        for part in labels.unique():
            inside = labels == part
            if not part or int(inside.sum()) < SMALLEST:
                continue
            box = _box(inside)  # what lies outside of it has no weight
            within, planes = inside[box], both[:, *box]
            detail = (planes - _mean_within(planes, within.double(), sigma))[:, within]
            ours, theirs = detail[:3], detail[3:]
            shared += float((ours * theirs).sum())
            energy += float(ours.square().sum() + theirs.square().sum())
            expected += float(theirs.square().sum())
        values.append(2 * shared / energy if expected > 1e-9 else None)
    return values


def _box(inside: Tensor) -> tuple[slice, slice]:
    """Rows and columns that hold every True of a mask (H, W) that has one."""
    spans = (torch.nonzero(inside.any(dim))[[0, -1], 0].tolist() for dim in (1, 0))
    top, left = (slice(first, last + 1) for first, last in spans)
    return top, left


def _windowed(planes: Tensor) -> Tensor:
    """SSIM's Gaussian means of planes (K, H, W), where the window lies inside."""
    window = torch.tensor([*WINDOW, *WINDOW[-2::-1]], dtype=torch.float64)
    planes = F.conv2d(planes.unsqueeze(1), window.view(1, 1, -1, 1))
    return F.conv2d(planes, window.view(1, 1, 1, -1)).squeeze(1)


def _mean_within(planes: Tensor, inside: Tensor, sigma: float) -> Tensor:
    """Gaussian means of planes (K, H, W) over the pixels of `inside` (H, W) alone."""
    reach = math.ceil(3 * sigma)
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    weighted = torch.cat([planes * inside, inside.unsqueeze(0)]).unsqueeze(1)
    weighted = F.conv2d(weighted, window.view(1, 1, -1, 1), padding=(reach, 0))
    weighted = F.conv2d(weighted, window.view(1, 1, 1, -1), padding=(0, reach)).squeeze(1)
    return weighted[:-1] / weighted[-1:].clamp_min(1e-12)
