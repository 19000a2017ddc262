"""`dreampose poses`: a driving video becomes a pose sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .output import Output


def poses(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Video, picture, folder of frames, or poses in any known form.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Pose file to write (.poses).", show_default=False),
    ],
    estimator: Annotated[
        str, typer.Option("--estimator", metavar="NAME", help="What finds the pose in a frame: mini knows mannequins.")
    ] = "mini",
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="FILE", help="Also draw the poses as a video here.", show_default=False),
    ] = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    r"""Turn a driving video into a pose sequence.

    Worth a command of its own to look at the poses before rendering; `render --poses` takes the video itself too.

    \b
    Examples:
      dreampose poses dance.mp4 -o dance.poses --preview dance-poses.mp4
      dreampose poses frames/ -o dance.poses --fps 12 --start 2 --end 8
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    from ..poses.extraction import extract

    with out.progress(None, "finding poses") as progress:
        found = extract(
            source,
            output,
            estimator=estimator,
            fps=fps,
            start=start,
            end=end,
            device=device,
            overwrite=overwrite,
            preview=preview,
            progress=progress,
        )
    if found.gaps:
        out.warn(f"{options.counted(found.gaps, 'frame')} of {found.frames} without a person.")
    out.result(found.path, found)
