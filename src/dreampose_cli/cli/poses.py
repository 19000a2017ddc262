"""`dreampose poses`: a driving video becomes a pose sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .output import Output, plain


def poses(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Video, picture, folder of frames, or poses in any known form.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The pose file to write, .poses.")],
    estimator: Annotated[
        str, typer.Option("--estimator", metavar="NAME", help="What finds poses; mini knows mannequins.")
    ] = "mini",
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", metavar="FILE", help="Also draw the poses as a video here.")
    ] = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Turn a driving video into a pose sequence; print its path.

    `render --poses` takes the video as well; this shows what it will see, or keeps it for later.

    Examples:
      dreampose poses dance.mp4 -o dance.poses --preview look.mp4
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
            note=out.note,
        )
    height, width = found.size
    out.result(found.path, {**plain(found), "size": {"width": width, "height": height}})
