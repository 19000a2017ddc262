"""`dreampose render`: a subject and a dance become a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..workflows.options import RenderOptions
from . import candidates, options
from .output import Output, duration


def render(
    poses: Annotated[
        list[Path] | None,
        typer.Option("--poses", metavar="SOURCE", help="Video, picture, frames or poses; can be repeated."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="PATH", help=".mp4, .gif, .webp, .png, or a folder (ending in /)."),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject",
            metavar="SUBJECT",
            help="Id, name, or a photo it was tuned from.",
            autocompletion=candidates.subjects,
            show_default="the one tuned last",
        ),
    ] = None,
    photo: Annotated[
        Path | None, typer.Option("--photo", metavar="FILE", help="Take a photo, untuned, in place of a subject.")
    ] = None,
    photo_pose: Annotated[
        Path | None, typer.Option("--photo-pose", metavar="FILE", help="The pose in --photo.")
    ] = None,
    edit: Annotated[
        str | None,
        typer.Option("--edit", metavar="INSTRUCTION", help="Change --photo first, as `dreampose edit` does."),
    ] = None,
    edit_where: Annotated[
        str | None, typer.Option("--edit-where", metavar="REGION", help="What --edit may change; see `dreampose edit`.")
    ] = None,
    base: options.Base = None,
    photo_index: Annotated[
        int | None,
        options.whole("--photo-index", "I", "Which of the subject's photos to follow, from 1.", 1, default="all if the base can"),
    ] = None,
    size: options.Size = None,
    image_guidance: options.ImageGuidance = None,
    pose_guidance: options.PoseGuidance = None,
    guidance_interval: options.GuidanceInterval = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    seed: options.Seed = 0,
    noise: options.Noise = "shared",
    align: options.Align = "auto",
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="N[:M]",
            help="Frames denoised together, and shared by neighbours.",
            show_default=options.FROM_BASE,
        ),
    ] = None,
    start_noise: Annotated[
        Path | None,
        typer.Option("--start-noise", metavar="FILE", help="Start from this noise: .npy, one for the clip."),
    ] = None,
    pose_pictures: Annotated[
        bool, typer.Option("--pose-pictures", help="--poses are pose drawings, used as they are.")
    ] = False,
    appearance_once: Annotated[
        bool, typer.Option("--appearance-once", help="Look at the photo once, not in every step.")
    ] = False,
    estimator: options.Estimator = None,
    trust_code: options.TrustCode = False,
    facing: options.Facing = "front",
    interpolate: options.Interpolate = 0,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    side_by_side: options.SideBySide = False,
    audio: options.Audio = False,
    batch_size: options.RenderBatchSize = None,
    memory: options.Memory = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network, where that pays.")] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    c2pa_key: Annotated[
        Path | None,
        typer.Option("--c2pa-key", metavar="FILE", help="Sign Content Credentials with this PEM key."),
    ] = None,
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
      dreampose render --poses dance.mp4 -o out.mp4 --photo me.jpg --base magic
      dreampose render --poses doodles.png -o dance.mp4 --estimator doodle
      dreampose render --poses d.mp4 -o red.mp4 --photo p.jpg --edit "a red dress"
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    options.trust_estimator(estimator, trust_code)
    if not poses:
        raise UsageError("Missing option '--poses'.")
    if not output:
        raise UsageError("Missing option '--output'.")
    _check_together(subject, photo, photo_pose)
    asked = RenderOptions(
        poses,
        output,  # as typed: a Path would lose the slash that means a folder
        subject=subject,
        photo=photo,
        photo_pose=photo_pose,
        edit=edit,
        edit_where=edit_where,
        base=base,
        photo_index=photo_index,
        size=None if size is None else options.pixels(size),
        window=options.window(window),
        start_noise=start_noise,
        pose_pictures=pose_pictures,
        appearance_once=appearance_once,
        image_guidance=image_guidance,
        pose_guidance=pose_guidance,
        guidance_interval=options.interval(guidance_interval),
        steps=steps,
        sampler=sampler,
        seed=seed,
        noise=noise,
        align=align,
        estimator=estimator,
        facing=facing,
        interpolate=interpolate,
        fps=fps,
        start=start,
        end=end,
        side_by_side=side_by_side,
        audio=audio,
        batch_size=batch_size,
        memory=memory,
        compile=compile,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
        c2pa_key=c2pa_key,
    )
    from ..workflows.render import render as render_poses

    with out.progress(None, "rendering") as progress:
        rendered = render_poses(asked, progress=progress, note=out.note)
    out.note(f"{options.counted(rendered.frames, 'frame')} in {duration(rendered.seconds)}")
    out.result(rendered.paths, rendered)


def _check_together(subject: str | None, photo: Path | None, photo_pose: Path | None) -> None:
    """UsageError for what does not go together."""
    if subject is not None and photo is not None:
        raise UsageError("--subject and --photo exclude each other: a subject has photos of its own.")
    if photo_pose is not None and photo is None:
        raise UsageError("--photo-pose needs --photo.")
