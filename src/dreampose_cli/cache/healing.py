"""A cache that heals: what a half-restored backup lacks, and what a disk has changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from pathlib import Path

from ..errors import MediaError, StoreError
from .digests import file_digest
from .entries import Entry
from .store import Cache
from .sums import close_to_others, files_of


def repair(cache: Cache) -> list[str]:
    """Make a damaged cache usable, and return what was done, a sentence each. Entries are never removed.

    StoreError for a folder that holds files of somebody else, or is of another version.
    """
    folder, done = cache.root, []
    if folder.is_dir() and not (cache.version() or "").isdigit():
        if name := cache.foreign_name():
            raise StoreError(
                f"{folder} holds {name!r}, which is not the cache's; move it away, or set DREAMPOSE_CACHE."
            )
        cache.stamp()
        done.append("the version file was missing")
    cache.ensure()
    swept = cache.sweep()
    if swept:
        done.append(f"{len(swept)} remains of killed processes were removed")
    done += _closed_to_others(folder)
    known = {f"{entry.kind}-{entry.id}" for entry in cache.list_entries()}
    for place, named in (("used", known), ("sums", known)):
        for name in sorted(os.listdir(folder / place)) if (folder / place).is_dir() else []:
            if name.removesuffix(".json") not in named and _discard(folder / place / name):
                done.append(f"{place}/{name} was of an entry that is gone")
    subjects = [entry for entry in cache.list_entries("subject") if not entry.broken]
    if subjects and cache.last_subject() is None:
        cache.set_last_subject(max(subjects, key=lambda entry: entry.created_at).id)
        done.append("which subject was tuned last was unknown; it is the newest now")
    return done


def verify(cache: Cache, entries: list[Entry] | None = None) -> dict[str, str]:
    """Whether what is in the cache is what was written there: "KIND/ID" and "" where it is, else what is wrong.

    Checksums are those of publishing; entries without (prepared frames, bases that are links to other folders) are read
    as far as listing reads them.
    """
    return {f"{entry.kind}/{entry.id}": _fault(entry, cache.root) for entry in entries or cache.list_entries()}


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


def _fault(entry: Entry, root: Path) -> str:
    if entry.broken:
        return entry.broken
    try:
        sums = json.loads((root / "sums" / f"{entry.kind}-{entry.id}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        sums = None
    try:
        if entry.kind == "poses":
            with zipfile.ZipFile(entry.path) as archive:
                if damaged := archive.testzip():
                    return f"{damaged} is damaged"
        if not isinstance(sums, dict):
            return ""
        found = dict(files_of(entry.kind, entry.path))
        if missing := sorted(set(sums) - set(found)):
            return f"{missing[0]} is missing"
        changed = [name for name, digest in sums.items() if file_digest(found[name]) != digest]
        return f"{changed[0] or 'it'} is not what was written" if changed else ""
    except (OSError, MediaError, zipfile.BadZipFile, EOFError) as problem:
        return f"cannot be read ({problem})"


def _discard(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    return not path.exists()
