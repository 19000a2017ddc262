"""The paper's tables as a job: each test clip's first frame is the photo, later frames are rendered and scored.

OUTPUT holds settings.json, reference/CLIP/ (the frames to hit), poses/CLIP.poses, photos/CLIP/, frames/VARIANT/CLIP/,
and in the end results.json and results.csv. A folder of frames appears whole or not at all, so a run that was stopped
goes on with what is missing; the figures are what `evaluate` says of frames/VARIANT against reference. Clips are done one
after the other, all variants of each, so that a run that was stopped has whole clips to score (`--clips`).

Subjects are tuned and rendered by the workflows `tune` and `render`, as the commands do, in a cache of the
run's own.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import cache, media
from ..bases.config import PoseSettings, read_config
from ..bases.fingerprint import revision
from ..bases.registry import resolve_base
from ..errors import DreamposeError, EvaluationError, MediaError, NoPersonError, PoseError, UsageError
from ..evaluation import literature as published
from ..evaluation.facing import views_of
from ..evaluation.frame_pairs import scored_size
from ..evaluation.metric_registry import SIZE
from ..evaluation.paired_stats import SPREAD_RULE, by_clip, by_view, compare
from ..evaluation.pairing import ClipFiles
from ..evaluation.results import write_csv, write_json
from ..evaluation.scoring import Evaluation, evaluate
from ..evaluation.variants import PHOTOS, SMOOTHING, Variant, variants_of
from ..networks.dreampose.network import load_base, save_tensors
from ..networks.model_cache import Shelf
from ..poses.extraction import poses_of
from ..poses.files import PoseWriter, open_poses
from ..poses.sequence import PoseSequence
from ..training.data import find_test_clips
from ..version import __version__
from .options import RenderOptions, TuneOptions
from .render import render
from .tune import TunedSubject, tune

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]

VERSION = 2  # of what is computed: raise it when a variant changes
GAP, FRAMES = 50, 50  # the paper's: at least so far from the photo, so many frames


@dataclass(frozen=True)
class SuiteSettings:
    """What decides the frames of a run, besides the bases: another one of these cannot go on with a run's folder."""

    gap: int | None = None  # None: the paper's 50, or half of a clip that is shorter than twice that
    frames: int = FRAMES
    size: int | None = SIZE
    seed: int = 0
    steps: int | None = None
    tune_steps: int | None = None
    decoder_steps: int | None = None
    dtype: str = "auto"  # of tuning and rendering; scores are computed in 32 and 64 bits


