"""`dreampose tune`: one or more photos of a person become a subject."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .output import Output


def tune(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", help="Photos of one person in one outfit.", show_default=False)
    ],
    base: options.Base = None,
    name: options.Name = None,
    poses: Annotated[
        list[Path] | None,
        typer.Option(
            "--poses",
            metavar="FILE",
            help="The photo's pose, if not to be estimated; once per photo, in their order.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            min=0,
            max=1_000_000,
            help="Steps for UNet and adapter. Default: the base's.",
            show_default=False,
        ),
    ] = None,
    decoder_steps: Annotated[
        int | None,
        typer.Option(
            "--decoder-steps",
            metavar="N",
            min=0,
            max=1_000_000,
            help="Steps for the VAE decoder, 0 for none. Default: the base's.",
            show_default=False,
        ),
    ] = None,
    learning_rate: options.LearningRate = None,
    decoder_learning_rate: Annotated[
        float | None,
        typer.Option(
            "--decoder-learning-rate",
            metavar="RATE",
            help="Learning rate of the decoder's steps. Default: the base's.",
            callback=options.positive("--decoder-learning-rate"),
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    r"""Learn a subject from one or more photos and print its id.

    The same photos, base and settings are never tuned twice; an interrupted run goes on where it stopped.

    \b
    Examples:
      dreampose tune photo.jpg
      dreampose tune front.jpg back.jpg --name anna
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..training.tuning import tune as tune_subject

    with out.progress(None, "tuning") as progress:
        subject = tune_subject(
            photos,
            base=base,
            name=name,
            poses=poses,
            steps=steps,
            decoder_steps=decoder_steps,
            learning_rate=learning_rate,
            decoder_learning_rate=decoder_learning_rate,
            batch_size=batch_size,
            seed=seed,
            device=device,
            dtype=dtype,
            progress=progress,
            note=out.note,
        )
    out.result(subject.id, subject)
