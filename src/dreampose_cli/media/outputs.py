"""The place of a result: its format by its name, and whether the place is free. Imports the standard library alone, so that
a result that cannot be written is refused at once."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import OutputError, OutputExistsError, UsageError

KINDS = {".mp4": "mp4", ".gif": "gif", ".webp": "webp", ".png": "png"}

_FRAME_NAME = re.compile(r"\d{5,}\.png")

FULL_DISK = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_WINDOWS = sys.platform == "win32"


def output_kind(path: str | os.PathLike) -> str:
    """The kind of result that `write_frames` makes of this name: "mp4", "gif", "webp", "png" or "folder".

    A trailing slash, no suffix, or an existing folder means a folder. Raises UsageError for any other suffix.
    """
    suffix = Path(path).suffix.lower()
    if _names_folder(path):
        return "folder"
    if suffix not in KINDS:
        raise UsageError(
            f"{path}: {suffix} is no format for results; use .mp4, .gif, .webp, .png (one frame), "
            "or a name with a slash at its end for a folder of pictures."
        )
    return KINDS[suffix]


def is_frame_name(name: str) -> bool:
    """Whether a file name is one that a folder of frames gets: 00000.png, 00001.png, ..."""
    return _FRAME_NAME.fullmatch(name) is not None


def check_output(
    path: str | os.PathLike, overwrite: bool, *, owned: Callable[[str], bool] | None = is_frame_name
) -> None:
    """Refuse a place where a result cannot go, before any long work.

    The folders above it are made when it is written. Raises OutputExistsError if it exists and `overwrite` is not set;
    OutputError if it could not be written, or if an existing folder holds files whose names are not `owned`.
    """
    require_place(path)
    target = Path(os.path.realpath(path))
    if _names_folder(path):
        require_replaceable(path, overwrite, owned)
    elif target.exists() and not overwrite:
        raise OutputExistsError.at(path)


def require_apart(
    path: str | os.PathLike, inputs: Iterable[str | os.PathLike | None], *, replaced: bool = True
) -> None:
    """Raise OutputError where a result would replace one of the `inputs` or lie in an input folder, --overwrite or not.

    replaced: whether an existing folder at `path` is replaced as a whole, rather than added to.
    """
    target = Path(os.path.realpath(path))
    for given in inputs:
        if given is None or not os.path.exists(given):
            continue
        source = Path(os.path.realpath(given))
        if target == source or (target.is_file() and source.is_file() and target.samefile(source)):
            raise OutputError(f"{path} is an input of this command too, and would be lost; choose another -o.")
        if source.is_dir() and source in target.parents:
            raise OutputError(f"{path} lies in {given}, which is an input folder; choose a place outside for -o.")
        if replaced and target in source.parents:
            raise OutputError(f"{given} lies in {path}, which would be replaced; choose another -o.")


def require_place(path: str | os.PathLike) -> None:
    """Raise OutputError unless `path` could be written: the nearest folder above it that exists lets us write."""
    above = Path(os.path.realpath(path)).parent
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise OutputError(f"{path} cannot be written: {above} is a file, not a folder; choose another -o.")
    if not os.access(above, os.W_OK):
        raise OutputError(f"{path} cannot be written: no permission in {above}; choose another -o.")


def require_replaceable(path: str | os.PathLike, overwrite: bool, owned: Callable[[str], bool] | None = None) -> None:
    """Raise OutputExistsError or OutputError if the folder `path` may not be made or replaced (see `atomic_folder`)."""
    folder = Path(path)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{path} is a file, and a folder is to be written there; choose another -o.")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise output_error(path, error) from error
    if names and not overwrite:
        raise OutputExistsError.at(path)
    foreign = next((name for name in names if owned and not owned(name)), None)
    if foreign is not None:
        raise OutputError(
            f"{path} holds {foreign}, which is not part of an earlier result, so the folder is not replaced; "
            "choose another -o or move that file away."
        )


def output_error(path: str | os.PathLike, error: OSError) -> OutputError:
    """Words for an operating system's error on writing `path`."""
    if error.errno in FULL_DISK:
        return disk_full(path)
    if error.errno in _FORBIDDEN:
        why = "another program has it open, or there is no permission" if _WINDOWS else "no permission"
        return OutputError(f"{path} cannot be written: {why}; choose another -o.")
    return OutputError(f"{path} cannot be written: {error.strerror or error}; choose another -o.")


def disk_full(path: str | os.PathLike) -> OutputError:
    return OutputError(f"{path} cannot be written: the disk is full; free some space or choose another -o.")


def _names_folder(path: str | os.PathLike) -> bool:
    text = os.fspath(path)
    return text.endswith(("/", os.sep)) or not Path(path).suffix or Path(path).is_dir()
