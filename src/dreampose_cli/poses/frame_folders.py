"""Pose sequences as folders with one file a frame: the official DreamPose's `.npy` files, and IUV pictures."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import PoseError
from ..media.atomic import atomic_folder
from ..media.files import list_files
from .damaged import DAMAGED_ARRAY
from .sequence import PARTS, PoseSequence, in_range

_OFFICIAL = re.compile(r"frame_(\d+)_densepose\.npy")
_PROBED_PICTURES = 5


def write_iuv_folder(path: str | os.PathLike, sequence: PoseSequence, *, overwrite: bool = False) -> Path:
    """Export as IUV pictures 00000.png, ... in detectron2's order RGB = (I, U, V), U and V times 255.

    Raises PoseError if the sequence knows no body parts, OutputError and OutputExistsError as `atomic_folder`.
    """
    if not sequence.has_parts:
        raise PoseError(f"{path} cannot be written: the poses know no body parts, which IUV pictures need.")
    with atomic_folder(path, overwrite, owned=lambda name: bool(re.fullmatch(r"\d{5,}\.png", name))) as part:
        for i, frame in enumerate(sequence):
            planes = np.rint(frame * np.array([1, 255, 255], np.float32)[:, None, None]).astype(np.uint8)
            Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(part / f"{i:05d}.png")
    return Path(path)


def write_dreampose_folder(path: str | os.PathLike, sequence: PoseSequence, *, overwrite: bool = False) -> Path:
    """Export as the files of the official DreamPose: frame_0_densepose.npy, ... float64 (2, H, W), U and V."""
    with atomic_folder(path, overwrite, owned=is_dreampose_name) as part:
        for i, frame in enumerate(sequence):
            np.save(part / f"frame_{i}_densepose.npy", frame[1:].astype(np.float64), allow_pickle=False)
    return Path(path)


def is_dreampose_name(name: str) -> bool:
    """Whether a file name is one of the official DreamPose's pose files."""
    return _OFFICIAL.fullmatch(name) is not None


class _FramePoses(PoseSequence):
    """Poses with one file a frame; the size is that of the first."""

    def __init__(self, source: Path, files: list[Path], fps: float, has_parts: bool) -> None:
        self._files = files
        super().__init__(len(files), self._read(files[0]).shape[1:], fps, has_parts=has_parts, source=str(source))

    def frame(self, i: int) -> np.ndarray:
        self._require_index(i)
        frame = self._read(self._files[i])
        if frame.shape[1:] != self.size:
            raise PoseError(
                f"{self._files[i]} is {frame.shape[2]}x{frame.shape[1]}, the first frame "
                f"{self.size[1]}x{self.size[0]}; all frames of a pose sequence need one size."
            )
        return frame

    @abstractmethod
    def _read(self, file: Path) -> np.ndarray:
        """One file as a pose frame (3, H, W). Raises PoseError."""


class NpyPoses(_FramePoses):
    """The official DreamPose's files: U and V without the body part."""

    def __init__(self, source: Path, files: list[Path], fps: float) -> None:
        super().__init__(source, files, fps, has_parts=False)
        numbers = [int(found[1]) for file in files if (found := _OFFICIAL.fullmatch(file.name))]
        if len(numbers) == len(files) and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            self.numbers = numbers

    def _read(self, file: Path) -> np.ndarray:
        try:
            planes = np.load(file, allow_pickle=False)
        except (OSError, *DAMAGED_ARRAY) as error:
            raise PoseError(f"{file} cannot be read: it is damaged, cut short or no .npy file of numbers.") from error
        if not isinstance(planes, np.ndarray) or planes.ndim != 3 or planes.shape[0] != 2 or 0 in planes.shape:
            shape = getattr(planes, "shape", "unknown")
            raise PoseError(f"{file} has the shape {shape}; DreamPose's pose files are (2, height, width).")
        frame = np.zeros((3, *planes.shape[1:]), np.float32)
        if planes.dtype.kind == "f":
            frame[1:] = planes
        if planes.dtype.kind != "f" or not in_range(frame):
            raise PoseError(f"{file} holds no U and V: DreamPose's pose files are numbers from 0.0 to 1.0.")
        return np.clip(frame, 0, 1)


class IuvPoses(_FramePoses):
    """IUV pictures; which channel holds the body part is seen from several of them."""

    def __init__(self, source: Path, files: list[Path], fps: float) -> None:
        orders = channel_orders(files)
        if not orders:
            raise PoseError(
                f"{source} holds no IUV pictures: no channel is a body part from 0 to {PARTS} with U and V next to it; "
                "take the poses of ordinary pictures with `dreampose poses`."
            )
        if len(orders) > 1:
            raise PoseError(
                f"{source}: it cannot be told whether red or blue holds the body part, because both stay below "
                f"{PARTS + 1}; give frames with a whole person in them, in the order red = I, green = U, blue = V."
            )
        self._order = orders[0]
        super().__init__(source, files, fps, has_parts=True)

    def _read(self, file: Path) -> np.ndarray:
        frame = _picture(file)[..., self._order].transpose(2, 0, 1).astype(np.float32)
        if frame[0].max() > PARTS:
            raise PoseError(f"{file} is no IUV picture: a body part above {PARTS}; remove it from the sequence.")
        frame[1:] /= 255
        frame[1:, frame[0] == 0] = 0
        return np.ascontiguousarray(frame)


def channel_orders(files: list[Path]) -> list[list[int]]:
    """The possible places of (I, U, V) among red, green, blue, judged from a few pictures spread over the sequence.

    I never exceeds 24, U or V do, and where I is 0 so are they.
    """
    chosen = sorted({round(k * (len(files) - 1) / (_PROBED_PICTURES - 1)) for k in range(_PROBED_PICTURES)})
    pictures = [_picture(files[k]) for k in chosen]
    return [order for order in ([0, 1, 2], [2, 1, 0]) if _fits(pictures, order)]


def _fits(pictures: list[np.ndarray], order: list[int]) -> bool:
    part, u, v = ([picture[..., channel] for picture in pictures] for channel in order)
    if not any(i.any() for i in part) or any(i.max() > PARTS for i in part):
        return False
    if max(max(a.max(), b.max()) for a, b in zip(u, v, strict=True)) <= PARTS:
        return False
    stray = sum(int(((i == 0) & ((a > 0) | (b > 0))).sum()) for i, a, b in zip(part, u, v, strict=True))
    return stray == 0


def _picture(file: Path) -> np.ndarray:
    """An IUV picture as uint8 (H, W, 3), the bytes as they are in the file."""
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise PoseError(f"{file} is no IUV picture: it has no three channels of 8 bits.")
            return np.asarray(picture)[..., :3]
    except PoseError:
        raise
    except Exception as error:  # Pillow raises nearly every type on damaged files
        raise PoseError(f"{file} cannot be read: it is damaged, cut short or no PNG.") from error


def array_files(folder: Path) -> list[Path]:
    """The official pose files of a folder by number, or else all of its .npy files."""
    files = list_files(folder, {".npy"})
    official = [(int(found[1]), file) for file in files if (found := _OFFICIAL.fullmatch(file.name))]
    return [file for _, file in sorted(official)] or files
