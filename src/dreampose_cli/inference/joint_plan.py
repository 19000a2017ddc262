"""Fitting a clip that is denoised as a whole into memory: what is computed in turn, what is offloaded, what is smaller."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..device import free_bytes
from ..names import MEMORIES, check_choice
from ..networks.network import Network
from .batch_plan import MARGIN, decode_bytes

# Bytes alive at the peak of one frame of one branch of a window, counted on the real network without computing anything
# (`tests/footprint.py`): maps of the first level's width on the latent grid. The control's residuals are among them.
FRAME_MAPS = 34
SMALLEST_WINDOW = 4


@dataclass(frozen=True)
class JointPlan:
    """The amount that is computed at once. In turn and with modules offloaded the frames are the same but for rounding; other
    windows give other frames."""

    window: int
    overlap: int
    in_turn: bool = False  # the branches of guidance, one after the other
    offload: bool = False  # modules that compute for a part of each step lie in the CPU's memory for the rest of it

    def smaller(self, device: str) -> JointPlan | None:
        """The next way to take less memory, those that change nothing first; None where there is no other."""
        if not self.in_turn:
            return replace(self, in_turn=True)
        if not self.offload and device != "cpu":
            return replace(self, offload=True)
        if self.window < 2 * SMALLEST_WINDOW:
            return None
        window = self.window // 2
        return replace(self, window=window, overlap=min(self.overlap, window // 4))

    def __str__(self) -> str:
        parts = [f"windows of {self.window} frames that share {self.overlap}"]
        parts += ["one branch of guidance at a time"] * self.in_turn
        parts += [
            "the appearance network and the pose control on the device for their part of each step"
        ] * self.offload
        return ", ".join(parts)


def plan_clip(
    network: Network, size: tuple[int, int], window: int, overlap: int, branches: int, memory: str = "auto"
) -> JointPlan:
    """The plan for frames of `size` (height, width) on a device whose memory already holds the weights.

    "auto": as much at once as fits what is free, with the windows that were asked for; "low": in turn and with modules
    offloaded, and in smaller windows where even that does not fit. Raises UsageError.
    """
    check_choice("memory", memory, MEMORIES)
    device, room = network.device.type, free_bytes(network.device) * MARGIN
    plan = JointPlan(window, overlap)
    if memory == "low":
        plan = replace(plan, in_turn=True, offload=device != "cpu")
    while window_bytes(network, size, plan, branches) > room and (less := plan.smaller(device)) is not None:
        if memory != "low" and less.window != window:
            break  # an estimate is no reason to render something else; where it was right, memory runs out
        plan = less
    return plan


def window_bytes(network: Network, size: tuple[int, int], plan: JointPlan, branches: int) -> int:
    """About how much memory a window needs besides the weights that lie on the device while it is computed."""
    factor = network.vae_scale_factor
    grid = (size[0] // factor) * (size[1] // factor)
    rows = plan.window * (1 if plan.in_turn else branches)
    return FRAME_MAPS * rows * grid * network.unet.config.block_out_channels[0] * network.dtype.itemsize


def peak_bytes(network: Network, size: tuple[int, int], plan: JointPlan, branches: int) -> int:
    """About the most that a device holds while a clip is rendered: weights and what is computed, without its latents."""
    weights = {name: _bytes(module) for name, module in network.modules.items()}
    steady = sum(size for name, size in weights.items() if not plan.offload or name not in network.occasional)
    visiting = max((weights[name] for name in network.occasional), default=0) if plan.offload else 0
    return steady + visiting + max(window_bytes(network, size, plan, branches), decode_bytes(network))


def _bytes(module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
