"""Phase 1: from a folder of clips to a base (paper section 4.4), or to a pose estimator.

A preset is a list of stages. `mini` trains every component from nothing: first the VAE, then UNet, adapter and CLIP. A
base that starts from Stable Diffusion or from another base trains UNet and adapter. State lives under
OUTPUT/checkpoints/<stage>/; the finished components and `base.json`, which is written last, in OUTPUT.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..device import autocast_of
from ..errors import BaseError, OutputExistsError, TrainingError, UsageError
from ..media import atomic_path
from ..media.atomic import require_replaceable
from ..model import components, hub
from ..model.base import COMPONENTS, Base, load_base, save_base, save_module
from ..model.bases import lasting_name, list_bases, register, resolve_base
from ..model.config import CONFIG_FILE, BaseConfig, read_config
from ..model.presets import MINI, PAPER, build_mini, from_stable_diffusion
from ..model.revision import revision
from ..poses.estimator import CONFIG_FILE as ESTIMATOR_CONFIG
from ..poses.estimator import ESTIMATOR_FILE, PoseNet
from .autoencoder import AutoencoderTask, latent_statistics
from .card import CARD_FILE, KEPT, STRIP_FILE, is_persons, renew_card, write_card
from .checkpoints import latest_checkpoint, read_state, require_same, step_of
from .denoising import Dropout, PairSource, PairTask, encode_frames
from .distributed import Crew, assemble
from .frames import FrameStore, prepare_frames
from .launched import process_count
from .logs import Log
from .loop import LoopResult, LoopSettings, require_eight_bit_adam, run, sigterm_flag
from .posing import PosingTask
from .validation import predictions, scores, write_strip

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]

STAGES = {
    "mini": {
        "vae": LoopSettings(steps=4000, learning_rate=2e-3, batch_size=12, warmup=100, decay=0.9, save_every=500),
        "network": LoopSettings(
            steps=8000, learning_rate=8e-4, batch_size=16, warmup=200, decay=0.65, ema=0.998, save_every=500
        ),
    },
    "estimator": {
        "estimator": LoopSettings(
            steps=2400, learning_rate=2e-3, batch_size=8, warmup=100, decay=0.6, ema=0.995, save_every=500
        ),
    },
    # The paper's settings (section 5): AdamW, lr 5e-6, constant, effective batch 16. How many steps, EPOCHS says.
    "paper": {
        "network": LoopSettings(steps=0, learning_rate=5e-6, batch_size=16, save_every=500),
    },
}
EPOCHS = {"paper": 5.0}

# What a run leaves in its folder: a folder that holds anything else is never cleared or written over.
STARTED = {"checkpoints", "validation", "logs", "partial", "scheduler", CONFIG_FILE, ESTIMATOR_CONFIG, ESTIMATOR_FILE}
STARTED |= set(COMPONENTS)
OWN = STARTED | {CARD_FILE, STRIP_FILE}


@dataclass(frozen=True)
class TrainResult:
    """`finished` is False where `stages` left something to do; `scores` are the last ones on the test clips."""

    path: Path
    steps: int
    seconds: float
    finished: bool
    scores: dict[str, float] | None = None


@dataclass(frozen=True)
class Shape:
    """What a new base is to be like where it is not to be like its preset: the ablations of the paper, and the estimator.

    window: poses in a window. pose_channels, photo_channels, vae_tokens: `PoseSettings.channels`,
    `PhotoSettings.unet_channels` and `vae_tokens`. None: as the preset has it.
    """

    window: int | None = None
    pose_channels: str | None = None
    photo_channels: str | None = None
    vae_tokens: bool | None = None

    def of(self, config: BaseConfig) -> BaseConfig:
        """`config` with these settings."""
        poses = _given(count=self.window, channels=self.pose_channels)
        photo = _given(unet_channels=self.photo_channels, vae_tokens=self.vae_tokens)
        return dataclasses.replace(
            config,
            poses=dataclasses.replace(config.poses, **poses),
            photo=dataclasses.replace(config.photo, **photo),
        )


def train(
    videos: Path,
    output: Path,
    *,
    preset: str | None = None,
    base: str | None = None,
    image_encoder: str | None = None,
    vae: str | None = None,
    photos: Path | None = None,
    estimator: str | None = None,
    window: int | None = None,
    pose_channels: str | None = None,
    photo_channels: str | None = None,
    vae_tokens: bool | None = None,
    epochs: float | None = None,
    max_steps: int | None = None,
    save_every: int | None = None,
    keep: int | None = None,
    validate_every: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    learning_rate: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    eight_bit_adam: bool = False,
    stages: list[str] | None = None,
    tracker: str | None = None,
    workers: int = 1,
    loaders: int = 2,
    progress: Progress | None = None,
    note: Note | None = None,
) -> TrainResult:
    """Train a base (or, with preset "estimator", an estimator) from the clips in `videos` into the folder `output`.

    What is trained: `preset`, from `base` (a base, or a Stable Diffusion, folder or Hub repository, to be widened into one
    with `image_encoder`, a CLIP) or from nothing; `vae` is a base whose autoencoder a new one takes over; `window`,
    `pose_channels`, `photo_channels` and `vae_tokens` are those of `Shape`.
    On what: `photos` are folders of photos of one person each, beside the clips; `estimator` finds poses where no file has
    them; `workers` processes prepare clips.
    How: `max_steps` steps in each stage, or `epochs` passes over the training frames, in place of the preset's. A step takes
    `batch_size` samples at once in each process, `accumulate` times; without `batch_size` the preset's samples are divided
    among processes and times. `stages` limits the run to some: those before must be finished in `output`, those after are
    left for another run. `resume` goes on from the newest checkpoint; `loaders` threads load samples ahead.
    Processes that accelerate's launcher started train together. Raises BaseError, TrainingError, UsageError, OutputError,
    and TrainingStopped after SIGTERM.
    """
    preset = _check(preset, base, image_encoder, vae, epochs, max_steps)
    shape = Shape(window, pose_channels, photo_channels, vae_tokens)
    note = note or (lambda text: None)
    started = time.monotonic()
    if eight_bit_adam:
        require_eight_bit_adam()
    crew, where = assemble(device, tracker, output / "logs")
    if not crew.main:
        progress, note = None, lambda text: None
    autocast = autocast_of(_precision(dtype), where)
    accumulate = accumulate or int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    changes = {"save_every": save_every, "keep": keep, "learning_rate": learning_rate, "ema": ema, "steps": max_steps}
    changes |= {"seed": seed, "autocast": autocast, "eight_bit_adam": eight_bit_adam, "accumulate": accumulate}
    settings = {
        name: _settle(name, stage, batch_size, crew.count, _given(**changes))
        for name, stage in STAGES[preset].items()
        if not (name == "vae" and (base or vae))  # what is taken over is kept
    }
    if unknown := [name for name in stages or [] if name not in settings]:
        raise UsageError(f"the preset {preset} has no stage {unknown[0]} here; it has {', '.join(settings)}.")
    chosen = [name for name in settings if stages is None or name in stages]
    marker = ESTIMATOR_CONFIG if preset == "estimator" else CONFIG_FILE
    if chosen[0] != list(settings)[0] and overwrite:
        raise UsageError(
            f"the stage {chosen[0]} builds on {list(settings)[0]} in {output}; leave --overwrite or --stage out."
        )
    place = _Place(output, marker, output / "checkpoints", resume)
    begin = crew.main and place.may_start(list(settings)[-1], max_steps, epochs, overwrite, note)
    if not crew.tell(begin):
        return TrainResult(output, 0, 0.0, True)
    settled = _settled_stages(list(settings), chosen[0], place)

    model, origin, taken = _starting_model(preset, base, image_encoder, vae, shape, estimator, seed, progress, note)
    if model is not None:
        model.to(where)
        if gradient_checkpointing:
            model.unet.enable_gradient_checkpointing()
    known = model.config if model else MINI
    identity = {"preset": preset, "base": None, "vae": None, **origin, **(_conventions(known) if model else {})}
    if resume:  # the data comes later, and may take hours
        for name in settings:
            if newest := latest_checkpoint(place.checkpoints / name):
                require_same(newest, asdict(settings[name]) | identity)
    with crew.first_here() as first:
        frames = prepare_frames(
            videos,
            known.resolution,
            photos=photos,
            fit=known.fit,
            resize=known.poses.resize,
            parts=known.poses.channels == "iuv" or known.photo.unet_channels == "surface" or model is None,
            estimator=estimator or known.estimator,
            device=device,
            workers=workers,
            make=first,
            progress=progress,
            note=note,
        )
    clips = frames.split("train")
    note(_summary(frames))
    identity["data"] = frames.key
    count = sum(clip.length for clip in clips)
    settings = {
        name: _in_epochs(stage, epochs or EPOCHS.get(preset), max_steps, count) for name, stage in settings.items()
    }
    for name, steps in settled.items():
        if chosen[-1] in settled and settings[name].steps > steps:
            raise TrainingError(
                f"{place.checkpoints / name} stays at step {steps}, since a later stage was trained on what it is then; to "
                f"train {name} longer, train anew with --overwrite or into another -o."
            )
        settings[name] = dataclasses.replace(settings[name], steps=steps)
    total = sum(settings[name].steps for name in chosen)
    if place.is_finished(list(settings)[-1], settings[list(settings)[-1]].steps):
        note(f"{output} is finished already.")
        return TrainResult(output, total, 0.0, True)
    if crew.main:
        if overwrite and not resume and output.exists():
            _clear(output)  # not before everything else is known to be there
        output.mkdir(parents=True, exist_ok=True)
        _require_room(output, model, settings)
    crew.begin_tracking(
        {"preset": preset, **{f"{n}.{k}": v for n, s in settings.items() for k, v in asdict(s).items()}}
    )
    results: dict[str, LoopResult] = {}

    def stage(name: str, task, watch: Callable[[int], dict[str, float]] | None = None, **more) -> None:
        newest = latest_checkpoint(place.checkpoints / name) if resume else None
        if name in settled:
            note(f"{name}: stays as it is after step {settled[name]}.")
        elif newest is not None:
            note(_going_on(name, newest, settings[name]))
        with sigterm_flag() as stop:
            results[name] = run(
                task,
                settings[name],
                checkpoints=place.checkpoints / name,
                resume=resume,
                identity=identity | more,
                crew=crew,
                loaders=loaders,
                progress=_labelled(progress, name),
                validate=watch,
                validate_every=validate_every or settings[name].save_every,
                track=crew.track,
                stop=stop,
            )

    def result(finished: bool, figures: dict[str, float] | None = None) -> TrainResult:
        crew.end()
        return TrainResult(output, total, time.monotonic() - started, finished, figures)

    if preset == "estimator":
        network = _seeded(seed, PoseNet).to(where)
        stage("estimator", PosingTask(network, frames, clips, where))
        if crew.main:
            _publish_estimator(network, output, frames, settings, results)
        return result(True)
    eyes = {}
    if "vae" in settings:
        stage("vae", AutoencoderTask(model, frames, clips))
        if "network" not in chosen:
            note(f"the stage network is left: `--stage network --resume` makes {output} a base.")
            return result(False)
        eyes["autoencoder"] = fingerprint(model, "vae")
        _require_autoencoder(eyes["autoencoder"], place)
        if model.adapter.texture is not None:
            model.adapter.texture.look_as(model.vae)
        shift, scale = latent_statistics(model, frames, clips)
        model.config = dataclasses.replace(model.config, latent_shift=tuple(shift), latent_scale=tuple(scale))
    share = (crew.rank, crew.count)
    latents = encode_frames(model, frames, model.config.target_range, progress, share)
    shared = model.config.photo.condition_range == model.config.target_range
    conditions = (
        latents if shared else encode_frames(model, frames, model.config.photo.condition_range, progress, share)
    )
    task = PairTask(
        model, PairSource(model, frames, clips, latents, conditions), train_encoder=preset == "mini", dropout=Dropout()
    )
    newest = latest_checkpoint(place.checkpoints / "network") if resume else None
    watch = _Watch(model, frames, output / "validation", step_of(newest), crew, note)
    stage("network", task, watch, **eyes)
    if not crew.main:
        return result(True)
    figures = watch(results["network"].steps)
    settings = {name: dataclasses.replace(stage, steps=results[name].steps) for name, stage in settings.items()}
    provenance = {
        "trained_by": f"dreampose train --preset {preset}",
        "version": __version__,
        "stages": {name: asdict(settings[name]) for name in settings},
        "samples": results["network"].steps * settings["network"].batch_size,
        "clips": len(clips),
        "frames": count,
        "data": _about_data(frames, known, estimator),
        "seconds": round(sum(r.seconds for r in results.values())),
        "stage_seconds": {name: round(r.seconds, 1) for name, r in results.items()},
        "processes": process_count(),
        "device": where.type,
        **taken,
    } | ({"validation": figures} if figures else {})
    provenance |= _descent(model.config.provenance, taken, output)
    model.config = dataclasses.replace(model.config, name=output.name, provenance=provenance, figures={})
    publish_base(model, output, torch.float16 if preset == "mini" else None, watch.last_strip, figures, note)
    register(output, note)
    return result(True, figures)


# ---- what is asked for


def _check(preset, base, image_encoder, vae, epochs, max_steps) -> str:
    """The preset meant; UsageError where the request contradicts itself."""
    if preset is not None and preset not in STAGES:
        raise UsageError(f"unknown preset {preset!r}; choose one of {', '.join(STAGES)}.")
    preset = preset or ("paper" if base else "mini")
    if preset == "estimator" and base:
        raise UsageError("the preset estimator starts from nothing; leave --base or --preset out.")
    if preset == "paper" and not base:
        raise UsageError("the preset paper starts from a base; name it with --base.")
    if image_encoder and preset != "paper":
        raise UsageError("--image-encoder goes with --base and a Stable Diffusion; leave it out.")
    if vae and (base or preset != "mini"):
        raise UsageError(
            "--vae is for a base from nothing (--preset mini without --base), which has no autoencoder yet."
        )
    if epochs and max_steps:
        raise UsageError("--epochs and --max-steps both say how far to go; give one of them.")
    return preset


def _precision(dtype: str) -> str:
    """`dtype`, or where it is left open what accelerate's launcher was configured for."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return {"bf16": "bfloat16", "fp16": "float16"}.get(asked, dtype) if dtype == "auto" else dtype


