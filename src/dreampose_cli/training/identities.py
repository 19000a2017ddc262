"""The identities of DeepFashion's in-shop photos: who is in a photo, as its path says, and who is for testing.

    img/WOMEN/Dresses/id_00000002/02_1_front.jpg         a folder for each person, a number for each outfit (in-shop)
    WOMEN-Dresses-id_00000002-02_1_front.jpg             the same in one name (DeepFashion-MultiModal)
    fashionWOMENDressesid0000000201_1front.jpg           and without separators (the lists of pose transfer)
    Eval/list_eval_partition.txt                         "train", "query" or "gallery" for each photo

A person in training and in testing would make any score too good, so that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import TrainingError

PARTITION = "list_eval_partition.txt"
_IN_NAME = re.compile(r".*?id_?(\d{8})[-_]?(\d{2})_\d+_?[a-z]+", re.IGNORECASE)
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


def _require_disjoint(both: set[str], where: Path) -> None:
    if both:
        names = ", ".join(sorted(both)[:3]) + (f" and {len(both) - 3} others" if len(both) > 3 else "")
        raise TrainingError(
            f"{names} {'is' if len(both) == 1 else 'are'} both in training and in testing in {where}, which would make every "
            "score too good; leave them out of one of the two."
        )
