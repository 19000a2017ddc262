"""Phase 1: from a folder of clips to a base (paper section 4.4), or to a pose estimator.

A preset is a list of stages. `mini` trains every component from scratch: first the VAE, then UNet, adapter and CLIP. A
base that starts from Stable Diffusion or from another base trains UNet and adapter. State lives under
OUTPUT/checkpoints/<stage>/; the finished components and `base.json`, which is written last, in OUTPUT.

This is the order of things; how a stage is trained is in `recipes` and `loop`, what it starts from in `starting`, what an
earlier run means to this one in `run_dir`, and what comes out in `export`.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import media
from ..bases.config import CONFIG_FILE
from ..bases.registry import register
from ..cache import Cache, user_cache
from ..device import autocast_of
from ..errors import TrainingError, UsageError
from ..networks.storage import fingerprint
from ..poses.estimator import CONFIG_FILE as ESTIMATOR_CONFIG
from ..poses.estimator import PoseNet
from ..reporting import Note, Progress, no_note
from ..training.autoencoder import AutoencoderTask, latent_statistics
from ..training.checkpoints import read_state, require_same, step_of
from ..training.data import counted
from ..training.denoising import PLAIN, DenoisingTask, Dropout, PairSource, encode_frames
from ..training.distributed import init_distributed
from ..training.export import provenance_of, publish_base, publish_estimator
from ..training.frames import FrameDataset, prepare_frames
from ..training.init import ArchOverrides, starting_model
from ..training.loop import LoopResult, LoopSettings, require_eight_bit_adam, run, sigterm_flag
from ..training.pose_estimator_task import PosingTask
from ..training.recipes import (
    ALSO_LEARNS,
    EPOCHS,
    PAIRS,
    STAGES,
    STORED_AS,
    in_epochs,
    precision_of,
    preset_of,
    resolve_settings,
)
from ..training.run_dir import RunDir
from .options import TrainOptions
from .validation import Validator


@dataclass(frozen=True)
class TrainResult:
    """`finished` is False where `stages` left something to do; `scores` are the last ones on the test clips."""

    path: Path
    steps: int
    seconds: float
    finished: bool
    scores: dict[str, float] | None = None


def train(
    options: TrainOptions,
    *,
    cache: Cache | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> TrainResult:
    """Train a base, or an estimator, stage by stage; what is finished already is left as it is.

    Processes that accelerate's launcher started train together. Raises BaseError, TrainingError, UsageError, OutputError,
    and TrainingStopped after SIGTERM.
    """
    output, seed = options.output, options.seed
    preset = preset_of(
        options.preset, options.base, options.image_encoder, options.vae, options.epochs, options.max_steps
    )
    shape = ArchOverrides(
        options.pose_window, options.pose_channels, options.unet_image_input, False if options.clip_only else None
    )
    cache, note = cache or user_cache(), note or no_note
    started = time.monotonic()
    if options.eight_bit_adam:
        require_eight_bit_adam()
    processes, where = init_distributed(options.device, options.tracker, output / "logs")
    if not processes.main:
        progress, note = None, no_note
    autocast = autocast_of(precision_of(options.dtype), where)
    accumulate = options.gradient_accumulation_steps or int(
        os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    )
    changes: dict[str, Any] = {
        "save_every": options.save_every,
        "keep": options.keep,
        "learning_rate": options.learning_rate,
        "ema": options.ema,
        "steps": options.max_steps,
    }
    changes |= {"seed": seed, "autocast": autocast, "eight_bit_adam": options.eight_bit_adam, "accumulate": accumulate}
    settings = {
        name: resolve_settings(name, stage, options.batch_size, processes.count, changes)
        for name, stage in STAGES[preset].items()
        if not (name == "vae" and (options.base or options.vae))  # what is taken over is kept
    }
    if unknown := [name for name in options.stages or [] if name not in settings]:
        raise UsageError(f"the preset {preset} has no stage {unknown[0]} here; it has {', '.join(settings)}.")
    chosen = [name for name in settings if options.stages is None or name in options.stages]
    marker = ESTIMATOR_CONFIG if preset == "estimator" else CONFIG_FILE
    if chosen[0] != list(settings)[0] and options.overwrite:
        raise UsageError(
            f"the stage {chosen[0]} builds on {list(settings)[0]} in {output}; leave --overwrite or --stage out."
        )
    run_dir = RunDir(output, marker, options.resume)
    inputs = [options.videos, options.photos]
    if not processes.broadcast(processes.main and _is_to_do(run_dir, list(settings)[-1], options, note, inputs)):
        return TrainResult(output, 0, 0.0, True)
    closed = run_dir.closed_stages(list(settings), chosen[0])

    start = starting_model(
        cache, preset, options.base, options.image_encoder, options.vae, shape, options.estimator, seed, progress, note
    )
    model, known, pairing = start.model, start.config, PAIRS.get(preset, PLAIN)
    identity = start.identity | {f"pairing.{key}": value for key, value in asdict(pairing).items()}
    learning = {}
    if model is not None:
        also = ALSO_LEARNS.get(preset, {})
        learning = {stage.name: (*stage.modules, *also.get(stage.name, ())) for stage in model.stages}
        model.to(where)
        if options.gradient_checkpointing:
            model.checkpoint_activations(True)
    for name in settings:  # the data comes later, and may take hours
        if newest := run_dir.newest(name):
            require_same(newest, asdict(settings[name]) | identity)
    with processes.local_main_first() as first:
        frames = prepare_frames(
            cache,
            options.videos,
            known.resolution,
            photos=options.photos,
            fit=known.fit,
            resize=known.poses.resize,
            parts=known.network.needs_parts or model is None,
            estimator=options.estimator or known.estimator,
            device=options.device,
            workers=options.prepare_workers,
            make=first,
            progress=progress,
            note=note,
        )
    clips = frames.split("train")
    note(_summary(frames))
    identity["data"] = frames.key
    count = sum(clip.length for clip in clips)
    settings = {
        name: in_epochs(stage, options.epochs or EPOCHS.get(preset), options.max_steps, count)
        for name, stage in settings.items()
    }
    for name, steps in closed.items():
        if chosen[-1] in closed and settings[name].steps > steps:
            raise TrainingError(
                f"{run_dir.checkpoints / name} stays at step {steps}, since a later stage was trained on what it is then; to "
                f"train {name} longer, train anew with --overwrite or into another -o."
            )
        settings[name] = dataclasses.replace(settings[name], steps=steps)
    total = sum(settings[name].steps for name in chosen)
    if run_dir.is_finished(list(settings)[-1], settings[list(settings)[-1]].steps):
        note(f"{output} is finished already.")
        return TrainResult(output, total, 0.0, True)
    if processes.main:
        if options.overwrite and not options.resume and output.exists():
            run_dir.clear()  # not before everything else is known to be there
        output.mkdir(parents=True, exist_ok=True)
        run_dir.require_room(model, settings, learning)
    processes.begin_tracking(
        {"preset": preset, **{f"{n}.{k}": v for n, s in settings.items() for k, v in asdict(s).items()}}
    )
    results: dict[str, LoopResult] = {}

    def stage(name: str, task, validator: Validator | None = None) -> None:
        if name in closed:
            note(f"{name}: stays as it is after step {closed[name]}.")
        elif newest := run_dir.newest(name):
            note(_going_on(name, newest, settings[name]))
        with sigterm_flag() as stop:
            results[name] = run(
                task,
                settings[name],
                checkpoints=run_dir.checkpoints / name,
                resume=options.resume,
                identity=identity,
                processes=processes,
                loaders=options.prefetch_threads,
                progress=_labelled(progress, name),
                validate=validator,
                validate_every=options.validate_every or settings[name].save_every,
                track=processes.track,
                stop=stop,
            )

    def result(finished: bool, figures: dict[str, float] | None = None) -> TrainResult:
        processes.end()
        return TrainResult(output, total, time.monotonic() - started, finished, figures)

    if preset == "estimator":
        network = _new_estimator(seed).to(where)
        stage("estimator", PosingTask(network, frames, clips, where))
        if processes.main:
            publish_estimator(network, output, frames, settings, results)
        return result(True)
    assert model is not None
    if "vae" in settings:
        stage("vae", AutoencoderTask(model, frames, clips))
        if "network" not in chosen:
            note(f"the stage network is left: `--stage network --resume` makes {output} a base.")
            return result(False)
        identity["autoencoder"] = fingerprint({"vae": model.vae})
        run_dir.require_autoencoder(identity["autoencoder"])
        model.autoencoder_changed()
        shift, scale = latent_statistics(model, frames, clips)
        model.config = dataclasses.replace(model.config, shift_factor=tuple(shift), scaling_factor=tuple(scale))
    share = (processes.rank, processes.count)
    latents = encode_frames(cache, model, frames, model.config.target_range, progress, share)
    photos_as = model.photo_range
    conditions = latents
    if photos_as != model.config.target_range:
        conditions = encode_frames(cache, model, frames, photos_as, progress, share)
    source = PairSource(model, frames, clips, latents, conditions, pairing.targets_per_photo)
    task = DenoisingTask(model, source, learning["network"], Dropout(), pairing)
    validator = Validator(model, frames, output / "validation", step_of(run_dir.newest("network")), processes, note)
    stage("network", task, validator)
    if not processes.main:
        return result(True)
    figures = validator(results["network"].steps)
    provenance = provenance_of(start, settings, results, frames, options.estimator, where.type, figures, output)
    model.config = dataclasses.replace(model.config, name=output.name, provenance=provenance, figures={})
    publish_base(
        model,
        output,
        getattr(torch, STORED_AS[preset]) if preset in STORED_AS else None,
        validator.last_grid,
        figures,
        note,
    )
    register(cache, output, note)
    return result(True, figures)


def _is_to_do(run_dir: RunDir, stage: str, options: TrainOptions, note: Note, inputs: list[Path | None]) -> bool:
    """Whether the folder is not finished yet, `stage` being the last; raises OutputExistsError, OutputError."""
    # how many steps epochs are, the data will say
    if not options.epochs and run_dir.is_finished(stage, options.max_steps):
        note(f"{run_dir.output} is finished already.")
        return False
    run_dir.require_free(options.overwrite, note)
    media.require_apart(run_dir.output, inputs, replaced=False)
    return True


def _new_estimator(seed: int) -> PoseNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PoseNet()


def _labelled(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None

    def labelled(done: int, total: int | None = None, text: str = "", /) -> None:
        progress(done, total, f"{label}, {text}" if text else label)

    return labelled


def _going_on(name: str, newest: Path, settings: LoopSettings) -> str:
    state = read_state(newest)
    words = f"{name}: resuming from step {state['step']} of {settings.steps} ({newest.name})."
    planned = state["settings"].get("steps", settings.steps)
    if planned != settings.steps and settings.decay:
        words += (
            f" The learning rate falls over the last {settings.decay:.0%} of the steps, so it is not what one run of "
            f"{settings.steps} steps would have had: the earlier one was to have {planned}."
        )
    return words


def _summary(frames: FrameDataset) -> str:
    def words(split: str) -> str:
        clips = frames.split(split)
        return f"{counted(clips)} ({sum(clip.length for clip in clips)} frames)"

    return f"{words('train')} to train on, {words('test') if frames.split('test') else 'none'} to test with."
