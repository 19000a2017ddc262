"""`dreampose train`: phase 1, a base from a folder of fashion videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..names import PRESETS, check_choice
from . import options
from .output import Output, duration


def _preset(value: str | None) -> str | None:
    return None if value is None else check_choice("preset", value, PRESETS)


def train(
    videos: Annotated[
        Path,
        typer.Argument(metavar="VIDEOS", help="Folder of clips with poses, as `synth` writes it.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="BASE", help="The base to write: a folder.", show_default=False),
    ],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="PRESET",
            help="What to train from nothing: mini, or estimator. Default: mini, or as --base says.",
            callback=_preset,
            autocompletion=lambda: list(PRESETS),
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="BASE", help="Base or Stable Diffusion folder to start from.", show_default=False
        ),
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="Train this stage only; repeat it for several. Default: all of the preset's.",
            show_default=False,
        ),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps", metavar="N", min=1, help="At most N steps in each stage. Default: the preset's.",
            show_default=False,
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            "--save-every", metavar="N", min=1, help="Steps between checkpoints. Default: the preset's.",
            show_default=False,
        ),
    ] = None,
    learning_rate: options.LearningRate = None,
    seed: options.Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in -o; begin afresh where there is none.")
    ] = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Compute activations twice to need less memory.",
            rich_help_panel=options.MACHINE,
        ),
    ] = False,
    eight_bit_adam: Annotated[
        bool,
        typer.Option(
            "--8bit-adam",
            help="Optimizer states in 8 bits (needs bitsandbytes).",
            rich_help_panel=options.MACHINE,
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    r"""Train a base on fashion videos (the paper's phase 1).

    Progress is kept in BASE/checkpoints: after Ctrl-C, a kill or a power cut, the same command with --resume goes on.

    \b
    Examples:
      dreampose synth clips/ --subjects 2000
      dreampose train clips/ -o my-base --resume
      dreampose train videos/ -o people --base stable-diffusion-v1-4/
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
