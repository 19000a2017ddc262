"""The progress of a batch: steps done of all, time left, failures, and a line for each worker with what it does."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.live import Live

from .output import PLAIN_PROGRESS_SECONDS, Output, duration, plain

MOST_WORKERS = 16  # lines on a terminal; of the others the number is said
REFRESH_SECONDS = 0.25


class Display:
    """A listener of a batch (`driver.Listener`): a picture on a terminal, a plain line now and then elsewhere, the
    manifest's lines on stdout with --json. A context manager."""

    def __init__(self, out: Output, planned):
        self.out, self.plan = out, planned.plan
        self.total = len(planned.plan.steps)
        self._live: Live | None = None
        self._at = time.monotonic()

    def __enter__(self) -> Display:
        if not self.out.quiet and self.total and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
            self.out._live = self._live
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self.out._live = None
            self._live.stop()

    # ---- what the driver tells

    def line(self, line: dict[str, Any]) -> None:
        """A line of the manifest."""
        if self.out.json:
            print(json.dumps(plain(line), ensure_ascii=False), flush=True)
        if line["event"] == "failed":
            again = "; it is tried again" if line["again"] else ""
            self.out.warn(f"{line['what']}: {line['error']}{again}")
        elif line["event"] == "done":
            self.out.detail(f"{line['what']}: {duration(line['seconds'])} on worker {line['worker']}")

    def note(self, text: str) -> None:
        """Word of a worker."""
        self.out.note(text)

    def state(self, driver) -> None:
        """Time to draw, where it is."""
        now = time.monotonic()
        if self._live is not None:
            if now - self._at >= REFRESH_SECONDS:
                self._at = now
                from rich.text import Text

                lines = [self.head(driver), *self.workers(driver)]
                width = self._live.console.width - 1
                self._live.update(Text("\n".join(line[:width] for line in lines)), refresh=True)
        elif now - self._at >= PLAIN_PROGRESS_SECONDS:
            self._at = now
            self.out.note("; ".join([self.head(driver), *self.workers(driver)[:3]]))

    def head(self, driver) -> str:
        """ "12 of 40 steps, about 3 min 20 s left, 1 failed"."""
        parts = [f"{driver.summary.steps} of {self.total} steps"]
        left = driver.seconds_left()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        if driver.summary.failures:
            parts.append(f"{len(driver.summary.failures)} failed")
        return ", ".join(parts)

    def workers(self, driver) -> list[str]:
        """A line for each worker: what it does, and how far it is."""
        lines = []
        for worker in driver.workers.values():
            if worker.running is None:
                words = "waits for work" if worker.ready else "starts"
            else:
                done, total, note = worker.running.progress
                count = f", {note} {done}/{total}" if total else f", {note}" if note else ""
                words = f"{worker.running.step.label}{count}, {duration(time.monotonic() - worker.running.began)}"
            lines.append(f"worker {worker.name}{f' on {worker.host}' if worker.host else ''}: {words}")
        more = len(lines) - MOST_WORKERS
        if not lines:
            lines = ["workers start"]
        return lines if more <= 0 else [*lines[:MOST_WORKERS], f"and {more} more workers"]
