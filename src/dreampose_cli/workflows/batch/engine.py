"""The interface of an engine: workers that do one step at a time, and word of what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

READY, PROGRESS, NOTE, DONE, FAILED, LOST = "ready", "progress", "note", "done", "failed", "lost"


@dataclass(frozen=True)
class Event:
    """Word from a worker.

    kind: "ready" (it can take a step; data: host), "progress" (done, total, note), "note" (text), "done" (result, seconds,
    peak_memory), "failed" (reason, sentence, seconds, peak_memory), or "lost" (it is gone with its step; sentence). A
    worker that is lost or was killed says "ready" again once another process has taken its place.
    """

    worker: str
    kind: str
    step: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Workers somewhere. `name` is what the user chose it by."""

    name: str

    def start(self) -> None:
        """Begin to start the workers; each says "ready". Raises EngineError, BaseError, what else keeps it from that."""

    def submit(self, worker: str, step: str, task: dict[str, Any], ahead: dict[str, Any] | None) -> None:
        """Give a step to a worker that is ready; `ahead` is a step that estimates poses, for it to begin meanwhile."""

    def events(self, timeout: float) -> list[Event]:
        """The events since the last call; waits up to `timeout` seconds. Raises EngineError where no worker is available."""

    def kill(self, worker: str) -> None:
        """End a worker at once, and start another in its place."""

    def close(self) -> None:
        """End all workers. What they had begun is left as after Ctrl-C: resumable, and nothing half in its place."""
