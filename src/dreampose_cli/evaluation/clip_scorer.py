"""One pair of clips on its way to its figures, and the networks whose running sums go over all clips."""

from __future__ import annotations

import heapq
import math
from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import EvaluationError, PoseError
from ..media.fitting import fit_pose
from ..media.photos import read_photo
from ..poses.files import open_poses
from ..poses.sequence import PoseSequence
from ..reporting import Progress
from . import feature_extractors as networks
from .frame_metrics import WORKERS, measure
from .frame_pairs import AlignedFrames
from .frechet import Gaussian, frechet_distance
from .metric_registry import COMES_WITH, METRICS, NETWORK_METRICS, NO_POSES, PER_FRAME, POSE_METRICS, WINDOW
from .pairing import ClipPair
from .weights import Missing

BATCH = 8  # frames that go through a network together
EXTREMES = 3  # worst and best frames kept of a clip
ONE_FRAME = "one frame: there is no motion to measure"
NOT_ASKED = "not asked for"
NO_PHOTO = "no photo; give it with --photo"
NO_PROMPT = "no prompt; give it with --prompt"


@dataclass(frozen=True)
class Extreme:
    """A frame to show: its index, its score (SSIM, or minus L1 where there is none), and the two pictures."""

    index: int
    score: float
    metric: str
    predicted: np.ndarray
    reference: np.ndarray


@dataclass
class ClipScores:
    """One clip: means over its frames, `reasons` for what is None, and on request each frame's values and extremes."""

    name: str
    pair: ClipPair
    frames: int
    fps: float
    size: tuple[int, int]
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    reference_value: dict[str, float | None]
    warnings: list[str]
    per_frame: dict[str, array] = field(default_factory=dict)
    worst: list[Extreme] = field(default_factory=list)
    best: list[Extreme] = field(default_factory=list)


class FeatureSums:
    """The networks there are, why others are missing, and the running sums of FID and FVD over all clips."""

    def __init__(
        self,
        wanted: set[str],
        device: torch.device,
        *,
        fetch: bool,
        progress: Progress | None,
        photos: bool = False,
        prompt: str | None = None,
    ) -> None:
        self.reasons: dict[str, str] = {}
        self.failed: dict[
            str, str
        ] = {}  # those of the reasons that came up on the way: what there is of them is no mean
        self.networks: dict[str, Any] = {}
        for key in NETWORK_METRICS:
            if key not in wanted:
                self.reasons[key] = NOT_ASKED
            elif key == "clip_photo" and not photos:
                self.reasons[key] = NO_PHOTO
            elif key == "clip_text" and prompt is None:
                self.reasons[key] = NO_PROMPT
            elif any(lead in self.networks for lead in COMES_WITH.get(key, ())):
                self.networks[key] = None
            else:
                try:
                    self.networks[key] = networks.load(key, device, fetch=fetch, progress=progress, prompt=prompt)
                except Missing as missing:
                    self.reasons[key] = str(missing)
        self.sums: dict[str, tuple[Gaussian, Gaussian]] = {
            key: (Gaussian(), Gaussian()) for key in ("fid", "fvd") if key in self.networks
        }

    def describe(self) -> dict[str, Any]:
        return {key: [file.describe() for file in networks.NEEDS[key]] for key in self.networks}

    def count(self, key: str) -> int:
        return self.sums[key][0].count if key in self.sums else 0

    def pairwise(
        self, predicted: np.ndarray, reference: np.ndarray, photo: np.ndarray | None = None
    ) -> dict[str, list[float]]:
        """The distances of a batch of frame pairs, and from the photo, and their part of FID."""
        values: dict[str, list[float]] = {}
        for key in NETWORK_METRICS:
            if key in PER_FRAME and self.networks.get(key) is not None:
                pictures = [predicted, reference]
                if key.startswith("clip") and photo is not None:
                    pictures.append(photo)
                values |= self._run(key, self.networks[key], *pictures) or {}
        if "fid" in self.networks:
            self._add("fid", predicted, reference)
        return values

    def window(self, predicted: np.ndarray, reference: np.ndarray) -> None:
        """A window of frames (T, H, W, 3) of both for FVD."""
        if "fvd" in self.networks:
            self._add("fvd", predicted, reference)

    def _add(self, key: str, predicted: np.ndarray, reference: np.ndarray) -> None:
        for total, frames in zip(self.sums[key], (predicted, reference), strict=True):
            features = self._run(key, self.networks[key], frames) if key in self.networks else None
            if features is not None:
                total.add(features)

    def _run(self, key: str, network: Callable, *frames: np.ndarray) -> Any:
        """A network's answer; one that fails is missing from here on, with the reason, and the others continue."""
        try:
            return network(*frames)
        except (Missing, RuntimeError, ValueError) as error:
            words = str(error).strip().splitlines()
            height, width = frames[0].shape[1:3]
            reason = f"its network failed on frames of {width}x{height} ({words[-1][:200] if words else type(error).__name__})"
            shared = [name for name, leads in COMES_WITH.items() if key in leads and self.networks.get(name, 0) is None]
            for name in (key, *shared):
                self.networks.pop(name, None)
                self.sums.pop(name, None)
                self.failed[name] = self.reasons[name] = reason
            return None

    def distances(self, reasons: dict[str, str]) -> dict[str, float | None]:
        """FID and FVD over everything that was added; None with a reason where there was too little."""
        found: dict[str, float | None] = {}
        for key, unit in (("fid", "frames"), ("fvd", f"windows of {WINDOW} frames")):
            found[key] = frechet_distance(*self.sums[key]) if key in self.sums else None
            if key in self.sums and found[key] is None:
                reasons[key] = (
                    f"needs two {unit}, and there {'is' if self.count(key) == 1 else 'are'} {self.count(key)}"
                )
        return found


