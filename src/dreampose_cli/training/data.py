"""Where the training clips are in a folder: which files make a clip, where its poses are, and which are for testing.

A clip is a video, a folder with one, or pictures: frames in their order, or photos of one person without an order. Known
layouts, which may be mixed:

    clips/a.mp4, b.mp4, ...                     videos, their poses beside them (a.poses) or estimated
    clips/{train,test}/...                      two folders of clips, as UBC Fashion and `synth` have them
    clips/*.mp4 with train.txt, test.txt        videos in one folder and lists of names, file names or addresses
    clips/a/{video.mp4, video.poses, frames/}   as `synth` writes them; lossless frames are preferred
    clips/a/frame_0.png, frame_0_densepose.npy  as the official DreamPose wants them
    photos/.../id_01/01_1_front.jpg, ...        DeepFashion: a folder for each person, a number for each outfit
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import TrainingError
from ..media.files import natural_order
from ..media.photos import SUFFIXES as PICTURE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v")
PICTURES = PICTURE_SUFFIXES - {".gif"}
DEEPEST = 8  # levels of folders that are looked through
SPLITS = ("train", "test")

_FRAME = re.compile(r"(frame)?[-_ ]?\d+", re.IGNORECASE)
_OUTFIT = re.compile(r"(\d+)_\d+_[a-z]+")  # DeepFashion: number of the outfit, of the picture, and the view
_LIST = re.compile(r"(?:.*[^a-z])?(train|test)(?:[^a-z].*)?\.(?:txt|csv|lst)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One clip to be. `frames` is a video or a folder of frames; `pictures` are files instead, each with its poses or None.

    `ordered` is False for photos of one person that have no order in time.
    """

    name: str
    split: str
    frames: Path | None = None
    poses: Path | None = None
    pictures: tuple[tuple[Path, Path | None], ...] = ()
    ordered: bool = True

    @property
    def needs_estimator(self) -> bool:
        return any(poses is None for _, poses in self.pictures) or (self.frames is not None and self.poses is None)

    def files(self) -> list[Path]:
        """Every file that the clip is made of."""
        if self.pictures:
            return [path for pair in self.pictures for path in pair if path is not None]
        return [path for path in (self.frames, self.poses) if path is not None]


def find_clips(dataset: Path, note: Callable[[str], None] | None = None, *, required: bool = True) -> list[Source]:
    """Every clip of a dataset, in the order of names, train before test.

    Raises TrainingError where `dataset` is no folder, or (unless not `required`) holds nothing to train on.
    """
    note = note or (lambda text: None)
    dataset = Path(dataset)
    if not dataset.is_dir():
        raise TrainingError(f"{dataset} is not a folder of clips; `dreampose synth {dataset}` makes one to try with.")
    folders = {split: dataset / split for split in SPLITS if (dataset / split).is_dir()}
    if folders:
        sources = [source for split, folder in folders.items() for source in _clips_in(folder, folder, split, note)]
        if "test" in folders and not any(source.split == "test" for source in sources):
            note(f"{folders['test']} holds no clip: nothing is scored on clips that are not trained on.")
    else:
        sources = _by_lists(dataset, _clips_in(dataset, dataset, "train", note), note)
    if required and not any(source.split == "train" for source in sources):
        raise TrainingError(
            f"{dataset} holds no training clips: no video, no folder with one and no photos were found there."
        )
    return sources


