"""The choice of a person where several are seen, and of what stands in for frames that show nobody."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

SAME_PERSON = 0.1  # the overlap from frame to frame that someone asked for by number needs at least
PATIENCE = 30  # frames a person asked for by number may be away before the number is looked up again
DUPLICATE = 0.7  # a box that lies so far within a better one shows the same person again

Ranges = list[tuple[int, int]]


class PersonTracker:
    """Follows one person through a clip, frame by frame.

    person None: the largest, then whoever overlaps the followed box most; where none does, the largest again.
    person K: the K-th largest of the first frame with K people, then only boxes that overlap; where none does, nobody,
    and after 30 frames the K-th largest again.
    """

    def __init__(self, person: int | None = None) -> None:
        self._person, self._last, self._away = person, None, 0
        self.most = 0  # people in one frame

    def choose(self, boxes: np.ndarray, sizes: np.ndarray | None = None) -> int | None:
        """The index of the followed person's box, None where it is not in the frame.

        boxes (N, 4): x1, y1, x2, y2, the surest first. sizes (N,): how large the people are; without, their boxes'
        areas.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        self.most = max(self.most, len(_distinct(boxes)))
        index = self._overlapping(boxes)
        self._away = 0 if index is not None else self._away + 1
        if index is None and (self._last is None or self._person is None or self._away > PATIENCE):
            index = self._largest(boxes, areas(boxes) if sizes is None else sizes)
        if index is not None:
            self._last, self._away = boxes[index], 0
        return index

    def _overlapping(self, boxes: np.ndarray) -> int | None:
        if self._last is None or not len(boxes):
            return None
        overlaps = overlap(boxes, self._last)
        best = int(overlaps.argmax())
        return best if overlaps[best] > (0 if self._person is None else SAME_PERSON) else None

    def _largest(self, boxes: np.ndarray, sizes: np.ndarray) -> int | None:
        people = _distinct(boxes)
        people.sort(key=lambda i: -sizes[i])  # stable: of equals the surest
        rank = self._person or 1
        return people[rank - 1] if len(people) >= rank else None


def areas(boxes: np.ndarray) -> np.ndarray:
    """The areas of boxes (..., 4), 0 for those turned inside out."""
    return (boxes[..., 2] - boxes[..., 0]).clip(0) * (boxes[..., 3] - boxes[..., 1]).clip(0)


def overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) with one box (4,)."""
    shared = _shared(boxes, box)
    return shared / np.maximum(areas(boxes) + areas(box) - shared, 1e-9)


def _shared(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    return areas(np.concatenate([np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])], axis=1))


def _distinct(boxes: np.ndarray) -> list[int]:
    """Boxes, the surest first, without those that lie within a surer one."""
    kept: list[int] = []
    for i, box in enumerate(boxes):
        within = _shared(boxes[kept], box) / max(areas(box), 1e-9)
        if not (within > DUPLICATE).any():
            kept.append(i)
    return kept


def nearest_seen(seen: list[bool]) -> list[int]:
    """For each frame the nearest one that shows somebody, the earlier of two; itself where it does. Needs one at all."""
    places = np.flatnonzero(seen)
    after = np.searchsorted(places, np.arange(len(seen))).clip(0, len(places) - 1)
    before = (after - 1).clip(0)
    frames = np.arange(len(seen))
    nearer = np.abs(places[after] - frames) < np.abs(frames - places[before])
    return np.where(nearer, places[after], places[before]).tolist()


def ranges_of(frames: Iterable[int]) -> Ranges:
    """Rising frame numbers as ranges, first and last included: 3, 4, 5, 9 -> (3, 5), (9, 9)."""
    runs = itertools.groupby(enumerate(frames), key=lambda pair: pair[1] - pair[0])
    lists = [[frame for _, frame in run] for _, run in runs]
    return [(run[0], run[-1]) for run in lists]


def describe_ranges(ranges: Ranges, most: int = 8) -> str:
    """Ranges in words: "3-5, 9", the first few of many."""
    words = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:most]]
    return ", ".join(words) + (f" and {len(ranges) - most} more ranges" if len(ranges) > most else "")


def count_of(ranges: Ranges) -> int:
    """The number of frames in the ranges."""
    return sum(last - first + 1 for first, last in ranges)