class ClipScorer:
    """One pair of clips on its way through the pool."""

    def __init__(
        self, pair: ClipPair, wanted: set[str], features: FeatureSums, keep: bool, pictures: bool, named: bool = True
    ) -> None:
        self.pair, self.wanted, self.features, self.pictures = pair, wanted, features, pictures
        self.named = named  # the poses were asked for, rather than found next to the reference
        self.totals = {key: _Mean() for key in PER_FRAME}
        self.kept = {key: array("d") for key in PER_FRAME} if keep else {}
        self.warnings: list[str] = []
        self.energies = [0, 0]
        self.reference_value = _Mean()
        self.last_pose: np.ndarray | None = None
        self.identical = 0
        self.worst: list[tuple] = []
        self.best: list[tuple] = []

    def run(self, pool: ThreadPoolExecutor, size: int | None, align_by: str, progress) -> ClipScores:
        with AlignedFrames(self.pair.predicted, self.pair.reference, size=size, align_by=align_by) as frames:
            poses = self._poses()
            waiting: deque[tuple[int, np.ndarray, np.ndarray, Future]] = deque()
            photo = None if self.pair.photo is None else read_photo(self.pair.photo)
            batches = _Batches(self.features, photo)
            before = None
            for index, pair in enumerate(frames):
                pose = self._pose(poses, index, frames.size)
                task = pool.submit(measure, pair, before, pose, self.wanted)
                before = pair
                waiting.append((index, *pair, task))
                if len(waiting) > 2 * WORKERS:
                    self._take(waiting.popleft(), batches)
                if progress:
                    progress(index + 1, frames.total)
            while waiting:
                self._take(waiting.popleft(), batches)
            batches.flush(self._add)
        count = frames.count
        if count == 0:
            raise EvaluationError(f"{self.pair.predicted} and {self.pair.reference} have no frame in common.")
        return self._result(frames, count)

    def _poses(self) -> PoseSequence | None:
        if self.pair.poses is None or not self.wanted.intersection(POSE_METRICS):
            return None
        try:
            sequence = open_poses(self.pair.poses)
        except PoseError:
            if self.named:
                raise
            return None  # a file that is only called so
        return sequence if sequence.has_parts else None

    def _pose(self, poses: PoseSequence | None, index: int, size: tuple[int, int]):
        """The poses of the frame before and of this one at the scoring size; None where there are none."""
        if poses is None:
            return None
        if index >= len(poses):
            if index == len(poses):
                self.warnings.append(f"there are poses for {len(poses)} frames only; what needs poses is the mean over those")
            self.last_pose = None
            return None
        now = fit_pose(poses.frame(index), size, "stretch")
        previous, self.last_pose = self.last_pose, now
        return previous, now

    def _take(self, item: tuple[int, np.ndarray, np.ndarray, Future], batches: _Batches) -> None:
        index, a, b, task = item
        values = task.result()
        self.energies[0] += values.pop("moved", 0)
        self.energies[1] += values.pop("moving", 0)
        self.reference_value.add(values.pop("reference_value", None))
        self.identical += values.get("psnr", 0.0) is None
        score = values.get("ssim")
        self._remember(index, a, b, score if score is not None else -values.get("l1", 0.0))
        self._add(values)
        batches.add(a, b, self._add)

    def _add(self, values: dict[str, float | None]) -> None:
        """One frame's values of some metrics; each metric gets every frame's, in order."""
        for key, value in values.items():
            if key in self.wanted:
                self.totals[key].add(value)
                if self.kept:
                    self.kept[key].append(math.nan if value is None else value)

    def _remember(self, index: int, a: np.ndarray, b: np.ndarray, score: float) -> None:
        if not self.pictures:
            return
        for heap, sign in ((self.worst, -1), (self.best, 1)):
            entry = (sign * score, -index, a, b)
            if len(heap) < EXTREMES:
                heapq.heappush(heap, entry)
            elif entry[:2] > heap[0][:2]:
                heapq.heapreplace(heap, entry)

    def _result(self, frames: AlignedFrames, count: int) -> ClipScores:
        values: dict[str, float | None] = {key: self.totals[key].value for key in PER_FRAME}
        moved, moving = self.energies
        values["flicker"] = moved / moving if moving and "flicker" in self.wanted else None
        reasons = {key: reason for key, reason in self.features.reasons.items() if values.get(key) is None}
        no_pose = self._why_no_pose()
        why = {
            "psnr": "identical",
            "ssim": "frames have fewer than 11 pixels a side",
            "sharpness": "the reference has no gradient",
            "flicker": ONE_FRAME if count == 1 else "the reference stands still",
            "figure_l1": no_pose or "no frame shows a body",
            "figure_ssim": no_pose or "no frame shows a body, or frames have fewer than 11 pixels a side",
            "texture": no_pose or "no frame shows a garment with a texture",
            "warp": ONE_FRAME if count == 1 else no_pose or "no surface point is seen in two frames that follow each other",
        }
        if self.pair.photo is None and "clip_photo" in self.features.networks:
            why["clip_photo"] = NO_PHOTO
        for key, reason in why.items():
            if values[key] is None:
                reasons[key] = reason if key in self.wanted else NOT_ASKED
        if values["l1"] is None:
            reasons["l1"] = NOT_ASKED
        if 0 < self.identical < count:
            self.warnings.append(
                f"{self.identical} of {count} frames are identical to the reference; PSNR is the mean over the others"
            )
        return ClipScores(
            self.pair.name,
            self.pair,
            count,
            frames.fps,
            frames.size,
            {key: values.get(key) for key in METRICS},
            reasons,
            {"warp": self.reference_value.value},
            [*frames.warnings, *self.warnings],
            {key: column for key, column in self.kept.items() if self.totals[key].count},
            _extremes(self.worst, -1, "l1" if values["ssim"] is None else "ssim"),
            _extremes(self.best, 1, "l1" if values["ssim"] is None else "ssim"),
        )

    def _why_no_pose(self) -> str | None:
        """Why the metrics that need poses are missing, where it is that there are none."""
        if self.pair.poses is None:
            return NO_POSES
        return None if self._poses() is not None else f"{self.pair.poses} holds no poses with body parts"


