"""One training loop for everything that is trained: the VAE, the network, subjects, decoders and the estimator.

A task says which modules train and what a step's loss is; the loop owns the optimizer, the average of the weights, the
precision, the checkpoints and the logs. All randomness is keyed by (seed, sample). So a killed run that resumes draws what it
would have drawn, and a batch is the same whether one process computes it at once, in parts, or several together.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TrainingError, TrainingStopped, UsageError
from ..networks.layout import lay_out
from ..prefetch import Prefetcher
from ..reporting import Progress
from .checkpoints import latest_checkpoint, load_checkpoint, require_same, save_checkpoint
from .csv_log import CsvLogger
from .distributed import SINGLE, ProcessGroup
from .optimizers import make_optimizer

__all__ = ["LoopResult", "LoopSettings", "SampleRng", "Task", "latest_checkpoint", "run", "sigterm_flag"]


PACE_EVERY = 20  # steps between two rows of speed.csv and two reports to a tracker


@dataclass(frozen=True)
class LoopSettings:
    """The settings by which a task is optimised. Recorded in every checkpoint."""

    steps: int
    learning_rate: float
    batch_size: int  # samples a step, over all its parts and processes
    seed: int = 0
    warmup: int = 0  # steps of linear warm-up
    decay: float = 0.0  # share of the steps, at the end, over which the rate falls by a cosine
    floor: float = 0.0  # share of the rate that is left then
    beta2: float = 0.999  # AdamW's memory of squared gradients
    weight_decay: float = 0.01
    ema: float = 0.0  # decay of the averaged weights; 0: none
    clip_norm: float = 1.0
    save_every: int = 0  # 0: only at the end
    keep: int = 2
    autocast: str | None = None  # "bfloat16" or "float16": autocast over float32 masters
    optimizer: str = "adamw"  # one of `names.OPTIMIZERS`
    eight_bit_adam: bool = False
    gradient_accumulation_steps: int = 1  # parts in which a process computes its share of a step's samples

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        tail = self.decay * self.steps
        into = (step - (self.steps - tail)) / tail if tail else 0.0
        fallen = 0.5 * (1 - math.cos(math.pi * min(1.0, max(0.0, into))))
        return self.learning_rate * warm * (1 - (1 - self.floor) * fallen)


@dataclass
class SampleRng:
    """The randomness of one sample: a numpy generator for data, a torch generator (CPU) for noise."""

    numpy: np.random.Generator
    torch: torch.Generator
    seed: int = 0
    index: int = 0  # the sample, counted from the beginning of the training

    @classmethod
    def of(cls, seed: int, index: int) -> SampleRng:
        sequence = np.random.SeedSequence([seed, index])
        generator = torch.Generator("cpu").manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        return cls(np.random.default_rng(sequence), generator, seed, index)


class Task(Protocol):
    """A task that the loop trains. Samples are drawn one by one, so they can be loaded ahead, in parts and by several processes."""

    modules: dict[str, nn.Module]

    def load(self, rngs: list[SampleRng]) -> Any:
        """Everything that the loss needs of these samples: read in any thread, as a function of the generators."""
        ...

    def loss(self, loaded: Any, step: int, settings: LoopSettings) -> Tensor:
        """The scalar loss of what was loaded: a mean over its samples."""
        ...


@dataclass
class LoopResult:
    """`steps` were trained in all, in `seconds` over all runs; this run began at `resumed_from`."""

    steps: int
    resumed_from: int
    losses: list[float]
    seconds: float = 0.0


def run(
    task: Task,
    settings: LoopSettings,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    identity: dict[str, Any] | None = None,
    processes: ProcessGroup = SINGLE,
    prefetch_threads: int = 0,
    progress: Progress | None = None,
    validate: Callable[[int], object] | None = None,
    validate_every: int = 0,
    track: Callable[[int, dict[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> LoopResult:
    """Train `task.modules` in place for `settings.steps` steps; afterwards they hold the averaged weights if any.

    With `checkpoints` the state is saved there every `save_every` steps, whole or not at all, and `resume` resumes from
    the newest, if the settings and `identity` (what else the result depends on) are those it was made with. `processes` are the
    processes that train together, `prefetch_threads` the threads that load samples ahead. `validate(step)` is called every
    `validate_every` steps but the last, with the averaged weights in place; `track(step, figures)` now and then. When
    `stop()` becomes true the state is saved after the step and TrainingStopped is raised.
    """
    parameters = [p for module in task.modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer(
        settings.optimizer,
        parameters,
        learning_rate=settings.learning_rate,
        beta2=settings.beta2,
        weight_decay=settings.weight_decay,
        eight_bit_adam=settings.eight_bit_adam,
        precision=torch.bfloat16 if settings.autocast else torch.float32,
    )
    average = [p.detach().clone() for p in parameters] if settings.ema else None
    device = parameters[0].device
    scaler = torch.amp.GradScaler(enabled=settings.autocast == "float16" and device.type == "cuda")
    first, before = 0, 0.0
    newest = latest_checkpoint(checkpoints) if checkpoints and resume else None
    if newest is not None:
        require_same(newest, asdict(settings) | (identity or {}))
        state = load_checkpoint(newest, task.modules, optimizer, average, scaler)
        first, before = state["step"], state.get("seconds", 0.0)
    processes.require_equal(first, "the last checkpoint")
    writes = checkpoints if processes.main else None
    log = CsvLogger(writes and writes / "losses.csv", ("step", "loss", "learning_rate"), first)
    pace = CsvLogger(writes and writes / "speed.csv", ("step", "samples_per_second", "data_wait"), first)
    for module in task.modules.values():
        lay_out(module.train(), torch.channels_last)  # a tenth faster on CPUs and on tensor cores
    loss_of = processes.wrap(task)
    started = time.monotonic()
    losses: list[float] = []
    smooth, meter = None, _Meter(settings.batch_size)

    def save(step: int) -> Path | None:
        log.flush()
        pace.flush()
        if writes is None:
            return None
        recorded = asdict(settings) | (identity or {})
        seconds = before + time.monotonic() - started
        return save_checkpoint(writes, step, task.modules, optimizer, average, scaler, recorded, settings.keep, seconds)

    with _feed(task, settings, processes, first, prefetch_threads) as loader:
        for step in range(first, settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            total = torch.zeros((), device=device)
            for part in range(settings.gradient_accumulation_steps):
                loaded = next(loader)
                with processes.gradient_sync(loss_of, part == settings.gradient_accumulation_steps - 1):
                    with torch.autocast(
                        device.type,
                        getattr(torch, settings.autocast or "bfloat16"),
                        enabled=settings.autocast is not None,
                    ):
                        loss = loss_of(loaded, step, settings)
                    if settings.gradient_accumulation_steps > 1:
                        loss = loss / settings.gradient_accumulation_steps
                    scaler.scale(loss).backward()
                total = total + loss.detach()
            value, stopping = processes.mean([total.item(), float(stop is not None and stop())])
            if not math.isfinite(value):
                raise _not_finite(value, step, checkpoints)
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            if not scaler.is_enabled() and not torch.isfinite(norm):  # the scaler leaves such a step out by itself
                raise _not_finite(norm.item(), step, checkpoints, "gradient")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                _follow(average, parameters, min(settings.ema, (1 + step) / (10 + step)))
            done = step + 1
            losses.append(value)
            log.add(done, f"{value:.6g}", f"{settings.rate(step):.4g}")
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            meter.step(loader.waited)
            if done % PACE_EVERY == 0:
                pace.add(done, f"{meter.samples_per_second:.4g}", f"{meter.data_wait:.3f}")
                if track:
                    track(done, {"loss": value, "learning_rate": settings.rate(step), **meter.figures()})
            if progress:
                progress(done, settings.steps, f"loss {smooth:.4f}, rate {settings.rate(step):.2g}, {meter.words()}")
            due = settings.save_every and done % settings.save_every == 0
            saved = save(done) if checkpoints and (done == settings.steps or due or stopping) else None
            if stopping and done < settings.steps:
                saved = processes.broadcast(saved and str(saved))  # nobody leaves before it is written
                where = f"the state is in {saved}" if saved else "nothing was saved"
                raise TrainingStopped(f"stopped by SIGTERM after step {done} of {settings.steps}; {where}.")
            if validate and validate_every and done % validate_every == 0 and done < settings.steps:
                with _averaged(average, parameters):
                    validate(done)
                for module in task.modules.values():
                    module.train()
                meter.forget()
    log.flush()
    pace.flush()
    if average is not None:
        _copy(average, parameters)
    for module in task.modules.values():
        module.eval()
    return LoopResult(max(first, settings.steps), first, losses, before + time.monotonic() - started)


@contextmanager
def sigterm_flag() -> Iterator[Callable[[], bool]]:
    """For the length of a block SIGTERM (a machine that is taken away) does not kill; the function says if it came."""
    came = threading.Event()
    previous = None
    with suppress(ValueError):  # only the main thread may ask for signals
        previous = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _feed(task: Task, settings: LoopSettings, processes: ProcessGroup, first: int, prefetch_threads: int) -> Prefetcher:
    """The samples of each part of each step, in their order, for this process."""
    parts = settings.gradient_accumulation_steps * processes.count
    if settings.batch_size % parts:
        raise UsageError(f"a step of {settings.batch_size} samples cannot be divided into {parts} equal parts.")
    share = settings.batch_size // parts

    def load(begin: int) -> Any:
        return task.load([SampleRng.of(settings.seed, begin + i) for i in range(share)])

    def jobs() -> Iterator[Callable[[], Any]]:
        for step in range(first, settings.steps):
            for part in range(settings.gradient_accumulation_steps):
                begin = step * settings.batch_size + (part * processes.count + processes.rank) * share
                yield functools.partial(load, begin)

    return Prefetcher(jobs(), prefetch_threads)


def _not_finite(value: float, step: int, checkpoints: Path | None, what: str = "loss") -> TrainingError:
    where = latest_checkpoint(checkpoints) if checkpoints else None
    advice = f"the last good checkpoint is {where}" if where else "no checkpoint had been written yet"
    return TrainingError(f"the {what} became {value} at step {step + 1}; {advice}. A lower learning rate may help.")


def _follow(average: list[Tensor], parameters: list[nn.Parameter], decay: float) -> None:
    torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)


def _copy(source: list[Tensor], target: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for a, b in zip(source, target, strict=True):
            b.copy_(a)


class _averaged:
    """The averaged weights in place of the trained ones, for the length of a block."""

    def __init__(self, average: list[Tensor] | None, parameters: list[nn.Parameter]):
        self.average, self.parameters = average, parameters

    def __enter__(self) -> None:
        if self.average is not None:
            self.kept = [p.detach().clone() for p in self.parameters]
            _copy(self.average, self.parameters)

    def __exit__(self, *_) -> None:
        if self.average is not None:
            _copy(self.kept, self.parameters)


class _Meter:
    """The speed of the steps, and the share of their time in which they wait for data; both over the last 50 or so."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.seconds = self.waited = 0.0
        self.forget()

    def forget(self) -> None:
        """Begin anew: what went on since the last step was no step."""
        self.last = time.monotonic()

    def step(self, waited: float) -> None:
        """A step has ended that waited so many seconds for its data."""
        now = time.monotonic()
        spent = max(now - self.last, 1e-9)
        keep = 0.98 if self.seconds else 0.0
        self.seconds = keep * self.seconds + (1 - keep) * spent
        self.waited = keep * self.waited + (1 - keep) * min(waited, spent)
        self.last = now

    @property
    def samples_per_second(self) -> float:
        return self.batch_size / self.seconds

    @property
    def data_wait(self) -> float:
        return self.waited / self.seconds

    def figures(self) -> dict[str, float]:
        return {"samples_per_second": self.samples_per_second, "data_wait": self.data_wait}

    def words(self) -> str:
        return f"{self.samples_per_second:.3g} samples/s, data wait {100 * self.data_wait:.0f} %"