def run_suite(
    dataset: Path,
    output: Path,
    *,
    base: str | None = None,
    against: dict[str, str] | None = None,
    tuned: bool = False,
    ablations: bool = False,
    clips: int | None = None,
    settings: SuiteSettings | None = None,
    metrics: tuple[str, ...] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    command: str = "",
    progress: Progress | None = None,
    note: Note | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Render and score every variant on the test clips of `dataset`; what is there already is kept.

    dataset: a folder with test/ in it, or the folder of clips itself. against: other bases by name. clips: the first so
    many only. Returns results.json's document and the evaluation of the main variant (tuned, or untuned), with frames and
    pictures for a report. Raises EvaluationError, UsageError, and what tuning and rendering raise.
    """
    note = note or (lambda text: None)
    settings = settings or SuiteSettings()
    against = against or {}
    found = test_clips(dataset, note)[:clips]
    bases = {"base": resolve_base(base, note, progress)}  # in the user's own cache, before the run takes one of its own
    bases |= {name: resolve_base(source, note, progress) for name, source in against.items()}
    config = read_config(bases["base"])
    sampling = dataclasses.asdict(config.sampling)
    rows = variants_of(tuned=tuned, ablations=ablations, against=list(against), sampling=sampling)
    own = {"base", *(row.key for row in variants_of(tuned=True, ablations=True, against=[], sampling=sampling))}
    keys = [row.key for row in rows]
    if clash := next((key for key in (*against, *keys) if key in own & set(against) or keys.count(key) > 1), None):
        raise UsageError(
            f"--against names a base so that two rows would be called {clash}; choose another name for it."
        )
    output = Path(output)
    _open(output, settings, bases)
    began = time.monotonic()
    with cache.within(output / "cache"):  # the run's own
        shelf = Shelf(keep=True)
        unusable: dict[str, DreamposeError] = {}
        for number, (name, clip) in enumerate(found):
            try:
                job = _ClipJob(output, name, clip, settings, bases, device, batch_size, shelf, note)
                job.render(rows, _counted(progress, number * len(rows), len(found) * len(rows)))
            except (MediaError, PoseError, NoPersonError, EvaluationError) as error:  # the others go on
                unusable[name] = error
    found = [(name, clip) for name, clip in found if name not in unusable]
    if not found:
        raise next(iter(unusable.values()))
    for name, error in unusable.items():
        note(f"{name} is left out: {error}")
    names = [name for name, _ in found]
    main = "full" if any(row.key == "full" for row in rows) else "untuned"
    rows = [row for row in rows if _clips_of(output, row, names)]  # short clips have no seven photos before the gap
    scores = {row.key: _score(output, row, names, settings, metrics, device, pictures=row.key == main) for row in rows}
    document = _document(
        rows, scores, settings, bases, found, dataset, output, command, time.monotonic() - began, device
    )
    document["left_out"] = {name: str(error) for name, error in unusable.items()}
    write_json(output / "results.json", document)
    write_csv(output / "results.csv", list(_csv_rows(rows, scores)))
    return document, scores[main]


def _counted(progress: Progress | None, before: int, total: int) -> Callable[[int, str], None]:
    """Progress within one clip as progress of the whole run."""
    return lambda done, text: progress(before + done, total, text) if progress else None


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


def chosen_rows(length: int, settings: SuiteSettings) -> tuple[int, range]:
    """The gap, and which frames of a clip of `length` are rendered: consecutive ones, from `gap` on."""
    gap = settings.gap if settings.gap is not None else min(GAP, length // 2)
    return gap, range(gap, min(length, gap + settings.frames))


def photo_rows(gap: int, count: int) -> list[int]:
    """Frames that serve as photos: the first, and others spread over the part before the frames that are scored."""
    return [round(k * (gap - 1) / max(1, count - 1)) for k in range(count)] if count > 1 else [0]


class _ClipJob:
    """All variants of one test clip."""

    def __init__(self, output, name, clip, settings, bases, device, batch_size, shelf, note) -> None:
        self.output, self.name, self.settings, self.bases, self.note = output, name, settings, bases, note
        self.device, self.batch, self.clip, self.shelf = device, batch_size, clip, shelf

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
        return poses_of(self.clip.frames, estimator=estimator, device=self.device, note=self.note)[0]

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
        self.gap, self.rows = chosen_rows(length, self.settings)
        if not 1 <= self.gap < length:
            raise EvaluationError(
                f"the clip {self.name} has {length} frames, so none is {self.gap} frames from the photo; give a smaller --gap."
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
                    kept.append(media.resize(frame, scored_size(frame.shape[:2], self.settings.size)))
                elif index > self.rows[-1]:
                    break
        if poses.has_parts:
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
                steps=self.settings.tune_steps,
                decoder_steps=self.settings.decoder_steps if any(row.decoder for row in members) else 0,
                seed=self.settings.seed,
                device=self.device,
                dtype=self.settings.dtype,
                memory="high",
            )
        )
        kept = [subject.path]
        for row in members:
            entry = subject.path
            if not row.decoder and any(other.decoder for other in members):
                entry = _without_decoder(subject, folder)
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
                steps=self.settings.steps,
                seed=self.settings.seed,
                batch_size=self.batch,
                align="off",
                device=self.device,
                dtype=self.settings.dtype,
            )
            render(options, shelf=self.shelf)
            with media.open_frames(f"{work}/frames") as made:
                self._write(row.key, (frame for i, frame in enumerate(made) if i % every == every // 2))

    def _driving(self, row: Variant, poses: PoseSettings) -> tuple[Path, dict[str, float], int]:
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
        with PoseWriter(file, sequence.size, rate, has_parts=sequence.has_parts, source=self.name) as writer:
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


def _without_decoder(subject: TunedSubject, base: Path) -> Path:
    """A twin of a subject that has the base's own decoder: the network's phase comes first and is the same in both."""
    twin = cache.path_of("subject", cache.key("suite", subject.id, "without its decoder"))
    shutil.rmtree(twin, ignore_errors=True)
    shutil.copytree(subject.path, twin)
    save_tensors(load_base(base).vae.decoder.state_dict(), twin / "decoder.safetensors", torch.float16)
    return twin


def smooth(frames: list[np.ndarray], count: int = SMOOTHING) -> list[np.ndarray]:
    """Each frame's mean with its neighbours, `count` in all and fewer at the ends: uint8 (H, W, 3)."""
    reach = count // 2
    stack = np.stack(frames).astype(np.float32)
    means = (stack[max(0, i - reach) : i + reach + 1].mean(axis=0) for i in range(len(stack)))
    return [mean.round().astype(np.uint8) for mean in means]


def _clips_of(output: Path, row: Variant, names: list[str]) -> list[str]:
    return [name for name in names if (output / "frames" / row.key / name).is_dir()]


def _score(output, row: Variant, names, settings, metrics, device, pictures: bool) -> Evaluation:
    """The figures of one variant over the clips that it has."""
    poses = output / "poses"
    return evaluate(
        output / "frames" / row.key,
        output / "reference",
        size=settings.size,
        poses=poses if any(_pose_files(poses)) else None,
        metrics=metrics,
        device=device,
        keep_frames=True,
        keep_pictures=pictures,
        only=_clips_of(output, row, names),
    )


def _open(output: Path, settings: SuiteSettings, bases: dict[str, Path]) -> None:
    """Make or enter a run's folder. Raises EvaluationError where it was begun with other settings or bases."""
    wanted = {
        "version": VERSION,
        "software": __version__,
        "settings": dataclasses.asdict(settings),
        "bases": {name: revision(folder) for name, folder in bases.items()},
    }
    file = output / "settings.json"
    if output.exists() and not output.is_dir():
        raise EvaluationError(f"{output} is a file, and a suite writes a folder; choose another -o.")
    inside = set(os.listdir(output)) if output.exists() else set()
    if inside and not file.exists():
        raise EvaluationError(f"{output} holds {min(inside)}, but no suite to go on with; choose another -o.")
    if file.exists():
        before = cache.read_json(file)
        differing = [key for key in ("version", "settings") if before.get(key) != wanted[key]]
        known = before.get("bases", {})
        differing += [f"base {n}" for n, digest in wanted["bases"].items() if known.get(n, digest) != digest]
        if differing:
            raise EvaluationError(
                f"{output} was begun with other settings ({', '.join(differing)}); choose another -o, or remove it."
            )
        wanted["bases"] = known | wanted["bases"]
    output.mkdir(parents=True, exist_ok=True)
    write_json(file, wanted)


def _document(rows, scores, settings, bases, found, dataset, output, command, seconds, device) -> dict[str, Any]:
    """results.json: the figures and everything needed to repeat them."""
    table = {}
    for row in rows:
        score = scores[row.key]
        table[row.key] = {
            "title": row.title,
            "clips": len(score.clips),
            "metrics": score.metrics,
            "reasons": score.reasons,
            "spread": score.spread,
            "subjects": {clip.name: clip.metrics for clip in score.clips},
            "variant": dataclasses.asdict(row),
        }
    configs = {name: read_config(folder) for name, folder in bases.items()}
    seen = {file.stem: views_of(file) for file in _pose_files(output / "poses")}
    first = scores[rows[0].key].protocol
    people = sorted({config.people for config in configs.values()})
    distance = f"{settings.gap or GAP} after it on"
    if settings.gap is None:
        distance += f" (from the middle of a clip of fewer than {2 * GAP})"
    statement = (
        f"{len(found)} test clip{'s' * (len(found) != 1)} of {Path(dataset).name}; the photo is a clip's first frame; "
        f"rendered are up to {settings.frames} consecutive frames, from frame {distance}; the bases know "
        f"{' and '.join(people)}. {first['statement']}."
    )
    return {
        "statement": statement,
        "command": command,
        "protocol": first,
        "settings": dataclasses.asdict(settings),
        "bases": {
            name: {
                "name": config.name,
                "revision": revision(bases[name]),
                "sampling": dataclasses.asdict(config.sampling),
                "tuning": dataclasses.asdict(config.tuning),
                "provenance": config.provenance,
            }
            for name, config in configs.items()
        },
        "clips": [name for name, _ in found],
        "machine": {"device": device, "torch": torch.__version__, "software": f"dreampose-cli {__version__}"},
        "seconds": round(seconds, 1),
        "summary": {
            "rule": SPREAD_RULE,
            "variants": table,
            "comparisons": list(compare(rows, by_clip(scores))),
            "views": by_view(rows, scores, seen),
        },
        "published": {"columns": ["l1", "ssim", "vgg", "lpips"], "ablation": published.ABLATION},
    }


def _pose_files(poses: Path) -> Iterator[Path]:
    """One file for each clip whose poses know body parts."""
    return (file for file in sorted(poses.glob("*.poses")) if not file.name.startswith("."))


def _csv_rows(rows: list[Variant], scores: dict[str, Evaluation]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for clip in scores[row.key].clips:
            yield {"variant": row.key, "name": clip.name, "frames": clip.frames, **clip.metrics}
        total = scores[row.key]
        yield {"variant": row.key, "name": "(mean)", "frames": total.protocol["frames"], **total.metrics}
