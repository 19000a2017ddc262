"""The cache's folder itself: its version, where things are in it, and the system's errors as sentences."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .. import atomic
from ..errors import DreamposeError, StoreError, is_full_disk

VERSION = 1
VERSION_FILE = "cache-version"
SUBJECT_JSON = "subject.json"
BASE_JSON = "base.json"
FOLDERS = {
    "subject": "subjects",
    "base": "bases",
    "poses": "poses",
    "data": "data",
    "edit": "edits",
    "partial": "partial",
}
KINDS = tuple(FOLDERS)
STATE_FOLDERS = ("tmp", "locks", "used", "sums", "places")
LOOSE_FILES = ("last-subject", VERSION_FILE, "trusted-code")
_OF_NOBODY = ("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini", "CACHEDIR.TAG")
_DESCRIBED = {"subjects": (SUBJECT_JSON,), "bases": (BASE_JSON,)}
_NOTHING = re.compile(r"(?!)")
_OWN_NAMES = {  # of what stands in each folder: by these a cache is known whose version file is lost
    "subjects": re.compile(r"[0-9a-f]{16}"),
    "poses": re.compile(r"[0-9a-f]{16}\.poses"),
    "data": re.compile(r"[0-9a-f]{16}"),
    "edits": re.compile(r"[0-9a-f]{16}"),
    "partial": re.compile(r"[0-9a-f]{16}"),
    "tmp": re.compile(r"[0-9a-f]{8}\.tmp"),
    "locks": re.compile(r".+\.lock"),
    "used": re.compile(r"(subject|base|poses|data|edit|partial)-.+"),
    "sums": re.compile(r"(subject|base|poses|data|edit|partial)-.+\.json"),
    "places": re.compile(r"[0-9a-f]{16}"),
}


class CacheFolder:
    """The folder of one cache. root: its path; it need not exist."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().absolute()
        self._swept = False

    def version(self) -> str | None:
        """The contents of the folder's version file; None where there is none."""
        try:
            return (self.root / VERSION_FILE).read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise self.store_error(problem, "read") from problem

    def check(self) -> bool:
        """True when a cache of this version is there, False when there is none yet; StoreError when it is unusable."""
        folder, found = self.root, self.version()
        if found == str(VERSION):
            return True
        if found is not None and found.isdigit():
            raise StoreError(
                f"the cache in {folder} was made by another version of dreampose (format {found[:20]!r}, this one reads "
                f"'{VERSION}'); empty it with `dreampose cache rm --all`, or set DREAMPOSE_CACHE to another folder."
            )
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is no folder, so it cannot be the cache; set DREAMPOSE_CACHE to a folder.")
        foreign = self.foreign_name()
        if foreign is not None:
            raise StoreError(
                f"{folder} holds {foreign!r} and no {VERSION_FILE} file, so it is not a cache of dreampose; set "
                "DREAMPOSE_CACHE to an empty folder."
            )
        if not self._names(folder):
            return False
        with contextlib.suppress(StoreError):  # where it cannot be written, it can still be read
            self.stamp()
        return True

    def foreign_name(self) -> str | None:
        """The first thing in the cache's folder that no cache holds, by its name; None where there is none."""
        folder, known = self.root, {*FOLDERS.values(), *STATE_FOLDERS, *LOOSE_FILES}
        for name in self._names(folder):
            if name not in known and not name.startswith(f".{VERSION_FILE}."):
                return name
            if name in LOOSE_FILES or not (folder / name).is_dir():
                continue
            for entry in self._names(folder / name):
                described = any((folder / name / entry / file).is_file() for file in _DESCRIBED.get(name, ()))
                linked = name == "bases" and (folder / name / entry).is_symlink()
                if not (described or linked or _OWN_NAMES.get(name, _NOTHING).fullmatch(entry)):
                    return f"{name}/{entry}"
        return None

    def stamp(self) -> None:
        """Write the version file, which makes a folder a cache."""
        with self.storing():
            atomic.write_text(self.root / VERSION_FILE, f"{VERSION}\n")

    def ensure(self) -> Path:
        """The cache folder, made and stamped with the version where it is new."""
        folder = self.root
        if not self.check():
            with self.storing():
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # photos of people are kept in it
            self.stamp()
        return folder

    def path_of(self, kind: str, id: str) -> Path:
        """The path of the entry `id` of `kind` is kept, whether or not it exists."""
        if not id or id.startswith(".") or "/" in id or "\\" in id:
            raise StoreError(f"{id!r} cannot be the name of something in the cache.")
        return self.root / FOLDERS[kind] / (f"{id}.poses" if kind == "poses" else id)

    def _names(self, folder: Path) -> list[str]:
        try:
            return sorted(name for name in os.listdir(folder) if name not in _OF_NOBODY)
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise self.store_error(problem, "read") from problem

    @contextlib.contextmanager
    def storing(self, within: Path | None = None) -> Iterator[None]:
        """Turn the system's errors into a StoreError; with `within`, only a full disk and errors in that folder, and whatever
        comes of its removal while the block runs."""
        try:
            yield
        except OSError as problem:
            if problem.errno in (errno.EMFILE, errno.ENFILE, errno.EFBIG):  # limits of the process, not of the cache
                raise
            ours = within is None or str(problem.filename or "").startswith(str(within))
            if ours or problem.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self.store_error(problem, "write") from problem
            raise
        except Exception as problem:  # of safetensors and torch, and what was made of it
            if within is not None and not within.exists():
                raise self.store_error(OSError(errno.ENOENT, "", str(within)), "write") from problem
            if is_full_disk(problem) and not isinstance(problem, DreamposeError):
                raise self.store_error(OSError(errno.ENOSPC, "No space left on device"), "write") from problem
            raise

    def store_error(self, problem: OSError, verb: str) -> StoreError:
        folder = self.root
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"the disk of the cache {folder} is full; make room (`dreampose cache prune`), "
                "or set DREAMPOSE_CACHE to a folder on another disk."
            )
        if problem.errno == errno.ENOENT:
            return StoreError(
                f"something in the cache {folder} was removed while it was in use ({problem.filename}); run the same "
                "command again."
            )
        return StoreError(
            f"cannot {verb} the cache {folder}: {problem.strerror or problem}; make it accessible, "
            "or set DREAMPOSE_CACHE to another folder."
        )
