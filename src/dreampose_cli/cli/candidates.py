"""The words that a shell's completion offers: names of subjects, bases and estimators, and files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from ..errors import DreamposeError
from ..names import ESTIMATORS


def subjects(incomplete: str) -> list[str]:
    """Names and ids of subjects, and photos."""
    with contextlib.suppress(DreamposeError, OSError):
        from ..cache import user_cache

        found = user_cache().list_entries("subject")
        return _beginning([name for entry in found for name in (entry.name, entry.id) if name], incomplete)
    return _files(incomplete)


def entries(incomplete: str) -> list[str]:
    """Names and ids of everything in the cache, and photos."""
    with contextlib.suppress(DreamposeError, OSError):
        from ..cache import user_cache

        found = user_cache().list_entries(None)
        return _beginning([name for entry in found for name in (entry.name, entry.id) if name], incomplete)
    return _files(incomplete)


def bases(incomplete: str) -> list[str]:
    """Names of the bases on this machine, and folders."""
    with contextlib.suppress(DreamposeError, OSError):
        from ..bases.registry import list_bases
        from ..cache import user_cache

        return _beginning([entry.name for entry in list_bases(user_cache())], incomplete)
    return _files(incomplete)


def estimators(incomplete: str) -> list[str]:
    """Names of the estimators, and files."""
    return _beginning(ESTIMATORS, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [*dict.fromkeys(name for name in names if name.startswith(incomplete)), *_files(incomplete)]


def _files(incomplete: str) -> list[str]:
    """Files and folders (with a slash) whose path begins so; hidden ones only where they are asked for."""
    folder, name = os.path.split(incomplete)
    found = []
    with contextlib.suppress(OSError), os.scandir(os.path.expanduser(folder) or ".") as listing:
        for entry in listing:
            if entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith(".")):
                found.append(os.path.join(folder, entry.name) + (os.sep if entry.is_dir() else ""))
    return sorted(found)
