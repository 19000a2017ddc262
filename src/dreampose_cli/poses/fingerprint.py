"""Fingerprints of estimators and of the sources of poses: hashes that change whenever the poses could.

Imports neither torch nor numpy, so that what was tuned with an estimator is found again without loading it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from importlib import resources
from pathlib import Path

from ..cache import file_digest

LOOKING = 2  # the version of how the mini estimator looks at pictures
ESTIMATOR_FILE = "estimator.safetensors"
CONFIG_FILE = "estimator.json"
REPOSITORY = "LayerNorm/DensePose-TorchScript-with-hint-image"
REVISION = "main"
FILES = {"r50": "densepose_r50_fpn_dl.torchscript", "r101": "densepose_r101_fpn_dl.torchscript"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def bundled_estimator() -> Path:
    """The folder of the estimator that ships with the package."""
    return Path(str(resources.files("dreampose_cli") / "data" / "estimator"))


def estimator_fingerprint(name: str) -> str | None:
    """The fingerprint of the weights of the estimator `name`; None where they are not on this machine yet, or unknown."""
    if name in FILES:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(REPOSITORY, FILES[name], revision=REVISION)
        if not isinstance(found, str):
            return None
        blob = os.path.basename(os.path.realpath(found))  # named by its hash: a quarter of a gigabyte is left unread
        return blob[:16] if _SHA256.fullmatch(blob) else file_fingerprint(Path(found))
    path = bundled_estimator() if name == "mini" else Path(name)
    try:
        if path.is_file():
            return file_fingerprint(path)
        return folder_fingerprint(path) if path.is_dir() else None
    except OSError:
        return None


def folder_fingerprint(folder: Path) -> str:
    """The fingerprint of an estimator made by `train --preset estimator`, or of the bundled one. Raises OSError."""
    return hashlib.sha256((folder / ESTIMATOR_FILE).read_bytes()).hexdigest()[:14] + f"-{LOOKING}"


def file_fingerprint(file: Path) -> str:
    """The fingerprint of a TorchScript file, 16 hex digits of its SHA-256. Raises OSError."""
    stat = file.stat()
    return _digest(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _digest(file: Path, _size: int, _modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def source_digest(source: Path) -> str:
    """The digest of what shows or holds poses: a file, or the files of a folder with their names. Raises MediaError."""
    if source.is_file():
        return file_digest(source)
    total = hashlib.sha256()
    for path in sorted(path for path in source.iterdir() if path.is_file()):
        total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return total.hexdigest()
