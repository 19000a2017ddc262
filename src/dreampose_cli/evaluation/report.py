"""The report: one HTML file that needs nothing else, neither network nor script.

Pictures are embedded as JPEG, clips as H.264, charts are inline SVG (`charts`), the style is `report.css`.
"""

from __future__ import annotations

import base64
import io
import math
import tempfile
from collections.abc import Iterable, Iterator
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import media
from . import charts
from . import literature as published
from .clip_scorer import ClipScores, Extreme
from .frame_pairs import AlignedFrames
from .metric_registry import METRICS, difference_table
from .results import write_text
from .scoring import Evaluation

SHOWN_FRAMES = 150  # of a clip in the side-by-side video
DIFFERENCE = 3  # differences are shown so many times as strong
PLOTTED = (
    "ssim", "l1", "psnr", "figure_ssim", "figure_l1", "texture", "lpips_alex", "lpips_vgg", "vgg", "clip", "sharpness", "warp",
)  # fmt: skip


def write_report(path: Path, evaluation: Evaluation, *, title: str, suite: dict[str, Any] | None = None) -> Path:
    """Write the report of an evaluation (made with `keep_frames` and `keep_pictures`), whole or not at all.

    `suite`: the document of a suite, for its tables and bars.
    """
    return write_text(path, _page(evaluation, title, suite))


def _page(evaluation: Evaluation, title: str, suite: dict[str, Any] | None) -> Iterator[str]:
    style = resources.files("dreampose_cli").joinpath("evaluation/report.css").read_text(encoding="utf-8")
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>\n'
        f"<h1>{escape(title)}</h1>\n"
    )
    yield f'<p class="protocol">Protocol: {escape(evaluation.protocol["statement"])}.</p>\n'
    yield from (f'<p class="warning">{escape(text)}</p>\n' for text in evaluation.warnings)
    yield from _metrics(evaluation)
    if suite is not None:
        yield from _suite(suite)
    chosen = _chosen(evaluation.clips)
    yield from _videos(evaluation, chosen)
    yield from _extremes(evaluation.clips)
    yield from _frames(chosen)
    yield from _clips(evaluation.clips)
    yield from _literature(evaluation)
    yield "</body></html>\n"


def _metrics(evaluation: Evaluation) -> Iterator[str]:
    several = len(evaluation.clips) > 1
    head = ["metric", "value", *(["± over clips", "smallest", "largest"] if several else []), "", "what it is"]
    rows = []
    missing: dict[str, list[str]] = {}
    for key, metric in METRICS.items():
        value, spread = evaluation.metrics[key], evaluation.spread.get(key, {})
        if value is None:
            missing.setdefault(evaluation.reasons.get(key, ""), []).append(metric.title)
            continue
        words = "closest to 1 is best" if metric.better == "one" else f"{metric.better} is better"
        if (reference_value := evaluation.reference_value.get(key)) is not None:
            words += f"; the reference itself has {metric.show(reference_value)}"
        cells = [metric.show(value), *([metric.show(spread.get(k)) for k in ("std", "min", "max")] if several else [])]
        rows.append([metric.title, *cells, words, metric.meaning])
    numbers = set(range(1, 5 if several else 2))
    yield f"<h2>Metrics</h2>\n{_table(head, rows, numbers)}\n"
    if missing:
        items = "".join(f"<li><b>{', '.join(titles)}</b>: {escape(why)}</li>" for why, titles in missing.items())
        yield f'<p class="protocol">Missing:</p><ul class="protocol">{items}</ul>\n'


def _literature(evaluation: Evaluation) -> Iterator[str]:
    """The published rows, with what was measured here at their head."""
    own = {"lpips": "lpips_alex"}
    cells = []
    for column in published.COLUMNS:
        metric = METRICS[own.get(column, column)]
        cells.append(metric.show(evaluation.metrics[metric.key]))
    rows = [["this evaluation (other data)", *cells]]
    for name, values in published.ROWS:
        rows.append([name, *("-" if value is None else f"{value:g}" for value in values)])
    head = ["", *(column.upper() for column in published.COLUMNS)]
    yield (
        "<h2>For orientation: what others published</h2>\n"
        "<p>These rows were <strong>published elsewhere, on other data</strong>: the test set of UBC Fashion (people), each "
        "method by its authors' own protocol. They say what such figures look like, not how this result ranks. The VGG "
        "column's definition is not published.</p>\n"
        f"{_table(head, rows, set(range(1, 8)), own=0)}\n"
    )


