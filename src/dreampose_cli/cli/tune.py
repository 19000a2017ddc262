"""`dreampose tune`: one or more photos of a person become a subject."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..names import RATE_RANGE
from ..workflows.options import TuneOptions
from . import options
from .output import Output

STEPS_LIMIT = 1_000_000


def tune(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photos of one person in one outfit.")],
    base: options.Base = None,
    name: options.Name = None,
    poses: Annotated[
        list[Path] | None,
        typer.Option("--poses", metavar="FILE", help="A photo's pose; once for each, in order."),
    ] = None,
    estimator: options.Estimator = None,
    trust_code: options.TrustCode = False,
    steps: Annotated[
        int | None,
        options.whole("--steps", "N", "Steps of UNet and adapter.", 0, STEPS_LIMIT, default=options.FROM_BASE),
    ] = None,
    decoder_steps: Annotated[
        int | None,
        options.whole(
            "--decoder-steps", "N", "Steps of the decoder, 0 for none.", 0, STEPS_LIMIT, default=options.FROM_BASE
        ),
    ] = None,
    learning_rate: options.LearningRate = None,
    decoder_learning_rate: Annotated[
        float | None,
        typer.Option(
            "--decoder-learning-rate",
            metavar="RATE",
            help="Learning rate of the decoder.",
            callback=options.positive("--decoder-learning-rate", high=RATE_RANGE[1]),
            show_default=options.FROM_BASE,
        ),
    ] = None,
    lora_rank: Annotated[
        int | None,
        options.whole(
            "--lora-rank", "R", "Rank of a small LoRA subject; 0 tunes all weights.", 0, 1024, default=options.FROM_BASE
        ),
    ] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    memory: options.Memory = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Learn a subject from one or more photos; print its id.

    What was tuned once, from the same photos with the same settings, is not tuned again; an interrupted run resumes
    where it stopped. The photos' poses are estimated where --poses does not give them.

    Examples:
      dreampose tune photo.jpg
      dreampose tune front.jpg back.jpg --name anna
      dreampose tune photo.jpg --lora-rank 8 --memory low
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.trust_estimator(estimator, trust_code)
    asked = TuneOptions(
        photos,
        base=base,
        name=name,
        poses=poses,
        estimator=estimator,
        steps=steps,
        decoder_steps=decoder_steps,
        learning_rate=learning_rate,
        decoder_learning_rate=decoder_learning_rate,
        lora_rank=lora_rank,
        batch_size=batch_size,
        seed=seed,
        memory=memory,
        device=device,
        dtype=dtype,
    )
    from ..workflows.tune import tune as tune_subject

    with out.progress(None, "tuning") as progress:
        subject = tune_subject(asked, progress=progress, note=out.note)
    out.result(subject.id, subject)
