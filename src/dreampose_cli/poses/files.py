"""Pose sequences in files of any format: what a path holds is seen here, and our own `.poses` of DensePose is read and written.

The other formats are in `frame_folders.py` (one file a frame), `keypoint_files.py` and `detectron2_dump.py`.

`.poses` is a deflated zip that `numpy.load` opens as an npz: `header.json`, and `frames/000000.npy` and so on, each
uint16 (3, H, W): plane 0 the body part, planes 1 and 2 U and V times 65535.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoseError, UsageError
from ..media.atomic import atomic_path
from ..media.files import list_files
from ..media.sources import FrameSource
from .damaged import DAMAGED
from .detectron2_dump import SUFFIXES as DUMP_SUFFIXES
from .detectron2_dump import DumpPoses
from .frame_folders import IuvPoses, NpyPoses, array_files, channel_orders
from .keypoint_files import KeypointWriter, holds_keypoints, is_openpose, read_keypoints, read_openpose
from .sequence import PARTS, PoseSequence, in_range

FORMAT = "dreampose-poses"
VERSION = 1
DEFAULT_FPS = 30.0  # of sources that do not know their rate; the rate of the paper's data

_SCALE = 65535
_LARGEST_SIDE = 16384
_EPOCH = (1980, 1, 1, 0, 0, 0)  # one date for all members: the same poses give the same bytes


class PoseWriter:
    """Writes a `.poses` file, frame by frame with flat memory; a context manager, whole or not at all.

    size: (height, width). Replaces an existing file. Raises PoseError for frames of another size or with values out
    of range and if there are none at the end, OutputError if the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        size: tuple[int, int],
        fps: float,
        *,
        has_parts: bool = True,
        source: str = "",
        estimator: str | None = None,
    ) -> None:
        self._path, self._size, self._count = path, tuple(size), 0
        self._header: dict[str, Any] = {"width": int(size[1]), "height": int(size[0]), "fps": float(fps)}
        self._header |= {"has_parts": bool(has_parts), "source": source, "estimator": estimator}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> PoseWriter:
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(atomic_path(self._path))
            self._zip = stack.enter_context(zipfile.ZipFile(part, "w"))
            self._stack = stack.pop_all()
        return self

    def append(self, frame: np.ndarray) -> None:
        """Add a pose frame: float (3, H, W), I in 0..24, U and V in [0, 1]."""
        if frame.shape != (3, *self._size):
            raise PoseError(
                f"{self._path}: pose frame {self._count} has the shape {frame.shape}, not {(3, *self._size)}."
            )
        if not in_range(frame):
            raise PoseError(
                f"{self._path}: pose frame {self._count} holds values out of range; I is 0 to 24, U and V are 0 to 1."
            )
        planes = np.empty(frame.shape, np.uint16)
        planes[0] = np.rint(np.abs(frame[0])) if self._header["has_parts"] else 0
        planes[1:] = np.rint(np.clip(frame[1:].astype(np.float64), 0, 1) * _SCALE)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, planes, version=(1, 0), allow_pickle=False)
        self._add(_member(self._count), buffer.getvalue())
        self._count += 1

    def __exit__(self, *raised) -> bool | None:
        if raised[0] is not None:
            return self._stack.__exit__(*raised)
        with self._stack:
            if not self._count:
                raise PoseError(f"{self._path} cannot be written: there are no pose frames.")
            header = {"format": FORMAT, "version": VERSION, "frames": self._count, **self._header}
            self._add("header.json", json.dumps(header, indent=1).encode())
        return None

    def _add(self, name: str, data: bytes) -> None:
        member = zipfile.ZipInfo(name, _EPOCH)
        member.compress_type = zipfile.ZIP_DEFLATED
        member.external_attr = 0o644 << 16
        self._zip.writestr(member, data, compresslevel=6)


def writer_like(
    path: Path, like: PoseSequence | FrameSource, source: str, estimator: str | None, kind: str = ""
) -> PoseWriter | KeypointWriter:
    """The writer of frames of one kind into a `.poses` file of this size and rate."""
    if (kind or getattr(like, "kind", "densepose")) == "keypoints":
        return KeypointWriter(path, like.size, like.fps, source=source, estimator=estimator)
    parts = getattr(like, "has_parts", True)
    return PoseWriter(path, like.size, like.fps, has_parts=parts, source=source, estimator=estimator)


def copy_poses(sequence: PoseSequence, path: str | os.PathLike, *, source: str, estimator: str | None) -> bool:
    """Copy a sequence that is the whole of a `.poses` file from this source and estimator to `path`, compressed as it is.

    False, and nothing done, for any other. Raises OutputError if the file cannot be written.
    """
    if not isinstance(sequence, _ZipPoses) or (sequence.source, sequence.estimator) != (source, estimator):
        return False
    with atomic_path(path) as part:
        shutil.copyfile(sequence.file, part)
    return True


