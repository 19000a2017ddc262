"""Locks between processes that a dead process cannot keep, and folders for work in flight that do not outlive theirs."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.05
LOCK = "lock"  # the file in a work folder whose lock its process holds


def hold(path: Path, timeout: float | None) -> Callable[[], None] | None:
    """Take the lock of the file `path` and return the function that releases it, and removes the file.

    None when another holder (also one in this process) kept it for `timeout` seconds; `timeout` None waits for ever.
    OSError when the file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=-1 if timeout is None else timeout, thread_local=False)
    try:
        lock.acquire(poll_interval=POLL_SECONDS)
    except Timeout:
        return None

    def release() -> None:
        if os.name == "posix":  # while the lock is held: who has opened the file meanwhile sees that it is gone
            with suppress(OSError):
                path.unlink()
        lock.release()

    return release


@contextmanager
def work_folder(parent: Path, name: str = "") -> Iterator[Path]:
    """Yield a new folder `nameRANDOM.tmp` in `parent`, which is gone when the block ends.

    This process holds a lock in it: where it can be taken, the process is dead, and `sweep` removes the folder.
    """
    while True:
        folder = parent / f"{name}{secrets.token_hex(4)}.tmp"
        folder.mkdir()
        release = None
        try:
            release = hold(folder / LOCK, 0)
        except FileNotFoundError:
            continue  # swept before the lock was taken
        except OSError:
            break  # a file system without locks: nobody can take it there, so nothing is swept
        if release is not None:
            break
    try:
        yield folder
    finally:
        _remove(folder, release)


def sweep(parent: Path, name: str = "") -> list[Path]:
    """Remove the work folders of this `name` that dead processes have left; what cannot be removed stays."""
    gone: list[Path] = []
    with suppress(OSError):
        left = [folder for folder in os.listdir(parent) if folder.startswith(name) and is_work_folder(folder, name)]
        for folder in (parent / each for each in left):
            with suppress(OSError):
                release = hold(folder / LOCK, 0)
                if release is not None:
                    _remove(folder, release)
                    gone.append(folder)
    return gone


def is_work_folder(file: str, name: str = "") -> bool:
    """Whether a file name is that of a work folder."""
    digits = file.removeprefix(name).removesuffix(".tmp")
    return file == f"{name}{digits}.tmp" and len(digits) == 8 and set(digits) <= set("0123456789abcdef")


def _remove(folder: Path, release: Callable[[], None] | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if release is not None:
        release()
    shutil.rmtree(folder, ignore_errors=True)  # on Windows the lock's file stays as long as it is open
