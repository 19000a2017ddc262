"""The cache folder itself: where it is, its version, keys, and the system's errors as sentences."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DreamposeError, MediaError, StoreError

VERSION = 1
VERSION_FILE = "cache-version"
SUBJECT_JSON = "subject.json"
BASE_JSON = "base.json"
FOLDERS = {"subject": "subjects", "base": "bases", "poses": "poses", "data": "data", "edit": "edits", "partial": "partial"}
KINDS = tuple(FOLDERS)
STATE_FOLDERS = ("locks", "used", "sums", "places")
LOOSE_FILES = ("last-subject", VERSION_FILE, "trusted-code")
_OF_NOBODY = ("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini", "CACHEDIR.TAG")
_DESCRIBED = {"subjects": (SUBJECT_JSON,), "bases": (BASE_JSON,)}
_SMALL = 1 << 17  # bytes of a file that is read at once
_NOTHING = re.compile(r"(?!)")
_OWN_NAMES = {  # of what stands in each folder: by these a cache is known whose version file is lost
    "subjects": re.compile(r"[0-9a-f]{16}"),
    "poses": re.compile(r"[0-9a-f]{16}\.poses"),
    "data": re.compile(r"[0-9a-f]{16}"),
    "partial": re.compile(r"[0-9a-f]{16}|\.{1,2}tmp-[0-9a-f]{12}.*"),
    "locks": re.compile(r".+\.lock"),
    "used": re.compile(r"(subject|base|poses|data|partial)-.+"),
    "sums": re.compile(r"(subject|base|poses|data|partial)-.+\.json"),
    "places": re.compile(r"[0-9a-f]{16}"),
}


def root() -> Path:
    """The cache folder; it need not exist."""
    chosen = os.environ.get("DREAMPOSE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("dreampose", appauthor=False))


@contextlib.contextmanager
def within(folder: str | os.PathLike) -> Iterator[None]:
    """Another cache, in `folder`, for the length of the block: the user's subjects, and which was tuned last, stay as
    they are."""
    before = os.environ.get("DREAMPOSE_CACHE")
    os.environ["DREAMPOSE_CACHE"] = os.path.abspath(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["DREAMPOSE_CACHE"]
        else:
            os.environ["DREAMPOSE_CACHE"] = before


def version() -> str | None:
    """What the folder's version file says; None where there is none."""
    try:
        return (root() / VERSION_FILE).read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise store_error(problem, "read") from problem


def check() -> bool:
    """True when a cache of this version is there, False when there is none yet; StoreError when it is unusable."""
    folder, found = root(), version()
    if found == str(VERSION):
        return True
    if found is not None and found.isdigit():
        raise StoreError(
            f"the cache in {folder} was made by another version of dreampose (format {found[:20]!r}, this one reads "
            f"'{VERSION}'); empty it with `dreampose cache rm --all`, or set DREAMPOSE_CACHE to another folder."
        )
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is no folder, so it cannot be the cache; set DREAMPOSE_CACHE to a folder.")
    foreign = foreign_name()
    if foreign is not None:
        raise StoreError(
            f"{folder} holds {foreign!r} and no {VERSION_FILE} file, so it is not a cache of dreampose; set "
            "DREAMPOSE_CACHE to an empty folder."
        )
    if not _names(folder):
        return False
    with contextlib.suppress(StoreError):  # where it cannot be written, it can still be read
        stamp()
    return True


def foreign_name() -> str | None:
    """The first thing in the cache's folder that no cache holds, by its name; None where there is none."""
    folder, known = root(), {*FOLDERS.values(), *STATE_FOLDERS, *LOOSE_FILES}
    for name in _names(folder):
        if name not in known and not name.startswith(f".{VERSION_FILE}."):
            return name
        if name in LOOSE_FILES or not (folder / name).is_dir():
            continue
        for entry in _names(folder / name):
            described = any((folder / name / entry / file).is_file() for file in _DESCRIBED.get(name, ()))
            linked = name == "bases" and (folder / name / entry).is_symlink()
            if not (described or linked or _OWN_NAMES.get(name, _NOTHING).fullmatch(entry)):
                return f"{name}/{entry}"
    return None


def stamp() -> None:
    """Write the version file, which makes a folder a cache."""
    with storing():
        write_text(root() / VERSION_FILE, f"{VERSION}\n")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name not in _OF_NOBODY)
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise store_error(problem, "read") from problem


def ensure() -> Path:
    """The cache folder, made and stamped with the version where it is new."""
    from .healing import sweep_once

    folder = root()
    if not check():
        with storing():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # photos of people are kept in it
        stamp()
    sweep_once()
    return folder


def path_of(kind: str, id: str) -> Path:
    """Where the entry `id` of `kind` is kept, whether or not it exists."""
    if not id or id.startswith(".") or "/" in id or "\\" in id:
        raise StoreError(f"{id!r} cannot be the name of something in the cache.")
    return root() / FOLDERS[kind] / (f"{id}.poses" if kind == "poses" else id)


def key(*parts: Any) -> str:
    """16 hex digits of the SHA-256 over `parts`: bytes, or anything JSON can say (dicts in any order)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            mark, raw = b"b", part
        else:
            mark = b"j"
            raw = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        digest.update(mark + str(len(raw)).encode() + b":" + raw)
    return digest.hexdigest()[:16]


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits. MediaError when it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size <= _SMALL:  # the buffer of file_digest costs more than such a file
                return hashlib.sha256(file.read()).hexdigest()
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise MediaError(f"cannot read {os.fspath(path)}: {problem.strerror or problem}.") from problem


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a small JSON file, whole or not at all."""
    with storing():
        write_text(path, json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; ValueError or OSError when it is not one."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no JSON object")
    return document


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def storing(within: Path | None = None) -> Iterator[None]:
    """Turn the system's errors into a StoreError; with `within`, only a full disk and errors in that folder."""
    try:
        yield
    except OSError as problem:
        ours = within is None or str(problem.filename or "").startswith(str(within))
        if ours or problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise store_error(problem, "write") from problem
        raise
    except DreamposeError:
        raise
    except Exception as problem:  # safetensors and torch: a full disk only shows in the text
        if "No space left on device" in str(problem):
            raise store_error(OSError(errno.ENOSPC, "No space left on device"), "write") from problem
        raise


def store_error(problem: OSError, verb: str) -> StoreError:
    folder = root()
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
