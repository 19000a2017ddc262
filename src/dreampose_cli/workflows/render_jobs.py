"""Many renders in one process: the base stays in memory, and a job that fails does not keep the others from going on."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import media
from ..errors import UsageError, sentence
from ..reporting import Note, Progress
from .options import RenderOptions
from .render import RenderResult, render

FIELDS = ("subject", "poses", "output")


@dataclass(frozen=True)
class Job:
    """One render: subject (id, name or photo; None: tuned last), pose source, and where the result goes."""

    subject: str | None
    poses: Path
    output: str


@dataclass(frozen=True)
class JobResult:
    """What became of a job: its result, or the sentence that says why there is none."""

    job: Job
    result: RenderResult | None
    error: str | None = None


def read_jobs(file: Path) -> list[Job]:
    """The jobs in a .csv with a header, or else in JSON lines: subject (may be left out), poses, output.

    Paths are taken from the working directory. Raises UsageError naming the line.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the jobs in {file} cannot be read ({error}).") from error
    if Path(file).suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines())
        rows = [(reader.line_num, row) for row in reader]
    else:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        rows = [(number, _parsed(file, number, line)) for number, line in lines]
    if not rows:
        raise UsageError(f"{file} holds no jobs; each is a line with {', '.join(FIELDS)}.")
    return [_job(file, number, row) for number, row in rows]


def _parsed(file: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{file}, line {number} is not JSON ({error.msg}).") from error
    if not isinstance(row, dict):
        raise UsageError(f"{file}, line {number} is no object with {', '.join(FIELDS)}.")
    return row


def _job(file: Path, number: int, row: dict) -> Job:
    unknown = [str(key) for key in row if key not in FIELDS]
    if unknown:
        raise UsageError(f"{file}, line {number} has the unknown field {unknown[0]}; known are {', '.join(FIELDS)}.")
    values = {key: value for key, value in row.items() if value not in (None, "")}
    for key in FIELDS:
        if key in values and not isinstance(values[key], str):
            raise UsageError(f"{file}, line {number}: {key} is {values[key]!r}, but must be text.")
        if key != "subject" and key not in values:
            raise UsageError(f"{file}, line {number} does not say its {key}.")
    return Job(values.get("subject"), Path(values["poses"]), values["output"])


def jobs_of(subjects: Sequence[str], poses: Sequence[Path], output: Path | str) -> list[Job]:
    """A job for each subject in each pose source: videos SUBJECT-SOURCE.mp4 in the folder `output`, which is made.

    Raises UsageError, OutputError.
    """
    if media.output_kind(output) != "folder":
        raise UsageError(f"{len(subjects)} subjects need a folder; end -o with a slash.")
    folder = Path(output)
    media.check_output(f"{folder}/", True, owned=None)  # videos are added to a folder, which is not replaced
    folder.mkdir(parents=True, exist_ok=True)

    def named(subject: str) -> str:
        return Path(subject).stem if Path(subject).is_file() else subject

    return [
        Job(subject, source, str(folder / f"{named(subject)}-{Path(source).stem or Path(source).name}.mp4"))
        for subject in subjects
        for source in poses
    ]


def render_jobs(
    jobs: list[Job],
    options: RenderOptions,
    *,
    progress: Progress | None = None,
    note: Note | None = None,
    warn: Note | None = None,
) -> list[JobResult]:
    """Every job in turn, with what else `options` say; what fails is said by `warn` and stands in its result.

    Raises UsageError where two jobs have the same output, OutputError where one is an input.
    """
    outputs = [os.path.realpath(job.output) for job in jobs]
    if len(set(outputs)) < len(outputs):
        twice = next(job.output for job, output in zip(jobs, outputs, strict=True) if outputs.count(output) > 1)
        raise UsageError(f"two jobs write to {twice}; give each an output of its own.")
    for job in jobs:
        media.require_apart(job.output, [job.poses, job.subject], replaced=media.output_kind(job.output) == "folder")
    from ..networks.model_cache import Shelf

    shelf = Shelf(keep=True)
    results = []
    for number, job in enumerate(jobs, 1):
        who = f"{job.subject or 'the last subject'} in {job.poses.name}"

        def report(done: int, total: int | None = None, text: str = "", number: int = number) -> None:
            if progress:
                progress(done, total, f"job {number} of {len(jobs)}: {text}")

        try:
            one = replace(options, subject=job.subject, poses=[job.poses], output=job.output)
            made = render(one, shelf=shelf, progress=report, note=note)
            results.append(JobResult(job, made))
        except Exception as error:  # whatever it is, the other jobs go on
            results.append(JobResult(job, None, sentence(error)))
            if warn:
                warn(f"job {number} of {len(jobs)} ({who}) failed: {sentence(error)}")
    return results
