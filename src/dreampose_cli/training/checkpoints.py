"""Checkpoints of a training: a folder for each, `step-NNNNNNNN/`, whole or not there at all.

    weights.safetensors     the modules as they are trained
    average.safetensors     their average, where one is kept
    optimizer.pt            the optimizer's state
    state.json              step, samples drawn, seconds so far, the gradient scaler's state, and every setting

No state of a random generator is kept: what a step draws follows from the seed and the sample's number alone.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import TrainingError
from ..media import atomic_folder

# What may differ between a run and the one it continues, because the weights of a step do not depend on it. How far to go
# is asked for; of a schedule that is a share of the steps, the caller has to tell.
FREE = {"steps", "save_every", "keep", "gradient_accumulation_steps"}


def latest_checkpoint(folder: Path | None) -> Path | None:
    """The newest complete checkpoint in `folder`, or None. Checkpoints are published whole, so any present is complete."""
    if folder is None or not folder.is_dir():
        return None
    found = sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())
    return found[-1] if found else None


def step_of(checkpoint: Path | None) -> int:
    """The number of steps that a checkpoint has behind it; 0 for None."""
    return int(checkpoint.name.removeprefix("step-")) if checkpoint else 0


def require_same(checkpoint: Path, settings: dict[str, Any]) -> None:
    """TrainingError that names every setting in which `settings` and the checkpoint's differ, with both values.

    Settings that only one of the two knows are not compared: another version may have had others.
    """
    then = read_state(checkpoint)["settings"]
    now = json.loads(json.dumps(settings))  # tuples are lists in a file
    differing = [key for key in now if key in then and key not in FREE and then[key] != now[key]]
    if differing:
        words = ", ".join(f"{key} was {_said(then[key])} and is {_said(now[key])}" for key in differing)
        raise TrainingError(
            f"{checkpoint} was trained with other settings: {words}. Continue with the old ones, or train anew with "
            "--overwrite or into another -o."
        )


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The contents of `state.json`. Raises TrainingError."""
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        return {"settings": {}, **state, "step": int(state["step"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unfit(checkpoint, error) from error


def save_checkpoint(
    folder: Path,
    step: int,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: list[Tensor] | None,
    scaler: torch.amp.GradScaler,
    settings: dict[str, Any],
    keep: int,
    seconds: float,
) -> Path:
    """Write the checkpoint of `step` and remove all but the last `keep`."""
    path = folder / f"step-{step:08d}"
    with atomic_folder(path, overwrite=True) as partial:
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }
        save_file(tensors, partial / "weights.safetensors")
        if average is not None:
            save_file({str(i): a.contiguous() for i, a in enumerate(average)}, partial / "average.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        state = {
            "step": step,
            "samples": step * settings["batch_size"],
            "seconds": round(seconds, 1),
            "scaler": scaler.state_dict(),
            "settings": settings,
        }
        (partial / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        for file in partial.iterdir():  # a rename must not be on disk before what it names
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_checkpoint(
    checkpoint: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: list[Tensor] | None,
    scaler: torch.amp.GradScaler,
) -> dict[str, Any]:
    """Put a checkpoint into place and return its state. Raises TrainingError where it is damaged or does not fit."""
    state = read_state(checkpoint)
    try:
        tensors = load_file(checkpoint / "weights.safetensors")
        for name, module in modules.items():
            prefix = f"{name}."
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        if average is not None:
            saved = load_file(checkpoint / "average.safetensors")
            for i, a in enumerate(average):
                a.copy_(saved[str(i)])
        optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
        if state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
    except Exception as error:  # torch and safetensors raise a dozen types for a damaged file
        raise _unfit(checkpoint, error) from error
    return state


def _unfit(checkpoint: Path, error: Exception) -> TrainingError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return TrainingError(f"{checkpoint} does not fit this run ({reason}); remove it to resume from an older one.")


def _said(value: Any) -> str:
    return "none" if value is None else str(value)
