"""The results of a finished training: the base or the estimator, its provenance and its card."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..atomic import publish
from ..bases.config import CONFIG_FILE, read_config
from ..errors import BaseError
from ..media import atomic_path
from ..networks.network import Network
from ..networks.storage import save_base, save_module
from ..poses.estimator import CONFIG_FILE as ESTIMATOR_CONFIG
from ..poses.estimator import ESTIMATOR_FILE, PoseNet
from ..reporting import Note
from ..version import __version__
from .frames import FrameDataset
from .identities import content_mark
from .init import InitialModel
from .launcher_env import process_count
from .loop import LoopResult, LoopSettings
from .model_card import CARD_FILE, SAMPLE_GRID_FILE, renew_card, write_card

MARKS = 10_000  # of clips at most that a base says it was trained on: twenty bytes each


def provenance_of(
    start: InitialModel,
    settings: dict[str, LoopSettings],
    results: dict[str, LoopResult],
    frames: FrameDataset,
    estimator: str | None,
    device: str,
    figures: dict[str, float] | None,
    output: Path,
) -> dict[str, Any]:
    """The provenance of a training in `base.json` and the card: how, on what, for how long, and what it began from. `output` may
    hold an earlier base, whose licence a person has written there."""
    stages = {name: asdict(stage) | {"steps": results[name].steps} for name, stage in settings.items()}
    clips = frames.split("train")
    return {
        "trained_by": f"dreampose train --preset {start.identity['preset']}",
        "version": __version__,
        "stages": stages,
        "samples": sum(stages[name]["steps"] * stages[name]["batch_size"] for name in _denoising(start, stages)),
        "clips": len(clips),
        "frames": sum(clip.length for clip in clips),
        "trained_on": sorted({content_mark(clip.media) for clip in clips[:MARKS] if clip.media is not None} - {""}),
        "data": _about_data(frames, start.config.fit, estimator or start.config.estimator),
        "seconds": round(sum(r.seconds for r in results.values())),
        "stage_seconds": {name: round(r.seconds, 1) for name, r in results.items()},
        "processes": process_count(),
        "device": device,
        **start.taken,
        **({"validation": figures} if figures else {}),
        **_descent(start.config.provenance, start.taken, output),
    }


def _denoising(start: InitialModel, stages: dict[str, Any]) -> list[str]:
    """The stages that trained the denoiser, or what conditions it."""
    assert start.model is not None  # an estimator has a description of its own
    return [stage.name for stage in start.model.stages if stage.loss == "denoising" and stage.name in stages]


def publish_base(
    model: Network,
    output: Path,
    dtype: torch.dtype | None,
    sample_grid: Path | None = None,
    figures: dict[str, float] | None = None,
    note: Note | None = None,
) -> None:
    """Move a complete set of components, with their card, into `output`; `base.json`, which makes it a base, comes last."""
    partial = output / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_base(model, partial, dtype)
    shown = sample_grid is not None and sample_grid.exists()
    if sample_grid is not None and shown:
        shutil.copyfile(sample_grid, partial / SAMPLE_GRID_FILE)
    renew_card(output, write_card(model.config, figures, shown), partial / CARD_FILE, note or (lambda text: None))
    (output / CONFIG_FILE).unlink(missing_ok=True)  # while its components are replaced it is no base
    entries = sorted(partial.iterdir(), key=lambda p: p.name == CONFIG_FILE)
    for entry in entries:  # one by one: the run's state and whatever a person has put there stay
        publish(entry, output / entry.name)
    partial.rmdir()


def publish_estimator(network: PoseNet, output: Path, frames: FrameDataset, settings, results) -> None:
    """Write a trained estimator into `output`; its config, which makes it one, comes last."""
    save_module(network, output / ESTIMATOR_FILE, torch.float16)
    config = {
        "widths": list(network.widths),
        "resolution": list(frames.pictures.shape[1:3]),
        "provenance": {
            "trained_by": "dreampose train --preset estimator",
            "version": __version__,
            "stages": {name: asdict(s) for name, s in settings.items()},
            "clips": len(frames.split("train")),
            "data": frames.key,
            "seconds": round(sum(r.seconds for r in results.values())),
        },
    }
    with atomic_path(output / ESTIMATOR_CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _about_data(frames: FrameDataset, fit: str, estimator: str) -> dict[str, Any]:
    splits = {}
    for split in ("train", "test"):
        clips = frames.split(split)
        splits[split] = {
            "clips": len(clips),
            "photo_clips": sum(not clip.ordered for clip in clips),
            "frames": sum(clip.length for clip in clips),
        }
    return {
        "key": frames.key,
        "splits": splits,
        "fit": fit,
        "poses": f"the files next to the clips, else the estimator {Path(estimator).name}",
    }


def _descent(earlier: dict[str, Any], taken: dict[str, Any], output: Path) -> dict[str, Any]:
    """The part that the provenance of a new base keeps of that of the weights it began from, and its licence: the one that a person
    has written into the `base.json` that is replaced, else that of the weights."""
    stated = {}
    with suppress(BaseError):
        stated = read_config(output).provenance if (output / CONFIG_FILE).exists() else {}
    licences = [each.get("licence") for each in (stated, earlier, taken.get("vae", {}))]
    licence = next((each for each in licences if each), None)
    return ({"from": earlier} if earlier else {}) | ({"licence": licence} if licence else {})
