"""`batch`: from photos and dances, or a jobs file, to a folder of videos."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...cache import Cache, user_cache
from ...errors import OutputError, UsageError
from ...reporting import Note, Progress
from .digests import Digests
from .driver import Driver, Listener, Policy, Summary
from .engine import Engine
from .estimates import Forecast, Measured, forecast
from .jobs import Job, jobs_of, read_jobs
from .local import LocalEngine
from .manifest import Manifest, read_lines
from .plan import Plan, Planner, results_of

DIGESTS = ".digests.jsonl"


@dataclass(frozen=True)
class BatchOptions:
    """The options of `batch`: photos or subjects, and poses, or a jobs file; a folder; and how.

    options: of every job, by the names of `job_options.NAMES`. shard: (I, N), part I of N. engine: "local", "ray" or
    "ray=ADDRESS". workers: processes, or actors of a cluster; None for one, or for as many as the cluster has room for.
    timeout: seconds of a step.
    """

    output: str | os.PathLike
    photos: Sequence[str | os.PathLike] = ()
    subjects: Sequence[str] = ()
    poses: Sequence[str | os.PathLike] = ()
    jobs: str | os.PathLike | None = None
    options: dict[str, Any] = field(default_factory=dict)
    engine: str = "local"
    workers: int | None = None
    devices: Sequence[str] = ()
    threads: int | None = None
    shard: tuple[int, int] = (1, 1)
    retries: int = 1
    max_failures: int | None = None
    timeout: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Planned:
    """A plan, what it will take, and what was measured before; free: bytes of the folder's disk; the inputs' digests; the cache."""

    plan: Plan
    forecast: Forecast
    measured: Measured
    free: int
    digests: Digests
    cache: Cache


def plan_batch(
    options: BatchOptions,
    progress: Progress | None = None,
    note: Note | None = None,
    *,
    cache: Cache | None = None,
) -> Planned:
    """The missing steps, and their cost. Writes nothing. Raises UsageError, MediaError, BaseError, SubjectError,
    OutputError, OutputExistsError."""
    folder = _folder(options)
    jobs = _jobs(options)
    measured, done = Measured(), {}
    if folder.is_dir():  # line by line: of a large catalogue the manifest is larger than all else
        done = results_of(measured.through(read_lines(folder, "done")))
    digests = Digests(folder / DIGESTS)
    cache = cache or user_cache()
    planner = Planner(cache, digests, done, note)
    plan = planner.plan(jobs, folder, shard=options.shard, overwrite=options.overwrite, progress=progress)
    above = next(path for path in (folder, *folder.parents) if path.exists())
    return Planned(plan, forecast(plan, measured), measured, shutil.disk_usage(above).free, digests, cache)


def run_batch(options: BatchOptions, planned: Planned, listener: Listener, on_driver=None) -> Summary:
    """Do what was planned. `on_driver` is given the driver before it starts, for its summary where it is interrupted.
    Raises EngineError, OutputError, KeyboardInterrupt."""
    engine = make_engine(options, planned, listener.note)
    with Manifest(planned.plan.folder, options.shard) as manifest:
        planned.digests.remember()
        policy = Policy(options.retries, options.max_failures, options.timeout)
        driver = Driver(planned.plan, engine, manifest, policy, listener, planned.measured)
        if on_driver:
            on_driver(driver)
        return driver.run()


def make_engine(options: BatchOptions, planned: Planned, note: Note | None = None) -> Engine:
    """The engine that was asked for, not started yet."""
    kind, _, address = options.engine.partition("=")
    if kind == "local" and not address:
        return LocalEngine(planned.cache, options.workers or 1, list(options.devices), options.threads)
    if kind == "ray":
        if options.devices:
            raise UsageError("--devices is for the local engine; a cluster knows its own devices.")
        from .ray_engine import RayEngine

        return RayEngine(planned.cache, planned.plan, address or None, options.workers, note)
    raise UsageError(f"there is no engine {options.engine!r}; choose local, ray or ray=ADDRESS.")


def _jobs(options: BatchOptions) -> list[Job]:
    if options.jobs is not None:
        if options.photos or options.poses or options.subjects:
            raise UsageError(
                "--jobs and photos, --subject or --poses exclude each other: the file says who dances what."
            )
        return read_jobs(options.jobs, options.output, options.options)
    return jobs_of(options.photos, options.poses, options.output, options.options, options.subjects)


def _folder(options: BatchOptions) -> Path:
    index, shards = options.shard
    if not 1 <= index <= shards:
        raise UsageError(f"--shard is {index}/{shards}, but must be I/N with 1 <= I <= N.")
    folder = Path(os.path.realpath(options.output))
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{options.output} is a file, and a folder of videos is to be written there; choose another -o."
        )
    return folder
