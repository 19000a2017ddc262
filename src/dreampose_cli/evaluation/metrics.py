"""The metrics of predicted pictures against the truth: one number a frame, each with its definition.

Pictures are RGB, numpy or torch, (N, H, W, 3) or one (H, W, 3): floating point in [0, 1], or uint8, which is divided by
255 first, so that no difference ever overflows. Anything else is refused with a ValueError: other integers, values out
of [0, 1] (pictures in [-1, 1] or 0..255), transparency, two sizes. Sums are made in float64, frame by frame, so that
memory does not grow with N. Every function returns a list with one value a frame, None where the value is undefined.

Sources: SSIM is Wang et al. 2004 in the setting of their paper (Gaussian window of 11 x 11, sigma 1.5), which is
scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Pictures = np.ndarray | Tensor

RADIUS = 5  # of SSIM's window: 3.5 sigma
SIGMA = 1.5
_WINDOW = [math.exp(-0.5 * (k / SIGMA) ** 2) for k in range(-RADIUS, 1)]
WINDOW = [value / (2 * sum(_WINDOW) - _WINDOW[-1]) for value in _WINDOW]  # one half with the centre, which comes last
C1, C2 = 0.01**2, 0.03**2
_TOLERANCE = 1e-5  # how far rounding may carry a value out of [0, 1]


def unit(pictures: Pictures) -> Tensor:
    """Pictures as float64 (N, H, W, 3) in [0, 1]; a single picture becomes a batch of one."""
    # torch takes no mirrored arrays, and warns of read-only ones
    if isinstance(pictures, np.ndarray) and not (pictures.flags.c_contiguous and pictures.flags.writeable):
        pictures = np.array(pictures, order="C")
    tensor = torch.as_tensor(pictures)
    if tensor.ndim not in (3, 4) or tensor.shape[-1] != 3 or 0 in tensor.shape:
        raise ValueError(f"pictures are (N, H, W, 3) or (H, W, 3), not {tuple(tensor.shape)}")
    if tensor.dtype == torch.uint8:
        return tensor.reshape(-1, *tensor.shape[-3:]).to("cpu", torch.float64) / 255
    if not tensor.is_floating_point():
        raise ValueError(f"pictures are floating point in [0, 1] or uint8, not {tensor.dtype}")
    tensor = tensor.detach().reshape(-1, *tensor.shape[-3:]).to("cpu", torch.float64)
    low, high = (float(value) for value in tensor.aminmax())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # also false for what is no number
        raise ValueError(f"pictures are in [0, 1], and these go from {low:g} to {high:g}")
    return tensor


def l1(prediction: Pictures, reference: Pictures) -> list[float]:
    """Mean absolute difference over pixels and channels, 0 (equal) to 1."""
    return [float((a - b).abs_().mean()) for a, b in _pairs(prediction, reference)]


def psnr(prediction: Pictures, reference: Pictures) -> list[float | None]:
    """Peak signal-to-noise ratio in dB, -10 log10 of the mean square difference; None where the two are identical."""
    errors = (float((a - b).square_().mean()) for a, b in _pairs(prediction, reference))
    return [-10 * math.log10(error) if error > 0 else None for error in errors]


def figure_l1(prediction: Pictures, reference: Pictures, mask: Pictures) -> list[float | None]:
    """As `l1`, over the pixels of `mask` alone: bool, (N, H, W) or (H, W). None where the mask is empty."""
    area = torch.as_tensor(np.array(mask) if isinstance(mask, np.ndarray) else mask)
    area = area[None] if area.ndim == 2 else area
    expected = tuple(_frames(prediction).shape[:3])
    if area.dtype != torch.bool or tuple(area.shape) != expected:
        raise ValueError(f"the mask is bool {expected}, not {area.dtype} {tuple(area.shape)}")
    values = []
    for (a, b), inside in zip(_pairs(prediction, reference), area.cpu(), strict=True):
        values.append(float((a[inside] - b[inside]).abs_().mean()) if inside.any() else None)
    return values


def ssim(prediction: Pictures, reference: Pictures) -> list[float]:
    """Structural similarity, -1 to 1 (equal): the mean over channels and over pixels whose window lies inside.

    Equal to scikit-image's (see above), with `channel_axis=-1, data_range=1.0`, and several times as fast. Pictures
    have at least 11 pixels a side.
    """
    meter = Ssim()
    return [meter(a, b) for a, b in _pairs(prediction, reference)]


class Ssim:
    """`ssim` of one pair of pictures after the other, keeping its working memory; not for several threads at once."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.float64)

    def __call__(self, prediction: Tensor, reference: Tensor) -> float:
        """Two pictures (H, W, 3), both float64 in [0, 1] as `unit` makes them, or both uint8."""
        size = tuple(prediction.shape[:2])
        if min(size) <= 2 * RADIUS:
            raise ValueError(f"SSIM needs {2 * RADIUS + 1} pixels a side, not {size[1]}x{size[0]}")
        box = _changed(prediction, reference)
        if box is None:
            return 1.0
        a, b = prediction[box], reference[box]
        lost = self._lost(a, b, 255.0 if prediction.dtype == torch.uint8 else 1.0)
        return 1 - lost / (3 * (size[0] - 2 * RADIUS) * (size[1] - 2 * RADIUS))

    def _lost(self, a: Tensor, b: Tensor, top: float) -> float:
        """Sum of 1 - SSIM over the windows in two pictures whose white is `top`.

        Written in the sum s and the difference d of the two, of which four windowed means are enough instead of five:
        2 x y = (s^2 - d^2) / 2 and x^2 + y^2 = (s^2 + d^2) / 2, for the means and for the (co)variances alike. The
        memory is one block, cut anew for each pair: fresh pages cost more than the sums.
        """
        height, width = a.shape[0], 3 * a.shape[1]  # channels side by side: a neighbour across is 3 columns off
        rows, columns = height - 2 * RADIUS, width - 6 * RADIUS
        shapes = [(height, width)] * 2 + [(rows, width)] * 2 + [(rows, columns)] * 4
        sizes = [h * w for h, w in shapes]
        if self._memory.numel() < sum(sizes):
            self._memory = torch.empty(sum(sizes), dtype=torch.float64)
        parts = self._memory[: sum(sizes)].split(sizes)
        x, y, tall, term, s, d, ss, dd = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        x.view(a.shape).copy_(a)
        y.view(b.shape).copy_(b)
        x.sub_(y)
        y.mul_(2).add_(x)  # now x is the difference and y the sum, without a third plane
        for plane, mean, square in ((y, s, ss), (x, d, dd)):
            _window(plane, tall, term, mean)
            _window(plane.square_(), tall, term, square)
            square.addcmul_(mean, mean, value=-1)
            mean.square_()
        c1, c2 = 2 * C1 * top**2, 2 * C2 * top**2
        likeness, spare = tall.view(-1)[: s.numel()].view(s.shape), term.view(-1)[: s.numel()].view(s.shape)
        torch.sub(s, d, out=likeness).add_(c1).mul_(torch.sub(ss, dd, out=spare).add_(c2))
        likeness.div_(s.add_(d).add_(c1)).div_(ss.add_(dd).add_(c2))
        return likeness.numel() - float(likeness.sum())


