"""`dreampose batch`: a catalogue of photos and dances becomes a folder of videos."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import BatchError, UsageError
from ..names import check_device
from . import candidates, options
from .output import Output, duration, size


def _shard(text: str | None) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text or "1/1")
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard is {text!r}, but must be I/N with 1 <= I <= N, such as 3/8.")
    return int(match[1]), int(match[2])


def batch(
    photos: Annotated[
        list[Path] | None, typer.Argument(metavar="PHOTO", help="Photos, one a person, or folders of them.")
    ] = None,
    subjects: Annotated[
        list[str] | None,
        typer.Option(
            "--subject",
            metavar="SUBJECT",
            help="A tuned subject: id, name or photo; can be repeated.",
            autocompletion=candidates.subjects,
        ),
    ] = None,
    poses: Annotated[
        list[Path] | None,
        typer.Option("--poses", metavar="SOURCE", help="Video, picture, frames or poses; can be repeated."),
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option("--jobs", metavar="FILE", help="A .csv or JSON lines: photo or subject, poses, output, options."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="The folder for the videos.")
    ] = None,
    base: options.Base = None,
    untuned: Annotated[bool, typer.Option("--untuned", help="Do not tune; follow the photos as they are.")] = False,
    lora_rank: Annotated[
        int | None,
        options.whole(
            "--lora-rank",
            "R",
            "Rank of small, low-rank subjects; 0 tunes all weights.",
            0,
            1024,
            default=options.FROM_BASE,
        ),
    ] = None,
    tune_steps: Annotated[
        int | None,
        options.whole(
            "--tune-steps", "N", "Tuning steps of UNet and adapter.", 0, 1_000_000, default=options.FROM_BASE
        ),
    ] = None,
    decoder_steps: Annotated[
        int | None,
        options.whole("--decoder-steps", "N", "Tuning steps of the decoder.", 0, 1_000_000, default=options.FROM_BASE),
    ] = None,
    estimator: options.Estimator = None,
    trust_code: options.TrustCode = False,
    image_guidance: options.ImageGuidance = None,
    pose_guidance: options.PoseGuidance = None,
    guidance_interval: options.GuidanceInterval = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    seed: options.Seed = 0,
    noise: options.Noise = "shared",
    align: options.Align = "auto",
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    side_by_side: options.SideBySide = False,
    audio: options.Audio = False,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="ENGINE", help="local, ray, or ray=ADDRESS of a cluster."),
    ] = "local",
    workers: Annotated[
        int | None,
        options.whole(
            "--workers", "N", "Processes, or a cluster's workers.", 1, 1024, default="1, or the cluster's room"
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="LIST", help="One worker for each, such as cuda:0,cuda:1.", show_default="auto"
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Part I of N of the batch.", show_default="1/1, all")
    ] = None,
    retries: Annotated[int, options.whole("--retries", "N", "Retries after a failure that may be temporary.", 0, 100)] = 1,
    max_failures: Annotated[
        int | None, options.whole("--max-failures", "N", "End when more steps have failed.", 0, default="no limit")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="End a step that takes longer.",
            callback=options.positive("--timeout"),
            show_default="none",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is missing and what it will take.")] = False,
    batch_size: options.RenderBatchSize = None,
    memory: options.Memory = "auto",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest's lines as they are written.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Render every photo in every dance into a folder; print the folder.

    Subjects are tuned once, poses are estimated once, and what is there is not made again: the same command after
    Ctrl-C or a power cut does what is missing. FOLDER/manifest.jsonl says what was done.

    Examples:
      dreampose batch photos/ --poses walk.mp4 --poses turn.mp4 -o videos/
      dreampose batch photos/ --poses walk.mp4 -o videos/ --dry-run
      dreampose batch --jobs jobs.csv -o videos/ --workers 2 --json
      dreampose batch photos/ --poses walk.mp4 -o videos/ --engine ray
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.check_span(start, end)
    options.trust_estimator(estimator, trust_code)
    if output is None:
        raise UsageError("Missing option '--output' / '-o'.")
    if jobs is None and not poses:
        raise UsageError("Missing option '--poses' (or '--jobs').")
    asked = {
        "base": base,
        "tune": not untuned,
        "lora-rank": lora_rank,
        "tune-steps": tune_steps,
        "decoder-steps": decoder_steps,
        "estimator": estimator,
        "image-guidance": image_guidance,
        "pose-guidance": pose_guidance,
        "guidance-interval": options.interval(guidance_interval),
        "steps": steps,
        "sampler": sampler,
        "seed": seed,
        "noise": noise,
        "align": align,
        "fps": fps,
        "start": start,
        "end": end,
        "side-by-side": side_by_side,
        "audio": audio,
        "batch-size": batch_size,
        "memory": memory,
        "dtype": dtype,
    }
    from ..workflows.batch.run import BatchOptions, plan_batch

    wanted = BatchOptions(
        output=output,
        photos=photos or (),
        subjects=subjects or (),
        poses=poses or (),
        jobs=jobs,
        options=asked,
        engine=engine,
        workers=workers,
        devices=[check_device(device.strip()) for device in devices.split(",")] if devices else (),
        shard=_shard(shard),
        retries=retries,
        max_failures=max_failures,
        timeout=timeout,
        overwrite=overwrite,
    )
    with out.progress(None, "planning") as progress:
        planned = plan_batch(wanted, progress, out.note)
    if dry_run:
        _show_plan(out, planned)
        return
    _run(out, wanted, planned)


def _run(out: Output, wanted, planned) -> None:
    """Do it, and say at the end, or where it was interrupted, what became of it."""
    from ..workflows.batch.run import run_batch
    from .batch_display import Display

    drivers: list = []
    try:
        with Display(out, planned) as display:
            summary = run_batch(wanted, planned, display, drivers.append)
    finally:
        for driver in drivers:
            for line in summary_lines(driver.summary):
                out.note(line)
    if summary.missing:
        reason = f" ({summary.stopped})" if summary.stopped else ""
        raise BatchError(
            f"{summary.missing} of {options.counted(planned.plan.videos, 'video')} "
            f"{'is' if summary.missing == 1 else 'are'} missing{reason}; the same command makes what is missing."
        )
    if not out.json:
        out.result(planned.plan.folder, None)


def summary_lines(summary) -> list[str]:
    """The outcome of a batch, for people: counts, failures by reason, and what to do about them."""
    from ..workflows.batch.failures import ADVICE

    counts = f"{options.counted(summary.made, 'video')} made, {summary.present} there before, {summary.missing} missing"
    lines = [f"{counts}; {options.counted(summary.steps, 'step')} in {duration(summary.seconds)}"]
    for reason, count in sorted(summary.reasons().items()):
        examples = [f"{label}: {words}" for label, why, words in summary.failures if why == reason]
        lines.append(f"{options.counted(count, 'step')} failed ({reason}); {ADVICE[reason]}:")
        lines += [f"  {text}" for text in examples[:5]]
        if count > 5:
            lines.append(f"  and {count - 5} more; manifest.jsonl names them")
    if summary.blocked:
        lines.append(f"{options.counted(summary.blocked, 'step')} could not be done for that")
    return lines


def _show_plan(out: Output, planned) -> None:
    """The plan: what exists, what is missing, what it will take and how much disk."""
    plan, forecast = planned.plan, planned.forecast
    missing = plan.count("video")
    lines = [f"{options.counted(plan.videos, 'video')}: {plan.present} there, {missing} missing"]
    if plan.replaced:
        lines.append(f"{options.counted(plan.replaced, 'video')} of other requests to be replaced")
    for kind, one in forecast.kinds.items():
        if one["missing"]:
            took = "unknown" if one["together"] is None else f"about {duration(one['together'])}"
            lines.append(f"{options.counted(one['missing'], 'step')} ({kind}): {took}")
    if plan.steps:
        time = "unknown, nothing like it was measured yet" if forecast.seconds is None else duration(forecast.seconds)
        disk = "unknown" if forecast.disk is None else f"about {size(forecast.disk)}"
        lines.append(f"time on one worker: {time}")
        lines.append(f"disk: {disk}, of {size(planned.free)} free")
    document = {
        "videos": plan.videos,
        "present": plan.present,
        "missing": missing,
        "replaced": plan.replaced,
        "seconds": forecast.seconds,
        "disk": forecast.disk,
        "free": planned.free,
        "kinds": forecast.kinds,
        "steps": [
            {
                "step": step.id,
                "kind": step.kind,
                "what": step.label,
                "needs": step.needs,
                "output": step.task.get("output"),
            }
            for step in plan.steps.values()
        ],
    }
    out.page(lines, document)
