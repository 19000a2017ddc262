"""How an entry comes into the cache: whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..media.durable import to_disk
from .folder import check, ensure, path_of, root, storing
from .healing import close_to_others, write_sums
from .locks import lock


@contextlib.contextmanager
def publish_folder(kind: str, id: str) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end of the block it becomes the entry, after an error it is gone.

    An entry of that id is replaced. Readers see the old one or the new one, never a half.
    """
    with _publishing(kind, id) as temporary:
        with storing():
            temporary.mkdir()
        yield temporary


@contextlib.contextmanager
def publish_file(kind: str, id: str) -> Iterator[Path]:
    """As `publish_folder`, for entries that are one file (poses): yields a path to write to."""
    with _publishing(kind, id) as temporary:
        yield temporary


def publish_partial(id: str, kind: str) -> Path:
    """Make the finished resumable work partial/ID the entry `id` of `kind`, and return its path."""
    ensure()
    final, source = path_of(kind, id), path_of("partial", id)
    if kind == "subject":
        close_to_others(source)
    write_sums(kind, id, source)
    with storing():
        final.parent.mkdir(exist_ok=True)
        _replace(source, final)
    touch(kind, id)
    return final


def partial_folder(id: str) -> Path:
    """The folder for resumable work on `id`, made if missing; hold `lock(f"subject-{id}")` while using it."""
    ensure()
    folder = path_of("partial", id)
    with storing():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def discard_partial(id: str) -> None:
    """Remove the resumable work on `id`, if any."""
    if check():
        with storing():
            delete(path_of("partial", id))


def touch(kind: str, id: str) -> None:
    """Note that an entry was used now. A read-only cache is no reason to fail."""
    marker = root() / "used" / f"{kind}-{id}"
    with contextlib.suppress(OSError):
        marker.parent.mkdir(exist_ok=True)
        marker.touch()


@contextlib.contextmanager
def _publishing(kind: str, id: str) -> Iterator[Path]:
    final, folder = path_of(kind, id), ensure() / "partial"
    temporary = folder / f".tmp-{uuid.uuid4().hex[:12]}"
    with storing():
        folder.mkdir(exist_ok=True)
        final.parent.mkdir(exist_ok=True)
    with lock(f"partial-{temporary.name}"):  # so that prune can tell a write in flight from one that was cut off
        try:
            with storing(within=folder):
                yield temporary
                ensure()
                if kind == "subject":
                    close_to_others(temporary)
                write_sums(kind, id, temporary)
                final.parent.mkdir(exist_ok=True)
                _replace(temporary, final)
        finally:
            with contextlib.suppress(OSError):
                delete(temporary, at_once=True)
    touch(kind, id)


def _replace(source: Path, final: Path) -> None:
    to_disk(source)
    for attempt in range(3):  # the same entry may be published by two processes at once; the last one wins
        if source.is_dir() and final.exists():
            delete(final)
        try:
            os.replace(source, final)
            return
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == 2:
                raise


def delete(path: Path, *, at_once: bool = False) -> None:
    """Remove a file or folder; a folder is renamed away first, so that nobody reads a half of it."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.is_dir():
        if not at_once:
            away = root() / "partial" / f".tmp-{uuid.uuid4().hex[:12]}"
            away.parent.mkdir(exist_ok=True)
            path = path.rename(away)
        with contextlib.suppress(FileNotFoundError):  # somebody prunes at the same time
            shutil.rmtree(path)
