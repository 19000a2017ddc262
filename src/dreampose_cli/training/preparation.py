"""Clips made into shards: decoded, fitted and labelled once, by several processes, in whatever form they come.

A shard is addressed by the clip's files (path, size, time) and by what was done to them. A run that was killed resumes
with the clips that are missing.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic, media
from ..cache import Cache
from ..cache import key as cache_key
from ..errors import (
    DreamposeError,
    MediaError,
    NoPersonError,
    OutputError,
    PoseError,
    StoreError,
    TrainingError,
    UsageError,
)
from ..locks import sweep
from ..media.fitting import fit_picture, fit_pose
from ..poses.files import open_poses
from ..poses.photo import estimate_photo
from ..poses.sequence import PoseSequence
from ..poses.skeleton_picture import draw_skeleton
from ..reporting import Note, Progress, no_note
from .data import PICTURES, Source
from .shards import SUFFIX, VERSION, Shard, ShardWriter, open_shard

BAD_SUFFIX = ".bad"
SAMPLED = 8  # clips that are looked at to estimate how large all of them become
# What packing leaves of a frame: of photographs 0.5 to 0.7 (measured on a few), of poses 0.15 or less.
PACKED_PICTURE, PACKED_POSE = 0.7, 0.15
# An estimate is kept at the clip's own size, with two bytes a value: of that 0.14 (mini's, of mannequins) is left.
PACKED_ESTIMATE = 0.15


@dataclass(frozen=True)
class Preparation:
    """The preparation of every clip, whose estimated poses are kept in `cache`. resolution: (height, width). fit, resize: see
    `fitting`. parts: whether poses must know body parts. estimator: what finds poses where no file has them, on `device`;
    `fingerprint` says which it was. kind: of the poses that are wanted; keypoints are kept as their skeleton pictures."""

    cache: Cache
    resolution: tuple[int, int]
    fit: str = "contain"
    resize: str = "nearest"
    parts: bool = True
    estimator: str | None = None
    device: str = "auto"
    fingerprint: str = ""
    kind: str = "densepose"


def address(source: Source, preparation: Preparation) -> str:
    """The key of a clip's shard. MediaError where a file of it is gone."""
    labels = preparation.fingerprint if source.needs_estimator else ""
    chosen = [preparation.resolution, preparation.fit, preparation.resize, preparation.parts, source.ordered]
    about: dict[str, Any] = {"version": VERSION, "how": chosen, "labels": labels}
    if preparation.kind != "densepose":
        about["kind"] = preparation.kind
    return cache_key("shard", about, [_stamp(p) for p in source.files()])


def prepare(
    sources: list[Source],
    folder: Path,
    preparation: Preparation,
    *,
    workers: int = 1,
    make: bool = True,
    progress: Progress | None = None,
    note: Note | None = None,
) -> list[tuple[Source, Shard]]:
    """The shards of `sources` in `folder`, made where they are missing (and `make` is set), by so many processes.

    A clip that cannot be used is named through `note` with the reason and left out. Raises TrainingError where there is too
    little room, StoreError where the folder cannot be written.
    """
    note = note or no_note
    keys = [_address_or_none(source, preparation) for source in sources]
    reasons = {key: _known_bad(folder, key) for key in keys if key}
    jobs = [
        _Job(source, key, folder, preparation)
        for source, key in zip(sources, keys, strict=True)
        if make and key and reasons[key] is None and not (folder / f"{key}{SUFFIX}").exists()
    ]
    if jobs:
        sweep(folder)  # what a run that was killed has left
        if len(jobs) < len(sources):
            note(f"{len(sources) - len(jobs)} of {len(sources)} clips are prepared already.")
        _require_room(jobs, folder, preparation)
        for done, (job, reason, remarks) in enumerate(_results(jobs, workers), start=1):
            reasons[job.key] = reason
            for remark in remarks:
                note(remark)
            if progress:
                progress(done, len(jobs), f"clips prepared, {job.source.name}")
    prepared = []
    for source, key in zip(sources, keys, strict=True):
        if key is None:
            note(f"clip {source.name} left out: a file of it is gone.")
        elif reasons[key] is not None:
            note(f"clip {source.name} left out: {reasons[key]}")
        elif make or (folder / f"{key}{SUFFIX}").exists():
            prepared.append((source, open_shard(folder / f"{key}{SUFFIX}")))
    return prepared


