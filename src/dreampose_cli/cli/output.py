"""The one sink of everything a command says.

Results go to stdout: for people and loops the path or id alone, as the last line; with --json one document instead.
Notes and progress go to stderr and vanish with --quiet; warnings and errors stay.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError, UsageError, printable, wrapped
from ..reporting import Caution, Progress

PLAIN_PROGRESS_SECONDS = 10.0


class Output:
    """`mode` is "human", "json" or "quiet"; quiet and json may go together. `printed`: whether this command line has
    printed its JSON document."""

    printed = False

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False):
        if quiet and verbose:
            raise UsageError("--quiet and --verbose exclude each other.")
        Output.printed = False
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self._live: Any = None  # rich's Progress, or its Live, while one is on the screen

    @property
    def mode(self) -> str:
        return "json" if self.json else "quiet" if self.quiet else "human"

    # ---- stderr

    def note(self, text: str) -> None:
        """Something worth knowing, on stderr; with --quiet only a `Caution`."""
        if isinstance(text, Caution):
            self.warn(text)
        elif not self.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        """Something for those who asked for more with --verbose, on stderr."""
        if self.verbose:
            self._say(text)

    def warn(self, text: str) -> None:
        """Something that may spoil the result, on stderr whatever the mode."""
        self._say(f"warning: {text}")

    def _say(self, text: str) -> None:
        text = printable(text)
        if sys.stderr.isatty():
            text = wrapped(text)
        with suppress(OSError):  # a standard error that is full or gone is no reason to stop the work
            if self._live is not None:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, total: int | None, label: str) -> Iterator[Progress]:
        """Yield the callback `progress(done, total=None, note="")`: a bar with the time left on a terminal, a plain
        line every ten seconds elsewhere, nothing with --quiet. A total that changes begins a new stretch; 0 without a
        total one of unknown length.
        """
        if self.quiet:
            yield lambda done, total=None, note="": None
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with self._bar(total, label) as report:
                yield report
        else:
            yield _PlainProgress(total, label, self._say, details=self.verbose)

    @contextmanager
    def _bar(self, total: int | None, label: str) -> Iterator[Progress]:
        from .bar import bar

        with bar(total, label, details=self.verbose) as (screen, report):
            self._live = screen
            try:
                yield report
            finally:
                self._live = None

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Ask on the terminal; UsageError where there is nobody to ask and `yes` (--yes) was not given."""
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError(f"{question} There is no terminal to ask on: add --yes, or --dry-run to look first.")
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    # ---- stdout

    def result(self, values: Any, document: Any) -> None:
        """The end of a command: its path or id (or several, a line each) on stdout, or `document` with --json."""
        if self.json:
            self.document(document)
            return
        for value in values if isinstance(values, list | tuple) else [values]:
            self._print(str(value))

    def page(self, lines: Iterable[str], document: Any, brief: Iterable[Any] = ()) -> None:
        """Information that was asked for: `lines` for people, `brief` with --quiet, `document` with --json."""
        if self.json:
            self.document(document)
            return
        for line in brief if self.quiet else lines:
            self._print(wrapped(str(line)) if sys.stdout.isatty() else str(line))

    def _print(self, text: str) -> None:
        """A line on stdout: as it is for programs, without control characters for people."""
        self._write(printable(text) if sys.stdout.isatty() else text)

    def _write(self, text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError:
            raise
        except OSError as problem:
            raise OutputError(
                f"the result cannot be written to standard output ({problem.strerror}); send it elsewhere."
            ) from problem

    def document(self, document: Any) -> None:
        """One JSON document on stdout."""
        Output.printed = True
        self._write(json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False))


class _PlainProgress:
    """Progress for logs: a line every ten seconds, with the speed of this stretch for the time left."""

    def __init__(self, total: int | None, label: str, say: Callable[[str], None], details: bool = False):
        self.total, self.label, self.say, self.details = total, label, say, details
        self.said_at = time.monotonic()
        self.first: tuple[float, int] | None = None
        self.last = 0

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        now = time.monotonic()
        if self.first is None or done < self.last or (total is not None and total != self.total):
            self.first = (now, done)
        if done == 0 and total is None and self.last:  # a stretch of which nobody knows how long it is
            self.total = None
        self.total = total if total is not None else self.total
        self.last = done
        if now - self.said_at < PLAIN_PROGRESS_SECONDS:
            return
        self.said_at = now
        parts = [f"{self.label}: {done}/{self.total}" if self.total else f"{self.label}: {done}" if done else self.label]
        began, start = self.first
        if self.total and done > start:
            parts.append(f"about {duration((now - began) / (done - start) * max(0, self.total - done))} left")
        note = note if self.details else brief_note(note)
        self.say(", ".join([*parts, note] if note else parts))


def brief_note(note: str) -> str:
    """A progress note without loss, learning rate and the time spent waiting for data, which are for --verbose."""
    return ", ".join(part for part in note.split(", ") if not part.startswith(("loss ", "rate ", "data wait ")))


def table(header: list[str], rows: list[list[str]], right: frozenset[int] | set[int] = frozenset()) -> list[str]:
    """Lines of an aligned table; the columns in `right` are aligned to the right, the last one is never padded."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: list[str]) -> str:
        cells = (row[i].rjust(width) if i in right else row[i].ljust(width) for i, width in enumerate(widths))
        return "  ".join(cells).rstrip()

    return [line(row) for row in [header, *rows]]


def stacked(header: list[str], rows: list[list[str]], right: frozenset[int] | set[int] = frozenset()) -> list[str]:
    """As `table`; where that is wider than the terminal, its columns in tables below one another, all with the first column."""
    lines = table(header, rows, right)
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or max(map(len, lines)) <= width:
        return lines
    columns = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)]
    groups: list[list[int]] = [[0]]
    for column in range(1, len(header)):
        if len(groups[-1]) > 1 and sum(columns[i] for i in (*groups[-1], column)) - 2 > width:
            groups.append([0])
        groups[-1].append(column)
    lines = []
    for group in groups:
        cells = [[row[i] for i in group] for row in (header, *rows)]
        lines += [*([""] if lines else []), *table(cells[0], cells[1:], {k for k, i in enumerate(group) if i in right})]
    return lines


def duration(seconds: float) -> str:
    """ "42 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """A number of bytes for people: "12 MB", "3.4 GB" (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def when(moment: float) -> str:
    """A time for people, in the machine's zone: "2026-03-01 14:05"."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def plain(value: Any) -> Any:
    """`value` as JSON can say it: paths as text, dataclasses as objects, numpy's numbers as numbers, NaN as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return plain(value.item())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
