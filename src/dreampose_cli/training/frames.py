"""Clips as training frames: decoded, fitted and labelled once into a memory-mapped cache, then drawn at random.

A dataset is a folder of clips, `DATASET/{train,test}/<clip>/` as `synth` writes it, or a folder of clip folders or
videos without a split. A clip folder holds one video, one pose file whose name contains "poses", and possibly lossless
`frames/`; a clip without poses goes through the estimator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .. import media, store
from ..errors import DreamposeError, TrainingError
from ..fitting import fit_picture, fit_pose
from ..poses.files import open_poses
from ..poses.sequence import PoseSequence, window_indices

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
FRAMES_VERSION = 1


@dataclass(frozen=True)
class Clip:
    """One subject's clip: rows `start` to `start + length` of the frame store, at `fps`."""

    name: str
    split: str
    start: int
    length: int
    fps: float


@dataclass(frozen=True)
class FrameStore:
    """All frames of a dataset at one resolution.

    pictures uint8 (N, H, W, 3); poses uint8 (N, 3, H, W): part label, U * 255, V * 255.
    """

    folder: Path
    pictures: np.ndarray
    poses: np.ndarray
    clips: list[Clip]

    def split(self, name: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.split == name]

    def pose(self, rows: np.ndarray | list[int]) -> np.ndarray:
        """float32 (..., 3, H, W): I in 0..24, U and V in [0, 1]."""
        raw = self.poses[np.asarray(rows)].astype(np.float32)
        raw[..., 1:, :, :] /= 255.0
        return raw

    def window(self, clip: Clip, frame: int, count: int, training_fps: float | None, rule: str) -> np.ndarray:
        """The pose window around `frame` of `clip`, float32 (count, 3, H, W)."""
        stride = clip.fps / training_fps if training_fps else 1.0
        rows = window_indices(frame, clip.length, n_poses=count, stride=stride, rule=rule)
        return self.pose([clip.start + row for row in rows])


@dataclass(frozen=True)
class _Source:
    name: str
    split: str
    frames: Path  # a video, or a folder of pictures
    poses: Path | None


def prepare_frames(
    dataset: Path,
    resolution: tuple[int, int],
    *,
    fit: str = "contain",
    label: Callable[[Path], PoseSequence] | None = None,
    labelled_by: str = "",
    progress: Callable[[int, int | None, str], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> FrameStore:
    """The frames of `dataset` at `resolution`, from the cache or made now.

    `label` estimates the poses of a clip that has none, `labelled_by` says which estimator does. A clip that cannot be
    read is named through `note` and left out; raises TrainingError when none is left.
    """
    sources = find_clips(dataset)
    stamp = [(s.name, s.split, *_stamp(s.frames), *(_stamp(s.poses) if s.poses else ())) for s in sources]
    key = store.key(
        "frames",
        {"version": FRAMES_VERSION, "clips": stamp, "resolution": resolution, "fit": fit, "labels": labelled_by},
    )
    folder = store.path_of("data", key)
    if not folder.exists():
        with store.lock(f"data-{key}"):
            if not folder.exists():
                with store.publish_folder("data", key) as partial:
                    _decode(sources, resolution, fit, partial, label, progress, note)
    store.touch("data", key)
    return open_frames(folder)


def open_frames(folder: Path) -> FrameStore:
    """The frame store written into `folder`."""
    raw = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
    height, width = raw["resolution"]
    count = sum(clip["length"] for clip in raw["clips"])
    pictures = np.memmap(folder / "pictures.bin", np.uint8, "r", shape=(count, height, width, 3))
    poses = np.memmap(folder / "poses.bin", np.uint8, "r", shape=(count, 3, height, width))
    return FrameStore(folder, pictures, poses, [Clip(**clip) for clip in raw["clips"]])


def find_clips(dataset: Path) -> list[_Source]:
    """Every clip of a dataset, in the order of names. Raises TrainingError when there is none."""
    dataset = Path(dataset)
    if not dataset.is_dir():
        raise TrainingError(f"{dataset} is not a folder of clips; `dreampose synth {dataset}` makes one to try with.")
    splits = {name: dataset / name for name in ("train", "test") if (dataset / name).is_dir()}
    sources = []
    for split, folder in (splits or {"train": dataset}).items():
        for entry in sorted(folder.iterdir()):
            source = _clip_in(entry, split)
            if source is not None:
                sources.append(source)
    if not any(source.split == "train" for source in sources):
        raise TrainingError(f"{dataset} holds no training clips: no video and no folder with one was found.")
    return sources


def _clip_in(entry: Path, split: str) -> _Source | None:
    if entry.is_file():
        return _Source(entry.stem, split, entry, None) if entry.suffix.lower() in VIDEO_SUFFIXES else None
    inside = sorted(entry.iterdir())
    poses = next((p for p in inside if "poses" in p.name), None)
    frames = entry / "frames"
    video = next((p for p in inside if p.suffix.lower() in VIDEO_SUFFIXES and p != poses), None)
    source = frames if frames.is_dir() else video
    return _Source(entry.name, split, source, poses) if source is not None else None


def _stamp(path: Path) -> tuple:
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def _decode(sources, resolution, fit, folder, label, progress, note) -> None:
    clips, row = [], 0
    with (folder / "pictures.bin").open("wb") as pictures, (folder / "poses.bin").open("wb") as poses:
        for done, source in enumerate(sources):
            try:
                if source.poses is None and label is None:
                    raise TrainingError(f"{source.frames} has no pose file beside it.")
                sequence = open_poses(source.poses) if source.poses else label(source.frames)
                frames = list(_read_clip(source, sequence, resolution, fit))
                if not frames:
                    raise TrainingError(f"{source.frames} has no frames.")
            except DreamposeError as error:
                if note:
                    note(f"clip {source.name} left out: {error}")
                continue
            for picture, pose in frames:
                pictures.write(picture.tobytes())
                poses.write(pose.tobytes())
            clips.append(Clip(source.name, source.split, row, len(frames), sequence.fps))
            row += len(frames)
            if progress:
                progress(done + 1, len(sources), "frames")
    if not any(clip.split == "train" for clip in clips):
        raise TrainingError("none of the training clips can be read.")
    content = {"resolution": resolution, "clips": [asdict(clip) for clip in clips]}
    (folder / "clips.json").write_text(json.dumps(content), encoding="utf-8")


def _read_clip(
    source: _Source, sequence: PoseSequence, resolution: tuple[int, int], fit: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for count, picture in enumerate(media.open_frames(source.frames)):
        if count >= len(sequence):
            raise TrainingError(f"{source.frames} has more frames than its poses ({len(sequence)}).")
        pose = fit_pose(sequence.frame(count), resolution, fit)
        quantised = np.concatenate([pose[:1], np.rint(pose[1:] * 255)]).astype(np.uint8)
        yield fit_picture(picture, resolution, fit), quantised
