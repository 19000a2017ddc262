"""Part labels without surface coordinates: folders of label pictures, and control pictures that someone drew already.

For networks that follow body parts alone, and for nothing else: U and V of these sequences are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from .. import media
from ..errors import PoseError
from ..media.files import list_files
from .control_picture import read_control_picture
from .sequence import PoseSequence

PARTS = 24
_PROBED = 5


class LabelPictures(PoseSequence):
    """PNG pictures of which one channel holds the part label and the others hold anything, such as IUV pictures whose U and V
    were never filled in."""

    def __init__(self, files: list[Path], channel: int, fps: float, source: str) -> None:
        self._files, self._channel = files, channel
        super().__init__(len(files), _png(files[0]).shape[:2], fps, source=source)

    def frame(self, i: int) -> np.ndarray:
        self._require_index(i)
        labels = _png(self._files[i])[..., self._channel]
        if labels.shape != self.size or labels.max() > PARTS:
            raise PoseError(f"{self._files[i]} is of another size than the first picture, or holds no part labels.")
        frame = np.zeros((3, *self.size), np.float32)
        frame[0] = labels
        return frame


def open_label_pictures(source: Path, fps: float) -> LabelPictures | None:
    """The labels in a folder of PNG pictures, or in one; None where no channel holds labels. Reads a few of them.

    Of two channels that could be labels it is red, as detectron2 writes I, unless that is empty.
    """
    try:
        files = list_files(source, {".png"}) if source.is_dir() else [source] if source.suffix.lower() == ".png" else []
        if not files:
            return None
        chosen = sorted({round(k * (len(files) - 1) / (_PROBED - 1)) for k in range(_PROBED)})
        highest = np.max([_png(files[k]).max((0, 1)) for k in chosen], axis=0)
    except (OSError, PoseError):
        return None
    channel = next((channel for channel in (0, 2) if 0 < highest[channel] <= PARTS), None)
    return None if channel is None else LabelPictures(files, channel, fps, str(source))


def read_control_frames(
    source: Path, *, fps: float | None = None, start: float | None = None, end: float | None = None
) -> tuple[Iterator[np.ndarray], float] | None:
    """The pose frames (3, H, W) in a video or a folder of control pictures, and their rate; None for any other source.

    The first picture decides; one further on that is none is a PoseError.
    """
    with media.open_frames(source, fps=fps, start=start, end=end) as frames:
        rate, first = frames.fps, next(iter(frames))
    if read_control_picture(first) is None:
        return None

    def labelled() -> Iterator[np.ndarray]:
        with media.open_frames(source, fps=fps, start=start, end=end) as pictures:
            for number, picture in enumerate(pictures):
                labels = read_control_picture(picture)
                if labels is None:
                    raise PoseError(f"picture {number} of {source} is no DensePose drawing, while the first one is.")
                frame = np.zeros((3, *labels.shape), np.float32)
                frame[0] = labels
                yield frame

    return labelled(), rate


def _png(file: Path) -> np.ndarray:
    """A PNG as uint8 (H, W, 3), the bytes as they are in the file."""
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise PoseError(f"{file} has no three channels of 8 bits.")
            return np.asarray(picture)[..., :3]
    except PoseError:
        raise
    except Exception as error:  # Pillow raises nearly every type on damaged files
        raise PoseError(f"{file} cannot be read: it is damaged, cut short or no PNG.") from error
