"""The jobs of a batch: photos and dances from the command line, or a jobs file that is checked whole.

Everything here is about names and places; nothing is opened but the jobs file.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ...errors import UsageError
from ...media.files import list_files
from ...media.outputs import output_kind, require_apart
from ...media.photos import SUFFIXES
from ...regular import require_regular
from .job_options import NAMES, JobOptions, OptionSets

FIELDS = ("photo", "subject", "poses", "output")
LONGEST_LINE = 1 << 20  # bytes
LONGEST_FIELD = 4096  # bytes, of a path as systems take it
_Value = bool | int | float | str | list[str | int | float] | None
SHOWN = 20  # bad lines that are explained; of the others the numbers are said
NAMED = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One video: of `photos` (one person in one outfit) or of a `subject` in the cache, in the poses of a dance.

    output: absolute, in the folder of the batch, with a slash at its end for a folder of frames. line: in the jobs file,
    0 without one.
    """

    photos: tuple[str, ...]
    subject: str | None
    poses: str
    output: str
    options: JobOptions
    line: int = 0

    @property
    def label(self) -> str:
        """Who dances what, in words."""
        who = self.subject or os.path.basename(self.photos[0])
        return f"{who} in {os.path.basename(self.poses.rstrip('/'))}"


def jobs_of(
    photos: Iterable[str | os.PathLike],
    poses: Iterable[str | os.PathLike],
    folder: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    subjects: Iterable[str] = (),
) -> list[Job]:
    """Every photo, and every subject of the cache, in every dance: FOLDER/PHOTO-DANCE.mp4. A folder stands for the photos
    in it.

    Raises UsageError where two photos or dances would share a name, or where one does not exist; OutputError where the
    results would lie among the photos.
    """
    home = _folder(folder)
    made = OptionSets(options).of({})
    people: list[str] = []
    given = [os.fspath(photo) for photo in photos]
    require_apart(os.path.join(home, "manifest.jsonl"), [one for one in given if os.path.isdir(one)], replaced=False)
    for photo in given:
        people += [str(path) for path in list_files(Path(photo), SUFFIXES)] if os.path.isdir(photo) else [photo]
    people, dances = list(dict.fromkeys(people)), list(dict.fromkeys(os.fspath(dance) for dance in poses))
    tuned = list(dict.fromkeys(subjects))
    if not people and not tuned:
        raise UsageError("batch needs photos: files, or a folder that holds some.")
    if tuned and not made.tuned:
        raise UsageError("--untuned and --subject exclude each other: a subject is tuned already.")
    if not dances:
        raise UsageError(
            "batch needs --poses: a driving video, a folder of frames, or a pose file; it can be repeated."
        )
    if made.tune.get("name") or made.tune.get("poses"):
        raise UsageError("a name and photo poses belong to one subject; give them in a jobs file.")
    missing = [path for path in [*people, *dances] if not os.path.exists(path)]
    if missing:
        raise UsageError("\n".join(f"{path} does not exist; check the path." for path in _some(missing)))
    for what, paths in (("photos and subjects", [*people, *tuned]), ("dances", dances)):
        _require_names(what, paths)
    who = [((photo,), None, _stem(photo)) for photo in people] + [((), one, _name(one)) for one in tuned]
    return [
        Job(photos, subject, dance, os.path.join(home, f"{name}-{_stem(dance)}.mp4"), made)
        for photos, subject, name in who
        for dance in dances
    ]


