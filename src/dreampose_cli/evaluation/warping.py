"""Pose-aligned warping error: how much a point of the body's surface changes its colour from one frame to the next.

Poses say which surface point (I, U, V) a pixel shows. Frame t is taken for a partial texture of the body, carried to the
pose of frame t + 1 (`surface`), and compared with frame t + 1 where the very same points were seen. A texture that
swims or flickers over a moving body scores high, a body that moves with its texture does not. Light that changes as the
body turns, and sampling, give a true clip an error of its own: the reference's, to be read next to it.
"""

from __future__ import annotations

import numpy as np
import torch

from ..networks.dreampose.surface import build_surface, carry

SEEN = 0.9  # confidence from which a surface point counts as seen in the frame before


@torch.no_grad()
def warp_errors(
    pairs: list[tuple[np.ndarray, np.ndarray]], pose_before: np.ndarray, pose_after: np.ndarray
) -> list[float | None]:
    """Mean absolute differences, 0 to 1, over the surface points that both frames show; None where there are none.

    pairs: of each clip a frame and the next one, uint8 (H, W, 3); poses float32 (3, H, W) of the same size, which they share.
    """
    first = _pictures([before for before, _ in pairs])
    second = _pictures([after for _, after in pairs])
    poses = [
        torch.as_tensor(np.ascontiguousarray(pose), dtype=torch.float32)[None] for pose in (pose_before, pose_after)
    ]
    surface = build_surface(first[:1], poses[0]).each(len(pairs))
    surface = type(surface)(first, surface.atlas)
    carried, body, own, _ = carry(surface, poses[1].expand(len(pairs), -1, -1, -1))
    seen = (body * (own >= SEEN))[:1] > 0
    if not seen.any():
        return [None] * len(pairs)
    return [float((carried[i] - second[i]).abs()[:, seen[0, 0]].mean(dtype=torch.float64)) for i in range(len(pairs))]


def _pictures(frames: list[np.ndarray]) -> torch.Tensor:
    return torch.stack([torch.tensor(frame) for frame in frames]).permute(0, 3, 1, 2).float() / 255
