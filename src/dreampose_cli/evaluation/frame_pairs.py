"""Two clips as one stream of frame pairs of one size: alignment in time, the protocol's size, and what was noticed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from .. import media
from ..media.sources import FrameSource

AHEAD = 3  # pairs being resized while one is scored
ASPECTS_ALIKE = 0.02  # sides may be this much longer than the reference's aspect asks for


class AlignedFrames:
    """Pairs (predicted, reference) of uint8 (h, w, 3), one after the other; a context manager.

    Rules. Time: frame i with frame i ("index"), or the prediction's frame that is shown at the time of the reference's
    ("time"; pictures know no time, their frames go by index). A video with a variable rate is read at a constant one.
    Length: the frames that both have, from the first on. Size: the reference's shorter side becomes `size` pixels, never
    more than it has (None: as it is), by `resize`; the prediction is brought to the very same size. Where an mp4 had to
    pad an odd side by a row or a column, that is cut off again. Transparency is put on white.

    `warnings` and `count` are complete when the stream is through; `size` is (height, width), `total` None if unknown.
    """

    def __init__(self, predicted: Path, reference: Path, *, size: int | None, align_by: str) -> None:
        self._stack = ExitStack()
        self.warnings: list[str] = []
        self.count = 0
        with self._stack:
            timed = align_by == "time" and not _is_untimed(predicted) and not _is_untimed(reference)
            if timed:
                self._reference = self._open(reference, None)
                self._predicted = self._open(predicted, self._reference.fps)
            else:  # looking into a video takes as long as several of its frames
                with ThreadPoolExecutor(2, "open") as pool:
                    sources = pool.map(media.open_frames, (reference, predicted))
                    self._reference, self._predicted = map(self._stack.enter_context, sources)
            self._stack = self._stack.pop_all()
        self.fps = self._predicted.fps if _is_untimed(reference) else self._reference.fps
        self.source_sizes = (self._predicted.size, self._reference.size)
        self.size = scored_size(self._reference.size, size)
        self.padded = _was_padded(*self.source_sizes)
        lengths = (self._predicted.length, self._reference.length)
        known = [length for length in lengths if length is not None]
        self.total = min(known) if len(known) == 2 else None
        self._look(timed or _is_untimed(predicted) or _is_untimed(reference))

    def __enter__(self) -> AlignedFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self.source_sizes == (self.size, self.size):
            yield from self._pairs()
            return
        waiting: deque[Future] = deque()
        with ThreadPoolExecutor(2, "resize", torch.set_num_threads, (1,)) as pool:
            try:
                for pair in self._pairs():
                    waiting.append(pool.submit(self._fit, *pair))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for task in waiting:
                    task.cancel()

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        ours, theirs = iter(self._predicted), iter(self._reference)
        while True:
            a, b = next(ours, None), next(theirs, None)
            if a is None or b is None:
                break
            self.count += 1
            yield a, b
        if (a is None) != (b is None):
            longer, length = (
                ("prediction", self._predicted.length) if b is None else ("reference", self._reference.length)
            )
            whole = f"{length} frames" if length is not None and length > self.count else "more frames"
            self.warnings.append(f"the {longer} has {whole}; the {self.count} that both have are compared")

    def _fit(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.padded:
            a = a[: b.shape[0], : b.shape[1]]
        return resize(a, self.size), resize(b, self.size)

    def _open(self, path: Path, fps: float | None) -> FrameSource:
        return self._stack.enter_context(media.open_frames(path, fps=fps))

    def _look(self, alike: bool) -> None:
        """Warn of rates and shapes that differ."""
        (h1, w1), (h2, w2) = self.source_sizes
        if abs(w1 * h2 / (h1 * w2) - 1) > ASPECTS_ALIKE and not self.padded:
            self.warnings.append(
                f"the prediction is {w1}x{h1} and the reference {w2}x{h2}: it is stretched to the reference's shape"
            )
        rates = self._predicted.fps, self._reference.fps
        if not alike and abs(rates[0] / rates[1] - 1) > 0.01:
            self.warnings.append(
                f"the prediction has {rates[0]:.4g} frames a second and the reference {rates[1]:.4g}, and frames go by "
                "their index; --align-by time compares what is shown at one time"
            )


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (uint8, (H, W, 3)) at another size (height, width), by Pillow's bicubic filter, which averages where it
    shrinks.

    Where both sides shrink by whole numbers, as the paper's 512 pixels to 256, by torch: seven times as fast, and at most
    one value in ten thousand is one level off. At other factors its coarser weights would show in the fifth digit of SSIM.
    """
    height, width = picture.shape[:2]
    if (height, width) == tuple(size):
        return picture
    if height % size[0] or width % size[1]:
        return media.resize(picture, size)
    planes = torch.from_numpy(np.require(picture, requirements=("C", "W"))).permute(2, 0, 1)[None]
    return F.interpolate(planes, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()


def scored_size(source: tuple[int, int], size: int | None) -> tuple[int, int]:
    """(height, width) at which frames of `source` (height, width) are scored: the shorter side `size`, never enlarged."""
    shorter = min(source)
    if size is None or shorter <= size:
        return source[0], source[1]
    height, width = (size if side == shorter else max(size, round(side * size / shorter)) for side in source)
    return height, width


def _was_padded(predicted: tuple[int, int], reference: tuple[int, int]) -> bool:
    """Whether the prediction is the reference's size rounded up to even numbers, as yuv420p needs."""
    return predicted != reference and all(a == b + b % 2 for a, b in zip(predicted, reference, strict=True))


def _is_untimed(path: Path) -> bool:
    """Whether a source is pictures, which know no rate."""
    return Path(path).is_dir() or Path(path).suffix.lower() in {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
