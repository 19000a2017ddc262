"""Phase 1: from a folder of clips to a base (paper section 4.4), or to a pose estimator.

A preset is a list of stages. `mini` trains every component from nothing: first the VAE, then UNet, adapter and CLIP.
A base that starts from Stable Diffusion trains UNet and adapter. State lives under OUTPUT/checkpoints/<stage>/; the
finished components and `base.json`, which is written last, in OUTPUT.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..device import autocast_of, pick_device
from ..errors import OutputExistsError, TrainingError, UsageError
from ..media import atomic_path
from ..media.atomic import require_replaceable
from ..model import components, hub
from ..model.base import COMPONENTS, Base, load_base, save_base, save_module
from ..model.bases import list_bases, register, resolve_base
from ..model.conditioning import prepare_photo
from ..model.config import CONFIG_FILE
from ..model.presets import MINI, PAPER, build_mini, from_stable_diffusion
from ..poses.estimator import CONFIG_FILE as ESTIMATOR_CONFIG
from ..poses.estimator import ESTIMATOR_FILE, PoseNet
from ..poses.extraction import poses_of
from ..poses.preview import colour
from ..rendering.batches import RenderSettings, render_batch
from .autoencoder import AutoencoderTask, latent_statistics
from .denoising import DenoisingTask, Dropout, PairSource, encode_frames
from .frames import FrameStore, prepare_frames
from .loop import LoopSettings, latest_checkpoint, run
from .posing import PosingTask

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]

STAGES = {
    "mini": {
        "vae": LoopSettings(steps=4000, learning_rate=2e-3, batch_size=12, warmup=100, decay=0.9, save_every=500),
        "network": LoopSettings(
            steps=4000, learning_rate=8e-4, batch_size=16, warmup=200, decay=0.3, ema=0.998, save_every=500
        ),
    },
    "estimator": {
        "estimator": LoopSettings(
            steps=2400, learning_rate=2e-3, batch_size=8, warmup=100, decay=0.6, ema=0.995, save_every=500
        ),
    },
    # The paper's settings: lr 5e-6, effective batch 16, constant.
    "paper": {
        "network": LoopSettings(steps=20000, learning_rate=5e-6, batch_size=16, save_every=500),
    },
}


# What a run leaves in its folder: a folder that holds anything else is never cleared or written over.
OWN = {"checkpoints", "validation", "partial", "scheduler", CONFIG_FILE, ESTIMATOR_CONFIG, ESTIMATOR_FILE, *COMPONENTS}


@dataclass(frozen=True)
class TrainResult:
    """`finished` is False where `stages` left something to do."""

    path: Path
    steps: int
    seconds: float
    finished: bool


def train(
    videos: Path,
    output: Path,
    *,
    preset: str | None = None,
    base: str | None = None,
    image_encoder: str | None = None,
    max_steps: int | None = None,
    save_every: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    eight_bit_adam: bool = False,
    stages: list[str] | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> TrainResult:
    """Train a base (or, with preset "estimator", an estimator) from the clips in `videos` into the folder `output`.

    `max_steps` caps each stage. `stages` limits the run to some: those before must be finished in `output`, those after
    are left for another run. `resume` goes on from the newest checkpoint. `base` is a base, or a Stable Diffusion
    (folder or Hub repository) to be widened into one with `image_encoder`, a CLIP. Raises BaseError, TrainingError,
    UsageError, OutputError.
    """
    if preset is not None and preset not in STAGES:
        raise UsageError(f"unknown preset {preset!r}; choose one of {', '.join(STAGES)}.")
    preset = preset or ("paper" if base else "mini")
    if preset != "paper" and base:
        raise UsageError(f"the preset {preset} starts from nothing; leave --base or --preset out.")
    if preset == "paper" and not base:
        raise UsageError("the preset paper starts from a base; name it with --base.")
    if image_encoder and preset != "paper":
        raise UsageError("--image-encoder goes with --base and a Stable Diffusion; leave it out.")
    note = note or (lambda text: None)
    started = time.monotonic()
    where = pick_device(device)
    autocast = autocast_of(dtype, where)
    settings = {
        name: _settle(stage, max_steps, save_every, batch_size, learning_rate, seed, autocast, eight_bit_adam)
        for name, stage in STAGES[preset].items()
    }
    if unknown := [name for name in stages or [] if name not in settings]:
        raise UsageError(f"the preset {preset} has no stage {unknown[0]}; it has {', '.join(settings)}.")
    chosen = [name for name in settings if stages is None or name in stages]
    total = sum(settings[name].steps for name in chosen)
    marker = ESTIMATOR_CONFIG if preset == "estimator" else CONFIG_FILE
    checkpoints = output / "checkpoints"
    before = list(settings)[: list(settings).index(chosen[0])]
    if before and overwrite:
        raise UsageError(f"the stage {chosen[0]} builds on {before[0]} in {output}; leave --overwrite or --stage out.")
    if not _may_start(output, marker, checkpoints, resume, overwrite, note):
        return TrainResult(output, total, 0.0, True)
    for name in before:
        _require_finished(name, checkpoints / name, settings[name].steps)
    output.mkdir(parents=True, exist_ok=True)

    model = None
    if preset == "mini":
        model = build_mini(seed).to(where)
    elif preset == "paper":
        model = starting_point(base, image_encoder, progress, note).to(where)
    if model is not None and gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    resolution = model.config.resolution if model else MINI.resolution
    known = model.config if model else MINI
    frames = prepare_frames(
        videos,
        resolution,
        fit=known.fit,
        label=lambda path: poses_of(path, estimator=known.estimator, device=device, note=note)[0],
        labelled_by=known.estimator,
        progress=progress,
        note=note,
    )
    clips = frames.split("train")

    def stage(name: str, task, on_save=None) -> None:
        part = _labelled(progress, name)
        found = latest_checkpoint(checkpoints / name) if resume else None
        if found is not None:
            note(f"{name}: going on from {found.name}.")
        run(task, settings[name], checkpoints=checkpoints / name, resume=resume, progress=part, on_save=on_save)

    if preset == "estimator":
        network = PoseNet().to(where)
        stage("estimator", PosingTask(network, frames, clips, where))
        _publish_estimator(network, output, frames, settings, time.monotonic() - started)
        return TrainResult(output, total, time.monotonic() - started, True)
    if "vae" in settings:
        stage("vae", AutoencoderTask(model, frames, clips))
        if "network" not in chosen:
            note(f"the stage network is left: `--stage network --resume` makes {output} a base.")
            return TrainResult(output, total, time.monotonic() - started, False)
        if model.adapter.texture is not None:
            model.adapter.texture.look_as(model.vae)
        shift, scale = latent_statistics(model, frames, clips)
        model.config = dataclasses.replace(model.config, latent_shift=tuple(shift), latent_scale=tuple(scale))
    latents = encode_frames(model, frames, model.config.target_range, progress)
    shared = model.config.photo.condition_range == model.config.target_range
    photos = latents if shared else encode_frames(model, frames, model.config.photo.condition_range, progress)
    source = PairSource(model, frames, clips, latents, photos)
    task = DenoisingTask(model, source, train_encoder=preset == "mini", dropout=Dropout())
    stage("network", task, on_save=lambda step: write_strip(model, frames, output / "validation" / f"{step:08d}.png"))
    provenance = {
        "trained_by": f"dreampose train --preset {preset}",
        "version": __version__,
        "stages": {name: asdict(s) for name, s in settings.items()},
        "samples": settings["network"].steps * settings["network"].batch_size,
        "clips": len(clips),
        "frames": sum(clip.length for clip in clips),
        "seconds": round(time.monotonic() - started),
    }
    if origin := model.config.provenance:
        provenance |= {"from": origin} | ({"licence": origin["licence"]} if "licence" in origin else {})
    model.config = dataclasses.replace(model.config, name=output.name, provenance=provenance)
    publish_base(model, output, torch.float16 if preset == "mini" else None)
    register(output, note)
    return TrainResult(output, total, time.monotonic() - started, True)


def starting_point(
    base: str, image_encoder: str | None = None, progress: Progress | None = None, note: Note | None = None
) -> Base:
    """What `--base` means to phase 1: a base as it is, or a Stable Diffusion, widened (paper section 4)."""
    if not _is_stable_diffusion(base):
        if image_encoder:
            raise UsageError(f"{base} is a base, which has an image encoder; leave --image-encoder out.")
        return load_base(resolve_base(base, note, progress))
    folder, name = components.stable_diffusion_folder(base, ("unet", "vae"), progress, note)
    encoder, encoder_name = components.image_encoder_folder(image_encoder, progress, note)
    origin = {"stable_diffusion": name, "image_encoder": encoder_name, "licence": components.SD_LICENCE}
    return from_stable_diffusion(folder, encoder, dataclasses.replace(PAPER, provenance=origin))


def _is_stable_diffusion(base: str) -> bool:
    """Whether `base` is the layout of diffusers, here or on the Hub, and no base."""
    folder = Path(base)
    if folder.is_dir():
        return not (folder / CONFIG_FILE).exists() and (folder / "unet" / "config.json").exists()
    if any(entry.name == base for entry in list_bases()):
        return False
    reference = hub.parse(base)
    if reference is None:
        return False
    # The one repository that everybody starts from is known, so that it is not asked for a base first.
    return reference.repo == components.STABLE_DIFFUSION.repo or not hub.is_base(reference)


def _settle(stage, max_steps, save_every, batch_size, learning_rate, seed, autocast, eight_bit_adam) -> LoopSettings:
    asked = {"save_every": save_every, "batch_size": batch_size, "learning_rate": learning_rate}
    changes = {key: value for key, value in asked.items() if value is not None}
    steps = min(stage.steps, max_steps) if max_steps else stage.steps
    return dataclasses.replace(
        stage, steps=steps, seed=seed, autocast=autocast, eight_bit_adam=eight_bit_adam, **changes
    )


def _may_start(output: Path, marker: str, checkpoints: Path, resume: bool, overwrite: bool, note: Note) -> bool:
    """Whether there is something to do in `output`; clears it for `overwrite`."""
    if resume and (output / marker).exists():
        note(f"{output} is finished already.")
        return False
    if output.exists() and not output.is_dir():
        raise OutputExistsError(f"{output} is a file, and a base is a folder; choose another -o.")
    inside = set(os.listdir(output)) if output.exists() else set()
    started = bool(inside & {marker, checkpoints.name})
    if resume:
        if not started and inside & OWN:
            raise OutputExistsError(
                f"{output} holds {min(inside & OWN)}, but no training to go on with; choose another -o."
            )
        if not any(latest_checkpoint(folder) for folder in checkpoints.glob("*")):
            note(f"{output} has no checkpoint; starting afresh.")
    elif overwrite and started:
        require_replaceable(output, True, OWN.__contains__)
        shutil.rmtree(output)
    elif inside:
        ways = "add --resume to go on with it, --overwrite to train it anew, or" if started else "it holds other files;"
        raise OutputExistsError(f"{output} exists already; {ways} choose another -o.")
    return True


def _require_finished(name: str, folder: Path, steps: int) -> None:
    """TrainingError unless the stage `name`, which the others build on, has a checkpoint at `steps` or later."""
    newest = latest_checkpoint(folder)
    if newest is None or int(newest.name.removeprefix("step-")) < steps:
        raise TrainingError(
            f"the stage {name} comes first and is not finished in {folder}; train it, or leave --stage out."
        )


def _labelled(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, text="": progress(done, total, f"{label}, {text}" if text else label)


def publish_base(model: Base, output: Path, dtype: torch.dtype | None) -> None:
    """Move a complete set of components into `output`; `base.json`, which makes it a base, comes last."""
    partial = output / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_base(model, partial, dtype)
    entries = sorted(partial.iterdir(), key=lambda p: p.name == CONFIG_FILE)
    for entry in entries:
        target = output / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
    partial.rmdir()


def _publish_estimator(network: PoseNet, output: Path, frames: FrameStore, settings, seconds: float) -> None:
    save_module(network, output / ESTIMATOR_FILE, torch.float16)
    config = {
        "widths": list(network.widths),
        "resolution": list(frames.pictures.shape[1:3]),
        "provenance": {
            "trained_by": "dreampose train --preset estimator",
            "version": __version__,
            "stages": {name: asdict(s) for name, s in settings.items()},
            "clips": len(frames.split("train")),
            "seconds": round(seconds),
        },
    }
    with atomic_path(output / ESTIMATOR_CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_strip(model: Base, frames: FrameStore, path: Path, count: int = 6) -> None:
    """A validation strip: rows of photo, pose, prediction and truth for clips that are not trained on, if any."""
    clips = (frames.split("test") or frames.split("train"))[:count]
    settings = RenderSettings.of(model)
    columns = []
    for clip in clips:
        first = frames.pictures[clip.start]
        for part in (2, 1):
            row = min(clip.length - 1, clip.length * 2 // 3 if part == 2 else clip.length // 3)
            poses = model.config.poses
            window = frames.window(clip, row, poses.count, poses.training_fps, poses.window_rule)
            photo = prepare_photo(model, first, frames.pose([clip.start])[0])
            made = render_batch(model, photo, torch.from_numpy(window)[None], settings)[0]
            truth = frames.pictures[clip.start + row]
            columns.append(np.concatenate([first, colour(window[poses.count // 2]), made, truth], axis=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(columns, axis=1)).save(path)
