"""Files and folders that appear whole or not at all: written in a work folder next to their place, flushed to the disk, and
renamed. What a killed process leaves is removed by the next write to the same place."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .locks import sweep, work_folder

_WINDOWS = sys.platform == "win32"
_WINDOWS_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds until whoever looks at a new file has closed it again


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path of the same name to write to, or to make a folder at; it becomes `path`, replacing what is there, unless
    the block fails.

    Raises OSError.
    """
    name = work_name(path)
    sweep(path.parent, name)
    with work_folder(path.parent, name) as folder:
        part = folder / path.name
        yield part
        publish(part, path)


def write_text(path: Path, text: str) -> None:
    """A small text file. Raises OSError."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def work_name(path: Path) -> str:
    """The name with which the work folders of `path`, which lie next to it, begin."""
    return f".{path.stem[:80]}{path.suffix[:20]}."


def publish(part: Path, path: Path) -> None:
    """Rename a finished file or folder to `path`; both the content and the name are on the disk afterwards.

    A folder that is there already is put aside next to `part`, and back where that fails.
    """
    _flush_all(part)
    if part.is_dir() and path.exists():
        old = part.with_name("old")
        _rename(path, old)
        try:
            _rename(part, path)
        except BaseException:
            _rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        _rename(part, path)
    _flush_folder(path.parent)


def _flush_all(part: Path) -> None:
    """Have the system write a file, or all of a folder, to the disk: a rename must not be there before what it names."""
    if not part.is_dir():
        _flush(part)
        return
    for folder, _, files in os.walk(part):
        for file in files:
            _flush(Path(folder, file))
        _flush_folder(Path(folder))


def _flush(file: Path) -> None:
    if file.is_symlink():
        return
    descriptor = os.open(file, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a file system that cannot say
            raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """So that names in it survive a power cut; where a system cannot do that for folders (Windows), its own way must do."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(source: Path, target: Path) -> None:
    """os.replace. Windows does not rename what a virus scanner or a player has open: there it is tried again for a while."""
    for seconds in _WINDOWS_WAITS if _WINDOWS else ():
        try:
            os.replace(source, target)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    os.replace(source, target)
