"""Results appear whole or not at all: written next to their place under a temporary name, then renamed.

What is renamed is on the disk: after a power cut, too, a result is whole or not there.
A process that is killed leaves at most a hidden `.name.WHERE-PID-RANDOM.tmp` sibling behind, never half a result. The
next write to the same place removes it, once that process is gone; where that cannot be known, once it is a day old.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .durable import to_disk
from .outputs import FULL_DISK, output_error, require_place, require_replaceable

_STALE_SECONDS = 86400.0  # without a write, where the writer cannot be asked for
_WINDOWS = sys.platform == "win32"
_WINDOWS_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds until whoever looks at a new file has closed it again
_REUSED_SECONDS = 60.0  # a process that began so long after the last write is another one with the same number


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary sibling (same suffix) to write to; it becomes `path` on success and vanishes on any failure.

    Makes the folders above it. Replaces an existing file; whether that is wanted is asked by `check_output`. Raises
    OutputError when folder or file cannot be written (full disk, no permission).
    """
    target = Path(os.path.realpath(path))  # through a symbolic link, so that the link survives
    _make_parent(path, target)
    _sweep(target, "tmp")
    part = _sibling(target)
    try:
        yield part
        to_disk(part)
        _replace(part, target)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and _is_about(error, part):
            raise output_error(path, error) from error
        raise


@contextmanager
def atomic_folder(
    path: str | os.PathLike, overwrite: bool = False, *, owned: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Yield a new temporary folder to fill; it becomes `path` on success and vanishes on any failure.

    An existing folder is replaced only if it is empty or `overwrite` is set. With `owned`, a test of file names, it
    is replaced only if every name in it passes: files of somebody else are never deleted. Without `owned` the caller
    answers for its contents. Raises OutputExistsError and OutputError, before and after the work.
    """
    target = Path(os.path.realpath(path))
    _make_parent(path, target)
    require_replaceable(path, overwrite, owned)
    _sweep(target, "tmp")
    part = _sibling(target)
    try:
        part.mkdir()
        yield part
        to_disk(part)
        require_replaceable(path, overwrite, owned)  # again: the work may have taken hours
        _replace_folder(part, target)
        _sweep(target, "old")  # not before: it may be the last whole result there is
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError) and _is_about(error, part):
            raise output_error(path, error) from error
        raise


def _sibling(target: Path, kind: str = "tmp") -> Path:
    writer = f"{_here()}-{os.getpid()}-{secrets.token_hex(4)}"
    return target.with_name(f".{target.stem[:80]}.{writer}.{kind}{target.suffix}")


@functools.lru_cache(maxsize=1)
def _here() -> str:
    """Eight digits for where a process number means this process: machine, start of it, and container."""
    parts = [platform.node()]
    with suppress(OSError):  # Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text("ascii"), os.readlink("/proc/self/ns/pid")]
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


def _sweep(target: Path, kind: str) -> None:
    """Remove what killed processes have left of writes to `target`. What cannot be removed is left."""
    name = re.compile(rf"\.{re.escape(target.stem[:80])}\.([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{8}}\.{kind}(.*)", re.DOTALL)
    of_target = {target.suffix, ".mkv", ".palette.png"}  # the latter two on the way to a .gif
    with suppress(OSError), os.scandir(target.parent) as entries:
        left = [(entry, match) for entry in entries if (match := name.fullmatch(entry.name)) and match[3] in of_target]
        for entry, (where, pid) in ((entry, match.group(1, 2)) for entry, match in left):
            with suppress(OSError):
                written = entry.stat(follow_symlinks=False).st_mtime
                if _is_gone(int(pid), written) if where == _here() else time.time() - written > _STALE_SECONDS:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)


def _is_gone(pid: int, written: float) -> bool:
    """Whether the process that wrote at this time is no more."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > written + _REUSED_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError, OverflowError):
        return False


def _make_parent(path: str | os.PathLike, target: Path) -> None:
    require_place(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _is_about(error: OSError, part: Path) -> bool:
    """Whether the error came from writing the result, not from something else that went on meanwhile."""
    if error.errno in FULL_DISK:
        return True
    name = error.filename
    return isinstance(name, str | os.PathLike) and (Path(name) == part or part in Path(name).parents)


def _replace(source: Path, target: Path) -> None:
    """os.replace. Windows does not rename what a virus scanner or a player has open: there it is tried again for a while."""
    for seconds in _WINDOWS_WAITS if _WINDOWS else ():
        try:
            os.replace(source, target)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    os.replace(source, target)


def _replace_folder(part: Path, target: Path) -> None:
    if not target.exists():
        _replace(part, target)
        return
    old = _sibling(target, "old")
    _replace(target, old)
    try:
        _replace(part, target)
    except BaseException:
        _replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
