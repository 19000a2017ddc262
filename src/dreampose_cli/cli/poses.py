"""`dreampose poses`: a driving video becomes a pose sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..names import POSE_FORMATS
from ..workflows.options import PosesOptions
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
            help="poses, or for a folder iuv, dreampose or openpose.",
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
    facing: options.Facing = "front",
    interpolate: options.Interpolate = 0,
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
      dreampose poses doodles.png -o d.poses --estimator doodle --interpolate 8
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    pixels = None if size is None else options.pixels(size)
    options.trust_estimator(estimator, trust_code)
    asked = PosesOptions(
        source,
        output,
        format=format,
        estimator=estimator,
        estimator_size=estimator_size,
        person=person,
        size=pixels,
        fps=fps,
        start=start,
        end=end,
        preview=preview,
        facing=facing,
        interpolate=interpolate,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    from ..workflows.poses import poses as write_poses

    with out.progress(None, "finding poses") as progress:
        found = write_poses(asked, progress=progress, note=out.note)
    height, width = found.size
    out.result(found.path, {**plain(found), "size": {"width": width, "height": height}})