def _settle(name: str, stage: LoopSettings, batch_size: int | None, processes: int, changes: dict) -> LoopSettings:
    """A stage's settings: the preset's, but for what was asked for."""
    parts = changes["accumulate"] * processes
    if batch_size:
        changes = changes | {"batch_size": batch_size * parts}
    elif stage.batch_size % parts:
        raise UsageError(
            f"the preset's {stage.batch_size} samples a step of {name} cannot be divided into {parts} equal parts "
            f"({processes} processes, {changes['accumulate']} times each); say with --batch-size how many each takes at once."
        )
    return dataclasses.replace(stage, **changes)


def _in_epochs(stage: LoopSettings, epochs: float | None, max_steps: int | None, frames: int) -> LoopSettings:
    """The settings with as many steps as `epochs` passes over the training frames take, if that is asked for."""
    if max_steps or epochs is None:
        return stage
    return dataclasses.replace(stage, steps=max(1, math.ceil(epochs * frames / stage.batch_size)))


def _given(**values) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


# ---- where it starts


def _starting_model(
    preset, base, image_encoder, vae, shape: Shape, estimator, seed, progress, note
) -> tuple[Base | None, dict[str, str], dict[str, Any]]:
    """The model before the first step, None for the estimator; what its weights come from, for the checkpoints; and what
    was taken over, for its provenance."""
    if preset == "estimator":
        return None, {}, {}
    origin, taken = {}, {}
    if base:
        model = starting_point(base, image_encoder, progress, note, shape)
        origin = {"base": fingerprint(model)}
    else:
        model = build_mini(seed, *_differing(MINI, shape))
        if vae:
            taken = {"vae": _take_vae(model, vae, progress, note)}
            origin = {"vae": taken["vae"]["revision"]}
    if estimator:
        people = model.config.people if base and estimator == model.config.estimator else _people(estimator)
        model.config = dataclasses.replace(model.config, estimator=estimator, people=people)
    return model, origin, taken


