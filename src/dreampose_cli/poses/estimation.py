"""The poses that an estimator finds in a video or pictures.

They are cached by the source's content, the estimator's fingerprint and the settings, so nothing is ever estimated twice.
Frames that show nobody take the pose of the nearest frame that shows somebody: IUV maps cannot be averaged, since two parts
have no part between them.
"""

from __future__ import annotations

import functools
import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from .. import media
from ..cache import Cache
from ..cache import key as cache_key
from ..errors import MediaError, NoPersonError, PoseError
from ..prefetch import prefetch
from ..reporting import Note, Progress
from .damaged import DAMAGED
from .files import open_poses, writer_like
from .fingerprint import source_digest
from .part_labels import ControlPictureReader, recognise
from .sequence import PoseSequence, subsequence
from .tracking import Ranges, count_of, describe_ranges, ranges_of

EXTRACTION_VERSION = 2
READ_AHEAD = 3  # frames decoded while the estimator computes


def estimate_poses(
    cache: Cache,
    source: Path,
    *,
    estimator: str = "mini",
    estimator_size: int | None = None,
    person: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    around: float = 0.0,
    at_least: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    note: Note | None = None,
) -> tuple[PoseSequence, str, Ranges]:
    """The poses of the person in `source`, DensePose or keypoints by the estimator, its name, and the frames that show nobody.

    The options are those of `load_poses`. Raises MediaError, PoseError, NoPersonError.
    """
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
        settings = {"estimator": model.fingerprint, "size": estimator_size, "person": person}
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
    return sequence, model.name, gaps


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
        writer_like(path, frames, source.name, model.name, kind) as writer,
        closing(prefetch(lambda check: iter(frames), READ_AHEAD)) as pictures,
    ):
        waiting = 0  # frames that show nobody since the last pose; none is kept, so a gap may have any length

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
