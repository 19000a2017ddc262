"""The pose of a photo: the one way to estimate it, for tuning, training and alignment alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..cache import Cache
from ..errors import NoPersonError
from ..reporting import Note

DENSEPOSE_SIDE = 800  # detectron2's own limit for the short side of a picture


def estimate_photo(
    cache: Cache,
    picture: np.ndarray,
    path: Path | str,
    estimator: str,
    device: str = "auto",
    note: Note | None = None,
) -> np.ndarray:
    """The pose float32 (3, h, w) of one photo uint8 (H, W, 3), of the photo's size or, if that is large, smaller.

    `path` names the photo in what is said of it. Raises NoPersonError where the estimator finds nobody, PoseError where
    there is no such estimator.
    """
    from ..device import pick_device
    from .densepose import DensePose, resize_for
    from .estimation import nobody
    from .estimator import has_person, load_estimator

    model = load_estimator(cache, estimator, pick_device(device), note=note)
    if isinstance(model, DensePose) and min(picture.shape[:2]) > DENSEPOSE_SIDE:
        picture = resize_for(picture, DENSEPOSE_SIDE)  # it was trained on pictures no larger
    frame = model.estimate([picture])[0]
    if not has_person(frame, model.least_person):
        raise NoPersonError(nobody(path, model.name))
    return frame
