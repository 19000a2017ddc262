"""The pixel metrics of one pair of frames, on bytes: differences, their squares and their sums are whole numbers and thus
exact. Frames are spread over threads."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from . import figure
from . import metrics as pixels
from .warping import warp_errors

WORKERS = max(1, min(8, os.cpu_count() or 1))

_local = threading.local()


@contextmanager
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that compute a frame each, with one thread inside."""
    threads = torch.get_num_threads()
    workers = ThreadPoolExecutor(WORKERS, "metrics", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


@torch.no_grad()
def measure(pair, before, pose, wanted: set[str]) -> dict[str, float | None]:
    """The pixel metrics of one pair of frames, uint8 (H, W, 3), and what they need of the pair before.

    pose: the reference's poses (3, H, W) of the frame before, or None, and of this one; None where there are none.
    """
    a, b = map(_tensor, pair)
    count = a.numel()
    values: dict[str, float | None] = {}
    difference = _difference(a, b)
    error = _sum(difference.square()) / (255**2 * count)
    if "l1" in wanted or "ssim" in wanted:
        values["l1"] = _sum(difference.abs_()) / (255 * count)
    if "psnr" in wanted:
        values["psnr"] = -10 * math.log10(error) if error > 0 else None
    if "ssim" in wanted:
        values["ssim"] = _ssim(a, b, error)
    if "sharpness" in wanted:
        ours, theirs = _gradient(a), _gradient(b)
        values["sharpness"] = ours / theirs if theirs else None
    if before is not None and "flicker" in wanted:
        for name, now, then in zip(("moved", "moving"), (a, b), before, strict=True):
            values[name] = _sum(_difference(now, _tensor(then)).square_())
    if wanted.intersection(figure.METRICS):
        values |= _figure(pair, pose[1][0], wanted) if pose is not None else dict.fromkeys(figure.METRICS)
    if "warp" in wanted:
        values["warp"] = None
    if "warp" in wanted and pose is not None and before is not None and pose[0] is not None:
        shown = [(then, now) for then, now in zip(before, pair, strict=True)]
        values["warp"], values["reference_value"] = warp_errors(shown, *pose)
    return values


def _figure(pair, labels: np.ndarray, wanted: set[str]) -> dict[str, float | None]:
    """The metrics of `figure.METRICS` that are wanted, from the reference's part labels (H, W)."""
    parts = labels.round().astype(np.uint8)[None]
    mask, a, b = figure.figure_mask(parts), pair[0][None], pair[1][None]
    values: dict[str, float | None] = {}
    if "figure_l1" in wanted:
        values["figure_l1"] = pixels.figure_l1(a, b, mask)[0]
    if "figure_ssim" in wanted:
        small = min(labels.shape) <= 2 * pixels.RADIUS
        values["figure_ssim"] = None if small else figure.figure_ssim(a, b, mask)[0]
    if "texture" in wanted:
        values["texture"] = figure.texture(a, b, parts)[0]
    return values


def _tensor(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame if frame.flags.writeable and frame.flags.c_contiguous else np.array(frame, order="C"))


def _gradient(x: torch.Tensor) -> float:
    """Sum of squares of the differences between neighbouring pixels, down and across."""
    return sum(
        _sum(_difference(x.narrow(d, 1, x.shape[d] - 1), x.narrow(d, 0, x.shape[d] - 1)).square_()) for d in (0, 1)
    )


def _difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a - b of bytes as float32: whole numbers up to 255 and their squares are exact in it."""
    return torch.sub(a.to(torch.int16), b).float()


def _sum(values: torch.Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _ssim(a: torch.Tensor, b: torch.Tensor, error: float) -> float | None:
    if min(a.shape[:2]) <= 2 * pixels.RADIUS:
        return None
    if error == 0:
        return 1.0
    if not hasattr(_local, "ssim"):
        _local.ssim = pixels.Ssim()
    return _local.ssim(a, b)
