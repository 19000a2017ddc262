"""Keypoint frames: the body, face and hands of one person as points, in the order of OpenPose.

A keypoint frame is float32 (130, 3): x and y in pixels and a score in [0, 1], 0 for what was not seen. Points 0 to 17 are
the body (OpenPose's COCO order, "BODY_18"), 18 to 38 the left hand, 39 to 59 the right hand, 60 to 129 the face. Left and
right are the person's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .sequence import PoseSequence

BODY, LEFT_HAND, RIGHT_HAND, FACE = slice(0, 18), slice(18, 39), slice(39, 60), slice(60, 130)
POINTS = 130
SEEN = 0.3  # points under this score are not drawn and not followed

NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST = range(8)
R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE, R_EYE, L_EYE, R_EAR, L_EAR = range(8, 18)
_MIRRORED_BODY = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]


class KeypointsInMemory(PoseSequence):
    """Keypoint frames (F, 130, 3) that are there already; `frame(i)` is (130, 3). estimator: what found them."""

    kind = "keypoints"

    def __init__(
        self,
        frames: np.ndarray | Sequence[np.ndarray],
        size: tuple[int, int],
        fps: float,
        *,
        source: str = "",
        estimator: str | None = None,
    ) -> None:
        self._frames = np.asarray(frames, np.float32)
        if self._frames.ndim != 3 or self._frames.shape[1:] != (POINTS, 3) or not len(self._frames):
            raise ValueError(f"keypoint frames are (F, {POINTS}, 3), not {self._frames.shape}")
        super().__init__(len(self._frames), size, fps, source=source)
        self.estimator = estimator

    def frame(self, i: int) -> np.ndarray:
        self._require_index(i)
        return self._frames[i].copy()


def body_frame(body: np.ndarray) -> np.ndarray:
    """A keypoint frame (130, 3) of which only the body (18, 3) is known."""
    frame = np.zeros((POINTS, 3), np.float32)
    frame[BODY] = body
    return frame


def mirrored(frame: np.ndarray) -> np.ndarray:
    """The frame with left and right exchanged, every point at its place: a front taken for a back.

    Of the face nothing is seen from behind.
    """
    out = frame.copy()
    out[BODY] = frame[BODY][_MIRRORED_BODY]
    out[LEFT_HAND], out[RIGHT_HAND] = frame[RIGHT_HAND], frame[LEFT_HAND]
    return out


def seen(frame: np.ndarray) -> np.ndarray:
    """Which points of a frame (130, 3) are sure enough to be used, bool (130,)."""
    return frame[:, 2] >= SEEN


def shows_somebody(frame: np.ndarray) -> bool:
    """Whether a keypoint frame holds a person: at least four sure points of the body, and a limb or the head among them."""
    return int(seen(frame)[BODY].sum()) >= 4
