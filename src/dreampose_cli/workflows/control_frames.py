"""The pictures that steer a clip of the reference-attention family, drawn once from any source of poses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from .. import media
from ..errors import PoseError
from ..media.fitting import fit_pose
from ..networks.animate.pictures import fit
from ..poses.control_picture import draw_control_picture
from ..poses.extraction import load_poses
from ..poses.files import DEFAULT_FPS, is_pose_source
from ..poses.part_labels import open_label_pictures
from ..poses.sequence import PoseSequence, subsequence
from ..poses.skeleton_picture import draw_skeleton
from ..reporting import Note, Progress
from .clip_plan import Plan
from .options import RenderOptions


class ControlFrames:
    """The drawn control of a clip, uint8 (N, H, W, 3), in a file that is gone with this object."""

    def __init__(self, frames: Iterator[np.ndarray], size: tuple[int, int], fps: float) -> None:
        self.size, self.fps = size, fps
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the object
        self._length = 0
        for frame in frames:
            self._file.write(np.ascontiguousarray(frame).tobytes())
            self._length += 1
        self._file.flush()
        self._frames = np.memmap(self._file, np.uint8, "r", shape=(self._length, *size, 3))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> np.ndarray:
        """Frame `i`, or the last one beyond the end: clips are padded by it."""
        return np.array(self._frames[min(i, self._length - 1)])

    def pictures(self, frames: list[int]) -> torch.Tensor:
        """(len(frames), 3, H, W) in [0, 1]."""
        chosen = torch.from_numpy(np.stack([self[i] for i in frames]))
        return chosen.permute(0, 3, 1, 2).float() / 255.0


def control_frames(
    source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note
) -> ControlFrames:
    """The control pictures of one pose source. Raises MediaError, PoseError, UsageError."""
    config, size = plan.config, plan.config.resolution
    if options.pose_pictures:
        with media.open_frames(source, fps=plan.fps, start=options.start, end=options.end) as pictures:
            drawn = (fit(picture, size, plan.fit, plan.settings.photo_resize) for picture in pictures)
            return ControlFrames(drawn, size, pictures.fps)
    if config.poses.kind == "keypoints":
        found = _poses(source, plan, options, progress, note)
        skeletons = (draw_skeleton(frame, found.size) for frame in found)
        drawn = (fit(picture, size, plan.fit, plan.settings.photo_resize) for picture in skeletons)
        return ControlFrames(drawn, size, found.fps)
    frames, fps = _label_frames(source, plan, options, progress, note)
    labels = (fit_pose(frame, size, plan.fit) for frame in frames)
    return ControlFrames((draw_control_picture(frame) for frame in labels), size, fps)


def _label_frames(
    source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note
) -> tuple[Iterable[np.ndarray], float]:
    """The pose frames (3, H, W) of a source of which I counts, and their rate: of poses, of label pictures, of pictures that
    show labels in colours, or else by the base's estimator."""
    if not is_pose_source(source):
        labels = open_label_pictures(source, plan.fps or DEFAULT_FPS)
        if labels is not None:
            part = subsequence(labels, plan.fps, options.start, options.end)
            return part, part.fps
    sequence = _poses(source, plan, options, progress, note)
    if not sequence.has_parts:
        raise PoseError(
            f"{source} knows no body parts, which the base {plan.config.name} follows; take the poses from the video."
        )
    return sequence, sequence.fps


def _poses(source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note) -> PoseSequence:
    """The poses of a source in the kind that the base follows."""
    return load_poses(
        source,
        estimator=options.estimator or plan.config.estimator,
        kind=plan.config.poses.kind,
        facing=options.facing,
        interpolate=options.interpolate,
        fps=plan.fps,
        start=options.start,
        end=options.end,
        device=options.device,
        progress=progress,
        note=note,
    )[0]
