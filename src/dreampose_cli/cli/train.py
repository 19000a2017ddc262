"""`dreampose train`: phase 1, a base from a folder of fashion videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TrainingStopped, UsageError
from ..names import (
    NULL_POSES,
    OPTIMIZERS,
    PHOTO_CHANNELS,
    POSE_CHANNELS,
    PRESETS,
    RATE_RANGE,
    REFERENCES,
    STAGES,
    TRACKERS,
    check_choice,
)
from ..training.launcher_env import local_rank, process_rank
from ..workflows.options import TrainOptions
from . import options
from .output import Output, duration

PRESET = "preset's"
WORKERS = min(8, os.cpu_count() or 1)


def _stages(values: list[str] | None) -> list[str] | None:
    return [check_choice("stage", value, STAGES) for value in values] if values else None


def _window(value: int | None) -> int | None:
    if value is not None and (value % 2 == 0 or not 1 <= value <= 25):
        raise UsageError(f"--pose-window is {value}, but must be an odd number from 1 to 25.")
    return value


def _share(value: float | None) -> float | None:
    if value is not None and not 0 <= value < 1:
        raise UsageError(f"--ema is {value:g}, but must be from 0 (none) to just below 1, such as 0.9999.")
    return value


def _choice(option: str, what: str, choices: tuple[str, ...], help: str, default: str | bool = True):
    return typer.Option(
        option,
        metavar=what.upper(),
        help=help,
        callback=options.one_of(what, choices),
        autocompletion=lambda: list(choices),
        show_default=default,
    )


def train(
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="Folder of clips; docs/train.md has the layouts.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BASE", help="The base to write, a folder.")],
    preset: Annotated[
        str | None,
        _choice(
            "--preset",
            "preset",
            PRESETS,
            "mini or fusion, new or from --base; paper, from --base; estimator; doodle.",
            "mini, with --base paper",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="BASE", help="A base to train further, or a Stable Diffusion, here or on the Hub."
        ),
    ] = None,
    image_encoder: options.ImageEncoder = None,
    control: Annotated[
        str | None,
        typer.Option(
            "--control",
            metavar="SOURCE",
            help="Pose ControlNet for a Stable Diffusion, with --preset fusion.",
            show_default="OpenPose's",
        ),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option("--vae", metavar="BASE", help="Take the autoencoder of this base, with --preset mini or fusion."),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option("--photos", metavar="FOLDER", help="Also folders of photos, one for each person."),
    ] = None,
    estimator: options.Estimator = None,
    trust_code: options.TrustCode = False,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="WIDTHxHEIGHT", help="Pixels of the base, from scratch or Stable Diffusion.", show_default=PRESET
        ),
    ] = None,
    pose_window: Annotated[
        int | None,
        typer.Option(
            "--pose-window", metavar="N", help="Poses in a window, such as 1.", callback=_window, show_default=PRESET
        ),
    ] = None,
    pose_channels: Annotated[
        str | None, _choice("--pose-channels", "channels", POSE_CHANNELS, "uv or iuv.", PRESET)
    ] = None,
    unet_image_input: Annotated[
        str | None, _choice("--unet-image-input", "channels", PHOTO_CHANNELS, "none or latents.", PRESET)
    ] = None,
    clip_only: Annotated[bool, typer.Option("--clip-only", help="Condition on CLIP's tokens alone.")] = False,
    null_pose: Annotated[
        str | None,
        _choice("--null-pose", "choice", NULL_POSES, "Fusion's null half of guidance: keep or drop the pose.", "drop"),
    ] = None,
    reference: Annotated[
        str | None,
        _choice("--reference", "tokens", REFERENCES, "What fusion reads of the photo: all, global or none.", "all"),
    ] = None,
    control_alone: Annotated[
        bool, typer.Option("--control-alone", help="Train fusion's pose control without the photo.")
    ] = False,
    frames: Annotated[
        int | None,
        options.whole("--frames", "N", "Also learn motion, on clips of N frames.", 2, 64, default="8, of people 16"),
    ] = None,
    stride: Annotated[int, options.whole("--stride", "N", "Frames from one of these to the next.", 1)] = 1,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="Only this stage of the preset; can be repeated.",
            callback=_stages,
            show_default="all but motion, decoder",
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs",
            metavar="E",
            help="Passes over the training frames.",
            callback=options.positive("--epochs"),
            show_default="paper: 5",
        ),
    ] = None,
    max_steps: Annotated[
        int | None, options.whole("--max-steps", "N", "Steps of each stage, in place of epochs.", 1, default=PRESET)
    ] = None,
    save_every: Annotated[
        int | None, options.whole("--save-every", "N", "Steps from one checkpoint to the next.", 1, default=PRESET)
    ] = None,
    keep: Annotated[int | None, options.whole("--keep", "K", "Keep the last K checkpoints.", 1, default="2")] = None,
    validate_every: Annotated[
        int | None,
        options.whole("--validate-every", "N", "Steps between validations.", 1, default="--save-every"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            metavar="RATE",
            help="Learning rate.",
            callback=options.positive("--learning-rate", high=RATE_RANGE[1]),
            show_default=PRESET,
        ),
    ] = None,
    optimizer: Annotated[
        str | None, _choice("--optimizer", "optimizer", OPTIMIZERS, "muon: faster from scratch.", PRESET)
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            "--ema", metavar="DECAY", help="Average the weights; 0 for none.", callback=_share, show_default=PRESET
        ),
    ] = None,
    seed: options.Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the last checkpoint in -o, if there is one.")
    ] = False,
    batch_size: Annotated[
        int | None,
        options.whole("--batch-size", "N", "Samples at once in each process.", 1, default="preset's, divided"),
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, options.whole("--gradient-accumulation-steps", "N", "Compute each step in N parts.", 1, default="1")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice to save memory.")
    ] = False,
    eight_bit_adam: Annotated[
        bool, typer.Option("--8bit-adam", help="Keep the optimizer in 8 bits; needs bitsandbytes.")
    ] = False,
    tracker: Annotated[
        str | None, _choice("--tracker", "tracker", TRACKERS, "tensorboard: write BASE/logs for it.", "none")
    ] = None,
    prepare_workers: Annotated[
        int,
        options.whole(
            "--prepare-workers", "N", "Processes that prepare clips.", 1, 512, default="one a core, at most 8"
        ),
    ] = WORKERS,
    prefetch_threads: Annotated[
        int, options.whole("--prefetch-threads", "N", "Threads that load samples ahead.", 0, 512)
    ] = 2,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a base on fashion videos (phase 1); print its path.

    Clips are decoded once into the cache. Checkpoints are kept in BASE/checkpoints: after Ctrl-C, a kill or a power cut
    the same command with --resume continues, and where it is finished it does nothing. SIGTERM saves first (exit code
    143). Several GPUs or machines: `accelerate launch -m dreampose_cli train ...`.

    Examples:
      dreampose synth clips/ --subjects 2000 --png
      dreampose train clips/ -o my-base --resume
      dreampose train clips/ -o better --base my-base --preset mini
      dreampose train videos/ -o people --base CompVis/stable-diffusion-v1-4
      dreampose train clips/ -o retarget --preset fusion --vae mini
      dreampose train doodles/ -o my-reader --preset doodle
    """
    if local_rank() > 0:  # of the processes on one machine, one speaks
        quiet, verbose = True, False
    out = Output(json=json, quiet=quiet, verbose=verbose)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other: one keeps what is in -o, the other removes it.")
    options.trust_estimator(estimator, trust_code)
    asked = TrainOptions(
        videos,
        output,
        preset=preset,
        base=base,
        image_encoder=image_encoder,
        control=control,
        vae=vae,
        photos=photos,
        estimator=estimator,
        size=None if size is None else options.pixels(size),
        pose_window=pose_window,
        pose_channels=pose_channels,
        unet_image_input=unet_image_input,
        clip_only=clip_only,
        null_pose=null_pose,
        reference=reference,
        control_alone=control_alone,
        frames=frames,
        stride=stride,
        epochs=epochs,
        max_steps=max_steps,
        save_every=save_every,
        keep=keep,
        validate_every=validate_every,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        learning_rate=learning_rate,
        optimizer=optimizer,
        ema=ema,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        device=device,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
        eight_bit_adam=eight_bit_adam,
        stages=stages,
        tracker=tracker,
        prepare_workers=prepare_workers,
        prefetch_threads=prefetch_threads,
    )
    try:
        with out.progress(None, "training") as progress:
            if preset == "doodle":
                from ..workflows.train_doodle import train_doodle_reader

                trained = train_doodle_reader(asked, progress=progress, note=out.note)
            else:
                from ..workflows.train import train as train_base

                trained = train_base(asked, progress=progress, note=out.note)
    except TrainingStopped as stopped:
        out.note(f"{stopped} The same command with --resume continues.")
        raise typer.Exit(stopped.exit_code) from None
    if trained.seconds:
        out.note(f"{options.counted(trained.steps, 'step')} in {duration(trained.seconds)}")
    if process_rank() == 0:
        out.result(trained.path, trained)
