"""Work that continues in threads while its results are taken, in their order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
Check = Callable[..., None]
THREAD = "prefetch"  # how the names of the threads begin
_PATIENCE = 10.0  # seconds to wait for threads that were told to stop; those that render look up after every denoising step
_LOOKS_UP = 0.2  # seconds at most of a wait: then a thread sees that it was told to stop, and Windows hears Ctrl-C


class _Gone(Exception):
    """Whoever took the results has left."""


def prefetch(make: Callable[[Check], Iterator[T]], depth: int) -> Generator[T]:
    """The items of `make(check)`, computed in one thread up to `depth` ahead of whoever takes them, in their order.

    What is raised there is raised here. `check` is for the work to call now and then: once this iterator is closed, it
    raises, which ends the work.
    """
    gone = threading.Event()

    def check(*_: object) -> None:
        if gone.is_set():
            raise _Gone

    # The thread makes an item when it asks for the next job, so that nothing is left to do in the job itself.
    jobs = ((lambda item=item: item) for item in make(check))
    with Prefetcher(jobs, 1, depth, gone) as results:
        yield from results


class Prefetcher(Iterator[Any]):
    """The results of `jobs`, which are functions of no arguments, so that threads change no result.

    The threads take the jobs in turn; up to `depth` results wait to be taken, two a thread by default. Without threads a job
    is done when its result is asked for. Reading and unpacking files lets other threads compute, so threads do what processes
    would, without copies. `waited` says how many seconds the last result kept its taker waiting. An error of a job is raised
    where its result would have been taken. A context manager: leaving it, which sets `gone`, ends the threads.
    """

    def __init__(
        self, jobs: Iterator[Callable[[], Any]], threads: int, depth: int | None = None, gone: threading.Event | None = None
    ):
        self.waited = 0.0
        self._jobs = jobs
        self._gone = gone or threading.Event()
        self._turn = threading.Lock()
        self._results: queue.Queue[Future | None] = queue.Queue(depth or 2 * threads)  # as the jobs come; None is the end
        self._threads = [
            threading.Thread(target=self._work, name=f"{THREAD}-{i}", daemon=True) for i in range(threads)
        ]
        self._started = self._ended = False

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        began = time.monotonic()
        try:
            return self._take() if self._threads else next(self._jobs)()
        finally:
            self.waited = time.monotonic() - began

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        for thread in self._threads if self._started else ():
            thread.join(_PATIENCE)

    def _take(self) -> Any:
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        while not self._ended:
            try:
                future = self._results.get(timeout=_LOOKS_UP)
            except queue.Empty:
                continue
            if future is not None:
                return future.result()
            self._ended = True
        raise StopIteration

    def _work(self) -> None:
        """One thread: take the next job and a place among the results, then do the job."""
        try:
            while True:
                result: Future = Future()
                with self._turn:
                    try:
                        job = next(self._jobs)
                    except StopIteration:
                        self._put(None)
                        return
                    except _Gone:
                        raise
                    except BaseException as error:  # it belongs to the taker
                        result.set_exception(error)
                        self._put(result)
                        continue
                    self._put(result)
                try:
                    result.set_result(job())
                except BaseException as error:
                    result.set_exception(error)
        except _Gone:
            with self._turn:
                if isinstance(self._jobs, Generator):
                    self._jobs.close()  # here, since what it has entered may belong to this thread

    def _put(self, result: Future | None) -> None:
        while not self._gone.is_set():
            try:
                return self._results.put(result, timeout=_LOOKS_UP)
            except queue.Full:
                continue
        raise _Gone
