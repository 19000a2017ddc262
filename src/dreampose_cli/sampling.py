"""Sampling (paper section 4.5): a noise schedule and the dual-guidance loop, pure functions on tensors.

e = e(0, 0) + s_I (e(c_I, 0) - e(0, 0)) + s_p (e(c_I, c_p) - e(c_I, 0))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from torch import Tensor

from .errors import UsageError
from .names import SAMPLERS

_CLASSES = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}


def make_sampler(name: str, schedule: dict):
    """The diffusers scheduler `name` over the base's noise schedule. A new one for every batch: PNDM keeps state."""
    if name not in _CLASSES:
        raise UsageError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}.")
    kind = _CLASSES[name]
    known = inspect.signature(kind.__init__).parameters  # a schedule may hold keys of another scheduler class
    config = {key: value for key, value in schedule.items() if key in known}
    return kind(**config)


def check_steps(steps: int, schedule: dict) -> None:
    """Raise UsageError for more steps than the noise schedule has timesteps to offer."""
    offset = 0 if schedule.get("timestep_spacing") == "trailing" else schedule.get("steps_offset", 0)
    most = schedule.get("num_train_timesteps", 1000) - offset
    if steps > most:
        raise UsageError(
            f"the base's noise schedule has room for {most} steps, not {steps}; give --steps {most} or fewer."
        )


def clip_noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """The noise of a whole clip (1, C, h, w), drawn on the CPU: one seed means one result on every device."""
    return torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed))


def branch_weights(image_guidance: float, pose_guidance: float) -> tuple[float, float, float]:
    """The guidance formula as weights of e(0, 0), e(c_I, 0) and e(c_I, c_p). They sum to one."""
    return 1.0 - image_guidance, image_guidance - pose_guidance, pose_guidance


def guide(branches: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """Branches (k, B, C, h, w), for the k weights that are not zero, -> (B, C, h, w)."""
    used = [w for w in weights if w != 0.0]
    return sum(weight * branch for weight, branch in zip(used, branches, strict=True))


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    sampler,
    steps: int,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Denoise `start` (B, C, h, w) in `steps` steps; `predict(latents, t)` is the guided prediction of the network."""
    sampler.set_timesteps(steps)
    latents = start * sampler.init_noise_sigma
    for index, timestep in enumerate(sampler.timesteps):
        prediction = predict(sampler.scale_model_input(latents, timestep), timestep)
        latents = sampler.step(prediction, timestep, latents).prev_sample
        if on_step is not None:
            on_step(index + 1)
    return latents
