"""The progress of a clip that is denoised as a whole, kept in a file, so that a render that was killed resumes there.

After a step that is the latents and what the sampler remembers; within a step, where windows take minutes, also the sum of
the predictions of the windows that are done. What is computed from it is the same, bit for bit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import atomic_file
from ..cache import Cache
from ..sampling import SamplingState

NAME = "latents.pt"
SHARE = 0.1  # of the time that goes into writing, at most


@dataclass(frozen=True)
class Progressed:
    """A state of sampling, and of the step that follows it the sum of predictions (B, C, h, w) of the first `windows`."""

    state: SamplingState
    windows: int = 0
    total: Tensor | None = None


class KeptLatents:
    """The latest progress, in memory and in `file`, of a `cache`, where there is one; `plan`: the windows of a step."""

    def __init__(self, file: Path | None, plan: tuple[int, int] = (0, 0), cache: Cache | None = None) -> None:
        self.cache, self.file, self.plan = cache, file, plan
        self.latest = self._read()
        self._free_at = 0.0

    def __call__(self, progressed: Progressed, *, last: bool = False) -> None:
        """Keep this. It is written when that takes little of the time since it was written before, or it is the `last`."""
        self.latest = progressed
        started = time.monotonic()
        if self.file is None or self.cache is None or (started < self._free_at and not last):
            return
        state, total = progressed.state, progressed.total
        with self.cache.storing(), atomic_file(self.file) as part:
            torch.save(
                {
                    "step": state.step,
                    "latents": state.latents.cpu(),
                    "sampler": state.sampler,
                    "windows": progressed.windows,
                    "total": None if total is None else total.cpu(),
                    "plan": list(self.plan),
                },
                part,
            )
        ended = time.monotonic()
        self._free_at = ended + (ended - started) / SHARE

    def replan(self, plan: tuple[int, int]) -> None:
        """Windows are others from now on: those of the current step do not count."""
        self.plan = plan
        if self.latest is not None:
            self.latest = Progressed(self.latest.state)

    def _read(self) -> Progressed | None:
        if self.file is None or not self.file.is_file():
            return None
        try:
            found = torch.load(self.file, map_location="cpu", weights_only=True)
            state = SamplingState(found["step"], found["latents"], found["sampler"])
            same = tuple(found["plan"]) == self.plan
            return Progressed(state, found["windows"], found["total"]) if same else Progressed(state)
        except Exception:  # nearly every type, of a file that a power cut damaged: then it is computed again
            self.file.unlink(missing_ok=True)
            return None
