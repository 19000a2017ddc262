"""Where the training clips are in a folder: which files make a clip, where its poses are, and which are for testing.

A clip is a video, a folder with one, or pictures: frames in their order, or photos of one person without an order. Known
layouts, which may be mixed and lie in one another:

    clips/a.mp4, b.mp4, ...                     videos, their poses next to them (a.poses) or estimated
    clips/{train,test}/...                      two folders of clips, as UBC Fashion and `synth` have them
    clips/*.mp4 with train.txt, test.txt        videos in one folder and lists of names, file names or addresses
    clips/a/{video.mp4, video.poses, frames/}   as `synth` writes them; lossless frames are preferred
    clips/a/frame_0.png, frame_0_densepose.npy  as the official DreamPose wants them
    photos/.../id_01/01_1_front.jpg, ...        DeepFashion: a folder for each person, a number for each outfit
    photos/...-id_00000002-02_1_front.jpg, ...  the same in one name; of both see `identities`
    clips/00001/{images,densepose,masks}/       TikTok: frames and IUV pictures of one name each; the masks are not needed

What is in a folder test/ or in a test list is only tested with. Everything else is trained on; but where there is a folder
train/ or a train list, that says all that is trained on, and what is in neither is left out. Both speak for the folder that
they lie in, and a folder counts before a list. Whatever is left out is counted and said.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import TrainingError
from ..media.files import list_files, natural_order
from ..media.photos import SUFFIXES as PICTURE_SUFFIXES
from .identities import identity_in_path, outfit_in_name, read_partition, require_disjoint

VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv",
}  # fmt: skip
PICTURES = PICTURE_SUFFIXES - {".gif"}
DEEPEST = 8  # levels of folders that are looked through
SPLITS = ("train", "test")

_FRAME = re.compile(r"(frame)?[-_ ]?\d+", re.IGNORECASE)
_OUTFIT = re.compile(r"(\d+)_\d+_[a-z]+")  # DeepFashion: number of the outfit, of the picture, and the view
_LIST = re.compile(r"(?:.*[^a-z])?(train|test)(?:[^a-z].*)?\.(?:txt|csv|lst)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One clip to be. `frames` is a video or a folder of frames; `pictures` are files instead, each with its poses or None.

    `split` is "train" or "test". `poses` are those of all frames, None where they are to be estimated (or where each of the
    `pictures` has its own). `ordered` is False for photos of one person that have no order in time.
    """

    name: str
    split: str
    frames: Path | None = None
    poses: Path | None = None
    pictures: tuple[tuple[Path, Path | None], ...] = ()
    ordered: bool = True

    @property
    def media(self) -> Path:
        """What the frames are read from: a video, or a folder of pictures."""
        return self.frames or self.pictures[0][0].parent

    @property
    def needs_estimator(self) -> bool:
        return any(poses is None for _, poses in self.pictures) or (self.frames is not None and self.poses is None)

    def files(self) -> list[Path]:
        """Every file that the clip is made of."""
        if self.pictures:
            return [path for pair in self.pictures for path in pair if path is not None]
        return [path for path in (self.frames, self.poses) if path is not None]


def find_clips(dataset: Path, note: Callable[[str], None] | None = None, *, required: bool = True) -> list[Source]:
    """Every clip of a dataset, train before test, each in the order of names (see above for which is which).

    What is left out is said through `note`. Raises TrainingError where `dataset` is no folder, or (unless not `required`)
    holds nothing to train on.
    """
    sources, look = _look_through(dataset, note)
    sources = [replace(source, split=source.split or "train") for source in sources]
    sources.sort(key=lambda source: source.split != "train")  # stable: names stay in their order
    if required and not any(source.split == "train" for source in sources):
        if sources:
            why = f"{counted(sources)} there to test with, and none besides"
        elif look.left:
            why = "what lies there is left out, as the notes say"
        else:
            why = "no video, no folder with one and no photos were found there"
        raise TrainingError(f"{dataset} holds no training clips: {why}.")
    return sources


