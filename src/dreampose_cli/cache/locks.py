"""Locks between processes that a dead process cannot keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..errors import StoreError
from .filelock import hold
from .folder import ensure, storing


@contextlib.contextmanager
def lock(
    name: str, *, timeout: float | None = None, waiting: Callable[[str], None] | None = None, what: str = ""
) -> Iterator[None]:
    """Hold the lock `name` for the duration of a `with` block. That of an entry is called KIND-ID (`Entry.lock_name`).

    The operating system releases the lock of a process that dies. `timeout` in seconds, None waits as long as it
    takes, 0 does not wait; StoreError when the time is over. `waiting` is told once that another process has it.
    Not reentrant: the same process waits for itself too.
    """
    what = what or name
    release = take(name, 0)
    if release is None and timeout != 0:
        if waiting is not None:
            waiting(f"another dreampose is working on {what}; waiting for it")
        release = take(name, timeout)
    if release is None:
        waited = f" after {timeout:g} seconds" if timeout else ""
        raise StoreError(f"{what} is in use by another dreampose{waited}; wait for it to end and try again.")
    try:
        yield
    finally:
        release()


def take(name: str, timeout: float | None) -> Callable[[], None] | None:
    """The function that releases the lock `name`, once it is held; None when the time is over."""
    folder = ensure() / "locks"
    with storing():
        folder.mkdir(exist_ok=True)
        return hold(folder / f"{name}.lock", timeout)
