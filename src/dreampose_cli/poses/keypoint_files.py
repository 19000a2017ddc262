"""Keypoints in files: OpenPose's JSON, one file a frame in a folder or one file for all, and our own `.poses`.

OpenPose writes `people`, each with `pose_keypoints_2d` (18 points in COCO order or 25 of BODY_25), `hand_left_keypoints_2d`,
`hand_right_keypoints_2d` (21 each) and `face_keypoints_2d` (70) as flat lists of x, y, score. A keypoint `.poses` is a zip of
`header.json` (version 2, kind "keypoints") and `keypoints.npy`, float32 (frames, 130, 3).
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoseError
from ..media.atomic import atomic_folder, atomic_path
from ..media.files import list_files
from .damaged import DAMAGED
from .keypoints import BODY, FACE, LEFT_HAND, POINTS, RIGHT_HAND, KeypointsInMemory, seen
from .sequence import PoseSequence

VERSION = 2  # of `.poses` files that hold keypoints
MEMBER = "keypoints.npy"
_LARGEST = 64 * 2**20  # bytes of a JSON file
_BODY_25 = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]  # BODY_25's places of the 18 points
_PARTS = (
    ("pose_keypoints_2d", BODY),
    ("hand_left_keypoints_2d", LEFT_HAND),
    ("hand_right_keypoints_2d", RIGHT_HAND),
    ("face_keypoints_2d", FACE),
)


class KeypointWriter:
    """Writes keypoint frames (130, 3) into a `.poses` file, whole or not at all; a context manager like `PoseWriter`."""

    def __init__(
        self, path: str | os.PathLike, size: tuple[int, int], fps: float, *, source: str, estimator: str | None
    ) -> None:
        self._path = path
        self._frames: list[np.ndarray] = []
        self._header = {"kind": "keypoints", "width": int(size[1]), "height": int(size[0]), "fps": float(fps)}
        self._header |= {"source": source, "estimator": estimator}

    def __enter__(self) -> KeypointWriter:
        return self

    def append(self, frame: np.ndarray) -> None:
        """Add a keypoint frame, float (130, 3). Raises PoseError for another shape or values that are no numbers."""
        if frame.shape != (POINTS, 3) or not np.isfinite(frame).all():
            raise PoseError(f"{self._path}: keypoint frame {len(self._frames)} is no ({POINTS}, 3) of finite numbers.")
        self._frames.append(np.asarray(frame, np.float32))

    def __exit__(self, *raised) -> None:
        if raised[0] is not None:
            return
        if not self._frames:
            raise PoseError(f"{self._path} cannot be written: there are no pose frames.")
        header = {"format": "dreampose-poses", "version": VERSION, "frames": len(self._frames), **self._header}
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.stack(self._frames), version=(1, 0), allow_pickle=False)
        with atomic_path(self._path) as part, zipfile.ZipFile(part, "w") as archive:
            for name, data in ((MEMBER, buffer.getvalue()), ("header.json", json.dumps(header, indent=1).encode())):
                member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o644 << 16
                archive.writestr(member, data)


def holds_keypoints(path: str | os.PathLike) -> bool:
    """Whether a file is a `.poses` of keypoints; False for every other file, damaged ones too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return MEMBER in archive.namelist()
    except (OSError, *DAMAGED):
        return False


def read_keypoints(path: Path) -> KeypointsInMemory:
    """Open a `.poses` file of keypoints. Raises PoseError."""
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read("header.json"))
            if archive.getinfo(MEMBER).file_size > 2**31:
                raise ValueError("too many frames")
            frames = np.lib.format.read_array(io.BytesIO(archive.read(MEMBER)), allow_pickle=False)
        if header["version"] != VERSION:
            raise PoseError(
                f"{path} is a .poses file of version {str(header['version'])[:20]}, and this program reads keypoints of version "
                f"{VERSION}; extract the poses again or update dreampose-cli."
            )
        size, fps = (int(header["height"]), int(header["width"])), float(header["fps"])
        if (
            len(frames) != header["frames"]
            or not np.isfinite(frames).all()
            or not 1 <= min(size) <= max(size) <= 16384
            or not 0 < fps < 1e6
        ):
            raise ValueError("header and frames differ")
        return KeypointsInMemory(
            frames, size, fps, source=str(header.get("source", "")), estimator=header.get("estimator")
        )
    except (OSError, *DAMAGED) as error:
        raise PoseError(f"{path} is cut short or damaged; copy it again or extract the poses again.") from error


def is_openpose(path: Path) -> bool:
    """Whether a path is a JSON file, or a folder whose frames are JSON files."""
    if path.is_dir():
        return bool(list_files(path, {".json"})) and not list_files(path, {".png", ".jpg", ".npy"})
    return path.is_file() and path.suffix.lower() == ".json"


