"""Keypoints of people by DWPose or RTMPose's whole-body models, through the package rtmlib.

rtmlib brings the detector (YOLOX) and the pose network (133 points, ONNX) from their own source at the first use; they are
kept in this program's cache, and afterwards no network is needed.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ..cache import Cache
from ..errors import PoseError
from .keypoints import BODY, FACE, LEFT_HAND, POINTS, RIGHT_HAND
from .tracking import PersonTracker

NAME = "dwpose"
MODE = "performance"  # the largest models: 288 x 384
_VARIABLE = "TORCH_HOME"  # where rtmlib looks for its weights' folder
# Of rtmlib's 134 points in OpenPose's order: body 0-17, feet 18-23, face 24-91, left hand 92-112, right hand 113-133.
_FACE, _LEFT, _RIGHT = slice(24, 92), slice(92, 113), slice(113, 134)


class DWPose:
    """A keypoint estimator; `estimate(pictures)` gives one keypoint frame (130, 3) a picture, zeros where nobody is."""

    name = NAME
    kind = "keypoints"
    least_person = 0.0
    pace = ""

    def __init__(self, model: Callable, fingerprint: str, person: int | None = None) -> None:
        self._model, self.fingerprint, self.person = model, fingerprint, person

    def estimate(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """uint8 (H, W, 3) RGB each -> float32 (130, 3)."""
        return [frame for picture in pictures for frame in self.stream([picture])]

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Keypoint frames of the frames of one clip; of several people the best-scored one, or `person`, is followed."""
        tracker = PersonTracker(self.person) if self.person else None
        for picture in pictures:
            keypoints, scores = self._model(np.ascontiguousarray(picture[..., ::-1]))  # BGR, as OpenCV reads
            yield _frame(np.asarray(keypoints, np.float32), np.asarray(scores, np.float32), tracker)


def load_dwpose(
    cache: Cache, device: str = "cpu", person: int | None = None, note: Callable[[str], None] | None = None
) -> DWPose:
    """DWPose through rtmlib. Raises PoseError where the package or, without a network, the weights are missing."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import rtmlib
    except ImportError as error:
        raise PoseError(
            "the estimator dwpose needs the package rtmlib; `pip install 'dreampose-cli[keypoints]'`."
        ) from error
    folder = cache.root / "rtmlib"
    urls = rtmlib.Wholebody.MODE[MODE]
    names = [Path(urls[part]).stem + ".onnx" for part in ("det", "pose")]
    stored = folder / "hub" / "checkpoints"
    missing = [name for name in names if not (stored / name).is_file()]
    if missing and note:
        note(f"dwpose brings its weights first ({', '.join(missing)}, about 300 MB from {urls['pose'].split('/')[2]}).")
    try:
        cache.ensure()
        folder.mkdir(parents=True, exist_ok=True)
        with _weights_in(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            model = rtmlib.Wholebody(
                mode=MODE,
                to_openpose=True,
                backend="onnxruntime",
                device="cuda" if device.startswith("cuda") else "cpu",
            )
    except Exception as error:  # a missing network, a full disk and a damaged file raise whatever rtmlib likes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise PoseError(
            f"the weights of dwpose are unavailable ({reason}); go online once, or put {' and '.join(names)} into {stored}."
        ) from error
    return DWPose(model, f"rtmlib-{MODE}-{names[1].split('_')[-1].removesuffix('.onnx')}", person)


@contextlib.contextmanager
def _weights_in(folder: Path) -> Iterator[None]:
    """rtmlib asks the environment where weights lie; for the length of a block they lie in `folder`."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def _frame(keypoints: np.ndarray, scores: np.ndarray, tracker: PersonTracker | None) -> np.ndarray:
    """rtmlib's people, (N, 134, 2) and (N, 134), -> the keypoint frame of one of them."""
    frame = np.zeros((POINTS, 3), np.float32)
    if not len(scores):
        return frame
    order = scores[:, :18].mean(1).argsort()[::-1]
    best: int | None = int(order[0])
    if tracker is not None:
        boxes = [np.concatenate([keypoints[i, :18].min(0), keypoints[i, :18].max(0)]) for i in order]
        chosen = tracker.choose(np.stack(boxes))
        best = None if chosen is None else int(order[chosen])
    if best is None:
        return frame
    points = np.concatenate([keypoints[best], np.clip(scores[best], 0, 1)[:, None]], 1)
    frame[BODY], frame[LEFT_HAND], frame[RIGHT_HAND] = points[:18], points[_LEFT], points[_RIGHT]
    frame[FACE.start : FACE.start + 68] = points[_FACE]
    return frame
