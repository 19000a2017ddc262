"""Names of contents: keys and checksums."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from ..errors import MediaError
from ..regular import require_regular

_SMALL = 1 << 17  # bytes of a file that is read at once


def key(*parts: Any) -> str:
    """16 hex digits of the SHA-256 over `parts`: bytes, or anything JSON can say (dicts in any order)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            mark, raw = b"b", part
        else:
            mark = b"j"
            raw = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        digest.update(mark + str(len(raw)).encode() + b":" + raw)
    return digest.hexdigest()[:16]


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits. MediaError when it cannot be read."""
    try:
        require_regular(path)
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size <= _SMALL:  # the buffer of file_digest costs more than such a file
                return hashlib.sha256(file.read()).hexdigest()
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise MediaError(f"cannot read {os.fspath(path)}: {problem.strerror or problem}.") from problem
