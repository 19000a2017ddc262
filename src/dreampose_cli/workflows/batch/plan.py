"""From jobs to steps addressed by content: poses of a dance once, each subject once, each video once.

What is there is left out: a video that says of itself that the same request made it, and what an earlier run of the
batch found done. The plan is the same whoever makes it, so that shards agree without talking to each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...bases.config import read_config
from ...bases.fingerprint import fingerprint
from ...bases.registry import resolve_base
from ...cache import Cache
from ...cache import key as cache_key
from ...errors import OutputExistsError
from ...poses.extraction import is_doodle_reader
from ...poses.files import is_pose_source
from ...reporting import Note, Progress
from ...subjects.loading import find_subject
from ...version import __version__
from .digests import Digests
from .existing import difference, is_there, made_by, require_apart
from .job_options import JobOptions
from .jobs import SHOWN, Job

POSES, SUBJECT, VIDEO = "poses", "subject", "video"
TOLD_EVERY = 200  # jobs between two reports
_SUBJECT, _VIDEO = SUBJECT.encode(), VIDEO.encode()


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work: `task` says all a worker needs to know, `needs` which steps come before it.

    id: a hash of what the result depends on. order: the number of the first job that waits for it.
    """

    id: str
    kind: str
    label: str
    order: int
    task: dict[str, Any]
    needs: tuple[str, ...] = ()


@dataclass
class Plan:
    """The steps that are missing, by id, in an order in which they could be done; `present`: videos that are there."""

    folder: Path
    steps: dict[str, Step] = field(default_factory=dict)
    present: int = 0
    videos: int = 0  # of this shard, present or missing
    replaced: int = 0  # that another request made, to be overwritten

    def count(self, kind: str) -> int:
        """The number of missing steps of a kind."""
        return sum(step.kind == kind for step in self.steps.values())


@dataclass(frozen=True, slots=True)
class _Who:
    """Who dances: a key of the subject's content, the base, and either a subject's id or photos with their digests."""

    key: str
    base: Path
    fingerprint: str
    subject: str | None = None


