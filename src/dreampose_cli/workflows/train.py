"""Phase 1: from a folder of clips to a base (paper section 4.4; of the family animate MagicPose's stages), or to a pose estimator.

A preset is a list of stages, which the network knows how to train (`Network.stages`). A base from scratch begins with its
autoencoder; one that starts from Stable Diffusion or from another base has one. State lives under
OUTPUT/checkpoints/<stage>/; the finished components and `base.json`, which is written last, in OUTPUT.

This is the order of things; which stages, and how each is trained, is settled in `train_plan`, `recipes` and `loop`, what it
starts from in `init`, what an earlier run means to this one in `run_dir`, and what comes out in `export`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import media
from ..bases.config import CONFIG_FILE
from ..bases.registry import register
from ..cache import Cache, user_cache
from ..device import autocast_of, slow_format
from ..errors import TrainingError
from ..networks.network import Network
from ..networks.storage import fingerprint
from ..poses.estimator import CONFIG_FILE as ESTIMATOR_CONFIG
from ..poses.estimator import PoseNet
from ..reporting import Note, Progress, no_note
from ..training.autoencoder import AutoencoderTask, DecoderTask, latent_statistics
from ..training.checkpoints import read_state, require_same, step_of
from ..training.data import counted
from ..training.denoising import DenoisingTask, Dropout, Source
from ..training.distributed import ProcessGroup, init_distributed
from ..training.export import provenance_of, publish_base, publish_estimator
from ..training.frames import FrameDataset, prepare_frames
from ..training.init import conventions, starting_model
from ..training.loop import LoopResult, LoopSettings, Task, run, sigterm_flag
from ..training.optimizers import require_eight_bit_adam
from ..training.pose_estimator_task import PosingTask
from ..training.recipes import in_epochs, precision_of
from ..training.run_dir import RunDir
from ..training.sources import ClipSource, PairSource, encode_frames, long_enough
from .options import TrainOptions
from .train_plan import plan_stages, settings_of_stages
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
    cache, note = cache or user_cache(), note or no_note
    plan = plan_stages(cache, options)
    started = time.monotonic()
    if options.eight_bit_adam:
        require_eight_bit_adam()
    processes, where = init_distributed(options.device, options.tracker, output / "logs")
    if not processes.main:
        progress, note = None, no_note
    autocast = autocast_of(precision_of(options.dtype), where)
    run_dir = RunDir(output, ESTIMATOR_CONFIG if not plan.preset.family else CONFIG_FILE, options.resume)
    if not processes.broadcast(processes.main and _is_to_do(run_dir, plan.names[-1], options, note)):
        return TrainResult(output, 0, 0.0, True)
    if slow := slow_format(autocast, where):
        note(slow)
    closed = run_dir.closed_stages(plan.names, plan.chosen[0])

    start = starting_model(
        cache, plan.preset_name, options.base, plan.companions, options.vae, plan.overrides, options.estimator, seed,
        progress, note,
    )  # fmt: skip
    model, known = start.model, start.config
    settings = settings_of_stages(plan, options, bool(options.base) and known.people == "people", processes.count, autocast)
    identity = start.identity | {f"pairing.{key}": value for key, value in asdict(plan.preset.pairing).items()}
    learning = {} if model is None else plan.learning(model)
    if model is not None:
        model.to(where)
    for name in settings:  # the data comes later, and may take hours
        newest = run_dir.newest(name)
        if newest and not plan.adds_modules(name):
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
            kind=known.poses.kind,
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
        name: in_epochs(stage, options.epochs or plan.preset.epochs, options.max_steps, count)
        for name, stage in settings.items()
    }
    for name, steps in closed.items():
        if plan.chosen[-1] in closed and settings[name].steps > steps:
            raise TrainingError(
                f"{run_dir.checkpoints / name} stays at step {steps}, since a later stage was trained on what it is then; to "
                f"train {name} longer, train anew with --overwrite or into another -o."
            )
        settings[name] = dataclasses.replace(settings[name], steps=steps)
    if any(plan.takes_clips(name, model) for name in plan.chosen if name not in closed):
        long_enough(clips, plan.frames(model), options.stride)
    total = sum(settings[name].steps for name in plan.chosen)
    if run_dir.is_finished(plan.names[-1], settings[plan.names[-1]].steps):
        note(f"{output} is finished already.")
        return TrainResult(output, total, 0.0, True)
    if processes.main:
        if options.overwrite and not options.resume and output.exists():
            run_dir.clear()  # not before everything else is known to be there
        output.mkdir(parents=True, exist_ok=True)
        run_dir.require_room(model, settings, learning)
    processes.begin_tracking(
        {"preset": plan.preset_name, **{f"{n}.{k}": v for n, s in settings.items() for k, v in asdict(s).items()}}
    )
    results: dict[str, LoopResult] = {}

    def stage(name: str, task: Task, validator: Validator | None = None) -> None:
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
                prefetch_threads=options.prefetch_threads,
                progress=_labelled(progress, name),
                validate=validator,
                validate_every=options.validate_every or settings[name].save_every,
                track=processes.track,
                stop=stop,
            )

    def result(finished: bool, figures: dict[str, float] | None = None) -> TrainResult:
        processes.end()
        return TrainResult(output, total, time.monotonic() - started, finished, figures)

    if model is None:
        network = _new_estimator(seed).to(where)
        stage(plan.names[0], PosingTask(network, frames, clips, where))
        if processes.main:
            publish_estimator(network, output, frames, settings, results)
        return result(True)
    latents = None
    validator = None
    for name in plan.names:
        if name not in plan.chosen and name not in closed:
            note(f"the stage {name} is left: `--stage {name} --resume` makes {output} a base.")
            return result(False)
        about = plan.stage(model, name)
        if about.loss == "autoencoder":
            stage(name, AutoencoderTask(model, frames, clips))
            if plan.chosen[-1] == name:
                continue
            identity["autoencoder"] = fingerprint({"vae": model.vae})
            run_dir.require_autoencoder(identity["autoencoder"], plan.names)
            shift, scale = latent_statistics(model, frames, clips)
            model.config = dataclasses.replace(model.config, shift_factor=tuple(shift), scaling_factor=tuple(scale))
            continue
        model = model.entering(name, plan.frames(model), seed)
        model.checkpoint_activations(options.gradient_checkpointing)
        identity |= conventions(model.config)
        learns = plan.learning(model)[name]
        if name not in closed:
            if processes.main:
                run_dir.require_room(model, {name: settings[name]}, {name: learns})
            latents = latents or _latents(cache, model, frames, processes, progress)
        looks = output / "validation" / name if plan.looks_apart(model, name) else output / "validation"
        validator = Validator(model, frames, looks, step_of(run_dir.newest(name)), processes, note)
        if about.loss == "reconstruction":
            assert latents is not None  # nothing is trained after it, which could close it
            stage(name, DecoderTask(model, frames, clips, latents[0], learns), validator)
            validator(results[name].steps)
            continue
        source: Source | None = None
        if latents is not None and name not in closed:
            if plan.takes_clips(name, model):
                size = plan.frames(model)
                identity |= {"clip.frames": size, "clip.stride": options.stride}
                source = ClipSource(model, frames, clips, *latents, size=size, stride=options.stride, note=note)
            else:
                source = PairSource(model, frames, clips, *latents, plan.preset.pairing.targets_per_photo)
        dropout = Dropout(*about.dropout)
        if options.control_alone and name == "control":
            identity["control.alone"], dropout = True, Dropout(image=1.0, pose=0.0, both=0.0)
        task = DenoisingTask(model, source, learns, dropout, plan.preset.pairing)
        stage(name, task, validator)
        if name not in closed:
            validator(results[name].steps)
    if not processes.main:
        return result(True)
    assert validator is not None  # every preset of a base ends with a stage that is looked at
    figures = validator(results[plan.names[-1]].steps)
    provenance = provenance_of(start, settings, results, frames, options.estimator, where.type, figures, output)
    if options.control_alone:
        provenance["control_alone"] = True
    model.config = dataclasses.replace(model.config, name=output.name, provenance=provenance, figures={})
    stored = plan.preset.stored_as
    publish_base(model, output, getattr(torch, stored) if stored else None, validator.last_grid, figures, note)
    register(cache, output, note)
    return result(True, figures)


def _latents(
    cache: Cache, model: Network, frames: FrameDataset, processes: ProcessGroup, progress: Progress | None
) -> tuple[Callable[[list[int]], Tensor], Callable[[list[int]], Tensor]]:
    """The latents of all frames as targets, and as photos."""
    share = (processes.rank, processes.count)
    targets = encode_frames(cache, model, frames, model.config.target_range, progress, share)
    if model.photo_range == model.config.target_range:
        return targets, targets
    return targets, encode_frames(cache, model, frames, model.photo_range, progress, share)


def _is_to_do(run_dir: RunDir, stage: str, options: TrainOptions, note: Note) -> bool:
    """Whether the folder is not finished yet, `stage` being the last; raises OutputExistsError, OutputError."""
    # how many steps epochs are, the data will say
    if not options.epochs and run_dir.is_finished(stage, options.max_steps):
        note(f"{run_dir.output} is finished already.")
        return False
    run_dir.require_free(options.overwrite, note)
    media.require_apart(run_dir.output, [options.videos, options.photos], replaced=False)
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
