"""The pose sequence: pose frames in time, read one by one, and the window of five around a frame.

A pose frame is float32 (3, H, W): the body part I (0 background, 1..24, integral) and the surface coordinates U and V
in [0, 1], all zero in the background.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import UsageError
from ..media.files import first_index, require_frames, require_range, resampled_length, shown_index

PARTS = 24  # body parts of DensePose; 0 is the background


class PoseSequence(ABC):
    """Pose frames of one size at a constant rate, with random access; subclasses read them from where they are.

    kind: "densepose", or "keypoints", whose frames are (130, 3) (`keypoints.py`). size: (height, width). fps: frames per
    second. has_parts: False where the source knows no body parts (the files of
    the official DreamPose), then plane 0 is zero everywhere. source: what it was made from, in words.
    remarks: sentences the user should read about it. gaps: ranges of frames, first and last, that showed nobody where
    they come from, so that the nearest frame stands in. numbers: of each frame, where the source numbers its frames and
    leaves some out.
    """

    kind: str = "densepose"
    remarks: tuple[str, ...] = ()
    gaps: list[tuple[int, int]] = []
    numbers: list[int] | None = None

    def __init__(
        self, length: int, size: tuple[int, int], fps: float, *, has_parts: bool = True, source: str = ""
    ) -> None:
        self.size = size
        self.fps = fps
        self.has_parts = has_parts
        self.source = source
        self._length = length

    @abstractmethod
    def frame(self, i: int) -> np.ndarray:
        """Pose frame `i`, 0 <= i < len: float32 (3, H, W), or (130, 3) of keypoints; a fresh array.
        Raises PoseError if it cannot be read."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.frame(i) for i in range(len(self)))

    def origin(self) -> tuple[PoseSequence, Sequence[int]]:
        """The sequence this one is a part of, and which of its frames each frame here is; itself if it is no part."""
        return self, range(len(self))

    def _require_index(self, i: int) -> None:
        if not 0 <= i < self._length:
            raise IndexError(f"pose frame {i} of {self._length}")


class _Part(PoseSequence):
    """A part of another sequence, at another rate: frame n is the one shown at start + n / fps."""

    def __init__(self, whole: PoseSequence, first: int, length: int, fps: float) -> None:
        super().__init__(length, whole.size, fps, has_parts=whole.has_parts, source=whole.source)
        self._whole, self._first, self.kind = whole, first, whole.kind
        if whole.numbers is not None and fps == whole.fps:
            self.numbers = [whole.numbers[self._shown(i)] for i in range(length)]

    def frame(self, i: int) -> np.ndarray:
        self._require_index(i)
        return self._whole.frame(self._shown(i))

    def origin(self) -> tuple[PoseSequence, Sequence[int]]:
        return self._whole, [self._shown(i) for i in range(len(self))]

    def _shown(self, i: int) -> int:
        return min(self._first + shown_index(self._whole.fps, self.fps, i), len(self._whole) - 1)


def subsequence(
    sequence: PoseSequence, fps: float | None = None, start: float | None = None, end: float | None = None
) -> PoseSequence:
    """The frames from `start` to before `end` (seconds), resampled to `fps`, read only when asked for.

    Picks the same moments as `media.read_video` with the same arguments. Raises UsageError for an empty range.
    """
    name = sequence.source or "the pose sequence"
    require_range(name, fps, start, end, len(sequence) / sequence.fps)
    length = resampled_length(sequence.fps, len(sequence), fps, start, end)
    require_frames(name, length, start, end)
    return _Part(sequence, first_index(sequence.fps, start), length, fps or sequence.fps)


def paste(patch, place: tuple[int, int], frame):
    """Put `patch` (3, h, w) into `frame` (3, H, W) with its corner at `place` (x, y), without what hangs over;
    arrays or tensors."""
    (x, y), (h, w), (height, width) = place, patch.shape[1:], frame.shape[1:]
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    if top < bottom and left < right:
        frame[:, top:bottom, left:right] = patch[:, top - y : bottom - y, left - x : right - x]
    return frame


def numbered_window(i: int, numbers: list[int], n_poses: int = 5) -> list[int]:
    """As `window_indices` with the rule "current", for frames with `numbers` of which some are missing: where the number
    of a neighbour is missing stands frame `i`, as in the official code."""
    rows = {number: row for row, number in enumerate(numbers)}
    return [rows.get(numbers[i] + k, i) for k in range(-(n_poses // 2), n_poses // 2 + 1)]


def window_indices(i: int, length: int, n_poses: int = 5, stride: float = 1.0, rule: str = "edge") -> list[int]:
    """Indices of the pose window of frame `i` in a clip of `length` frames, oldest first (section 3.2 of the paper).

    Offsets k = -(n_poses // 2) .. n_poses // 2 become i + round(k * stride). Where a window reaches out of the clip,
    "edge" takes the nearest frame and "current" frame `i` itself, as the official code does.
    """
    if not 0 <= i < length:
        raise IndexError(f"frame {i} of {length}")
    if n_poses < 1 or n_poses % 2 == 0:
        raise ValueError(f"a pose window has an odd number of frames, not {n_poses}")
    if not 0 < stride < math.inf:
        raise UsageError(f"The stride of the pose window must be above 0, not {stride:g}.")
    if rule not in ("edge", "current"):
        raise ValueError(f"{rule!r} is no rule for the ends of a clip")
    reach = n_poses // 2
    window = [i + round(k * stride) for k in range(-reach, reach + 1)]
    if rule == "edge":
        return [min(max(j, 0), length - 1) for j in window]
    return [j if 0 <= j < length else i for j in window]


def in_range(frame: np.ndarray) -> bool:
    """Whether I is within 0..24 and U, V within [0, 1], but for rounding; False for what is no number."""
    tolerance = 1e-4
    low, high = frame.min(axis=(1, 2)), frame.max(axis=(1, 2))
    return bool((low >= -tolerance).all() and high[0] <= PARTS + tolerance and (high[1:] <= 1 + tolerance).all())
