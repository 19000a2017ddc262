"""From anything that shows or holds poses to a pose sequence: pose files are read, drawings by the doodle reader, and other
pictures go through an estimator (`estimation.py`)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from .. import media
from ..cache import Cache
from ..errors import UsageError
from ..names import POSE_FORMATS, check_choice
from ..reporting import Note, Progress
from .estimation import estimate_poses
from .files import copy_poses, is_pose_source, open_poses, writer_like
from .frame_folders import is_dreampose_name, write_dreampose_folder, write_iuv_folder
from .keypoint_files import write_openpose_folder
from .posed_mannequin import in_kind
from .sequence import PoseSequence, subsequence
from .tracking import Ranges, count_of


@dataclass(frozen=True)
class ExtractionResult:
    """The result of `extract`. `gaps` counts the frames without a person, which took the nearest frame's pose, and
    `gap_ranges` names them: first and last, from 0, in the part of the source that was asked for."""

    path: Path
    frames: int
    fps: float
    size: tuple[int, int]
    estimator: str | None
    gaps: int
    gap_ranges: Ranges = field(default_factory=list)


def extract(
    cache: Cache,
    source: Path,
    output: Path,
    *,
    estimator: str = "mini",
    estimator_size: int | None = None,
    person: int | None = None,
    size: tuple[int, int] | None = None,
    format: str = "poses",
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    preview: Path | None = None,
    facing: str = "front",
    interpolate: int = 0,
    progress: Progress | None = None,
    note: Note | None = None,
) -> ExtractionResult:
    """Write the poses of `source` (video, picture, folder of frames, or pose file) into the pose file `output`.

    format: "poses" for a `.poses` file of DensePose or of keypoints, as they were found; "iuv" for a folder of IUV pictures,
    "dreampose" for one of the official code's files, both of a mannequin in the pose where keypoints were found; "openpose"
    for a folder of OpenPose's JSON. The rest as `load_poses`. Memory does not grow with the clip. Raises MediaError, PoseError,
    NoPersonError, UsageError, OutputError.
    """
    check_choice("format", format, POSE_FORMATS)
    output = Path(output)
    _check_place(output, format, overwrite)
    media.require_apart(output, [source])
    shown = None if preview is None else media.output_kind(preview)
    if preview is not None:
        media.check_output(preview, overwrite)
        media.require_apart(preview, [source, output])
    sequence, used, gaps = load_poses(
        cache,
        source,
        estimator=estimator,
        estimator_size=estimator_size,
        person=person,
        size=size,
        fps=fps,
        start=start,
        end=end,
        device=device,
        dtype=dtype,
        kind={"poses": None, "openpose": "keypoints"}.get(format, "densepose"),
        facing=facing,
        interpolate=interpolate,
        progress=progress,
        note=note,
    )
    if shown == "png" and len(sequence) > 1:
        raise UsageError(f"{preview}: a .png holds one pose and there are more; use .mp4, .gif, .webp or a folder.")
    if format == "iuv":
        write_iuv_folder(output, sequence, overwrite=overwrite)
    elif format == "dreampose":
        write_dreampose_folder(output, sequence, overwrite=overwrite)
    elif format == "openpose":
        write_openpose_folder(output, sequence, overwrite=overwrite)
    elif not copy_poses(sequence, output, source=Path(source).name, estimator=used):
        with writer_like(output, sequence, Path(source).name, used) as writer:
            for frame in sequence:
                writer.append(frame)
    if preview is not None:
        write_preview(sequence, preview, overwrite)
    return ExtractionResult(output, len(sequence), sequence.fps, sequence.size, used, count_of(gaps), gaps)


def _check_place(output: Path, format: str, overwrite: bool) -> None:
    """Refuse a place where a result of this format cannot go, before any long work."""
    is_file = output.suffix.lower() == ".poses"
    if format == "poses":
        if not is_file:
            raise UsageError(
                f"{output} does not end in .poses; name the pose file so, for example {output.stem}.poses, or choose a "
                "folder's format with --format iuv or --format dreampose."
            )
        media.check_output(output, overwrite)
    elif is_file:
        raise UsageError(f"the format {format} is a folder, and {output} is named as a file; leave .poses out.")
    else:
        owned = {"owned": is_dreampose_name} if format == "dreampose" else {}
        media.check_output(f"{output}/", overwrite, **owned)


def write_preview(sequence: PoseSequence, path: Path, overwrite: bool = False) -> None:
    """The poses as a coloured video or picture; of keypoints the skeleton on black, as networks see it."""
    from .skeleton_picture import draw_skeleton
    from .visualize import colorize_iuv

    draw = functools.partial(draw_skeleton, size=sequence.size) if sequence.kind == "keypoints" else colorize_iuv
    media.write_frames(path, (draw(frame) for frame in sequence), fps=sequence.fps, overwrite=overwrite)


def load_poses(
    cache: Cache,
    source: Path,
    *,
    estimator: str = "mini",
    estimator_size: int | None = None,
    person: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    around: float = 0.0,
    at_least: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kind: str | None = "densepose",
    facing: str = "front",
    interpolate: int = 0,
    progress: Progress | None = None,
    note: Note | None = None,
) -> tuple[PoseSequence, str | None, Ranges]:
    """The poses of `source`, the estimator that made them (None for pose files), and the frames that show nobody.

    fps resamples, or says how many frames of a source without a rate (pictures, npy and IUV folders, dumps) make a
    second; start and end are seconds. Only these frames are estimated. estimator_size and person are for the
    estimator (`load_estimator`), as is dtype, "auto" being float32; person and size, (height, width), for dumps
    (`open_poses`). kind: "densepose" or "keypoints", what is needed, or None for what there is; keypoints become DensePose
    by a mannequin that takes their pose. facing and interpolate are for doodles (`read_doodles`). For pose windows, which
    look beyond a part, the sequence's `origin` reaches `around` seconds further and has at least the rate `at_least`.
    """
    source = Path(source)
    if estimator != "doodle" and (facing != "front" or interpolate):
        raise UsageError("--facing and --interpolate are for drawings; add --estimator doodle or leave them out.")
    if is_doodle_reader(estimator) and not is_pose_source(source):
        from .doodle import read_doodles

        if size is not None or person is not None or estimator_size is not None:
            raise UsageError("--size, --person and --estimator-size say nothing about drawings; leave them out.")
        reader = None if estimator == "doodle" else Path(estimator)
        found = read_doodles(source, reader=reader, facing=facing, between=interpolate, fps=fps, note=note)
        sequence = in_kind(subsequence(found, None, start, end), kind, str(source))
        return sequence, found.estimator, []
    if is_pose_source(source):
        sequence = open_poses(source, fps=fps, size=size, person=person)
        if note:
            for remark in sequence.remarks:
                note(remark)
        return in_kind(subsequence(sequence, fps, start, end), kind, str(source)), None, sequence.gaps
    if size is not None:
        raise UsageError(f"{source} knows its own size; --size is for dumps of detectron2.")
    sequence, name, gaps = estimate_poses(
        cache,
        source,
        estimator=estimator,
        estimator_size=estimator_size,
        person=person,
        fps=fps,
        start=start,
        end=end,
        around=around,
        at_least=at_least,
        device=device,
        dtype=dtype,
        progress=progress,
        note=note,
    )
    return in_kind(sequence, kind, str(source)), name, gaps


def is_doodle_reader(estimator: str) -> bool:
    """Whether an estimator reads drawings: the one that ships, or a folder made by `train --preset doodle`."""
    return estimator == "doodle" or (Path(estimator) / "doodle.json").is_file()
