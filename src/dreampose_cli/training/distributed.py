"""The processes that train together: one alone, or those that `accelerate launch` starts, on one machine or many.

Every process computes its share of each step's samples, accelerate's DistributedDataParallel averages the gradients, and
only the first process writes. accelerate is imported where there is more than one process, or a tracker, and not before.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..device import pick_device
from ..errors import TrainingError, UsageError
from .launcher_env import process_count

TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX")}  # and the packages of which one is needed
PATIENCE = timedelta(hours=24)  # how long a process waits for another: preparing a large data set takes hours


class ProcessGroup:
    """One process alone; the base of several."""

    rank = 0
    count = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wrap(self, task) -> Callable[[Any, int, Any], Tensor]:
        """The task's loss as a function (loaded, step, settings) whose gradients all processes share."""
        return task.loss

    def gradient_sync(self, loss_of, last: bool) -> AbstractContextManager:
        """Around each part of a step: gradients are exchanged in the last one."""
        return nullcontext()

    def mean(self, values: list[float]) -> list[float]:
        """The mean over all processes of each number."""
        return values

    def require_equal(self, value: int, what: str) -> None:
        """TrainingError where the processes do not see the same number."""

    def broadcast(self, value: Any) -> Any:
        """The first process's value, in every process."""
        return value

    @contextmanager
    def local_main_first(self) -> Iterator[bool]:
        """A block that one process of each machine, for which it yields True, goes through before the others."""
        yield True

    def begin_tracking(self, settings: dict[str, Any]) -> None:
        """Open the tracker, if there is one, and tell it the settings."""

    def track(self, step: int, figures: dict[str, float]) -> None:
        """Hand figures of a step to the tracker, if there is one."""

    def end(self) -> None:
        """Wait for the others and leave them."""


SINGLE = ProcessGroup()


class _Tracking(ProcessGroup):
    """The common part of groups that have an accelerator, and with it its trackers."""

    accelerator: Any
    tracker: str | None = None

    def begin_tracking(self, settings: dict[str, Any]) -> None:
        if self.tracker:
            simple = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
            self.accelerator.init_trackers("dreampose", config=simple)

    def track(self, step: int, figures: dict[str, float]) -> None:
        if self.tracker:
            self.accelerator.log(figures, step=step)

    def end(self) -> None:
        self.accelerator.end_training()


class Tracked(_Tracking):
    """One process alone whose figures go to a tracker."""

    def __init__(self, device: torch.device, tracker: str, folder: Path | None):
        from accelerate import Accelerator

        self.tracker = tracker
        cpu = True if device.type == "cpu" else None
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="no", log_with=tracker, project_dir=folder)


class Processes(_Tracking):
    """The processes that accelerate's launcher started."""

    def __init__(self, device: str, tracker: str | None = None, folder: Path | None = None):
        from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device {device} is one device, and there are several processes; leave it to accelerate."
            )
        self.accelerator = Accelerator(
            cpu=device == "cpu" or None,
            mixed_precision="no",  # the loop casts, alone or not
            log_with=tracker,
            project_dir=folder if tracker else None,
            kwargs_handlers=[
                # The weights of CLIP's last norm, or of what an ablation leaves out, get no gradient.
                DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
        known = (
            "MULTI_CPU",
            "MULTI_GPU",
            "MULTI_XPU",
            "MULTI_NPU",
            "MULTI_MLU",
            "MULTI_MUSA",
            "MULTI_HPU",
            "MULTI_SDAA",
        )
        kind = self.accelerator.distributed_type
        if kind not in [getattr(DistributedType, name, None) for name in known]:
            raise TrainingError(
                f"dreampose trains with data parallelism, not with {kind.value}; choose multi-GPU or multi-CPU in "
                "`accelerate config`."
            )
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.tracker = tracker

    def wrap(self, task) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions have another name for broadcast_buffers
            return self.accelerator.prepare_model(_Step(task))

    def gradient_sync(self, loss_of: Any, last: bool) -> AbstractContextManager:
        return nullcontext() if last else loss_of.no_sync()

    def mean(self, values: list[float]) -> list[float]:
        # float64 travels everywhere but to MPS, which has one device
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        return self.accelerator.reduce(tensor, "mean").tolist()

    def require_equal(self, value: int, what: str) -> None:
        tensor = torch.tensor([value], device=self.device)
        seen = self.accelerator.gather(tensor).tolist()
        if len(set(seen)) > 1:
            raise TrainingError(
                f"the processes do not see the same of {what} ({', '.join(map(str, seen))}); put -o on a disk that all "
                "machines share."
            )

    def broadcast(self, value: Any) -> Any:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    @contextmanager
    def local_main_first(self) -> Iterator[bool]:
        with self.accelerator.local_main_process_first():
            yield self.accelerator.is_local_main_process

    def end(self) -> None:
        self.accelerator.wait_for_everyone()
        super().end()


class _Step(nn.Module):
    """A task as one module, so that the gradients of all its parts are exchanged together."""

    def __init__(self, task):
        super().__init__()
        self.parts = nn.ModuleDict(task.modules)
        self.task = task

    def forward(self, loaded: Any, step: int, settings: Any) -> Tensor:
        return self.task.loss(loaded, step, settings)


def init_distributed(device: str, tracker: str | None = None, folder: Path | None = None) -> tuple[ProcessGroup, torch.device]:
    """The processes that train together and the device of this one; `tracker` writes into `folder`.

    Raises UsageError, TrainingError.
    """
    if tracker:
        _require_tracker(tracker)
    if process_count() > 1:
        processes = Processes(device, tracker, folder)
        return processes, processes.device
    where = pick_device(device)
    return (Tracked(where, tracker, folder) if tracker else SINGLE), where


def _require_tracker(tracker: str) -> None:
    if not any(importlib.util.find_spec(name) for name in TRACKERS[tracker]):
        raise TrainingError(
            f"--tracker {tracker} needs the package {TRACKERS[tracker][0]}; `pip install 'dreampose-cli[{tracker}]'`, or "
            "leave it out: the same figures are in checkpoints/*/losses.csv and validation/scores.csv."
        )
