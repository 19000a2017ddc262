"""A clip denoised as a whole, by a network that attends across frames: window by window, their predictions averaged.

Of what grows with the clip only latents are held: poses come when a window asks for them, what conditions a window goes
with it, and frames are decoded one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks.network import Branch, Network
from ..sampling import ALL_LEVELS, SamplingState, guide, is_guided, sample, window_counts
from .kept_latents import KeptLatents, Progressed


@torch.inference_mode()
def denoise_clip(
    network: Network,
    reference: Any,
    poses: Callable[[list[int]], Tensor],
    start: Tensor,
    sampler,
    steps: int,
    branches: Sequence[Branch],
    windows: list[list[int]],
    *,
    guidance_interval: tuple[float, float] = ALL_LEVELS,
    in_turn: bool = False,
    on_window: Callable[[int, int], None] | None = None,
    kept: KeptLatents | None = None,
) -> Tensor:
    """Noise (N, C, h, w) -> latents (N, C, h, w), in `steps` steps.

    `poses(frames)`: what the network's `condition` takes for these frames. guidance_interval: where guidance is on
    (`is_guided`); elsewhere the full condition alone is computed. `in_turn`: the branches of guidance are computed one
    after the other, in half the memory. `on_window(done, total)` is called after each window of each step. `kept`: where
    the clip was left, and what is told how far it is.
    """
    kept = kept or KeptLatents(None)
    guided = [branch for branch in branches if branch.weight != 0.0]
    counts = window_counts(windows, len(start)).to(start).view(-1, 1, 1, 1)
    resumed = kept.latest
    state = None if resumed is None else resumed.state

    def note_state(now: SamplingState) -> None:
        nonlocal state
        if state is None or now.step > state.step:
            kept(Progressed(now), last=now.step == len(sampler.timesteps))
        state = now

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        nonlocal resumed
        now = network.at_timestep(reference, timestep)
        first, total = 0, torch.zeros_like(latents)
        if resumed is not None and resumed.total is not None:
            first, total = resumed.windows, resumed.total.to(latents)
        resumed = None
        on = is_guided(timestep, guidance_interval, sampler.config.num_train_timesteps)
        used = guided if on else [Branch(1.0)]
        assert state is not None  # the sampler notes its state before each prediction
        for number, window in enumerate(windows[first:], start=first + 1):
            condition = network.condition(now, poses(window))
            rows = torch.tensor(window, device=latents.device)
            prediction = guided_prediction(network, latents[rows], timestep, condition, now, used, in_turn)
            total.index_add_(0, rows, prediction.to(total))
            if number < len(windows):
                kept(Progressed(state, number, total.clone()))
            if on_window is not None:
                on_window(state.step * len(windows) + number, len(sampler.timesteps) * len(windows))  # PNDM has more
        return total.div_(counts)

    return sample(predict, start, sampler, steps, resume=state, on_state=note_state)


def guided_prediction(
    network: Network,
    latents: Tensor,
    timestep: Tensor,
    condition: Any,
    reference: Any,
    branches: Sequence[Branch],
    in_turn: bool,
) -> Tensor:
    """The weighted sum of the branches' predictions for the rows (R, C, h, w) of one condition."""
    conditions = [condition.drop(branch.drop_image, branch.drop_pose) for branch in branches]
    parts: Iterable[Tensor]
    if in_turn:
        parts = (network.predict(latents, timestep, each, reference) for each in conditions)
    else:
        rows = latents.repeat(len(branches), 1, 1, 1)
        parts = network.predict(rows, timestep, condition.cat(conditions), reference).chunk(len(branches))
    return guide(parts, [branch.weight for branch in branches])


@torch.inference_mode()
def decode_frames(network: Network, latents: Tensor) -> Iterator[np.ndarray]:
    """Latents (N, C, h, w) -> frames uint8 (H, W, 3), one at a time; levels are cut and not rounded, as the authors do."""
    for frame in latents:
        pixels = network.decode(frame[None])[0]
        yield (pixels * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
