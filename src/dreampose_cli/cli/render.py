"""`dreampose render`: a subject and a dance become a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..names import NOISES
from . import options
from .output import Output, duration


def render(
    poses: Annotated[
        list[Path],
        typer.Option(
            "--poses", metavar="SOURCE", help="Video, picture, frames or poses; can be repeated."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="PATH", help=".mp4, .gif, .webp, .png, or a folder (ending in /)."
        ),
    ],
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject",
            metavar="SUBJECT",
            help="Id or name, or a photo it was tuned from.",
            show_default="the one tuned last",
        ),
    ] = None,
    photo: Annotated[
        Path | None, typer.Option("--photo", metavar="FILE", help="Take a photo, untuned, in place of a subject.")
    ] = None,
    photo_pose: Annotated[
        Path | None, typer.Option("--photo-pose", metavar="FILE", help="The pose in --photo.")
    ] = None,
    base: options.Base = None,
    condition: Annotated[
        int, options.whole("--condition", "I", "Which of the subject's photos to follow, from 1.", 1)
    ] = 1,
    image_guidance: options.ImageGuidance = None,
    pose_guidance: options.PoseGuidance = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    seed: options.Seed = 0,
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            metavar="NOISE",
            help="One draw for the clip, or one for each frame.",
            callback=options.one_of("noise", NOISES),
            autocompletion=lambda: list(NOISES),
        ),
    ] = "clip",
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Show photo, pose and result together.")
    ] = False,
    audio: Annotated[bool, typer.Option("--audio", help="Keep the driving video's sound.")] = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Render a subject in the poses of a dance; print the result's path.

    One frame for each pose, at the base's size. With a picture for a dance this is pose transfer.

    Examples:
      dreampose render --poses dance.mp4 -o out.mp4
      dreampose render --poses dance.mp4 -o out.mp4 --subject anna --audio
      dreampose render --poses a.mp4 --poses b.mp4 -o videos/
      dreampose render --poses pose.png -o still.png --photo photo.jpg
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    if subject is not None and photo is not None:
        raise UsageError("--subject and --photo exclude each other: a subject has photos of its own.")
    if photo_pose is not None and photo is None:
        raise UsageError("--photo-pose needs --photo.")
    from ..rendering import render as render_poses

    with out.progress(None, "rendering") as progress:
        rendered = render_poses(
            poses=poses,
            output=output,  # as typed: a Path would lose the slash that means a folder
            subject=subject,
            photo=photo,
            photo_pose=photo_pose,
            base=base,
            condition=condition,
            image_guidance=image_guidance,
            pose_guidance=pose_guidance,
            steps=steps,
            sampler=sampler,
            seed=seed,
            noise=noise,
            batch_size=batch_size,
            fps=fps,
            start=start,
            end=end,
            side_by_side=side_by_side,
            audio=audio,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            progress=progress,
            note=out.note,
        )
    out.note(f"{options.counted(rendered.frames, 'frame')} in {duration(rendered.seconds)}")
    out.result(rendered.paths, rendered)
