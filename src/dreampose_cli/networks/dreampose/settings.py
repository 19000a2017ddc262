"""The settings of the DreamPose family: how photo and poses reach the UNet (paper sections 4.2 and 4.3). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...bases.families import FamilySettings

if TYPE_CHECKING:
    from ...bases.config import BaseConfig


@dataclass(frozen=True)
class PoseSettings:
    """The channels that a pose window becomes at the UNet's input (paper section 4.3)."""

    channels: str = "uv"  # "uv" as in the paper, "iuv" with the part label
    range: tuple[float, float] = (0.0, 1.0)  # where [0, 1] is mapped to; the part label counts as I / 24
    null: float = 0.0  # the null pose: this value everywhere, after the mapping
    to_latents: str = "nearest"  # to the latent grid: "nearest" (every f-th pixel) or "area"


@dataclass(frozen=True)
class PhotoSettings:
    """The ways by which the photo reaches the UNet (paper section 4.2)."""

    condition_range: tuple[float, float] = (-1.0, 1.0)  # the VAE's input range for the image condition
    null_transposed: bool = False  # the official null image is encoded with height and width swapped
    # "pooled": four VAE tokens as published; "spatial": a coarse grid of VAE tokens; "grid": one in each latent cell
    adapter: str = "pooled"
    surface_code: bool = False  # cross-attention compares points of the body (`surface_code`); needs "grid"
    vae_tokens: bool = True  # False: the ablation "CLIP only"
    unet_channels: str = "none"  # photo channels concatenated at the UNet input: "none", or its "latents"
    start: str = "noise"  # sampling starts from "noise", or "photo": its noised latents, as the official code does
    start_range: tuple[float, float] = (-1.0, 1.0)  # the VAE's input range for start="photo"

    def __post_init__(self) -> None:
        if self.surface_code and self.adapter != "grid":
            raise ValueError(f'photo.surface_code needs photo.adapter "grid", not "{self.adapter}"')


def settings_of(config: BaseConfig) -> DreamPoseSettings:
    """The family's own part of the config of one of its bases."""
    assert isinstance(config.network, DreamPoseSettings)
    return config.network


@dataclass(frozen=True)
class DreamPoseSettings(FamilySettings):
    """The family's own part of `base.json`."""

    pose: PoseSettings = field(default_factory=PoseSettings)
    photo: PhotoSettings = field(default_factory=PhotoSettings)

    @property
    def modules(self) -> dict[str, str]:
        return {
            "unet": "diffusers:UNet2DConditionModel",
            "adapter": "",
            "vae": "diffusers:AutoencoderKL",
            "image_encoder": "transformers:CLIPVisionModel",
        }

    @property
    def processors(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {"image_encoder": ("transformers:CLIPImageProcessorPil", ("preprocessor_config.json",))}

    @property
    def facts(self) -> tuple[str, ...]:
        tokens = "CLIP and VAE tokens" if self.photo.vae_tokens else "CLIP tokens only"
        return f"pose channels {self.pose.channels}", tokens, f"photo channels {self.photo.unet_channels}"

    @property
    def needs_photo_pose(self) -> bool:
        return self.photo.adapter == "grid"

    @property
    def sees_several_photos(self) -> bool:
        return self.photo.surface_code

    @property
    def needs_parts(self) -> bool:
        return self.pose.channels == "iuv" or self.needs_photo_pose
