"""A worker of the local engine: reads steps as lines of JSON on stdin, and tells on stdout what becomes of them.

When stdin ends, the driver is gone or wants no more: the step in hand is interrupted as by Ctrl-C, so that it cleans up,
and the process ends.
"""

from __future__ import annotations

import _thread
import json
import os
import platform
import queue
import sys
import threading
import time
import warnings
from typing import Any, TextIO

PROGRESS_SECONDS = 0.5
CLEANING_SECONDS = 10.0


class Line:
    """The way back to the driver: one message a line, from any thread."""

    def __init__(self, stream: TextIO):
        self.stream, self.lock = stream, threading.Lock()
        self._said = 0.0

    def say(self, kind: str, step: str | None = None, **data: Any) -> None:
        """Send one message."""
        text = json.dumps({"kind": kind, "step": step, "data": data}) + "\n"
        with self.lock:
            self.stream.write(text)
            self.stream.flush()

    def progress_of(self, step: str):
        """A callback for the progress of a step, which passes on two messages a second at most."""

        def report(done: int, total: int | None = None, note: str = "") -> None:
            now = time.monotonic()
            if now - self._said >= PROGRESS_SECONDS:
                self._said = now
                self.say("progress", step, done=done, total=total, note=note)

        return report


def main(root: str, device: str) -> int:
    """Work until stdin ends, with the cache in `root`."""
    back = Line(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # what libraries print must not come between the messages
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    tasks: queue.Queue = queue.Queue()
    threading.Thread(target=_read, args=(tasks,), name="tasks", daemon=True).start()
    try:
        from ...cache import Cache
        from .steps import StepRunner

        runner = StepRunner(Cache(root), device)
        back.say("ready", host=platform.node(), pid=os.getpid())
        while (message := tasks.get()) is not None:
            task, step = message["task"], message["task"]["id"]
            kind, data = runner.run(
                task,
                message.get("ahead"),
                back.progress_of(step),
                lambda text, step=step: back.say("note", step, text=text),
            )
            back.say(kind, step, **data)
            back.say("ready", host=platform.node(), pid=os.getpid())
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


def _read(tasks: queue.Queue) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    tasks.put(None)
    _thread.interrupt_main()
    time.sleep(CLEANING_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2])
    sys.stderr.flush()
    os._exit(code)  # threads of libraries may not want to end
