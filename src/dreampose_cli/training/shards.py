"""Clips decoded, fitted and labelled once, each into one file: a shard.

A shard holds, for each frame, its picture and its pose as they are at the base's resolution, packed without loss; it is
addressed by the clip's files (path, size, time) and by what was done to them. Shards appear whole or not at all, so that
a run that was killed resumes with the clips that are missing. Frames are read from them one by one and nothing is kept
in memory, whose use therefore does not grow with the data or with time.

    picture 0 | pose 0 | picture 1 | pose 1 | ... | description (JSON) | its length (8 bytes) | MAGIC
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import (
    StoreError,
)

VERSION = 1
MAGIC = b"dpshard1"
SUFFIX = ".shard"


@dataclass(frozen=True)
class Shard:
    """One prepared clip. `offsets` (2 * length + 1): where picture and pose of each frame begin in the file; `digest`: of
    everything it holds, before packing."""

    path: Path
    length: int
    fps: float
    ordered: bool
    resolution: tuple[int, int]
    offsets: np.ndarray
    digest: str


def open_shard(path: Path) -> Shard:
    """What a shard says of itself. Raises StoreError where it is damaged."""
    try:
        with path.open("rb") as file:
            file.seek(-16, os.SEEK_END)
            size, magic = struct.unpack("<Q8s", file.read(16))
            file.seek(-16 - size, os.SEEK_END)
            raw: Any = json.loads(file.read(size)) if magic == MAGIC else None
        return Shard(
            path, raw["length"], raw["fps"], raw["ordered"], tuple(raw["resolution"]),
            np.array(raw["offsets"], np.int64), raw["digest"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _damaged(path) from error


def read_picture(shard: Shard, frame: int) -> np.ndarray:
    """uint8 (H, W, 3)."""
    packed = _read(shard, 2 * frame)
    differences = np.frombuffer(packed, np.uint8).reshape(*shard.resolution, 3)
    return np.cumsum(differences, axis=1, dtype=np.uint8)


def read_pose(shard: Shard, frame: int) -> np.ndarray:
    """uint8 (3, H, W): part label, U * 255, V * 255."""
    return np.frombuffer(_read(shard, 2 * frame + 1), np.uint8).reshape(3, *shard.resolution)


def _read(shard: Shard, block: int) -> bytes:
    begin, end = int(shard.offsets[block]), int(shard.offsets[block + 1])
    try:
        # Opened for each read: a million clips need no more open files than one, and threads do not meet.
        with shard.path.open("rb", buffering=0) as file:
            file.seek(begin)
            return zlib.decompress(file.read(end - begin))
    except (OSError, zlib.error) as error:
        raise _damaged(shard.path) from error


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path} is damaged or was removed while it was in use; remove {path.parent} and run the command again."
    )


class ShardWriter:
    """Writes a shard frame by frame into `path`, with the memory of one frame; nothing is there until `close`."""

    def __init__(self, path: Path, resolution: tuple[int, int], fps: float, ordered: bool):
        self.path, self.partial = path, path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self.about = {"resolution": list(resolution), "fps": fps, "ordered": ordered}
        self.offsets, self.digest = [0], hashlib.sha256()
        self.file = self.partial.open("wb")

    def add(self, picture: np.ndarray, pose: np.ndarray) -> None:
        """picture uint8 (H, W, 3), pose uint8 (3, H, W)."""
        self.digest.update(picture.tobytes())
        self.digest.update(pose.tobytes())
        differences = picture.copy()
        differences[:, 1:] -= picture[:, :-1]  # neighbours are alike: this halves what photographs take
        for block in (differences, pose):
            packed = zlib.compress(block.tobytes(), 1)
            self.file.write(packed)
            self.offsets.append(self.offsets[-1] + len(packed))

    def close(self) -> None:
        """Complete the shard."""
        length = (len(self.offsets) - 1) // 2
        about = {**self.about, "length": length, "offsets": self.offsets, "digest": self.digest.hexdigest()}
        text = json.dumps(about).encode()
        self.file.write(text + struct.pack("<Q8s", len(text), MAGIC))
        self.file.close()
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self.file.close()
        self.partial.unlink(missing_ok=True)
