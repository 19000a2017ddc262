"""Training frames: every clip of a data set at one resolution, drawn at random without opening a video again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..cache import Cache
from ..cache import key as cache_key
from ..errors import DreamposeError, TrainingError
from ..poses.files import open_poses
from ..poses.sequence import window_indices
from ..reporting import Note, Progress
from .data import Source, counted, find_clips, some
from .identities import require_strangers
from .preparation import Preparation, prepare
from .shards import Shard, read_picture, read_pose

FRAMES_VERSION = 2


@dataclass(frozen=True)
class Clip:
    """One subject's clip: rows `start` to `start + length` of the frame store, at `fps`. `shard` is the file they are in.

    `ordered` is False for photos without an order in time. `media` is what its frames came from.
    """

    name: str
    split: str
    start: int
    length: int
    fps: float
    ordered: bool = True
    shard: Path | None = None
    media: Path | None = None


@dataclass(frozen=True)
class FrameDataset:
    """All frames of a data set at one resolution.

    pictures uint8 (N, H, W, 3); poses uint8 (N, 3, H, W): part label, U * 255, V * 255, or the drawn skeleton where `kind` is
    "keypoints"; both read when indexed. `key` names the content, wherever it came from.
    """

    folder: Path
    pictures: np.ndarray | LazyFrames
    poses: np.ndarray | LazyFrames
    clips: list[Clip]
    key: str = ""
    kind: str = "densepose"

    def split(self, name: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.split == name]

    def pose(self, rows: np.ndarray | list[int]) -> np.ndarray:
        """float32 (..., 3, H, W): I in 0..24, U and V in [0, 1]; of keypoints their skeleton in [0, 1]."""
        raw = self.poses[np.asarray(rows)].astype(np.float32)
        if self.kind == "keypoints":
            return raw / 255.0
        raw[..., 1:, :, :] /= 255.0
        return raw

    def window(self, clip: Clip, frame: int, count: int, training_fps: float | None, rule: str) -> np.ndarray:
        """The pose window around `frame` of `clip`, float32 (count, 3, H, W). Of photos: the one pose, repeated."""
        if not clip.ordered:
            return np.repeat(self.pose([clip.start + frame]), count, axis=0)
        stride = clip.fps / training_fps if training_fps else 1.0
        rows = window_indices(frame, clip.length, n_poses=count, stride=stride, rule=rule)
        return self.pose([clip.start + row for row in rows])


class LazyFrames:
    """The pictures or the poses of many shards as one array uint8 (N, ...), read when indexed.

    Indices are as numpy's along the first axis (a number, a slice, an array of numbers), and any along the others.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, shards: list[Shard], read: Callable[[Shard, int], np.ndarray], item: tuple[int, ...]):
        self.shards, self.read = shards, read
        self.starts = np.cumsum([0, *(shard.length for shard in shards)])
        self.shape = (int(self.starts[-1]), *item)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if rows.ndim == 0:
            return self._row(int(rows))[rest]
        out = np.empty((*rows.shape, *self.shape[1:]), np.uint8)
        flat = out.reshape(-1, *self.shape[1:])
        done: dict[int, int] = {}  # the ends of a clip repeat in a window
        for i, row in enumerate(rows.reshape(-1).tolist()):
            flat[i] = flat[done[row]] if row in done else self._row(row)
            done.setdefault(row, i)
        return out[(slice(None),) * rows.ndim + tuple(rest)] if rest else out

    def _row(self, row: int) -> np.ndarray:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.read(self.shards[shard], row - int(self.starts[shard]))


