"""What is in the cache, and finding it by what users type."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DreamposeError, StoreError, SubjectError, UsageError
from .folder import (
    BASE_JSON,
    FOLDERS,
    KINDS,
    SUBJECT_JSON,
    check,
    ensure,
    file_digest,
    path_of,
    read_json,
    root,
    store_error,
    storing,
    write_text,
)


@dataclass(frozen=True)
class Entry:
    """One thing in the cache. `broken` is empty, or says what is wrong; times are seconds since the epoch."""

    kind: str
    id: str
    name: str | None
    path: Path
    bytes: int
    used_at: float
    created_at: float
    info: dict[str, Any] = field(default_factory=dict)
    broken: str = ""

    @property
    def lock_name(self) -> str:
        """The lock that whoever writes this entry holds; resumable work is that of a subject."""
        kind = "subject" if self.kind == "partial" and not self.id.startswith(".tmp-") else self.kind
        return f"{kind}-{self.id}"


def list_entries(kind: str | None = None) -> list[Entry]:
    """Everything in the cache (of one kind), the one used last first. Broken entries are listed as broken."""
    if not check():
        return []
    entries = [
        entry
        for each in ([kind] if kind else KINDS)
        for path in _children(root() / FOLDERS[each])
        if (entry := _entry(each, path)) is not None
    ]
    return sorted(entries, key=lambda entry: (-entry.used_at, entry.id))


def get(kind: str, id: str) -> Entry | None:
    """The whole, unbroken entry `id` of `kind`; None where there is none."""
    if not check():
        return None
    path = path_of(kind, id)
    entry = _entry(kind, path) if path.exists() else None
    return entry if entry and not entry.broken else None


def last_subject() -> str | None:
    """The id of the subject tuned last; None when there is none or it has been removed."""
    if not check():
        return None
    try:
        id = (root() / "last-subject").read_text(encoding="utf-8").strip()
        return id if id and path_of("subject", id).is_dir() else None
    except (OSError, ValueError, StoreError):
        return None


def set_last_subject(id: str) -> None:
    """Remember `id` as the subject tuned last."""
    folder = ensure()
    with storing():
        write_text(folder / "last-subject", f"{id}\n")


def note_place(id: str, folder: Path) -> None:
    """Remember in which folder the base of the subject `id` lies on this machine; it is not part of the subject."""
    with storing():
        (ensure() / "places").mkdir(exist_ok=True, mode=0o700)
        write_text(root() / "places" / id, f"{folder.absolute()}\n")


def place_of(id: str) -> str | None:
    """The folder that `note_place` was told for the subject `id`; None where it was not."""
    try:
        return (root() / "places" / id).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def find_subject(token: str | os.PathLike[str] | None = None, base: str | None = None) -> Entry:
    """The subject that `token` means: an id, a name, a photo it was tuned from, or the beginning of one id (4 or more).

    None means the subject tuned last. A name or a photo shared by several means the newest, of those tuned on the base
    with the revision `base` where there are any. SubjectError otherwise.
    """
    listed = list_entries("subject")
    subjects = [entry for entry in listed if not entry.broken]
    if token is None:
        last = last_subject()
        for entry in subjects:
            if entry.id == last:
                return entry
        if subjects:
            raise SubjectError(
                "the subject tuned last is no longer in the cache; name another with --subject "
                "(`dreampose cache ls --kind subject` lists them)."
            )
        raise SubjectError("no subject has been tuned yet; make one with: dreampose tune PHOTO")
    text = os.fspath(token)
    newest = sorted(subjects, key=lambda entry: (base is not None and _base(entry) != base, -entry.created_at))
    for entry in newest:
        if text in (entry.id, entry.name):
            return entry
    path = Path(text).expanduser()
    if path.is_file():
        digest = file_digest(path)
        for entry in newest:
            if any(isinstance(photo, dict) and photo.get("sha256") == digest for photo in _photos(entry)):
                return entry
        raise SubjectError(f"no subject was tuned from {text}; make it with: dreampose tune {shlex.quote(text)}")
    for entry in listed:
        if entry.broken and entry.id == text:
            raise SubjectError(f"subject {text} is broken ({entry.broken}); remove it with: dreampose cache rm {text}")
    matches = [entry for entry in newest if len(text) >= 4 and entry.id.startswith(text.lower())]
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(entry.id for entry in matches[:5])
        raise SubjectError(f"{text!r} is the beginning of several subjects' ids ({ids}); give more of it.")
    raise SubjectError(
        f"there is no subject and no photo {text!r}; `dreampose cache ls --kind subject` lists the subjects, "
        "`dreampose tune PHOTO` makes one."
    )


def find_entry(token: str) -> Entry:
    """The entry that `token` means, broken or not: an id, KIND/ID, a name, the beginning of one id, a tuned photo."""
    entries = list_entries()
    for matches in (
        [entry for entry in entries if token in (entry.id, f"{entry.kind}/{entry.id}")],
        [entry for entry in entries if token == entry.name],
        [entry for entry in entries if len(token) >= 4 and entry.id.startswith(token)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(f"{entry.kind}/{entry.id}" for entry in matches[:5])
            raise UsageError(f"{token!r} can mean several things in the cache ({names}); give one of these.")
    if Path(token).is_file():
        return find_subject(token)
    raise StoreError(f"there is nothing called {token!r} in the cache; `dreampose cache ls` lists what is there.")


def _children(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:
        raise store_error(problem, "read") from problem
    return [folder / name for name in names if not name.startswith(".") or name.startswith(".tmp-")]


def _entry(kind: str, path: Path) -> Entry | None:
    """The entry at `path`; None when it vanished while one looked."""
    broken, info = "", {}
    try:
        created = path.stat().st_mtime
        size = _size(path)
    except FileNotFoundError:
        return None
    except OSError as problem:
        return Entry(kind, path.name, None, path, 0, 0.0, 0.0, {}, f"cannot be read: {problem.strerror}")
    try:
        info = _info(kind, path)
    except Exception as problem:  # whatever a damaged file does to a reader, listing continues
        broken = str(problem) if isinstance(problem, DreamposeError) else f"damaged ({type(problem).__name__})"
    id = path.name.removesuffix(".poses") if kind == "poses" else path.name
    if kind == "partial":
        broken = "a write that was cut off" if id.startswith(".tmp-") else "unfinished"
    name = info.get("name") if isinstance(info.get("name"), str) else None
    with contextlib.suppress(OSError):
        main = path / {"subject": SUBJECT_JSON, "base": BASE_JSON}.get(kind, "")
        created = main.stat().st_mtime
    try:
        used = (root() / "used" / f"{kind}-{id}").stat().st_mtime
    except OSError:
        used = created
    return Entry(kind, id, name, path, size, used, created, info, broken)


def _info(kind: str, path: Path) -> dict[str, Any]:
    """What an entry says of itself; an exception when it is broken."""
    if kind == "poses":
        if path.suffix != ".poses":
            raise StoreError("no pose file")
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read("header.json"))
        if not isinstance(header, dict):
            raise StoreError("no header")
        return header
    if not path.is_dir():
        raise StoreError("no folder")
    if kind in ("subject", "base"):
        file = path / (SUBJECT_JSON if kind == "subject" else BASE_JSON)
        if not file.is_file():
            raise StoreError(f"{file.name} is missing")
        return read_json(file)
    if not any(path.iterdir()) and kind != "partial":
        raise StoreError("empty")
    return {}


def _photos(entry: Entry) -> list[Any]:
    photos = entry.info.get("photos")
    return photos if isinstance(photos, list) else []


def _base(entry: Entry) -> Any:
    """The revision of the base that a subject was tuned on."""
    base = entry.info.get("base")
    return base.get("revision") if isinstance(base, dict) else None


def _size(path: Path) -> int:
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
