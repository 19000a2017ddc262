"""The fingerprint of a base's content: a hash that changes whenever its results could."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from ..errors import BaseError
from ..regular import require_regular

WHOLE = 64 << 20  # files up to this size are hashed whole, larger ones by size, head and tail


def fingerprint(folder: Path) -> str:
    """16 hex digits over `base.json` and every weight file of the base in `folder`.

    Of a file over 64 MiB the size and the first and last MiB are hashed, not every byte: hashing Stable Diffusion whole
    would cost ten seconds at every start, and training changes all of a tensor file's bytes. Raises BaseError.
    """
    folder = Path(folder)
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix not in (".safetensors", ".json") or "checkpoints" in name.parts:
            continue
        try:
            require_regular(path)
        except OSError as error:
            raise BaseError(f"{path} cannot be read: {error.strerror}.") from error
        stat = path.stat()
        total.update(f"{name}\0".encode())
        total.update(_digest(path, stat.st_size, stat.st_mtime_ns))
    return total.hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, _modified: int) -> bytes:
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.sha256(file.read()).digest()
        head = file.read(1 << 20)
        file.seek(size - (1 << 20))
        return hashlib.sha256(str(size).encode() + head + file.read()).digest()
