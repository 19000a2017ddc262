"""`dreampose synth`: mannequin clips with exact poses, laid out as a fashion-video dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .output import Output


def synth(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, with train/ and test/ in it.")],
    subjects: Annotated[int, options.whole("--subjects", "N", "Mannequins, one clip each.", 1)] = 100,
    test_subjects: Annotated[
        int | None,
        options.whole("--test-subjects", "N", "How many of them go to test/.", 0, default="an eighth"),
    ] = None,
    doodles: Annotated[
        int | None,
        options.whole("--doodles", "N", "Draw N doodles (stick figures) in place of clips.", 1, default="none"),
    ] = None,
    frames: Annotated[int, options.whole("--frames", "F", "Frames in each clip.", 1)] = 24,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Width and height in pixels.")] = "128x160",
    seed: options.Seed = 0,
    png: Annotated[
        bool, typer.Option("--png", help="Lossless frames next to the videos, which `train` prefers.")
    ] = False,
    workers: Annotated[int, options.whole("--workers", "N", "Processes that draw.", 1, 512)] = 1,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw mannequin clips with exact poses; print their folder.

    Mannequins walk, turn and pose; their clips are a dataset to train on and to measure with.

    Examples:
      dreampose synth clips/ --subjects 200 --seed 7
      dreampose synth clips/ --subjects 2000 --frames 12 --png --workers 4
      dreampose synth doodles/ --doodles 4700 --test-subjects 200
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    height, width = options.pixels(size)
    if doodles is not None:
        from ..mannequins.doodle_dataset import write_doodles

        with out.progress(None, "drawing") as progress:
            write_doodles(
                folder,
                doodles=doodles,
                test_doodles=test_subjects,
                seed=seed,
                overwrite=overwrite,
                progress=progress,
            )
        out.result(folder, {"path": folder, "doodles": doodles, "seed": seed})
        return
    from ..workflows.synth import write_dataset

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
