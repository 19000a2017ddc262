"""How tuning keeps within the memory that there is: by what is known beforehand, and by what is learnt when it runs out.

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
from ..device import free_bytes, is_out_of_memory, release, spares_memory
from ..errors import OutOfMemoryError
from ..names import MEMORIES, check_choice
from ..networks.dreampose.network import Base
from .loop import LoopResult, LoopSettings, SampledTask, latest_checkpoint, run

# Bytes that a sample's activations hold until its gradients are computed, without checkpointing, counted on the real
# networks (`networks.footprint`): so many maps of the first level's width on the latent grid, and on the picture's.
UNET_MAPS = 360
DECODER_MAPS = 52
MARGIN = 0.8  # share of the free memory that is planned with


@dataclass(frozen=True)
class Thrift:
    """checkpointing: of activations; frozen: the format of weights that do not learn; parts: a step's samples are
    computed in so many parts at least."""

    checkpointing: bool = False
    eight_bit_adam: bool = False
    frozen: torch.dtype = torch.float32
    parts: int = 1

    @classmethod
    def of(cls, preset: TuningSettings, device: torch.device, memory: str, autocast: str | None) -> Thrift:
        """What is known before anything is loaded. memory: "auto", "low" for all that can be spared, "high" for nothing that
        need not be."""
        check_choice("memory", memory, MEMORIES)
        low = memory == "low"
        adam = not preset.rank and device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
        frozen = torch.bfloat16 if preset.rank and (low or autocast == "bfloat16") else torch.float32
        sparing = spares_memory(device, memory)
        return cls(preset.gradient_checkpointing or sparing, adam, frozen, preset.batch_size if sparing else 1)

    def more(self, samples: int) -> Thrift | None:
        """The next thing to spare in steps of so many samples; None where nothing is left."""
        if not self.checkpointing:
            return replace(self, checkpointing=True)
        parts = next((n for n in range(self.parts + 1, samples + 1) if samples % n == 0), None)
        return parts and replace(self, parts=parts)

    def parts_of(self, samples: int) -> int:
        """In how many parts a step of so many samples is computed: a divisor."""
        return next(n for n in range(min(self.parts, samples), samples + 1) if samples % n == 0)


def run_within_memory(
    task: SampledTask,
    model: Base,
    settings: LoopSettings,
    thrift: Thrift,
    checkpoints: Path | None,
    progress: Callable[[int, int | None, str], None],
    note: Callable[[str], None] | None,
) -> tuple[LoopResult, Thrift]:
    """`loop.run`, with more thrift where memory is short, or turns out to be. Returns the thrift that it took.

    Raises OutOfMemoryError where nothing is left to spare, or where steps would be lost that no checkpoint has.
    """
    device = model.device
    parameters = [p for module in task.modules.values() for p in module.parameters() if p.requires_grad]
    if not thrift.checkpointing and needed(model, parameters, settings, thrift) > MARGIN * free_bytes(device):
        thrift = replace(thrift, checkpointing=True)
    while True:
        _checkpoint(model, thrift.checkpointing)
        done = 0

        def report(step: int, total: int | None, text: str = "", sparing: bool = thrift.checkpointing) -> None:
            nonlocal done
            done = step
            if device.type == "cpu" and sparing:
                release(device)  # the gaps that a step leaves between what stays
            progress(step, total, text)

        parts = replace(settings, accumulate=thrift.parts_of(settings.batch_size))
        try:
            result = run(task, parts, checkpoints=checkpoints, resume=True, progress=report)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            result = None  # what failed is alive as long as its error is
        if result is not None:
            _checkpoint(model, False)
            release(device)  # the optimizer's state, before its place is needed for something else
            return result, thrift
        for parameter in parameters:
            parameter.grad = None
        release(device)
        more = thrift.more(settings.batch_size)
        if more is None or (done and latest_checkpoint(checkpoints) is None):
            raise OutOfMemoryError(
                f"{device} has too little memory to tune this base; close what else uses it, give --lora-rank 8 (a low-rank "
                "subject needs a third of it) with --memory low, or --device cpu."
            )
        thrift = more
        if note:
            spared = f"{thrift.parts} parts a step" if thrift.parts > 1 else "activations computed twice"
            note(f"{device} ran out of memory; going on with {spared}.")


def _checkpoint(model: Base, on: bool) -> None:
    """Whether the activations of the base's networks are computed twice instead of kept."""
    for module in (model.unet, model.vae):
        module.enable_gradient_checkpointing() if on else module.disable_gradient_checkpointing()
    if model.adapter.texture is not None:
        model.adapter.texture.gradient_checkpointing = on


def needed(model: Base, learning: list[nn.Parameter], settings: LoopSettings, thrift: Thrift) -> int:
    """About how many bytes a step takes beside the weights: gradients, the optimizer's state, and activations."""
    state = 2 if thrift.eight_bit_adam else 8
    trained = sum(p.numel() for p in learning) * (4 + state)
    itemsize = 2 if settings.autocast else 4
    samples = -(-settings.batch_size // thrift.parts)
    latent = UNET_MAPS * model.latent_size[0] * model.latent_size[1] * model.unet.config.block_out_channels[0]
    height, width = model.config.resolution
    picture = DECODER_MAPS * height * width * model.vae.config.block_out_channels[0]
    return trained + samples * itemsize * max(latent, picture)
