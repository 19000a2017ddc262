"""`evaluate`: from two clips, or two folders of clips, to every metric, in one pass and in constant memory.

Pixel metrics are computed frame by frame in threads (`frame_metrics`), feature metrics keep running sums (`frechet`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..device import pick_device
from ..reporting import Progress
from ..version import __version__
from . import metrics as pixels
from .clip_scorer import EXTREMES, NOT_ASKED, ClipScorer, ClipScores, FeatureSums
from .frame_metrics import pool
from .metric_registry import METRICS, NO_AED, SIZE, WINDOW
from .pairing import find_pairs


@dataclass
class Evaluation:
    """All metrics (None where missing, then with a reason), the protocol, and the clips they come from.

    `spread`: standard deviation, smallest and largest value over clips, where there are several. `reference_value`: what the
    reference itself scores, where that is not zero (warp).
    """

    metrics: dict[str, float | None]
    reasons: dict[str, str]
    protocol: dict[str, Any]
    spread: dict[str, dict[str, float]]
    reference_value: dict[str, float | None]
    warnings: list[str]
    clips: list[ClipScores]

    def document(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "metrics": self.metrics,
            "reasons": self.reasons,
            "protocol": self.protocol,
            "spread": self.spread,
            "reference_value": self.reference_value,
            "warnings": self.warnings,
            "clips": [{"name": clip.name, "frames": clip.frames, "metrics": clip.metrics} for clip in self.clips],
        }


def evaluate(
    predicted: Path,
    reference: Path,
    *,
    size: int | None = SIZE,
    align_by: str = "index",
    poses: Path | None = None,
    photo: Path | None = None,
    prompt: str | None = None,
    metrics: tuple[str, ...] | None = None,
    device: str = "auto",
    keep_frames: bool = False,
    keep_pictures: bool = False,
    only: list[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score `predicted` against `reference`: videos, folders of frames, or folders of clips matched by name.

    size: pixels of the shorter side, None for the reference's own (see `AlignedFrames` for all rules). metrics: keys of
    `METRICS`; those of networks may then download their weights; None: those that need none. poses: the reference's,
    for `warp`; photo: what `clip_photo` compares with, as in `find_pairs`; prompt: what `clip_text` does. only: the names of
    the clips to score. Means are over a clip's frames, then over clips; `fid` and `fvd` are over all frames of all clips.
    Raises MediaError, PoseError, EvaluationError.
    """
    pairs, ours, theirs = find_pairs(predicted, reference, poses, photo)
    if only is not None:
        pairs, ours, theirs = [pair for pair in pairs if pair.name in only], [], []
    wanted = set(METRICS) if metrics is None else set(metrics)
    warnings = [
        f"without a match: {len(names)} of {where} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for where, names in ((predicted, ours), (reference, theirs))
        if names
    ]
    features = FeatureSums(
        wanted,
        pick_device(device),
        fetch=metrics is not None,
        progress=progress,
        photos=any(pair.photo is not None for pair in pairs),
        prompt=prompt,
    )
    with pool() as workers:
        clips = []
        for number, pair in enumerate(pairs):
            where = f"{pair.name} ({number + 1} of {len(pairs)})" if len(pairs) > 1 else "frames"
            told = None if progress is None else lambda done, total, where=where: progress(done, total, where)
            scorer = ClipScorer(pair, wanted, features, keep_frames, keep_pictures, named=poses is not None)
            clips.append(scorer.run(workers, size, align_by, told))
            if keep_pictures:
                _forget(clips)
    warnings += [f"{clip.name}: {text}" if len(clips) > 1 else text for clip in clips for text in clip.warnings]
    return _summarise(clips, features, wanted, size, align_by, warnings, prompt)


def _forget(clips: list[ClipScores]) -> None:
    """Keep the pictures of the worst and the best frames of all clips only: memory must not grow with their number."""
    for name, sign in (("worst", 1), ("best", -1)):
        found = sorted(sign * extreme.score for clip in clips for extreme in getattr(clip, name))[:EXTREMES]
        for clip in clips:
            kept = [extreme for extreme in getattr(clip, name) if sign * extreme.score <= found[-1]]
            setattr(clip, name, kept[:EXTREMES])


def _summarise(clips, features, wanted, size, align_by, warnings, prompt) -> Evaluation:
    values, reasons, spread = {}, {}, {}
    for clip in clips:
        clip.metrics |= dict.fromkeys(features.failed)
        clip.reasons |= features.failed
        clip.per_frame = {key: column for key, column in clip.per_frame.items() if key not in features.failed}
    for key in METRICS:
        found = [clip.metrics[key] for clip in clips if clip.metrics.get(key) is not None]
        values[key] = pixels.mean(found)
        if len(found) > 1:
            spread[key] = {"std": float(np.std(found, ddof=1)), "min": min(found), "max": max(found)}
        if not found:
            reasons[key] = next((clip.reasons[key] for clip in clips if key in clip.reasons), NOT_ASKED)
    values |= features.distances(reasons)
    for key in ("fid", "fvd"):
        if values[key] is not None:
            reasons.pop(key, None)
    if "aed" in wanted:
        reasons["aed"] = NO_AED
    reference_value = {"warp": pixels.mean([clip.reference_value["warp"] for clip in clips])}
    protocol = _protocol(clips, features, size, align_by) | {"prompt": prompt}
    return Evaluation(values, reasons, protocol, spread, reference_value, warnings, clips)


def _protocol(clips: list[ClipScores], features: FeatureSums, size: int | None, align_by: str) -> dict[str, Any]:
    """The protocol of the figures, for people (`statement`) and for programs."""
    sizes = sorted({(clip.size[1], clip.size[0]) for clip in clips})
    count = sum(clip.frames for clip in clips)
    shown = " and ".join(f"{w}x{h}" for w, h in sizes) if len(sizes) < 4 else f"{len(sizes)} sizes"
    rule = "as it is" if size is None else f"shorter side {size}, never enlarged"
    statement = (
        f"{count} frame{'s' * (count != 1)} of {len(clips)} clip{'s' * (len(clips) != 1)}, aligned by {align_by}, at "
        f"{shown} ({rule}; bicubic as Pillow), RGB in [0, 1], transparency on white; means over a clip's frames"
        f"{', then over clips' if len(clips) > 1 else ''}; dreampose-cli {__version__}"
    )
    return {
        "statement": statement,
        "frames": count,
        "clips": len(clips),
        "size": "native" if size is None else size,
        "sizes": [{"width": w, "height": h} for w, h in sizes],
        "resampling": "bicubic as Pillow",
        "range": [0, 1],
        "align_by": align_by,
        "fps": sorted({round(clip.fps, 6) for clip in clips}),
        "mean": "frames of a clip, then clips",
        "ssim": "gaussian_weights, sigma 1.5, use_sample_covariance False, mean over channels, window inside",
        "fid_frames": features.count("fid"),
        "fvd_windows": features.count("fvd"),
        "fvd_window": WINDOW,
        "networks": features.describe(),
        "software": f"dreampose-cli {__version__}",
    }


def rows_per_frame(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """One row for each frame of each clip, for CSV and JSON; needs `keep_frames`."""
    for clip in evaluation.clips:
        for index in range(clip.frames):
            values = {key: column[index] for key, column in clip.per_frame.items()}
            yield {"name": clip.name, "frame": index} | {k: None if math.isnan(v) else v for k, v in values.items()}