def _clips(clips: list[ClipScores]) -> Iterator[str]:
    if len(clips) < 2:
        return
    yield "<h2>Clips</h2>\n<div class='charts'>"
    names = [clip.name for clip in clips]
    for key in (*PLOTTED, "flicker"):
        metric = METRICS[key]
        drawing = charts.dots(names, [clip.metrics[key] for clip in clips], metric.title, metric.digits)
        if drawing:
            yield f"<figure><h3>{metric.title}</h3>{drawing}</figure>"
    shown = [key for key in METRICS if any(clip.metrics[key] is not None for clip in clips)]
    rows = [
        [clip.name, str(clip.frames), *(METRICS[key].show(clip.metrics[key]) for key in shown)]
        for clip in sorted(clips, key=_order)
    ]
    head = ["clip, the worst first", "frames", *(METRICS[key].title for key in shown)]
    yield f"</div>\n{_table(head, rows, set(range(1, len(head))))}\n"


def _frames(chosen: list[tuple[str, ClipScores]]) -> Iterator[str]:
    legend = " &nbsp; ".join(
        f'<span class="key k{k}"></span>{escape(words)}' for k, (words, clip) in enumerate(chosen) if clip.per_frame
    )
    yield f"<h2>Frame by frame</h2>\n<p>{legend}</p>\n<div class='charts'>"
    for key in PLOTTED:
        columns = {
            words: [None if math.isnan(value) else value for value in clip.per_frame.get(key, ())]
            for words, clip in chosen
        }
        metric = METRICS[key]
        drawing = charts.lines(columns, f"{metric.title} of each frame", metric.digits)
        if drawing:
            yield f"<figure><h3>{metric.title}</h3>{drawing}</figure>"
    yield "</div>\n"


def _extremes(clips: list[ClipScores]) -> Iterator[str]:
    for words, attribute, sign in (("Worst", "worst", 1), ("Best", "best", -1)):
        found = sorted(
            ((extreme, clip) for clip in clips for extreme in getattr(clip, attribute)), key=lambda p: sign * p[0].score
        )[:3]
        if not found:
            continue
        yield f"<h2>{words} frames</h2>\n<p>Reference, prediction, and their difference {DIFFERENCE} times as strong."
        yield "</p>\n<div class='strips'>"
        for extreme, clip in found:
            score = f"SSIM {extreme.score:.4f}" if extreme.metric == "ssim" else f"L1 {-extreme.score:.4f}"
            name = f"{clip.name}, " if len(clips) > 1 else ""
            yield (
                f'<figure><img alt="{escape(words)} frame" src="{_jpeg(_strip(extreme))}">'
                f"<figcaption>{escape(name)}frame {extreme.index}: {score}</figcaption></figure>"
            )
        yield "</div>\n"


def _videos(evaluation: Evaluation, chosen: list[tuple[str, ClipScores]]) -> Iterator[str]:
    protocol = evaluation.protocol
    size = None if protocol["size"] == "native" else protocol["size"]
    yield "<h2>Side by side</h2>\n<p>Reference, prediction, difference.</p>\n<div class='videos'>"
    for words, clip in chosen:
        data = _video(clip, size, protocol["align_by"])
        cut = f" (the first {SHOWN_FRAMES} of {clip.frames} frames)" if clip.frames > SHOWN_FRAMES else ""
        yield (
            f'<figure><video controls loop muted playsinline preload="auto" src="{data}"></video>'
            f"<figcaption>{escape(words)}{cut}</figcaption></figure>"
        )
    yield "</div>\n"


