"""The loop of a batch: steps to workers, failures to retries, everything to the manifest.

It holds no state that the manifest and the results do not: killed and started again, it plans again and does the rest.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...errors import OutputError
from . import engine as engines
from .engine import Engine, Event
from .estimates import Measured
from .failures import FATAL, LOST, PASSING, TIMEOUT
from .manifest import Manifest
from .plan import SUBJECT, VIDEO, Plan, Step
from .schedule import Schedule

PATIENCE = 0.5  # seconds to wait for an event before the clocks are looked at
LOSSES = 3  # workers that a step may take with it


@dataclass(frozen=True)
class Policy:
    """retries: of a step whose failure may pass. max_failures: steps that may fail before no more is begun, None for any
    number. timeout: seconds of a step, None for ever."""

    retries: int = 1
    max_failures: int | None = None
    timeout: float | None = None


@dataclass
class Running:
    """A step in the hands of a worker, and how far it is."""

    step: Step
    attempt: int
    began: float = field(default_factory=time.monotonic)
    progress: tuple[int, int | None, str] = (0, None, "")


@dataclass
class Worker:
    """The driver's view of a worker; person: who is in its last video."""

    name: str
    host: str = ""
    ready: bool = False
    person: str | None = None
    running: Running | None = None


@dataclass
class Summary:
    """The outcome of a batch. failures: (label, reason, sentence) of what failed; blocked: steps that needed one of those;
    left: steps that were not begun. stopped: why it ended early, or empty."""

    present: int = 0
    made: int = 0
    steps: int = 0
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    blocked: int = 0
    left: int = 0
    missing: int = 0
    seconds: float = 0.0
    stopped: str = ""

    def reasons(self) -> dict[str, int]:
        """The number of steps that failed for each reason."""
        return dict(Counter(reason for _, reason, _ in self.failures))


class Listener(Protocol):
    """Who wants to see a batch; what it is told is also in the manifest, but for the progress within steps."""

    def line(self, line: dict[str, Any]) -> None:
        """A line was written to the manifest."""

    def note(self, text: str) -> None:
        """A worker has something to say."""

    def state(self, driver: Driver) -> None:
        """Something may have changed, or some time has passed."""


