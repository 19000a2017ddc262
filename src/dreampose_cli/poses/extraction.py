"""From anything that shows or holds poses to a pose sequence: pose files are read, pictures go through the estimator.

Estimated poses are cached by the source's content, the estimator's revision and the settings, so nothing is ever
estimated twice. Frames that show nobody take the pose of the nearest frame that shows somebody: IUV maps cannot be
averaged, since two parts have no part between them.
"""

from __future__ import annotations

import functools
import json
import queue
import threading
import zipfile
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import media
from ..cache import Cache
from ..cache import key as cache_key
from ..errors import MediaError, NoPersonError, PoseError, UsageError
from ..names import POSE_FORMATS, check_choice
from ..reporting import Note, Progress
from .damaged import DAMAGED
from .files import (
    PoseWriter,
    copy_poses,
    is_dreampose_name,
    is_pose_source,
    open_poses,
    write_dreampose_folder,
    write_iuv_folder,
)
from .fingerprint import source_digest
from .keypoint_files import KeypointWriter, write_openpose_folder
from .part_labels import ControlPictureReader, recognise
from .posed_mannequin import in_kind
from .sequence import PoseSequence, subsequence
from .tracking import Ranges, count_of, describe_ranges, ranges_of

EXTRACTION_VERSION = 2
READ_AHEAD = 3  # frames decoded while the estimator computes


@dataclass(frozen=True)
class ExtractionResult:
    """What `extract` wrote. `gaps` counts the frames without a person, which took the nearest frame's pose, and
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
        with _writer(output, sequence, Path(source).name, used) as writer:
            for frame in sequence:
                writer.append(frame)
    if preview is not None:
        write_preview(sequence, preview, overwrite)
    return ExtractionResult(output, len(sequence), sequence.fps, sequence.size, used, count_of(gaps), gaps)


def _writer(path: Path, like: PoseSequence | media.FrameSource, source: str, estimator: str | None, kind: str = ""):
    """What writes frames of one kind into a `.poses` file of this size and rate."""
    if (kind or getattr(like, "kind", "densepose")) == "keypoints":
        return KeypointWriter(path, like.size, like.fps, source=source, estimator=estimator)
    parts = getattr(like, "has_parts", True)
    return PoseWriter(path, like.size, like.fps, has_parts=parts, source=source, estimator=estimator)


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
    from ..device import pick_device
    from .estimator import load_estimator

    number = "float32" if dtype == "auto" else dtype  # finding poses is quick, and labels are worth being exact

    knows_rate = not source.is_dir()  # of a folder of pictures, fps is the rate itself and nothing is resampled
    rate = max(fps, at_least or 0) if fps and knows_rate else fps
    first = max(0.0, (start or 0) - around)
    last = None if end is None else end + around
    frames = media.open_frames(source, fps=rate, start=first or None, end=last)
    with frames:
        if _shows_labels(source, rate, first):
            model: Any = ControlPictureReader(str(source))
            if note:
                note(
                    f"{source} is a control picture (viridis on part labels): its labels are read, U and V are unknown."
                )
        else:
            model = load_estimator(
                cache,
                estimator,
                pick_device(device),
                size=estimator_size,
                person=person,
                dtype=number,
                note=note,
                progress=progress,
            )
        settings = {"estimator": model.revision, "size": estimator_size, "person": person}
        if number != "float32":
            settings["dtype"] = number
        settings = {"version": EXTRACTION_VERSION, **settings}
        whole, part = ({"fps": f, "start": s, "end": e} for f, s, e in ((None, 0.0, None), (rate, first, last)))
        digest = source_digest(source)
        key = cache_key("poses", {**settings, **whole}, digest)
        path = cache.path_of("poses", key)
        if knows_rate and part != whole and _is_whole(path) and not _gaps(path):
            part, rate, first, last = whole, None, 0.0, None  # all frames are here, and the part is among them
        key = cache_key("poses", {**settings, **part}, digest)
        path = cache.path_of("poses", key)
        if not _is_whole(path):
            with cache.lock(f"poses-{key}", waiting=note, what=f"the poses of {source}"):
                if not _is_whole(path):
                    path.unlink(missing_ok=True)  # damaged, by a power cut perhaps
                    if note and model.pace:
                        note(model.pace)
                    with cache.publish_file("poses", key) as partial:
                        _estimate(model, frames, source, partial, progress)
                    if note and person is None and (most := getattr(model, "people", 0)) > 1:
                        note(
                            f"{source} shows up to {most} people at once; the largest is followed (`dreampose poses "
                            "--person 2` takes the next one)."
                        )
    cache.touch("poses", key)
    gaps = _gaps(path)
    if gaps and note:
        note(gaps_in_words(gaps, source))
    sequence = open_poses(path)
    if (rate, first, last) != (fps, start or 0, end):
        sequence = subsequence(sequence, fps, (start or 0) - first, None if end is None else end - first)
    return in_kind(sequence, kind, str(source)), model.name, gaps


def is_doodle_reader(estimator: str) -> bool:
    """Whether an estimator reads drawings: the one that ships, or a folder made by `train --preset doodle`."""
    return estimator == "doodle" or (Path(estimator) / "doodle.json").is_file()


def _shows_labels(source: Path, rate: float | None, first: float) -> bool:
    """Whether the first frame is a control picture. Raises PoseError for labels in another palette."""
    with media.open_frames(source, fps=rate, start=first or None) as frames:
        picture = next(iter(frames), None)
    return picture is not None and recognise(picture, str(source))


def gaps_in_words(gaps: Ranges, source: Path | str) -> str:
    """The sentence about the frames (counted from 0) that show nobody."""
    count = count_of(gaps)
    who = (
        f"frame {describe_ranges(gaps)} of {source} shows"
        if count == 1
        else (f"{count} frames of {source} ({describe_ranges(gaps)}) show")
    )
    return f"{who} nobody; the pose of the nearest frame with somebody stands in."


def read_ahead(frames: Iterable[np.ndarray], depth: int = READ_AHEAD) -> Generator[np.ndarray, None, None]:
    """The same frames, decoded in a thread while the taker computes; at most `depth` wait. Close it when done early."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def offer(item: tuple) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for frame in frames:
                offer((frame, None))
                if stop.is_set():
                    return
            offer((None, None))
        except BaseException as problem:  # it belongs to the taker
            offer((None, problem))

    reader = threading.Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while True:
            frame, problem = ready.get()
            if problem is not None:
                raise problem
            if frame is None:
                return
            yield frame
    finally:
        stop.set()
        reader.join()


