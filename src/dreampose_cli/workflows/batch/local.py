"""Engine "local": worker processes of this machine, each with the base in memory.

A worker is a process of its own even where there is one: what the kernel kills for its memory, or what runs longer than
it may, takes the step with it and not the batch.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

from ...cache import Cache
from ...errors import EngineError
from . import engine as engines
from .engine import Event

FALSE_STARTS = 3  # in a row, of processes that end before they are ready
ENDING_SECONDS = 15.0
SHOWN_LINES = 3


class _Process:
    """A worker process and the threads that read what it says."""

    def __init__(self, name: str, root: str, device: str, threads: int | None, events: queue.Queue):
        self.name, self.events, self.was_ready, self.step = name, events, False, None
        self.words: deque[str] = deque(maxlen=20)
        environment = dict(os.environ)
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dreampose_cli.workflows.batch.worker", root, device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", errors="surrogateescape", env=environment,
            **apart,  # Ctrl-C is for the driver, which tells the workers
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout and self.process.stderr  # pipes, as asked for
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        self.listening = threading.Thread(target=self._listen_to_errors, daemon=True)
        self.listening.start()
        self.hearing = threading.Thread(target=self._listen, daemon=True)
        self.hearing.start()

    def send(self, message: dict[str, Any]) -> None:
        self.stdin.write(json.dumps(message) + "\n")
        self.stdin.flush()

    def end(self, patience: float = 0.0) -> None:
        """Let the process clean up for `patience` seconds, then end it at once."""
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            self.process.wait(max(0.01, patience))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _listen(self) -> None:
        with self.stdout as lines:
            for text in lines:
                try:
                    message = json.loads(text)
                except ValueError:
                    continue  # the half of a line: the process was killed while it wrote
                self.events.put((self, Event(self.name, message["kind"], message["step"], message["data"])))
        self.process.wait()
        self.listening.join(1.0)
        self.events.put((self, Event(self.name, engines.LOST, data={"sentence": self._last_words()})))

    def _listen_to_errors(self) -> None:
        with self.stderr as lines:
            for text in lines:
                self.words.append(text.rstrip())

    def _last_words(self) -> str:
        code = self.process.returncode
        how = "was killed, perhaps for its memory" if code in (-9, 137) else f"ended with exit code {code}"
        said = " / ".join(list(self.words)[-SHOWN_LINES:])
        return f"worker {self.name} {how}{f' ({said})' if said else ''}."


class LocalEngine:
    """`workers` processes on `devices`, by turns; `threads` of each, None for those the machine would give it."""

    name = "local"

    def __init__(self, cache: Cache, workers: int = 1, devices: list[str] | None = None, threads: int | None = None):
        self.cache, devices = cache, devices or ["auto"]
        self.devices = {f"{i + 1}": devices[i % len(devices)] for i in range(max(workers, len(devices)))}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        several = len(self.devices) > 1
        self.threads = threads or (max(1, cores // len(self.devices)) if several else None)
        self._processes: dict[str, _Process] = {}
        self._events: queue.Queue[tuple[_Process, Event]] = queue.Queue()
        self._false_starts = 0

    def start(self) -> None:
        for name in self.devices:
            self._spawn(name)

    def _spawn(self, name: str) -> None:
        self._processes[name] = _Process(name, str(self.cache.root), self.devices[name], self.threads, self._events)

    def submit(self, worker: str, step: str, task: dict[str, Any], ahead: dict[str, Any] | None) -> None:
        process = self._processes[worker]
        with contextlib.suppress(OSError):  # it has just died, and its listener says so
            process.send({"task": task, "ahead": ahead})

    def events(self, timeout: float) -> list[Event]:
        found: list[Event] = []
        until = time.monotonic() + timeout
        while not found or not self._events.empty():
            try:
                process, event = self._events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if self._processes.get(process.name) is not process:
                continue  # the last word of one that was replaced
            if event.kind == engines.READY:
                process.was_ready, self._false_starts = True, 0
            if event.kind == engines.LOST:
                if not process.was_ready:
                    self._false_starts += 1
                process.end()
                if self._false_starts >= FALSE_STARTS:
                    raise EngineError(f"no worker can be started: {event.data['sentence']}")
                self._spawn(process.name)
            found.append(event)
        return found

    def kill(self, worker: str) -> None:
        self._processes[worker].end()
        self._spawn(worker)

    def close(self) -> None:
        processes, self._processes = list(self._processes.values()), {}
        for process in processes:
            with contextlib.suppress(OSError):
                process.stdin.close()
        until = time.monotonic() + ENDING_SECONDS
        for process in processes:
            process.end(until - time.monotonic())
            process.listening.join(1.0)
            process.hearing.join(1.0)
