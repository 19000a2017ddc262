"""The checksums of an entry, to compare it later, and who may read it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .digests import file_digest
from .folder import SUBJECT_JSON


def sums_of(kind: str, path: Path) -> dict[str, str]:
    """The SHA-256 of every file of an entry by its name in it, except of a subject's description."""
    return {name: file_digest(file) for name, file in files_of(kind, path)}


def files_of(kind: str, path: Path) -> list[tuple[str, Path]]:
    """The files of an entry whose content never changes, each with its name in the entry;  where it is that file."""
    if path.is_symlink():
        return []
    if path.is_file():
        return [("", path)]
    return [
        (file.relative_to(path).as_posix(), file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not (kind == "subject" and file.name == SUBJECT_JSON)
    ]


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
