"""Rendering: a photo and pose windows become frames, in batches.

For each frame the network computes its guidance branches and one decode, nothing else: what depends on the photo alone is
in a `Prepared`, computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..device import is_out_of_memory, release
from ..errors import OutOfMemoryError, UsageError
from ..networks.network import Branch, Condition, Network
from ..sampling import ALL_LEVELS, clip_noise, derived_seed, guide, is_guided, make_sampler, noise_weights, sample
from .batch_plan import BatchPlan


@dataclass(frozen=True)
class RenderSettings:
    """The settings of sampling. `noise`: "shared", one draw for all frames, or "per-frame".

    guidance: the weight of each condition, by the network's names. guidance_interval: where guidance is on (`is_guided`);
    elsewhere the full condition alone is computed.
    """

    sampler: str
    steps: int
    guidance: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    noise: str = "shared"
    guidance_interval: tuple[float, float] = ALL_LEVELS

    @classmethod
    def of(cls, network: Network, guidance: dict[str, float | None] | None = None, **overrides) -> RenderSettings:
        """The base's defaults, but for the overrides that are not None. Raises UsageError for a guidance it does not know."""
        sampling = network.config.sampling
        asked = {name: weight for name, weight in (guidance or {}).items() if weight is not None}
        for name in asked.keys() - sampling.guidance.keys():
            raise UsageError(
                f"the base {network.config.name} has no {name} guidance, only {' and '.join(sampling.guidance)}; leave "
                f"--{name}-guidance out."
            )
        values: dict[str, Any] = {"sampler": sampling.sampler, "steps": sampling.steps, "guidance": sampling.guidance | asked}
        return cls(**values | {key: value for key, value in overrides.items() if value is not None})

    def branches(self, network: Network) -> list[Branch]:
        """The guidance branches that have weight."""
        return [branch for branch in network.branches(self.guidance) if branch.weight != 0.0]


@dataclass(frozen=True)
class Prepared:
    """All that depends on the photo alone: the network's reference, and the latents to start from, None for noise alone."""

    reference: Any
    start: Tensor | None


@torch.no_grad()
def prepare(
    network: Network, picture: np.ndarray, pose: np.ndarray | None, *more: tuple[np.ndarray, np.ndarray]
) -> Prepared:
    """A photo uint8 (H, W, 3) at the base's resolution and, where the network needs it, its pose (3, H, W); and `more` photos
    of the same subject with theirs, where it `sees_several_photos`."""
    first = network.views(picture[None], None if pose is None else pose[None])
    views = first
    if more and pose is not None:
        pictures, poses = (np.stack([one, *others]) for one, others in zip((picture, pose), zip(*more, strict=True), strict=True))
        views = replace(network.views(pictures, poses), together=len(pictures))
    return Prepared(network.reference(views), network.start(first))


def frame_seed(seed: int, frame: int) -> int:
    """The noise seed of one frame of a clip: neighbouring seeds and frames have nothing in common."""
    return derived_seed(seed, frame)


def draw_noise(network: Network, settings: RenderSettings, first: int, count: int, step: int | None = None) -> Tensor:
    """The noise (count, C, h, w) of the frames from `first` on, by the settings' seed and rule.

    To start from, or the fresh noise of a `step`, which is independent of it.
    """
    shape = (network.latent_channels, *network.latent_size)

    def seed_of(seed: int) -> int:
        return seed if step is None else derived_seed(seed, step, 1)

    if settings.noise == "per-frame":
        frames = range(first, first + count)
        noise = torch.cat([clip_noise(shape, seed_of(frame_seed(settings.seed, frame))) for frame in frames])
    else:
        noise = clip_noise(shape, seed_of(settings.seed)).expand(count, -1, -1, -1)
    return noise.to(network.device)


def start_latents(network: Network, prepared: Prepared, settings: RenderSettings, first: int, count: int) -> Tensor:
    """The latents at which denoising starts, (count, C, h, w): the seed's noise, or the photo noised to the first timestep."""
    noise = draw_noise(network, settings, first, count)
    if prepared.start is None:
        return noise
    sampler = make_sampler(settings.sampler, network.schedule)
    sampler.set_timesteps(settings.steps)
    signal, spread = noise_weights(sampler)
    return signal * prepared.start.float().expand_as(noise) + spread * noise


