"""The pictures that steer a clip of the reference-attention family, drawn once from any source of poses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from .. import media
from ..cache import Cache
from ..errors import NoPersonError, PoseError
from ..media.fitting import fit_pose
from ..networks.animate.pictures import fit
from ..poses.control_picture import draw_control_picture
from ..poses.extraction import is_doodle_reader, load_poses
from ..poses.files import DEFAULT_FPS, is_pose_source
from ..poses.part_labels import NAME as CONTROL_PICTURE
from ..poses.part_labels import open_label_pictures
from ..poses.photo import estimate_photo
from ..poses.sequence import PoseSequence, subsequence
from ..poses.skeleton_picture import draw_skeleton
from ..reporting import Caution, Note, Progress
from .clip_plan import Plan
from .options import RenderOptions


class ControlFrames:
    """The drawn control of a clip, uint8 (N, H, W, 3), in a file that is gone with this object; `estimator`: the DensePose
    that found it in a video, if one did."""

    def __init__(
        self, frames: Iterator[np.ndarray], size: tuple[int, int], fps: float, estimator: str | None = None
    ) -> None:
        self.size, self.fps, self.estimator = size, fps, estimator
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
    cache: Cache, source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note
) -> ControlFrames:
    """The control pictures of one pose source. Raises MediaError, PoseError, UsageError."""
    config, size = plan.config, plan.config.resolution
    if options.pose_pictures:
        with media.open_frames(source, fps=plan.fps, start=options.start, end=options.end) as pictures:
            drawn = (fit(picture, size, plan.fit, plan.settings.photo_resize) for picture in pictures)
            return ControlFrames(drawn, size, pictures.fps)
    if config.poses.kind == "keypoints":
        found, _ = _poses(cache, source, plan, options, progress, note)
        skeletons = (draw_skeleton(frame, found.size) for frame in found)
        drawn = (fit(picture, size, plan.fit, plan.settings.photo_resize) for picture in skeletons)
        return ControlFrames(drawn, size, found.fps)
    frames, fps, estimator = _label_frames(cache, source, plan, options, progress, note)
    labels = (fit_pose(frame, size, plan.fit) for frame in frames)
    return ControlFrames((draw_control_picture(frame) for frame in labels), size, fps, estimator)


def _label_frames(
    cache: Cache, source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note
) -> tuple[Iterable[np.ndarray], float, str | None]:
    """The pose frames (3, H, W) of a source of which I counts, and their rate: of poses, of label pictures, of pictures that
    show labels in colours, or else by the base's estimator."""
    if not is_pose_source(source):
        labels = open_label_pictures(source, plan.fps or DEFAULT_FPS)
        if labels is not None:
            part = subsequence(labels, plan.fps, options.start, options.end)
            return part, part.fps, None
    sequence, estimator = _poses(cache, source, plan, options, progress, note)
    if not sequence.has_parts:
        raise PoseError(
            f"{source} knows no body parts, which the base {plan.config.name} follows; take the poses from the video."
        )
    looked = estimator not in (None, CONTROL_PICTURE) and not is_doodle_reader(options.estimator or "")
    return sequence, sequence.fps, (options.estimator or plan.config.estimator) if looked else None


def _poses(
    cache: Cache, source: Path, plan: Plan, options: RenderOptions, progress: Progress | None, note: Note
) -> tuple[PoseSequence, str | None]:
    """The poses of a source in the kind that the base follows, and what made them."""
    sequence, estimator, _ = load_poses(
        cache,
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
    )
    return sequence, estimator


def look_for_somebody(cache: Cache, photo: Path, estimator: str, device: str, note: Note) -> None:
    """A warning where the estimator that found the dancer finds nobody in the photo: then nobody will dance."""
    try:
        estimate_photo(cache, media.read_photo(photo), photo, estimator, device)
    except NoPersonError as error:
        note(Caution(f"{error} The video will show nobody either; give a photo of a person, as a whole and large."))
