"""Engine "ray": one actor a GPU, or a share of a CPU, that holds the base; placing, restarting and moving bytes are Ray's.

An actor takes one step at a time, so what waits stays with the driver. Ray restarts an actor whose process or node is gone,
where there is room; its step goes back to the driver, which gives it to whichever actor is there.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...bases.registry import lasting_name
from ...cache import Cache, export_entry, import_entry
from ...errors import EngineError, sentence
from ...media.atomic import atomic_folder, atomic_path
from ...version import __version__
from . import engine as engines
from .engine import Event
from .failures import failure_of
from .plan import POSES, SUBJECT, VIDEO, Plan
from .ray_node import Base, RayWorker, look_around, pack, unpack

REACH_SECONDS = 5.0
LOOK_SECONDS = 120.0  # for a node to import this package
STATUS_SECONDS = 2.0
INSTALL = "install it with: pip install 'dreampose-cli[ray]'"


class RayEngine:
    """Actors of the cluster at `address` (None: RAY_ADDRESS, a cluster of this machine, or one made for this run)."""

    name = "ray"

    def __init__(
        self,
        cache: Cache,
        plan: Plan,
        address: str | None = None,
        workers: int | None = None,
        note: Callable[[str], None] | None = None,
    ):
        self.cache, self.plan, self.address, self.wanted, self.note = cache, plan, address, workers, note
        self._actors: dict[str, Any] = {}
        self._hosts: dict[str, str] = {}
        self._hellos: dict[Any, str] = {}  # by the reference to the answer
        self._steps: dict[Any, tuple[str, str, dict[str, Any]]] = {}
        self._statuses: dict[Any, str] = {}
        self._asked = 0.0
        self._shared = True
        self._sent: dict[str, set[str]] = {}  # entries of the cache that each worker was given

    # ---- beginning

    def start(self) -> None:
        ray = _ray()
        self._connect(ray)
        steps = self.plan.steps.values()
        paths = sorted({(step.task["base"], step.task["base_fingerprint"]) for step in steps})
        bases = [(path, lasting_name(Path(path)) if os.path.isdir(path) else path, mark) for path, mark in paths]
        nodes = [node for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
        if gpus:
            workers, share = min(self.wanted or gpus, gpus), {"num_gpus": 1}
            nodes = [node for node in nodes if node["Resources"].get("GPU", 0) >= 1]
        else:
            nodes = [node for node in nodes if node["Resources"].get("CPU", 0) >= 1]
            cpus = [int(node["Resources"]["CPU"]) for node in nodes]
            if not cpus:
                raise EngineError("the cluster has no node with a CPU or a GPU; start some with `ray start`.")
            workers = min(self.wanted or len(cpus), sum(cpus))
            share = {"num_cpus": max(1, min(sum(cpus) // workers, min(cpus)))}
        self._look(ray, nodes, bases)
        actor = ray.remote(RayWorker).options(max_restarts=-1, max_concurrency=2, **share)
        for number in range(workers):
            name = str(number + 1)
            self._actors[name] = actor.remote(
                "auto" if gpus else "cpu", bases, str(self.cache.root) if self._shared else None
            )
            self._greet(name)

    def _connect(self, ray) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS")
        host, _, port = (address or "").removeprefix("ray://").partition(":")
        if port.isdecimal():  # Ray itself takes a minute to say so
            try:
                socket.create_connection((host, int(port)), REACH_SECONDS).close()
            except OSError as error:
                raise EngineError(
                    f"the Ray cluster at {address} cannot be reached ({error.strerror or error}); check the address and "
                    "that `ray status` works there."
                ) from error
        options = {"logging_level": "error", "log_to_driver": False, "namespace": f"dreampose-{uuid.uuid4().hex[:8]}"}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster made for this run: it would call home
        try:
            if address is None:
                with contextlib.suppress(ConnectionError):
                    ray.init(address="auto", **options)
                    return
            ray.init(address=address, **({} if address else {"include_dashboard": False}), **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
            text = str(error).strip().splitlines()
            raise EngineError(
                f"the Ray cluster{f' at {address}' if address else ''} cannot be used ({text[0] if text else error}); "
                "check that `ray status` works there, that Python and ray are of the same version, and, where the cluster "
                "asks for a token, that RAY_AUTH_MODE=token is set here too."
            ) from error

    def _look(self, ray, nodes: list[dict[str, Any]], bases: list[Base]) -> None:
        """Ask every node what it has; EngineError says what they lack, before the first step."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.cache.ensure()
        tokens = [folder / f".shared-{uuid.uuid4().hex}" for folder in (self.cache.root, self.plan.folder)]
        try:
            for token in tokens:
                token.touch()
            look = ray.remote(look_around)
            asked = {}
            for node in nodes:
                there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
                options = {"num_cpus": 0, "scheduling_strategy": there, "max_retries": 0}
                request = look.options(**options).remote(
                    bases, __version__, str(self.cache.root), list(map(str, tokens))
                )
                asked[request] = node["NodeManagerAddress"]
            found, lacking = [], []
            until = time.monotonic() + LOOK_SECONDS
            for request, where in asked.items():
                try:
                    one = ray.get(request, timeout=max(1.0, until - time.monotonic()))
                except ray.exceptions.GetTimeoutError:
                    lacking.append(f"node {where} did not answer within {LOOK_SECONDS:.0f} seconds.")
                except (
                    Exception
                ) as error:  # whatever the node's Python raises where this package is not there as it is here
                    words = str(getattr(error, "cause", None) or error).strip().splitlines()
                    lacking.append(f"node {where} cannot run this package ({words[-1] if words else error}).")
                else:
                    found.append(one)
                    lacking += [f"node {where} ({one['host']}) {words}." for words in one["lacks"]]
            if lacking:
                raise EngineError("\n".join([*lacking, "Nothing was started."]))
            self._shared = all(one["shared"] for one in found)
            if self.note and not self._shared:
                self.note("the nodes do not share this cache and folder; inputs and results go through Ray.")
        finally:
            for token in tokens:
                token.unlink(missing_ok=True)

    def _greet(self, name: str) -> None:
        """Ask a worker to say when it is ready, after however many restarts."""
        self._sent[name] = set()
        self._hellos[self._actors[name].hello.options(max_task_retries=-1).remote()] = name

    # ---- working

    def submit(self, worker: str, step: str, task: dict[str, Any], ahead: dict[str, Any] | None) -> None:
        actor = self._actors[worker]
        if self._shared:
            reference = actor.run.remote(task, ahead)
        else:
            reference = actor.run.remote(task, None, self._inputs(task), self._entries(worker, task))
        self._steps[reference] = (worker, step, task)

    def _inputs(self, task: dict[str, Any]) -> dict[str, Any]:
        """The task's files as bytes, by their path."""
        return {path: pack(path) for path in task["files"]}

    def _entries(self, worker: str, task: dict[str, Any]) -> list[bytes]:
        """The entries of this cache that the step needs and the worker was not given yet."""
        wanted = []
        if task["kind"] == VIDEO and task.get("subject"):
            wanted.append(("subject", task["subject"]))
        if task["kind"] == VIDEO and task.get("poses_entry"):
            wanted.append(("poses", task["poses_entry"]))
        found = []
        for kind, id in wanted:
            entry = self.cache.get(kind, id) if id not in self._sent[worker] else None
            if entry is not None:
                raw = io.BytesIO()
                export_entry(entry, raw)
                found.append(raw.getvalue())
                self._sent[worker].add(id)
        return found

    def events(self, timeout: float) -> list[Event]:
        ray = _ray()
        self._ask_for_progress()
        waiting = [*self._steps, *self._hellos, *self._statuses]
        if not waiting:
            time.sleep(timeout)
            return []
        ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout)
        if ready and len(waiting) > 1:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        found: list[Event] = []
        for reference in ready:
            if reference in self._hellos:
                found += self._welcome(ray, self._hellos.pop(reference), reference)
            elif reference in self._statuses:
                found += self._progress(ray, self._statuses.pop(reference), reference)
            else:
                found += self._finished(ray, reference)
        return found

    def _welcome(self, ray, worker: str, reference: Any) -> list[Event]:
        try:
            host = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            words = str(error).strip().splitlines()
            raise EngineError(f"worker {worker} cannot be started: {words[-1] if words else error}") from error
        self._hosts[worker] = host
        return [Event(worker, engines.READY, data={"host": host})]

    def _progress(self, ray, worker: str, reference: Any) -> list[Event]:
        step = next((step for name, step, _ in self._steps.values() if name == worker), None)
        try:
            (done, total, note), notes = ray.get(reference)
        except ray.exceptions.RayError:
            return []  # the step itself will say what has happened
        found = [Event(worker, engines.NOTE, step, {"text": text}) for text in notes]
        if step is not None:
            found.append(Event(worker, engines.PROGRESS, step, {"done": done, "total": total, "note": note}))
        return found

    def _finished(self, ray, reference: Any) -> list[Event]:
        worker, step, task = self._steps.pop(reference)
        try:
            kind, data = ray.get(reference)
        except ray.exceptions.RayActorError:
            self._greet(worker)
            host = self._hosts.get(worker, "a node")
            words = f"worker {worker} on {host} was lost: its process was killed, or its node is gone."
            return [Event(worker, engines.LOST, step, {"sentence": words})]
        except Exception as error:  # not of the step, which answers with a failure
            kind, data = engines.FAILED, {"reason": "other", "sentence": sentence(error)}
        if "made" in data:
            try:
                self._bring_home(task, data.pop("made"))
            except Exception as error:
                kind, data = engines.FAILED, failure_of(error).as_json()
        return [Event(worker, kind, step, data), Event(worker, engines.READY, data={"host": self._hosts[worker]})]

    def _bring_home(self, task: dict[str, Any], made: bytes) -> None:
        """Put what a node made where it belongs here."""
        if task["kind"] in (SUBJECT, POSES):
            kind, id, _, _ = import_entry(self.cache, io.BytesIO(made), "what a node sent")
            if kind == "subject" and os.path.isdir(task["base"]):
                self.cache.note_place(id, Path(task["base"]))
            return
        output = task["output"]
        os.makedirs(os.path.dirname(output.rstrip("/")), exist_ok=True)
        if output.endswith("/"):
            with atomic_folder(output, True) as part:
                source = unpack(made, part / "made")
                for path in source.iterdir():
                    path.rename(part / path.name)
                source.rmdir()
                (part / "made").rmdir()
        else:
            with atomic_path(output) as part:
                os.replace(unpack(made, part.with_name("made")), part)

    def _ask_for_progress(self) -> None:
        now = time.monotonic()
        if now - self._asked < STATUS_SECONDS:
            return
        self._asked = now
        busy = {worker for worker, _, _ in self._steps.values()} - set(self._statuses.values())
        for worker in busy:
            self._statuses[self._actors[worker].status.remote()] = worker

    def kill(self, worker: str) -> None:
        self._steps = {reference: item for reference, item in self._steps.items() if item[0] != worker}
        _ray().kill(self._actors[worker], no_restart=False)
        self._greet(worker)

    def close(self) -> None:
        ray = _ray()
        if not ray.is_initialized():
            return
        for actor in self._actors.values():
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(actor)
        self._actors.clear()
        ray.shutdown()


def _ray():
    try:
        import ray
    except ModuleNotFoundError as error:
        raise EngineError(f"--engine ray needs the Python package ray; {INSTALL}") from error
    return ray
