"""Phase 2's samples: random crops of a subject's own photos (paper section 4.4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ..bases.config import TuningSettings
from ..networks.network import Network, pictures_to_tensor
from ..poses.sequence import PARTS
from .denoising import Batch
from .loop import SampleRng


class CropSource:
    """Random crops: a target and its pose share one crop, each conditioning photo has another.

    So the network cannot learn to copy the photo pixel by pixel, which shows as texture that sticks to the screen. Of several
    photos one is the target and another conditions, or all others where the network sees several, as it will when it renders.
    pictures uint8 (N, H, W, 3), poses (N, 3, H, W).
    """

    def __init__(self, network: Network, pictures: np.ndarray, poses: np.ndarray, settings: TuningSettings):
        self.network, self.pictures, self.poses, self.settings = network, pictures, poses, settings

    def batch(self, rngs: list[SampleRng]) -> Batch:
        network, settings = self.network, self.settings
        targets, windows, photos, photo_poses = [], [], [], []
        for rng in (each.numpy for each in rngs):
            count = len(self.pictures)
            i, j = rng.integers(count, size=2)
            target, pose = random_crop(rng, self.pictures[i], self.poses[i], settings.crop)
            others = [k % count for k in range(i + 1, i + count)] or [i]
            seen = others if network.config.network.sees_several_photos else [others[j % len(others)]]
            for k in seen:
                photo, photo_pose = random_crop(rng, self.pictures[k], self.poses[k], settings.crop)
                if rng.random() < settings.part_dropout:
                    photo_pose = hide_parts(rng, photo_pose)
                photos.append(photo)
                photo_poses.append(photo_pose)
            targets.append(target)
            windows.append(np.repeat(pose[None], network.config.poses.count, 0))
        views = replace(network.views(np.stack(photos), np.stack(photo_poses)), together=len(photos) // len(targets))
        with torch.no_grad():
            pixels = pictures_to_tensor(np.stack(targets), network.config.target_range)
            latents = network.encode(pixels.to(network.device)).float()
            views = replace(views, latents=network.encode_views(views).float())
        return Batch(latents, torch.from_numpy(np.stack(windows)), views)


def random_crop(
    rng: np.random.Generator, picture: np.ndarray, pose: np.ndarray, smallest: float
) -> tuple[np.ndarray, np.ndarray]:
    """A random crop of a picture (H, W, 3) and its pose (3, H, W), resized back to H x W."""
    height, width = picture.shape[:2]
    share = rng.uniform(smallest, 1.0)
    h, w = round(height * share), round(width * share)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    crop = np.ascontiguousarray(picture[top : top + h, left : left + w])
    resized = np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC))
    rows = top + ((np.arange(height) + 0.5) * h / height).astype(int)
    columns = left + ((np.arange(width) + 0.5) * w / width).astype(int)
    return resized, pose[:, rows][:, :, columns]


def hide_parts(rng: np.random.Generator, pose: np.ndarray) -> np.ndarray:
    """A pose (3, H, W) with a random half of its body parts made background.

    A tuned network always sees its subject's photo; hiding parts of it keeps it from learning that everything can be
    copied, and makes it learn what the subject wears.
    """
    hidden = np.flatnonzero(rng.random(PARTS + 1) < 0.5)
    return np.where(np.isin(pose[0], hidden), 0, pose).astype(pose.dtype)