@torch.inference_mode()
def render_batch(
    network: Network,
    prepared: Prepared,
    windows: Tensor,
    settings: RenderSettings,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
    batch_plan: BatchPlan | None = None,
) -> np.ndarray:
    """Pose windows (B, n, 3, H, W) at the base's resolution -> frames uint8 (B, H, W, 3).

    `first` is the index in the clip of the first window; `batch_plan` bounds what is computed at once.
    """
    latents = render_latents(network, prepared, windows, settings, first, on_step, batch_plan)
    # Decoded a few at a time: a decode needs several times the memory of a UNet row, and fills a device sooner.
    parts = latents.split(batch_plan.decoded if batch_plan else len(latents))
    frames = [(network.decode(part) * 255).round().to(torch.uint8) for part in parts]
    return torch.cat(frames).permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def render_latents(
    network: Network,
    prepared: Prepared,
    windows: Tensor,
    settings: RenderSettings,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
    batch_plan: BatchPlan | None = None,
) -> Tensor:
    """As `render_batch`, the denoised latents (B, C, h, w) before the decode."""
    count = len(windows)
    condition = network.condition(prepared.reference, windows)
    guided = settings.branches(network)
    guided_rows = stack(condition, guided)
    plain, plain_rows = guided, guided_rows
    if settings.guidance_interval != ALL_LEVELS:
        plain, plain_rows = [Branch(1.0)], condition
    sampler = make_sampler(settings.sampler, network.schedule)

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        on = is_guided(timestep, settings.guidance_interval, sampler.config.num_train_timesteps)
        branches, rows = (guided, guided_rows) if on else (plain, plain_rows)
        reference = network.at_timestep(prepared.reference, timestep)
        noisy = latents.repeat(len(branches), 1, 1, 1)
        size = batch_plan.rows if batch_plan and batch_plan.rows else len(noisy)
        parts = [slice(i, i + size) for i in range(0, len(noisy), size)]
        found = torch.cat([network.predict(noisy[part], timestep, rows[part], reference) for part in parts])
        return guide(found.view(-1, count, *found.shape[1:]), [branch.weight for branch in branches])

    start = start_latents(network, prepared, settings, first, count)
    fresh = functools.partial(draw_noise, network, settings, first, count)
    return sample(predict, start, sampler, settings.steps, on_step, fresh)


def stack(condition: Condition, branches: list[Branch]) -> Condition:
    """The rows of the guidance branches, one branch after the other."""
    return condition.cat([condition.drop(branch.drop_image, branch.drop_pose) for branch in branches])


def render_frames(
    network: Network,
    prepared: Prepared,
    windows: Iterable[Tensor],
    settings: RenderSettings,
    batch_plan: BatchPlan,
    on_step: Callable[[int], None] | None = None,
    note: Callable[[str], None] | None = None,
    first: int = 0,
) -> Iterator[np.ndarray]:
    """A stream of pose windows (n, 3, H, W) -> a stream of frames uint8 (H, W, 3), some at a time.

    `first` is the number in the clip of the first window, which decides about its noise.
    Where the device's memory does not suffice for `batch_plan`, it becomes smaller, and stays so. Raises OutOfMemoryError
    where it does not suffice for one row.
    """
    waiting: list[Tensor] = []
    windows, more = iter(windows), True
    while more or waiting:
        while more and len(waiting) < batch_plan.frames:
            window = next(windows, None)
            more = window is not None
            waiting += [] if window is None else [window]
        batch = waiting[: batch_plan.frames]
        if not batch:
            return
        surplus = batch_plan.frames - len(batch) if batch_plan.even and first else 0
        stacked = torch.stack(batch + batch[-1:] * surplus)
        try:
            frames = render_batch(network, prepared, stacked, settings, first, on_step, batch_plan)[: len(batch)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            frames = None  # and not here: while the error lives, so do the tensors of the batch that failed
        if frames is None:
            batch_plan = _smaller(batch_plan, network, note)
            continue
        yield from frames
        first, waiting = first + len(batch), waiting[len(batch) :]


def _smaller(batch_plan: BatchPlan, network: Network, note: Callable[[str], None] | None) -> BatchPlan:
    release(network.device)
    smaller = batch_plan.smaller()
    if smaller is None:
        raise OutOfMemoryError(
            f"{network.device} has too little memory for one frame of {network.config.resolution[1]}x"
            f"{network.config.resolution[0]}; close what else uses it, give --dtype bfloat16, or --device cpu."
        )
    if note:
        note(f"{network.device} ran out of memory; continuing with {smaller}.")
    return smaller
