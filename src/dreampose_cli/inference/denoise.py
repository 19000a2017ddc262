"""Rendering: a photo and pose windows become frames, in batches (paper section 4.5).

For each frame the network computes its guidance branches and one decode, nothing else: what depends on the photo alone
is in a `Photo`, computed once (`model.conditioning.prepare_photo`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..device import is_out_of_memory, release
from ..errors import OutOfMemoryError
from ..networks.dreampose.conditioning import Photo, decode, null_pose, photo_channels, pose_channels, prior_of
from ..networks.dreampose.network import Base
from ..networks.dreampose.prior import Prior
from ..sampling import branch_weights, clip_noise, derived_seed, guide, make_sampler, sample
from .batch_plan import Portions

ALL_LEVELS = (0.0, 1.0)


@dataclass(frozen=True)
class RenderSettings:
    """How to sample. `noise`: "shared", one draw for all frames, or "per-frame".

    guidance_interval: the noise levels at which guidance is on, as shares of the schedule: 1 is pure noise, 0 the
    picture. At the others the full row alone is computed (Kynkaanniemi et al., 2024).
    """

    sampler: str
    steps: int
    image_guidance: float
    pose_guidance: float
    seed: int = 0
    noise: str = "shared"
    guidance_interval: tuple[float, float] = ALL_LEVELS

    @classmethod
    def of(cls, base: Base, **overrides) -> RenderSettings:
        """The base's defaults, but for the overrides that are not None."""
        sampling = base.config.sampling
        values = {name: getattr(sampling, name) for name in ("sampler", "steps", "image_guidance", "pose_guidance")}
        return cls(**values | {key: value for key, value in overrides.items() if value is not None})


@dataclass(frozen=True)
class _Rows:
    """The UNet rows of B frames: the k branches in use, one after the other, and what each weighs."""

    weights: tuple[float, ...]
    contexts: Tensor  # (k B, T, D)
    poses: Tensor  # (k B, n, h, w)
    photos: Tensor  # (k B, m, h, w)
    prior: Prior | None

    def part(self, which: slice) -> tuple[Tensor, Tensor, Tensor, Prior | None]:
        """Some of the rows, as `Base.predict` takes them."""
        prior = self.prior and Prior(self.prior.mean[which], self.prior.variance[which])
        return self.contexts[which], self.poses[which], self.photos[which], prior


def frame_seed(seed: int, frame: int) -> int:
    """The noise seed of one frame of a clip: neighbouring seeds and frames have nothing in common."""
    return derived_seed(seed, frame)


def draw_noise(base: Base, settings: RenderSettings, first: int, count: int, step: int | None = None) -> Tensor:
    """The noise (count, C, h, w) of the frames from `first` on, by the settings' seed and rule.

    To start from, or the fresh noise of a `step`, which is independent of it.
    """
    shape = (base.latent_channels, *base.latent_size)

    def seed_of(seed: int) -> int:
        return seed if step is None else derived_seed(seed, step, 1)

    if settings.noise == "per-frame":
        frames = range(first, first + count)
        noise = torch.cat([clip_noise(shape, seed_of(frame_seed(settings.seed, frame))) for frame in frames])
    else:
        noise = clip_noise(shape, seed_of(settings.seed)).expand(count, -1, -1, -1)
    return noise.to(base.device)


def start_latents(base: Base, photo: Photo, settings: RenderSettings, first: int, count: int) -> Tensor:
    """Where denoising starts, (count, C, h, w): the seed's noise, or the photo noised to the first timestep."""
    noise = draw_noise(base, settings, first, count)
    if base.config.sampling.start == "noise":
        return noise
    sampler = make_sampler(settings.sampler, base.scheduler)
    sampler.set_timesteps(settings.steps)
    return sampler.add_noise(photo.start.float().expand_as(noise), noise, sampler.timesteps[:1].expand(count))


