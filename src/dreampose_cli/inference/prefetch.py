"""Work that continues in a thread while its results are taken: the next frames are computed while these are encoded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
Check = Callable[..., None]
_PATIENCE = 10.0  # seconds to wait for a thread that was told to stop; it looks up after every denoising step


class _Gone(Exception):
    """Whoever took the results has left."""


def prefetch(make: Callable[[Check], Iterator[T]], depth: int) -> Generator[T]:
    """The items of `make(check)`, computed in a thread up to `depth` ahead of whoever takes them, in their order.

    What is raised there is raised here. `check` is for the work to call now and then: once this iterator is closed, it
    raises, which ends the work.
    """
    results: queue.Queue = queue.Queue(depth)
    gone = threading.Event()

    def check(*_: object) -> None:
        if gone.is_set():
            raise _Gone

    def put(kind: str, value: object) -> None:
        while True:
            check()
            try:
                return results.put((kind, value), timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            try:
                for item in make(check):
                    put("item", item)
                put("end", None)
            except _Gone:
                raise
            except BaseException as error:
                put("error", error)
        except _Gone:
            return

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, value = results.get(timeout=0.2)  # without a limit Windows would not hear Ctrl-C
            except queue.Empty:
                continue
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        gone.set()
        thread.join(_PATIENCE)
