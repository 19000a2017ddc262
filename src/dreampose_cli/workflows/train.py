"""Phase 1: from a folder of clips to a base (paper section 4.4), or to a pose estimator.

A preset is a list of stages. `mini` trains every component from nothing: first the VAE, then UNet, adapter and CLIP. A
base that starts from Stable Diffusion or from another base trains UNet and adapter. State lives under
OUTPUT/checkpoints/<stage>/; the finished components and `base.json`, which is written last, in OUTPUT.

This is the order of things; how a stage is trained is in `recipes` and `loop`, what it starts from in `starting`, what an
earlier run means to this one in `place`, and what comes out in `publishing`.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from .. import media
from ..bases.config import CONFIG_FILE
from ..bases.registry import register
from ..device import autocast_of
from ..errors import TrainingError, UsageError
from ..poses.estimator import CONFIG_FILE as ESTIMATOR_CONFIG
from ..poses.estimator import PoseNet
from ..training.autoencoder import AutoencoderTask, latent_statistics
from ..training.checkpoints import read_state, require_same, step_of
from ..training.data import counted
from ..training.denoising import Dropout, PairSource, PairTask, encode_frames
from ..training.distributed import assemble
from ..training.export import provenance_of, publish_base, publish_estimator
from ..training.frames import FrameStore, prepare_frames
from ..training.init import Shape, fingerprint, starting_model
from ..training.loop import LoopResult, LoopSettings, require_eight_bit_adam, run, sigterm_flag
from ..training.pose_estimator_task import PosingTask
from ..training.recipes import EPOCHS, STAGES, in_epochs, precision_of, preset_of, settle
from ..training.run_dir import Place
from .validation import Watch

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class TrainResult:
    """`finished` is False where `stages` left something to do; `scores` are the last ones on the test clips."""

    path: Path
    steps: int
    seconds: float
    finished: bool
    scores: dict[str, float] | None = None


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
    preset = preset_of(preset, base, image_encoder, vae, epochs, max_steps)
    shape = Shape(window, pose_channels, photo_channels, vae_tokens)
    note = note or (lambda text: None)
    started = time.monotonic()
    if eight_bit_adam:
        require_eight_bit_adam()
    crew, where = assemble(device, tracker, output / "logs")
    if not crew.main:
        progress, note = None, lambda text: None
    autocast = autocast_of(precision_of(dtype), where)
    accumulate = accumulate or int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    changes = {"save_every": save_every, "keep": keep, "learning_rate": learning_rate, "ema": ema, "steps": max_steps}
    changes |= {"seed": seed, "autocast": autocast, "eight_bit_adam": eight_bit_adam, "accumulate": accumulate}
    settings = {
        name: settle(name, stage, batch_size, crew.count, changes)
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
    place = Place(output, marker, resume)
    inputs = [videos, photos]
    if not crew.tell(crew.main and _is_to_do(place, list(settings)[-1], max_steps, epochs, overwrite, note, inputs)):
        return TrainResult(output, 0, 0.0, True)
    settled = place.settled(list(settings), chosen[0])

    start = starting_model(preset, base, image_encoder, vae, shape, estimator, seed, progress, note)
    model, known, identity = start.model, start.config, dict(start.identity)
    if model is not None:
        model.to(where)
        if gradient_checkpointing:
            model.unet.enable_gradient_checkpointing()
    for name in settings:  # the data comes later, and may take hours
        if newest := place.newest(name):
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
        name: in_epochs(stage, epochs or EPOCHS.get(preset), max_steps, count) for name, stage in settings.items()
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
            place.clear()  # not before everything else is known to be there
        output.mkdir(parents=True, exist_ok=True)
        place.require_room(model, settings)
    crew.begin_tracking(
        {"preset": preset, **{f"{n}.{k}": v for n, s in settings.items() for k, v in asdict(s).items()}}
    )
    results: dict[str, LoopResult] = {}

    def stage(name: str, task, watch: Watch | None = None) -> None:
        if name in settled:
            note(f"{name}: stays as it is after step {settled[name]}.")
        elif newest := place.newest(name):
            note(_going_on(name, newest, settings[name]))
        with sigterm_flag() as stop:
            results[name] = run(
                task,
                settings[name],
                checkpoints=place.checkpoints / name,
                resume=resume,
                identity=identity,
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
            publish_estimator(network, output, frames, settings, results)
        return result(True)
    if "vae" in settings:
        stage("vae", AutoencoderTask(model, frames, clips))
        if "network" not in chosen:
            note(f"the stage network is left: `--stage network --resume` makes {output} a base.")
            return result(False)
        identity["autoencoder"] = fingerprint(model, "vae")
        place.require_autoencoder(identity["autoencoder"])
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
    watch = Watch(model, frames, output / "validation", step_of(place.newest("network")), crew, note)
    stage("network", task, watch)
    if not crew.main:
        return result(True)
    figures = watch(results["network"].steps)
    provenance = provenance_of(start, settings, results, frames, estimator, where.type, figures, output)
    model.config = dataclasses.replace(model.config, name=output.name, provenance=provenance, figures={})
    publish_base(model, output, torch.float16 if preset == "mini" else None, watch.last_strip, figures, note)
    register(output, note)
    return result(True, figures)


def _is_to_do(
    place: Place,
    stage: str,
    max_steps: int | None,
    epochs: float | None,
    overwrite: bool,
    note: Note,
    inputs: list[Path | None],
) -> bool:
    """Whether the folder is not finished yet, `stage` being the last; raises OutputExistsError, OutputError."""
    if not epochs and place.is_finished(stage, max_steps):  # how many steps epochs are, the data will say
        note(f"{place.output} is finished already.")
        return False
    place.require_free(overwrite, note)
    media.require_apart(place.output, inputs, replaced=False)
    return True


def _seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


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
    def words(split: str) -> str:
        clips = frames.split(split)
        return f"{counted(clips)} ({sum(clip.length for clip in clips)} frames)"

    return f"{words('train')} to train on, {words('test') if frames.split('test') else 'none'} to test with."