def _differing(config: BaseConfig, shape: Shape) -> tuple[BaseConfig, ...]:
    return (shape.of(config),) if shape != Shape() else ()


def _people(estimator: str) -> str:
    return "mannequins" if estimator == "mini" else "people"


def starting_point(
    base: str,
    image_encoder: str | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
    shape: Shape | None = None,
) -> Base:
    """What `--base` means to phase 1: a base as it is, or a Stable Diffusion, widened (paper section 4)."""
    if not _is_stable_diffusion(base):
        if image_encoder:
            raise UsageError(f"{base} is a base, which has an image encoder; leave --image-encoder out.")
        if shape not in (None, Shape()):
            raise UsageError(
                f"{base} is a base, whose conditioning is settled; --window, --pose-channels, --photo-channels and "
                "--no-vae-tokens are for one that begins from nothing or from a Stable Diffusion."
            )
        start = resolve_base(base, note, progress)
        model = load_base(start)
        which = {"base": lasting_name(start), "revision": revision(start)}
        model.config = dataclasses.replace(model.config, provenance=model.config.provenance | which)
        return model
    folder, name = components.stable_diffusion_folder(base, ("unet", "vae"), progress, note)
    encoder, encoder_name = components.image_encoder_folder(image_encoder, progress, note)
    origin = {"stable_diffusion": name, "image_encoder": encoder_name, "licence": components.SD_LICENCE}
    config = (shape or Shape()).of(dataclasses.replace(PAPER, provenance=origin))
    return from_stable_diffusion(folder, encoder, config)


