"""FOLDER/manifest.jsonl: what was done, a line when a step starts and one when it ends, each whole or not at all.

Every shard has a manifest of its own, so that nobody appends to a file on a network disk that another machine appends
to. All of a folder's manifests are read together.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ...errors import OutputError
from ...locks import hold
from ...media.outputs import disk_full

NAME = "manifest"
FINISHED = ("done", "failed")


_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class _Result(msgspec.Struct):
    """The part of a step's result that is counted."""

    bytes: _Amount | None = None
    frames: Annotated[int, msgspec.Meta(ge=0, le=10**9)] | None = None
    cached: bool = False


class _Line(msgspec.Struct):
    """The fields that a line must have to be believed; the rest of it is for people."""

    event: str
    kind: str | None = None
    step: str | None = None
    seconds: _Amount | None = None
    result: _Result | None = None


class Manifest:
    """The manifest of one shard, held by one driver at a time; a context manager. Raises OutputError."""

    def __init__(self, folder: Path, shard: tuple[int, int] = (1, 1)):
        part = "" if shard == (1, 1) else f".{shard[0]}-of-{shard[1]}"
        self.path = Path(folder) / f"{NAME}{part}.jsonl"
        self._descriptor = -1
        self._release: Callable[[], None] | None = None

    def __enter__(self) -> Manifest:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._release = hold(self.path.with_name(f".{self.path.name}.lock"), 0)
            if self._release is None:
                raise OutputError(f"another batch writes to {self.path.parent} now; wait for it to end and try again.")
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
            _drop_torn_line(self._descriptor)
        except OSError as error:
            self.__exit__()
            raise self._error(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._release is not None:
            self._release()
            self._release = None

    def append(self, line: dict[str, Any]) -> dict[str, Any]:
        """Write one line with the time it was written at, and return it. Raises OutputError, and then nothing of it is
        in the file."""
        line = {"time": round(time.time(), 3), **line}
        raw = json.dumps(line).encode() + b"\n"  # ASCII: file names may be no valid text
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = 0
            while written < len(raw):
                written += os.write(self._descriptor, raw[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise self._error(error) from error
        return line

    def _error(self, error: OSError) -> OutputError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return disk_full(self.path)
        return OutputError(f"{self.path} cannot be written: {error.strerror or error}; choose another -o.")


def read_lines(folder: Path, event: str = "") -> Iterator[dict[str, Any]]:
    """The lines of all manifests in `folder`, or those of one event, the oldest first within each; what is no line of ours
    is left out."""
    mark = f'"event": "{event}"' if event else ""
    for path in sorted(Path(folder).glob(f"{NAME}*.jsonl")):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for text in file:
                    if mark not in text:
                        continue
                    with contextlib.suppress(ValueError, RecursionError, msgspec.ValidationError):
                        line = json.loads(text)
                        msgspec.convert(line, _Line)
                        yield line
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


def _drop_torn_line(descriptor: int) -> None:
    """Cut off what stands after the last end of line: the half of one that a power cut left."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - (1 << 16))
        os.lseek(descriptor, start, os.SEEK_SET)
        at = os.read(descriptor, end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
