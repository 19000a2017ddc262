"""One test clip of a suite: its photo, reference and poses, and the frames of every variant."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import media
from ..bases.config import PoseWindow, read_config
from ..cache import Cache, key
from ..errors import EvaluationError
from ..evaluation.frame_pairs import scored_size
from ..evaluation.pairing import ClipFiles
from ..evaluation.variants import PHOTOS, SMOOTHING, Variant
from ..networks.storage import load_base, save_module
from ..poses.extraction import load_poses
from ..poses.files import PoseWriter, open_poses
from ..poses.keypoint_files import KeypointWriter
from ..poses.sequence import PoseSequence
from ..reporting import Note
from ..training.data import find_test_clips
from .options import RenderOptions, SuiteOptions, TuneOptions
from .render import render
from .suite_baselines import Baselines
from .tune import TunedSubject, tune

GAP = 50  # the paper's: at least so far from the photo


def test_clips(dataset: Path, note: Note | None = None) -> list[tuple[str, ClipFiles]]:
    """The test clips of a dataset by name, as training finds them (`training.data`): those of test/ or of a test list, or
    all where nothing says it; what is left out is said through `note`. Raises EvaluationError where there are none."""
    if not Path(dataset).is_dir():
        raise EvaluationError(f"{dataset} is no folder of clips; `dreampose synth {dataset}` makes one to try with.")
    sources = find_test_clips(dataset, note)
    if not sources:
        raise EvaluationError(
            f"{dataset} holds no clips to test with: videos, or folders with frames/ or a video in them, in a folder test/ "
            "where there is a folder train/."
        )
    clips = {}
    for source in sources:
        name = source.name.replace("/", "-")  # the run keeps each clip's frames in one folder
        if name in clips:
            raise EvaluationError(f"{dataset} holds two clips called {name}; rename one of them.")
        posed = source.pictures and all(poses is not None for _, poses in source.pictures)
        clips[name] = ClipFiles(source.media, source.media if posed else source.poses)
    return list(clips.items())


def chosen_rows(length: int, options: SuiteOptions) -> tuple[int, range]:
    """The gap, and which frames of a clip of `length` are rendered: consecutive ones, from `gap` on."""
    gap = options.min_gap if options.min_gap is not None else min(GAP, length // 2)
    return gap, range(gap, min(length, gap + options.frames))


def photo_rows(gap: int, count: int) -> list[int]:
    """Frames that serve as photos: the first, and others spread over the part before the frames that are scored."""
    return [round(k * (gap - 1) / max(1, count - 1)) for k in range(count)] if count > 1 else [0]


class ClipJob:
    """All variants of one test clip."""

    def __init__(
        self, cache: Cache, name, clip, options: SuiteOptions, bases, baselines: Baselines, model_cache, note
    ) -> None:
        self.output, self.name, self.options, self.bases, self.note = Path(options.output), name, options, bases, note
        self.cache, self.clip, self.baselines, self.model_cache = cache, clip, baselines, model_cache

    def render(self, rows: list[Variant], progress: Callable[[int, str], None]) -> None:
        missing = [row for row in rows if not self._folder(row.key).is_dir()]
        if not missing and (self.output / "reference" / self.name).is_dir():
            return
        self._prepare()
        groups: dict[tuple[str, str, int], list[Variant]] = {}
        for row in missing:
            groups.setdefault(row.source, []).append(row)
        self.progress, self.done = progress, len(rows) - len(missing)
        for (kind, base, photos), members in groups.items():
            if kind == "copied":
                self._write("copied", [media.read_photo(self.photo(0))] * len(self.rows))
            elif kind == "smoothed":
                self._write("smoothed", smooth(list(media.open_frames(self._folder("full")))))
            elif kind == "baseline":
                self._say(members[0].title)
                photo = media.read_photo(self.photo(0))
                self._write(members[0].key, self.baselines.frames(base, photo, self.clip, self.rows))
            elif kind == "untuned":
                for row in members:
                    self._render(row, photo=self.photo(0), base=str(self.bases[base]))
            else:
                self._tuned(base, photos, members)

    def photo(self, row: int) -> Path:
        return self.output / "photos" / self.name / f"{row:05d}.png"

    def _sequence(self) -> PoseSequence:
        """The poses of the whole clip: its own, or estimated."""
        if self.clip.poses is not None:
            return open_poses(self.clip.poses)
        estimator = read_config(self.bases["base"]).estimator
        return load_poses(
            self.cache, self.clip.frames, estimator=estimator, device=self.options.device, note=self.note
        )[0]

    def _prepare(self) -> None:
        """Write the reference frames, the photos, and the poses of the frames that are scored."""
        with media.open_frames(self.clip.frames) as source:
            fps, length = source.fps, source.length
            if length is None or self.clip.poses is None:
                length = sum(1 for _ in source)
        poses = self._sequence()
        if self.clip.poses is not None:
            fps, length = poses.fps, min(length, len(poses))
        self.fps = fps
        self.gap, self.rows = chosen_rows(length, self.options)
        if not 1 <= self.gap < length:
            raise EvaluationError(
                f"the clip {self.name} has {length} frames, so none is {self.gap} frames from the photo; give a smaller --min-gap."
            )
        wanted = {row for count in PHOTOS for row in photo_rows(self.gap, count)}
        target = self.output / "reference" / self.name
        if target.is_dir():
            return
        (self.output / "photos" / self.name).mkdir(parents=True, exist_ok=True)
        for name in ("poses", "reference"):
            (self.output / name).mkdir(exist_ok=True)
        kept = []
        with media.open_frames(self.clip.frames) as source:
            for index, frame in enumerate(source):
                if index in wanted:
                    media.write_frames(self.photo(index), [frame], fps=1, overwrite=True)
                if index in self.rows:
                    kept.append(media.resize(frame, scored_size(frame.shape[:2], self.options.size)))
                elif index > self.rows[-1]:
                    break
        if poses.kind == "densepose" and poses.has_parts:  # a mannequin in a pose of keypoints is not the person's surface
            file = self.output / "poses" / f"{self.name}.poses"
            with PoseWriter(file, poses.size, fps, source=self.name) as writer:
                for row in self.rows:
                    writer.append(poses.frame(row))
        media.write_frames(f"{target}/", kept, fps=fps)

    def _tuned(self, base: str, photos: int, members: list[Variant]) -> None:
        """The variants `members` of one tuned subject; none where the clip has too few frames for the photos."""
        chosen = photo_rows(self.gap, photos)
        if len(set(chosen)) < photos:
            self.note(f"{self.name} has no {photos} different frames before the gap of {self.gap}; left out there.")
            self.done += len(members)
            return
        folder = self.bases[base]
        self._say(f"tuning for {members[0].title}")
        subject = tune(
            TuneOptions(
                [self.photo(row) for row in chosen],
                base=str(folder),
                steps=self.options.tune_steps,
                decoder_steps=self.options.decoder_steps if any(row.decoder for row in members) else 0,
                seed=self.options.seed,
                device=self.options.device,
                dtype=self.options.dtype,
            ),
            cache=self.cache,
        )
        kept = [subject.path]
        for row in members:
            entry = subject.path
            if not row.decoder and any(other.decoder for other in members):
                entry = _without_decoder(self.cache, subject, folder)
                kept.append(entry)
            self._render(row, subject=entry.name)
        for entry in kept:  # those of a large base take gigabytes; frames are kept
            shutil.rmtree(entry, ignore_errors=True)

    def _render(self, row: Variant, **who: Any) -> None:
        """Render a variant of `who`: a subject, or a photo on a base."""
        self._say(row.title)
        source, span, every = self._driving(row, read_config(self.bases[row.base]).poses)
        with tempfile.TemporaryDirectory(prefix=".rendering-", dir=self.output) as work:
            options = RenderOptions(
                [source],
                f"{work}/frames/",
                **who,
                **span,
                image_guidance=row.image_guidance,
                pose_guidance=row.pose_guidance,
                steps=self.options.steps,
                seed=self.options.seed,
                batch_size=self.options.batch_size,
                align="off",
                device=self.options.device,
                dtype=self.options.dtype,
            )
            render(options, cache=self.cache, model_cache=self.model_cache)
            with media.open_frames(f"{work}/frames") as made:
                self._write(row.key, (frame for i, frame in enumerate(made) if i % every == every // 2))

    def _driving(self, row: Variant, poses: PoseWindow) -> tuple[Path, dict[str, Any], int]:
        """The pose source of a variant, the part of it in seconds, and which share of its frames is meant (1: all)."""
        if not row.one_pose:
            span = {"start": self.rows[0] / self.fps, "end": (self.rows[-1] + 1) / self.fps}
            return self.clip.poses or self.clip.frames, span, 1
        # A window holds neighbours at the base's training rate. In a sequence of a much lower rate they are all the frame
        # itself; for a base without a rate each pose is repeated as often as the window is long.
        every = 1 if poses.training_fps else poses.count
        file = self.output / "poses" / ".one-pose.poses"
        sequence = self._sequence()
        rate = poses.training_fps / (4 * poses.count) if poses.training_fps else self.fps
        writer: PoseWriter | KeypointWriter
        if sequence.kind == "keypoints":
            writer = KeypointWriter(file, sequence.size, rate, source=self.name, estimator=None)
        else:
            writer = PoseWriter(file, sequence.size, rate, has_parts=sequence.has_parts, source=self.name)
        with writer:
            for index in self.rows:
                for _ in range(every):
                    writer.append(sequence.frame(index))
        return file, {}, every

    def _say(self, text: str) -> None:
        self.progress(self.done, f"{self.name}, {text}")

    def _write(self, key: str, frames) -> None:
        """The frames of a variant, which is then done."""
        target = self._folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        media.write_frames(f"{target}/", frames, fps=self.fps)
        self.done += 1

    def _folder(self, key: str) -> Path:
        return self.output / "frames" / key / self.name


def _without_decoder(cache: Cache, subject: TunedSubject, base: Path) -> Path:
    """A twin of a subject that has the base's own decoder: the network's phase comes first and is the same in both."""
    twin = cache.path_of("subject", key("suite", subject.id, "without its decoder"))
    shutil.rmtree(twin, ignore_errors=True)
    shutil.copytree(subject.path, twin)
    cache.note_place(twin.name, base)
    network = load_base(base)
    for stage in network.tuning_stages:
        for name in stage.modules if stage.loss == "reconstruction" else ():
            save_module(network.module(name), twin / f"{name}.safetensors", torch.float16)
    return twin


def smooth(frames: list[np.ndarray], count: int = SMOOTHING) -> list[np.ndarray]:
    """Each frame's mean with its neighbours, `count` in all and fewer at the ends: uint8 (H, W, 3)."""
    reach = count // 2
    stack = np.stack(frames).astype(np.float32)
    means = (stack[max(0, i - reach) : i + reach + 1].mean(axis=0) for i in range(len(stack)))
    return [mean.round().astype(np.uint8) for mean in means]