def _extremes(heap: list[tuple], sign: int, metric: str) -> list[Extreme]:
    ordered = sorted(heap, key=lambda entry: entry[:2], reverse=True)
    return [Extreme(-index, sign * score, metric, a, b) for score, index, a, b in ordered]


class _Batches:
    """Frames on their way to the networks, several at once."""

    def __init__(self, features: FeatureSums, photo: np.ndarray | None = None) -> None:
        self.features, self.photo = features, photo
        self.pairwise = any(key != "fvd" for key in features.networks)
        self.windows = "fvd" in features.networks
        self.batch: list[tuple[np.ndarray, np.ndarray]] = []
        self.window: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, a: np.ndarray, b: np.ndarray, sink) -> None:
        if self.pairwise:
            self.batch.append((a, b))
            if len(self.batch) == BATCH:
                self.flush(sink)
        if self.windows:
            self.window.append((a, b))
            if len(self.window) == WINDOW:
                self.features.window(*(np.stack(side) for side in zip(*self.window, strict=True)))
                self.window = []

    def flush(self, sink) -> None:
        """Score the frames that wait for the pairwise networks; a window that is not full is left out."""
        if not self.batch:
            return
        predicted, reference = (np.stack(side) for side in zip(*self.batch, strict=True))
        values = self.features.pairwise(predicted, reference, self.photo)
        for i in range(len(self.batch)):
            sink({key: column[i] for key, column in values.items()})
        self.batch = []


class _Mean:
    """A running mean of the values that are defined."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.total += value
            self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None
