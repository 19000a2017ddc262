"""Driving poses placed where the photo's person stands: `--align`.

One similarity transform (a scale and a shift, no rotation) for the whole clip, so that the dancer's own motion across the
frame remains. It is estimated from landmarks along the body that photo and poses both show (crown, neck, hips, knees,
ankles, soles), so a half figure is compared by its upper half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bases.config import BaseConfig
from ..cache import Cache
from ..errors import DreamposeError, PoseError
from ..media.fitting import body_box, span
from ..poses.photo import estimate_photo
from ..poses.sequence import PARTS, PoseSequence
from ..reporting import Note
from ..subjects.loading import LoadedSubject

LANDMARKS = ("crown", "neck", "hips", "knees", "ankles", "soles")
HEAD, TORSO, THIGHS, SHINS, FEET = (23, 24), (1, 2), (7, 8, 9, 10), (11, 12, 13, 14), (5, 6)
LOOKED_AT = 48  # frames of a clip that are measured, spread evenly
STRAY = 0.01  # share of a part's pixels at each of its ends that may be mistakes of an estimator
SEEN = 0.005  # a part that covers less of the body is a mistake
EDGE = 0.01  # of the frame's height: a body that ends nearer to the edge continues behind it
SHORTEST = 2.0  # pixels: what is shorter measures nothing
BEYOND = 0.02  # of the photo's side: a body that reaches further past the edge is said to be cut
SAME_ASPECT = 0.03  # as tune allows between a photo and its pose


@dataclass(frozen=True)
class Alignment:
    """The place in the photo of a point of a pose frame: scale * point + (right, down), in pixels of each."""

    scale: float
    right: float
    down: float

    def as_settings(self) -> dict[str, float]:
        return {"scale": round(self.scale, 4), "right": round(self.right, 1), "down": round(self.down, 1)}


class PlacedPoses(PoseSequence):
    """A pose sequence as the subject's photo would show it, at the base's resolution; read one by one as the original.

    Labels are taken from the nearest pixel. Outside the original's frame, and in the photo's padding, is background.
    """

    def __init__(self, whole: PoseSequence, subject: LoadedSubject, alignment: Alignment) -> None:
        resolution = subject.model.config.resolution
        super().__init__(len(whole), resolution, whole.fps, has_parts=whole.has_parts, source=whole.source)
        self._whole, self._subject, self._alignment = whole, subject, alignment
        (top, left), (height, width), fit = *_region(subject), subject.fit
        y = top + (np.arange(resolution[0]) - fit.top + 0.5) * height / fit.height  # in pixels of the photo
        x = left + (np.arange(resolution[1]) - fit.left + 0.5) * width / fit.width
        self._rows = np.floor((y - alignment.down) / alignment.scale).astype(int)
        self._columns = np.floor((x - alignment.right) / alignment.scale).astype(int)
        inside = np.zeros(resolution, bool)
        inside[fit.box] = True
        within = [(a >= 0) & (a < side) for a, side in zip((self._rows, self._columns), whole.size, strict=True)]
        self._shown = inside & within[0][:, None] & within[1]

    def frame(self, i: int) -> np.ndarray:
        pose = self._whole.frame(i)
        rows, columns = self._rows.clip(0, pose.shape[1] - 1), self._columns.clip(0, pose.shape[2] - 1)
        return pose[:, rows][:, :, columns] * self._shown

    def origin(self) -> tuple[PoseSequence, Sequence[int]]:
        whole, shown = self._whole.origin()
        return PlacedPoses(whole, self._subject, self._alignment), shown


def place(
    cache: Cache,
    sequence: PoseSequence,
    subject: LoadedSubject,
    mode: str = "auto",
    device: str = "auto",
    note: Note | None = None,
) -> tuple[PoseSequence, Alignment | None]:
    """The poses as the subject is to take them, and how they were aligned with the photo, None where they were not.

    mode: "on", "off", or "auto", which is off where photo and poses have the same frame size or the base is an imported
    official one, and continues without where photo and poses cannot be compared; "on" raises PoseError then. Reads up to
    `LOOKED_AT` frames, one at a time.
    """
    source = sequence.source or "the poses"
    as_it_is = tuple(sequence.size) == tuple(subject.size) or _takes_as_is(subject.model.config)
    if mode == "on" or (mode == "auto" and not as_it_is):
        try:
            alignment, cut, looked = align(cache, sequence, subject, device, note)
        except DreamposeError as error:
            if mode == "on":
                raise
            if note:
                note(f"{source} is not aligned with the photo: {error}")
        else:
            if note:
                note(
                    f"{source} aligned: scale {alignment.scale:.2f}, moved by ({alignment.right:.0f}, "
                    f"{alignment.down:.0f}) px; --align off leaves the poses as they are."
                )
                if cut:
                    note(f"In {cut} of {looked} frames looked at, the figure reaches past the photo's edge and is cut.")
            return PlacedPoses(sequence, subject, alignment), alignment
    heights, widths = subject.size[0] / sequence.size[0], subject.size[1] / sequence.size[1]
    if subject.crop and abs(heights / widths - 1) <= SAME_ASPECT:  # one frame for both: cut them alike
        return PlacedPoses(sequence, subject, Alignment(heights, 0.0, 0.0)), None
    return sequence, None


def align(
    cache: Cache, sequence: PoseSequence, subject: LoadedSubject, device: str = "auto", note: Note | None = None
) -> tuple[Alignment, int, int]:
    """The alignment of `sequence` with the subject's photo; in how many frames the figure then reaches past the photo's edge,
    and of how many. Raises PoseError where photo and poses show nothing that can be compared."""
    config, fit = subject.model.config, subject.fit
    pose = subject.pose[(slice(None), *fit.box)]
    if not pose.any():
        picture = np.ascontiguousarray(subject.picture[fit.box])
        pose = estimate_photo(cache, picture, subject.label, config.estimator, device, note)
    has_parts = sequence.has_parts and bool((pose[0] > 0).any())
    (top, left), (height, width) = _region(subject)
    ys, xs = landmarks(pose, has_parts)
    ys, xs = top + ys * height / pose.shape[1], left + xs * width / pose.shape[2]
    count = min(LOOKED_AT, len(sequence))
    measured, extents = [], []
    for i in np.linspace(0, len(sequence) - 1, count).round().astype(int):
        frame = sequence.frame(int(i))
        extent = body_box(frame)
        if extent is not None:
            measured.append(landmarks(frame, has_parts))
            extents.append(extent)
    if not measured:
        raise PoseError(f"{sequence.source or 'the pose sequence'} shows nobody; look at it with --preview.")
    found = match(ys, xs, np.stack([m[0] for m in measured]), np.stack([m[1] for m in measured]))
    if found is None:
        raise PoseError(
            f"{subject.label} and {sequence.source or 'the poses'} have no stretch of the body in common, such as head and "
            "hips or knees and feet; take a photo that shows more, or --align off."
        )
    cut = 0
    for (first, last), (near, far) in extents:
        y0, y1 = (found.scale * y + found.down - top for y in (first, last))
        x0, x1 = (found.scale * x + found.right - left for x in (near, far))
        slack_y, slack_x = BEYOND * height, BEYOND * width
        cut += y0 < -slack_y or y1 > height + slack_y or x0 < -slack_x or x1 > width + slack_x
    return found, cut, len(extents)


def landmarks(pose: np.ndarray, has_parts: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the `LANDMARKS` in a pose (3, H, W), (6,), and the columns of torso and body centre, (2,).

    NaN where one is not seen: a boundary between two parts counts where both are there, crown and soles where they keep
    off the frame's edge. Without part numbers, crown and soles are the top and bottom of the body.
    """
    height, width = pose.shape[1:]
    ys, xs = np.full(len(LANDMARKS), np.nan), np.full(2, np.nan)
    body = (pose > 0).any(0)
    if not body.any():
        return ys, xs
    edge = max(1.0, EDGE * height)
    xs[1] = _middle(body.sum(0))
    if not has_parts:
        first, last = span(body.sum(1), 0.0)
        ys[0] = first if first >= edge else np.nan
        ys[5] = last if last <= height - edge else np.nan
        return ys, xs
    part = np.rint(pose[0])
    part = np.where(np.abs(part - pose[0]) < 1e-3, part, 0).astype(np.intp)  # what a bilinear resize mixed is no part
    rows = np.bincount((np.arange(height)[:, None] * (PARTS + 1) + part).ravel(), minlength=height * (PARTS + 1))
    rows = rows.reshape(height, PARTS + 1)

    def extent(group: tuple[int, ...]) -> tuple[int, int] | None:
        counts = rows[:, list(group)].sum(1)
        return span(counts, STRAY) if counts.sum() > SEEN * body.sum() else None

    head, torso, thighs, shins, feet = map(extent, (HEAD, TORSO, THIGHS, SHINS, FEET))
    if head and head[0] >= edge:
        ys[0] = head[0]
    if head and torso:
        ys[1] = torso[0]
    if torso and thighs:
        ys[2] = torso[1]
    if thighs and shins:
        ys[3] = thighs[1]
    if shins and feet:
        ys[4] = shins[1]
    if feet and feet[1] <= height - edge:
        ys[5] = feet[1]
    if torso:
        xs[0] = _middle(np.isin(part, TORSO).sum(0))
    return ys, xs