def find_test_clips(dataset: Path, note: Callable[[str], None] | None = None) -> list[Source]:
    """The clips of a dataset that are for testing, in the order of names: those in test/ or in a test list, or all of them
    where nothing in `dataset` says what is for training or for testing. Only clips with an order in time.

    `Source.media` is what a clip's frames are read from; for its poses see `Source`. What is left out is said through
    `note`. Empty where there is none; raises TrainingError where `dataset` is no folder.
    """
    sources, look = _look_through(dataset, note)
    chosen = [replace(source, split="test") for source in sources if source.split == "test" or not look.said]
    photos = [source for source in chosen if not source.ordered]
    if photos and note:
        note(f"{counted(photos)} left out ({some(photos)}): photos without an order in time.")
    return [source for source in chosen if source.ordered]


@dataclass
class _Look:
    """What is met on the way through a dataset: which splits its folders and lists speak of, and what is left out."""

    note: Callable[[str], None]
    said: set[str] = field(default_factory=set)
    left: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by the reason

    def leave(self, reason: str, names: list[str]) -> None:
        if names:
            self.left[reason] += names

    def say(self) -> None:
        for reason, names in self.left.items():
            what, why = reason.split(": ", 1)
            self.note(f"{counted(names, what)} left out ({some(names)}): {why}.")


DRAWING = "video: a name that ends in poses is that of a drawing of poses"
LOOSE = "picture: photos of one person, or the frames of a clip, belong in a folder of their own"
BESIDE_FRAMES = "video: one of several next to frames/, which is the clip"
WITHIN = "folder: it lies within the folder of a clip"
TOO_DEEP = f"folder: it lies more than {DEEPEST} folders deep"
WITHOUT_DENSEPOSE = "picture: densepose/ has none of its name"
BESIDE_SPLITS = "clip: next to train/ and test/, and in neither"
UNLISTED = "clip: in no list"


def _look_through(dataset: Path, note: Callable[[str], None] | None) -> tuple[list[Source], _Look]:
    """The clips of a dataset, their split empty where nothing says it."""
    dataset = Path(dataset)
    if dataset.is_file():
        raise TrainingError(f"{dataset} is a file; give the folder that it lies in.")
    if not dataset.is_dir():
        raise TrainingError(f"{dataset} is not a folder of clips; `dreampose synth {dataset}` makes one to try with.")
    look = _Look(note or (lambda text: None))
    whole = _clip_folder(dataset, dataset.resolve().name, "", look) if _has_frames(dataset) else None
    sources = whole or _clips_in(dataset, "", "", look)
    if partition := read_partition(dataset):
        look.said |= set(partition.values())
        sources = [replace(s, split=s.split or partition.get(identity_in_path(s.name) or "", "")) for s in sources]
    require_disjoint([(source.name, source.split or "train") for source in sources if not source.ordered], dataset)
    look.say()
    return sources, look


def _clips_in(folder: Path, prefix: str, split: str, look: _Look, depth: int = 0) -> list[Source]:
    """The clips in a folder and the folders within, their names with `prefix`; `split` is empty where nothing says it."""
    try:
        entries = _visible(folder)
    except OSError as error:
        look.note(f"{folder} left out: it cannot be read ({error.strerror}).")
        return []
    sources, said = [], set()
    for entry in entries:
        name, part = prefix + entry.name, entry.name.lower()
        if not entry.is_dir():
            if _is_video(entry) and not _is_drawing(entry):
                sources.append(Source(name.removesuffix(entry.suffix), split, entry, _poses_beside(entry)))
        elif not split and part in SPLITS:
            inside = _clips_in(entry, prefix, part, look, depth)
            if part == "test" and not inside:
                look.note(f"{entry} holds no clip: nothing is scored on clips that are not trained on.")
            sources += inside
            said.add(part)
        elif (clip := _clip_folder(entry, name, split, look)) is not None:
            sources += clip
        elif _is_poses(entry):
            continue
        elif depth < DEEPEST:
            sources += _clips_in(entry, name + "/", split, look, depth + 1)
        else:
            look.leave(TOO_DEEP, [name])
    look.leave(DRAWING, [prefix + p.name for p in entries if p.is_file() and _is_video(p) and _is_drawing(p)])
    loose = [p for p in entries if p.is_file() and _is_picture(p)]
    sources += _outfits([p for p in loose if outfit_in_name(p.stem)], prefix.rstrip("/"), split)
    look.leave(LOOSE, [prefix + p.name for p in loose if not outfit_in_name(p.stem)])
    return sources if split else _as_said(folder, prefix, sources, said, look)


