"""The folder of a training: what an earlier run has left in it, what may continue there, and what has to give way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..bases.config import CONFIG_FILE
from ..bases.families import FAMILIES, settings_class
from ..errors import OutputExistsError, TrainingError
from ..media.outputs import require_replaceable
from ..networks.network import Network
from ..poses.estimator import CONFIG_FILE as ESTIMATOR_CONFIG
from ..poses.estimator import ESTIMATOR_FILE
from ..reporting import Note
from .checkpoints import latest_checkpoint, read_state, step_of
from .loop import LoopSettings
from .model_card import CARD_FILE, KEPT, SAMPLE_GRID_FILE, is_persons
from .preparation import amount

# What a run leaves in its folder: a folder that holds anything else is never cleared or written over.
STARTED = {"checkpoints", "validation", "logs", "partial", "scheduler", CONFIG_FILE, ESTIMATOR_CONFIG, ESTIMATOR_FILE}
STARTED |= {"doodle.json", "doodle.safetensors"}
STARTED |= {name for family in FAMILIES for name in settings_class(family)().modules}
OWN = STARTED | {CARD_FILE, SAMPLE_GRID_FILE}


def _recorded_stages(marker: Path) -> Collection[str]:
    """The stages that a finished base, estimator or reader says it was trained in."""
    try:
        return json.loads(marker.read_text(encoding="utf-8"))["provenance"]["stages"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()


@dataclass(frozen=True)
class RunDir:
    """The folder of a training and what is in it already."""

    output: Path
    marker: str  # the file that makes it finished
    resume: bool

    @property
    def checkpoints(self) -> Path:
        return self.output / "checkpoints"

    def newest(self, stage: str) -> Path | None:
        """The checkpoint that this run resumes from in `stage`, if any."""
        return latest_checkpoint(self.checkpoints / stage) if self.resume else None

    def is_finished(self, stage: str, steps: int | None) -> bool:
        """Whether it holds a finished base of so many steps of `stage`, the last; None: of whatever length."""
        if not self.resume or not (self.output / self.marker).exists():
            return False
        newest = self.newest(stage)
        if newest is None:  # its checkpoints were removed, or it was never trained
            return stage in _recorded_stages(self.output / self.marker)
        return steps is None or step_of(newest) >= steps

    def require_free(self, overwrite: bool, note: Note) -> None:
        """OutputExistsError or OutputError unless it may be trained into, or replaced for `overwrite`."""
        output = self.output
        if output.exists() and not output.is_dir():
            raise OutputExistsError(f"{output} is a file, and a base is a folder; choose another -o.")
        inside = set(os.listdir(output)) if output.exists() else set()
        started = bool(inside & {self.marker, self.checkpoints.name})
        if self.resume:
            if not started and inside & STARTED:
                raise OutputExistsError(
                    f"{output} holds {min(inside & STARTED)}, but no training to continue with; choose another -o."
                )
            if not any(latest_checkpoint(folder) for folder in self.checkpoints.glob("*")):
                note(f"{output} has no checkpoint; starting afresh.")
        elif overwrite and started:
            require_replaceable(output, True, lambda name: name in OWN or name.startswith(KEPT))
        elif inside:
            ways = (
                "add --resume to continue with it, --overwrite to train it anew, or"
                if started
                else "it holds other files;"
            )
            raise OutputExistsError(f"{output} exists already; {ways} choose another -o.")

    def clear(self) -> None:
        """Remove what an earlier training has left, but for cards that a person has changed."""
        for entry in self.output.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif not is_persons(entry):
                entry.unlink()

    def closed_stages(self, names: list[str], first: str) -> dict[str, int]:
        """The stages that are not trained any more, with the steps that they have: those before `first`, and those that a later
        one has been trained on already, whose weights would not fit another one. Raises TrainingError unless each of them has
        gone as far as it was to go when it was trained itself.
        """
        begun = [i for i, name in enumerate(names) if self.newest(name)]
        last = max([names.index(first), *begun])
        settled = {}
        for name in names[:last]:
            folder = self.checkpoints / name
            newest = latest_checkpoint(folder)
            planned = read_state(newest)["settings"].get("steps", 0) if newest else None
            if newest is not None and step_of(newest) >= (planned or 0):
                settled[name] = step_of(newest)
                continue
            found = (
                f"it is at step {step_of(newest)} of {planned} in {folder}"
                if newest
                else f"it has no checkpoint in {folder}"
            )
            if last in begun:
                raise TrainingError(
                    f"the stage {names[last]} was trained on a finished stage {name}, but {found}; put the finished one back, or "
                    "train anew with --overwrite or into another -o."
                )
            raise TrainingError(
                f"the stage {name} comes first and is not finished: {found}; train it, or leave --stage out."
            )
        return settled

    def require_autoencoder(self, fingerprint: str, stages: list[str]) -> None:
        """TrainingError where the checkpoint of one of the stages was trained on an autoencoder of another `fingerprint`."""
        for newest in filter(None, map(self.newest, stages)):
            if read_state(newest)["settings"].get("autoencoder", fingerprint) != fingerprint:
                raise TrainingError(
                    f"{newest} was trained on another autoencoder than the one that is in {self.checkpoints / 'vae'} now; put "
                    "that one back, or train anew with --overwrite or into another -o."
                )

    def require_room(
        self, model: Network | None, settings: dict[str, LoopSettings], learning: dict[str, tuple[str, ...]]
    ) -> None:
        """TrainingError where the checkpoints of the modules that are `learning` in each stage will not fit on the disk."""
        if model is None:
            return
        sizes = {stage: [model.module(name) for name in names] for stage, names in learning.items() if stage in settings}
        most = 0
        for name, stage in settings.items():
            weights = sum(p.numel() for module in sizes[name] for p in module.parameters())
            values = 4 if stage.ema else 3  # the weights, two moments of each, and their average
            most = max(most, 4 * weights * values * (stage.keep + 1))  # one is written before one is removed
        kept = sum(p.stat().st_size for p in self.output.rglob("*") if p.is_file())
        free = shutil.disk_usage(self.output).free
        if most - kept > free:
            raise TrainingError(
                f"{settings[list(settings)[-1]].keep + 1} checkpoints take {amount(most)}, and {amount(free)} are free for "
                f"{self.output}; make room, choose another -o, or keep fewer with --keep."
            )
