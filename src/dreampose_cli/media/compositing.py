"""Part of one picture laid over another: masks from files, soft edges, and everything else kept to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ..errors import MediaError, UsageError
from .photos import read_photo


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask from a picture of `size` (height, width), white where something may change: bool (height, width).

    Raises MediaError for what is no picture or nowhere white, UsageError for another size.
    """
    grey = np.asarray(Image.fromarray(read_photo(path)).convert("L"))
    if grey.shape != tuple(size):
        (height, width), (given_height, given_width) = size, grey.shape
        raise UsageError(
            f"the mask {path} is {given_width}x{given_height} and the photo {width}x{height}; give a mask of the photo's size."
        )
    mask = grey >= 128
    if not mask.any():
        raise MediaError(f"the mask {path} is nowhere white, so nothing could change; paint white what may.")
    return mask


def feather(mask: np.ndarray, width: int) -> np.ndarray:
    """Opacity float32 (H, W) in [0, 1] for a bool mask: zero outside, rising to one over `width` pixels inside.

    The edge is softened inwards, so that nothing outside the mask changes at all.
    """
    layer = Image.fromarray(mask.astype(np.uint8) * 255)
    total = np.zeros(mask.shape, np.float32)
    for _ in range(max(1, width)):
        total += np.asarray(layer) > 0
        layer = layer.filter(ImageFilter.MinFilter(3))
    return total / max(1, width)


def composite(below: np.ndarray, above: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """`above` over `below`, both uint8 (H, W, 3), by opacity float (H, W); where it is zero `below` stays exactly."""
    weight = opacity[..., None].astype(np.float32)
    mixed = below + weight * (above.astype(np.float32) - below)
    return np.where(weight > 0, np.rint(mixed).clip(0, 255), below).astype(np.uint8)