class Driver:
    """One run of a plan on an engine."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        manifest: Manifest,
        policy: Policy,
        listener: Listener,
        measured: Measured | None = None,
    ):
        self.plan, self.engine, self.manifest = plan, engine, manifest
        self.policy, self.listener = policy, listener
        self.measured = measured or Measured()
        self.schedule = Schedule(plan)
        self.workers: dict[str, Worker] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.summary = Summary(present=plan.present)
        self.began = time.monotonic()
        self._tries: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._noted: set[str] = set()
        self._left = Counter(map(_alike, plan.steps.values()))
        self._examples = {_alike(step): step for step in plan.steps.values()}

    def run(self) -> Summary:
        """Do what the plan holds; returns when nothing is left that can be done. Raises KeyboardInterrupt, EngineError,
        OutputError; the summary is then `self.summary` all the same."""
        counts = {kind: self.plan.count(kind) for kind in ("poses", SUBJECT, VIDEO)}
        self._write({"event": "begin", "engine": self.engine.name, "missing": counts, "present": self.plan.present})
        try:
            if self.schedule.left:
                self.engine.start()
            while self.schedule.left and not (self.summary.stopped and not self._busy()):
                self._hand_out()
                for event in self.engine.events(PATIENCE):
                    self._hear(event)
                self._look_at_clocks()
                self.listener.state(self)
        except KeyboardInterrupt:
            self.summary.stopped = "interrupted"
            raise
        finally:
            self.engine.close()
            self._finish()
        return self.summary

    # ---- giving

    def _busy(self) -> bool:
        return any(worker.running for worker in self.workers.values())

    def _hand_out(self) -> None:
        if self.summary.stopped:
            return
        for worker in self.workers.values():
            if not worker.ready or worker.running:
                continue
            step = self.schedule.take(worker.person)
            if step is None:
                return
            self._tries[step.id] += 1
            worker.running = Running(step, self._tries[step.id])
            worker.person = step.task["person"] if step.kind == VIDEO else step.id if step.kind == SUBJECT else None
            ahead = self.schedule.next_poses()
            self._write({"event": "start", **self._about(worker)})
            self.engine.submit(worker.name, step.id, self._task(step), self._task(ahead) if ahead else None)

    def _task(self, step: Step) -> dict[str, Any]:
        """The step's task, with the entries of the cache that steps before it have made."""
        task = {**step.task, "id": step.id}
        for need in step.needs:
            found = self.results.get(need, {})
            if "subject" in found:
                task["subject"] = found["subject"]
            elif "poses" in found:
                task["poses_entry"] = found["poses"]
        return task

    # ---- hearing

    def _hear(self, event: Event) -> None:
        worker = self.workers.setdefault(event.worker, Worker(event.worker))
        if event.kind == engines.READY:
            worker.ready, worker.host = True, event.data.get("host", "")
            return
        if event.kind == engines.NOTE:
            text = event.data["text"]
            if text not in self._noted:  # each worker loads the base, and one word about it will do
                self._noted.add(text)
                self.listener.note(text)
            return
        running = worker.running
        if event.kind == engines.LOST:
            worker.ready, worker.person = False, None
            if running is not None:
                self._losses[running.step.id] += 1
                self._failed(worker, running, {"reason": LOST, **event.data})
            return
        if running is None or running.step.id != event.step:
            return  # word of a step that was given up meanwhile
        if event.kind == engines.PROGRESS:
            running.progress = (event.data["done"], event.data.get("total"), event.data.get("note", ""))
        elif event.kind == engines.DONE:
            worker.running = None
            self.results[running.step.id] = event.data.get("result", {})
            line = {"event": "done", **self._about(worker, running), **event.data}
            self.measured.add(line)
            self.schedule.done(running.step)
            self._left[_alike(running.step)] -= 1
            self.summary.steps += 1
            self.summary.made += running.step.kind == VIDEO
            self._write(line)
        else:
            self._failed(worker, running, event.data)

    def _failed(self, worker: Worker, running: Running, data: dict[str, Any]) -> None:
        """A step has failed: again, or for good."""
        step, reason = running.step, data["reason"]
        worker.running = None
        if reason == LOST:
            again = self._losses[step.id] < max(LOSSES, self.policy.retries + 1)
        else:
            again = reason in PASSING and running.attempt <= self.policy.retries
        again = again and not self.summary.stopped
        line = {
            "event": "failed",
            **self._about(worker, running),
            "seconds": round(time.monotonic() - running.began, 3),
        }
        line |= {"reason": reason, "error": data["sentence"], "again": again}
        if data.get("peak_memory") is not None:
            line["peak_memory"] = data["peak_memory"]
        self._write(line)
        if again:
            self.schedule.put_back(step)
            return
        lost = self.schedule.give_up(step)
        self._left.subtract(map(_alike, [step, *lost]))
        self.summary.failures.append((step.label, reason, data["sentence"]))
        self.summary.blocked += len(lost)
        limit = self.policy.max_failures
        if reason in FATAL:
            self.summary.stopped = data["sentence"]
        elif limit is not None and len(self.summary.failures) > limit:
            self.summary.stopped = f"{len(self.summary.failures)} steps failed, and --max-failures is {limit}"

    def _look_at_clocks(self) -> None:
        limit = self.policy.timeout
        if limit is None:
            return
        for worker in list(self.workers.values()):
            running = worker.running
            if running is not None and time.monotonic() - running.began > limit:
                worker.ready, worker.person = False, None
                self.engine.kill(worker.name)
                words = f"{running.step.label} took longer than --timeout {limit:g} and was ended."
                self._failed(worker, running, {"reason": TIMEOUT, "sentence": words})

    # ---- writing down

    def _about(self, worker: Worker, running: Running | None = None) -> dict[str, Any]:
        running = running or worker.running
        assert running is not None  # it is of a worker at work
        step = running.step
        about: dict[str, Any] = {"step": step.id, "kind": step.kind, "what": step.label, "worker": worker.name, "host": worker.host}
        about["attempt"] = running.attempt
        return about | ({"output": step.task["output"]} if step.kind == VIDEO else {})

    def _write(self, line: dict[str, Any]) -> None:
        self.listener.line(self.manifest.append(line))

    def _finish(self) -> None:
        """The last line. Where it cannot be written, what went before says as much."""
        summary = self.summary
        summary.seconds = time.monotonic() - self.began
        summary.left = len(self.schedule)
        summary.missing = self.plan.videos - summary.present - summary.made
        line = {"event": "end", "present": summary.present, "made": summary.made, "missing": summary.missing}
        line |= {"failed": summary.reasons(), "blocked": summary.blocked, "seconds": round(summary.seconds, 3)}
        if summary.stopped:
            line["stopped"] = summary.stopped
        with contextlib.suppress(OutputError):
            self._write(line)

    def seconds_left(self) -> float | None:
        """About how long the rest will take on the workers there are; None where nothing like it was measured yet."""
        total = 0.0
        for mark, count in self._left.items():
            one = self.measured.expected(self._examples[mark]) if count else 0.0
            if one is None:
                return None
            total += one * count
        for worker in self.workers.values():
            if worker.running is not None:
                total -= min(time.monotonic() - worker.running.began, self.measured.expected(worker.running.step) or 0)
        workers = sum(worker.ready for worker in self.workers.values())
        return max(0.0, total) / max(1, workers)


def _alike(step: Step) -> tuple[str, str]:
    """A key of steps that take about as long."""
    return step.kind, step.task["poses_digest"] if step.kind == VIDEO else ""
