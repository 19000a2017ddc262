"""`dreampose eval`: how close a clip is to its reference, in every figure of the paper, with the protocol next to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import EvaluationError, UsageError
from ..evaluation.metric_registry import (
    ALIGNMENTS,
    METRICS,
    NO_POSES,
    POSE_METRICS,
    SIZE,
    difference_table,
    parse_limits,
    parse_metrics,
    parse_size,
)
from ..names import BASELINE_PROMPT, BASELINES, check_name
from ..workflows.options import EvalOptions, SuiteOptions
from . import options
from .output import Output, plain, stacked, table


def eval(
    predicted: Annotated[
        Path | None, typer.Argument(metavar="PREDICTED", help="Video, folder of frames, or folder of clips.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Argument(metavar="REFERENCE", help="The reference, in the same forms.")
    ] = None,
    size: Annotated[
        str,
        typer.Option("--size", metavar="N", help="Pixels of the shorter side, or native."),
    ] = str(SIZE),
    align_by: Annotated[
        str,
        typer.Option(
            "--align-by",
            metavar="HOW",
            help="Match frames by index or time.",
            callback=options.one_of("alignment", ALIGNMENTS),
            autocompletion=lambda: list(ALIGNMENTS),
        ),
    ] = "index",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="LIST",
            help="Such as l1,ssim or all; downloads weights.",
            show_default="what needs no download",
        ),
    ] = None,
    poses: Annotated[
        Path | None, typer.Option("--poses", metavar="FILE", help="The reference's poses, for the metrics of the figure.")
    ] = None,
    photo: Annotated[
        Path | None, typer.Option("--photo", metavar="PATH", help="Who is meant, for clip_photo; or a folder of photos.")
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option("--fail-under", metavar="M=X", help="Exit with 1 if metric M is under X."),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option("--fail-over", metavar="M=X", help="Exit with 1 if metric M is over X."),
    ] = None,
    per_frame: Annotated[
        Path | None, typer.Option("--per-frame", metavar="FILE", help="Each frame's values, .csv or .json.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="A report, as one .html file.")
    ] = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", metavar="DATASET", help="Render and score a dataset's test clips.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="The suite's folder; the same command resumes in it.",
            show_default="DATASET-suite",
        ),
    ] = None,
    base: options.Base = None,
    tune: Annotated[bool, typer.Option("--tune", help="Also tune each clip's subject on its photo.")] = False,
    ablations: Annotated[bool, typer.Option("--ablations", help="Also the paper's ablations on the base.")] = False,
    compare: Annotated[
        list[str] | None, typer.Option("--compare", metavar="NAME[=BASE]", help="Another base, or a baseline by its name alone.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="For clip_text, and for the baselines.", show_default=BASELINE_PROMPT
        ),
    ] = None,
    clips: Annotated[int | None, options.whole("--clips", "N", "Only this many clips.", 1, default="all")] = None,
    min_gap: Annotated[
        int | None, options.whole("--min-gap", "N", "Frames from photo to rendering.", 1, default="50, or half a clip")
    ] = None,
    frames: Annotated[int, options.whole("--frames", "N", "Frames rendered of a clip.", 1)] = 50,
    steps: options.Steps = None,
    tune_steps: Annotated[
        int | None, options.whole("--tune-steps", "N", "Steps of UNet and adapter.", 0, default=options.FROM_BASE)
    ] = None,
    decoder_steps: Annotated[
        int | None, options.whole("--decoder-steps", "N", "Steps of the decoder.", 0, default=options.FROM_BASE)
    ] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score a clip against its reference; print every metric and the protocol.

    A metric that is unavailable is missing with its reason, never a number. With --suite the clips are rendered first, by
    the paper's protocol; the options from --output to --batch-size, and --dtype, are the suite's.

    Examples:
      dreampose eval out.mp4 reference.mp4 --report r.html
      dreampose eval out.mp4 reference.mp4 --fail-under ssim=0.9
      dreampose eval rendered/ clips/test/ --json
      dreampose eval --suite clips/ --base mini --tune -o results/
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    pixels = parse_size(size)
    limits = [*parse_limits(fail_under or [], under=True), *parse_limits(fail_over or [], under=False)]
    wanted = parse_metrics(metrics)
    if per_frame is not None and per_frame.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"--per-frame {per_frame} is written as .csv or .json; end its name so.")
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {report} is a page; end its name in .html.")
    if suite is None and (predicted is None or reference is None):
        raise UsageError("eval needs PREDICTED and REFERENCE, or --suite DATASET.")
    if suite is not None:
        if any(given is not None for given in (predicted, per_frame, poses, photo)) or align_by != "index":
            raise UsageError("--suite makes what it compares: leave out clips, --per-frame, --poses, --photo and --align-by.")
        output = output or Path(f"{suite.resolve().name}-suite")
    elif output is not None or tune or ablations or compare or base is not None or dtype != "auto":
        raise UsageError("-o, --base, --tune, --ablations, --compare and --dtype go with --suite DATASET.")
    compared = _compared(compare or [])
    from .. import media
    from ..evaluation.results import check_file, write_per_frame

    for file in (per_frame, report):
        if file is not None:
            media.require_apart(file, [predicted, reference, suite, photo], replaced=False)
        if file is not None and not (file.parent == output and not output.exists()):  # -o makes its folder first
            check_file(file, overwrite)
    if suite is not None:
        from ..workflows.suite import portable
        from ..workflows.suite import suite as run_suite

        assert output is not None
        asked = SuiteOptions(
            suite,
            output,
            base=base,
            compare=compared,
            prompt=prompt,
            tune=tune,
            ablations=ablations,
            clips=clips,
            min_gap=min_gap,
            frames=frames,
            size=pixels,
            seed=seed,
            steps=steps,
            tune_steps=tune_steps,
            decoder_steps=decoder_steps,
            metrics=wanted,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            command=portable(sys.argv[1:]),
        )
        with out.progress(None, "suite") as progress:
            document, found = run_suite(asked, progress=progress, note=out.note)
        title = f"{document['bases']['base']['name']} on {suite.name}"
        lines, shown = suite_lines(document), found.document() | document  # of the main row the keys that all have
    else:
        from ..workflows.evaluate import evaluate

        assert predicted is not None and reference is not None  # as checked above
        document = None
        score = EvalOptions(
            predicted,
            reference,
            size=pixels,
            align_by=align_by,
            metrics=wanted,
            poses=poses,
            photo=photo,
            prompt=prompt,
            device=device,
            keep_frames=per_frame is not None or report is not None,
            keep_pictures=report is not None,
        )
        with out.progress(None, "scoring") as progress:
            found = evaluate(score, progress=progress)
        title = f"{predicted.name} against {reference.name}"
        lines, shown = lines_of(found), found.document()
    for warning in found.warnings:
        out.warn(warning)
    if per_frame is not None:
        out.note(f"each frame's values are in {write_per_frame(per_frame, found)}")
    if report is not None:
        from ..evaluation.report import write_report

        out.note(f"the report is {write_report(report, found, title=title, suite=document)}")
    out.page(lines, plain(shown), brief_of(found))
    broken = [words for limit in limits if (words := limit.broken_by(found.metrics, found.reasons))]
    if broken:
        raise EvaluationError(f"{'; '.join(broken)}.")


def _compared(texts: list[str]) -> dict[str, str]:
    """NAME=BASE as a dict, a baseline under its own name. UsageError for another form or a name twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, source = text.partition("=")
        source = source or (text if text in BASELINES else "")
        if not source:
            raise UsageError(
                f"--compare is {text!r}, but must be NAME=BASE, such as uv=bases/uv, or one of {', '.join(BASELINES)}."
            )
        if check_name(name) in found:
            raise UsageError(f"--compare names {name} twice.")
        found[name] = source
    return found