def _clip_folder(folder: Path, name: str, split: str, look: _Look) -> list[Source] | None:
    """The clip (or for photos of several outfits, clips) that a folder is; None where it is no clip itself."""
    try:
        inside = _visible(folder)
    except OSError:
        return None
    drawings = [p for p in inside if p.is_file() and _is_video(p) and _is_drawing(p)]
    videos = [p for p in inside if p.is_file() and _is_video(p) and p not in drawings]
    pictures = [p for p in inside if p.is_file() and _is_picture(p)]
    poses = next((p for p in inside if "poses" in p.name and p not in videos and p not in drawings), None)
    others = [p for p in inside if p.is_dir() and p.name != "frames" and "poses" not in p.name]
    if (folder / "images").is_dir() and (folder / "densepose").is_dir():
        return _tiktok(folder, name, split, look)
    framed = _has_frames(folder)
    several = len(videos) > 1 or any(_LIST.fullmatch(p.name) for p in inside)
    if not framed and (several or any(_holds(p, _is_video) for p in others)):
        return None  # a folder of clips
    if not framed and not videos and not pictures:
        return None
    look.leave(DRAWING, [f"{name}/{p.name}" for p in drawings])
    look.leave(WITHIN, [f"{name}/{p.name}" for p in others if _holds(p, _is_video) or _holds(p, _is_picture)])
    if framed or videos:
        look.leave(LOOSE, [f"{name}/{p.name}" for p in pictures])
        if len(videos) > 1:
            look.leave(BESIDE_FRAMES, [f"{name}/{p.name}" for p in videos])
        beside = next((found for p in videos if (found := _poses_beside(p))), None)
        return [Source(name, split, folder / "frames" if framed else videos[0], beside or poses)]
    if all(_FRAME.fullmatch(p.stem) for p in pictures):
        if poses is not None:  # one file for all of them
            return [Source(name, split, folder, poses)]
        return [Source(name, split, pictures=_with_poses(pictures))]
    return _outfits(pictures, name, split)


def _outfits(pictures: list[Path], name: str, split: str) -> list[Source]:
    """Photos in one folder as clips, one for each person and outfit that their names tell apart."""
    outfits = defaultdict(list)
    for picture in pictures:
        match = _OUTFIT.fullmatch(picture.stem.lower())
        outfits[outfit_in_name(picture.stem) or (match[1] if match else "")].append(picture)
    if "" in outfits:  # other names: the whole folder is one person in one outfit
        outfits = defaultdict(list, {"": pictures})
    return [
        Source("/".join(filter(None, (name, outfit))), split, pictures=_with_poses(members), ordered=False)
        for outfit, members in outfits.items()
    ]


def _tiktok(folder: Path, name: str, split: str, look: _Look) -> list[Source]:
    """A clip of the TikTok dataset: of its images those that have a picture of the same name in densepose/."""
    poses = {file.stem: file for file in list_files(folder / "densepose", PICTURES)}
    pictures = list_files(folder / "images", PICTURES)
    pairs = tuple((picture, poses[picture.stem]) for picture in pictures if picture.stem in poses)
    look.leave(WITHOUT_DENSEPOSE, [f"{name}/images/{picture.name}" for picture in pictures if picture.stem not in poses])
    return [Source(name, split, pictures=pairs)] if pairs else []


def _visible(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural_order(p.name))


def _has_frames(folder: Path) -> bool:
    frames = folder / "frames"
    return frames.is_dir() and bool(list_files(frames, PICTURES))