def prepare_frames(
    cache: Cache,
    dataset: Path,
    resolution: tuple[int, int],
    *,
    photos: Path | None = None,
    fit: str = "contain",
    resize: str = "nearest",
    parts: bool = True,
    kind: str = "densepose",
    estimator: str | None = None,
    device: str = "auto",
    workers: int = 1,
    make: bool = True,
    progress: Progress | None = None,
    note: Note | None = None,
) -> FrameDataset:
    """The frames of `dataset` and of the photos in `photos` at `resolution`, from the cache or made now.

    `estimator` finds the poses of clips that have none, on `device`; without one they are left out. For `fit`, `resize`,
    `parts` and `kind` see `Preparation`. With `make` unset only what is prepared already is taken: another process prepares. A
    clip that cannot be used is named through `note` and left out; raises TrainingError when none is left to train on, and where
    somebody is to be trained on and tested with.
    """
    note = note or (lambda text: None)
    how = Preparation(cache, (resolution[0], resolution[1]), fit, resize, parts, estimator, device, kind=kind)
    pairs, folders = [], []
    given = [source for source in (dataset, photos) if source is not None]
    found = [find_clips(source, note if make else None, required=source is dataset) for source in given]
    if make:
        require_strangers([each for sources in found for each in sources], " and ".join(map(str, given)))
    for source, sources in zip(given, found, strict=True):
        if any(each.needs_estimator for each in sources):
            how = replace(how, fingerprint=_fingerprint(cache, estimator, device, note))
            if estimator is None:
                sources = list(_with_poses(sources, note if make else (lambda text: None)))
        key = cache_key("frames", {"version": FRAMES_VERSION, "of": str(Path(source).resolve()), "size": resolution})
        folder = cache.path_of("data", key)
        if make:
            cache.ensure()
            with cache.lock(f"data-{key}", waiting=note, what=f"the frames of {source}"):
                folder.mkdir(parents=True, exist_ok=True)
                pairs += prepare(sources, folder, how, workers=workers, progress=progress, note=note)
        else:
            pairs += prepare(sources, folder, how, make=False)
        cache.touch("data", key)
        folders.append(folder)
    return _assemble(pairs, folders[0], how, note if make else (lambda text: None))


def pose_kind(dataset: Path, estimator: str | None = None) -> str:
    """The kind of the poses next to the clips of `dataset`, as the first that can be read say; of the estimator's, where there
    are none."""
    for source in find_clips(dataset, required=False):
        for poses in (source.poses, *(poses for _, poses in source.pictures)):
            if poses is not None:
                with suppress(DreamposeError):
                    return open_poses(poses).kind
    return "keypoints" if estimator == "dwpose" else "densepose"


def _with_poses(sources: list[Source], note: Note) -> Iterator[Source]:
    """The sources that have pose files: the others, and single pictures of a clip, are named and left out."""
    for source in sources:
        if not source.needs_estimator:
            yield source
            continue
        pairs = tuple(pair for pair in source.pictures if pair[1] is not None)
        if not pairs:
            note(f"clip {source.name} left out: it has no pose file next to it.")
            continue
        for picture, poses in source.pictures:
            if poses is None:
                note(f"{picture.name} of {source.name} left out: it has no pose file next to it.")
        yield replace(source, pictures=pairs)


def _fingerprint(cache: Cache, estimator: str | None, device: str, note) -> str:
    """Which estimator it is exactly. Loaded here once, so that one that is unavailable is not the fault of every clip."""
    if estimator is None:
        return ""
    from ..device import pick_device
    from ..poses.estimator import load_estimator

    return load_estimator(cache, estimator, pick_device(device), note=note).fingerprint


def _assemble(pairs, folder: Path, how: Preparation, note) -> FrameDataset:
    pairs = sorted(pairs, key=lambda pair: pair[0].split != "train")  # stable: names stay in their order
    clips, row = [], 0
    for source, shard in pairs:
        clips.append(Clip(source.name, source.split, row, shard.length, shard.fps, shard.ordered, shard.path, source.media))
        row += shard.length
    if not any(clip.split == "train" for clip in clips):
        raise TrainingError("none of the training clips can be used; the notes say what is wrong with each.")
    short = [clip.name for clip in clips if clip.length == 1 and clip.split == "train"]
    if short:
        note(f"{counted(short)} of a single frame ({some(short)}), which is then its own photo.")
    content = [(s.split, shard.fps, shard.ordered, shard.length, shard.digest) for s, shard in pairs]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    shards = [shard for _, shard in pairs]
    pictures = LazyFrames(shards, read_picture, (*how.resolution, 3))
    poses = LazyFrames(shards, read_pose, (3, *how.resolution))
    return FrameDataset(folder, pictures, poses, clips, key, how.kind)
