"""From jobs to steps addressed by content: poses of a dance once, each subject once, each video once.

What is there is left out: a video that says of itself that the same request made it, and what an earlier run of the
batch found done. The plan is the same whoever makes it, so that shards agree without talking to each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import cache, media
from ...bases.fingerprint import fingerprint
from ...bases.registry import resolve_base
from ...errors import MediaError, OutputExistsError
from ...media.metadata import KEY
from ...media.mp4_comment import read_comment
from ...poses.files import is_pose_source
from ...reporting import Note, Progress
from ...subjects.loading import find_subject
from ...version import __version__
from .digests import Digests
from .jobs import SHOWN, Job

POSES, SUBJECT, VIDEO = "poses", "subject", "video"
REQUEST = "request"  # where a video's metadata says what made it


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
        """How many steps of a kind are missing."""
        return sum(step.kind == kind for step in self.steps.values())


@dataclass(frozen=True, slots=True)
class _Who:
    """Who dances: a key of the subject's content, the base, and either a subject's id or photos with their digests."""

    key: str
    base: Path
    fingerprint: str
    subject: str | None = None
    digests: tuple[str, ...] = ()
    pose_digests: tuple[str, ...] = ()


class Planner:
    """Makes plans. `done`: what earlier runs found out, by step id (`results_of`)."""

    def __init__(self, digests: Digests, done: dict[str, dict] | None = None, note: Note | None = None):
        self.digests, self.done, self.note = digests, done or {}, note
        self._bases: dict[str | None, tuple[Path, str]] = {}
        self._people: dict[tuple, _Who] = {}
        self._poses: dict[tuple, str | None] = {}
        self._known_poses: dict[str, bool] = {}
        self._rendered: dict[int, dict[str, Any]] = {}

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
        for job in jobs:
            media.require_apart(job.output, [*job.photos, job.poses], replaced=job.output.endswith("/"))
        self.digests.of_all(path for job in jobs for path in (*job.photos, job.poses))
        foreign: list[str] = []
        for number, job in enumerate(jobs):
            request = self._request(job)
            found, there = made_by(job.output)
            if there and found.get("id") == request["id"]:
                plan.present += 1
            elif there and not overwrite:
                foreign.append(f"{job.output} {_difference(found, request)}")
            else:
                plan.replaced += there
                self._add(plan, job, request, number)
            if progress:
                progress(number + 1, len(jobs), "jobs")
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
        return int(cache.key("shard", content), 16) % shards

    def _who(self, job: Job) -> _Who:
        mark = (job.photos, job.subject, id(job.options))
        found = self._people.get(mark)
        if found is None:
            found = self._people[mark] = self._subject(job) if job.subject is not None else self._photos(job)
        return found

    def _subject(self, job: Job) -> _Who:
        """A subject that is in the cache, by its id, a name or a photo."""
        index = job.options.render.get("photo_index", 1)
        record, home = find_subject(job.subject, job.options.base, index)
        return _Who(record.id, home, record.base["revision"], subject=record.id)

    def _photos(self, job: Job) -> _Who:
        """Photos to be tuned, or one that is rendered as it is."""
        options = job.options
        base, fingerprint = self._base(options.base)
        digests = tuple(self.digests.of(photo) for photo in job.photos)
        poses = tuple(self.digests.of(path) for path in options.tune.get("poses") or ())
        parts = [digests, poses, fingerprint, options.tune_content() if options.tuned else None, __version__]
        return _Who(cache.key(SUBJECT, parts), base, fingerprint, digests=digests, pose_digests=poses)

    def _base(self, name: str | None) -> tuple[Path, str]:
        if name not in self._bases:
            folder = resolve_base(name, self.note).absolute()
            self._bases[name] = folder, fingerprint(folder)
        return self._bases[name]

    def _request(self, job: Job) -> dict[str, Any]:
        """What a video depends on, as its metadata will say it, with a hash of it all."""
        who = self._who(job)
        settings = self._rendered.get(id(job.options))
        if settings is None:
            settings = self._rendered[id(job.options)] = job.options.render_content()
        request = {
            "subject": who.key,
            "base": who.fingerprint,
            "poses": self.digests.of(job.poses)[:16],
            "settings": settings,
            "version": __version__,
        }
        return {"id": cache.key(VIDEO, request), **request}

    # ---- the steps of a job

    def _add(self, plan: Plan, job: Job, request: dict[str, Any], number: int) -> None:
        who = self._who(job)
        needs = [self._add_poses(plan, job, who, number)]
        task: dict[str, Any] = {
            "kind": VIDEO,
            "poses": job.poses,
            "poses_digest": self.digests.of(job.poses),
            "output": job.output,
            "base": str(who.base),
            "base_fingerprint": who.fingerprint,
            "options": dict(job.options.render),
            "request": request,
            "person": who.key,
        }
        if who.subject is not None:
            task["subject"] = who.subject
        elif job.options.tuned:
            known = self.done.get(who.key, {}).get("subject")
            if known is not None and cache.get("subject", known) is not None:
                task["subject"] = known
            else:
                needs.append(self._add_subject(plan, job, who, number))
        else:
            task |= {"photo": job.photos[0], "photo_digests": list(who.digests)}
            task["photo_poses"] = list(job.options.tune.get("poses") or ())
        wanted = tuple(step for step in needs if step is not None)
        # Two places may ask for the same video: the step is that of the place.
        id = cache.key(request["id"], job.output)
        plan.steps[id] = Step(id, VIDEO, job.label, number, task, wanted)

    def _add_poses(self, plan: Plan, job: Job, who: _Who, number: int) -> str | None:
        """The step that estimates a dance's poses; None where they are given as such, or are there."""
        span = tuple(job.options.render.get(name) for name in ("fps", "start", "end"))
        mark = (job.poses, who.fingerprint, span)
        if mark not in self._poses:
            id = cache.key(POSES, [self.digests.of(job.poses), who.fingerprint, span, __version__])
            known = self.done.get(id, {}).get("poses")
            if is_pose_source(job.poses) or (known is not None and cache.path_of("poses", known).exists()):
                self._poses[mark] = None
            else:
                self._poses[mark] = id
                task = {
                    "kind": POSES,
                    "poses": job.poses,
                    "poses_digest": self.digests.of(job.poses),
                    "base": str(who.base),
                    "base_fingerprint": who.fingerprint,
                    "options": dict(zip(("fps", "start", "end"), span, strict=True)),
                }
                label = f"poses of {os.path.basename(job.poses.rstrip('/'))}"
                plan.steps[id] = Step(id, POSES, label, number, task)
        return self._poses[mark]

    def _add_subject(self, plan: Plan, job: Job, who: _Who, number: int) -> str:
        if who.key not in plan.steps:
            task = {
                "kind": SUBJECT,
                "photos": list(job.photos),
                "photo_digests": list(who.digests),
                "photo_poses": list(job.options.tune.get("poses") or ()),
                "base": str(who.base),
                "base_fingerprint": who.fingerprint,
                "options": {key: value for key, value in job.options.tune.items() if key != "poses"},
            }
            label = f"subject of {os.path.basename(job.photos[0])}"
            plan.steps[who.key] = Step(who.key, SUBJECT, label, number, task)
        return who.key


