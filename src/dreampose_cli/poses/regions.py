"""Regions of a photo by the body parts in its pose: what of the picture an edit may change, and what it may not.

DensePose labels skin and clothes alike, so a region is the surface of these parts, widened a little into the background for
what hangs loose. Where the face lies within the head is not labelled: the lower part of the head's box is taken for it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from ..errors import PoseError
from ..names import EDIT_REGIONS

TORSO = (1, 2)
HANDS_AND_FEET = (3, 4, 5, 6)
LEGS = tuple(range(7, 15))
ARMS = tuple(range(15, 23))
HEAD = (23, 24)
_PARTS = {"torso": TORSO, "legs": LEGS, "clothes": (*TORSO, *LEGS, *ARMS)}
_LOOSE = 0.03  # of the person's height: how far clothes may stand off
_HAIR = 0.25  # of the head's height, around it
_FACE_FROM = 0.3  # of the head's height from the top; above it is hair


def region_mask(pose: np.ndarray, name: str, size: tuple[int, int]) -> np.ndarray:
    """The region `name` of a photo of `size` (height, width): bool (height, width).

    `pose` is a frame (3, h, w) of that photo, of any size. Raises PoseError where the photo does not show the region.
    """
    if name not in EDIT_REGIONS:
        raise ValueError(f"no region {name!r}")
    labels = _labels(pose, size)
    body = labels > 0
    if not body.any():
        raise PoseError(f"nobody is found in the photo, so there is no {name}; give a mask as a picture with --where.")
    tall = _height(body)
    if name == "background":
        return ~_grown(body, round(0.02 * tall))
    if name == "hair":
        head = np.isin(labels, HEAD)
        found = (head & ~face_mask(pose, size)) | (_grown(head, round(_HAIR * _height(head))) & ~body)
    else:
        parts = np.isin(labels, _PARTS[name])
        found = parts | (_grown(parts, round(_LOOSE * tall)) & ~body)
        if name == "clothes":
            found &= ~np.isin(labels, HANDS_AND_FEET)
    if not found.any():
        raise PoseError(f"the photo shows no {name}; choose another --where, or give a mask as a picture.")
    return found


def face_mask(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The region of the face in a photo of `size` (height, width), with a narrow border: bool (height, width); may be empty."""
    head = np.isin(_labels(pose, size), HEAD)
    rows = np.flatnonzero(head.any(axis=1))
    if not rows.size:
        return head
    face = head.copy()
    face[: rows[0] + round(_FACE_FROM * (rows[-1] + 1 - rows[0]))] = False
    return _grown(face, max(1, round(0.05 * _height(head))))


def _labels(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    labels = Image.fromarray(np.rint(pose[0]).astype(np.uint8))
    return np.asarray(labels.resize((width, height), Image.Resampling.NEAREST))


def _height(mask: np.ndarray) -> int:
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows[-1] - rows[0] + 1) if rows.size else 0


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask with everything within `pixels` of it, along rows and columns."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    while pixels > 0:
        step = min(pixels, 4)
        picture = picture.filter(ImageFilter.MaxFilter(2 * step + 1))
        pixels -= step
    return np.asarray(picture) > 0
