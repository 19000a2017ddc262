"""Dumps of detectron2's `apply_net.py dump`: a list with one dict a picture, written by torch.save or by pickle.

A dict has file_name, scores (N,), pred_boxes_XYXY (N, 4) and pred_densepose, N results with labels int64 (h, w) and uv
float32 (2, h, w) in the size of their boxes. The size of the pictures is not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image

from ..errors import NoPersonError, PoseError
from ..media.files import natural_order
from .safe_pickle import Record, Tensor, read_pickle
from .sequence import PARTS, PoseSequence, paste
from .tracking import PersonTracker, count_of, describe_ranges, nearest_seen, ranges_of

SUFFIXES = (".pkl", ".pickle", ".pt", ".pth")
_KNOWN = {r"(\w+\.)*densepose\.structures(\.\w+)*": ("DensePoseChartResult", "DensePoseChartResultWithConfidences")}
_PURPOSE = "a DensePose dump of detectron2's apply_net.py"
_LARGEST_SIDE = 16384
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class _Detection:
    """One person: x1, y1, x2, y2 in pixels, and the files' arrays."""

    box: np.ndarray
    labels: Tensor
    uv: Tensor


class DumpPoses(PoseSequence):
    """The poses of one person in a dump, in the order of the pictures' names.

    person: whom to follow, see `PersonTracker`. size: (height, width) of the pictures; without it, that of the first picture
    which lies next to the dump, else the extent of all boxes, with a remark. Frames that show nobody take the pose of
    the nearest frame. Raises PoseError for what is no dump, NoPersonError if it shows nobody (or no such person).

    Only the frame that is asked for is in memory where torch.save wrote the dump; of a plain pickle all of it is.
    """

    def __init__(
        self, path: Path, fps: float, *, size: tuple[int, int] | None = None, person: int | None = None
    ) -> None:
        self._path = path
        entries = _ordered(_entries(path))
        frames = [_detections(path, entry) for entry in entries]
        tracker = PersonTracker(person)
        chosen = []
        for people in frames:
            index = tracker.choose(np.array([detection.box for detection in people]))
            chosen.append(None if index is None else people[index])
        if not any(chosen):
            who = f"no {person} people" if (person or 1) > 1 and any(frames) else "nobody"
            raise NoPersonError(f"{path} shows {who}; dump pictures with one whole figure in them.")
        seen = [detection is not None for detection in chosen]
        self._chosen: list[_Detection] = [there for i in nearest_seen(seen) if (there := chosen[i]) is not None]
        extent = _extent([detection.box for people in frames for detection in people])
        found = size or _picture_size(path, entries)
        if found is not None and (extent[0] > found[0] + 1 or extent[1] > found[1] + 1):
            raise PoseError(
                f"{path}: boxes reach to {extent[1]}x{extent[0]}, beyond the size {found[1]}x{found[0]} of the pictures; "
                "give their size as WIDTHxHEIGHT with --size."
            )
        super().__init__(len(frames), found or extent, fps, source=str(path))
        self.gaps = ranges_of(i for i, there in enumerate(seen) if not there)
        remarks = []
        if found is None:
            remarks.append(
                f"{path} does not say how large its pictures are, and none lies next to it: {extent[1]}x{extent[0]} is taken, "
                "which its boxes reach to; --size WIDTHxHEIGHT says better."
            )
        if self.gaps:
            remarks.append(
                f"{count_of(self.gaps)} frames of {path} ({describe_ranges(self.gaps)}) show nobody; the pose of the "
                "nearest frame with somebody stands in."
            )
        self.remarks = tuple(remarks)

    def frame(self, i: int) -> np.ndarray:
        self._require_index(i)
        detection = self._chosen[i]
        try:
            labels, uv = detection.labels.array(), detection.uv.array()
        except Exception as error:  # the zip may have changed or be damaged in its middle
            raise PoseError(f"{self._path}: pose frame {i} is cut short or damaged; copy the dump again.") from error
        uv = np.nan_to_num(uv.astype(np.float32))
        if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() <= PARTS:
            raise PoseError(
                f"{self._path}: pose frame {i} has body parts outside 0 to {PARTS}; it is no DensePose chart."
            )
        patch = np.concatenate([labels[None].astype(np.float32), uv.clip(0, 1) * (labels > 0)])
        return paste(patch, (int(detection.box[0]), int(detection.box[1])), np.zeros((3, *self.size), np.float32))


def _entries(path: Path) -> list[dict]:
    content = read_pickle(path, _KNOWN, _PURPOSE)
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise PoseError(f"{path} is no dump of poses: it holds {_kind(content)}, not a list of dicts, one a picture.")
    if not any("pred_densepose" in entry for entry in content):
        raise PoseError(f"{path} is no dump of poses: no picture in it has pred_densepose.")
    return content


def _ordered(entries: list[dict]) -> list[dict]:
    """In the order of the pictures' names: apply_net takes the files of a folder as the system lists them."""
    names = [entry.get("file_name") for entry in entries]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return entries
    return sorted(entries, key=lambda entry: natural_order(entry["file_name"]))


def _detections(path: Path, entry: dict) -> list[_Detection]:
    """The people of one picture, checked but for their pixels, the surest first."""
    boxes, results = entry.get("pred_boxes_XYXY"), entry.get("pred_densepose")
    if results is None or (isinstance(results, list | tuple) and not results):
        return []
    name = entry.get("file_name", "a picture")
    wrong = PoseError(f"{path}: what it says about {name} is not what apply_net.py dumps; dump it again.")
    if not isinstance(boxes, Tensor) or not isinstance(results, list | tuple) or boxes.shape != (len(results), 4):
        raise wrong
    try:
        places = boxes.array().astype(np.float64)
    except Exception as error:
        raise wrong from error
    if not np.isfinite(places).all() or np.abs(places).max() > _LARGEST_SIDE:
        raise wrong
    people = []
    for box, result in zip(places, results, strict=True):
        values = getattr(result, "values", {}) if isinstance(result, Record) else {}
        labels, uv = values.get("labels"), values.get("uv")
        if not isinstance(labels, Tensor) or not isinstance(uv, Tensor) or uv.shape != (2, *labels.shape):
            raise wrong
        if len(labels.shape) != 2 or 0 in labels.shape or max(labels.shape) > _LARGEST_SIDE:
            raise wrong
        people.append(_Detection(box, labels, uv))
    return people


def _extent(boxes: list[np.ndarray]) -> tuple[int, int]:
    """(height, width) that holds all boxes."""
    far = np.max([box[2:] for box in boxes], axis=0)
    return max(1, math.ceil(far[1])), max(1, math.ceil(far[0]))


def _picture_size(path: Path, entries: list[dict]) -> tuple[int, int] | None:
    """(height, width) of the first picture that lies next to the dump under the name, or relative path, it has there."""
    for entry in entries:
        name = entry.get("file_name")
        if not isinstance(name, str):
            continue
        relative = PurePosixPath(name)
        plain = PureWindowsPath(name).name if "\\" in name else relative.name
        inside = not relative.is_absolute() and ".." not in relative.parts and "\\" not in name
        for candidate in dict.fromkeys([name, plain] if inside else [plain]):
            file = path.parent / candidate
            if candidate and file.is_file():
                try:
                    with Image.open(file) as picture:
                        width, height = picture.size
                        turned = picture.getexif().get(_ORIENTATION, 1) >= 5  # detectron2 turns pictures as EXIF says
                except Exception:  # Pillow raises nearly every type on damaged files; the next one will do
                    continue
                return (width, height) if turned else (height, width)
    return None


def _kind(content: object) -> str:
    return "a tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