def read_jobs(
    file: str | os.PathLike, folder: str | os.PathLike, options: Mapping[str, Any] | None = None
) -> list[Job]:
    """The jobs in a .csv with a header, or else in JSON lines, with `options` where a line says nothing else.

    Fields: photo (several, of one person, with semicolons or as a list) or subject; poses; output (in the folder; left
    out: PHOTO-DANCE.mp4); and any of `job_options.NAMES`. Inputs are taken from the working directory, outputs from the
    folder. The file is checked whole: UsageError names every bad line.
    """
    home, sets = _folder(folder), OptionSets(options)
    jobs: list[Job] = []
    bad: list[tuple[int, str]] = []
    there: dict[str, bool] = {}
    taken: dict[str, int] = {}
    try:
        for number, row in _rows(file):
            try:
                if isinstance(row, str):
                    raise UsageError(row)
                job = _job(row, number, home, sets, there)
                before = taken.setdefault(job.output.rstrip("/"), number)
                if before != number:
                    raise UsageError(
                        f"writes to {job.output}, and so does line {before}; give each an output of its own."
                    )
                jobs.append(job)
            except UsageError as error:
                bad.append((number, str(error)))
    except OSError as error:
        raise UsageError(f"the jobs in {file} cannot be read ({error.strerror or error}).") from error
    if bad:
        raise UsageError(_in_words(file, bad))
    if not jobs:
        raise UsageError(f"{file} holds no jobs; each is a line with {', '.join(FIELDS)}, and options by their names.")
    return jobs


def _in_words(file: str | os.PathLike, bad: list[tuple[int, str]]) -> str:
    lines = [f"{file}, line {number}: {words}" for number, words in bad[:SHOWN]]
    rest = bad[SHOWN:]
    if rest:
        more = f" and {len(rest) - NAMED} more" if len(rest) > NAMED else ""
        lines.append(f"also bad are the lines {', '.join(str(number) for number, _ in rest[:NAMED])}{more}.")
    lines.append(f"{len(bad)} bad line{'s' if len(bad) > 1 else ''}; nothing was started.")
    return "\n".join(lines)


def _rows(file: str | os.PathLike) -> Iterator[tuple[int, dict | str]]:
    """(line number, fields), or in place of the fields what is wrong with the line. Lines are read one at a time."""
    if not stat.S_ISFIFO(os.stat(file).st_mode):  # as of `--jobs <(a command)`: read once, from its beginning to its end
        require_regular(file)
    with open(file, "rb") as stream:
        if Path(file).suffix.lower() == ".csv":
            yield from _csv_rows(_lines(stream))
        else:
            for number, line in _lines(stream):
                if isinstance(line, UsageError):
                    yield number, str(line)
                elif line.strip():
                    yield number, _parsed(line)


