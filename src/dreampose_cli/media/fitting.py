"""Pictures and pose frames of any size brought to a base's resolution, and results brought back.

Rule: with "contain" the whole frame is scaled to fit inside, keeps its aspect, stays centred, and is padded (pictures by
their edge, poses by background); with "stretch" it is resized to the resolution whatever its aspect, as the official
code does. A photo and a pose frame of one size are fitted alike, so that they stay aligned.

With "contain" a photo of another aspect than the base's, in which the person would become small, is first cut to a
region around the person (`Crop`).

numpy and Pillow are imported by the functions that compute: what a region is can be read without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SMALL = 0.6  # a person shorter than this share of the base's height is small
FILLED = 0.8  # a crop leaves the person this share of its height and width, so that hair, skirt and hands find room
WIDER = 0.25  # of a region is added at a side that cuts the person
STRAY = 0.005  # share of a body's pixels at each end of an axis that may be mistakes of an estimator


@dataclass(frozen=True)
class Fit:
    """The place of a frame of `source` size inside one of `target` size: rows and columns of the box. Pixels, (h, w)."""

    target: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, source: tuple[int, int], target: tuple[int, int], mode: str) -> Fit:
        if mode == "stretch" or tuple(source) == tuple(target):
            return cls((target[0], target[1]), 0, 0, *target)
        scale = min(target[0] / source[0], target[1] / source[1])
        height = min(target[0], max(1, round(source[0] * scale)))
        width = min(target[1], max(1, round(source[1] * scale)))
        return cls((target[0], target[1]), (target[0] - height) // 2, (target[1] - width) // 2, height, width)

    @property
    def box(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Crop:
    """The region of a photo that is used in place of the whole. Pixels of the photo."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, pose: np.ndarray, size: tuple[int, int], target: tuple[int, int], mode: str) -> Crop | None:
        """The region around the person in a photo of `size`, with the target's aspect where the photo has room for it.

        `pose` (3, h, w) is the photo's, at any resolution. None where the whole photo is used: with "stretch", in a photo
        of the target's aspect, where the person is not `SMALL`, and where nobody is.
        """
        fit = Fit.of(size, target, mode)
        extent = body_box(pose)
        if extent is None or (fit.height, fit.width) == tuple(target):
            return None
        scale = size[0] / pose.shape[1], size[1] / pose.shape[2]
        top, bottom = (y * scale[0] for y in extent[0])
        left, right = (x * scale[1] for x in extent[1])
        if (bottom - top) / size[0] * fit.height >= SMALL * target[0]:
            return None
        crop = cls.containing(((top, bottom), (left, right)), size, target[1] / target[0])
        return None if crop.is_nearly_all(size) else crop

    @classmethod
    def containing(cls, extent, size: tuple[int, int], aspect: float, filled: float = FILLED) -> Crop:
        """The region of a photo of `size` of which a body with this `extent` (as of `body_box`) takes the share `filled`.

        Its width is `aspect` times its height where the photo has room for that.
        """
        (top, bottom), (left, right) = extent
        needed = (bottom - top) / filled, (right - left) / filled
        height = min(size[0], max(needed[0], needed[1] / aspect))
        width = min(size[1], max(needed[1], height * aspect))
        height = min(size[0], max(needed[0], width / aspect))
        height, width = max(1, round(height)), max(1, round(width))
        y, x = round((top + bottom - height) / 2), round((left + right - width) / 2)
        return cls(min(max(y, 0), size[0] - height), min(max(x, 0), size[1] - width), height, width)

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def is_nearly_all(self, size: tuple[int, int]) -> bool:
        """Whether hardly anything of a photo of `size` is left out."""
        return self.height * self.width >= 0.9 * size[0] * size[1]

    def cuts(self, pose: np.ndarray, size: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
        """Whether top, bottom, left and right of the region cut the person, whose `pose` (3, h, w) is that of the region.

        A side that is the photo's own does not.
        """
        import numpy as np

        body = np.any(pose > 0, axis=0)
        return (
            self.top > 0 and bool(body[0].any()),
            self.top + self.height < size[0] and bool(body[-1].any()),
            self.left > 0 and bool(body[:, 0].any()),
            self.left + self.width < size[1] and bool(body[:, -1].any()),
        )

    def wider(self, cuts: tuple[bool, bool, bool, bool], size: tuple[int, int], aspect: float) -> Crop:
        """The region with more room at the sides that cut the person."""
        above, below, before, after = cuts
        y, x = WIDER * self.height, WIDER * self.width
        rows = max(0.0, self.top - y * above), min(float(size[0]), self.top + self.height + y * below)
        columns = max(0.0, self.left - x * before), min(float(size[1]), self.left + self.width + x * after)
        return Crop.containing((rows, columns), size, aspect, 1.0)

    def of_picture(self, picture: np.ndarray) -> np.ndarray:
        """The region of the photo itself, (H, W, 3)."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]

    def of_pose(self, pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The same region of a pose (3, h, w) of a photo of `size`."""
        rows, columns = pose.shape[1] / size[0], pose.shape[2] / size[1]
        top, left = int(self.top * rows), int(self.left * columns)
        bottom = max(top + 1, round((self.top + self.height) * rows))
        right = max(left + 1, round((self.left + self.width) * columns))
        return pose[:, top:bottom, left:right]


def body_box(pose: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Rows and columns, each from and to before, that the body in a pose (3, H, W) covers; None where nobody is.

    Up to the share `STRAY` of the body's pixels may lie beyond each end.
    """
    body = (pose > 0).any(0)
    if not body.any():
        return None
    return span(body.sum(1), STRAY), span(body.sum(0), STRAY)


def span(counts: np.ndarray, stray: float) -> tuple[int, int]:
    """The range of pixels along an axis, from and to before, but for the share `stray` at each end; counts (n,), not all 0."""
    import numpy as np

    below = np.cumsum(counts)
    first = np.searchsorted(below, stray * below[-1], side="right")
    last = np.searchsorted(below, (1 - stray) * below[-1], side="left")
    return int(first), int(last) + 1


def fit_picture(picture: np.ndarray, target: tuple[int, int], mode: str) -> np.ndarray:
    """uint8 (H, W, 3) -> (*target, 3), bicubic."""
    import numpy as np
    from PIL import Image

    fit = Fit.of(picture.shape[:2], target, mode)
    if picture.shape[:2] != (fit.height, fit.width):
        resized = Image.fromarray(picture).resize((fit.width, fit.height), Image.Resampling.BICUBIC)
        picture = np.asarray(resized)
    return np.pad(picture, (*_padding(fit), (0, 0)), mode="edge")


def fit_pose(pose: np.ndarray, target: tuple[int, int], mode: str, resize: str = "nearest") -> np.ndarray:
    """float32 (3, H, W) -> (3, *target). Labels are never interpolated: only `resize="bilinear"` does, for UV poses."""
    import numpy as np

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
