"""Samples loaded ahead of the steps that need them, in threads, in their order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Prefetcher:
    """An iterator over the results of `jobs`, which are functions of nothing else, so that threads change no result.

    Reading and unpacking files lets other threads compute, so threads do what processes would, without copies. `waited`
    says how many seconds the last result kept its taker waiting. A context manager: leaving it ends the threads. An
    error of a job is raised where its result would have been taken.
    """

    def __init__(self, jobs: Iterator[Callable[[], Any]], threads: int):
        self.jobs, self.waited = jobs, 0.0
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="loader") if threads else None
        self.ahead = 2 * threads
        self.running: deque[Future] = deque()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        began = time.monotonic()
        try:
            if self.pool is None:
                return next(self.jobs)()
            self._fill(self.pool)
            if not self.running:
                raise StopIteration
            result = self.running.popleft().result()
            self._fill(self.pool)
            return result
        finally:
            self.waited = time.monotonic() - began

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        while len(self.running) < self.ahead:
            job = next(self.jobs, None)
            if job is None:
                return
            self.running.append(pool.submit(job))

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
