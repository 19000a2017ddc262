"""Photos and poses as the tensors that condition the UNet; `DreamPoseCondition.drop` makes rows null.

Shapes: H, W of the base's resolution, h, w of its latent grid, f = H / h, T context tokens of width D, C latent channels,
N photos, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...bases.config import BaseConfig
from ...poses.sequence import PARTS
from ..network import SHARED, Condition
from .prior import Prior
from .settings import PoseSettings, settings_of
from .surface import Surface, surface_channels
from .surface_code import CODE, Kept


@dataclass(frozen=True)
class DreamPoseReference:
    """The part of the condition that comes from photos, whatever the pose.

    tokens (N, T, D): c_I; null_tokens (1, T, D): those of the null image, None where no row will be without its image;
    latents (N, C, h, w) of the image condition; surface or None, by `PhotoSettings.unet_channels`; kept: keys and values
    of the tokens, by the layer that computed them (see `surface_code.SurfaceQuery`).
    """

    tokens: Tensor
    null_tokens: Tensor | None
    latents: Tensor
    surface: Surface | None
    kept: Kept = field(default_factory=dict)


@dataclass(frozen=True)
class DreamPoseCondition(Condition):
    """c_I and c_p of R rows.

    tokens (R, T, D): the context of cross-attention; pose (R, n, h, w) and photo (R, k, h, w), k possibly 0: channels at the
    UNet's input. guess (R, C, h, w): the first guess of the target's latents of a base with a texture encoder, and
    guessed (R,): where it may be used. photo_needs_pose: the photo's channels are made of image and pose.

    Of a base with a surface code: code (R, CODE, h, w), that of the targets' own poses; image (R,), 1 where the photo is
    seen; and in place of `tokens` those of N photos as they are, photo_tokens (N, T, D), R / N rows each, with what layers
    `kept` of them.
    """

    tokens: Tensor | None
    pose: Tensor
    photo: Tensor
    guess: Tensor | None = None
    guessed: Tensor | None = None
    code: Tensor | None = None
    image: Tensor | None = None
    photo_tokens: Tensor | None = field(default=None, metadata=SHARED)
    kept: Kept | None = field(default=None, metadata=SHARED)
    null_tokens: Tensor | None = field(default=None, metadata=SHARED)
    null_pose: float = field(default=0.0, metadata=SHARED)
    photo_needs_pose: bool = field(default=False, metadata=SHARED)

    def drop(self, image: bool | Tensor, pose: bool | Tensor) -> DreamPoseCondition:
        """The null image is what `DreamPose.null_photo` says, encoded as any photo is, and with a surface code no token at all;
        the null pose is `PoseSettings.null` everywhere, its code zero; photo channels of what is null are zero, and a guess
        that was made of it is none."""
        no_image, no_pose = (torch.as_tensor(mask).expand(self.rows) for mask in (image, pose))
        no_photo = no_image | no_pose if self.photo_needs_pose else no_image
        changed: dict[str, Any] = {}
        if no_image.any() and self.image is not None:  # masks are on the CPU: no device is asked
            changed["image"] = self.image * ~self._at(no_image, 1)
        elif no_image.any():
            assert self.tokens is not None and self.null_tokens is not None
            changed["tokens"] = torch.where(self._at(no_image, 3), self.null_tokens, self.tokens)
        if no_pose.any():
            changed["pose"] = torch.where(self._at(no_pose, 4), torch.full_like(self.pose, self.null_pose), self.pose)
            if self.code is not None:
                changed["code"] = self.code * ~self._at(no_pose, 4)
        if no_photo.any():
            changed["photo"] = torch.where(self._at(no_photo, 4), torch.zeros_like(self.photo), self.photo)
            if self.guessed is not None:
                changed["guessed"] = self.guessed & ~self._at(no_photo, 1)
        return replace(self, **changed)

    def prior(self, variance: float) -> Prior | None:
        """The guess of the target, where it may be used; `variance` is how far it is trusted."""
        if self.guess is None or self.guessed is None:
            return None
        blank = ~self.guessed.view(-1, 1, 1, 1)
        mean = torch.where(blank, torch.zeros_like(self.guess, dtype=torch.float32), self.guess.float())
        spread = torch.full_like(blank, variance, dtype=torch.float32)
        return Prior(mean, torch.where(blank, torch.ones_like(spread), spread))

    def _at(self, mask: Tensor, dimensions: int) -> Tensor:
        """A mask (R,) on the condition's device, to be spread over tensors of so many dimensions."""
        return mask.to(self.pose.device).view(-1, *[1] * (dimensions - 1))


def pose_channels(settings: PoseSettings, windows: Tensor, factor: int) -> Tensor:
    """c_p: pose windows (R, n, 3, H, W) as I in 0..24, U and V in [0, 1] -> (R, n * channels, h, w).

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


def unet_inputs(config: BaseConfig, latent_channels: int, factor: int) -> int:
    """Input channels of the widened UNet: latents, then the pose window, then the photo channels."""
    photo = {"none": 0, "latents": latent_channels, "surface": surface_channels(factor) + latent_channels}
    settings = settings_of(config)
    poses = config.poses.count * len(settings.pose.channels)
    code = CODE if settings.photo.surface_code else 0
    return latent_channels + poses + code + photo[settings.photo.unet_channels]


def texture_inputs(config: BaseConfig, factor: int) -> int:
    """Input channels of the adapter's `TextureEncoder`, 0 where the base has none."""
    settings = settings_of(config)
    if settings.photo.unet_channels != "surface":
        return 0
    return surface_channels(factor) + config.poses.count * len(settings.pose.channels)
