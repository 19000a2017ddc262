"""Pose-aligned warping error: how much a point of the body's surface changes its colour from one frame to the next.

Poses say which surface point (I, U, V) a pixel shows. Each surface point that frame t + 1 shows is looked up in frame t, and
the two colours are compared where both frames show the very same points. A texture that swims or flickers over a moving body
scores high, a body that moves with its texture does not. Light that changes as the body turns, and sampling, give a true
clip an error of its own: the reference's, to be read next to it. The metric looks points up by
itself, and shares no operator with the networks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..poses.sequence import PARTS

SEEN = 0.9  # confidence from which a surface point counts as seen in the frame before
TEXELS = 32  # side of one chart in the atlas, a power of two


@torch.no_grad()
def warp_errors(
    pairs: list[tuple[np.ndarray, np.ndarray]], pose_before: np.ndarray, pose_after: np.ndarray
) -> list[float | None]:
    """Mean absolute differences, 0 to 1, over the surface points that both frames show; None where there are none.

    pairs: of each clip a frame and the next one, uint8 (H, W, 3); poses float32 (3, H, W) of the same size, which they share.
    """
    first = _pictures([before for before, _ in pairs])
    second = _pictures([after for _, after in pairs])
    before, after = (
        torch.as_tensor(np.ascontiguousarray(pose), dtype=torch.float32) for pose in (pose_before, pose_after)
    )
    where, seen = correspondences(before, after)
    if not seen.any():
        return [None] * len(pairs)
    grid = where[None].expand(len(pairs), -1, -1, -1)
    found = F.grid_sample(first, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return [float((found[i] - second[i]).abs()[:, seen].mean(dtype=torch.float64)) for i in range(len(pairs))]


def correspondences(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Poses (3, H, W) as I, U, V of two frames -> where in the first the surface points of the second are, and whether.

    Returns positions (H, W, 2), x and y in [-1, 1] (grid_sample's units), and a mask (H, W) of the points that both show.
    """
    atlas = _atlas(before)
    part, u, v = after[0].round(), after[1], after[2]
    half = 0.5 / TEXELS  # between the outermost texel centres a chart does not bleed into its neighbours
    x = u.clamp(half, 1 - half) * 2 - 1
    y = (part + v.clamp(half, 1 - half)) * 2 / (PARTS + 1) - 1
    found = F.grid_sample(atlas[None], torch.stack([x, y], dim=-1)[None], mode="bilinear", align_corners=False)[0]
    return found[:2].permute(1, 2, 0), (part > 0) & (found[2] >= SEEN)


def _atlas(pose: Tensor) -> Tensor:
    """Where in a frame each texel of the body's charts is seen, and how surely: (3, (PARTS + 1) * TEXELS, TEXELS).

    pose (3, H, W) as I, U, V. The charts lie below one another, chart 0 (background) empty: x, y and the confidence in [0, 1].
    """
    height, width = pose.shape[-2:]
    part, u, v = pose[0].round().long(), pose[1], pose[2]
    ys = ((torch.arange(height) + 0.5) * 2 / height - 1).view(height, 1).expand(-1, width)
    xs = ((torch.arange(width) + 0.5) * 2 / width - 1).view(1, width).expand(height, -1)
    shown = part > 0
    values = torch.stack([xs[shown], ys[shown], torch.ones_like(u[shown])], dim=-1).float()  # (body pixels, 3)
    a, b = u[shown] * TEXELS - 0.5, v[shown] * TEXELS - 0.5  # in texels, from the first one's centre
    a0, b0 = a.floor(), b.floor()
    atlas = torch.zeros((PARTS + 1) * TEXELS * TEXELS, 3)
    for da in (0, 1):
        for db in (0, 1):  # each pixel is splatted on its four nearest texels
            weight = (1 - (a - a0 - da).abs()) * (1 - (b - b0 - db).abs())
            column = (a0 + da).clamp(0, TEXELS - 1).long()
            row = (b0 + db).clamp(0, TEXELS - 1).long()
            atlas.index_add_(0, (part[shown] * TEXELS + row) * TEXELS + column, values * weight.unsqueeze(-1))
    atlas = atlas.view(PARTS + 1, TEXELS, TEXELS, 3).permute(0, 3, 1, 2)
    seen = (atlas[:, 2:] / 0.25).clamp(max=1.0)  # a quarter of a pixel in a texel counts as seen
    seen = F.max_pool2d(seen, (5, 7), stride=1, padding=(2, 3))  # a thin limb has fewer pixels than texels
    coordinates, reach = _fill(atlas[:, :2], atlas[:, 2:])
    confidence = torch.where(reach > 0, 0.05 + 0.95 * seen, torch.zeros_like(seen))
    return torch.cat([coordinates, confidence], dim=1).transpose(0, 1).reshape(3, (PARTS + 1) * TEXELS, TEXELS)


def _fill(total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Push-pull: weighted means where there is weight, coarser means where there is none. Returns means and reach."""
    side = total.shape[-1]
    if side <= 1:
        return total / weight.clamp(min=1e-6), weight
    coarse, reach = _fill(F.avg_pool2d(total, 2), F.avg_pool2d(weight, 2))
    coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")
    reach = F.interpolate(reach, scale_factor=2, mode="nearest")
    trust = (weight / 0.05).clamp(max=1.0)
    fine = total / weight.clamp(min=1e-6)
    return torch.where(weight > 0, trust * fine + (1 - trust) * coarse, coarse), torch.maximum(weight, reach)


def _pictures(frames: list[np.ndarray]) -> Tensor:
    return torch.stack([torch.tensor(frame) for frame in frames]).permute(0, 3, 1, 2).float() / 255
