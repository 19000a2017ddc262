"""Sampling: noise schedules, guidance, the denoising loop and the windows of long clips, pure functions on tensors.

Guidance is a weighted sum of predictions under conditions that lack something; which there are, and their weights, the
network says (`Network.branches`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UniPCMultistepScheduler
from torch import Tensor

from .errors import UsageError
from .names import SAMPLERS

_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {  # a scheduler's class, and what differs from its defaults
    # Its Runge-Kutta start takes 9 calls of the network more and fails below 4 steps; Stable Diffusion leaves it out.
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {}),
    "dpm++-karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpm++-sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    "unipc": (UniPCMultistepScheduler, {}),
}


def make_sampler(name: str, schedule: dict):
    """The diffusers scheduler `name` over the base's noise schedule. A new one for every batch: PNDM keeps state."""
    if name not in _KINDS:
        raise UsageError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}.")
    kind, changes = _KINDS[name]
    known = inspect.signature(kind.__init__).parameters  # a schedule may hold keys of another scheduler class
    config = {key: value for key, value in schedule.items() if key in known}
    return kind(**config | changes)


def clip_noise(shape: Sequence[int], seed: int) -> Tensor:
    """The noise of a whole clip (1, C, h, w), drawn on the CPU: one seed means one result on every device."""
    return torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed))


def derived_seed(seed: int, *path: int) -> int:
    """A seed that follows from `seed` and a place, such as a frame or a step: neighbours have nothing in common."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0] >> 1)


def adds_noise(sampler) -> bool:
    """Whether each step of `sampler` adds fresh noise (the SDE solvers) instead of only removing it."""
    return str(sampler.config.get("algorithm_type", "")).startswith("sde")


def noise_weights(sampler) -> tuple[Tensor, Tensor]:
    """The weights of latents and noise in latents that are noised to the first timestep: two scalars, on the CPU.

    diffusers' own `add_noise` searches the timestep on the latents' device, where that is a wait for the device.
    """
    one, zero, first = torch.ones(1), torch.zeros(1), sampler.timesteps[:1]
    return sampler.add_noise(one, zero, first)[0], sampler.add_noise(zero, one, first)[0]


ALL_LEVELS = (0.0, 1.0)


def is_guided(timestep: Tensor, interval: tuple[float, float], timesteps: int) -> bool:
    """Whether guidance is on at a timestep: `interval` gives the noise levels at which it is, as shares of the schedule of so
    many timesteps; 1 is pure noise, 0 the picture (Kynkaanniemi et al., 2024)."""
    low, high = interval
    return low <= float(timestep) / (timesteps - 1) <= high


def guide(branches: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """The predictions of the guidance branches, (R, C, h, w) each, and their weights, which sum to one -> (R, C, h, w)."""
    return cast(Tensor, sum(weight * branch for weight, branch in zip(weights, branches, strict=True)))


@dataclass(frozen=True)
class SamplingState:
    """The state of sampling after `step` calls of the network: latents (B, C, h, w), and what the sampler remembers."""

    step: int
    latents: Tensor
    sampler: dict[str, Any] = field(default_factory=dict)


def _remembered(sampler) -> dict[str, Any]:
    """The state that a sampler of diffusers carries from step to step: numbers, tensors and lists of them."""

    def plain(value: Any) -> bool:
        if isinstance(value, list):
            return all(item is None or isinstance(item, int | float | Tensor) for item in value)
        return value is None or isinstance(value, int | float | Tensor)

    return {
        name: list(value) if isinstance(value, list) else value
        for name, value in vars(sampler).items()
        if not name.startswith("_internal") and plain(value)
    }


def _beside(latents: Tensor, value: Any) -> Any:
    """A sampler's state, where it holds predictions or latents, on the device of `latents`."""
    if isinstance(value, list):
        return [_beside(latents, item) for item in value]
    return value.to(latents.device) if isinstance(value, Tensor) and value.shape == latents.shape else value


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    sampler,
    steps: int,
    on_step: Callable[[int], None] | None = None,
    fresh_noise: Callable[[int], Tensor] | None = None,
    resume: SamplingState | None = None,
    on_state: Callable[[SamplingState], None] | None = None,
) -> Tensor:
    """Denoise `start` (B, C, h, w) in `steps` steps; `predict(latents, t)` is the guided prediction of the network.

    `fresh_noise(i)`: the noise (B, C, h, w) or (1, C, h, w) that step i of a sampler that `adds_noise` takes; without
    it one draw for all B by seed 0. `on_state` is told the state before the first step and after each one; from such a state
    `resume` continues, to the same result.
    """
    sampler.set_timesteps(steps)
    latents = start * sampler.init_noise_sigma
    if resume is not None:
        latents = resume.latents.to(start)
        for name, value in resume.sampler.items():
            setattr(sampler, name, _beside(latents, value))
    first = 0 if resume is None else resume.step
    if on_state is not None:
        on_state(SamplingState(first, latents, _remembered(sampler)))
    fresh_noise = fresh_noise or (lambda index: clip_noise(tuple(start.shape[1:]), derived_seed(0, index)))
    for index, timestep in enumerate(sampler.timesteps[first:], start=first):
        prediction = predict(sampler.scale_model_input(latents, timestep), timestep)
        # Drawn here and not by the sampler, whose draw would depend on the batch and on the device.
        drawn = {"variance_noise": fresh_noise(index).to(latents)} if adds_noise(sampler) else {}
        latents = sampler.step(prediction, timestep, latents, **drawn).prev_sample
        if on_state is not None:
            on_state(SamplingState(index + 1, latents, _remembered(sampler)))
        if on_step is not None:
            on_step(index + 1)
    return latents


def context_windows(frames: int, size: int, overlap: int = 0, closed: bool = True) -> list[list[int]]:
    """The windows of `size` frames that a clip of `frames` is denoised in; a shorter clip is one window.

    They start every size - overlap frames. `closed`: the last ones wrap around to the first frames, which makes the clip a
    loop, as in the authors' code of MagicAnimate and AnimateAnyone; else the last one ends with the clip.
    """
    if frames <= size:
        return [list(range(frames))]
    stride = size - overlap
    if closed:
        return [[(start + k) % frames for k in range(size)] for start in range(0, frames, stride)]
    starts = [*range(0, frames - size, stride), frames - size]
    return [list(range(start, start + size)) for start in starts]


def window_counts(windows: list[list[int]], frames: int) -> Tensor:
    """In how many windows each frame is, (frames,): what sums of predictions are divided by for their mean."""
    return torch.bincount(torch.tensor([frame for window in windows for frame in window]), minlength=frames)


def joint_noise(rule: str, frames: int, shape: tuple[int, int, int], seed: int, period: int = 1) -> Tensor:
    """The noise (frames, C, h, w) that a clip starts from, drawn on the CPU by one seed.

    "tiled": that of `period` frames, again and again; "independent" for each frame; "shared" by all of them.
    """
    drawn = {"tiled": min(period, frames), "independent": frames, "shared": 1}[rule]
    noise = torch.randn((shape[0], drawn, *shape[1:]), generator=torch.Generator("cpu").manual_seed(seed))
    return noise.transpose(0, 1)[torch.arange(frames) % drawn]
