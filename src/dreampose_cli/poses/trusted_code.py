"""Which TorchScript files may be run: TorchScript is code, and runs with the rights of whoever loads it.

A file is trusted by its SHA-256, once, by the user on the command line (`--trust-code`); the cache remembers it. Nothing
else trusts a file: no base, no repository and no pose file. The estimators from the Hub (`poses.densepose.FILES`) are
pinned to a commit in the source instead.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..cache import Cache, file_digest
from ..errors import PoseError

TRUSTED_FILE = "trusted-code"  # in the cache's folder: a line for each file, SHA-256 and name


def trust(cache: Cache, file: str | os.PathLike) -> None:
    """Allow the TorchScript file `file` to be run, now and later, as long as its bytes stay the same."""
    digest = file_digest(file)
    if digest not in _trusted(cache):
        path = cache.ensure() / TRUSTED_FILE
        with cache.storing(), open(path, "a", encoding="utf-8", errors="backslashreplace") as lines:
            lines.write(f"{digest}  {Path(file).name!a}\n")


def require_trusted(cache: Cache, file: Path) -> None:
    """Raise PoseError for a TorchScript file that the user has not trusted."""
    if file_digest(file) not in _trusted(cache):
        raise PoseError(
            f"{file} is TorchScript, which is code that runs with your rights; if you know where it is from, run the "
            "command again with --trust-code (once: the file's checksum is remembered)."
        )


def _trusted(cache: Cache) -> set[str]:
    try:
        text = (cache.root / TRUSTED_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {line.split()[0] for line in text.splitlines() if line.strip()}