def made_by(output: str) -> tuple[dict[str, Any], bool]:
    """What made the video or folder of frames at `output` by its own account (empty where it does not say), and whether
    anything is there."""
    path = output.rstrip(os.sep)
    try:
        if output.endswith(".mp4"):
            text = read_comment(path)
            metadata = json.loads(text).get(KEY) if text else None
        else:
            if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path)):
                return {}, False
            metadata = media.read_metadata(path)
    except FileNotFoundError:
        return {}, False
    except (OSError, ValueError, AttributeError, MediaError):
        metadata = None
    request = metadata.get(REQUEST) if isinstance(metadata, dict) else None
    return (request if isinstance(request, dict) else {}), True


def results_of(lines: Iterable[dict[str, Any]]) -> dict[str, dict]:
    """The results of steps that manifests' lines report as done, by step id: which subject, which poses."""
    found: dict[str, dict] = {}
    for line in lines:
        if (
            line.get("event") == "done"
            and line.get("kind") in (SUBJECT, POSES)
            and isinstance(line.get("result"), dict)
        ):
            found[str(line.get("step"))] = line["result"]
    return found


def _difference(found: dict[str, Any], request: dict[str, Any]) -> str:
    if not found:
        return "is there, and no batch made it."
    words = {"subject": "the photos or how they are tuned", "base": "the base", "poses": "the dance"}
    parts = [text for key, text in words.items() if found.get(key) != request[key]]
    if found.get("version") != request["version"]:
        parts.append(f"the version ({found.get('version')}, now {request['version']})")
    before, now = found.get("settings"), json.loads(json.dumps(request["settings"]))
    before = before if isinstance(before, dict) else {}
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    parts += [f"{name.replace('_', ' ')} ({before.get(name)}, now {now.get(name)})" for name in names]
    return f"was made by another request: {', '.join(parts) or 'it'} differs."
