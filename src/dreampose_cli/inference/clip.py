"""A clip: the frames of a loaded subject in the poses of a sequence, one by one, with memory that stays flat."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch

from ..device import offload
from ..media.fitting import fit_pose
from ..networks.network import Network
from ..poses.sequence import PoseSequence, numbered_window, window_indices
from ..poses.visualize import colorize_iuv
from ..reporting import Note, Progress
from ..subjects.loading import LoadedSubject
from .batch_plan import BatchPlan, default_frames, plan
from .denoise import Prepared, RenderSettings, render_frames


def make_room(model: Network, settings: RenderSettings, memory: str, batch_size: int | None) -> BatchPlan:
    """The plan of what to compute at once now that the photo is encoded; encoders are offloaded first where memory is short."""
    rows = len(settings.branches(model))
    batch_plan = plan(model, rows, memory, batch_size)
    if memory == "low" or batch_plan.frames < (batch_size or default_frames(model.device)):
        offload(*(model.module(name) for name in model.encoders))
        batch_plan = plan(model, rows, memory, batch_size)
    return batch_plan


def render_sequence(
    subject: LoadedSubject,
    prepared: Prepared,
    sequence: PoseSequence,
    settings: RenderSettings,
    batch_plan: BatchPlan,
    side_by_side: bool = False,
    note: Note | None = None,
    on_step: Callable[[int], None] | None = None,
    first: int = 0,
) -> Iterator[np.ndarray]:
    """The frames for a pose sequence from number `first` on, uint8 (h, w, 3): at the base's resolution, without the padding
    of the photo."""
    rows, columns = subject.fit.box
    windows = itertools.islice(pose_windows(subject.model, sequence), first, None)
    made = render_frames(subject.model, prepared, windows, settings, batch_plan, on_step, note, first)
    config = subject.model.config
    for i, frame in enumerate(made, start=first):
        frame = frame[rows, columns]
        if side_by_side:
            pose = fit_pose(sequence.frame(i), config.resolution, config.fit)[:, rows, columns]
            frame = np.concatenate([subject.picture[rows, columns], colorize_iuv(pose), frame], axis=1)
        yield frame


def pose_windows(model: Network, sequence: PoseSequence) -> Iterator[torch.Tensor]:
    """The pose window (n, 3, H, W) of every frame, neighbours at the base's training frame rate; memory stays flat.

    A base that knows no rate, such as an imported official one, takes the neighbours among the frames that are rendered.
    """
    config, settings = model.config, model.config.poses
    whole, shown = sequence.origin() if settings.training_fps else (sequence, range(len(sequence)))
    stride = whole.fps / settings.training_fps if settings.training_fps else 1.0
    numbers = whole.numbers if settings.window_rule == "current" and not settings.training_fps else None
    kept: dict[int, torch.Tensor] = {}
    for i in shown:
        if numbers:
            rows = numbered_window(i, numbers, settings.count)
        else:
            rows = window_indices(i, len(whole), n_poses=settings.count, stride=stride, rule=settings.window_rule)
        kept = {row: frame for row, frame in kept.items() if row >= min(rows)}
        for row in rows:
            if row not in kept:
                frame = fit_pose(whole.frame(row), config.resolution, config.fit, settings.resize)
                kept[row] = torch.from_numpy(np.ascontiguousarray(frame))
        yield torch.stack([kept[row] for row in rows])


def counted(frames: Iterator[np.ndarray], total: int, label: str, progress: Progress | None) -> Iterator[np.ndarray]:
    """The same frames, each reported as it passes."""
    for done, frame in enumerate(frames, start=1):
        if progress:
            progress(done, total, label)
        yield frame
