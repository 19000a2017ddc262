"""The noise schedule of a base, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import BaseError, UsageError
from .components import read_component

SCHEDULER_FILE = "scheduler/scheduler_config.json"


def read_schedule(folder: Path) -> dict[str, Any]:
    """The scheduler's config of the base in `folder`. Raises BaseError where there is none."""
    try:
        return read_component(Path(folder) / SCHEDULER_FILE)
    except BaseError as error:
        raise BaseError(f"the base in {folder} cannot be loaded: {error}") from error


def check_steps(steps: int, schedule: dict[str, Any]) -> None:
    """Raise UsageError for more steps than the noise schedule has timesteps to offer."""
    offset = 0 if schedule.get("timestep_spacing") == "trailing" else schedule.get("steps_offset", 0)
    most = schedule.get("num_train_timesteps", 1000) - offset
    if steps > most:
        raise UsageError(
            f"the base's noise schedule has room for {most} steps, not {steps}; give --steps {most} or fewer."
        )
