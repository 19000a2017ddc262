"""The optimizers of the training loop: AdamW as in the paper (section 5), AdamW in 8 bits, and Muon.

Muon (Jordan et al., 2024; Liu et al., arXiv 2502.16982) follows momentum as AdamW does, but makes the update of each weight
matrix orthogonal: rare directions, which small networks need for patterns and faces, then learn as fast as common ones.
For a base from scratch; a pretrained one that AdamW made is fine-tuned with AdamW.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..names import OPTIMIZERS

SMALLEST_SIDE = 16  # rows and columns from which a weight counts as a matrix; AdamW has the rest
MOMENTUM = 0.95
LONG = 2  # times as long as high: from there on the products of the squares are fewer
RMS = 0.2  # of an AdamW update, in learning rates: Muon's is scaled to it, so that both take the same rates
# Coefficients of Jordan's quintic iteration, whose fixed band of singular values is about 0.7 to 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def make_optimizer(
    kind: str,
    parameters: list[nn.Parameter],
    *,
    learning_rate: float,
    beta2: float,
    weight_decay: float,
    eight_bit_adam: bool = False,
    precision: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """An optimizer of `kind`, one of `names.OPTIMIZERS`; `precision` is what Muon orthogonalises in.

    Raises TrainingError where `eight_bit_adam` needs a package that is missing.
    """
    how: dict[str, Any] = {"lr": learning_rate, "betas": (0.9, beta2), "weight_decay": weight_decay}
    assert kind in OPTIMIZERS and not (eight_bit_adam and kind != "adamw")
    if eight_bit_adam:
        require_eight_bit_adam()
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, **how)
    fused = parameters[0].device.type in ("cpu", "cuda")
    if kind == "muon":
        return Muon(parameters, precision=precision, fused=fused, **how)
    return torch.optim.AdamW(parameters, fused=fused, **how)


def require_eight_bit_adam() -> None:
    """TrainingError where bitsandbytes is not installed."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise TrainingError(
            "8-bit Adam needs the package bitsandbytes; `pip install bitsandbytes`, or leave the option out."
        ) from None


class Muon(torch.optim.AdamW):
    """Muon for weight matrices, those of convolutions included (output channels by all else), AdamW for everything else.

    Both have the same learning rate and the same decoupled weight decay. torch's own Muon takes no convolutions.
    """

    def __init__(self, parameters: list[nn.Parameter], *, precision: torch.dtype = torch.float32, **how: Any):
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if is_matrix(p)], "muon": True},
            {"params": [p for p in parameters if not is_matrix(p)], "muon": False},
        ]
        super().__init__(groups, **how)
        self._step_supports_amp_scaling = False  # that of fused AdamW skips bad steps by itself; here the scaler has to
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        every = self.param_groups
        try:
            self.param_groups = [group for group in every if not group["muon"]]
            result = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group["muon"]:
                self._step_matrices(group)
        return result

    def _step_matrices(self, group: dict[str, Any]) -> None:
        # Matrices of one shape are made orthogonal together: there are hundreds, each too small to keep a machine busy.
        updates: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum" not in state:
                state["step"] = torch.zeros(())  # AdamW's loading of states looks for it
                state["momentum"] = torch.zeros_like(parameter)
            state["step"] += 1
            momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            ahead = parameter.grad.lerp(momentum, MOMENTUM)  # Nesterov's
            matrix = ahead.reshape(len(parameter), -1)
            updates[matrix.shape].append((parameter, matrix))
        for shape, found in updates.items():
            scale = RMS * max(shape) ** 0.5
            directions = orthogonal(torch.stack([matrix for _, matrix in found]).to(self.precision))
            for (parameter, _), direction in zip(found, directions.to(torch.float32), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.reshape(parameter.shape).to(parameter), alpha=-group["lr"] * scale)


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is a matrix of rows and columns enough for Muon."""
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= SMALLEST_SIDE


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the closest matrices with orthonormal rows or columns, of (N, m, n): singular values of about 0.7 to 1.2.

    A Newton-Schulz iteration: products only, in the precision of `matrices`.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    first, third, fifth = QUINTIC
    if x.dtype == torch.float32 and x.shape[-1] >= LONG * x.shape[-2]:
        x = _by_squares(x)
    else:
        for _ in range(ITERATIONS):
            gram = x @ x.mT
            x = first * x + (third * gram + fifth * gram @ gram) @ x
    return x if wide else x.mT


def _by_squares(x: Tensor) -> Tensor:
    """The same iteration, for long matrices (N, m, n): all its factors are polynomials of x x^T, so that only they are
    multiplied, (N, m, m), and the last of them with x. In lower precision the squares would lose the small singular values."""
    first, third, fifth = QUINTIC
    gram = x @ x.mT
    product: Tensor | None = None
    for i in range(ITERATIONS):
        factor = third * gram + fifth * gram @ gram
        factor.diagonal(dim1=-2, dim2=-1).add_(first)
        product = factor if product is None else factor @ product
        if i + 1 < ITERATIONS:
            gram = factor @ (factor @ gram)
    assert product is not None
    return product @ x