def match(photo_ys: np.ndarray, photo_xs: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> Alignment | None:
    """The alignment that brings the landmarks of n frames, ys (n, 6) and xs (n, 2), to those of a photo, (6,) and (2,).

    The scale is that of the longest stretch between two landmarks that the photo and at least half of the frames show
    (else the most of them), by the median over frames. Soles stay on the photo's ground where both are seen, else the
    stretch's upper end keeps its place; the median of the horizontal centres comes to the photo's. None where nothing
    can be compared.
    """
    best, rank = None, None
    for upper in range(len(LANDMARKS)):
        for lower in range(upper + 1, len(LANDMARKS)):
            length = photo_ys[lower] - photo_ys[upper]
            lengths = ys[:, lower] - ys[:, upper]
            shown = np.nan_to_num(lengths) >= SHORTEST
            if not np.nan_to_num(length) >= SHORTEST or not shown.any():
                continue
            often = 2 * shown.sum() >= len(ys)
            order = (often, length if often else shown.sum())
            if rank is None or order > rank:
                best, rank = (upper, lower, shown, length / np.median(lengths[shown])), order
    if best is None:
        return None
    upper, lower, shown, scale = best
    anchor = lower if LANDMARKS[lower] == "soles" else upper
    torsos = xs[shown, 0][np.isfinite(xs[shown, 0])]
    by_torso = np.isfinite(photo_xs[0]) and 2 * len(torsos) >= shown.sum()
    centre, at = (np.median(torsos), photo_xs[0]) if by_torso else (np.median(xs[shown, 1]), photo_xs[1])
    down = photo_ys[anchor] - scale * np.median(ys[shown, anchor])
    return Alignment(float(scale), float(at - scale * centre), float(down))


def _takes_as_is(config: BaseConfig) -> bool:
    """Whether the base's convention is to take poses as they are: the official code stretches whatever comes."""
    return config.fit == "stretch"


def _region(subject: LoadedSubject) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner (top, left) and size of what is used of the photo, in pixels of the photo."""
    crop = subject.crop
    return ((crop.top, crop.left), crop.size) if crop else ((0, 0), subject.size)


def _middle(counts: np.ndarray) -> float:
    """The median position of pixels counted along an axis, in the middle of a pixel."""
    below = np.cumsum(counts)
    return float(np.searchsorted(below, below[-1] / 2)) + 0.5
