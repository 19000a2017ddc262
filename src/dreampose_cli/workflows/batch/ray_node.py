"""The part that runs on the nodes of a Ray cluster: a look at what the node has, and the actor that holds the base.

Imports no ray, and no torch before the actor is made.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...bases.fingerprint import fingerprint as fingerprint_of
from ...bases.registry import resolve_base
from ...cache import Cache, export_entry, import_entry, user_cache
from ...errors import BaseError, DreamposeError
from ...version import __version__
from .plan import POSES, SUBJECT, VIDEO

Base = tuple[str, str, str]  # where the driver has it, what it is called, its fingerprint
MARGIN = 1 << 30  # bytes that a node's disk should have free


def look_around(bases: Sequence[Base], version: str, root: str, tokens: Sequence[str]) -> dict[str, Any]:
    """The things that this node lacks, in sentences, and whether it shares the driver's files: `root` is the driver's cache, and
    `tokens` are files in the cache and in the output folder."""
    lacks, cache = [], user_cache()
    if version != __version__:
        lacks.append(f"has dreampose-cli {__version__}, and the driver {version}; install the same version")
    for base in bases:
        try:
            local_base(cache, base)
        except DreamposeError as error:
            lacks.append(str(error).rstrip("."))
    home = cache.root
    above = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(above).free
    if free < MARGIN:
        lacks.append(f"has {free / 1e9:.1f} GB free for the cache {home}; make room")
    shared = str(home) == root and all(os.path.exists(token) for token in tokens)
    return {"host": platform.node(), "lacks": lacks, "shared": shared, "cache": str(home), "free": free}


def local_base(cache: Cache, base: Base) -> str:
    """The folder in which this node has a base. Raises BaseError."""
    path, name, fingerprint = base
    found = []
    for candidate in (path, name):
        try:
            folder = resolve_base(cache, candidate)
        except BaseError:
            continue
        if fingerprint_of(folder) == fingerprint:
            return str(folder)
        found.append(candidate)
    other = f", only another base {found[0]}" if found else ""
    raise BaseError(f"has not the base {name} ({fingerprint}){other}; import or copy it to the node.")


class RayWorker:
    """One worker of a cluster. It runs one step at a time, while it can be asked how far it is.

    root: the driver's cache where the nodes share it, None for the node's own.
    """

    def __init__(self, device: str, bases: Sequence[Base], root: str | None):
        from .steps import StepRunner

        self.cache = user_cache() if root is None else Cache(root)
        self.runner = StepRunner(self.cache, device)
        self.bases = {base[0]: local_base(self.cache, base) for base in bases}
        self._progress: tuple[int, int | None, str] = (0, None, "")
        self._notes: list[str] = []
        self._lock = threading.Lock()

    def hello(self) -> str:
        """The name of the node, once the worker is ready."""
        return platform.node()

    def status(self) -> tuple[tuple[int, int | None, str], list[str]]:
        """The progress of the step, and the notes since the last time."""
        with self._lock:
            notes, self._notes = self._notes, []
            return self._progress, notes

    def run(
        self,
        task: dict[str, Any],
        ahead: dict[str, Any] | None,
        inputs: dict[str, bytes] | None = None,
        entries: Sequence[bytes] = (),
    ) -> tuple[str, dict[str, Any]]:
        """A step, as `StepRunner.run`. With `inputs` nothing is shared with the driver: they are the task's files by
        their path there, `entries` are those of its cache that the step needs, and what is made comes back as bytes."""
        self._progress = (0, None, "")
        task = {**task, "base": self.bases[task["base"]]}
        if ahead is not None:
            ahead = {**ahead, "base": self.bases[ahead["base"]]}
        if inputs is None:
            return self.runner.run(task, ahead, self._report, self._note)
        with tempfile.TemporaryDirectory(prefix="dreampose-batch-") as folder:
            for entry in entries:
                kind, id, _, _ = import_entry(self.cache, io.BytesIO(entry), "an entry from the driver")
                if kind == "subject":
                    self.cache.note_place(id, Path(task["base"]))
            local = _placed(task, inputs, Path(folder))
            kind, data = self.runner.run(local, None, self._report, self._note)
            if "result" in data:
                data["made"] = _made(self.cache, local, data["result"])
            return kind, data

    def _report(self, done: int, total: int | None = None, note: str = "") -> None:
        self._progress = (done, total, note)

    def _note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)


def _placed(task: dict[str, Any], inputs: dict[str, bytes], folder: Path) -> dict[str, Any]:
    """The task with its files in `folder`, under their own names."""
    places = {}
    for number, (path, raw) in enumerate(inputs.items()):
        places[path] = str(unpack(raw, folder / str(number)))

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, dict):
            return {places.get(key, key): moved(item) for key, item in value.items()}
        return places.get(value, value) if isinstance(value, str) else value

    local = {key: moved(value) for key, value in task.items()}
    if task["kind"] == VIDEO:
        slash = "/" if task["output"].endswith("/") else ""
        local["output"] = str(folder / "made" / os.path.basename(task["output"].rstrip("/"))) + slash
    return local


def _made(cache: Cache, task: dict[str, Any], result: dict[str, Any]) -> bytes:
    """The result of a step: a video, or an entry of the cache."""
    if task["kind"] == VIDEO:
        return pack(task["output"].rstrip("/"))
    kind = {SUBJECT: "subject", POSES: "poses"}[task["kind"]]
    entry = cache.get(kind, result[kind])
    assert entry is not None  # the step has just made it
    raw = io.BytesIO()
    export_entry(entry, raw)
    return raw.getvalue()


def pack(path: str) -> bytes:
    """A file or a folder as bytes that `unpack` understands."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        archive.add(path, arcname=os.path.basename(path.rstrip("/")))
    return raw.getvalue()


def unpack(raw: bytes, folder: Path) -> Path:
    """Put what was packed into `folder`, under its own name; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        name = archive.getnames()[0].split("/")[0]
        archive.extractall(folder, filter="data")
    return folder / name