def _changed(a: Tensor, b: Tensor) -> tuple[slice, slice] | None:
    """The part of two pictures whose windows meet a difference, None where there is none: everywhere else SSIM is 1.

    A fashion photo's backdrop is often half of the picture.
    """
    different = (a != b).reshape(a.shape[0], -1)
    box = []
    for changed in (different.any(1), different.any(0).view(-1, 3).any(1)):
        where = changed.nonzero()
        if not len(where):
            return None
        first, last = int(where[0]), int(where[-1])
        # at least one window, at the border too
        start = max(0, min(first - 2 * RADIUS, len(changed) - 2 * RADIUS - 1))
        box.append(slice(start, min(len(changed), max(last + 2 * RADIUS, start + 2 * RADIUS) + 1)))
    rows, columns = box
    return rows, columns


def sharpness(prediction: Pictures, reference: Pictures) -> list[float | None]:
    """Gradient energy of the prediction over that of the reference: below 1 blurred, above 1 noisy.

    None where the reference has no gradient.
    """
    return [_ratio(gradient_energy(a), gradient_energy(b)) for a, b in _pairs(prediction, reference)]


def gradient_energy(picture: Tensor) -> float:
    """Mean square of the differences between neighbouring pixels, down and across, of one picture (H, W, 3)."""
    return sum(float(picture.diff(dim=dim).square_().sum()) for dim in (0, 1)) / picture.numel()