def suite_lines(document: dict[str, Any]) -> list[str]:
    """A suite's variants as a table, its differences, and the protocol."""
    variants = document["summary"]["variants"]
    shown = [key for key in METRICS if any(row["metrics"][key] is not None for row in variants.values())]
    rows = []
    for row in variants.values():
        cells = []
        for key in shown:
            spread = row["spread"].get(key)
            value = METRICS[key].show(row["metrics"][key])
            cells.append(f"{value} ± {spread['std']:.{METRICS[key].digits}f}" if spread else value)
        rows.append([row["title"], *cells])
    lines = stacked(["", *(METRICS[key].title for key in shown)], rows)
    titles, differences = difference_table(document["summary"]["comparisons"])
    if differences:
        lines += ["", *stacked(["COMPARED", *titles], differences), "", document["summary"]["rule"]]
    lines += _view_lines(document["summary"])
    return [*lines, "", f"protocol: {document['statement']}"]


def _view_lines(summary: dict[str, Any]) -> list[str]:
    """L1 and SSIM of the frames that show a back next to those that show a front."""
    views, chosen = summary["views"], ("l1", "ssim")
    if not views:
        return []
    header = ["FRAMES OF", *(f"{view} {METRICS[key].title}" for view in views for key in chosen)]
    rows = [
        [row["title"], *(METRICS[key].show(views[view]["metrics"][name][key]) for view in views for key in chosen)]
        for name, row in summary["variants"].items()
    ]
    return ["", *stacked(header, rows, right=set(range(1, len(header))))]


def lines_of(found: Any) -> list[str]:
    """The table for people: value, spread over clips, which way is better or why it is missing; the protocol below.

    What is missing for want of poses is one line below the table, with the option that brings it.
    """
    rows = []
    missing = False
    poseless = {key for key in POSE_METRICS if found.reasons.get(key) == NO_POSES}
    several = len(found.clips) > 1
    for key, metric in METRICS.items():
        if key in poseless:
            continue
        value = found.metrics[key]
        spread = found.spread.get(key)
        words = "closest to 1 is best" if metric.better == "one" else f"{metric.better} is better"
        if value is None:
            words = found.reasons.get(key, "")
            if words.startswith("weights not here"):  # in short, and below what to do
                words = words.partition(" (")[0]
                missing = True
        elif (reference_value := found.reference_value.get(key)) is not None:
            words += f"; the reference itself has {metric.show(reference_value)}"
        deviation = [f"± {spread['std']:.{metric.digits}f}" if spread else ""] if several else []
        rows.append([metric.title, metric.show(value), *deviation, words])
    header = ["METRIC", "VALUE", *(["CLIPS"] if several else []), ""]
    way = ["", "--metrics all, or a metric's name, downloads the weights that are not here, once"] if missing else []
    if poseless:
        titles = [METRICS[key].title for key in METRICS if key in poseless]
        way = way or [""]
        way.append(f"--poses with the reference's poses adds: {', '.join(titles)}")
    return [*table(header, rows, right={1}), *way, "", f"protocol: {found.protocol['statement']}"]


def brief_of(found: Any) -> list[str]:
    """With --quiet: one metric a line, those there are."""
    return [f"{key} {value:.6g}" for key, value in found.metrics.items() if value is not None]
