"""Entries that travel: a subject or a pose sequence as one file with a checksum of each part, from cache to cache."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec

from ..errors import StoreError, UsageError
from ..regular import require_regular
from .digests import file_digest
from .entries import Entry
from .folder import SUBJECT_JSON
from .store import Cache

FORMAT, VERSION = "dreampose-entry", 1
HEADER = "entry.json"
TRAVELS = ("subject", "poses")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # one date for all members: the same entry gives the same bytes
_BLOCK = 1 << 20
# What the zip module raises for damaged files, besides its own.
_DAMAGED = (KeyError, TypeError, ValueError, EOFError, RuntimeError, NotImplementedError, OverflowError)


class _Header(msgspec.Struct):
    format: Literal["dreampose-entry"]
    version: int
    kind: Literal["subject", "poses"]
    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    files: dict[Annotated[str, msgspec.Meta(max_length=200)], Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]]


def export_entry(entry: Entry, file: str | os.PathLike | IO[bytes]) -> None:
    """Write an entry into `file`. Raises UsageError for kinds that do not travel, StoreError for a broken entry."""
    if entry.kind not in TRAVELS:
        raise UsageError(f"{entry.kind} {entry.id} cannot be exported; subjects and poses can.")
    if entry.broken:
        raise StoreError(
            f"{entry.kind} {entry.id} is broken ({entry.broken}); `dreampose cache rm {entry.id}` removes it."
        )
    parts = sorted(path for path in entry.path.rglob("*") if path.is_file()) if entry.path.is_dir() else [entry.path]
    names = {path: path.relative_to(entry.path).as_posix() if entry.path.is_dir() else path.name for path in parts}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": entry.kind,
        "id": entry.id,
        "files": {names[path]: file_digest(path) for path in parts},
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(HEADER, _EPOCH), json.dumps(header, indent=2))
        for path in parts:
            with (
                path.open("rb") as source,
                archive.open(zipfile.ZipInfo(names[path], _EPOCH), "w", force_zip64=True) as to,
            ):
                while block := source.read(_BLOCK):
                    to.write(block)


def import_entry(
    cache: Cache, file: str | os.PathLike | IO[bytes], name: str | None = None
) -> tuple[str, str, Path, bool]:
    """Put an exported entry into this cache; returns its kind, its id, where it is, and whether it was new.

    `name`: what to call the file in errors. Every part is compared with its checksum before anything is in the cache.
    Raises StoreError where the file is none, is damaged or of another version.
    """
    what = name or str(file)
    try:
        if isinstance(file, str | os.PathLike):
            require_regular(file)
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise KeyError(FORMAT)  # what is compressed could be without end
            header = msgspec.json.decode(archive.read(HEADER), type=_Header)
            kind, id, files = header.kind, header.id, header.files
            if not all(map(_is_safe, files)):
                raise KeyError(FORMAT)
            if header.version != VERSION:
                raise StoreError(
                    f"{what} is of another version ({header.version}, this one reads {VERSION}); export it again with "
                    "the dreampose that reads it here."
                )
            final = cache.path_of(kind, id)
            with cache.lock(f"{kind}-{id}", what=f"the {kind} {id}"):
                if final.exists():
                    return kind, id, final, False
                if kind == "poses":
                    (member,) = files
                    with cache.publish_file(kind, id) as place:
                        _copy(archive, member, place, files[member], what)
                else:
                    if SUBJECT_JSON not in files:
                        raise KeyError(SUBJECT_JSON)
                    with cache.publish_folder(kind, id) as folder:
                        for member, digest in files.items():
                            (folder / member).parent.mkdir(parents=True, exist_ok=True)
                            _copy(archive, member, folder / member, digest, what)
            return kind, id, final, True
    except FileNotFoundError as error:
        raise StoreError(f"{what} does not exist; check the path.") from error
    except PermissionError as error:
        raise StoreError(f"{what} cannot be read: {error.strerror}; check its permissions.") from error
    except StoreError:
        raise
    except (zipfile.BadZipFile, msgspec.MsgspecError, OSError, *_DAMAGED) as error:
        raise StoreError(
            f"{what} is no entry that `dreampose cache export` wrote, or it is damaged; export or copy it again."
        ) from error


def _copy(archive: zipfile.ZipFile, member: str, place: Path, digest: str, what: str) -> None:
    total = hashlib.sha256()
    with archive.open(member) as source, place.open("wb") as to:
        while block := source.read(_BLOCK):
            total.update(block)
            to.write(block)
    if total.hexdigest() != digest:
        raise StoreError(f"{what} is damaged: {member} is not what was exported; export or copy it again.")


def _is_safe(name: str) -> bool:
    """Whether a member's name stays within the entry."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and bool(path.parts)