class Planner:
    """Makes plans. `done`: what earlier runs found out, by step id (`results_of`)."""

    def __init__(self, cache: Cache, digests: Digests, done: dict[str, str] | None = None, note: Note | None = None):
        self.cache, self.digests, self.done, self.note = cache, digests, done or {}, note
        self._bases: dict[str | None, tuple[Path, str]] = {}
        self._people: dict[tuple, _Who] = {}
        self._poses: dict[tuple, str | None] = {}
        self._contents: dict[str, str] = {}
        self._kinds: dict[Path, bool] = {}
        self._tuning: dict[int, bytes] = {}  # by the id of a job's options, which jobs share
        self._rendering: dict[tuple[int, str], bytes] = {}

    def plan(
        self,
        jobs: Iterable[Job],
        folder: Path,
        *,
        shard: tuple[int, int] = (1, 1),
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Plan:
        """The steps for `jobs`, or for those of part I of N. Raises OutputExistsError where a video of another request is
        there and `overwrite` is not set, OutputError where one would replace an input, and whatever is wrong with an input."""
        jobs = list(jobs)
        if shard != (1, 1):
            jobs = [job for job in jobs if self._shard_of(job, shard[1]) == shard[0] - 1]
        plan = Plan(Path(folder), videos=len(jobs))
        self._contents = self.digests.of_all(path for job in jobs for path in (*job.photos, job.poses))
        require_apart(jobs, self.digests)
        foreign: list[str] = []
        for number, job in enumerate(jobs):
            id = self._video_id(job)
            found, there = made_by(job.output) if is_there(job, self.digests) else ({}, False)
            if there and found.get("id") == id:
                plan.present += 1
            elif there and not overwrite:
                foreign.append(f"{job.output} {difference(found, self._request(job))}")
            else:
                plan.replaced += there
                self._add(plan, job, number)
            if progress and number % TOLD_EVERY == 0:
                progress(number, len(jobs), "jobs")
        if progress and jobs:
            progress(len(jobs), len(jobs), "jobs")
        if foreign:
            more = f"\nand {len(foreign) - SHOWN} more." if len(foreign) > SHOWN else ""
            raise OutputExistsError(
                "\n".join(foreign[:SHOWN]) + more + "\nAdd --overwrite to replace what other requests made, or choose "
                "another -o; nothing was started."
            )
        return plan

    # ---- what a job depends on

    def _shard_of(self, job: Job, shards: int) -> int:
        """Which shard a job belongs to: all jobs with the same photos, or the same subject, to the same one."""
        content = [self.digests.head(photo) for photo in job.photos] or self._who(job).subject
        return int(cache_key("shard", content), 16) % shards

    def _who(self, job: Job) -> _Who:
        mark = (job.photos, job.subject, id(job.options))
        found = self._people.get(mark)
        if found is None:
            found = self._people[mark] = self._subject(job) if job.subject is not None else self._photos(job)
        return found

    def _subject(self, job: Job) -> _Who:
        """A subject that is in the cache, by its id, a name or a photo."""
        index = job.options.render.get("photo_index")
        record, home = find_subject(self.cache, job.subject, job.options.base, index)
        return _Who(record.id, home, record.base["fingerprint"], subject=record.id)

    def _photos(self, job: Job) -> _Who:
        """Photos to be tuned, or one that is rendered as it is."""
        options = job.options
        base, fingerprint = self._base(options.base)
        digests = "".join(map(self._digest, job.photos))
        poses = "".join(map(self._digest, options.tune.get("poses") or ()))
        how = self._tuning.get(id(options))
        if how is None:
            content = self._by_content(options, options.tune_content()) if options.tuned else None
            how = self._tuning[id(options)] = cache_key(content, fingerprint, __version__).encode()
        key = cache_key(_SUBJECT, how, digests.encode(), poses.encode())
        return _Who(key, base, fingerprint)

    def _digest(self, path: str) -> str:
        """The content of an input, as it was when the plan was begun."""
        found = self._contents.get(path)
        if found is None:
            found = self._contents[path] = self.digests.of(path)
        return found

    def _by_content(self, options: JobOptions, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings with the contents of files in the place of their paths."""
        return settings | {name: self._digest(path)[:16] for name, path in options.files().items() if name in settings}

    def _base(self, name: str | None) -> tuple[Path, str]:
        if name not in self._bases:
            folder = resolve_base(self.cache, name, self.note).absolute()
            self._bases[name] = folder, fingerprint(folder)
        return self._bases[name]

    def _video_id(self, job: Job) -> str:
        """A hash of all that a video depends on."""
        who = self._who(job)
        mark = (id(job.options), who.fingerprint)
        how = self._rendering.get(mark)
        if how is None:
            how = cache_key(
                self._by_content(job.options, job.options.render_content()), who.fingerprint, __version__
            ).encode()
            self._rendering[mark] = how
        return cache_key(_VIDEO, how, who.key.encode(), self._digest(job.poses).encode())

    def _request(self, job: Job) -> dict[str, Any]:
        """Everything that a video depends on, as its metadata will say it."""
        who = self._who(job)
        return {
            "id": self._video_id(job),
            "subject": who.key,
            "base": who.fingerprint,
            "poses": self._digest(job.poses)[:16],
            "settings": self._by_content(job.options, job.options.render_content()),
            "version": __version__,
        }

    # ---- the steps of a job

    def _add(self, plan: Plan, job: Job, number: int) -> None:
        who, request, options = self._who(job), self._request(job), job.options
        needs = [self._add_poses(plan, job, who, number)]
        task = self._task(VIDEO, who, [job.poses], options)
        task |= {
            "poses": os.path.abspath(job.poses),
            "poses_digest": self._digest(job.poses),
            "output": job.output,
            "options": _absolute(options, options.render),
            "request": request,
            "person": who.key,
        }
        if who.subject is not None:
            task["subject"] = who.subject
        elif options.tuned:
            known = self.done.get(who.key)
            if known is not None and self.cache.get("subject", known) is not None:
                task["subject"] = known
            else:
                needs.append(self._add_subject(plan, job, who, number))
        else:
            of_photo = [job.photos[0], *(options.tune.get("poses") or ())]
            task["files"] |= self._files(of_photo)
            task["photo"], *task["photo_poses"] = map(os.path.abspath, of_photo)
        wanted = tuple(step for step in needs if step is not None)
        # Two places may ask for the same video: the step is that of the place.
        id = cache_key(request["id"], job.output)
        plan.steps[id] = Step(id, VIDEO, job.label, number, task, wanted)

    def _add_poses(self, plan: Plan, job: Job, who: _Who, number: int) -> str | None:
        """The step that estimates a dance's poses; None where they are given as such, or are there, and for what only the
        render can read: drawings, and what bases that denoise frames together take their windows from."""
        options = {name: job.options.render.get(name) for name in ("estimator", "fps", "start", "end")}
        mark = (job.poses, who.fingerprint, *options.values())
        if mark not in self._poses:
            content = self._by_content(job.options, options)
            id = cache_key(POSES, [self._digest(job.poses), who.fingerprint, content, __version__])
            known = self.done.get(id)
            estimator = options["estimator"]
            if (
                is_pose_source(job.poses)
                or (known is not None and self.cache.path_of("poses", known).exists())
                or (estimator is not None and is_doodle_reader(estimator))
                or self._joint(who.base)
            ):
                self._poses[mark] = None
            else:
                self._poses[mark] = id
                task = self._task(POSES, who, [job.poses], job.options)
                task |= {
                    "poses": os.path.abspath(job.poses),
                    "poses_digest": self._digest(job.poses),
                    "options": _absolute(job.options, options),
                }
                label = f"poses of {os.path.basename(job.poses.rstrip('/'))}"
                plan.steps[id] = Step(id, POSES, label, number, task)
        return self._poses[mark]

    def _add_subject(self, plan: Plan, job: Job, who: _Who, number: int) -> str:
        if who.key not in plan.steps:
            options = job.options
            poses = options.tune.get("poses") or ()
            task = self._task(SUBJECT, who, [*job.photos, *poses], options)
            task |= {
                "photos": [os.path.abspath(photo) for photo in job.photos],
                "photo_poses": [os.path.abspath(path) for path in poses],
                "options": {k: v for k, v in _absolute(options, options.tune).items() if k != "poses"},
            }
            label = f"subject of {os.path.basename(job.photos[0])}"
            plan.steps[who.key] = Step(who.key, SUBJECT, label, number, task)
        return who.key

    def _task(self, kind: str, who: _Who, paths: Iterable[str], options: JobOptions) -> dict[str, Any]:
        """The common part of the tasks of all steps. files: digests of all that the step reads, by absolute path."""
        files = self._files([*paths, *options.files().values()])
        return {"kind": kind, "base": str(who.base), "base_fingerprint": who.fingerprint, "files": files}

    def _files(self, paths: Iterable[str]) -> dict[str, str]:
        return {os.path.abspath(path): self._digest(path) for path in paths}

    def _joint(self, base: Path) -> bool:
        if base not in self._kinds:
            self._kinds[base] = read_config(base).network.joint
        return self._kinds[base]


def _absolute(options: JobOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a worker understands them wherever it runs."""
    return {**settings, **{k: os.path.abspath(path) for k, path in options.files().items() if k in settings}}


def results_of(lines: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The subjects and poses that manifests' lines report as done: ids in the cache, by step id."""
    found: dict[str, str] = {}
    for line in lines:
        kind, result = line.get("kind"), line.get("result")
        if line.get("event") == "done" and kind in (SUBJECT, POSES) and isinstance(result, dict) and result.get(kind):
            found[str(line.get("step"))] = str(result[kind])
    return found
