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
from .settings import PoseSettings, settings_of
from .surface_code import CODE, Kept


@dataclass(frozen=True)
class DreamPoseReference:
    """The part of the condition that comes from photos, whatever the pose.

    tokens (N, T, D): c_I; null_tokens (1, T, D): those of the null image, None where no row will be without its image;
    latents (N, C, h, w) of the image condition; kept: keys and values of the tokens, by the layer that computed them (see
    `surface_code.SurfaceQuery`); together: so many of the photos after one another show one subject.
    """

    tokens: Tensor
    null_tokens: Tensor | None
    latents: Tensor
    together: int = 1
    kept: Kept = field(default_factory=dict)


@dataclass(frozen=True)
class DreamPoseCondition(Condition):
    """c_I and c_p of R rows.

    tokens (R, T, D): the context of cross-attention; pose (R, n, h, w) and photo (R, k, h, w), k possibly 0: channels at the
    UNet's input.

    Of a base with a surface code: code (R, CODE, h, w), that of the targets' own poses; image (R,), 1 where the photo is
    seen; and in place of `tokens` those of N photos as they are, photo_tokens (N, T, D), with what layers
    `kept` of them; `together` photos after one another are seen by the same rows, together R / N each.
    """

    tokens: Tensor | None
    pose: Tensor
    photo: Tensor
    code: Tensor | None = None
    image: Tensor | None = None
    photo_tokens: Tensor | None = field(default=None, metadata=SHARED)
    kept: Kept | None = field(default=None, metadata=SHARED)
    together: int = field(default=1, metadata=SHARED)
    null_tokens: Tensor | None = field(default=None, metadata=SHARED)
    null_pose: float = field(default=0.0, metadata=SHARED)

    def drop(self, image: bool | Tensor, pose: bool | Tensor) -> DreamPoseCondition:
        """The null image is what `DreamPose.null_photo` says, encoded as any photo is, and with a surface code no token at all;
        the null pose is `PoseSettings.null` everywhere, its code zero; photo channels of a null image are zero."""
        no_image, no_pose = (torch.as_tensor(mask).expand(self.rows) for mask in (image, pose))
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
        if no_image.any():
            changed["photo"] = torch.where(self._at(no_image, 4), torch.zeros_like(self.photo), self.photo)
        return replace(self, **changed)

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


def unet_inputs(config: BaseConfig, latent_channels: int) -> int:
    """Input channels of the widened UNet: latents, then the pose window, then the photo channels."""
    settings = settings_of(config)
    poses = config.poses.count * len(settings.pose.channels)
    code = CODE if settings.photo.surface_code else 0
    photo = latent_channels if settings.photo.unet_channels == "latents" else 0
    return latent_channels + poses + code + photo
