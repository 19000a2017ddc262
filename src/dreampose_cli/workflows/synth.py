"""Folders of mannequin clips with exact poses, for training, examples and measurements."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UsageError
from ..mannequins.dance import draw_dance
from ..mannequins.studio import SIZE, Frame, perform
from ..mannequins.subject import draw_subject
from ..media import atomic_folder, write_frames
from ..poses.files import PoseWriter
from ..reporting import Progress

FPS = 12.0
VERSION = 1
_SPLITS = ("train", "test")
_NAMES = {*_SPLITS, "dataset.json"}  # a folder that holds anything else is never replaced


@dataclass(frozen=True)
class Clip:
    """One clip of a dataset: where it goes and the seeds that fix its content."""

    split: str
    index: int
    subject_seed: int
    dance_seed: int

    @property
    def name(self) -> str:
        """The clip's folder name."""
        return f"mannequin-{self.index:06d}"


def plan_clip(seed: int, split: str, index: int) -> Clip:
    """The clip number ``index`` of a split: a function of these three values alone."""
    entropy = np.random.SeedSequence(entropy=seed, spawn_key=(_SPLITS.index(split), index))
    subject_seed, dance_seed = (int(s) for s in entropy.generate_state(2, np.uint64))
    return Clip(split, index, subject_seed, dance_seed)


def default_test_subjects(subjects: int) -> int:
    """An eighth of the subjects, at least one, but never all of them: a single one is to train on."""
    return min(max(1, round(subjects / 8)), subjects - 1)


def write_dataset(
    out: Path,
    *,
    subjects: int,
    frames: int = 24,
    seed: int = 0,
    test_subjects: int | None = None,
    png: bool = False,
    size: tuple[int, int] = SIZE,
    workers: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``subjects`` clips of ``frames`` frames, one mannequin each, whole or not at all; return ``out``.

    The layout is OUT/{train,test}/mannequin-NNNNNN/{video.mp4,video.poses} and OUT/dataset.json; ``png`` adds the
    pictures before video compression as frames/00000.png and so on. ``test_subjects`` of the clips go to test (an
    eighth by default, at least one of two). ``size`` is (height, width). A clip depends on (seed, split, its number)
    alone, so that a larger dataset begins with the clips of a smaller one. ``progress(done, total, note)`` counts clips.
    Raises UsageError, OutputError, OutputExistsError.
    """
    if test_subjects is None:
        test_subjects = default_test_subjects(subjects)
    for wrong, words in (
        (subjects < 1, f"A dataset needs at least one subject, not {subjects}."),
        (frames < 1, f"A clip needs at least one frame, not {frames}."),
        (seed < 0, f"The seed {seed} is negative; give a whole number from 0 on."),
        (not 0 <= test_subjects <= subjects, f"{test_subjects} test subjects do not fit into {subjects} subjects."),
        (min(size) < 16, f"A picture of {size[1]}x{size[0]} is too small; give at least 16 pixels a side."),
        (workers < 1, f"{workers} workers cannot work; give at least 1."),
    ):
        if wrong:
            raise UsageError(words)
    counts = {"train": subjects - test_subjects, "test": test_subjects}
    clips = [plan_clip(seed, split, index) for split in _SPLITS for index in range(counts[split])]
    with atomic_folder(out, overwrite, owned=_NAMES.__contains__) as part:
        for split in _SPLITS:
            if counts[split]:
                (part / split).mkdir()
        tasks = [_Task(clip, part / clip.split / clip.name, frames, png, size) for clip in clips]
        rows = []
        for row in _in_order(tasks, workers):
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(clips), f"{row['split']}/{row['name']}")
        document = {
            "version": VERSION, "seed": seed, "frames": frames, "fps": FPS, "width": size[1], "height": size[0],
            "clips": rows,
        }  # fmt: skip
        (part / "dataset.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return Path(out)


@dataclass(frozen=True)
class _Task:
    clip: Clip
    folder: Path
    frames: int
    png: bool
    size: tuple[int, int]


def _in_order(tasks: list[_Task], workers: int) -> Iterator[dict]:
    workers = min(workers, len(tasks))
    if workers == 1:
        yield from map(_write_clip, tasks)
        return
    # Fresh interpreters: a fork of a process that runs torch or ffmpeg threads can hang.
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_settle_worker) as pool:
        yield from pool.imap(_write_clip, tasks)


def _settle_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers


def _write_clip(task: _Task) -> dict:
    clip = task.clip
    subject = draw_subject(clip.subject_seed)
    dance = draw_dance(clip.dance_seed, task.frames, FPS)
    task.folder.mkdir()
    if task.png:
        (task.folder / "frames").mkdir()
    with PoseWriter(task.folder / "video.poses", task.size, FPS, source=clip.name, estimator=None) as poses:
        write_frames(
            task.folder / "video.mp4",
            _filed(perform(subject, dance, task.size), poses, task),
            fps=FPS,
            metadata={"mannequin": clip.name},
        )
    outfit = subject.outfit
    return {
        "split": clip.split, "name": clip.name, "subject_seed": clip.subject_seed, "dance_seed": clip.dance_seed,
        "outfit": outfit.kind,
        "patterned": subject.patterned, "patterns": [outfit.top.pattern, outfit.bottom.pattern],
    }  # fmt: skip


def _filed(frames: Iterator[Frame], poses: PoseWriter, task: _Task) -> Iterator[np.ndarray]:
    """The pictures of frames, whose labels (and uncompressed pictures, if asked for) are written on the way."""
    for index, frame in enumerate(frames):
        poses.append(frame.pose)
        if task.png:
            Image.fromarray(frame.picture).save(task.folder / "frames" / f"{index:05d}.png")
        yield frame.picture
