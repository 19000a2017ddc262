"""From anything that shows or holds poses to a pose sequence: pose files are read, pictures go through the estimator.

Estimated poses are cached by the source's content and the estimator's revision, so no video is ever estimated twice.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import media, store
from ..errors import MediaError, NoPersonError, UsageError
from .files import PoseWriter, is_pose_source, open_poses
from .sequence import PoseSequence, subsequence

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]
EXTRACTION_VERSION = 1


@dataclass(frozen=True)
class ExtractionResult:
    """What `extract` wrote: `gaps` counts the frames without a person, which took their neighbour's pose."""

    path: Path
    frames: int
    fps: float
    size: tuple[int, int]
    estimator: str | None
    gaps: int


def extract(
    source: Path,
    output: Path,
    *,
    estimator: str = "mini",
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    device: str = "auto",
    overwrite: bool = False,
    preview: Path | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> ExtractionResult:
    """Write the poses of `source` (video, picture, folder of frames, or pose file) into the pose file `output`.

    fps resamples, start and end are seconds. Memory does not grow with the clip. Raises MediaError, PoseError,
    NoPersonError, OutputError.
    """
    if output.suffix.lower() != ".poses":
        raise UsageError(f"{output} does not end in .poses; name the pose file so, for example {output.stem}.poses.")
    for path in (output, *([preview] if preview else [])):
        media.check_output(path, overwrite)
    whole, used, gaps = poses_of(source, estimator=estimator, device=device, progress=progress, note=note)
    sequence = subsequence(whole, fps, start, end)
    with PoseWriter(
        output, sequence.size, sequence.fps, has_parts=sequence.has_parts, source=Path(source).name, estimator=used
    ) as writer:
        for frame in sequence:
            writer.append(frame)
    if preview is not None:
        write_preview(sequence, preview, overwrite)
    return ExtractionResult(output, len(sequence), sequence.fps, sequence.size, used, gaps)


def write_preview(sequence: PoseSequence, path: Path, overwrite: bool = False) -> None:
    """The poses as a coloured video or picture."""
    from .preview import colour

    media.write_frames(path, (colour(frame) for frame in sequence), fps=sequence.fps, overwrite=overwrite)


def poses_of(
    source: Path,
    *,
    estimator: str = "mini",
    device: str = "auto",
    progress: Progress | None = None,
    note: Note | None = None,
) -> tuple[PoseSequence, str | None, int]:
    """The poses of `source`, the estimator that made them (None for pose files), and the number of gaps."""
    source = Path(source)
    if is_pose_source(source):
        return open_poses(source), None, 0
    from ..device import pick_device
    from .estimator import load_estimator

    frames = media.open_frames(source)
    with frames:
        model = load_estimator(estimator, pick_device(device))
        key = store.key("poses", {"version": EXTRACTION_VERSION, "estimator": model.revision}, _digest(source))
        path = store.path_of("poses", key)
        if not path.exists():
            with store.lock(f"poses-{key}", waiting=note, what=f"the poses of {source}"):
                if not path.exists():
                    with store.publish_file("poses", key) as partial:
                        _estimate(model, frames, source, partial, progress)
    store.touch("poses", key)
    gaps = _gaps(path)
    if gaps and note:
        note(f"{gaps} frames of {source} show nobody; they take the pose of the nearest frame before (or after) them.")
    return open_poses(path), estimator, gaps


def _estimate(model, frames: media.FrameSource, source: Path, path: Path, progress: Progress | None) -> None:
    from .estimator import has_person

    done = gaps = leading = 0
    last: np.ndarray | None = None
    with PoseWriter(path, frames.size, frames.fps, source=source.name, estimator=model.name) as writer:
        for pose in model.stream(frames):
            done += 1
            if progress:
                progress(done, frames.length, "poses")
            if has_person(pose):
                for _ in range(leading):
                    writer.append(pose)
                leading, last = 0, pose
            else:
                gaps += 1
                if last is None:
                    leading += 1
                    continue
            writer.append(last)
        if done == 0:
            raise MediaError(f"{source} has no frames.")
        if last is None:
            raise NoPersonError(nobody(source, model.name))
    with zipfile.ZipFile(path, "a") as archive:  # beside the poses, where a reader of the format does not look
        archive.writestr("gaps.txt", str(gaps))


def nobody(source: Path | str, estimator: str) -> str:
    """The sentence for a source in which the estimator finds nobody."""
    knows = " It knows mannequins only;" if estimator == "mini" else ""
    return (
        f"the estimator {estimator} finds nobody in {source}.{knows} use a picture with one whole figure, "
        "or give the poses as a file."
    )


def _gaps(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return int(archive.read("gaps.txt")) if "gaps.txt" in archive.namelist() else 0


def _digest(source: Path) -> str:
    if source.is_file():
        return store.file_digest(source)
    total = hashlib.sha256()
    for path in _files(source):
        total.update(f"{path.name}\0{store.file_digest(path)}\n".encode())
    return total.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(p for p in folder.iterdir() if p.is_file()))
