"""The memory layout of convolutions' weights: channels-last is faster, contiguous more exact for GroupNorm of a plain picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of a module's convolutions out in `layout`, in place."""
    nn.Module.to(module, memory_format=layout)  # type: ignore[call-overload]  # torch's types lack the argument


@contextmanager
def contiguous_layout(*modules: nn.Module) -> Iterator[None]:
    """For a block the weights of convolutions lie in the contiguous layout, whatever they lay in; then they lie as before."""
    usual = lambda p: p.stride() == torch.empty(p.shape, device="meta").stride()  # noqa: E731
    lay = [module for module in modules if not all(usual(p) for p in module.parameters())]
    for module in lay:
        lay_out(module, torch.contiguous_format)
    try:
        yield
    finally:
        for module in lay:
            lay_out(module, torch.channels_last)