def _suite(suite: dict[str, Any]) -> Iterator[str]:
    """The variants of a suite as a table and bars, and which differences are none."""
    variants = suite["summary"]["variants"]
    shown = [key for key in METRICS if any(row["metrics"].get(key) is not None for row in variants.values())]
    head = ["", "clips", *(METRICS[key].title for key in shown)]
    rows = []
    for row in variants.values():
        cells = []
        for key in shown:
            spread = row["spread"].get(key, {}).get("std")
            cells.append(METRICS[key].show(row["metrics"][key]) + (f" ± {METRICS[key].show(spread)}" if spread else ""))
        rows.append([row["title"], str(row["clips"]), *cells])
    yield (
        f"<h2>Variants</h2>\n<p>{escape(suite['statement'])}</p>\n{_table(head, rows, set(range(1, len(head))))}\n"
        "<h2>Ablation</h2>\n<p>Means over subjects; the whiskers are one standard deviation over subjects.</p>\n"
        "<div class='charts'>"
    )
    for key in shown:
        metric = METRICS[key]
        found = [
            (row["title"], row["metrics"][key], row["spread"].get(key, {}).get("std", 0.0))
            for row in variants.values()
            if row["metrics"].get(key) is not None
        ]
        better = "closest to 1 is best" if metric.better == "one" else f"{metric.better} is better"
        drawing = charts.bars(found, metric.title, metric.digits)
        yield f"<figure><h3>{metric.title}</h3>{drawing}<figcaption>{better}</figcaption></figure>"
    yield "</div>\n"
    comparisons = suite["summary"]["comparisons"]
    if comparisons:
        yield f"<h2>Differences</h2>\n<p>{escape(suite['summary']['rule'])}</p>\n{_differences(comparisons)}\n"
    yield from _by_view(suite)


def _by_view(suite: dict[str, Any]) -> Iterator[str]:
    """Backs and fronts apart."""
    variants, views = suite["summary"]["variants"], suite["summary"]["views"]
    if not views:
        return
    shown = [
        key for key in METRICS if any((m.get(key)) is not None for v in views.values() for m in v["metrics"].values())
    ]
    head = ["", *(f"{METRICS[key].title}, {view}" for key in shown for view in views)]
    rows = [
        [row["title"], *(METRICS[key].show(views[view]["metrics"][name][key]) for key in shown for view in views)]
        for name, row in variants.items()
    ]
    counts = " and ".join(f"{found['frames']} frames of a {view}" for view, found in views.items())
    yield (
        f"<h2>Backs and fronts</h2>\n<p>{counts}, as the poses tell: of which side of the torso more is seen. Means over "
        f"subjects.</p>\n{_table(head, rows, set(range(1, len(head))))}\n"
    )


def _differences(comparisons: list[dict[str, Any]]) -> str:
    titles, rows = difference_table(comparisons, gap="\n")
    return _table(["compared", *titles], rows, set(range(1, len(titles) + 1)))


def _chosen(clips: list[ClipScores]) -> list[tuple[str, ClipScores]]:
    """The clips whose frames are shown: the only one, or the worst, the median and the best by SSIM."""
    if len(clips) == 1:
        return [(clips[0].name, clips[0])]
    ordered = sorted(clips, key=_order)
    picks = {"the worst clip": ordered[0], "the median clip": ordered[len(ordered) // 2], "the best clip": ordered[-1]}
    found: dict[str, str] = {}
    for words, clip in picks.items():
        found.setdefault(clip.name, words)
    by_name = {clip.name: clip for clip in clips}
    return [(f"{name}, {words} by SSIM", by_name[name]) for name, words in found.items()]


def _order(clip: ClipScores) -> float:
    ssim, l1 = clip.metrics["ssim"], clip.metrics["l1"]
    return ssim if ssim is not None else -(l1 or 0.0)


def _table(head: Iterable[str], rows: list[list[str]], numbers: set[int], own: int | None = None) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        return f"<{tag}{' class=n' if column in numbers else ''}>{escape(text)}</{tag}>"

    heads = "".join(cell("th", i, text) for i, text in enumerate(head))
    body = "\n".join(
        f"<tr{' class=own' if k == own else ''}>{''.join(cell('td', i, text) for i, text in enumerate(row))}</tr>"
        for k, row in enumerate(rows)
    )
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _strip(extreme: Extreme) -> np.ndarray:
    return _beside(extreme.predicted, extreme.reference)


def _beside(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """reference | prediction | difference, uint8 (H, 3 W, 3)."""
    difference = np.abs(predicted.astype(np.int16) - reference) * DIFFERENCE
    return np.concatenate([reference, predicted, difference.clip(0, 255).astype(np.uint8)], axis=1)


def _jpeg(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _video(clip: ClipScores, size: int | None, align_by: str) -> str:
    """The clip side by side as an embedded mp4, read once more: nothing of it was kept."""
    with tempfile.TemporaryDirectory(prefix="dreampose-report-") as folder:
        with AlignedFrames(clip.pair.predicted, clip.pair.reference, size=size, align_by=align_by) as frames:
            shown = (_beside(*pair) for _, pair in zip(range(SHOWN_FRAMES), frames, strict=False))
            path = media.write_frames(Path(folder) / "clip.mp4", shown, fps=min(60.0, max(1.0, clip.fps)))
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