def _take_vae(model: Base, name: str, progress: Progress | None, note: Note) -> dict[str, str]:
    """Give a new model the trained autoencoder of the base `name`, with the statistics of its latents; returns which it was,
    and its licence."""
    folder = resolve_base(name, note, progress)
    other = load_base(folder)
    try:
        model.vae.load_state_dict(other.vae.state_dict())
    except RuntimeError as error:
        raise BaseError(
            f"the autoencoder of {name} is of another architecture than the preset's, which cannot take it over."
        ) from error
    model.config = dataclasses.replace(
        model.config,
        latent_shift=other.config.latent_shift,
        latent_scale=other.config.latent_scale,
        target_range=other.config.target_range,
    )
    if model.adapter.texture is not None:
        model.adapter.texture.look_as(model.vae)
    note(f"the autoencoder is that of {name}; the stage vae is left out.")
    licence = other.config.provenance.get("licence")
    return {"from": lasting_name(folder), "revision": revision(folder), **_given(licence=licence)}


def fingerprint(model: Base, *components: str) -> str:
    """16 hex digits of the weights of a model or of its `components`: of each tensor its name, its size and some of its
    values."""
    digest = hashlib.sha256()
    for name, module in model.components().items():
        if components and name not in components:
            continue
        for key, value in module.state_dict().items():
            some = value.detach().flatten()[:: max(1, value.numel() // 64)].cpu().float().contiguous()
            digest.update(f"{name}.{key}{tuple(value.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _conventions(config: BaseConfig) -> dict[str, Any]:
    """The settings of a base that its training depends on, flat."""
    flat = {"resolution": list(config.resolution), "fit": config.fit, "target_range": list(config.target_range)}
    for part in ("poses", "photo"):
        flat |= {f"{part}.{key}": value for key, value in asdict(getattr(config, part)).items()}
    return flat


def _seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


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


# ---- the folder it goes to


@dataclass(frozen=True)
class _Place:
    """The folder of a training and what is in it already."""

    output: Path
    marker: str  # the file that makes it finished
    checkpoints: Path
    resume: bool

    def is_finished(self, stage: str, steps: int | None) -> bool:
        """Whether it holds a finished base of so many steps; None: of whatever length."""
        if not self.resume or not (self.output / self.marker).exists():
            return False
        newest = latest_checkpoint(self.checkpoints / stage)
        return steps is None or newest is None or step_of(newest) >= steps

    def may_start(self, stage: str, max_steps: int | None, epochs: float | None, overwrite: bool, note: Note) -> bool:
        """Whether there is something to do, `stage` being the last."""
        if not epochs and self.is_finished(stage, max_steps):  # how many steps epochs are, the data will say
            note(f"{self.output} is finished already.")
            return False
        return _may_start(self.output, self.marker, self.checkpoints, self.resume, overwrite, note)


def _may_start(output: Path, marker: str, checkpoints: Path, resume: bool, overwrite: bool, note: Note) -> bool:
    """True where `output` may be trained into, or replaced for `overwrite`. Raises OutputExistsError, OutputError."""
    if output.exists() and not output.is_dir():
        raise OutputExistsError(f"{output} is a file, and a base is a folder; choose another -o.")
    inside = set(os.listdir(output)) if output.exists() else set()
    started = bool(inside & {marker, checkpoints.name})
    if resume:
        if not started and inside & STARTED:
            raise OutputExistsError(
                f"{output} holds {min(inside & STARTED)}, but no training to go on with; choose another -o."
            )
        if not any(latest_checkpoint(folder) for folder in checkpoints.glob("*")):
            note(f"{output} has no checkpoint; starting afresh.")
    elif overwrite and started:
        require_replaceable(output, True, lambda name: name in OWN or name.startswith(KEPT))
    elif inside:
        ways = "add --resume to go on with it, --overwrite to train it anew, or" if started else "it holds other files;"
        raise OutputExistsError(f"{output} exists already; {ways} choose another -o.")
    return True


def _clear(output: Path) -> None:
    """Remove what an earlier training has left, but for cards that a person has changed."""
    for entry in output.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif not is_persons(entry):
            entry.unlink()


def _settled_stages(names: list[str], first: str, place: _Place) -> dict[str, int]:
    """The stages that are not trained any more, with the steps that they have: those before `first`, and those that a later
    one has been trained on already, whose weights would not fit another one. Raises TrainingError unless each of them has
    gone as far as it was to go when it was trained itself.
    """
    begun = [i for i, name in enumerate(names) if place.resume and latest_checkpoint(place.checkpoints / name)]
    last = max([names.index(first), *begun])
    settled = {}
    for name in names[:last]:
        folder = place.checkpoints / name
        newest = latest_checkpoint(folder)
        planned = read_state(newest)["settings"].get("steps", 0) if newest else None
        if newest is not None and step_of(newest) >= planned:
            settled[name] = step_of(newest)
            continue
        found = (
            f"it is at step {step_of(newest)} of {planned} in {folder}"
            if newest
            else f"it has no checkpoint in {folder}"
        )
        if last in begun:
            raise TrainingError(
                f"the stage {names[last]} was trained on a finished stage {name}, but {found}; put the finished one back, or "
                "train anew with --overwrite or into another -o."
            )
        raise TrainingError(
            f"the stage {name} comes first and is not finished: {found}; train it, or leave --stage out."
        )
    return settled


def _require_autoencoder(fingerprint: str, place: _Place) -> None:
    """TrainingError where the network's checkpoint was trained on an autoencoder of another `fingerprint`."""
    newest = latest_checkpoint(place.checkpoints / "network") if place.resume else None
    then = read_state(newest)["settings"].get("autoencoder", fingerprint) if newest else fingerprint
    if then != fingerprint:
        raise TrainingError(
            f"{newest} was trained on another autoencoder than the one that is in {place.checkpoints / 'vae'} now; put that "
            "one back, or train anew with --overwrite or into another -o."
        )


def _require_room(output: Path, model: Base | None, settings: dict[str, LoopSettings]) -> None:
    """TrainingError where the checkpoints will not fit on the disk."""
    if model is None:
        return
    sizes = {"vae": [model.vae], "network": [model.unet, model.adapter, model.image_encoder]}
    most = 0
    for name, stage in settings.items():
        weights = sum(p.numel() for module in sizes[name] for p in module.parameters())
        values = 4 if stage.ema else 3  # the weights, two moments of each, and their average
        most = max(most, 4 * weights * values * (stage.keep + 1))  # one is written before one is removed
    kept = sum(p.stat().st_size for p in output.rglob("*") if p.is_file())
    free = shutil.disk_usage(output).free
    if most - kept > free:
        raise TrainingError(
            f"{settings[list(settings)[-1]].keep + 1} checkpoints take {most / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free "
            f"for {output}; make room, choose another -o, or keep fewer with --keep."
        )


# ---- what is said on the way


def _labelled(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, text="": progress(done, total, f"{label}, {text}" if text else label)


def _going_on(name: str, newest: Path, settings: LoopSettings) -> str:
    state = read_state(newest)
    words = f"{name}: going on from step {state['step']} of {settings.steps} ({newest.name})."
    planned = state["settings"].get("steps", settings.steps)
    if planned != settings.steps and settings.decay:
        words += (
            f" The learning rate falls over the last {settings.decay:.0%} of the steps, so it is not what one run of "
            f"{settings.steps} steps would have had: the earlier one was to have {planned}."
        )
    return words


def _summary(frames: FrameStore) -> str:
    def counted(split: str) -> str:
        clips = frames.split(split)
        return f"{len(clips)} clips ({sum(clip.length for clip in clips)} frames)"

    return f"{counted('train')} to train on, {counted('test') if frames.split('test') else 'none'} to test with."


@dataclass
class _Watch:
    """Strips and scores of the network on the clips that are watched, in `folder`."""

    model: Base
    frames: FrameStore
    folder: Path
    first: int
    crew: Crew
    note: Note
    last_step: int = -1
    last: dict[str, float] | None = None
    last_strip: Path | None = None
    log: Log | None = field(default=None, repr=False)

    def __call__(self, step: int) -> dict[str, float] | None:
        """Predict, write the strip and log the scores of `step`; returns them, None without a test list."""
        if not self.crew.main or step == self.last_step:
            return self.last
        for module in self.model.components().values():
            module.eval()
        shown = list(predictions(self.model, self.frames))
        self.last_step, self.last_strip = step, self.folder / f"{step:08d}.png"
        write_strip(shown, self.last_strip)
        if self.frames.split("test"):
            self.last = scores(shown)
            self.log = self.log or Log(self.folder / "scores.csv", ("step", "ssim", "l1", "frames"), self.first)
            self.log.add(step, f"{self.last['ssim']:.5f}", f"{self.last['l1']:.5f}", self.last["frames"])
            self.log.flush()
            self.crew.track(step, {"ssim": self.last["ssim"], "l1": self.last["l1"]})
            self.note(f"step {step}: SSIM {self.last['ssim']:.4f}, L1 {self.last['l1']:.4f} on the test clips.")
        return self.last


# ---- what comes out


def _about_data(frames: FrameStore, known: BaseConfig, estimator: str | None) -> dict[str, Any]:
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
        "fit": known.fit,
        "poses": f"the files beside the clips, else the estimator {estimator or known.estimator}",
    }


def _descent(earlier: dict[str, Any], taken: dict[str, Any], output: Path) -> dict[str, Any]:
    """What the provenance of a new base keeps of that of the weights it began from, and its licence: the one that a person
    has written into the `base.json` that is replaced, else that of the weights."""
    stated = {}
    with suppress(BaseError):
        stated = read_config(output).provenance if (output / CONFIG_FILE).exists() else {}
    licences = [each.get("licence") for each in (stated, earlier, taken.get("vae", {}))]
    licence = next((each for each in licences if each), None)
    return ({"from": earlier} if earlier else {}) | _given(licence=licence)


def publish_base(
    model: Base,
    output: Path,
    dtype: torch.dtype | None,
    strip: Path | None = None,
    figures: dict[str, float] | None = None,
    note: Note | None = None,
) -> None:
    """Move a complete set of components, with their card, into `output`; `base.json`, which makes it a base, comes last."""
    partial = output / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_base(model, partial, dtype)
    shown = strip is not None and strip.exists()
    if shown:
        shutil.copyfile(strip, partial / STRIP_FILE)
    renew_card(output, write_card(model.config, figures, shown), partial / CARD_FILE, note or (lambda text: None))
    (output / CONFIG_FILE).unlink(missing_ok=True)  # while its components are replaced it is no base
    entries = sorted(partial.iterdir(), key=lambda p: p.name == CONFIG_FILE)
    for entry in entries:
        target = output / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
    partial.rmdir()


def _publish_estimator(network: PoseNet, output: Path, frames: FrameStore, settings, results) -> None:
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
