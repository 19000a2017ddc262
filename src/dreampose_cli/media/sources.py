"""A driving video in whatever form it comes: a video file, an animation, a picture, or a folder of pictures."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from ..errors import MediaError
from .files import first_index, list_files, require_frames, require_range, resampled_length
from .photos import SUFFIXES, is_picture, open_picture, read_photo, to_rgb
from .videos import decode, length_of, probe_video

DEFAULT_FPS = 30.0  # of pictures, which know no rate
_ANIMATIONS = {"GIF", "WEBP", "PNG", "AVIF"}  # the others with several pictures are stacks of pages
_VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".h264", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts",
    ".webm", ".wmv",
}  # fmt: skip


class FrameSource:
    """Pictures in time, uint8 (H, W, 3) RGB, to be gone through once; a context manager that stops the reading.

    fps: their constant rate. length: how many there are, None if unknown. size: (height, width).
    """

    def __init__(
        self, frames: Generator[np.ndarray], fps: float, length: int | None, size: tuple[int, int]
    ) -> None:
        self.fps, self.length, self.size = fps, length, size
        self._frames = frames

    def __iter__(self) -> Generator[np.ndarray]:
        return self._frames

    def close(self) -> None:
        self._frames.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_frames(
    source: str | os.PathLike, *, fps: float | None = None, start: float | None = None, end: float | None = None
) -> FrameSource:
    """Open a video, an animated GIF, WebP or PNG, a picture, or a folder of pictures (in the order of their numbers).

    fps: resamples videos and animations (None: their own rate); for pictures it says how many make a second (None:
    30). start, end: seconds, as in `read_video`. Raises MediaError if there is nothing to read, UsageError for an
    impossible range; MediaError while iterating for damage further on.
    """
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, fps, start, end)
    if _is_picture(path):
        with open_picture(path) as picture:
            moving = picture.format in _ANIMATIONS and getattr(picture, "n_frames", 1) > 1
        return _open_animation(path, fps, start, end) if moving else _open_pictures(path, [path], fps, start, end)
    info = probe_video(path)
    frames = decode(path, info, fps=fps, start=start, end=end)
    return FrameSource(frames, fps or info.fps, length_of(info, fps, start, end), (info.height, info.width))


def _is_picture(path: Path) -> bool:
    """Whether the file is for Pillow: by its name, or by its first bytes if the name says nothing."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix in _VIDEO_SUFFIXES or not path.is_file():
        return suffix in SUFFIXES
    return is_picture(path)


def _open_folder(folder: Path, fps: float | None, start: float | None, end: float | None) -> FrameSource:
    try:
        files = list_files(folder, SUFFIXES)
    except OSError as error:
        raise MediaError(f"{folder} cannot be read: {error.strerror}; check its permissions.") from error
    if not files:
        raise MediaError(f"{folder} holds no pictures; give a folder of PNG or JPEG files, or a video.")
    return _open_pictures(folder, files, fps, start, end)


def _open_pictures(
    source: Path, files: list[Path], fps: float | None, start: float | None, end: float | None
) -> FrameSource:
    rate = fps or DEFAULT_FPS
    require_range(source, rate, start, end, len(files) / rate)
    first = first_index(rate, start)
    length = resampled_length(rate, len(files), None, start, end)
    require_frames(source, length, start, end)
    chosen = files[first : first + length]
    size = read_photo(chosen[0]).shape[:2]
    return FrameSource(_read_pictures(chosen, size), rate, length, size)


def _read_pictures(files: list[Path], size: tuple[int, int]) -> Generator[np.ndarray]:
    for file in files:
        picture = read_photo(file)
        if picture.shape[:2] != size:
            raise MediaError(
                f"{file} is {picture.shape[1]}x{picture.shape[0]}, and the first picture of the folder "
                f"{size[1]}x{size[0]}; all pictures of a folder need one size."
            )
        yield picture


def _open_animation(path: Path, fps: float | None, start: float | None, end: float | None) -> FrameSource:
    """An animation shows each frame for a time of its own. Its rate is the average one, if these times are alike but
    for rounding; else the one of its shortest frame, so that none is lost."""
    shown = []
    with open_picture(path) as picture:
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            picture.load()  # some formats tell the duration only then
            milliseconds = picture.info.get("duration") or 0
            shown.append((milliseconds if milliseconds > 10 else 100) / 1000)  # as browsers do
        size = to_rgb(picture).shape[:2]
    duration = sum(shown)
    own = len(shown) / duration if max(shown) < 1.8 * min(shown) else 1 / min(shown)
    require_range(path, fps, start, end, duration)
    rate, begin = fps or own, first_index(own, start) / own
    length = resampled_length(own, round(duration * own), fps, start, end)
    require_frames(path, length, start, end)
    middle = begin + 0.5 / max(own, rate)  # of the moment a frame stands for, away from the rounded ends
    frames = _read_animation(path, list(itertools.accumulate(shown)), (middle + n / rate for n in range(length)))
    return FrameSource(frames, rate, length, size)


def _read_animation(path: Path, ends: list[float], times: Iterator[float]) -> Generator[np.ndarray]:
    """The frames shown at rising times, each decoded once."""
    with open_picture(path) as picture:
        index, rgb = 0, None
        for time in times:
            while index < len(ends) - 1 and ends[index] <= time:
                index, rgb = index + 1, None
            if rgb is None:
                picture.seek(index)
                rgb = to_rgb(picture)
            yield rgb.copy()