def flicker(prediction: Pictures, reference: Pictures) -> float | None:
    """Frame-difference energy of a clip over that of its reference: above 1 it flickers, below 1 it moves too little.

    The energy is the sum of squares of the differences between consecutive frames. None with fewer than two frames, or
    where the reference stands still. For clips that do not fit into memory: `Flicker`.
    """
    meter = Flicker()
    meter.add(prediction, reference)
    return meter.value


class Flicker:
    """`flicker` of a clip that arrives in pieces; only the last frame is kept."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None
        self._predicted = self._expected = 0.0

    def add(self, prediction: Pictures, reference: Pictures) -> None:
        """The next frames of the clip, (N, H, W, 3) or one (H, W, 3)."""
        for pair in _pairs(prediction, reference):
            if self._last is not None:
                if pair[0].shape != self._last[0].shape:
                    raise ValueError(f"frames of two sizes, {tuple(self._last[0].shape)} and {tuple(pair[0].shape)}")
                self._predicted += float((pair[0] - self._last[0]).square_().sum())
                self._expected += float((pair[1] - self._last[1]).square_().sum())
            self._last = pair

    @property
    def value(self) -> float | None:
        """The ratio so far, None while it is undefined."""
        return _ratio(self._predicted, self._expected)


def mean(values: list[float | None]) -> float | None:
    """The mean of the values that are defined, None where none is."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _frames(pictures: Pictures) -> Pictures:
    """The same pictures with an axis for the frames, (N, H, W, 3)."""
    return pictures[None] if pictures.ndim == 3 else pictures


def _pairs(prediction: Pictures, reference: Pictures) -> Iterator[tuple[Tensor, Tensor]]:
    """Frame by frame, both as float64 (H, W, 3) in [0, 1]."""
    a, b = _frames(prediction), _frames(reference)
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(f"the prediction is {tuple(a.shape)}, the reference {tuple(b.shape)}; they need one shape")
    if not len(a):
        raise ValueError("there are no frames to compare")
    for one, other in zip(a, b, strict=True):
        yield unit(one)[0], unit(other)[0]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _window(plane: Tensor, tall: Tensor, term: Tensor, out: Tensor) -> None:
    """Gaussian means of `plane` (H, 3 W) where the window lies inside, into `out` (H - 10, 3 (W - 10))."""
    _along(plane, tall, term, 0, 1)
    _along(tall, out, term[:, : out.shape[1]], 1, 3)


def _along(source: Tensor, out: Tensor, term: Tensor, dim: int, step: int) -> None:
    """The window along one dimension, by its symmetry: the sum of two pixels at one distance is weighted once."""
    length = out.shape[dim]
    torch.mul(source.narrow(dim, RADIUS * step, length), WINDOW[RADIUS], out=out)
    for k in range(RADIUS):
        torch.add(source.narrow(dim, k * step, length), source.narrow(dim, (2 * RADIUS - k) * step, length), out=term)
        out.add_(term, alpha=WINDOW[k])
