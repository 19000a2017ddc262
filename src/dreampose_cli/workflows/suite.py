"""The paper's tables as a job: each test clip's first frame is the photo, later frames are rendered and scored.

OUTPUT holds settings.json, reference/CLIP/ (the frames to hit), poses/CLIP.poses, photos/CLIP/, frames/VARIANT/CLIP/,
and in the end results.json and results.csv. A folder of frames appears whole or not at all, so a run that was stopped
continues with what is missing; the figures are what `evaluate` says of frames/VARIANT against reference. Clips are done one
after the other, all variants of each, so that a run that was stopped has whole clips to score (`--clips`).

Subjects are tuned and rendered by the workflows `tune` and `render`, as the commands do, in a cache of the
run's own.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from ..bases.config import read_config
from ..bases.fingerprint import fingerprint
from ..bases.registry import resolve_base
from ..cache import Cache, read_json, user_cache
from ..errors import DreamposeError, EvaluationError, MediaError, NoPersonError, PoseError, UsageError
from ..evaluation import literature as published
from ..evaluation.facing import views_of
from ..evaluation.paired_stats import SPREAD_RULE, by_clip, by_view, compare
from ..evaluation.pairing import ClipFiles
from ..evaluation.results import write_csv, write_json
from ..evaluation.scoring import Evaluation, evaluate
from ..evaluation.variants import Variant, variants_of
from ..names import BASELINES
from ..networks.model_cache import ModelCache
from ..reporting import Note, Progress, no_note
from ..training.data import some
from ..training.identities import content_mark, trained_on
from ..version import __version__
from .options import SuiteOptions
from .suite_baselines import Baselines
from .suite_clips import GAP, ClipJob, test_clips

VERSION = 2  # of what is computed: raise it when a variant changes


def portable(words: Sequence[str]) -> str:
    """A command line to be kept with figures and shown to others: of paths that lead through folders of this machine only
    the last name stays."""
    return shlex.join(["dreampose", *map(_portable, words)])


def _portable(word: str) -> str:
    name, equals, value = word.partition("=")
    path = PureWindowsPath(value if equals else word)  # it knows both kinds of separators
    if path.is_absolute() or path.root or ".." in path.parts or path.parts[:1] == ("~",):
        return f"{name}{equals}{path.name}" if equals else path.name
    return word


def settings_of(options: SuiteOptions) -> dict[str, Any]:
    """The settings that decide the frames of a run, besides the bases: another one of these cannot resume a run's folder."""
    names = ("min_gap", "frames", "size", "seed", "steps", "tune_steps", "decoder_steps", "dtype")
    return {name: getattr(options, name) for name in names}


