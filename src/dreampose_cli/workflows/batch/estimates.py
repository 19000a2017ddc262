"""The cost of a plan: from the measured seconds, frames and bytes of earlier steps, "unknown" without."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .plan import POSES, SUBJECT, VIDEO, Plan, Step

KINDS = (POSES, SUBJECT, VIDEO)
REMEMBERED = 1000  # steps of a kind; the machine of a year ago says little


@dataclass(frozen=True)
class Forecast:
    """seconds: of one worker, None where nothing was measured for one of the kinds; disk: bytes, likewise.

    Of each kind (poses, subject, video): how many steps are missing, and what one took."""

    seconds: float | None
    disk: float | None
    kinds: dict[str, dict[str, Any]]


@dataclass
class Measured:
    """The cost of finished steps: seconds by kind, seconds a frame of videos, frames of each dance, bytes of results."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    sizes: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    per_frame: list[float] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)  # by the digest of the dance

    @classmethod
    def of(cls, lines: Iterable[dict[str, Any]]) -> Measured:
        """From the lines of manifests."""
        found = cls()
        for _ in found.through(lines):
            pass
        return found

    def through(self, lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass lines on, each taken into account."""
        for line in lines:
            self.add(line)
            yield line

    def add(self, line: dict[str, Any]) -> None:
        """Take one more line into account."""
        kind, seconds, result = line.get("kind"), line.get("seconds"), line.get("result")
        if line.get("event") != "done" or kind not in KINDS or not isinstance(seconds, int | float):
            return
        result = result if isinstance(result, dict) else {}
        if result.get("cached"):
            return  # it says how long finding takes, not making
        self.seconds[kind].append(float(seconds))
        del self.seconds[kind][:-REMEMBERED]
        size, frames = result.get("bytes"), result.get("frames")
        if isinstance(size, int | float):
            self.sizes[kind].append(float(size))
            del self.sizes[kind][:-REMEMBERED]
        if kind == VIDEO and isinstance(frames, int) and frames > 0:
            self.per_frame.append(seconds / frames)
            del self.per_frame[:-REMEMBERED]
            self.frames[str(result.get("poses"))] = frames

    def expected(self, step: Step) -> float | None:
        """The seconds one step will take; None where nothing like it was measured."""
        if step.kind == VIDEO and self.per_frame:
            frames = self.frames.get(step.task["poses_digest"])
            if frames is not None:
                return frames * statistics.median(self.per_frame)
        return statistics.median(self.seconds[step.kind]) if self.seconds[step.kind] else None


def forecast(plan: Plan, measured: Measured) -> Forecast:
    """The cost of the missing steps of a plan, all together on one worker."""
    total: dict[str, float | None] = dict.fromkeys(KINDS, 0.0)
    counts = dict.fromkeys(KINDS, 0)
    per_frame = statistics.median(measured.per_frame) if measured.per_frame else None
    middle = {kind: statistics.median(values) if values else None for kind, values in measured.seconds.items()}
    for step in plan.steps.values():
        counts[step.kind] += 1
        one = middle[step.kind]
        if step.kind == VIDEO and per_frame is not None:
            frames = measured.frames.get(step.task["poses_digest"])
            one = one if frames is None else frames * per_frame
        before = total[step.kind]
        total[step.kind] = None if one is None or before is None else before + one
    sizes = {kind: statistics.fmean(values) if values else None for kind, values in measured.sizes.items()}
    bytes_of = {kind: None if size is None else counts[kind] * size for kind, size in sizes.items()}
    needed = [kind for kind in KINDS if counts[kind]]
    return Forecast(
        seconds=_sum([total[kind] for kind in needed]),
        disk=_sum([bytes_of[kind] for kind in needed]),
        kinds={
            kind: {"missing": counts[kind], "seconds": middle[kind], "bytes": sizes[kind], "together": total[kind]}
            for kind in KINDS
        },
    )


def _sum(values: list[float | None]) -> float | None:
    return (
        None if any(value is None for value in values) else float(sum(value for value in values if value is not None))
    )