def _estimate(model, frames: media.FrameSource, source: Path, path: Path, progress: Progress | None) -> None:
    kind = getattr(model, "kind", "densepose")
    if kind == "keypoints":
        from .keypoints import shows_somebody as is_somebody
    else:
        from .estimator import has_person

        is_somebody = functools.partial(has_person, least=model.least_person)
    done = 0
    gaps: list[int] = []
    last: np.ndarray | None = None
    with (
        _writer(path, frames, source.name, model.name, kind) as writer,
        closing(read_ahead(frames)) as pictures,
    ):
        waiting = (
            0  # frames that show nobody since the last pose: they hold nothing, so a gap of any length is a number
        )

        def fill(pose: np.ndarray, count: int) -> None:
            for _ in range(count):
                writer.append(pose)

        for pose in model.stream(pictures):
            if progress:
                progress(done + 1, frames.length, "poses")
            if is_somebody(pose):
                if last is not None:
                    fill(last, (waiting + 1) // 2)  # of two equally near the earlier one
                fill(pose, waiting // 2 if last is not None else waiting)
                fill(pose, 1)
                waiting, last = 0, pose
            else:
                gaps.append(done)
                waiting += 1
            done += 1
        if done == 0:
            raise MediaError(f"{source} has no frames.")
        if last is None:
            raise NoPersonError(nobody(source, model.name, model.person))
        fill(last, waiting)
    with zipfile.ZipFile(path, "a") as archive:  # next to the poses, where a reader of the format does not look
        moment = zipfile.ZipInfo("gaps.json")  # of 1980, so that the same poses are the same bytes
        archive.writestr(moment, json.dumps(ranges_of(gaps)))


def nobody(source: Path | str, estimator: str, person: int | None = None) -> str:
    """The sentence for a source in which the estimator finds nobody, or too few people for number `person`."""
    if (person or 1) > 1:
        return f"the estimator {estimator} finds no {person} people in {source}; choose a lower --person."
    knows = " It knows mannequins only, --estimator r50 knows people;" if estimator == "mini" else ""
    return (
        f"the estimator {estimator} finds nobody in {source}.{knows} use a picture with one whole figure, "
        "or give the poses as a file."
    )


def _is_whole(path: Path) -> bool:
    """Whether poses in the cache are there and can be opened."""
    try:
        _gaps(path)
        open_poses(path)
    except (OSError, PoseError, *DAMAGED):
        return False
    return True


def _gaps(path: Path) -> Ranges:
    with zipfile.ZipFile(path) as archive:
        return [(first, last) for first, last in json.loads(archive.read("gaps.json"))]