def _known_bad(folder: Path, key: str) -> str | None:
    """The reason why a clip cannot be used, where finding it out was costly and is therefore remembered."""
    try:
        return json.loads((folder / f"{key}{BAD_SUFFIX}").read_text(encoding="utf-8"))["reason"]
    except (OSError, ValueError, KeyError):
        return None


# ---- making them


@dataclass(frozen=True)
class _Job:
    source: Source
    key: str
    folder: Path
    preparation: Preparation


def _results(jobs: list[_Job], workers: int) -> Iterator[tuple[_Job, str | None, list[str]]]:
    """Every job as it gets done: None or why there is no shard, and remarks on the clip."""
    workers = min(workers, len(jobs))
    if workers == 1:
        yield from ((job, *_make(job)) for job in jobs)
        return
    # Fresh interpreters: a fork of a process that runs torch or ffmpeg threads can hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _settle_worker)
    try:
        running = {pool.submit(_make, job): job for job in jobs}
        for future in as_completed(running):
            yield running[future], *future.result()
    except BrokenProcessPool as error:
        raise TrainingError(
            "a process that prepared clips was killed, perhaps for want of memory; run the command again, which continues "
            "with the clips that are missing, with fewer --prepare-workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _settle_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # the clips are what is parallel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in workers

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # a parent that was killed cannot stop its workers

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()


def _make(job: _Job) -> tuple[str | None, list[str]]:
    """Make a clip's shard; returns None or why there is none, and remarks on the clip."""
    remarks: list[str] = []
    cache = job.preparation.cache
    with cache.storing(within=job.folder), caching(cache):
        try:
            frames, fps = _frames(job.source, job.preparation, remarks.append)
            _write(job, frames, fps)
        except (StoreError, OutputError, UsageError):
            raise
        except DreamposeError as error:
            if isinstance(error, NoPersonError):  # an estimator has seen every frame of it: once is enough
                text = json.dumps({"clip": job.source.name, "reason": str(error)})
                atomic.write_text(job.folder / f"{job.key}{BAD_SUFFIX}", text)
            return str(error), remarks
    return None, remarks


@contextmanager
def caching(cache: Cache) -> Iterator[None]:
    """Turn errors of writing in this block into errors of the cache: StoreError in place of OutputError."""
    try:
        yield
    except OutputError as error:
        if isinstance(error.__cause__, OSError):
            raise cache.store_error(error.__cause__, "write") from error
        raise


def _write(job: _Job, frames: Iterator[tuple[np.ndarray, np.ndarray]], fps: float) -> None:
    """The frames, pictures uint8 (H, W, 3) with poses float32 (3, H, W), or skeletons uint8 (H, W, 3), of any size, as a
    shard."""
    how, name, shown = job.preparation, job.source.name, False
    with ShardWriter(job.folder / f"{job.key}{SUFFIX}", how.resolution, fps, job.source.ordered) as writer:
        for picture, pose in frames:
            drawn = how.kind == "keypoints"
            height, width = pose.shape[:2] if drawn else pose.shape[1:]
            if abs(height / width * picture.shape[1] / picture.shape[0] - 1) > 0.03:
                raise TrainingError(
                    f"its poses are {width}x{height} and its pictures {picture.shape[1]}x{picture.shape[0]}: "
                    "poses of another clip?"
                )
            if drawn:
                packed = np.ascontiguousarray(fit_picture(pose, how.resolution, how.fit).transpose(2, 0, 1))
            else:
                fitted = fit_pose(pose, how.resolution, how.fit, how.resize)
                packed = np.concatenate([fitted[:1], np.rint(fitted[1:] * 255)]).astype(np.uint8)
            shown = shown or bool(packed[0 if drawn else 1 :].any())
            writer.add(np.ascontiguousarray(fit_picture(picture, how.resolution, how.fit)), packed)
        if not writer.count:
            raise MediaError(f"{job.source.files()[0]} has no frames.")
        if not shown:
            raise NoPersonError(f"the poses of {name} show nobody.")


def _frames(source: Source, how: Preparation, remark: Note) -> tuple[Iterator[tuple[np.ndarray, np.ndarray]], float]:
    """A clip's pictures with their poses, one by one, and its frame rate."""
    if source.pictures:
        return _pictures(source, how, remark), 30.0
    assert source.frames is not None
    frames = media.open_frames(source.frames)
    if source.poses is not None:
        sequence = open_poses(source.poses, fps=frames.fps)
    else:
        from ..poses.extraction import load_poses

        assert how.estimator is not None  # clips without poses were left out before
        sequence = load_poses(
            how.cache, source.frames, estimator=how.estimator, kind=how.kind, device=how.device, note=remark
        )[0]
    _require_parts(sequence, source.poses, how)
    return _joined(source, frames, sequence), sequence.fps


def _joined(
    source: Source, frames: media.FrameSource, sequence: PoseSequence
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with frames:
        for count, picture in enumerate(frames):
            if count >= len(sequence):
                raise TrainingError(f"{source.frames} has more frames than its poses ({len(sequence)}).")
            yield picture, _shown(sequence, count)


def _shown(sequence: PoseSequence, frame: int) -> np.ndarray:
    """A pose frame (3, H, W); keypoints as their skeleton, (H, W, 3)."""
    pose = sequence.frame(frame)
    return draw_skeleton(pose, sequence.size) if sequence.kind == "keypoints" else pose


def _pictures(source: Source, how: Preparation, remark: Note) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Single pictures, each with its own poses; one without a person is left out."""
    for path, poses in source.pictures:
        try:
            picture = media.read_photo(path)
            if poses is not None:
                sequence = open_poses(poses)
                _require_parts(sequence, poses, how)
                pose = _shown(sequence, 0)
            else:
                assert how.estimator is not None
                if how.kind == "keypoints":
                    raise PoseError("keypoints of single pictures are read from files only; put them next to it.")
                pose = estimate_photo(how.cache, picture, path, how.estimator, how.device)
        except (MediaError, PoseError) as error:
            remark(f"{path.name} of {source.name} left out: {error}")
            continue
        yield picture, pose


def _require_parts(sequence: PoseSequence, poses: Path | None, how: Preparation) -> None:
    """TrainingError unless the poses are of the kind that is wanted, with body parts where these are."""
    if sequence.kind != how.kind:
        words = {"keypoints": "keypoints", "densepose": "DensePose"}
        raise TrainingError(f"{poses} holds {words[sequence.kind]}, and this base follows {words[how.kind]}.")
    if how.kind == "densepose" and how.parts and not sequence.has_parts:
        raise TrainingError(f"{poses} knows no body parts, which this base needs; leave the poses to an estimator.")


# ---- room


def _require_room(jobs: list[_Job], folder: Path, how: Preparation) -> None:
    """TrainingError where the clips will not fit on the disk, as far as a few of them tell."""
    pixels = how.resolution[0] * how.resolution[1]
    frame = 3 * pixels * (PACKED_PICTURE + PACKED_POSE)
    sources = [job.source for job in jobs]
    needed = frame * _count_frames(sources) + _estimates(sources)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"preparing {len(jobs)} clips needs about {amount(needed)} in {folder.parent}, where {amount(free)} are free; "
            "make room (`dreampose cache prune`), set DREAMPOSE_CACHE to a folder on another disk, or give fewer clips."
        )


def amount(size: float) -> str:
    """A number of bytes, in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _estimates(sources: list[Source]) -> float:
    """About how many bytes the estimated poses of clips take, which are kept next to their shards."""
    clips = [source.frames for source in sources if source.frames is not None and source.poses is None]
    pixels = []
    for clip in clips[:: max(1, len(clips) // SAMPLED)][:SAMPLED]:
        with suppress(DreamposeError), media.open_frames(clip) as found:
            pixels.append(found.size[0] * found.size[1])
    return 6 * PACKED_ESTIMATE * _count_frames(sources) * sum(pixels) / len(pixels) if pixels else 0.0


def _count_frames(sources: list[Source]) -> float:
    """About how many frames there are. Videos are probed, but only a few of them: the rest by their size."""
    counted = sum(len(source.pictures) for source in sources)
    folders = [s.frames for s in sources if s.frames is not None and s.frames.is_dir()]
    counted += sum(sum(1 for p in folder.iterdir() if p.suffix.lower() in PICTURES) for folder in folders)
    videos = [s.frames for s in sources if s.frames is not None and not s.frames.is_dir()]
    if not videos:
        return counted
    frames = bytes_ = 0
    for path in videos[:: max(1, len(videos) // SAMPLED)][:SAMPLED]:
        try:
            found = media.open_frames(path)
        except DreamposeError:
            continue  # it is named when its turn comes
        with found:
            frames += found.length or 0
            bytes_ += path.stat().st_size
    return counted + (sum(path.stat().st_size for path in videos) * frames / bytes_ if bytes_ else 0)


def _address_or_none(source: Source, preparation: Preparation) -> str | None:
    try:
        return address(source, preparation)
    except OSError:
        return None


def _stamp(path: Path) -> list[Any]:
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
