"""Results of the user appear whole or not at all (`dreampose_cli.atomic`), and what goes wrong is said of the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import publish, work_name
from ..locks import sweep, work_folder
from .outputs import FULL_DISK, output_error, require_place, require_replaceable


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path of the same name to write to; it becomes `path` on success and vanishes on any failure.

    Makes the folders above it. Replaces an existing file; whether that is wanted is asked by `check_output`. Raises
    OutputError when folder or file cannot be written (full disk, no permission).
    """
    target = Path(os.path.realpath(path))  # through a symbolic link, so that the link survives
    with _working(path, target) as folder:
        part = _part(folder, target)
        yield part
        publish(part, target)


@contextmanager
def atomic_folder(
    path: str | os.PathLike, overwrite: bool = False, *, owned: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Yield a new temporary folder to fill; it becomes `path` on success and vanishes on any failure.

    An existing folder is replaced only if it is empty or `overwrite` is set. With `owned`, a test of file names, it
    is replaced only if every name in it passes: files of somebody else are never deleted. Without `owned` the caller
    answers for its contents. Raises OutputExistsError and OutputError, before and after the work.
    """
    target = Path(os.path.realpath(path))
    require_place(path)
    require_replaceable(path, overwrite, owned)
    with _working(path, target, sweeping=not overwrite) as folder:
        part = _part(folder, target)
        part.mkdir()
        yield part
        require_replaceable(path, overwrite, owned)  # again: the work may have taken hours
        publish(part, target)
        sweep(target.parent, work_name(target))


@contextmanager
def _working(path: str | os.PathLike, target: Path, sweeping: bool = True) -> Iterator[Path]:
    """A work folder next to `target`; errors of the system about it are said of `path`. Before, what killed processes left
    is removed (`sweeping`), unless that may hold the last whole result there is."""
    require_place(path)
    name = work_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if sweeping:
            sweep(target.parent, name)
        with work_folder(target.parent, name) as folder:
            yield folder
    except OSError as error:
        if _is_about(error, target, name):
            raise output_error(path, error) from error
        raise


def _part(folder: Path, target: Path) -> Path:
    """The path at which `target` is written until it is whole."""
    return folder / target.name


def _is_about(error: OSError, target: Path, name: str) -> bool:
    """Whether the error came from writing the result, not from something else that went on meanwhile."""
    if error.errno in FULL_DISK:
        return True
    if not isinstance(error.filename, str | os.PathLike):
        return False
    about = Path(error.filename)
    if target.parent not in about.parents:
        return about == target.parent or about in target.parents
    return about == target or about.relative_to(target.parent).parts[0].startswith(name)