def _holds(folder: Path, kind: Callable[[Path], bool]) -> bool:
    """Whether a folder or one within holds a file of this kind."""
    return any(kind(Path(name)) and not name.startswith(".") for _, _, names in os.walk(folder) for name in names)


def _with_poses(pictures: list[Path]) -> tuple[tuple[Path, Path | None], ...]:
    return tuple((picture, _poses_beside(picture)) for picture in pictures)


def _poses_beside(path: Path) -> Path | None:
    """The poses of a video or a picture where they lie next to it under its name."""
    names = [f"{path.stem}.poses", f"{path.stem}_densepose.npy", f"{path.stem}_IUV.png", f"{path.stem}_poses"]
    names += [f"{path.stem}.pkl", f"{path.stem}.pt"] if path.suffix.lower() in VIDEO_SUFFIXES else []
    return next((path.with_name(name) for name in names if path.with_name(name).exists()), None)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _is_picture(path: Path) -> bool:
    """Whether it is a picture of somebody, and not of poses."""
    return path.suffix.lower() in PICTURES and not path.stem.endswith(("_IUV", "_densepose"))


def _is_drawing(path: Path) -> bool:
    return path.stem.endswith("poses")  # as `poses --preview` makes it


def _is_poses(folder: Path) -> bool:
    return folder.name.endswith("_poses")


def counted(things: list, what: str = "clip") -> str:
    """How many there are, in words."""
    return f"{len(things)} {what}" + ("" if len(things) == 1 else "s")


def some(things: list[Source] | list[str]) -> str:
    """The first names, to know which are meant."""
    names = [thing.name if isinstance(thing, Source) else thing for thing in things]
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def _as_said(folder: Path, prefix: str, sources: list[Source], said: set[str], look: _Look) -> list[Source]:
    """The sources of a folder with the splits that lists in it say, without those that are then in none.

    said: the splits that it has folders for.
    """
    lists: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := _LIST.fullmatch(path.name)):
            lists[match[1].lower()].append(path)
    listed = {split for split in SPLITS if lists[split]}
    look.said |= said | listed
    known = defaultdict(list)
    for source in sources if listed else ():
        own = source.name.removeprefix(prefix)
        for key in {own, Path(own).name}:
            known[key].append(source)
    chosen: dict[str, set[Source]] = {split: set() for split in SPLITS}
    for split, path in [(key, path) for key in SPLITS for path in lists[key]]:
        names, missing, elsewhere = _names_in(path), [], []
        for name in names:
            stem = Path(name).name
            stem = stem.removesuffix(Path(stem).suffix) if _is_video(Path(stem)) else stem
            found = known.get(name) or known.get(stem) or known.get(name.removesuffix(Path(name).suffix)) or []
            chosen[split].update(source for source in found if not source.split)
            if not found:
                missing.append(name)
            elif all(source.split not in ("", split) for source in found):
                elsewhere.append(name)
        if missing:
            look.note(f"{path} names {counted(missing)} not there ({some(missing)}); training continues without.")
        if elsewhere:
            other = "train" if split == "test" else "test"
            look.note(f"{path} names {counted(elsewhere)} in a folder {other}/ ({some(elsewhere)}); the folder counts.")
        if split == "test" and len(missing) == len(names):
            look.note(f"{path} names no clip that is there: nothing is scored on clips that are not trained on.")
    if both := [source for source in sources if source in chosen["train"] & chosen["test"]]:
        look.note(f"{counted(both)} in the lists for training and for testing ({some(both)}): kept for testing.")

    def split_of(source: Source) -> str:
        return source.split or next((split for split in ("test", "train") if source in chosen[split]), "")

    sources = [replace(source, split=split_of(source)) for source in sources]
    if "train" in said | listed:
        rest = [source for source in sources if not source.split]
        look.leave(BESIDE_SPLITS if said else UNLISTED, [source.name for source in rest])
        sources = [source for source in sources if source.split]
    return sources


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