@torch.inference_mode()
def render_batch(
    base: Base,
    photo: Photo,
    windows: Tensor,
    settings: RenderSettings,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
    portions: Portions | None = None,
) -> np.ndarray:
    """Pose windows (B, n, 3, H, W) at the base's resolution -> frames uint8 (B, H, W, 3).

    `first` is the index in the clip of the first window; `portions` bound what is computed at once.
    """
    latents = render_latents(base, photo, windows, settings, first, on_step, portions)
    # Decoded a few at a time: a decode needs several times the memory of a UNet row, and fills a device sooner.
    parts = latents.split(portions.decoded if portions else len(latents))
    frames = [(decode(base, part) * 255).round().to(torch.uint8) for part in parts]
    return torch.cat(frames).permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def render_latents(
    base: Base,
    photo: Photo,
    windows: Tensor,
    settings: RenderSettings,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
    portions: Portions | None = None,
) -> Tensor:
    """As `render_batch`, the denoised latents (B, C, h, w) before the decode."""
    count = len(windows)
    windows = windows.to(base.device)
    pose = pose_channels(base.config.poses, windows, base.factor)
    blank_pose = null_pose(base.config.poses, pose)
    middle = windows[:, base.config.poses.count // 2]
    surface = photo.surface.expand(count) if photo.surface is not None else None
    carried, guess = photo_channels(base, photo.latents, surface, middle, pose)
    carried = carried.to(pose)
    # Rows (null, null), (image, null), (image, pose); a row of weight zero adds nothing and is not computed. The
    # carried texture depends on image and pose, so only the full row has it; plain photo latents go with the image.
    nothing = torch.zeros_like(carried)
    image_only = nothing if surface is not None else carried
    branches = [
        (photo.null, blank_pose, nothing),
        (photo.image, blank_pose, image_only),
        (photo.image, pose, carried),
    ]

    def stack(weights: tuple[float, float, float]) -> _Rows:
        used = [branch for branch, weight in zip(branches, weights, strict=True) if weight != 0.0]
        prior = None
        if guess is not None:
            blank = torch.cat([torch.full((count,), c is not carried, device=base.device) for _, _, c in used])
            prior = prior_of(base, guess.repeat(len(used), 1, 1, 1), blank)
        return _Rows(
            weights,
            torch.cat([tokens.expand(count, -1, -1) for tokens, _, _ in used]),
            torch.cat([p for _, p, _ in used]),
            torch.cat([c for _, _, c in used]),
            prior,
        )

    guided = stack(branch_weights(settings.image_guidance, settings.pose_guidance))
    plain = guided if settings.guidance_interval == ALL_LEVELS else stack(branch_weights(1.0, 1.0))
    low, high = settings.guidance_interval
    sampler = make_sampler(settings.sampler, base.scheduler)
    levels = sampler.config.num_train_timesteps - 1

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        rows = guided if low <= float(timestep) / levels <= high else plain
        noisy = latents.repeat(len(rows.contexts) // count, 1, 1, 1)
        size = portions.rows if portions and portions.rows else len(noisy)
        parts = [slice(i, i + size) for i in range(0, len(noisy), size)]
        found = torch.cat([base.predict(noisy[part], timestep, *rows.part(part)) for part in parts])
        return guide(found.view(-1, count, *found.shape[1:]), rows.weights)

    start = start_latents(base, photo, settings, first, count)
    fresh = functools.partial(draw_noise, base, settings, first, count)
    return sample(predict, start, sampler, settings.steps, on_step, fresh)


def render_frames(
    base: Base,
    photo: Photo,
    windows: Iterable[Tensor],
    settings: RenderSettings,
    portions: Portions,
    on_step: Callable[[int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Iterator[np.ndarray]:
    """A stream of pose windows (n, 3, H, W) -> a stream of frames uint8 (H, W, 3), some at a time.

    Where the device's memory does not suffice for `portions`, they become smaller, and stay so. Raises OutOfMemoryError
    where it does not suffice for one row.
    """
    waiting: list[Tensor] = []
    windows, first, more = iter(windows), 0, True
    while more or waiting:
        while more and len(waiting) < portions.frames:
            window = next(windows, None)
            more = window is not None
            waiting += [window] if more else []
        batch = waiting[: portions.frames]
        if not batch:
            return
        surplus = portions.frames - len(batch) if portions.even and first else 0
        stacked = torch.stack(batch + batch[-1:] * surplus)
        try:
            frames = render_batch(base, photo, stacked, settings, first, on_step, portions)[: len(batch)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            frames = None  # and not here: while the error lives, so do the tensors of the batch that failed
        if frames is None:
            portions = _smaller(portions, base, note)
            continue
        yield from frames
        first, waiting = first + len(batch), waiting[len(batch) :]


def _smaller(portions: Portions, base: Base, note: Callable[[str], None] | None) -> Portions:
    release(base.device)
    smaller = portions.smaller()
    if smaller is None:
        raise OutOfMemoryError(
            f"{base.device} has too little memory for one frame of {base.config.resolution[1]}x"
            f"{base.config.resolution[0]}; close what else uses it, give --dtype bfloat16, or --device cpu."
        )
    if note:
        note(f"{base.device} ran out of memory; going on with {smaller}.")
    return smaller
