"""A cache that heals: what killed processes left, what a half-restored backup lacks, and what a disk has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

from ..errors import StoreError
from .entries import Entry, last_subject, list_entries, set_last_subject
from .filelock import hold
from .folder import SUBJECT_JSON, ensure, foreign_name, root, stamp, storing, version

_IN_FLIGHT = re.compile(r"\.{1,2}(tmp-[0-9a-f]{12})(\..*)?")
_swept: set[Path] = set()


def sweep_once() -> None:
    """Remove what killed processes left, at the first write of this process into this cache."""
    folder = root()
    if folder not in _swept:
        _swept.add(folder)
        sweep()


def sweep() -> list[str]:
    """Remove half-written entries and locks that nobody holds; returns their names. What cannot be removed stays."""
    gone = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(root() / "partial")):
            match = _IN_FLIGHT.fullmatch(name)
            if match and _free(root() / "locks" / f"partial-.{match[1]}.lock") and _discard(root() / "partial" / name):
                gone.append(f"partial/{name}")
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(root() / "locks")):
            if name.endswith(".lock") and _free(root() / "locks" / name):
                gone.append(f"locks/{name}")
    return gone


def repair() -> list[str]:
    """Make a damaged cache usable, and return what was done, a sentence each. Entries are never removed.

    StoreError for a folder that holds files of somebody else, or is of another version.
    """
    folder, done = root(), []
    if folder.is_dir() and not (version() or "").isdigit():
        if name := foreign_name():
            raise StoreError(
                f"{folder} holds {name!r}, which is not the cache's; move it away, or set DREAMPOSE_CACHE."
            )
        stamp()
        done.append("the version file was missing")
    ensure()
    swept = sweep()
    if swept:
        done.append(f"{len(swept)} remains of killed processes were removed")
    done += _closed_to_others(folder)
    known = {f"{entry.kind}-{entry.id}" for entry in list_entries()}
    for place, named in (("used", known), ("sums", known)):
        for name in sorted(os.listdir(folder / place)) if (folder / place).is_dir() else []:
            if name.removesuffix(".json") not in named and _discard(folder / place / name):
                done.append(f"{place}/{name} was of an entry that is gone")
    subjects = [entry for entry in list_entries("subject") if not entry.broken]
    if subjects and last_subject() is None:
        set_last_subject(max(subjects, key=lambda entry: entry.created_at).id)
        done.append("which subject was tuned last was unknown; it is the newest now")
    return done


def verify(entries: list[Entry] | None = None) -> dict[str, str]:
    """Whether what is in the cache is what was written there: "KIND/ID" and "" where it is, else what is wrong.

    Checksums are those of publishing; entries without (prepared frames, bases that are links to other folders) are read
    as far as listing reads them.
    """
    return {f"{entry.kind}/{entry.id}": _fault(entry) for entry in entries or list_entries()}


def write_sums(kind: str, id: str, path: Path) -> None:
    """Note the SHA-256 of every file of an entry, except of a subject's description, whose name may change."""
    with storing():
        folder = root() / "sums"
        folder.mkdir(exist_ok=True, mode=0o700)
        text = json.dumps({name: _digest(file) for name, file in _files(kind, path)}, indent=1)
        (folder / f"{kind}-{id}.json").write_text(text + "\n", encoding="utf-8")


def close_to_others(path: Path) -> None:
    """A subject's photos are for its user alone: folders 0700, files 0600 (nothing on Windows)."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        path.chmod(0o700 if path.is_dir() else 0o600)
        for folder, folders, files in os.walk(path):
            for names, mode in ((folders, 0o700), (files, 0o600)):
                for name in names:
                    if not os.path.islink(os.path.join(folder, name)):
                        os.chmod(os.path.join(folder, name), mode)


def _closed_to_others(folder: Path) -> list[str]:
    if os.name != "posix":
        return []
    open_ones = [
        path for path in (folder, *(folder / "subjects").glob("*")) if path.is_dir() and path.stat().st_mode & 0o77
    ]
    for path in open_ones:
        if path == folder:
            path.chmod(0o700)
        else:
            close_to_others(path)
    return [f"{len(open_ones)} folders could be read by others"] if open_ones else []


def _fault(entry: Entry) -> str:
    if entry.broken:
        return entry.broken
    try:
        sums = json.loads((root() / "sums" / f"{entry.kind}-{entry.id}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        sums = None
    try:
        if entry.kind == "poses":
            with zipfile.ZipFile(entry.path) as archive:
                if damaged := archive.testzip():
                    return f"{damaged} is damaged"
        if not isinstance(sums, dict):
            return ""
        found = dict(_files(entry.kind, entry.path))
        if missing := sorted(set(sums) - set(found)):
            return f"{missing[0]} is missing"
        changed = [name for name, digest in sums.items() if _digest(found[name]) != digest]
        return f"{changed[0] or 'it'} is not what was written" if changed else ""
    except (OSError, zipfile.BadZipFile, EOFError) as problem:
        return f"cannot be read ({problem})"


def _files(kind: str, path: Path) -> list[tuple[str, Path]]:
    if path.is_symlink():
        return []
    if path.is_file():
        return [("", path)]
    return [
        (file.relative_to(path).as_posix(), file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not (kind == "subject" and file.name == SUBJECT_JSON)
    ]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free(path: Path) -> bool:
    """Whether nobody holds the lock in `path`, which is gone afterwards."""
    if not path.exists():
        return True
    release = hold(path, 0)
    if release is None:
        return False
    release()
    return True


def _discard(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    return not path.exists()
