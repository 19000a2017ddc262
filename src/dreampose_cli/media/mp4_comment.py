"""The comment of an .mp4 without ffmpeg: a hundred thousand videos are asked what made them in seconds, not an hour.

Boxes as in ISO/IEC 14496-12; the comment lies where QuickTime puts it: moov / udta / meta / ilst / (c)cmt / data.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

_PATH = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
_LARGEST = 1 << 20  # bytes of a comment
_BLOCK = 1 << 14  # bytes that are read at once: of most videos all that comes before the pictures
_HEAD = struct.Struct(">I4s")


def read_comment(path: str | os.PathLike) -> str | None:
    """The comment; None where there is none, and where the file is no .mp4 or is cut short. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        found = _Bytes(file, os.fstat(file.fileno()).st_size)
        movie = _movie(found)
        if movie is None:
            return None
        start, end = movie
        for name in _PATH[1:]:
            inner = _find(found, name, start, end)
            if inner is None:
                return None
            start, end = inner
            start += 4 if name == b"meta" else 8 if name == b"data" else 0  # version and flags; type and locale
        if not 0 <= end - start <= _LARGEST:
            return None
        return found.at(start, end - start).decode("utf-8", "replace")


class _Bytes:
    """A file's bytes by their place; what lies near each other is read once."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self._start, self._block = 0, b""

    def at(self, place: int, count: int) -> bytes:
        """`count` bytes from `place` on, fewer at the file's end."""
        begin = place - self._start
        if begin < 0 or begin + count > len(self._block):
            self.file.seek(place)
            self._block, self._start, begin = self.file.read(max(count, _BLOCK)), place, 0
        return self._block[begin : begin + count]


def _movie(found: _Bytes) -> tuple[int, int] | None:
    """The begin and the end of the movie box's contents; None where the boxes of the file do not begin with its type, or
    do not end where the file ends."""
    at, movie = 0, None
    while at < found.size:
        box = _box(found, at, found.size)
        if box is None or (at == 0 and box[0] != b"ftyp"):
            return None
        if box[0] == _PATH[0] and movie is None:
            movie = box[1:]
        at = box[2]
    return movie


def _find(found: _Bytes, name: bytes, at: int, end: int) -> tuple[int, int] | None:
    """The begin and the end of the contents of the box `name`, of the boxes between `at` and `end`."""
    while at < end:
        box = _box(found, at, end)
        if box is None:
            return None
        if box[0] == name:
            return box[1:]
        at = box[2]
    return None


def _box(found: _Bytes, at: int, limit: int) -> tuple[bytes, int, int] | None:
    """The name of the box at a place, and where its contents begin and end; None where it does not fit."""
    head = found.at(at, min(16, limit - at))
    if len(head) < 8:
        return None
    size, name = _HEAD.unpack_from(head)
    start = at + 8
    if size == 1 and len(head) == 16:
        (size,) = struct.unpack(">Q", head[8:])
        start = at + 16
    elif size == 0:
        size = limit - at
    end = at + size
    return (name, start, end) if start <= end <= limit else None
