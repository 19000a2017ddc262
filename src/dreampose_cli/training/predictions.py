"""What a base itself makes of a subject's photos: latents as the decoder gets them when it renders, whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..inference.batch_plan import SMALLEST
from ..inference.denoise import RenderSettings, prepare, render_latents
from ..networks.network import Network
from ..sampling import derived_seed
from .autoencoder import Shift


def predict_photos(
    network: Network, pictures: np.ndarray, poses: np.ndarray, count: int, seed: int = 0
) -> tuple[Tensor, np.ndarray]:
    """Each photo in its own pose, shifted a little, `count` times: latents (N * count, C, h, w), and the photos so shifted, which
    would be the answer, uint8 (N * count, H, W, 3); photo by photo.

    pictures uint8 (N, H, W, 3) and poses (N, 3, H, W) at the base's resolution. They are sampled by the base's defaults, each from
    another noise, and one at a time, so that they take no more memory than a frame does.
    """
    rng, settings = np.random.default_rng(seed), RenderSettings.of(network)
    latents: list[Tensor] = []
    targets = []
    for picture, pose in zip(pictures, poses, strict=True):
        prepared = prepare(network, picture, pose)
        for _ in range(count):
            shift = Shift.draw(rng, *picture.shape[:2])
            window = torch.as_tensor(shift.of_pose(pose), dtype=torch.float32)
            windows = window.expand(1, network.config.poses.count, -1, -1, -1)
            drawn = replace(settings, seed=derived_seed(seed, len(latents)))
            found = render_latents(network, prepared, windows, drawn, batch_plan=SMALLEST)
            latents.append(found.float())
            targets.append(shift.of_picture(picture))
    return torch.cat(latents), np.stack(targets)
