"""Photos and poses as the pictures that the networks take."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...media.fitting import Fit
from ...poses.control_picture import VIRIDIS

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def resize(picture: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """uint8 (H, W, 3) -> (*size, 3) by Pillow, whatever the aspect: "bicubic" or "lanczos"."""
    if picture.shape[:2] == tuple(size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), RESAMPLING[how]))


def fit(picture: np.ndarray, size: tuple[int, int], mode: str, how: str) -> np.ndarray:
    """uint8 (H, W, 3) -> (*size, 3): with "contain" the aspect is kept and the edges are repeated around it, which is what
    the authors of MagicAnimate advise for pictures that are not square; with "stretch" it is resized as it is."""
    place = Fit.of(picture.shape[:2], size, mode)
    (rows, columns), (height, width) = place.box, size
    resized = resize(picture, (place.height, place.width), how)
    around = ((rows.start, height - rows.stop), (columns.start, width - columns.stop), (0, 0))
    return np.pad(resized, around, mode="edge")


def clip_pixels(photo: np.ndarray, side: int) -> Tensor:
    """A photo uint8 (H, W, 3) as CLIP sees it, (1, 3, side, side): squashed to a square, not cropped; bicubic."""
    pixels = torch.from_numpy(resize(photo, (side, side), "bicubic").copy()).permute(2, 0, 1)[None].float() / 255.0
    return (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def control_pictures(poses: Tensor) -> Tensor:
    """Pose windows (R, n, 3, H, W) as I, U, V -> the control pictures (R, 3, H, W), in [0, 1], of the middle poses."""
    labels = poses[:, poses.shape[1] // 2, 0].round().long()
    table = torch.from_numpy(VIRIDIS).to(labels.device).float() / 255.0
    return table[labels].permute(0, 3, 1, 2)