def open_poses(
    path: str | os.PathLike,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    person: int | None = None,
) -> PoseSequence:
    """Open a pose sequence: a `.poses` file, a DreamPose `.npy` folder or file, a folder of IUV pictures or one, or a
    dump of detectron2's `apply_net.py`.

    fps: the rate of sources that do not know theirs (all but `.poses`, which keeps its own), 30 if not given. size,
    (height, width), and person are for dumps, see `DumpPoses`. Raises PoseError for everything else, and for files that
    are cut short, damaged or of another version; UsageError for a size or a person that the source has no use for.
    """
    source = Path(path)
    if source.is_file() and source.suffix.lower() in DUMP_SUFFIXES:
        return DumpPoses(source, fps or DEFAULT_FPS, size=size, person=person)
    for option, value in (("--size", size), ("--person", person)):
        if value is not None:
            raise UsageError(f"{path} holds poses of one person in one size; {option} is for dumps of detectron2.")
    if not source.exists():
        raise PoseError(f"{path} does not exist; check the path.")
    rate = fps or DEFAULT_FPS
    try:
        if not source.is_dir():
            if source.suffix.lower() == ".npy":
                return NpyPoses(source, [source], rate)
            if source.suffix.lower() == ".png":
                return IuvPoses(source, [source], rate)
            if source.suffix.lower() == ".json":
                return read_openpose(source, rate)
            return read_keypoints(source) if holds_keypoints(source) else _ZipPoses(source)
        if arrays := array_files(source):
            return NpyPoses(source, arrays, rate)
        if pictures := list_files(source, {".png"}):
            return IuvPoses(source, pictures, rate)
        if is_openpose(source):
            return read_openpose(source, rate)
    except OSError as error:
        raise PoseError(f"{path} cannot be read: {error.strerror or 'it is damaged'}; check the file.") from error
    raise PoseError(
        f"{path} holds no poses; give a .poses file, a folder of frame_N_densepose.npy files, of IUV pictures (PNG) or "
        "of OpenPose's JSON, or a video to take the poses from."
    )


def is_pose_source(path: str | os.PathLike) -> bool:
    """Whether `open_poses` is the way to open this, rather than the pose estimator; reads a few pictures at most."""
    source = Path(path)
    try:
        if source.is_dir():
            pictures = list_files(source, {".png"})
            return (
                bool(array_files(source)) or is_openpose(source) or (bool(pictures) and len(channel_orders(pictures)) == 1)
            )
        if source.suffix.lower() == ".png":
            return len(channel_orders([source])) == 1
        known = (".poses", ".npy", ".json", *DUMP_SUFFIXES)
        return source.is_file() and (source.suffix.lower() in known or zipfile.is_zipfile(source))
    except (OSError, PoseError):
        return False


class _ZipPoses(PoseSequence):
    """Poses in a `.poses` file; the open file stays with its process, so that workers can have copies."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path.absolute(), threading.Lock()
        self._open: tuple[int, zipfile.ZipFile] | None = None
        with _zip_errors(path):
            header = self._read_header()
        height, width = header["height"], header["width"]
        super().__init__(
            header["frames"], (height, width), header["fps"], has_parts=header["has_parts"], source=header["source"]
        )
        self.estimator: str | None = header.get("estimator")

    @property
    def file(self) -> Path:
        """The file in which the poses are."""
        return self._path

    def frame(self, i: int) -> np.ndarray:
        self._require_index(i)
        with _zip_errors(self._path):
            data = self._zip().read(_member(i))
            planes = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        if planes.dtype != np.uint16 or planes.shape != (3, *self.size) or planes[0].max() > PARTS:
            raise PoseError(f"{self._path}: pose frame {i} is damaged; extract the poses again.")
        frame = planes.astype(np.float32)
        frame[1:] /= _SCALE
        return frame

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_lock": None, "_open": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._lock = threading.Lock()

    def _zip(self) -> zipfile.ZipFile:
        """The open zip of this process: a forked worker must not share a file position with its parent."""
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                self._open = (os.getpid(), zipfile.ZipFile(self._path))
            return self._open[1]

    def _read_header(self) -> dict:
        members = {member.filename: member for member in self._zip().infolist()}
        if "header.json" not in members:
            raise PoseError(f"{self._path} is no .poses file; make one with `dreampose poses VIDEO -o NAME.poses`.")
        try:
            header = json.loads(self._zip().read("header.json"))
            form, version = header["format"], header["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            form, version = None, None
        if form != FORMAT:
            raise PoseError(f"{self._path} is no .poses file; make one with `dreampose poses VIDEO -o NAME.poses`.")
        if version != VERSION:
            raise PoseError(
                f"{self._path} is a .poses file of version {str(version)[:20]}, and this program reads version {VERSION}; "
                "extract the poses again or update dreampose-cli."
            )
        if not _is_sound(header):
            raise PoseError(f"{self._path} is damaged: its header makes no sense; extract the poses again.")
        expected = 6 * header["width"] * header["height"]
        for i in range(header["frames"]):
            member = members.get(_member(i))
            if member is None or not 0 < member.file_size - expected <= 4096:
                raise PoseError(
                    f"{self._path} is damaged: pose frame {i} of {header['frames']} is missing or of another size; "
                    "extract the poses again."
                )
        return header


def _member(i: int) -> str:
    return f"frames/{i:06d}.npy"


def _is_sound(header: dict) -> bool:
    sizes = all(type(header.get(key)) is int and 0 < header[key] <= _LARGEST_SIDE for key in ("width", "height"))
    frames = type(header.get("frames")) is int and header["frames"] > 0
    fps = type(header.get("fps")) in (int, float) and 0 < header["fps"] < 1e6
    return sizes and frames and fps and type(header.get("has_parts")) is bool and type(header.get("source")) is str


@contextlib.contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise PoseError(
            f"{path} is cut short, damaged or no .poses file; copy it again or extract the poses again."
        ) from error
    except OSError as error:
        raise PoseError(f"{path} cannot be read: {error.strerror or error}; check the path.") from error
