"""Clips decoded, fitted and labelled once, each into one file: a shard.

A shard is a zip of PNG pictures: `000000.png` is a frame at the base's resolution, `000000_iuv.png` its pose as detectron2's
IUV picture (red the body part, green and blue U and V times 255), and `shard.json` says the rest. It is addressed by the
clip's files (path, size, time) and by what was done to them. Shards appear whole or not at all, so that a run that was killed
resumes with the clips that are missing. Frames are read from them one by one and nothing is kept in memory, whose use
therefore does not grow with the data or with time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import publish
from ..errors import StoreError
from ..locks import work_folder

VERSION = 2
SUFFIX = ".shard"
ABOUT = "shard.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # one date for all members: the same clip gives the same bytes
_LOCAL_HEADER = 30  # bytes before a member's name, whose length is in the last four of them with that of the extra field


@dataclass(frozen=True)
class Shard:
    """One prepared clip. `members` (2 * length, 3): where in the file the picture and the pose of each frame are, their
    sizes and checksums; `digest`: of everything it holds, before packing."""

    path: Path
    length: int
    fps: float
    ordered: bool
    resolution: tuple[int, int]
    members: np.ndarray
    digest: str


def open_shard(path: Path) -> Shard:
    """The shard in a file. Raises StoreError where it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(ABOUT))
            names = [name(i) for i in range(about["length"]) for name in (_picture, _pose)]
            found = [archive.getinfo(name) for name in names]
        return Shard(
            path, about["length"], about["fps"], about["ordered"], tuple(about["resolution"]),
            np.array([(m.header_offset, m.compress_size, m.CRC) for m in found], np.int64).reshape(-1, 3),
            about["digest"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(path) from error


def read_picture(shard: Shard, frame: int) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return _read(shard, 2 * frame)


def read_pose(shard: Shard, frame: int) -> np.ndarray:
    """uint8 (3, H, W): part label, U * 255, V * 255."""
    return np.ascontiguousarray(_read(shard, 2 * frame + 1).transpose(2, 0, 1))


def _read(shard: Shard, member: int) -> np.ndarray:
    """A member's pixels. `zipfile` would read the whole directory for it; where it is was read when the shard was opened."""
    offset, size, checksum = (int(value) for value in shard.members[member])
    try:
        # Opened for each read: a million clips need no more open files than one, and threads do not meet.
        with shard.path.open("rb", buffering=0) as file:
            file.seek(offset)
            name, extra = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
            file.seek(name + extra, io.SEEK_CUR)
            data = file.read(size)
        if zlib.crc32(data) != checksum:
            raise ValueError("the checksum is another")
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            pixels = np.asarray(picture)
        if pixels.shape != (*shard.resolution, 3):
            raise ValueError("the size is another")
    except (OSError, ValueError, struct.error) as error:
        raise _damaged(shard.path) from error
    return pixels


def _picture(frame: int) -> str:
    return f"{frame:06d}.png"


def _pose(frame: int) -> str:
    return f"{frame:06d}_iuv.png"


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path} is damaged or was removed while it was in use; remove {path.parent} and run the command again."
    )


class ShardWriter:
    """Writes a shard frame by frame into `path`, with the memory of one frame; a context manager, whole or not at all.

    What a killed process leaves next to `path` is for `locks.sweep`, once for all shards of a folder: `atomic_file` would
    list the folder for each of them.
    """

    def __init__(self, path: Path, resolution: tuple[int, int], fps: float, ordered: bool):
        self.path, self.count, self._digest = path, 0, hashlib.sha256()
        self._about = {"version": VERSION, "resolution": list(resolution), "fps": fps, "ordered": ordered}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ShardWriter:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(work_folder(self.path.parent))
            self._part = folder / self.path.name
            self._zip = stack.enter_context(zipfile.ZipFile(self._part, "w"))
            self._stack = stack.pop_all()
        return self

    def add(self, picture: np.ndarray, pose: np.ndarray) -> None:
        """picture uint8 (H, W, 3), pose uint8 (3, H, W)."""
        self._digest.update(picture.tobytes())
        self._digest.update(pose.tobytes())
        self._add(_picture(self.count), _packed(picture))
        self._add(_pose(self.count), _packed(np.ascontiguousarray(pose.transpose(1, 2, 0))))
        self.count += 1

    def __exit__(self, *raised) -> bool | None:
        if raised[0] is not None:
            return self._stack.__exit__(*raised)
        with self._stack:
            about = {**self._about, "length": self.count, "digest": self._digest.hexdigest()}
            self._add(ABOUT, json.dumps(about).encode())
            self._zip.close()
            publish(self._part, self.path)
        return None

    def _add(self, name: str, data: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(name, _EPOCH), data)  # stored: PNG is compressed already


def _packed(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
