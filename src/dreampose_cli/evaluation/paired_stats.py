"""The statistics of a suite: rows against their baselines, paired over subjects, with a rule for what is no difference."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from .facing import VIEWS, mean_where
from .metric_registry import METRICS, TOO_FEW, Metric
from .metrics import mean
from .scoring import Evaluation
from .variants import Variant

BY_VIEW = (  # values of a frame alone
    "l1", "psnr", "ssim", "figure_l1", "figure_ssim", "texture", "lpips_alex", "lpips_vgg", "vgg", "clip", "clip_photo",
    "clip_text", "sharpness",
)  # fmt: skip
SPREAD_RULE = (
    "A difference is the mean over subjects of (variant - its baseline on the same subject); its spread is the standard "
    "deviation of that over subjects. A difference not larger than its spread is called no difference (=); of fewer than "
    "three subjects nothing is called anything (?)."
)


Figures = dict[str, dict[str, dict[str, float | None]]]  # variant -> clip -> metric


def by_clip(scores: dict[str, Evaluation]) -> Figures:
    """Each variant's figures for each clip."""
    return {key: {clip.name: clip.metrics for clip in score.clips} for key, score in scores.items()}


def by_view(rows: list[Variant], scores: dict[str, Evaluation], seen: dict[str, list[str | None]]) -> dict[str, Any]:
    """The same for the frames alone that show a back, or a front: their number, means over subjects, comparisons.

    seen: the view of each frame of each clip (`views.views_of`).
    """
    found = {}
    for view in VIEWS:
        figures: Figures = {}
        for key, score in scores.items():
            figures[key] = {
                clip.name: {
                    metric: mean_where(clip.per_frame.get(metric, ()), seen[clip.name], view) for metric in BY_VIEW
                }
                for clip in score.clips
                if view in seen.get(clip.name, ())
            }
        shown = figures[rows[0].key]
        if not shown:
            continue
        found[view] = {
            "frames": sum(seen[name].count(view) for name in shown),
            "clips": len(shown),
            "metrics": {key: _means(clips) for key, clips in figures.items()},
            "comparisons": list(compare(rows, figures)),
        }
    return found


def _means(clips: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """Each metric's mean over clips."""
    return {metric: mean([values[metric] for values in clips.values()]) for metric in BY_VIEW}


def compare(rows: list[Variant], figures: Figures) -> Iterator[dict[str, Any]]:
    """Each variant against its baseline, metric by metric, over the subjects that both have (see `SPREAD_RULE`)."""
    titles = {row.key: row.title for row in rows}
    for row in rows:
        if row.baseline not in figures:
            continue
        ours, theirs = figures[row.key], figures[row.baseline]
        for key, metric in METRICS.items():
            both = [(values.get(key), theirs[name].get(key)) for name, values in ours.items() if name in theirs]
            pairs = [(a, b) for a, b in both if a is not None and b is not None]
            if not pairs:
                continue
            differences = [a - b for a, b in pairs]
            average = statistics.fmean(differences)
            spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
            yield {
                "variant": row.key,
                "baseline": row.baseline,
                "title": f"{row.title} - {titles[row.baseline]}",
                "metric": key,
                "subjects": len(pairs),
                "difference": average,
                "spread": spread,
                "better_for": sum(_better(metric.better, a, b) for a, b in pairs) / len(pairs),
                "verdict": _verdict(metric, pairs, average, spread),
            }


def _better(direction: str, a: float, b: float) -> bool:
    if direction == "one":
        return abs(a - 1) < abs(b - 1)
    return a > b if direction == "higher" else a < b


def _verdict(metric: Metric, pairs: list[tuple[float, float]], average: float, spread: float) -> str:
    if len(pairs) < 3:
        return TOO_FEW
    if abs(average) <= spread:
        return "no difference"
    if metric.key == "warp":  # best is not the lowest but the reference's own, which is not zero
        return "higher" if average > 0 else "lower"
    a, b = (statistics.fmean(side) for side in zip(*pairs, strict=True))
    return "better" if _better(metric.better, a, b) else "worse"
