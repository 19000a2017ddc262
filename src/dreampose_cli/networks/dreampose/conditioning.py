"""Photos and poses as the tensors that condition the UNet; the null photo and the null pose live here and nowhere else.

Pure functions: a `Base` (or its config) and arrays in, tensors out. Shapes: H, W of the base's resolution, h, w of its
latent grid, f = H / h, T context tokens of width D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...bases.config import BaseConfig, PoseSettings
from .prior import Prior
from .surface import PARTS, Surface, build_surface, surface_channels, transfer

if TYPE_CHECKING:
    from .network import Base


def pictures_to_tensor(pictures: np.ndarray, value_range: tuple[float, float]) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) with [0, 255] mapped to `value_range`."""
    pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255.0
    low, high = value_range
    return pixels * (high - low) + low


def clip_pixels(base: Base, pictures: list[np.ndarray]) -> Tensor:
    """uint8 (H, W, 3) each -> (B, 3, s, s), by the base's own image processor."""
    return base.image_processor(images=pictures, return_tensors="pt")["pixel_values"]


def encode(base: Base, pictures: Tensor) -> Tensor:
    """Pictures in a VAE input range (B, 3, H, W) -> latents (B, C, h, w): the distribution's mode, normalised."""
    latents = base.vae.encode(pictures.to(base.dtype)).latent_dist.mode()
    return (latents - base.latent_shift) * base.latent_scale


def decode(base: Base, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> pictures (B, 3, H, W) clamped to [0, 1]."""
    pixels = base.vae.decode((latents / base.latent_scale + base.latent_shift).to(base.dtype)).sample.float()
    low, high = base.config.target_range
    return ((pixels - low) / (high - low)).clamp(0.0, 1.0)


def context(base: Base, clip: Tensor, latents: Tensor) -> Tensor:
    """c_I = A(c_CLIP, c_VAE): clip pixels (B, 3, s, s), latents (B, C, h, w) -> (B, T, D)."""
    states = base.image_encoder(pixel_values=clip.to(base.dtype)).last_hidden_state
    return base.adapter(states, latents.to(base.dtype) if base.config.photo.vae_tokens else None)


def null_photo(base: Base) -> tuple[Tensor, Tensor]:
    """The null image: CLIP's view of a black picture (1, 3, s, s), and the latents of a zero VAE input (1, C, h, w)."""
    height, width = base.config.resolution
    clip = clip_pixels(base, [np.zeros((height, width, 3), np.uint8)])
    size = (width, height) if base.config.photo.null_transposed else (height, width)
    zeros = torch.zeros(1, 3, *size, device=base.device)
    return clip.to(base.device), encode(base, zeros)


def null_context(base: Base) -> Tensor:
    """The context of the null image, (1, T, D)."""
    return context(base, *null_photo(base))


def pose_channels(settings: PoseSettings, windows: Tensor, factor: int) -> Tensor:
    """c_p: pose windows (B, n, 3, H, W) as I in 0..24, U and V in [0, 1] -> (B, n * channels, h, w).

    Oldest pose first; for each pose the channels of `settings.channels`.
    """
    low, high = settings.range
    planes = windows.float()
    planes = (
        planes[:, :, 1:]
        if settings.channels == "uv"
        else torch.cat([planes[:, :, :1] / PARTS, planes[:, :, 1:]], dim=2)
    )
    planes = (planes * (high - low) + low).flatten(1, 2)
    return planes[..., ::factor, ::factor] if settings.to_latents == "nearest" else F.avg_pool2d(planes, factor)


def null_pose(settings: PoseSettings, channels: Tensor) -> Tensor:
    """The null pose in the shape of `channels`."""
    return torch.full_like(channels, settings.null)


def unet_photo_channels(config: BaseConfig, latent_channels: int, factor: int) -> int:
    """How many photo channels `PhotoSettings.unet_channels` adds at the UNet input."""
    kind = config.photo.unet_channels
    return {"none": 0, "latents": latent_channels, "surface": surface_channels(factor) + latent_channels}[kind]


def texture_inputs(config: BaseConfig, factor: int) -> int:
    """Input channels of the adapter's `TextureEncoder`, 0 where the base has none."""
    surface = config.photo.unet_channels == "surface"
    return surface_channels(factor) + config.poses.total_channels if surface else 0


@dataclass
class Photo:
    """Everything a photo contributes, computed once per subject.

    image and null: contexts (1, T, D); latents (1, C, h, w) of the image condition; start (1, C, h, w) or None;
    surface or None, by `PhotoSettings.unet_channels`.
    """

    image: Tensor
    null: Tensor
    latents: Tensor
    start: Tensor | None
    surface: Surface | None


@torch.no_grad()
def prepare_photo(base: Base, picture: np.ndarray, pose: np.ndarray | None) -> Photo:
    """A photo uint8 (H, W, 3) at the base's resolution and, for surface bases, its pose (3, H, W)."""
    config = base.config
    stacked = picture[None]
    latents = encode(base, pictures_to_tensor(stacked, config.photo.condition_range).to(base.device))
    image = context(base, clip_pixels(base, [picture]).to(base.device), latents)
    start = None
    if config.sampling.start == "photo":
        start = encode(base, pictures_to_tensor(stacked, config.sampling.start_range).to(base.device))
    surface = None
    if config.photo.unet_channels == "surface":
        pixels = pictures_to_tensor(stacked, (-1.0, 1.0)).to(base.device)
        surface = build_surface(pixels, torch.as_tensor(pose, dtype=torch.float32, device=base.device)[None])
    return Photo(image, null_context(base), latents, start, surface)


def prior_of(base: Base, guess: Tensor, blank: Tensor) -> Prior:
    """The prior of rows with guesses (B, C, h, w), and of rows without where `blank` (B,) is true."""
    blank = blank.view(-1, 1, 1, 1)
    variance = torch.full_like(blank, base.config.photo.guess_variance, dtype=torch.float32)
    return Prior(
        torch.where(blank, torch.zeros_like(guess, dtype=torch.float32), guess.float()),
        torch.where(blank, torch.ones_like(variance), variance),
    )


def photo_channels(
    base: Base, latents: Tensor, surface: Surface | None, target: Tensor, pose: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The photo channels at the UNet input for target poses (B, 3, H, W) with pose channels (B, n, h, w).

    Returns (B, k, h, w), k possibly 0, and for "surface" the first guess of the target's latents (B, C, h, w), which
    is the last C of the k channels.
    """
    kind = base.config.photo.unet_channels
    if kind == "surface":
        carried = transfer(surface, target, base.factor)
        guess = base.adapter.texture(carried, pose)
        return torch.cat([carried, guess.to(carried)], dim=1), guess
    if kind == "latents":
        return latents.expand(target.shape[0], -1, -1, -1), None
    return latents.new_zeros(target.shape[0], 0, *latents.shape[-2:]), None
