"""`eval`: a clip, or a folder of clips, against its reference."""

from __future__ import annotations

from ..evaluation.scoring import Evaluation
from ..evaluation.scoring import evaluate as score
from ..reporting import Note, Progress
from .options import EvalOptions


def evaluate(options: EvalOptions, *, progress: Progress | None = None, note: Note | None = None) -> Evaluation:
    """Every metric, None where one is missing, then with its reason; `Evaluation.warnings` are told to `note` too.

    Raises MediaError, PoseError, EvaluationError.
    """
    found = score(
        options.predicted,
        options.reference,
        size=options.size,
        align_by=options.align_by,
        poses=options.poses,
        photo=options.photo,
        prompt=options.prompt,
        metrics=options.metrics,
        device=options.device,
        keep_frames=options.keep_frames,
        keep_pictures=options.keep_pictures,
        progress=progress,
    )
    if note:
        for warning in found.warnings:
            note(warning)
    return found
