"""Poses that are there already, for benchmarks and tests: what commands read comes from files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreampose_cli.poses.sequence import PoseSequence


class PosesInMemory(PoseSequence):
    """A pose sequence of arrays float32 (3, H, W)."""

    def __init__(self, frames: Sequence[np.ndarray], fps: float, *, has_parts: bool = True, source: str = "") -> None:
        super().__init__(len(frames), frames[0].shape[1:], fps, has_parts=has_parts, source=source)
        self._frames = frames

    def frame(self, i: int) -> np.ndarray:
        self._require_index(i)
        return np.array(self._frames[i], np.float32)
