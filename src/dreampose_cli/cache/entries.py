"""The entries of the cache, and how each describes itself."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DreamposeError, StoreError
from .folder import BASE_JSON, SUBJECT_JSON


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
        kind = "subject" if self.kind == "partial" else self.kind
        return f"{kind}-{self.id}"


def read_entry(kind: str, path: Path, root: Path) -> Entry | None:
    """The entry at `path` in the cache in `root`; None when it vanished while one looked."""
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
        broken = "unfinished"
    name = info.get("name") if isinstance(info.get("name"), str) else None
    with contextlib.suppress(OSError):
        main = path / {"subject": SUBJECT_JSON, "base": BASE_JSON}.get(kind, "")
        created = main.stat().st_mtime
    try:
        used = (root / "used" / f"{kind}-{id}").stat().st_mtime
    except OSError:
        used = created
    return Entry(kind, id, name, path, size, used, created, info, broken)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; ValueError or OSError when it is not one."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no JSON object")
    return document


def _info(kind: str, path: Path) -> dict[str, Any]:
    """An entry's own description; an exception when it is broken."""
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


def photos_of(entry: Entry) -> list[Any]:
    """The photos that a subject was tuned from, as its description has them."""
    photos = entry.info.get("photos")
    return photos if isinstance(photos, list) else []


def base_of(entry: Entry) -> Any:
    """The fingerprint of the base that a subject was tuned on."""
    base = entry.info.get("base")
    return base.get("fingerprint") if isinstance(base, dict) else None


def _size(path: Path) -> int:
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
