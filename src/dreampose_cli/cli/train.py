"""`dreampose train`: phase 1, a base from a folder of fashion videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..names import PRESETS, STAGES, check_choice
from . import options
from .output import Output, duration

PRESET = "preset's"


def _stages(values: list[str] | None) -> list[str] | None:
    return [check_choice("stage", value, STAGES) for value in values] if values else None


def train(
    videos: Annotated[
        Path, typer.Argument(metavar="VIDEOS", help="Folder of clips with poses, as `synth` writes it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BASE", help="The base to write, a folder.")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="PRESET",
            help="mini or estimator, from nothing; or paper, from --base.",
            callback=options.one_of("preset", PRESETS),
            autocompletion=lambda: list(PRESETS),
            show_default="mini, with --base paper",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="BASE", help="A base to start from, or a Stable Diffusion, here or on the Hub."),
    ] = None,
    image_encoder: options.ImageEncoder = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="Only vae, network or estimator; can be repeated.",
            callback=_stages,
            show_default="all",
        ),
    ] = None,
    max_steps: Annotated[
        int | None, options.whole("--max-steps", "N", "At most so many steps in each stage.", 1, default=PRESET)
    ] = None,
    save_every: Annotated[
        int | None, options.whole("--save-every", "N", "Steps from one checkpoint to the next.", 1, default=PRESET)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            metavar="RATE",
            help="Learning rate.",
            callback=options.positive("--learning-rate"),
            show_default=PRESET,
        ),
    ] = None,
    seed: options.Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in -o, if there is one.")
    ] = False,
    batch_size: Annotated[
        int | None, options.whole("--batch-size", "N", "Samples at once; fewer need less memory.", 1, default=PRESET)
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice to save memory.")
    ] = False,
    eight_bit_adam: Annotated[
        bool, typer.Option("--8bit-adam", help="Keep the optimizer in 8 bits; needs bitsandbytes.")
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a base on fashion videos (phase 1); print its path.

    Checkpoints are kept in BASE/checkpoints: after Ctrl-C, a kill or a power cut the same command with --resume goes
    on, and where it is finished it does nothing.

    Examples:
      dreampose synth clips/ --subjects 2000 --png
      dreampose train clips/ -o my-base --resume
      dreampose train videos/ -o people --base CompVis/stable-diffusion-v1-4
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other: one keeps what is in -o, the other removes it.")
    from ..training.phase1 import train as train_base

    with out.progress(None, "training") as progress:
        trained = train_base(
            videos,
            output,
            preset=preset,
            base=base,
            image_encoder=image_encoder,
            max_steps=max_steps,
            save_every=save_every,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            device=device,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            eight_bit_adam=eight_bit_adam,
            stages=stages,
            progress=progress,
            note=out.note,
        )
    out.note(f"{options.counted(trained.steps, 'step')} in {duration(trained.seconds)}")
    out.result(trained.path, trained)
