"""`dreampose render`: a subject and a dance become a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import JobsError, UsageError
from ..names import ALIGNMENTS, NOISES
from ..workflows.options import RenderOptions
from . import options
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
        list[str] | None,
        typer.Option(
            "--subject",
            metavar="SUBJECT",
            help="Id, name, or a photo it was tuned from; can be repeated.",
            show_default="the one tuned last",
        ),
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option("--jobs", metavar="FILE", help="Many renders: .csv or JSON lines of subject, poses, output."),
    ] = None,
    photo: Annotated[
        Path | None, typer.Option("--photo", metavar="FILE", help="Take a photo, untuned, in place of a subject.")
    ] = None,
    photo_pose: Annotated[
        Path | None, typer.Option("--photo-pose", metavar="FILE", help="The pose in --photo.")
    ] = None,
    base: options.Base = None,
    photo_index: Annotated[
        int, options.whole("--photo-index", "I", "Which of the subject's photos to follow, from 1.", 1)
    ] = 1,
    image_guidance: options.ImageGuidance = None,
    pose_guidance: options.PoseGuidance = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            "--guidance-interval",
            metavar="LOW:HIGH",
            help="Noise levels with guidance; 1 is pure noise.",
            show_default="0:1, all",
        ),
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    seed: options.Seed = 0,
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            metavar="NOISE",
            help="One draw for the clip (shared), or per-frame.",
            callback=options.one_of("noise", NOISES),
            autocompletion=lambda: list(NOISES),
        ),
    ] = "shared",
    align: Annotated[
        str,
        typer.Option(
            "--align",
            metavar="WHEN",
            help="Match the dancer's place to the photo's: auto, on or off.",
            callback=options.one_of("alignment", ALIGNMENTS),
            autocompletion=lambda: list(ALIGNMENTS),
        ),
    ] = "auto",
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Show photo, pose and result together.")] = False,
    audio: Annotated[bool, typer.Option("--audio", help="Keep the driving video's sound.")] = False,
    batch_size: Annotated[
        int | None,
        options.whole("--batch-size", "N", "Frames at once.", 1, default="what fits into memory"),
    ] = None,
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
      dreampose render --poses dance.mp4 -o videos/ --subject anna --subject ben
      dreampose render --poses pose.png -o still.png --photo photo.jpg
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    many = _is_many(poses, output, subject, photo, photo_pose, jobs)
    asked = RenderOptions(
        poses or [],
        output or "",  # as typed: a Path would lose the slash that means a folder
        subject=subject[0] if subject else None,
        photo=photo,
        photo_pose=photo_pose,
        base=base,
        photo_index=photo_index,
        image_guidance=image_guidance,
        pose_guidance=pose_guidance,
        guidance_interval=options.interval(guidance_interval),
        steps=steps,
        sampler=sampler,
        seed=seed,
        noise=noise,
        align=align,
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
    if many:
        _render_many(out, jobs, subject, asked)
        return
    from ..workflows.render import render as render_poses

    with out.progress(None, "rendering") as progress:
        rendered = render_poses(asked, progress=progress, note=out.note)
    out.note(f"{options.counted(rendered.frames, 'frame')} in {duration(rendered.seconds)}")
    out.result(rendered.paths, rendered)


def _is_many(poses, output, subject, photo, photo_pose, jobs) -> bool:
    """Whether several renders are meant; UsageError for what does not go together."""
    if jobs is not None:
        for option, value in (("--poses", poses), ("--output", output), ("--subject", subject), ("--photo", photo)):
            if value:
                raise UsageError(f"--jobs and {option} exclude each other: the file says who dances what.")
    else:
        for option, value in (("--poses", poses), ("--output", output)):
            if not value:
                raise UsageError(f"Missing option '{option}' (or '--jobs', for many renders).")
    if subject and photo is not None:
        raise UsageError("--subject and --photo exclude each other: a subject has photos of its own.")
    if photo_pose is not None and photo is None:
        raise UsageError("--photo-pose needs --photo.")
    return jobs is not None or len(subject or []) > 1


def _render_many(out: Output, file: Path | None, subjects: list[str] | None, asked: RenderOptions) -> None:
    """Every render of the file, or of each subject in each dance; JobsError at the end where some failed."""
    from ..workflows.render_jobs import jobs_of, read_jobs, render_jobs

    jobs = read_jobs(file) if file is not None else jobs_of(subjects, asked.poses, asked.output)
    with out.progress(None, "rendering") as progress:
        results = render_jobs(jobs, asked, progress=progress, note=out.note, warn=out.warn)
    done = [result for result in results if result.result is not None]
    frames = sum(result.result.frames for result in done)
    seconds = sum(result.result.seconds for result in done)
    out.note(f"{options.counted(len(done), 'render')}, {options.counted(frames, 'frame')} in {duration(seconds)}")
    out.result([path for result in done for path in result.result.paths], {"jobs": results})
    if len(done) < len(results):
        failed = len(results) - len(done)
        raise JobsError(f"{failed} of {options.counted(len(results), 'render')} failed; the others are done.")
