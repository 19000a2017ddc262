"""Zooming in: an estimator that knows figures which fill its frame finds those that do not.

The whole picture comes first. Where nobody is seen in it, or somebody too small to be sure of, it is looked through in
windows, then in smaller ones; and a figure that is found is looked at in a region around it, so that it fills the frame.
In a clip the region of a figure is where the next frames are looked at, so that the search is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..media.fitting import Crop, Fit, body_box

Network = Callable[[list[np.ndarray]], np.ndarray]  # n pictures (h, w, 3) of any size -> poses (n, 3, *resolution)
Extent = tuple[tuple[float, float], tuple[float, float]]  # rows and columns, each from and to before

FULL = 0.65  # a figure as high, or as wide, as this share of the frame fills it,
SURE = 0.45  # and of a smaller one than this only pieces may be seen
FILLED = 0.85  # of a region's height and width is the figure's
WIDER = 0.25  # of a region is added at an edge that cuts the figure
LOOKS = 4
SMALLEST = 0.01  # share of the frame that a figure covers at least,
FEWEST = 4  # and of how many parts one sees the share `PART` of it: what walls are mistaken for has fewer
PART = 0.02
WINDOWS = (1.0, 0.5)  # their height, as a share of the largest that the picture has room for
OVERLAPPING = 3  # a window's height and width are so many steps to the next
MOST_WINDOWS = 120  # of a size: a wider picture is not looked through
BATCH = 8


@dataclass(frozen=True)
class View:
    """The view of a region of a picture: a pose (3, h, w) as the estimator's frame shows the region."""

    region: Crop
    pose: np.ndarray

    def extent(self) -> Extent:
        """Rows and columns that the figure covers, in pixels of the picture. Somebody must be there."""
        box = body_box(self.pose)
        assert box is not None
        rows, columns = box
        y, x = self.region.height / self.pose.shape[1], self.region.width / self.pose.shape[2]
        return (
            (self.region.top + rows[0] * y, self.region.top + rows[1] * y),
            (self.region.left + columns[0] * x, self.region.left + columns[1] * x),
        )

    def score(self) -> float:
        """The amount of a figure that is seen, 0 where too little to go by."""
        labels = self.pose[0].astype(int).ravel()
        counts = np.bincount(labels[labels > 0], minlength=1)
        share = counts.sum() / labels.size
        parts = int((counts > PART * counts.sum()).sum())
        return share * parts if share >= SMALLEST and parts >= FEWEST else 0.0

    def takes(self, share: float, resolution: tuple[int, int]) -> bool:
        """Whether the figure takes this share of the frame's height or width."""
        box = body_box(self.pose)
        return box is not None and any(b - a >= share * side for (a, b), side in zip(box, resolution, strict=True))

    def cut(self, size: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
        """Whether top, bottom, left and right of the region cut the figure, in a picture of `size`."""
        return self.region.cuts(self.pose, size)

    def on(self, size: tuple[int, int]) -> np.ndarray:
        """The pose (3, H, W) of the whole picture of `size`, background beyond the region."""
        region = self.region
        rows = ((np.arange(region.height) + 0.5) * self.pose.shape[1] / region.height).astype(int)
        columns = ((np.arange(region.width) + 0.5) * self.pose.shape[2] / region.width).astype(int)
        pose = self.pose[:, rows][:, :, columns]
        if region.size == tuple(size):
            return pose
        whole = np.zeros((3, *size), np.float32)
        whole[:, region.top : region.top + region.height, region.left : region.left + region.width] = pose
        return whole


@dataclass(frozen=True)
class ZoomSearch:
    """The figure in pictures of any size, by a network that sees frames of `resolution`."""

    network: Network
    resolution: tuple[int, int]
    least: float  # share of a view below which nobody is there

    def each(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """The pose (3, H, W) of each picture on its own; all zero where nobody is found."""
        wholes = self._views(pictures, [_whole(picture) for picture in pictures])
        return [self._pose(self._nearer(*pair), pair[0]) for pair in zip(pictures, wholes, strict=True)]

    def along(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As `each` for the frames of one clip, which begin to look where the last one was found."""
        region = None
        for batch in _batches(pictures):
            views = self._views(batch, [region or _whole(batch[0])] * len(batch))
            for picture, view in zip(batch, views, strict=True):
                if region is not None and (not self._is_sure(view) or any(view.cut(picture.shape[:2]))):
                    (view,) = self._views([picture], [_whole(picture)])
                view = self._nearer(picture, view)
                yield self._pose(view, picture)
            away = view.region != _whole(picture) and view.score() > 0
            region = self._around(view, picture.shape[:2]) if away else None

    @property
    def _aspect(self) -> float:
        return self.resolution[1] / self.resolution[0]

    def _views(self, pictures: list[np.ndarray], regions: list[Crop]) -> list[View]:
        """The network's view of one region of each picture."""
        poses = self.network([region.of_picture(p) for p, region in zip(pictures, regions, strict=True)])
        found = []
        for pose, region in zip(poses, regions, strict=True):
            fit = Fit.of(region.size, self.resolution, "contain")
            found.append(View(region, pose[(slice(None), *fit.box)]))
        return found

    def _is_sure(self, view: View) -> bool:
        """Whether so much of a figure is seen that all of it must be there."""
        return view.takes(SURE, self.resolution) and view.score() > 0

    def _nearer(self, picture: np.ndarray, view: View) -> View:
        """The view of the picture in which the figure fills the frame, or comes nearest to it."""
        size = picture.shape[:2]
        if view.takes(FULL, self.resolution):
            return view
        if not self._is_sure(view):
            view = self._look_through(picture, view)
        for _ in range(LOOKS):
            if not view.score() or (view.takes(FULL, self.resolution) and not any(view.cut(size))):
                break
            region = self._around(view, size)
            if region == view.region:
                break
            (found,) = self._views([picture], [region])
            if not found.score():
                break
            view = found
        return view

    def _around(self, view: View, size: tuple[int, int]) -> Crop:
        """The region around the figure, with more room where the view cuts it."""
        (top, bottom), (left, right) = view.extent()
        above, below, before, after = view.cut(size)
        y, x = WIDER * view.region.height, WIDER * view.region.width
        rows = max(0.0, top - y * above), min(float(size[0]), bottom + y * below)
        columns = max(0.0, left - x * before), min(float(size[1]), right + x * after)
        return Crop.containing((rows, columns), size, self._aspect, FILLED)

    def _look_through(self, picture: np.ndarray, whole: View) -> View:
        """The window with the most of a figure, of the largest windows that show one; else what was seen of the whole.

        Where pieces were seen already, only windows around them are looked at.
        """
        best, seen = whole, whole.score() > 0
        for share in WINDOWS:
            windows = _windows(picture.shape[:2], self._aspect, share)
            if seen:
                (top, bottom), (left, right) = best.extent()
                y, x = (top + bottom) / 2, (left + right) / 2
                windows = [w for w in windows if 0 <= y - w.top < w.height and 0 <= x - w.left < w.width]
            if windows == [whole.region] or len(windows) > MOST_WINDOWS:
                continue
            views = [view for part in _batches(windows) for view in self._views([picture] * len(part), part)]
            best = max([best, *views], key=View.score)
            if self._is_sure(best):
                break
        return best

    def _pose(self, view: View, picture: np.ndarray) -> np.ndarray:
        if (view.pose[0] > 0).mean() < self.least:
            return np.zeros((3, *picture.shape[:2]), np.float32)
        return view.on(picture.shape[:2])


def _whole(picture: np.ndarray) -> Crop:
    return Crop(0, 0, *picture.shape[:2])


def _windows(size: tuple[int, int], aspect: float, share: float) -> list[Crop]:
    """Windows of one size and aspect all over a picture."""
    height = max(1, round(share * min(size[0], size[1] / aspect)))
    width = min(size[1], max(1, round(height * aspect)))
    corners = [
        np.linspace(0, side - window, 1 + -(-(side - window) // max(1, window // OVERLAPPING))).round().astype(int)
        for side, window in zip(size, (height, width), strict=True)
    ]
    return [Crop(int(top), int(left), height, width) for top in corners[0] for left in corners[1]]


def _batches(items: Iterable) -> Iterator[list]:
    """The items, `BATCH` at a time."""
    waiting = []
    for item in items:
        waiting.append(item)
        if len(waiting) == BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
