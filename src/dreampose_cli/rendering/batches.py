"""Rendering: a photo and pose windows become frames, in batches (paper section 4.5).

For each frame the network computes its guidance branches and one decode, nothing else: what depends on the photo alone
is in a `Photo`, computed once (`model.conditioning.prepare_photo`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..model.base import Base
from ..model.conditioning import Photo, decode, null_pose, photo_channels, pose_channels, prior_of
from ..sampling import branch_weights, clip_noise, guide, make_sampler, sample


@dataclass(frozen=True)
class RenderSettings:
    """How to sample. `noise`: "clip", one draw for all frames, or "frame", one draw for each."""

    sampler: str
    steps: int
    image_guidance: float
    pose_guidance: float
    seed: int = 0
    noise: str = "clip"

    @classmethod
    def of(cls, base: Base, **overrides) -> RenderSettings:
        """The base's defaults, but for the overrides that are not None."""
        sampling = base.config.sampling
        values = {name: getattr(sampling, name) for name in ("sampler", "steps", "image_guidance", "pose_guidance")}
        return cls(**values | {key: value for key, value in overrides.items() if value is not None})


def frame_seed(seed: int, frame: int) -> int:
    """The noise seed of one frame of a clip: neighbouring seeds and frames have nothing in common."""
    return int(np.random.SeedSequence([seed, frame]).generate_state(1, np.uint64)[0] >> 1)


def start_latents(base: Base, photo: Photo, settings: RenderSettings, first: int, count: int) -> Tensor:
    """Where denoising starts, (count, C, h, w): the seed's noise, or the photo noised to the first timestep."""
    shape = (base.latent_channels, *base.latent_size)
    if settings.noise == "frame":
        noise = torch.cat([clip_noise(shape, frame_seed(settings.seed, first + i)) for i in range(count)])
    else:
        noise = clip_noise(shape, settings.seed).expand(count, -1, -1, -1)
    noise = noise.to(base.device)
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
) -> np.ndarray:
    """Pose windows (B, n, 3, H, W) at the base's resolution -> frames uint8 (B, H, W, 3).

    `first` is the index in the clip of the first window.
    """
    frames = decode(base, render_latents(base, photo, windows, settings, first, on_step))
    return (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def render_latents(
    base: Base,
    photo: Photo,
    windows: Tensor,
    settings: RenderSettings,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
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
    weights = branch_weights(settings.image_guidance, settings.pose_guidance)
    # Rows (null, null), (image, null), (image, pose); a row of weight zero adds nothing and is not computed. The
    # carried texture depends on image and pose, so only the full row has it; plain photo latents go with the image.
    nothing = torch.zeros_like(carried)
    image_only = nothing if surface is not None else carried
    branches = [
        (photo.null, blank_pose, nothing),
        (photo.image, blank_pose, image_only),
        (photo.image, pose, carried),
    ]
    used = [branch for branch, weight in zip(branches, weights, strict=True) if weight != 0.0]
    contexts = torch.cat([tokens.expand(count, -1, -1) for tokens, _, _ in used])
    poses = torch.cat([p for _, p, _ in used])
    photos = torch.cat([c for _, _, c in used])
    prior = None
    if guess is not None:
        blank = torch.cat([torch.full((count,), c is not carried, device=base.device) for _, _, c in used])
        prior = prior_of(base, guess.repeat(len(used), 1, 1, 1), blank)

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        rows = base.predict(latents.repeat(len(used), 1, 1, 1), timestep, contexts, poses, photos, prior)
        return guide(rows.view(len(used), count, *rows.shape[1:]), weights)

    start = start_latents(base, photo, settings, first, count)
    return sample(predict, start, make_sampler(settings.sampler, base.scheduler), settings.steps, on_step)


def render_frames(
    base: Base, photo: Photo, windows: Iterable[Tensor], settings: RenderSettings, batch_size: int
) -> Iterator[np.ndarray]:
    """A stream of pose windows (n, 3, H, W) -> a stream of frames uint8 (H, W, 3), `batch_size` at a time."""
    waiting: list[Tensor] = []
    first = 0
    for window in windows:
        waiting.append(window)
        if len(waiting) == batch_size:
            yield from render_batch(base, photo, torch.stack(waiting), settings, first)
            first, waiting = first + len(waiting), []
    if waiting:
        yield from render_batch(base, photo, torch.stack(waiting), settings, first)
