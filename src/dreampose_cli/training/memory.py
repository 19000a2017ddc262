"""Tuning within the memory that there is: by what is known beforehand, and by what is learnt when it runs out.

Nothing here changes what is learnt, but for rounding: activations are computed twice instead of kept, samples of a batch
one after the other instead of together, the optimizer's state and weights that do not learn are held in fewer bits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..bases.config import TuningSettings
from ..device import free_bytes, is_out_of_memory, release
from ..errors import OutOfMemoryError
from ..names import MEMORIES, check_choice
from ..networks.network import Network
from ..reporting import Progress
from .loop import LoopResult, LoopSettings, Task, latest_checkpoint, run

# Bytes that a sample's activations hold until its gradients are computed, without checkpointing, counted on the real
# networks (`tests/footprint.py`): so many maps of the first level's width on the latent grid, and on the picture's.
UNET_MAPS = 360
DECODER_MAPS = 52
MARGIN = 0.8  # share of the free memory that is planned with


@dataclass(frozen=True)
class MemoryPlan:
    """The ways in which tuning spares memory.

    checkpointing: of activations; frozen: the format of weights that do not learn; parts: a step's samples are
    computed in so many parts at least.
    """

    checkpointing: bool = False
    eight_bit_adam: bool = False
    frozen: torch.dtype = torch.float32
    parts: int = 1

    @classmethod
    def of(cls, preset: TuningSettings, device: torch.device, memory: str, autocast: str | None) -> MemoryPlan:
        """The plan before anything is loaded. memory: "auto", or "low" for all that can be spared."""
        check_choice("memory", memory, MEMORIES)
        low = memory == "low"
        adam = not preset.lora_rank and device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
        frozen = torch.bfloat16 if preset.lora_rank and (low or autocast == "bfloat16") else torch.float32
        return cls(preset.gradient_checkpointing or low, adam, frozen, preset.batch_size if low else 1)

    def more(self, samples: int) -> MemoryPlan | None:
        """The next thing to spare in steps of so many samples; None where nothing is left."""
        if not self.checkpointing:
            return replace(self, checkpointing=True)
        parts = next((n for n in range(self.parts + 1, samples + 1) if samples % n == 0), None)
        return None if parts is None else replace(self, parts=parts)

    def parts_of(self, samples: int) -> int:
        """In how many parts a step of so many samples is computed: a divisor."""
        return next(n for n in range(min(self.parts, samples), samples + 1) if samples % n == 0)


def run_within_memory(
    task: Task,
    network: Network,
    settings: LoopSettings,
    plan: MemoryPlan,
    checkpoints: Path | None,
    progress: Progress,
    note: Callable[[str], None] | None,
) -> tuple[LoopResult, MemoryPlan]:
    """`loop.run`, sparing more where memory is short, or turns out to be. Returns the plan that it took.

    Raises OutOfMemoryError where nothing is left to spare, or where steps would be lost that no checkpoint has.
    """
    device = network.device
    parameters = [p for module in task.modules.values() for p in module.parameters() if p.requires_grad]
    if not plan.checkpointing and needed(network, parameters, settings, plan) > MARGIN * free_bytes(device):
        plan = replace(plan, checkpointing=True)
    while True:
        network.checkpoint_activations(plan.checkpointing)
        done = 0

        def report(step: int, total: int | None = None, text: str = "", /) -> None:
            nonlocal done
            done = step
            progress(step, total, text)

        parts = replace(settings, gradient_accumulation_steps=plan.parts_of(settings.batch_size))
        try:
            result = run(task, parts, checkpoints=checkpoints, resume=True, progress=report)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            result = None  # what failed is alive as long as its error is
        if result is not None:
            network.checkpoint_activations(False)
            release(device)  # the optimizer's state, before its place is needed for something else
            return result, plan
        for parameter in parameters:
            parameter.grad = None
        release(device)
        more = plan.more(settings.batch_size)
        if more is None or (done and latest_checkpoint(checkpoints) is None):
            raise OutOfMemoryError(
                f"{device} has too little memory to tune this base; close what else uses it, give --lora-rank 8 (a low-rank "
                "subject needs a third of it) with --memory low, or --device cpu."
            )
        plan = more
        if note:
            spared = f"{plan.parts} parts a step" if plan.parts > 1 else "activations computed twice"
            note(f"{device} ran out of memory; continuing with {spared}.")


def needed(network: Network, learning: list[nn.Parameter], settings: LoopSettings, plan: MemoryPlan) -> int:
    """About how many bytes a step takes besides the weights: gradients, the optimizer's state, and activations."""
    state = 2 if plan.eight_bit_adam else 8
    trained = sum(p.numel() for p in learning) * (4 + state)
    itemsize = 2 if settings.autocast else 4
    samples = -(-settings.batch_size // plan.parts)
    latent = UNET_MAPS * network.latent_size[0] * network.latent_size[1] * network.unet.config.block_out_channels[0]
    height, width = network.config.resolution
    picture = DECODER_MAPS * height * width * network.vae.config.block_out_channels[0]
    return trained + samples * itemsize * max(latent, picture)