def read_openpose(path: Path, fps: float) -> KeypointsInMemory:
    """Read OpenPose's JSON: a folder of one file a frame in the order of their numbers, or a file of one frame or a list.

    Of several people the one with the best mean score of the body is taken. Sizes come from `canvas_width` and
    `canvas_height` where a file has them, else from the points. Frames without anybody take the nearest frame's.
    Raises PoseError.
    """
    files = list_files(path, {".json"}) if path.is_dir() else [path]
    documents: list[tuple[Path, Any]] = []
    for file in files:
        document = _load(file)
        documents += [(file, one) for one in (document if isinstance(document, list) else [document])]
    if not documents:
        raise PoseError(f"{path} holds no keypoints; give OpenPose's JSON files.")
    found = [_best_person(file, document) for file, document in documents]
    known = {i: frame for i, frame in enumerate(found) if frame is not None}
    if not known:
        raise PoseError(f"{path} shows nobody: no frame has a person in it.")
    size = _size_of(documents, list(known.values()))
    frames = [known[min(known, key=lambda k: (abs(k - i), k))] for i in range(len(found))]
    shares = max(float(np.abs(frame[:, :2]).max()) for frame in known.values()) <= 1.0
    if shares:  # some tools write shares of the picture
        frames = [frame * np.array([size[1], size[0], 1], np.float32) for frame in frames]
    return KeypointsInMemory(frames, size, fps, source=str(path))


def write_openpose_folder(path: str | os.PathLike, sequence: PoseSequence, *, overwrite: bool = False) -> Path:
    """Export keypoints as OpenPose's JSON: 000000_keypoints.json and so on, each with its canvas's size."""
    height, width = sequence.size
    with atomic_folder(path, overwrite, owned=lambda name: name.endswith("_keypoints.json")) as part:
        for i, frame in enumerate(sequence):
            values = np.where(seen(frame)[:, None] | (frame[:, 2:] > 0), frame, 0).astype(float).round(4)
            person = {name: values[points].ravel().tolist() for name, points in _PARTS}
            document = {"version": 1.3, "people": [person], "canvas_width": width, "canvas_height": height}
            (part / f"{i:06d}_keypoints.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    return Path(path)


def _load(file: Path) -> Any:
    try:
        if file.stat().st_size > _LARGEST:
            raise PoseError(f"{file} is larger than any keypoints are; give OpenPose's JSON.")
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PoseError(f"{file} cannot be read: it is damaged, cut short or no JSON; save it again.") from error


def _best_person(file: Path, document: Any) -> np.ndarray | None:
    """The keypoint frame of the person whose body is seen best, None where there is nobody."""
    people = document.get("people") if isinstance(document, dict) else None
    if not isinstance(people, list):
        raise PoseError(f"{file} holds no list `people`; give OpenPose's JSON.")
    frames = [_person(file, person) for person in people]
    frames = [frame for frame in frames if (frame[BODY, 2] > 0).any()]
    return max(frames, key=lambda frame: float(frame[BODY, 2].mean()), default=None)


def _person(file: Path, person: Any) -> np.ndarray:
    if not isinstance(person, dict):
        raise PoseError(f"{file}: a person is no set of keypoints; give OpenPose's JSON.")
    frame = np.zeros((POINTS, 3), np.float32)
    for name, points in _PARTS:
        values = person.get(name) or []
        try:
            flat = np.array(values, np.float64)
        except (TypeError, ValueError):
            flat = np.array([math.nan])
        if flat.ndim != 1 or len(flat) % 3 or not np.isfinite(flat).all():
            raise PoseError(f"{file}: {name} is no flat list of x, y and score.")
        found = flat.reshape(-1, 3)
        room = points.stop - points.start
        if name == "pose_keypoints_2d" and len(found) == 25:
            found = found[_BODY_25]
        elif len(found) not in (0, room) and not (name.startswith("face") and len(found) == 68):
            raise PoseError(
                f"{file}: {name} has {len(found)} points, not {room}"
                + (" (COCO) or 25 (BODY_25)." if points is BODY else ".")
            )
        frame[points.start : points.start + len(found)] = found
    frame[:, 2] = np.clip(frame[:, 2], 0, 1)
    return frame


def _size_of(documents: list[tuple[Path, Any]], frames: list[np.ndarray]) -> tuple[int, int]:
    """(height, width) as a file says, or as the points need."""
    for _, document in documents:
        width, height = document.get("canvas_width"), document.get("canvas_height")
        if all(type(side) is int and 0 < side <= 16384 for side in (width, height)):
            return height, width
    points = np.concatenate([frame[frame[:, 2] > 0][:, :2] for frame in frames])
    right, bottom = points.max(0)
    if max(right, bottom) <= 1:
        return 640, 512
    return min(16384, max(64, math.ceil(bottom * 1.05))), min(16384, max(64, math.ceil(right * 1.05)))
