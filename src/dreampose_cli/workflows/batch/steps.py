"""One step, in a worker: from its task to a file that is there. What a worker keeps from step to step is its base."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from ...bases.config import read_config
from ...bases.fingerprint import fingerprint
from ...bases.registry import resolve_base
from ...cache import Cache
from ...device import pick_device, release
from ...errors import BaseError, MediaError
from ...networks.model_cache import ModelCache
from ...poses.extraction import load_poses
from ..options import RenderOptions, TuneOptions
from ..render import render
from ..tune import tune
from .digests import Digests
from .engine import DONE, FAILED
from .existing import REQUEST, made_by
from .failures import failure_of
from .plan import POSES, SUBJECT

PATHS = ("start_noise", "c2pa_key")
GIVEN_UP = 60.0  # seconds to wait for poses that were begun ahead, before they are estimated again


class StepRunner:
    """Runs steps one after the other on `device`. The base stays in memory from one to the next."""

    def __init__(self, cache: Cache, device: str = "auto"):
        self.cache, self.device = cache, device
        self.models = ModelCache(keep=True)
        self.digests = Digests()
        self._ahead: tuple[str, threading.Thread] | None = None

    def run(self, task: dict[str, Any], ahead: dict[str, Any] | None, progress, note) -> tuple[str, dict[str, Any]]:
        """("done", result and what it took) or ("failed", failure and what it took). `ahead` is begun in a thread."""
        started = time.monotonic()
        _reset_peak()
        if self._ahead and self._ahead[0] == task["id"]:
            self._ahead[1].join(GIVEN_UP)
        elif ahead is not None and ahead["id"] != task["id"] and not (self._ahead and self._ahead[1].is_alive()):
            thread = threading.Thread(target=self._estimate_ahead, args=(ahead,), name="poses-ahead", daemon=True)
            self._ahead = (ahead["id"], thread)
            thread.start()
        try:
            kind, found = DONE, {"result": self._do(task, progress, note)}
        except Exception as error:  # whatever it is, the driver decides what becomes of the others
            kind, found = FAILED, failure_of(error).as_json()
            del error  # and with it the tensors that its frames hold
            release(pick_device(self.device))
        return kind, {"seconds": round(time.monotonic() - started, 3), "peak_memory": _peak(), **found}

    def _do(self, task: dict[str, Any], progress, note) -> dict[str, Any]:
        base = self._base(task)
        if task["kind"] == POSES:
            self._check(task)
            return self._estimate(task, base, progress, note)
        if task["kind"] == SUBJECT:
            return self._tune(task, base, progress, note)
        return self._render(task, base, progress, note)

    def _on_accelerator(self) -> bool:
        return pick_device(self.device).type != "cpu"

    def _base(self, task: dict[str, Any]) -> Path:
        folder = resolve_base(self.cache, task["base"])
        if fingerprint(folder) != task["base_fingerprint"]:
            raise BaseError(
                f"the base in {folder} has changed since the batch was planned; run the same command again."
            )
        return folder

    def _check(self, task: dict[str, Any]) -> None:
        """Whether the inputs are still what the plan was made for."""
        for path, digest in task["files"].items():
            if not os.path.exists(path):
                raise MediaError(
                    f"{path} has vanished since the batch was planned; put it back and run the same command again."
                )
            if self.digests.of(path) != digest:
                raise MediaError(f"{path} has changed since the batch was planned; run the same command again.")

    # ---- the three kinds

    def _estimate(self, task: dict[str, Any], base: Path, progress=None, note=None) -> dict[str, Any]:
        config, options, began = read_config(base), dict(task["options"]), time.time()
        windows = config.poses
        sequence, _, _ = load_poses(
            self.cache,
            Path(task["poses"]),
            estimator=options.pop("estimator") or config.estimator,
            kind=None,
            around=(windows.count // 2) / windows.training_fps if windows.training_fps else 0.0,
            at_least=windows.training_fps,
            device=self.device,
            progress=progress,
            note=note,
            **options,
        )
        file = sequence.origin()[0].file  # type: ignore[attr-defined]  # of poses from the cache, which have a file
        stat = file.stat()
        cached = stat.st_mtime < began - 1  # a file system's clock may be a little behind
        return {"poses": file.stem, "frames": len(sequence), "bytes": stat.st_size, "cached": cached}

    def _estimate_ahead(self, task: dict[str, Any]) -> None:
        try:
            self._estimate(task, self._base(task))
        except Exception:  # the step itself will meet it, and say it
            return

    def _tune(self, task: dict[str, Any], base: Path, progress, note) -> dict[str, Any]:
        self._check(task)
        low = task["options"].get("memory") == "low"
        if low or self._on_accelerator():  # whose memory tuning needs for itself
            self.models.clear()
            release(pick_device(self.device))
        options = TuneOptions(
            [Path(photo) for photo in task["photos"]],
            base=str(base),
            poses=[Path(path) for path in task["photo_poses"]] or None,
            device=self.device,
            **task["options"],
        )
        subject = tune(
            options, cache=self.cache, model_cache=None if low else self.models, progress=progress, note=note
        )
        size = sum(path.stat().st_size for path in subject.path.iterdir() if path.is_file())
        return {"subject": subject.id, "bytes": size, "cached": subject.cached}

    def _render(self, task: dict[str, Any], base: Path, progress, note) -> dict[str, Any]:
        found, there = made_by(task["output"])
        if there and found.get("id") == task[REQUEST]["id"]:  # by a worker that was lost before it could say so
            return {"cached": True, "poses": task["poses_digest"], "bytes": _size(task["output"])}
        self._check(task)
        who: dict[str, Any] = {"subject": task.get("subject")}
        if "photo" in task:
            pose = task["photo_poses"][0] if task["photo_poses"] else None
            who = {"photo": Path(task["photo"]), "photo_pose": pose and Path(pose), "base": str(base)}
        os.makedirs(os.path.dirname(task["output"].rstrip(os.sep)), exist_ok=True)
        given: dict[str, Any] = {name: Path(value) if name in PATHS else value for name, value in task["options"].items()}
        options = RenderOptions(
            [Path(task["poses"])], task["output"], device=self.device, overwrite=there, **who, **given
        )
        about = {REQUEST: task[REQUEST]}
        made = render(
            options, cache=self.cache, model_cache=self.models, extra_metadata=about, progress=progress, note=note
        )
        return {"frames": made.frames, "poses": task["poses_digest"], "bytes": _size(task["output"])}


def _size(output: str) -> int:
    path = Path(output)
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size


_STATUS = Path("/proc/self/status")  # where Linux says how much memory this process took at most


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _STATUS.exists():
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:  # then the peak is that of the process, since it began
            return


def _peak() -> int:
    """Bytes of resident memory that this process took at most during the step (Linux), since it began, or takes now;
    on CUDA those of its device, where they are more."""
    taken = psutil.Process().memory_info().rss
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        most = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), "0")
        taken = int(most) * 1024 or taken
    elif sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        taken = max(taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    if torch.cuda.is_available():
        taken = max(taken, torch.cuda.max_memory_allocated())
    return taken
