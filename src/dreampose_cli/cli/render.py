"""`dreampose render`: a subject and a dance become a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from . import options
from .output import Output, duration

GUIDANCE = "Quality"


def render(
    poses: Annotated[
        list[Path],
        typer.Option(
            "--poses",
            metavar="SOURCE",
            help="Driving video, picture, frames or pose file; repeat it for several results.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Result: .mp4, .gif, .webp, .png, or a folder of PNGs (a slash at the end, or no suffix).",
            show_default=False,
        ),
    ],
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject",
            metavar="SUBJECT",
            help="Id or name of a subject, or a photo it was tuned from. Default: the one tuned last.",
            show_default=False,
        ),
    ] = None,
    photo: Annotated[
        Path | None,
        typer.Option("--photo", metavar="FILE", help="Render from a photo with the untuned base.", show_default=False),
    ] = None,
    photo_pose: Annotated[
        Path | None,
        typer.Option(
            "--photo-pose", metavar="FILE", help="The --photo's pose, if not to be estimated.", show_default=False
        ),
    ] = None,
    base: options.Base = None,
    condition: Annotated[
        int,
        typer.Option("--condition", metavar="I", min=1, help="Which of the subject's photos to follow, from 1."),
    ] = 1,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Show photo, pose and result together.")] = False,
    audio: Annotated[bool, typer.Option("--audio", help="Keep the driving video's sound (.mp4).")] = False,
    image_guidance: Annotated[
        float | None,
        typer.Option(
            "--image-guidance",
            "--s1",
            metavar="S",
            help="Weight of the photo, 0 to 30. Default: the base's.",
            callback=options.guidance("--image-guidance"),
            show_default=False,
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    pose_guidance: Annotated[
        float | None,
        typer.Option(
            "--pose-guidance",
            "--s2",
            metavar="S",
            help="Weight of the pose, 0 to 30. Default: the base's.",
            callback=options.guidance("--pose-guidance"),
            show_default=False,
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    r"""Render a subject dancing: one frame per pose.

    \b
    Examples:
      dreampose render --poses dance.mp4 -o out.mp4
      dreampose render --poses dance.mp4 --subject anna -o out.mp4 --side-by-side
      dreampose render --poses a.mp4 --poses b.mp4 -o videos/
      dreampose render --poses pose.png --photo photo.jpg -o still.png
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    if subject is not None and photo is not None:
        raise UsageError("--subject and --photo exclude each other: a subject has its own photos.")
    if photo_pose is not None and photo is None:
        raise UsageError("--photo-pose needs --photo.")
    from ..rendering import render as render_poses

    with out.progress(None, "rendering") as progress:
        rendered = render_poses(
            poses=poses,
            output=output,
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
