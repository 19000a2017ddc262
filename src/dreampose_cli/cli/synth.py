"""`dreampose synth`: mannequin clips with exact poses, laid out as a fashion-video dataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from . import options
from .output import Output


def synth(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write: OUT/train and OUT/test.", show_default=False)
    ],
    subjects: Annotated[int, typer.Option("--subjects", metavar="N", min=1, help="Mannequins, one clip each.")] = 100,
    test_subjects: Annotated[
        int | None,
        typer.Option(
            "--test-subjects",
            metavar="N",
            min=0,
            help="How many of them are held out in OUT/test. Default: some of them.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[int, typer.Option("--frames", metavar="F", min=1, help="Frames in each clip.")] = 24,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Width and height in pixels.")] = "128x160",
    seed: options.Seed = 0,
    png: Annotated[
        bool, typer.Option("--png", help="Also write every frame as a lossless PNG; `train` prefers these.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Processes.", rich_help_panel=options.MACHINE)
    ] = 1,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    r"""Draw mannequins that walk, turn and pose, with exact poses, to train on and to measure with.

    \b
    Examples:
      dreampose synth clips/ --subjects 200 --seed 7
      dreampose synth clips/ --subjects 2000 --frames 12 --png --workers 4
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if not match or not all(16 <= int(number) <= 4096 for number in match.groups()):
        raise UsageError(f"--size is {size!r}, but must be WIDTHxHEIGHT in pixels, such as 128x160, each 16 to 4096.")
    width, height = (int(number) for number in match.groups())
    from ..synthetic.dataset import write_dataset

    with out.progress(None, "drawing") as progress:
        write_dataset(
            folder,
            subjects=subjects,
            frames=frames,
            seed=seed,
            test_subjects=test_subjects,
            png=png,
            size=(height, width),
            workers=workers,
            progress=progress,
            overwrite=overwrite,
        )
    clips = {split: sum(1 for path in (folder / split).glob("*") if path.is_dir()) for split in ("train", "test")}
    document = {"path": folder, "clips": clips, "frames": frames, "size": {"width": width, "height": height}}
    out.result(folder, {**document, "seed": seed})
