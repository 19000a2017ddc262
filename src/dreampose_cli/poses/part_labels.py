"""Part labels without surface coordinates: folders of label pictures, and pictures that show labels in colours.

Control pictures, which MagicAnimate's network is steered by, paint the label with viridis, the background too, which is
purple. Other palettes, such as detectron2's own parula on black, are recognised to be refused by name: between blended colours
labels would be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import PoseError
from ..media.files import list_files
from .control_picture import VIRIDIS, read_control_picture
from .sequence import PARTS, PoseSequence

_PROBED = 5
NAME = "control-picture"  # recorded as the estimator of poses that were read from one
UNKNOWN = 0.5  # what stands for U and V
_LIKE = 40  # sum of the differences of red, green and blue up to which a pixel has a colour of a palette
_SHARE = 0.8  # of the pixels that are no background have one, or it is a picture of something else
_FEWEST = 5  # different labels that a person shows

# Other maps that label videos come in, at int(I * 255 / 24) for I = 0 to 24, as OpenCV has them.
_PALETTES = {
    "parula": (
        "352a87253ca31450c20461df086edd0e7ad81484d40f90d00b9ccb06a6c616adb926b3ac37b99f"
        "56bb9072bd8291bf74aabd69c0bc60d8ba56e4c04af0c73cfcce2efbdc24faeb19f9fb0e"
    ),
    "jet": (
        "0000800000a80000d40000fc0028ff0054ff007cff00a8ff00d4ff00fcff2affd652ffae7eff82"
        "aaff56d2ff2efeff01ffd400ffac00ff8000ff5800ff2c00ff0000d80000ac0000800000"
    ),
    "turbo": (
        "30123b3b2f80434eba4669e04685fa3ba0fd2ab9ee1ad2d21ae4b62ff19b55fa767dff56a1fd3d"
        "bef434d7e535ecd13afaba39fea130fb8122f36315e5470bd23105bc20029e10017a0403"
    ),
    "inferno": (
        "000004050417110a301f0c48320a5e450a69550f6d67166e781c6d88226a9a2865a92e5eba3655"
        "ca404ad74b3fe35933ed6925f47918f98c0afc9f07fcb418f9c932f4dd4ff1f179fcffa4"
    ),
    "plasma": (
        "0d08872605913a049a4b03a15c01a66e00a87d03a88d0ba59c179ea82296b52f8cc03a83cb4679"
        "d5536fdd5e66e56b5ded7953f3854bf89441fba238fdb22ffdc328fbd324f6e626f0f921"
    ),
    "magma": (
        "000004050416100b2d1c10442c115f3f0f724f127b601880721f81812581932b80a3307eb5367a"
        "c73d73d6456ce55064f1605df7725cfb8761fd9a6afeae77fec287fed597fde9aafcfdbf"
    ),
}


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


class ControlPictureReader:
    """Reads control pictures where an estimator would estimate; the interface is an estimator's."""

    name = NAME
    fingerprint = "control-picture-1"
    kind = "densepose"
    person: int | None = None
    least_person = 0.0
    pace = ""

    def __init__(self, source: str) -> None:
        self._source = source

    def estimate(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """uint8 (H, W, 3) each -> float32 (3, H, W): I as painted, U and V 0.5 on the body. Raises PoseError."""
        return list(self.stream(pictures))

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pose frames of the frames of one clip, one by one."""
        for number, picture in enumerate(pictures):
            labels = read_control_picture(picture)
            if labels is None:
                raise PoseError(
                    f"{self._source} begins as a control picture (viridis on part labels), and its frame {number} is none; "
                    "cut the clip there with --end, or give a video of one sort."
                )
            frame = np.full((3, *labels.shape), UNKNOWN, np.float32)
            frame[0] = labels
            frame[1:, labels == 0] = 0
            yield frame


def recognise(picture: np.ndarray, source: str) -> bool:
    """Whether a picture uint8 (H, W, 3) is a control picture; PoseError where it shows labels in another palette."""
    labels = read_control_picture(picture)
    if labels is not None:
        return len(np.unique(labels)) >= _FEWEST
    if palette := palette_of(picture):
        raise PoseError(
            f"{source} shows DensePose labels in the palette {palette}, not viridis on purple: labels cannot be told from "
            "its colours; give the video it was made from, a dump or IUV pictures, or draw it again with OpenCV's viridis."
        )
    return False


def palette_of(picture: np.ndarray) -> str | None:
    """The palette and ground of a picture that shows part labels in other colours than a control picture; else None."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).astype(np.int16)
    ground = np.median(border, axis=0)
    flat = (np.abs(border - ground).sum(-1) <= _LIKE).mean()
    if flat < 0.75:
        return None
    body = picture[np.abs(picture.astype(np.int16) - ground.astype(np.int16)).sum(-1) > _LIKE]
    if len(body) < 0.01 * picture.shape[0] * picture.shape[1]:
        return None
    body = body[:: len(body) // 20000 + 1].astype(np.int16)
    black = ground.max() <= 24
    best, name = 0.0, None
    for palette, colors in {"viridis": VIRIDIS.astype(np.int16), **_tables()}.items():
        if not black and np.abs(colors[0] - ground).sum() > _LIKE:
            continue
        distance = np.abs(body[:, None] - colors[1:]).sum(-1)
        near = distance.min(1) <= _LIKE
        exact = float((distance.min(1) <= 12).mean())
        shown = np.bincount(distance.argmin(1)[near], minlength=24) > 0.004 * len(body)
        score = near.mean() + exact
        if near.mean() >= _SHARE and shown.sum() >= _FEWEST and score > best:
            best, name = score, palette
    return name and f"{name} on {'black' if black else 'its own lowest colour'}"


def _tables() -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(bytes.fromhex(text), np.uint8).reshape(25, 3).astype(np.int16)
        for name, text in _PALETTES.items()
    }


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
