"""The amount to compute at once: from what memory is free, by estimate, and less after the device ran out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..device import free_bytes
from ..errors import UsageError
from ..names import MEMORIES, check_choice
from ..networks.network import Network

# Bytes alive at the peak of one UNet row or one decode, counted on the real networks without computing anything
# (`tests/footprint.py`): 26 maps of the first level's width on the latent grid, and 6 of them on the picture's.
ROW_MAPS = 26
DECODE_MAPS = 6
MARGIN = 0.8  # share of the free memory that is planned with: libraries want workspaces, allocators fragment


@dataclass(frozen=True)
class BatchPlan:
    """The amount that is computed at once; other plans give the same frames, but for rounding.

    frames: denoised together; rows: of the UNet in one call, None for all; decoded: frames decoded together; even: the
    last frames are computed in a batch as large as the others, since compiled code is made for one size.
    """

    frames: int
    rows: int | None = None
    decoded: int = 4
    even: bool = False

    def smaller(self) -> BatchPlan | None:
        """Half of it; None where nothing is left to halve."""
        if self.decoded > 1:
            return replace(self, decoded=1)
        if self.frames > 1:
            return replace(self, frames=self.frames // 2)
        return replace(self, rows=1) if self.rows != 1 else None

    def __str__(self) -> str:
        rows = ", one UNet row at a time" if self.rows == 1 else ""
        return f"{self.frames} frame{'s' if self.frames > 1 else ''} at once{rows}, {self.decoded} decoded at once"


SMALLEST = BatchPlan(1, 1, 1)


def plan(network: Network, rows: int, memory: str = "auto", batch_size: int | None = None) -> BatchPlan:
    """The plan for `rows` UNet rows a frame on the base's device, whose memory already holds the weights.

    memory "auto": as many frames as fit what is free, up to what pays; "low": one row at a time. `batch_size` frames where it
    is given. Raises UsageError.
    """
    check_choice("memory", memory, MEMORIES)
    if memory == "low":
        if batch_size not in (None, 1):
            raise UsageError(f"--memory low renders one frame at a time; leave out --batch-size {batch_size}.")
        return SMALLEST
    if batch_size is not None:
        return BatchPlan(batch_size, decoded=min(4, batch_size))
    room = free_bytes(network.device) * MARGIN
    row, decoded = row_bytes(network), decode_bytes(network)
    frames = max(1, min(default_frames(network.device), int(room / (rows * row))))
    together = max(1, min(4, int(room / decoded)))
    return BatchPlan(frames, rows=1 if rows * row > room else None, decoded=min(together, frames))


def default_frames(device: torch.device) -> int:
    """Frames rendered together where there is room for them: more bring hardly more speed."""
    return 16 if device.type == "cuda" else 4


def row_bytes(network: Network) -> int:
    """About how much memory one UNet row needs besides the weights."""
    height, width = network.latent_size
    return ROW_MAPS * height * width * network.unet.config.block_out_channels[0] * network.dtype.itemsize


def decode_bytes(network: Network) -> int:
    """About how much memory the decode of one frame needs besides the weights."""
    height, width = network.config.resolution
    return DECODE_MAPS * height * width * network.vae.config.block_out_channels[0] * network.dtype.itemsize