def suite(
    options: SuiteOptions,
    *,
    cache: Cache | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Render and score every variant on the test clips of a dataset; what is there already is kept.

    The dataset is a folder with test/ in it, or the folder of clips itself. Returns results.json's document and the
    evaluation of the main variant (tuned, or untuned), with frames and pictures for a report. Raises EvaluationError,
    UsageError, and what tuning and rendering raise.
    """
    cache, note = cache or user_cache(), note or no_note
    dataset = options.dataset
    plain = {name: source for name, source in options.compare.items() if source in BASELINES}
    compared = {name: source for name, source in options.compare.items() if name not in plain}
    found = test_clips(dataset, note)[: options.clips]
    # In the user's own cache, before the run takes one of its own.
    bases = {"base": resolve_base(cache, options.base, note, progress)}
    bases |= {name: resolve_base(cache, source, note, progress) for name, source in compared.items()}
    _require_strangers(found, bases, dataset)
    config = read_config(bases["base"])
    guidance = config.sampling.guidance
    rows = variants_of(
        tuned=options.tune, ablations=options.ablations, against=list(compared), guidance=guidance, baselines=plain
    )
    own = {"base", *(row.key for row in variants_of(tuned=True, ablations=True, against=[], guidance=guidance))}
    keys = [row.key for row in rows]
    if clash := next((key for key in (*options.compare, *keys) if key in own & set(options.compare) or keys.count(key) > 1), None):
        raise UsageError(
            f"--compare names a base so that two rows would be called {clash}; choose another name for it."
        )
    baselines = Baselines(plain, found, options, cache, progress, note)
    output = Path(options.output)
    _open(output, options, bases, baselines)
    began = time.monotonic()
    own_cache = Cache(output / "cache")  # the run's own
    model_cache = ModelCache(keep=True)
    unusable: dict[str, DreamposeError] = {}
    for number, (name, clip) in enumerate(found):
        try:
            job = ClipJob(own_cache, name, clip, options, bases, baselines, model_cache, note)
            job.render(rows, _counted(progress, number * len(rows), len(found) * len(rows)))
        except (MediaError, PoseError, NoPersonError, EvaluationError) as error:  # the others continue
            unusable[name] = error
    found = [(name, clip) for name, clip in found if name not in unusable]
    if not found:
        raise next(iter(unusable.values()))
    for name, reason in unusable.items():
        note(f"{name} is left out: {reason}")
    names = [name for name, _ in found]
    main = "full" if any(row.key == "full" for row in rows) else "untuned"
    rows = [row for row in rows if _clips_of(output, row, names)]  # short clips have no seven photos before the gap
    prompt = baselines.prompt if plain else options.prompt
    scores = {row.key: _score(options, row, names, prompt, pictures=row.key == main) for row in rows}
    document = _document(rows, scores, options, bases, found, time.monotonic() - began)
    document["baselines"] = {name: baselines.document(name) for name in plain}
    document["left_out"] = {name: str(error) for name, error in unusable.items()}
    write_json(output / "results.json", document)
    write_csv(output / "results.csv", list(_csv_rows(rows, scores)))
    return document, scores[main]


def _require_strangers(found: list[tuple[str, ClipFiles]], bases: dict[str, Path], dataset: Path) -> None:
    """EvaluationError where a base was trained on clips that it would be tested with, as far as it says on which."""
    for folder in bases.values():
        config = read_config(folder)
        if known := trained_on(config.provenance):
            names = [name for name, clip in found if content_mark(clip.frames) in known]
            if names:
                raise EvaluationError(
                    f"{config.name} was trained on {some(names)} of {dataset}, which would make every score too good; put the "
                    "clips to test with into a folder test/, without what was trained on."
                )


def _counted(progress: Progress | None, before: int, total: int) -> Callable[[int, str], None]:
    """Progress within one clip as progress of the whole run."""
    return lambda done, text: progress(before + done, total, text) if progress else None


def _clips_of(output: Path, row: Variant, names: list[str]) -> list[str]:
    return [name for name in names if (output / "frames" / row.key / name).is_dir()]


def _score(options: SuiteOptions, row: Variant, names: list[str], prompt: str | None, pictures: bool) -> Evaluation:
    """The figures of one variant over the clips that it has."""
    output = Path(options.output)
    poses = output / "poses"
    return evaluate(
        output / "frames" / row.key,
        output / "reference",
        size=options.size,
        poses=poses if any(_pose_files(poses)) else None,
        photo=output / "photos",
        prompt=prompt,
        metrics=options.metrics,
        device=options.device,
        keep_frames=True,
        keep_pictures=pictures,
        only=_clips_of(output, row, names),
    )


def _open(output: Path, options: SuiteOptions, bases: dict[str, Path], baselines: Baselines) -> None:
    """Make or enter a run's folder. Raises EvaluationError where it was begun with other settings or bases."""
    wanted: dict[str, Any] = {
        "version": VERSION,
        "software": __version__,
        "settings": settings_of(options),
        "bases": {name: fingerprint(folder) for name, folder in bases.items()},
    }
    wanted["bases"] |= {name: baselines.document(name) for name in baselines.names}
    file = output / "settings.json"
    if output.exists() and not output.is_dir():
        raise EvaluationError(f"{output} is a file, and a suite writes a folder; choose another -o.")
    inside = set(os.listdir(output)) if output.exists() else set()
    if inside and not file.exists():
        raise EvaluationError(f"{output} holds {min(inside)}, but no suite to continue with; choose another -o.")
    if file.exists():
        before = read_json(file)
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


def _document(rows, scores, options: SuiteOptions, bases, found, seconds) -> dict[str, Any]:
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
    seen = {file.stem: views_of(file) for file in _pose_files(Path(options.output) / "poses")}
    first = scores[rows[0].key].protocol
    people = sorted({config.people for config in configs.values()})
    distance = f"{options.min_gap or GAP} after it on"
    if options.min_gap is None:
        distance += f" (from the middle of a clip of fewer than {2 * GAP})"
    statement = (
        f"{len(found)} test clip{'s' * (len(found) != 1)} of {Path(options.dataset).name}; the photo is a clip's first frame; "
        f"rendered are up to {options.frames} consecutive frames, from frame {distance}; the bases know "
        f"{' and '.join(people)}. {first['statement']}."
    )
    return {
        "statement": statement,
        "command": options.command,
        "protocol": first,
        "settings": settings_of(options),
        "bases": {
            name: {
                "name": config.name,
                "fingerprint": fingerprint(bases[name]),
                "sampling": dataclasses.asdict(config.sampling),
                "tuning": dataclasses.asdict(config.tuning),
                "provenance": config.provenance,
            }
            for name, config in configs.items()
        },
        "clips": [name for name, _ in found],
        "machine": {"device": options.device, "torch": torch.__version__, "software": f"dreampose-cli {__version__}"},
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