def _lines(stream) -> Iterator[tuple[int, str | UsageError]]:
    number = 0
    while raw := stream.readline(LONGEST_LINE):
        number += 1
        if len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
            while (more := stream.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                pass
            yield number, UsageError("is longer than 1 MiB; a job is one short line.")
            continue
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield number, UsageError("is not UTF-8; save the file as UTF-8.")


def _parsed(line: str) -> dict | str:
    try:
        row = json.loads(line)
    except RecursionError:
        return "is nested too deep."
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it holds a number out of range"
        return f"is not JSON ({reason})."
    return _possible(row) if isinstance(row, dict) else f"is no object with {', '.join(FIELDS)}."


def _possible(row: dict) -> dict | str:
    """The row itself, or what no field can be: of another type, endless, or no text that a file could be called."""
    for key, value in row.items():
        try:
            for text in (key, *(value if isinstance(value, list) else [value])):
                if isinstance(text, str) and ("\0" in text or len(os.fsencode(text)) > LONGEST_FIELD):
                    raise ValueError
            msgspec.convert(value, _Value)
        except (ValueError, msgspec.ValidationError):
            name = key if len(key) < 100 and "\0" not in key and key.isprintable() else "a field"
            return f"{name} cannot be used: it is too long, no text, or of a type that no field has."
    return row


def _csv_rows(lines: Iterator[tuple[int, str | UsageError]]) -> Iterator[tuple[int, dict | str]]:
    """Rows by the header's names. A bad line is reported and left out, so that those after it are checked too."""
    at = 0
    waiting: list[tuple[int, str]] = []

    def good() -> Iterator[str]:
        nonlocal at
        for number, line in lines:
            at = number
            if isinstance(line, UsageError):
                waiting.append((number, str(line)))
            else:
                yield line

    reader = csv.reader(good())
    header: list[str] | None = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield at, f"is no csv ({error})."
            continue
        yield from waiting
        waiting.clear()
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
        elif len(row) > len(header):
            yield at, f"has {len(row)} fields, and the header has {len(header)}."
        else:
            yield at, _possible(dict(zip(header, row, strict=False)))


def _job(row: dict, number: int, home: str, sets: OptionSets, there: dict[str, bool]) -> Job:
    values = {}
    for key, value in row.items():
        name = _field(key)
        if value not in (None, ""):
            values[name] = value
    photos = _photos(values.pop("photo", None))
    subject = values.pop("subject", None)
    if bool(photos) == (subject is not None):
        raise UsageError(
            "says neither photo nor subject." if not photos else "says photo and subject; give one of them."
        )
    fields = {"subject": subject, "poses": values.pop("poses", None), "output": values.pop("output", None)}
    for key, value in fields.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{key} is {value!r}, but must be text.")
    poses = fields["poses"]
    if poses is None:
        raise UsageError("does not say its poses.")
    options = sets.of(values)
    given = options.tune.get("poses") or ()
    for path in (*photos, poses, *given):
        if path not in there:
            there[path] = os.path.exists(path)
        if not there[path]:
            raise UsageError(f"{path} does not exist; check the path.")
    if given and len(given) != len(photos):
        raise UsageError(f"has {len(photos)} photo(s) and {len(given)} photo-pose; give one for each photo.")
    if not options.tuned and (len(photos) > 1 or "photo_index" in options.render):
        raise UsageError("an untuned job follows one photo; name that one alone.")
    if not options.tuned and subject is not None:
        raise UsageError("a subject is tuned already; name a photo, or leave `tune` out.")
    who = _stem(photos[0]) if photos else _name(subject)
    return Job(photos, subject, poses, _output(fields["output"], home, who, poses, options), options, number)


@functools.cache
def _field(key: str) -> str:
    """The name of a field as it is written in a file. Raises UsageError."""
    name = key.strip().lower().replace("_", "-")
    name = "photo" if name == "photos" else name
    if name not in FIELDS and name not in NAMES:
        raise UsageError(f"has the unknown field {key}; known are {', '.join((*FIELDS, *NAMES))}.")
    return name


def _photos(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = value.split(";") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"photo is {value!r}, but must be a path, or several.")
    return tuple(part.strip() for part in parts if part.strip())


def _output(asked: str | None, home: str, who: str, poses: str, options: JobOptions) -> str:
    """The absolute place of a result, which has to lie within the folder."""
    if asked is None:
        asked = f"{who}-{_stem(poses)}.mp4"
        if os.sep in asked:
            raise UsageError("does not say its output.")
    path = os.path.normpath(os.path.join(home, asked))
    if not path.startswith(home + os.sep):
        raise UsageError(f"the output {asked} lies outside the folder {home}; outputs are taken from there.")
    if os.path.basename(path).startswith((".", "manifest")) and asked.endswith(("jsonl", "lock")):
        raise UsageError(f"the output {asked} is a name that the batch uses itself; choose another.")
    kind = "mp4" if path.endswith(".mp4") else output_kind(f"{path}{os.sep}" if asked.endswith(("/", os.sep)) else path)
    if options.render.get("audio") and kind != "mp4":
        raise UsageError(f"the output {asked} carries no sound; write an .mp4, or leave `audio` out.")
    return f"{path}{os.sep}" if kind == "folder" else path


def _folder(folder: str | os.PathLike) -> str:
    return os.path.realpath(folder)


def _stem(path: str) -> str:
    name = os.path.basename(path.rstrip("/" + os.sep))
    return os.path.splitext(name)[0] or name


def _name(subject: str) -> str:
    """The word that results of a subject are named after: its id, its name, or the name of its photo."""
    return _stem(subject) if os.path.exists(subject) else subject


def _require_names(what: str, paths: list[str]) -> None:
    seen: dict[str, str] = {}
    clashes = []
    for path in paths:
        other = seen.setdefault(_name(path), path)
        if other != path:
            clashes.append(f"{other} and {path}")
    if clashes:
        raise UsageError(
            f"results are named after the {what}, and some share a name: {'; '.join(_some(clashes))}; "
            "rename them, or say the outputs in a jobs file."
        )


def _some(items: list[str], most: int = SHOWN) -> list[str]:
    return items if len(items) <= most else [*items[:most], f"and {len(items) - most} more"]
