"""Which side of a person a frame shows, told by the poses: what a base does to backs is a question of its own.

Poses of U and V alone cannot tell a back from a front (the paper's figure of failures); those with the body part can.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..poses.files import open_poses

TORSO_BACK, TORSO_FRONT = 1, 2  # DensePose's numbers
VIEWS = ("back", "front")


def view_of(pose: np.ndarray) -> str | None:
    """The side of which a pose (3, H, W) shows more of the torso: "back" or "front"; None where it shows neither."""
    back, front = (int((pose[0] == part).sum()) for part in (TORSO_BACK, TORSO_FRONT))
    return None if back == front else VIEWS[front > back]


def views_of(poses: Path) -> list[str | None]:
    """The view of each frame of a pose file. Raises PoseError."""
    sequence = open_poses(poses)
    return [view_of(sequence.frame(i)) for i in range(len(sequence))]


def mean_where(values: Iterable[float], views: Iterable[str | None], view: str) -> float | None:
    """The mean of a metric's values (NaN: undefined) over the frames of one view; None where there is none."""
    chosen = [value for value, seen in zip(values, views, strict=False) if seen == view and not np.isnan(value)]
    return float(np.mean(chosen)) if chosen else None