def _clips_in(folder: Path, top: Path, split: str, note, depth: int = 0) -> list[Source]:
    """The clips in a folder and the folders within."""
    try:
        entries = sorted(
            (p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural_order(p.name)
        )
    except OSError as error:
        note(f"{folder} left out: it cannot be read ({error.strerror}).")
        return []
    sources = []
    for entry in entries:
        name = entry.relative_to(top).as_posix()
        if not entry.is_dir():
            if entry.suffix.lower() in VIDEO_SUFFIXES and _is_clip(entry):
                sources.append(Source(name.removesuffix(entry.suffix), split, entry, _poses_beside(entry)))
        elif (clip := _clip_folder(entry, name, split)) is not None:
            sources += clip
        elif depth < DEEPEST and not _is_poses(entry):
            sources += _clips_in(entry, top, split, note, depth + 1)
    return sources


def _clip_folder(folder: Path, name: str, split: str) -> list[Source] | None:
    """The clip (or for photos of several outfits, clips) that a folder is; None where it is no clip itself."""
    try:
        inside = sorted(
            (p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural_order(p.name)
        )
    except OSError:
        return None
    videos = [p for p in inside if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES]
    poses = next((p for p in inside if "poses" in p.name and p not in videos), None)
    frames = folder / "frames"
    if frames.is_dir() or len(videos) == 1:
        beside = _poses_beside(videos[0]) if videos else None
        return [Source(name, split, frames if frames.is_dir() else videos[0], beside or poses)]
    if videos:
        return None  # a folder of clips
    pictures = [p for p in inside if p.is_file() and p.suffix.lower() in PICTURES and not _is_label(p)]
    if not pictures:
        return None
    if all(_FRAME.fullmatch(p.stem) for p in pictures):
        if poses is not None:  # one file for all of them
            return [Source(name, split, folder, poses)]
        return [Source(name, split, pictures=_with_poses(pictures))]
    outfits = defaultdict(list)
    for picture in pictures:
        match = _OUTFIT.fullmatch(picture.stem.lower())
        outfits[match[1] if match else ""].append(picture)
    if "" in outfits:  # other names: the whole folder is one person in one outfit
        outfits = {"": pictures}
    return [
        Source(f"{name}/{outfit}" if outfit else name, split, pictures=_with_poses(members), ordered=False)
        for outfit, members in outfits.items()
    ]


def _with_poses(pictures: list[Path]) -> tuple[tuple[Path, Path | None], ...]:
    return tuple((picture, _poses_beside(picture)) for picture in pictures)


def _poses_beside(path: Path) -> Path | None:
    """The poses of a video or a picture where they lie beside it under its name."""
    names = [f"{path.stem}.poses", f"{path.stem}_densepose.npy", f"{path.stem}_IUV.png", f"{path.stem}_poses"]
    names += [f"{path.stem}.pkl", f"{path.stem}.pt"] if path.suffix.lower() in VIDEO_SUFFIXES else []
    return next((path.with_name(name) for name in names if path.with_name(name).exists()), None)


def _is_label(path: Path) -> bool:
    return path.stem.endswith(("_IUV", "_densepose"))


def _is_clip(path: Path) -> bool:
    return not path.stem.endswith("poses")  # a drawing of poses, as `poses --preview` makes it


def _is_poses(folder: Path) -> bool:
    return folder.name.endswith("_poses")


def _by_lists(dataset: Path, sources: list[Source], note) -> list[Source]:
    """The sources with the splits that lists beside them say; all train where there is no list."""
    lists = {split: [] for split in SPLITS}
    for path in sorted(dataset.iterdir()):
        if path.is_file() and (match := _LIST.fullmatch(path.name)):
            lists[match[1].lower()].append(path)
    if not any(lists.values()):
        return sources
    known = defaultdict(list)
    for source in sources:
        for key in {source.name, Path(source.name).name}:
            known[key].append(source)
    chosen: dict[str, dict[str, Source]] = {split: {} for split in SPLITS}
    for split, paths in lists.items():
        for path in paths:
            names = _names_in(path)
            missing = []
            for name in names:
                stem = Path(name).name
                stem = stem.removesuffix(Path(stem).suffix) if Path(stem).suffix.lower() in VIDEO_SUFFIXES else stem
                found = known.get(name) or known.get(stem) or known.get(name.removesuffix(Path(name).suffix))
                if not found:
                    missing.append(name)
                for source in found or ():
                    chosen[split][source.name] = source
            if missing:
                some = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
                note(f"{path} names {len(missing)} clips that are not there ({some}); training goes on without them.")
            if split == "test" and not set(names) - set(missing):
                note(f"{path} names no clip that is there: nothing is scored on clips that are not trained on.")
    both = sorted(set(chosen["train"]) & set(chosen["test"]))
    if both:
        note(
            f"{len(both)} clips are in the lists for training and for testing ({both[0]}, ...); they are kept for testing."
        )
    unlisted = [s for s in sources if s.name not in chosen["train"] and s.name not in chosen["test"]]
    if unlisted and lists["train"]:
        note(f"{len(unlisted)} clips are in no list ({unlisted[0].name}, ...) and are left out.")
    test = [source for source in sources if source.name in chosen["test"]]
    train = [s for s in sources if s.name not in chosen["test"] and (s.name in chosen["train"] or not lists["train"])]
    return train + [replace(source, split="test") for source in test]


def _names_in(path: Path) -> list[str]:
    """The clips a list names: the first column, without comments; of an address or a path the end is what counts."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error
    names = []
    for i, line in enumerate(lines):
        entry = re.split(r"[,;\t]", line)[0].strip().strip("\"'")
        header = i == 0 and entry.lower() in (
            "name",
            "names",
            "video",
            "videos",
            "clip",
            "clips",
            "file",
            "path",
            "id",
            "url",
        )
        if entry and not entry.startswith("#") and not header:
            names.append(entry.replace(os.sep, "/").split("?")[0].rstrip("/"))
    return names
