"""Pictures and pose frames of any size brought to a base's resolution, and results brought back.

Rule: with "contain" the whole frame is scaled to fit inside, keeps its aspect, stays centred, and is padded (pictures by
their edge, poses by background); with "stretch" it is resized to the resolution whatever its aspect, as the official
code does. A photo and a pose frame of one size are fitted alike, so that they stay aligned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Fit:
    """Where a frame of `source` size lies inside one of `target` size: rows and columns of the box. Pixels, (h, w)."""

    target: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, source: tuple[int, int], target: tuple[int, int], mode: str) -> Fit:
        if mode == "stretch" or tuple(source) == tuple(target):
            return cls(tuple(target), 0, 0, *target)
        scale = min(target[0] / source[0], target[1] / source[1])
        height = min(target[0], max(1, round(source[0] * scale)))
        width = min(target[1], max(1, round(source[1] * scale)))
        return cls(tuple(target), (target[0] - height) // 2, (target[1] - width) // 2, height, width)

    @property
    def box(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def fit_picture(picture: np.ndarray, target: tuple[int, int], mode: str) -> np.ndarray:
    """uint8 (H, W, 3) -> (*target, 3), bicubic."""
    fit = Fit.of(picture.shape[:2], target, mode)
    if picture.shape[:2] != (fit.height, fit.width):
        resized = Image.fromarray(picture).resize((fit.width, fit.height), Image.Resampling.BICUBIC)
        picture = np.asarray(resized)
    return np.pad(picture, (*_padding(fit), (0, 0)), mode="edge")


def fit_pose(pose: np.ndarray, target: tuple[int, int], mode: str, resize: str = "nearest") -> np.ndarray:
    """float32 (3, H, W) -> (3, *target). Labels are never interpolated: only `resize="bilinear"` does, for UV poses."""
    fit = Fit.of(pose.shape[1:], target, mode)
    if pose.shape[1:] != (fit.height, fit.width):
        if resize == "bilinear":
            import torch
            from torch.nn import functional

            tensor = torch.from_numpy(np.ascontiguousarray(pose))[None]
            pose = functional.interpolate(tensor, (fit.height, fit.width), mode="bilinear", align_corners=False)[
                0
            ].numpy()
        else:
            rows = ((np.arange(fit.height) + 0.5) * pose.shape[1] / fit.height).astype(int)
            columns = ((np.arange(fit.width) + 0.5) * pose.shape[2] / fit.width).astype(int)
            pose = pose[:, rows][:, :, columns]
    return np.pad(pose, ((0, 0), *_padding(fit)))


def _padding(fit: Fit) -> tuple[tuple[int, int], tuple[int, int]]:
    below = fit.target[0] - fit.top - fit.height
    right = fit.target[1] - fit.left - fit.width
    return (fit.top, below), (fit.left, right)
