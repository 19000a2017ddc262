"""Which device and number format to compute with, and how much memory is free there."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
from torch import nn

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
    """The format that training casts to over float32 weights, None for none. Raises UsageError where it would lose.

    `auto`: bfloat16 on CUDA where the chip has it, else none.
    """
    if name == "auto":
        return "bfloat16" if pick_dtype(name, device) == torch.bfloat16 else None
    if name == "float16" and device.type != "cuda":
        raise UsageError("training in float16 needs a CUDA device, which scales its gradients; use --dtype bfloat16.")
    return name if name in ("bfloat16", "float16") else None


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on CUDA where the chip has it, else float32. Weights are held in this format."""
    if name == "auto":
        fast = False
        if device.type == "cuda":
            with torch.cuda.device(device):  # it is the current one that torch asks
                fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, name)


def slow_format(dtype: str | None, device: torch.device) -> str | None:
    """A sentence where the processor would compute in `dtype` many times slower than in float32, None where it would not.

    x86 has fast products of bfloat16 from AVX-512 on; below, each one goes through a loop (a convolution of mini takes 40
    times as long on an AMD EPYC 7003 as in float32). Other processors are not judged.
    """
    if device.type != "cpu" or dtype not in ("bfloat16", torch.bfloat16):
        return None
    known = torch.cpu.get_capabilities()
    if known.get("architecture") != "x86_64" or known.get("avx512_bw") or known.get("avx_ne_convert"):
        return None
    return "this processor has no fast bfloat16, and takes many times as long in it as in float32; leave --dtype bfloat16 out."


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still take on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return min([psutil.virtual_memory().available, *_container_room()])


def _container_room() -> list[int]:
    """The memory that the control group of this process leaves, where it has a limit (Linux; versions 2 and 1).

    Cached files count as free: the kernel drops them when memory is asked for.
    """
    room = []
    for folder, limit, taken in (("", "memory.max", "anon"), ("memory", "memory.limit_in_bytes", "total_rss")):
        home = Path("/sys/fs/cgroup", folder)
        try:
            counts = dict(line.split() for line in (home / "memory.stat").read_text().splitlines())
            room.append(max(0, int((home / limit).read_text()) - int(counts[taken])))
        except (OSError, ValueError, KeyError):
            continue  # not there, not ours, or without a limit ("max")
    return room


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; each device has words of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def release(device: torch.device) -> None:
    """Give the allocator's unused blocks back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def offload(*modules: nn.Module) -> None:
    """Move components that are not in use any more to the CPU's memory."""
    devices = {parameter.device for module in modules for parameter in module.parameters()}
    for module in modules:
        module.to("cpu")
    for device in devices:
        release(device)
