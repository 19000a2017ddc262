"""The two operators of torchvision that a traced DensePose calls, in plain PyTorch: `nms` and `roi_align`.

A TorchScript file names them as `torchvision::nms` and `torchvision::roi_align`; `ensure_torchvision_operators` makes
both known before it is loaded, so that nobody needs a torchvision that fits their torch. They compute what
torchvision's CPU kernels compute, on any device, for inference only.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": (
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    ),
}
_ROWS = 1024  # boxes compared at once: memory grows with the number of boxes, not with its square
_SAMPLES = 1 << 22  # sampled corners looked up at once

_library: torch.library.Library | None = None  # operators live as long as the library that registered them


def ensure_torchvision_operators(device: torch.device | str = "cpu") -> None:
    """Make `torch.ops.torchvision.nms` and `.roi_align` usable on `device`; calling it again does nothing.

    torchvision's own are used where torchvision imports and has them for the device, else the ones of this module.
    """
    missing = [name for name in SCHEMAS if not _works(name, device)]
    if missing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module("torchvision")
            except Exception:  # one built for another torch fails in many ways
                pass
            else:
                missing = [name for name in missing if not _works(name, device)]
    for name in missing:
        _register(name)


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: indices of the kept boxes, int64 (K,), in order of falling score.

    dets (N, 4): x1, y1, x2, y2. scores (N,); equal scores keep their order. A box goes when its intersection over union
    with a kept one exceeds `iou_threshold`.
    """
    order = scores.sort(descending=True, stable=True).indices
    boxes = dets[order]
    if boxes.dtype not in (torch.float32, torch.float64):
        boxes = boxes.float()
    x1, y1, x2, y2 = boxes.unbind(1)
    areas = (x2 - x1) * (y2 - y1)
    count = len(boxes)
    gone, kept = np.zeros(count, bool), []
    for first in range(0, count, _ROWS):
        rows = slice(first, first + _ROWS)
        width = (
            torch.minimum(x2[rows, None], x2[None, first:]) - torch.maximum(x1[rows, None], x1[None, first:])
        ).clamp(0)
        height = (
            torch.minimum(y2[rows, None], y2[None, first:]) - torch.maximum(y1[rows, None], y1[None, first:])
        ).clamp(0)
        shared = width * height
        overlap = shared / (areas[rows, None] + areas[None, first:] - shared)
        # compared in double, as in C++, so that 0.3 in float32 counts as more than 0.3
        beaten = (overlap.double() > iou_threshold).cpu().numpy()
        for row, beats in enumerate(beaten):
            if not gone[first + row]:
                kept.append(first + row)
                gone[first:] |= beats
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign (Mask R-CNN, section 3): each region averaged over bilinear samples in a grid of bins.

    input (B, C, H, W). rois (K, 5): index into the batch, then x1, y1, x2, y2, which `spatial_scale` brings to the
    input's pixels; `aligned` shifts them by half a pixel. A bin takes sampling_ratio x sampling_ratio samples, or where
    that is 0 or less, one for each pixel it spans, rounded up. Returns (K, C, pooled_height, pooled_width).
    """
    batch, channels, height, width = input.shape
    result = input.new_zeros((len(rois), channels, pooled_height, pooled_width))
    if not len(rois) or not input.numel():
        return result
    kind = input.dtype if input.dtype in (torch.float32, torch.float64) else torch.float32
    # one row of channels for each pixel: looking a sample up is one copy, and averaging them is a weighted bag
    table = input.to(kind).permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    offset = 0.5 if aligned else 0.0
    corners = rois[:, 1:].to(kind) * spatial_scale - offset
    origin, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        extent = extent.clamp(min=1.0)
    pooled = torch.tensor([pooled_width, pooled_height], dtype=kind, device=rois.device)
    step = extent / pooled  # (K, 2): a bin's width and height
    grid = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.ceil()
    grid = grid.nan_to_num(0.0, 0.0, 0.0).clamp(min=0).long()
    first_row = rois[:, 0].long() * (height * width)
    for (across, down), chosen in _groups(grid):
        samples = pooled_height * pooled_width * across * down * 4
        for part in chosen.split(max(1, _SAMPLES // samples)):
            left, right, x_weights = _samples(origin[part, 0], step[part, 0], pooled_width, across, width)
            above, below, y_weights = _samples(origin[part, 1], step[part, 1], pooled_height, down, height)
            x = torch.stack([left, right], -1)[:, None, :, None, :, None, :]  # (k, 1, pw, 1, across, 1, 2)
            y = torch.stack([above, below], -1)[:, :, None, :, None, :, None]  # (k, ph, 1, down, 1, 2, 1)
            where = first_row[part].view(-1, 1, 1, 1, 1, 1, 1) + y * width + x
            weights = y_weights[:, :, None, :, None, :, None] * x_weights[:, None, :, None, :, None, :]
            size = down * across * 4
            sums = F.embedding_bag(
                where.reshape(-1, size), table, per_sample_weights=weights.reshape(-1, size), mode="sum"
            )
            means = sums.view(len(part), pooled_height, pooled_width, channels) / (down * across)
            result[part] = means.permute(0, 3, 1, 2).to(result.dtype)
    return result


def _groups(grid: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """The regions (their indices) for each number of samples (across, down) a bin takes; without samples it stays 0."""
    kinds, member = grid.unique(dim=0, return_inverse=True)
    for index, (across, down) in enumerate(kinds.tolist()):
        if across and down:
            yield (across, down), (member == index).nonzero()[:, 0]


def _samples(origin: Tensor, step: Tensor, bins: int, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis of `size` pixels: for `count` samples in each bin, both neighbours and their weights.

    origin, step (k,) -> int64 (k, bins, count) twice, weights (k, bins, count, 2). Samples more than a pixel outside
    weigh nothing; within that pixel they take the edge's value.
    """
    bin_index = torch.arange(bins, device=origin.device, dtype=origin.dtype)[None, :, None]
    inner = torch.arange(count, device=origin.device, dtype=origin.dtype)[None, None, :]
    step = step[:, None, None]
    place = origin[:, None, None] + bin_index * step + (inner + 0.5) * step / count
    inside = (place >= -1) & (place <= size)
    place = torch.where(inside, place, 0).clamp(min=0)
    low = place.long()
    at_end = low >= size - 1
    low = torch.where(at_end, size - 1, low)
    place = torch.where(at_end, low.to(place.dtype), place)
    high = torch.where(at_end, low, low + 1)
    share = place - low
    return low, high, torch.stack([1 - share, share], -1) * inside[..., None]


def _works(name: str, device: torch.device | str) -> bool:
    """Whether the operator is there and computes something sensible on `device`."""
    try:
        operator = getattr(torch.ops.torchvision, name)
        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
        if name == "nms":
            return operator(box, torch.ones(1, device=device), 0.5).tolist() == [0]
        roi = F.pad(box, (1, 0))
        return operator(torch.ones((1, 1, 2, 2), device=device), roi, 1.0, 1, 1, 1, False).item() == 1.0
    except (AttributeError, RuntimeError):  # RuntimeError: known by name, without a kernel for the device
        return False


def _register(name: str) -> None:
    global _library
    if _library is None:
        _library = torch.library.Library("torchvision", "FRAGMENT")
    with contextlib.suppress(RuntimeError):  # a torchvision that is half there has defined it
        _library.define(SCHEMAS[name])
    _library.impl(name, {"nms": nms, "roi_align": roi_align}[name], "CompositeExplicitAutograd")
