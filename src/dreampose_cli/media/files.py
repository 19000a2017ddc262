"""Questions about input files, and about times in a clip, that every reader asks first."""

from __future__ import annotations

import math
import os
import re
import stat
from pathlib import Path

from ..errors import MediaError, UsageError
from ..regular import SPECIAL


def require_file(path: str | os.PathLike) -> None:
    """Raise MediaError unless there is a regular file with something in it that may be read.

    Pipes, sockets and devices are refused without being opened: a pipe without a writer would block for ever, and
    every reader here goes through a file more than once.
    """
    file = Path(path)
    if file.is_dir():
        raise MediaError(f"{path} is a folder; give a file.")
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise MediaError(f"{path} is {SPECIAL}.")
        with open(file, "rb") as stream:
            empty = not stream.read(1)
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(f"{path} does not exist; check the path.") from None
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error
    except ValueError:  # a NUL in the name
        raise MediaError(f"{path!r} cannot be the name of a file; check the path.") from None
    if empty:
        raise MediaError(f"{path} is empty; copy or download it again.")


def list_files(folder: Path, suffixes: set[str]) -> list[Path]:
    """The visible files of these suffixes, in the order of the numbers in their names: 9 before 10.

    Raises OSError, and MediaError for a pipe or a device among them.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in suffixes:
                continue
            if not entry.is_file() and not entry.is_dir() and os.path.exists(entry):  # a broken link is named by its reader
                raise MediaError(f"{entry.path} is {SPECIAL}.")
            names.append(entry.name)
    return [folder / name for name in sorted(names, key=natural_order)]


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by the numbers in them: 9 before 10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def require_range(
    path: str | os.PathLike, fps: float | None, start: float | None, end: float | None, duration: float | None
) -> None:
    """Raise UsageError unless `fps`, `start` and `end` describe a part of a clip of `duration` seconds."""
    if fps is not None and not 0.01 <= fps <= 1000:
        raise UsageError(f"{path}: {fps:g} is no frame rate; give a number from 0.01 to 1000.")
    begin = start or 0.0
    if not 0 <= begin < math.inf:
        raise UsageError(f"{path}: cannot start at {begin:g} s; give a time from 0 on.")
    if end is not None and not end > begin:
        raise UsageError(f"{path}: the end ({end:g} s) must be later than the start ({begin:g} s).")
    if duration is not None and begin >= duration:
        raise UsageError(f"{path}: cannot start at {begin:g} s, it is {duration:.2f} s long; give an earlier start.")


def require_frames(path: str | os.PathLike, length: int | None, start: float | None, end: float | None) -> None:
    """Raise UsageError if no frame falls between `start` and `end`."""
    if length == 0:
        until = "its end" if end is None else f"{end:g} s"
        raise UsageError(f"{path}: there is no frame from {start or 0:g} s to {until}; give a longer range.")


def first_index(own: float, seconds: float | None) -> int:
    """Index of the first frame at or after a time, at `own` frames per second."""
    return max(0, math.ceil((seconds or 0.0) * own - 1e-6))


def shown_index(own: float, fps: float, n: int) -> int:
    """Index of the frame that is shown at n / fps in a clip of `own` frames per second."""
    return math.floor(n * own / fps + 1e-6)


def resampled_length(
    own: float, frames: float, fps: float | None = None, start: float | None = None, end: float | None = None
) -> int:
    """The number of `frames` frames at rate `own` between `start` and `end`, resampled to `fps`."""
    last = frames if end is None else min(frames, first_index(own, end))
    return max(0, math.ceil((last - first_index(own, start)) * (fps or own) / own - 1e-6))
