"""`--compile`: the UNet's blocks through torch.compile.

Block by block: one block's code serves all that are alike, which compiles in a fraction of the time of the whole network
and runs about as fast.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D

from ..errors import UsageError
from ..networks.network import Network

PAYS_FROM = 400  # UNet calls of one shape; for fewer, compiling takes longer than it saves
SHAPES = 64  # of blocks, each with code of its own


def require_compiler(device: torch.device) -> None:
    """UsageError where torch.compile does not work: it needs a C++ compiler on the CPU, Triton on CUDA."""
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--compile works on cpu and cuda, not on {device.type}; leave it out.")
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # whatever is missing, and each has an exception of its own
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
        need = "Triton" if device.type == "cuda" else "a C++ compiler, such as g++,"
        raise UsageError(f"--compile needs {need} that works here ({reason[:200]}); leave it out.") from error


def compile_blocks(model: Network) -> None:
    """Let the UNet's residual and transformer blocks be compiled at their first use; once is enough."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    for module in model.unet.modules():
        if isinstance(module, BasicTransformerBlock | ResnetBlock2D) and module._compiled_call_impl is None:
            module.compile()


def interpret_blocks(model: Network) -> None:
    """Undo `compile_blocks`: tuning takes the blocks as they are written."""
    for module in model.unet.modules():
        module._compiled_call_impl = None
