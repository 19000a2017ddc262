"""Training of the mini pose estimator on frames with exact labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..poses.estimator import PoseNet
from .frames import Clip, FrameDataset
from .loop import LoopSettings, SampleRng

NOBODY = 0.12  # share of samples that show nobody, so that the estimator can say so


class PosingTask:
    """Cross-entropy on the part and L1 on U and V where the body is.

    Frames are scaled, shifted and recoloured a little, so that people are found who stand elsewhere or further away, and
    some show nobody.
    """

    def __init__(self, network: PoseNet, frames: FrameDataset, clips: list[Clip], device: torch.device):
        self.network, self.frames, self.device = network, frames, device
        self.rows = np.concatenate([np.arange(c.start, c.start + c.length) for c in clips])
        self.modules: dict[str, nn.Module] = {"network": network}

    def load(self, draws: list[SampleRng]) -> tuple[np.ndarray, np.ndarray, list[SampleRng]]:
        rows = [int(draw.numpy.choice(self.rows)) for draw in draws]
        return self.frames.pictures[rows], self.frames.pose(rows), draws

    def loss(self, loaded: tuple[np.ndarray, np.ndarray, list[SampleRng]], step: int, settings: LoopSettings) -> Tensor:
        rows, known, draws = loaded
        rngs = [draw.numpy for draw in draws]
        pictures = torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1
        pictures, poses = _move(rngs, pictures, torch.from_numpy(known))
        for i, rng in enumerate(rngs):
            if rng.random() < NOBODY:
                pictures[i], poses[i] = _nobody(rng, pictures[i]), 0.0
        gain = torch.from_numpy(np.stack([rng.uniform(0.85, 1.15, (3, 1, 1)) for rng in rngs]).astype(np.float32))
        pictures = (pictures * gain).clamp(-1, 1)
        logits, uv = self.network(pictures.to(self.device))
        part = poses[:, 0].round().long().to(self.device)
        body = (part > 0).unsqueeze(1)
        error = ((uv - poses[:, 1:].to(self.device)).abs() * body).sum((1, 2, 3))
        surface = error / (2 * body.sum((1, 2, 3)).clamp(min=1))  # of each sample, whatever else is in the batch
        return F.cross_entropy(logits, part) + 4 * surface.mean()


def _move(rngs: list[np.random.Generator], pictures: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the samples scaled to 0.6 .. 1.15 and shifted, labels by nearest neighbour, pictures by their edge."""
    theta = np.zeros((len(rngs), 2, 3), np.float32)
    for matrix, rng in zip(theta, rngs, strict=True):
        scale = 1.0 if rng.random() < 0.5 else 1 / rng.uniform(0.6, 1.15)
        matrix[0, 0] = matrix[1, 1] = scale
        matrix[:, 2] = rng.uniform(-1, 1, 2) * abs(scale - 1)
    grid = F.affine_grid(torch.from_numpy(theta), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    labels = F.grid_sample(poses, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved, labels


def _nobody(rng: np.random.Generator, picture: Tensor) -> Tensor:
    """A picture (3, H, W) in [-1, 1] without a person: the backdrop alone, blobs, noise, or the picture in pieces."""
    height, width = picture.shape[1:]
    backdrop = picture[:, :, :1].expand(-1, -1, width).clone()
    kind = rng.integers(4)
    if kind == 1:  # blobs and blocks of colour
        for _ in range(rng.integers(1, 12)):
            top, left = rng.integers(height), rng.integers(width)
            colour = torch.from_numpy(rng.uniform(-1, 1, (3, 1, 1)).astype(np.float32))
            backdrop[:, top : top + rng.integers(4, height), left : left + rng.integers(4, width)] = colour
    elif kind == 2:  # noise, from pixels to clouds
        grain = 2 ** rng.integers(0, 6)
        noise = torch.from_numpy(rng.uniform(-1, 1, (1, 3, height // grain + 1, width // grain + 1)).astype(np.float32))
        backdrop = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0]
    elif kind == 3:  # pieces of the picture in another order: the right colours, but no figure
        side = 16
        pieces = F.unfold(picture[None], side, stride=side)
        shuffled = pieces[:, :, torch.from_numpy(rng.permutation(pieces.shape[2]))]
        whole = F.fold(shuffled, (height // side * side, width // side * side), side, stride=side)[0]
        backdrop = F.interpolate(whole[None], size=(height, width), mode="nearest")[0]
    return backdrop
