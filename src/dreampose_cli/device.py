"""Which device and number format to compute with."""

from __future__ import annotations

import torch

from .errors import UsageError


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: CUDA, else MPS, else CPU. Raises UsageError where the named device is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(
            f"this machine has no device {name}; `dreampose doctor` lists what it has, `--device cpu` works."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("this machine has no mps device; `--device cpu` works everywhere.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps.")
    return device


def autocast_of(name: str, device: torch.device) -> str | None:
    """The format that training casts to over float32 weights, None for none. Raises UsageError where it would lose."""
    if name == "float16" and device.type != "cuda":
        raise UsageError("training in float16 needs a CUDA device, which scales its gradients; use --dtype bfloat16.")
    return name if name in ("bfloat16", "float16") else None


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on CUDA where the chip has it, else float32. Weights are held in this format."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, name)
