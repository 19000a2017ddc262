"""DreamPose (arXiv 2304.06025, section 4, figure 3): a UNet that sees the photo by cross-attention and the poses at its input.

e = UNet(z_t, c_p; t, c_I): the pose window c_p is concatenated to the noisy latents, the image condition c_I = A(c_CLIP, c_VAE)
is the context of cross-attention. Guidance (section 4.5): e = e(0, 0) + s_I (e(c_I, 0) - e(0, 0)) + s_p (e(c_I, c_p) - e(c_I, 0)).

Not in the paper, and off unless a base's settings say so: the photo's latents at the UNet's input, the surface code
(`surface_code.py`), and sampling that starts from the photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionModel

from ...bases.config import BaseConfig
from ...errors import BaseError
from ..layout import contiguous_layout
from ..network import (
    AnyModule,
    Branch,
    Network,
    Stage,
    Views,
    each,
    pictures_to_tensor,
    scale_factor,
)
from .adapter import ADAPTERS
from .conditioning import DreamPoseCondition, DreamPoseReference, pose_channels, unet_inputs
from .settings import DreamPoseSettings, settings_of
from .surface_code import SurfaceQuery, add_surface_code, surface_code


class DreamPose(Network):
    """UNet, adapter, VAE and CLIP's image encoder. Frames are independent of each other but for their pose windows."""

    def __init__(
        self,
        config: BaseConfig,
        modules: dict[str, AnyModule],
        processors: dict[str, Any],
        schedule: dict[str, Any],
    ):
        super().__init__(config, modules, processors, schedule)
        expected = unet_inputs(config, self.latent_channels)
        if self.unet.config.in_channels != expected:
            raise BaseError(f"its UNet takes {self.unet.config.in_channels} channels, its settings need {expected}.")

    @classmethod
    def build(cls, name: str, config: BaseConfig, modules: Mapping[str, AnyModule]) -> AnyModule:
        if name != "adapter":
            return super().build(name, config, modules)
        return make_adapter(config, modules["vae"], modules["image_encoder"])

    @classmethod
    def extends(cls, name: str, config: BaseConfig) -> bool:
        return name == "unet" and settings_of(config).photo.surface_code

    @classmethod
    def extend(cls, name: str, module: AnyModule) -> AnyModule:
        return add_surface_code(module)

    @property
    def settings(self) -> DreamPoseSettings:
        """The family's own part of the config."""
        return settings_of(self.config)

    @property
    def adapter(self) -> AnyModule:
        """A of the paper."""
        return self.modules["adapter"]

    @property
    def photo_range(self) -> tuple[float, float]:
        return self.settings.photo.condition_range

    # What it computes.

    def views(self, pictures: np.ndarray, poses: np.ndarray | None = None) -> Views:
        clip = self.processors["image_encoder"](images=list(pictures), return_tensors="pt")["pixel_values"]
        return Views(pictures, None if poses is None else torch.as_tensor(poses, dtype=torch.float32), clip)

    def reference(self, views: Views, null: bool = True) -> DreamPoseReference:
        latents = (self.encode_views(views) if views.latents is None else views.latents).to(self.device)
        poses = None if views.poses is None else views.poses.to(self.device)
        assert views.clip is not None  # `views` prepares it
        tokens = self._tokens(views.clip.to(self.device), latents, poses)
        return DreamPoseReference(tokens, self._null_tokens() if null else None, latents, views.together)

    def condition(self, reference: DreamPoseReference, poses: Tensor) -> DreamPoseCondition:
        settings, rows = self.settings, len(poses)
        poses = poses.to(self.device)
        pose = pose_channels(settings.pose, poses, self.vae_scale_factor)
        target = poses[:, self.config.poses.count // 2]
        first = reference.latents[:: reference.together]
        photo = first if settings.photo.unet_channels == "latents" else first[:, :0]
        coded: dict[str, Any] = {}
        if settings.photo.surface_code:
            code = surface_code(target, self.vae_scale_factor)
            coded = {"code": code, "image": code.new_ones(rows), "photo_tokens": reference.tokens}
            coded["together"] = reference.together
            coded["kept"] = None if torch.is_grad_enabled() else reference.kept
        return DreamPoseCondition(
            None if coded else each(reference.tokens, rows),
            pose,
            each(photo, rows).to(pose),
            null_tokens=reference.null_tokens,
            null_pose=settings.pose.null,
            **coded,
        )

    def branches(self, guidance: Mapping[str, float]) -> tuple[Branch, ...]:
        image, pose = guidance["image"], guidance["pose"]
        return (
            Branch(1.0 - image, drop_image=True, drop_pose=True),
            Branch(image - pose, drop_pose=True),
            Branch(pose),
        )

    def predict(self, latents: Tensor, t: Tensor, condition: DreamPoseCondition, reference: Any = None) -> Tensor:
        tokens, query, channels = condition.tokens, None, [latents, condition.pose, condition.photo]
        if condition.code is not None:
            tokens, channels = condition.photo_tokens, [latents, condition.pose, condition.code, condition.photo]
            assert tokens is not None
            levels = len(self.unet.config.block_out_channels)
            seen = condition.image, condition.kept, condition.together
            query = {"surface": SurfaceQuery.of(condition.code, tokens, levels, *seen)}
        assert tokens is not None
        inputs = torch.cat(channels, dim=1).to(self.dtype)
        output = self.unet(inputs, t, encoder_hidden_states=tokens.to(self.dtype), cross_attention_kwargs=query)
        return output.sample.float()

    def start(self, views: Views) -> Tensor | None:
        if self.settings.photo.start == "noise":
            return None
        pixels = pictures_to_tensor(views.pictures, self.settings.photo.start_range)
        return self.encode(pixels.to(self.device))

    def null_photo(self) -> tuple[Tensor, Tensor]:
        """The null image: CLIP's view of a black picture (1, 3, s, s), and the latents (1, C, h, w) of a VAE input that is zero
        everywhere, as in the published code: mid-grey where the VAE sees pictures in [-1, 1]."""
        height, width = self.config.resolution
        clip = self.views(np.zeros((1, height, width, 3), np.uint8)).clip
        size = (width, height) if self.settings.photo.null_transposed else (height, width)
        zeros = torch.zeros(1, 3, *size, device=self.device)
        # In channels_last, GroupNorm takes E[x^2] - E[x]^2, which of a picture that is the same everywhere is rounding.
        with torch.no_grad(), contiguous_layout(self.vae.encoder, self.vae.quant_conv):
            assert clip is not None  # `views` prepares it
            return clip.to(self.device), self.encode(zeros)

    def _tokens(self, clip: Tensor, latents: Tensor, poses: Tensor | None = None) -> Tensor:
        """c_I = A(c_CLIP, c_VAE): clip pixels (N, 3, s, s), latents (N, C, h, w) -> (N, T, D).

        The adapter "grid" sees the photos' poses (N, 3, H, W) too.
        """
        states = self.modules["image_encoder"](pixel_values=clip.to(self.dtype)).last_hidden_state
        seen = latents.to(self.dtype) if self.settings.photo.vae_tokens else None
        if self.settings.photo.adapter == "grid":
            return self.adapter(states, seen, poses)
        return self.adapter(states, seen)

    def _null_tokens(self) -> Tensor:
        """The tokens of the null image, (1, T, D). Of the adapter "grid" they are zero."""
        if self.settings.photo.adapter == "grid":
            size = self.adapter.context_size(self.settings.photo.vae_tokens)
            return torch.zeros(1, *size, device=self.device, dtype=self.dtype)
        return self._tokens(*self.null_photo())

    # What learns, and what is needed when.

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("vae", ("vae",), "autoencoder"),
            Stage("network", ("unet", "adapter"), "denoising", dropout=(0.05, 0.05, 0.05)),  # section 4.4
            Stage("decoder", ("vae.decoder",), "reconstruction"),
        )

    @property
    def tuning_stages(self) -> tuple[Stage, ...]:
        return (
            Stage("network", ("unet", "adapter"), "denoising"),
            Stage("decoder", ("vae.decoder",), "reconstruction"),
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        return ("image_encoder", "vae.encoder", "vae.quant_conv")


def widen(unet: UNet2DConditionModel, in_channels: int) -> UNet2DConditionModel:
    """Give `unet` more input channels in place: the pretrained ones and the bias untouched, the new ones zero.

    So the first prediction for any pose is exactly the pretrained one (paper section 4.3).
    """
    old = unet.conv_in
    if in_channels < old.in_channels:
        raise BaseError(f"a UNet of {old.in_channels} input channels cannot be narrowed to {in_channels}.")
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    new = new.to(device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.get_parameter("bias").copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=in_channels)
    return unet


def make_adapter(config: BaseConfig, vae: AutoencoderKL, image_encoder: CLIPVisionModel) -> AnyModule:
    """An adapter sized from the base: CLIP's token count and width, and the latent grid."""
    vision, photo = image_encoder.config, settings_of(config).photo
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    factor = scale_factor(vae)
    shape = (vae.config.latent_channels, config.resolution[0] // factor, config.resolution[1] // factor)
    how = {"coded": photo.surface_code} if photo.adapter == "grid" else {}
    return ADAPTERS[photo.adapter](shape, tokens, vision.hidden_size, **how)
