"""One training loop for everything that is trained: the VAE, the network, subjects, decoders and the estimator.

A task says which modules train and what a step's loss is; the loop owns the optimizer, the average of the weights, the
precision, the checkpoints and the log. All randomness of a step is keyed by (seed, step): a killed run that resumes
draws what it would have drawn, so its loss curve is the same.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import TrainingError
from ..media import atomic_folder

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class LoopSettings:
    """How a task is optimised. Recorded in every checkpoint."""

    steps: int
    learning_rate: float
    batch_size: int
    seed: int = 0
    warmup: int = 0  # steps of linear warm-up
    decay: float = 0.0  # share of the steps, at the end, over which the rate falls to zero by a cosine
    weight_decay: float = 0.01
    ema: float = 0.0  # decay of the averaged weights; 0: none
    clip_norm: float = 1.0
    save_every: int = 0  # 0: only at the end
    keep: int = 2
    autocast: str | None = None  # "bfloat16" or "float16": autocast over float32 masters
    eight_bit_adam: bool = False

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        tail = self.decay * self.steps
        into = (step - (self.steps - tail)) / tail if tail else 0.0
        return self.learning_rate * warm * (0.5 * (1 + math.cos(math.pi * min(1.0, into))) if into > 0 else 1.0)


@dataclass
class Draw:
    """The randomness of one step: a numpy generator for data, a torch generator (CPU) for noise."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def of(cls, seed: int, step: int) -> Draw:
        sequence = np.random.SeedSequence([seed, step])
        generator = torch.Generator("cpu").manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        return cls(np.random.default_rng(sequence), generator)


class Task(Protocol):
    """What the loop trains."""

    modules: dict[str, nn.Module]

    def loss(self, draw: Draw, step: int, settings: LoopSettings) -> Tensor:
        """The scalar loss of one step, drawn with `draw`."""
        ...


@dataclass
class LoopResult:
    steps: int
    resumed_from: int
    losses: list[float]


def run(
    task: Task,
    settings: LoopSettings,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    on_save: Callable[[int], None] | None = None,
) -> LoopResult:
    """Train `task.modules` in place for `settings.steps` steps; afterwards they hold the averaged weights if any.

    With `checkpoints` the state is saved there every `save_every` steps, whole or not at all, and `resume` goes on from
    the newest. `on_save(step)` is called, with the averaged weights in place, whenever a checkpoint was written.
    """
    parameters = [p for module in task.modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, settings)
    average = [p.detach().clone() for p in parameters] if settings.ema else None
    device = parameters[0].device
    scaler = torch.amp.GradScaler(enabled=settings.autocast == "float16" and device.type == "cuda")
    first = 0
    newest = latest_checkpoint(checkpoints) if checkpoints and resume else None
    if newest is not None:
        first = _load(newest, task, optimizer, average, parameters)
    losses: list[float] = []
    log = _Log(checkpoints / "losses.csv" if checkpoints else None, first)
    for module in task.modules.values():
        module.train().to(memory_format=torch.channels_last)  # a tenth faster on CPUs and on tensor cores
    smooth = None
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        with torch.autocast(
            device.type, getattr(torch, settings.autocast or "bfloat16"), enabled=settings.autocast is not None
        ):
            loss = task.loss(Draw.of(settings.seed, step), step, settings)
        value = loss.item()
        if not math.isfinite(value):
            where = latest_checkpoint(checkpoints) if checkpoints else None
            advice = f"the last good checkpoint is {where}" if where else "no checkpoint had been written yet"
            raise TrainingError(
                f"the loss became {value} at step {step + 1}; {advice}. A lower learning rate may help."
            )
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            _follow(average, parameters, min(settings.ema, (1 + step) / (10 + step)))
        losses.append(value)
        log.add(step, value, settings.rate(step))
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        if progress:
            progress(step + 1, settings.steps, f"loss {smooth:.4f}")
        done = step + 1
        if checkpoints and (done == settings.steps or (settings.save_every and done % settings.save_every == 0)):
            log.flush()
            _save(checkpoints, done, task, optimizer, average, parameters, settings)
            if on_save is not None:
                with _averaged(average, parameters):
                    on_save(done)
    log.flush()
    if average is not None:
        _copy(average, parameters)
    for module in task.modules.values():
        module.eval()
    return LoopResult(settings.steps, first, losses)


def latest_checkpoint(folder: Path | None) -> Path | None:
    """The newest complete checkpoint in `folder`, or None. Checkpoints are published whole, so any present is complete."""
    if folder is None or not folder.is_dir():
        return None
    found = sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())
    return found[-1] if found else None


def _optimizer(parameters: list[nn.Parameter], settings: LoopSettings) -> torch.optim.Optimizer:
    if settings.eight_bit_adam:
        try:
            import bitsandbytes
        except ImportError:
            raise TrainingError(
                "8-bit Adam needs the package bitsandbytes; `pip install bitsandbytes`, or leave the option out."
            ) from None
        return bitsandbytes.optim.AdamW8bit(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)


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


def _save(folder, step, task, optimizer, average, parameters, settings) -> None:
    with atomic_folder(folder / f"step-{step:08d}", overwrite=True) as partial:
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, module in task.modules.items()
            for key, value in module.state_dict().items()
        }
        save_file(tensors, partial / "weights.safetensors")
        if average is not None:
            save_file({str(i): a.contiguous() for i, a in enumerate(average)}, partial / "average.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        state = {"step": step, "settings": asdict(settings)}
        (partial / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    for old in sorted(folder.glob("step-*"))[: -settings.keep]:
        shutil.rmtree(old, ignore_errors=True)


def _load(checkpoint, task, optimizer, average, parameters) -> int:
    try:
        tensors = load_file(checkpoint / "weights.safetensors")
        for name, module in task.modules.items():
            prefix = f"{name}."
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        if average is not None:
            saved = load_file(checkpoint / "average.safetensors")
            for i, a in enumerate(average):
                a.copy_(saved[str(i)])
        optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
        return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"]
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{checkpoint} does not fit this run ({str(error).splitlines()[0]}); remove it to go on from an older one."
        ) from error


class _Log:
    """losses.csv: step, loss, learning rate. Rows past the resumed step are dropped, so the curve is continuous."""

    def __init__(self, path: Path | None, first: int):
        self.path, self.rows = path, []
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if first and path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= first]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "loss", "learning_rate"], *kept])

    def add(self, step: int, loss: float, rate: float) -> None:
        self.rows.append([step + 1, f"{loss:.6g}", f"{rate:.4g}"])
        if len(self.rows) >= 100:
            self.flush()

    def flush(self) -> None:
        if self.path is not None and self.rows:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerows(self.rows)
        self.rows = []
