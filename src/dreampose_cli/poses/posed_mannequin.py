"""Keypoints as DensePose: a neutral mannequin takes each frame's pose and is drawn with its I, U and V."""

from __future__ import annotations

import numpy as np

from ..errors import PoseError
from .keypoints import BODY, SEEN, shows_somebody
from .sequence import PoseSequence


class PosedMannequin(PoseSequence):
    """The DensePose frames, float32 (3, H, W), of a sequence of keypoints; of frames that show nobody the nearest."""

    def __init__(self, keypoints: PoseSequence) -> None:
        from ..mannequins.posing import stature_of

        super().__init__(len(keypoints), keypoints.size, keypoints.fps, source=keypoints.source)
        self._keypoints = keypoints
        frames = [frame for frame in keypoints if shows_somebody(frame)]
        if not frames:
            raise PoseError(f"{keypoints.source or 'the keypoints'}: no frame shows enough of a body to pose a figure.")
        self._stature = stature_of(np.stack([frame[BODY] for frame in frames]), SEEN)

    def frame(self, i: int) -> np.ndarray:
        from ..mannequins.posing import draw_labels

        self._require_index(i)
        found = next(
            frame
            for k in sorted(range(len(self)), key=lambda k: (abs(k - i), k))
            if shows_somebody(frame := self._keypoints.frame(k))
        )
        return draw_labels(found[BODY], self.size, self._stature, SEEN)


def in_kind(sequence: PoseSequence, kind: str | None, source: str) -> PoseSequence:
    """The sequence as poses of `kind` (None: as it is). Raises PoseError where there is no way from one to the other."""
    if kind in (None, sequence.kind):
        return sequence
    if kind == "densepose":
        return PosedMannequin(sequence)
    raise PoseError(
        f"{source} holds DensePose, and this base takes keypoints; give the video itself with --estimator dwpose, or "
        "OpenPose's JSON."
    )
