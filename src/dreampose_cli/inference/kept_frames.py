"""The finished frames of a clip, kept in the cache until its result is published, so that a render resumes inside the clip.

One file of records, appended frame by frame: length, checksum, height and width, and the compressed picture. What a kill or a
power cut leaves at its end fails its checksum, and is computed again.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..cache import Cache
from ..errors import StoreError
from ..reporting import Note

NAME = "frames"
_RECORD = struct.Struct(">IIII")


class KeptFrames:
    """The frames of one clip that are kept in `file`, None to keep none. `count` of them are whole, a multiple of
    `portion`, so that the rest is computed in the batches it would have been computed in."""

    def __init__(self, cache: Cache, file: Path | None, portion: int):
        self.cache, self.file, self.count, self._end = cache, file, 0, 0
        ends = [end for end, _ in self._records()]
        self.count = len(ends) // portion * portion
        self._end = ends[self.count - 1] if self.count else 0

    def then(self, fresh: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The kept frames uint8 (H, W, 3), and after them those of `fresh`, each of which is kept before it is passed on."""
        for _, (_, picture) in zip(range(self.count), self._records(), strict=False):
            yield picture
        if self.file is None:
            yield from fresh
            return
        with self.file.open("r+b" if self.file.exists() else "wb") as out:
            out.truncate(self._end)
            out.seek(self._end)
            for picture in fresh:
                raw = zlib.compress(np.ascontiguousarray(picture).tobytes(), 1)
                with self.cache.storing():
                    out.write(_RECORD.pack(len(raw), zlib.crc32(raw), *picture.shape[:2]) + raw)
                    out.flush()
                yield picture

    def _records(self) -> Iterator[tuple[int, np.ndarray]]:
        """The end of each whole record, and its picture."""
        if self.file is None or not self.file.exists():
            return
        with self.file.open("rb") as source:
            while len(head := source.read(_RECORD.size)) == _RECORD.size:
                length, checksum, height, width = _RECORD.unpack(head)
                raw = source.read(length)
                if len(raw) < length or zlib.crc32(raw) != checksum:
                    return
                picture = np.frombuffer(zlib.decompress(raw), np.uint8).reshape(height, width, 3)
                yield source.tell(), picture


@contextlib.contextmanager
def kept_frames(cache: Cache, key: str | None, portion: int, note: Note) -> Iterator[KeptFrames]:
    """The frames that are kept under `key`, which says all that they depend on; they are gone when the block ends well.

    Without a key, where another process renders the same, or where the cache cannot be written, none are kept.
    """
    if key is None:
        yield KeptFrames(cache, None, portion)
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(cache.lock(f"subject-{key}", timeout=0))
            file = cache.partial_folder(key) / NAME
        except StoreError:
            yield KeptFrames(cache, None, portion)
            return
        kept = KeptFrames(cache, file, portion)
        if kept.count:
            note(f"the render resumes after {kept.count} frames.")
        yield kept
        cache.discard_partial(key)
