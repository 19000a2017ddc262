"""Who is in a clip: what its name says, and what its pictures are; who is for testing, in DeepFashion's in-shop photos.

    img/WOMEN/Dresses/id_00000002/02_1_front.jpg         a folder for each person, a number for each outfit (in-shop)
    WOMEN-Dresses-id_00000002-02_1_front.jpg             the same in one name (DeepFashion-MultiModal)
    fashionWOMENDressesid0000000201_1front.jpg           and without separators (the lists of pose transfer)
    Eval/list_eval_partition.txt                         "train", "query" or "gallery" for each photo

A person in training and in testing would make any score too good, so that is refused: one whom DeepFashion's names say, clips of
one name in both (but for numbers, which each split may count for itself, as `synth` does), and files of the same content.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MediaError, TrainingError
from ..media.files import list_files
from ..media.photos import SUFFIXES

if TYPE_CHECKING:
    from .data import Source

PARTITION = "list_eval_partition.txt"
_IN_NAME = re.compile(r".*?id_?(\d{8})[-_]?(\d{2})_\d+_?[a-z]+", re.IGNORECASE)
_NUMBERED = re.compile(r"[a-z]*[-_ ]?\d+", re.IGNORECASE)  # a count, and no person's name
_HEAD = 1 << 20  # bytes of a file that tell it from others, with its size
_IN_PATH = re.compile(r"(?:^|/)id_?(\d+)(?=/|$)", re.IGNORECASE)


def outfit_in_name(stem: str) -> str | None:
    """Person and outfit, as in "id_00000002/02", where a photo's name holds both."""
    match = _IN_NAME.fullmatch(stem)
    return f"id_{match[1]}/{match[2]}" if match else None


def identity_in_path(path: str) -> str | None:
    """The person, as in "id_00000002", where a folder of a path says who it is."""
    match = _IN_PATH.search(path)
    return f"id_{match[1]}" if match else None


def read_partition(dataset: Path) -> dict[str, str]:
    """The split, "train" or "test", of each person that DeepFashion's partition in `dataset` or in its Eval/ lists; empty
    where there is none. Raises TrainingError where it has a person in both."""
    file = next((p for p in (dataset / PARTITION, dataset / "Eval" / PARTITION) if p.is_file()), None)
    if file is None:
        return {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(f"{file} cannot be read: {error.strerror}; check its permissions.") from error
    splits: dict[str, set[str]] = {"train": set(), "test": set()}
    for words in (line.split() for line in lines):
        if len(words) == 3 and words[2] in ("train", "query", "gallery"):
            person = identity_in_path(words[0]) or words[1]
            splits["train" if words[2] == "train" else "test"].add(person)
    _require_disjoint(splits["train"] & splits["test"], file)
    return {person: split for split, persons in splits.items() for person in persons}


def require_disjoint(named: Iterable[tuple[str, str]], dataset: Path) -> None:
    """TrainingError where a person is trained on and tested with; named: clips' names with their splits."""
    splits: dict[str, set[str]] = {}
    for name, split in named:
        if person := identity_in_path(name):
            splits.setdefault(split, set()).add(person)
    _require_disjoint(splits.get("train", set()) & splits.get("test", set()), dataset)


def require_strangers(sources: Iterable[Source], where: str | Path) -> None:
    """TrainingError where a clip to test with shows somebody who is trained on, as far as names and files tell."""
    people: dict[str, set[str]] = {"train": set(), "test": set()}
    files: dict[str, dict[int, list[tuple[str, Path]]]] = {"train": {}, "test": {}}
    for source in sources:
        people[source.split] |= _people(source)
        for file in _telling(source):
            files[source.split].setdefault(_size(file), []).append((source.name, file))
    both = people["train"] & people["test"]
    for size in files["train"].keys() & files["test"].keys():
        known = {content_mark(file): name for name, file in files["train"][size]}
        known.pop("", None)
        for name, file in files["test"][size]:
            if (other := known.get(content_mark(file))) is not None and not {name, other} & both:
                both |= {name if name == other else f"{name} (in training as {other})"}
    _require_disjoint(both, where)


def content_mark(path: Path) -> str:
    """What tells a clip from others by content, 16 hex digits: of a video or a picture, or of a folder's first picture. Empty
    where it cannot be read."""
    try:
        file = list_files(path, SUFFIXES)[0] if path.is_dir() else path
        with file.open("rb") as stream:
            return hashlib.sha256(str(_size(file)).encode() + b":" + stream.read(_HEAD)).hexdigest()[:16]
    except (OSError, IndexError, MediaError):
        return ""


def trained_on(provenance: Mapping[str, Any]) -> set[str]:
    """The marks of the clips that a base was trained on, and those that it began from, as far as it says."""
    found: set[str] = set()
    while isinstance(provenance, Mapping) and provenance:
        marks = provenance.get("trained_on")
        found |= {str(mark) for mark in marks} if isinstance(marks, list) else set()
        provenance = provenance.get("from", {})
    return found


def _people(source: Source) -> set[str]:
    """Who is in a clip by its name: DeepFashion's number, and the name itself (of photos without that of the outfit)."""
    whole, _, last = source.name.rpartition("/")
    name = whole if whole and not source.ordered and _NUMBERED.fullmatch(last) else source.name
    found = {identity_in_path(source.name) or ""} | ({name} if not _NUMBERED.fullmatch(name.rpartition("/")[2]) else set())
    return found - {""}


def _telling(source: Source) -> list[Path]:
    """The files that tell a clip: a video, the first frame, the middle one and the last, or every photo without an order."""
    pictures = [picture for picture, _ in source.pictures]
    if source.frames is not None:
        if not source.frames.is_dir():
            return [source.frames]
        try:
            pictures = list_files(source.frames, SUFFIXES)
        except (OSError, MediaError):  # who reads it will say what is wrong
            return []
    if not source.ordered or len(pictures) < 3:
        return pictures
    return [pictures[0], pictures[len(pictures) // 2], pictures[-1]]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _require_disjoint(both: set[str], where: str | Path) -> None:
    if both:
        names = ", ".join(sorted(both)[:3]) + (f" and {len(both) - 3} others" if len(both) > 3 else "")
        raise TrainingError(
            f"{names} {'is' if len(both) == 1 else 'are'} both in training and in testing in {where}, which would make every "
            "score too good; leave them out of one of the two."
        )
