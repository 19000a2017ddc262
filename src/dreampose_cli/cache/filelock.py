"""Locks between processes that a dead process cannot keep: the kernel's own (flock, or msvcrt on Windows)."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # mypy knows the module alone

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_POLL_SECONDS = 0.05


def hold(path: Path, timeout: float | None) -> Callable[[], None] | None:
    """Take the lock of the file `path` and return the function that releases it.

    None when another holder (also one in this process) kept it for `timeout` seconds; `timeout` None waits for ever.
    A file system without locks grants everything: results are published atomically, so the worst case is work
    done twice. OSError when the file cannot be made.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        release = _try(path)
        if release is not None:
            return release
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)


def _try(path: Path) -> Callable[[], None] | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        _lock(descriptor)
    except OSError as problem:
        if problem.errno in _BUSY:
            os.close(descriptor)
            return None
    # The last holder removes the file: what was locked must still be the file that others will open.
    try:
        current = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        current = False
    if not current:
        os.close(descriptor)
        return None

    def release() -> None:
        with contextlib.suppress(OSError):  # Windows does not remove open files; an empty file is harmless
            path.unlink()
        os.close(descriptor)

    return release


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
