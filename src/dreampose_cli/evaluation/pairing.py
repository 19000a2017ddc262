"""The pairs that are compared: two clips, or two folders of clips matched by name.

A clip is a video or an animation, a picture, a folder of pictures, or a folder with `frames/` or one video in it, as
`dreampose synth` writes them. A pose file next to a clip's frames (its name contains "poses") is found.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import EvaluationError, MediaError
from ..media.files import list_files, natural_order
from ..media.photos import SUFFIXES

VIDEOS = {
    ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".webp", ".wmv",
}  # fmt: skip
PICTURES = SUFFIXES - VIDEOS


@dataclass(frozen=True)
class ClipFiles:
    """A clip: what its frames are read from, and its poses if there are any."""

    frames: Path
    poses: Path | None = None


@dataclass(frozen=True)
class ClipPair:
    """Two clips that show the same."""

    name: str
    predicted: Path
    reference: Path
    poses: Path | None = None
    photo: Path | None = None


def find_pairs(
    predicted: Path, reference: Path, poses: Path | None = None, photo: Path | None = None
) -> tuple[list[ClipPair], list[str], list[str]]:
    """The pairs of clips in `predicted` and `reference`, and the names that only one of them has.

    Two clips are a pair whatever they are called; folders of clips are matched by the names of videos (without their
    suffix) and folders. `poses` are those of the reference: one pose source, or a folder with one for each name. `photo`
    shows who is meant: one picture, or a folder with one, or a folder of them, of which the first counts, for each name.
    Raises MediaError for what is not there, EvaluationError where nothing matches.
    """
    predicted, reference = Path(predicted), Path(reference)
    ours, theirs = _find(predicted), _find(reference)
    if isinstance(ours, ClipFiles) and isinstance(theirs, ClipFiles):
        name = predicted.stem or str(predicted)
        return [_pair(name, ours, theirs, poses, photo, alone=True)], [], []
    alone = isinstance(ours, ClipFiles) or isinstance(theirs, ClipFiles)
    ours = {_name_of(predicted): ours} if isinstance(ours, ClipFiles) else ours
    theirs = {_name_of(reference): theirs} if isinstance(theirs, ClipFiles) else theirs
    if alone and len(ours) == len(theirs) == 1:
        theirs = dict(zip(ours, theirs.values(), strict=True))
    names = sorted(ours.keys() & theirs.keys(), key=natural_order)
    if not names:
        raise EvaluationError(
            f"nothing in {predicted} ({_some(ours)}) has the name of anything in {reference} ({_some(theirs)}); clips "
            "are matched by the names of their files or folders."
        )
    pairs = [_pair(name, ours[name], theirs[name], poses, photo, alone=len(names) == 1) for name in names]
    return pairs, sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())


def clip_in(folder: Path) -> ClipFiles | None:
    """The clip that a folder is, None where it is none: its pictures, its `frames/`, or its only video."""
    names = _names(folder)
    poses = next((folder / name for name in names if "poses" in name.lower()), None)
    if (folder / "frames").is_dir() and list_files(folder / "frames", SUFFIXES):
        return ClipFiles(folder / "frames", poses)
    videos = [name for name in names if Path(name).suffix.lower() in VIDEOS and (folder / name).is_file()]
    pictures = [name for name in names if Path(name).suffix.lower() in PICTURES]
    if len(videos) == 1:
        return ClipFiles(folder / videos[0], poses)
    return ClipFiles(folder, poses) if pictures and not videos else None


def _find(path: Path) -> ClipFiles | dict[str, ClipFiles]:
    """A clip, or the clips of a folder by name."""
    if not path.exists():
        raise MediaError(f"{path} does not exist; check the path.")
    if not path.is_dir():
        return ClipFiles(path)
    names = _names(path)
    if "frames" in names or any(Path(name).suffix.lower() in PICTURES for name in names):
        whole = clip_in(path)
        if whole is not None:
            return whole
    clips: dict[str, ClipFiles] = {}
    for name in names:
        entry = path / name
        video = entry.suffix.lower() in VIDEOS and not entry.is_dir()
        found = ClipFiles(entry) if video else clip_in(entry) if entry.is_dir() else None
        if found is None:
            continue
        key = _name_of(entry)
        if key in clips:
            raise EvaluationError(f"{path} holds two clips called {key}; leave one of them out.")
        clips[key] = found
    if not clips:
        raise MediaError(f"{path} holds no pictures and no videos; give a video, a folder of frames or of videos.")
    return clips


def _name_of(path: Path) -> str:
    return path.stem if path.is_file() else path.name


def _names(folder: Path) -> list[str]:
    try:
        return sorted((name for name in os.listdir(folder) if not name.startswith(".")), key=natural_order)
    except OSError as error:
        raise MediaError(f"{folder} cannot be read: {error.strerror}; check its permissions.") from error


def _pair(
    name: str, ours: ClipFiles, theirs: ClipFiles, poses: Path | None, photo: Path | None, alone: bool
) -> ClipPair:
    found = _poses_of(name, poses, alone) if poses else theirs.poses
    return ClipPair(name, ours.frames, theirs.frames, found, _photo_of(name, Path(photo), alone) if photo else None)


def _photo_of(name: str, photo: Path, alone: bool) -> Path | None:
    """The photo for the clip `name` in `--photo`. Raises EvaluationError where a clip alone has none."""
    if not photo.exists():
        raise EvaluationError(f"--photo {photo} does not exist; check the path.")
    if not photo.is_dir():
        return photo
    for entry in (photo / name, photo) if alone else (photo / name,):
        if entry.is_dir() and (inside := list_files(entry, SUFFIXES)):
            named = [file for file in inside if file.stem == name]
            return (named or inside)[0]
    found = next((file for file in list_files(photo, SUFFIXES) if file.stem == name), None)
    if found is None and alone:
        raise EvaluationError(f"--photo {photo} is a folder without pictures; give a picture.")
    return found


def _poses_of(name: str, poses: Path, alone: bool) -> Path | None:
    """The pose source for the clip `name` in `--poses`. Raises EvaluationError where a clip alone has none."""
    poses = Path(poses)
    if not poses.exists():
        raise EvaluationError(f"--poses {poses} does not exist; check the path.")
    if poses.is_dir():
        for entry in (poses / f"{name}.poses", poses / name):
            if entry.is_dir() and (inside := clip_in(entry)) is not None and inside.poses is not None:
                return inside.poses
            if entry.exists():
                return entry
    if alone:
        return poses
    if not poses.is_dir():
        raise EvaluationError(
            f"--poses {poses} is one file, and there are several clips; give a folder with NAME.poses."
        )
    return None


def _some(clips: dict[str, ClipFiles]) -> str:
    names = sorted(clips, key=natural_order)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
