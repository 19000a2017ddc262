"""`dreampose poses`: a driving video becomes a pose sequence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import BaseError
from ..names import POSE_FORMATS
from . import options
from .output import Output, plain


def poses(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Video, picture, folder of frames, or poses in any known form.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PATH", help="The .poses file to write, or a folder.")
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="poses, or for a folder iuv or dreampose.",
            callback=options.one_of("format", POSE_FORMATS),
            autocompletion=lambda: list(POSE_FORMATS),
        ),
    ] = "poses",
    estimator: options.Estimator = None,
    trust_code: options.TrustCode = False,
    estimator_size: Annotated[
        int | None,
        options.whole("--estimator-size", "N", "Short side DensePose sees.", 64, 4096, default="the picture's own"),
    ] = None,
    person: Annotated[
        int | None, options.whole("--person", "K", "Follow the K-th largest person.", 1, 100, default="the largest")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Size of the pictures of a dump.", show_default="found"),
    ] = None,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", metavar="FILE", help="Also draw the poses as a video here.")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
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
      dreampose poses dance.mp4 -o iuv/ --format iuv --estimator r50
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    pixels = None if size is None else options.pixels(size)
    options.trust_estimator(estimator, trust_code)
    from ..poses.extraction import extract

    with out.progress(None, "finding poses") as progress:
        found = extract(
            source,
            output,
            estimator=estimator or _estimator_of_base(source, progress, out.note),
            estimator_size=estimator_size,
            person=person,
            size=pixels,
            format=format,
            fps=fps,
            start=start,
            end=end,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            preview=preview,
            progress=progress,
            note=out.note,
        )
    height, width = found.size
    out.result(found.path, {**plain(found), "size": {"width": width, "height": height}})


def _estimator_of_base(source: Path, progress, note) -> str:
    """The estimator of the base that `render` would take; mini where there are several to choose from.

    Where the source holds poses no estimator is needed, and no base is looked for.
    """
    from ..bases.config import read_config
    from ..bases.registry import resolve_base
    from ..poses.files import is_pose_source

    if is_pose_source(source):
        return "mini"
    named = bool(os.environ.get("DREAMPOSE_BASE"))
    try:
        return read_config(resolve_base(None, note if named else None, progress)).estimator
    except BaseError as error:
        if named:
            raise
        note(f"{error} The estimator is mini, which knows mannequins only, unless --estimator says otherwise.")
        return "mini"
