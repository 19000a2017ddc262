"""Architectures that `train` can build from scratch, and the widening of a given Stable Diffusion folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from ...bases.config import BaseConfig, PoseWindow, SamplingSettings, TuningSettings
from ...reporting import Note, Progress
from .. import pretrained as components
from ..pretrained import OPENAI_MEAN, OPENAI_STD
from ..small import VELOCITY, resized, small_autoencoder
from .conditioning import unet_inputs
from .network import DreamPose, make_adapter, widen
from .settings import DreamPoseSettings, PhotoSettings, PoseSettings, settings_of
from .surface_code import add_surface_code

MINI = BaseConfig(
    name="mini",
    resolution=(160, 128),
    network=DreamPoseSettings(
        PoseSettings(channels="iuv", to_latents="area"),
        PhotoSettings(adapter="grid", surface_code=True),
    ),
    shift_factor=(0.0,) * 8,
    scaling_factor=(1.0,) * 8,
    poses=PoseWindow(training_fps=12.0),
    sampling=SamplingSettings(sampler="ddim", steps=10, guidance={"image": 1.0, "pose": 1.0}),
    tuning=TuningSettings(
        steps=32,
        learning_rate=1.5e-4,
        batch_size=8,
        decay=0.5,
        part_dropout=0.5,
        # Half of the way from the base loses none of the likeness that the whole way wins, and half of the sharpness.
        weight_interpolation=0.5,
        decoder_steps=80,
        decoder_learning_rate=2e-4,
        decoder_batch_size=4,
        decoder_views=16,
        decoder_predictions=8,
    ),
    people="mannequins",
    estimator="mini",
)

# What the paper says of a base of people (sections 4 and 5), without the slips of the published code: pictures in
# [-1, 1] on the VAE's side, windows that end with the clip, and noise to start from.
PAPER = BaseConfig(
    name="paper",
    resolution=(640, 512),
    network=DreamPoseSettings(),
    poses=PoseWindow(training_fps=30.0),  # the rate of the paper's videos
    tuning=TuningSettings(gradient_checkpointing=True),
    people="people",
    estimator="r50",
)


def new_config() -> BaseConfig:
    """The base that `build` makes where nothing else is asked for."""
    return MINI


def widened_config() -> BaseConfig:
    """The base that a Stable Diffusion is made into."""
    return PAPER


def _pose_window(config: BaseConfig, count: int) -> BaseConfig:
    return replace(config, poses=replace(config.poses, count=count))


def _pose(config: BaseConfig, **settings: Any) -> BaseConfig:
    network = settings_of(config)
    return replace(config, network=replace(network, pose=replace(network.pose, **settings)))


def _photo(config: BaseConfig, **settings: Any) -> BaseConfig:
    network = settings_of(config)
    return replace(config, network=replace(network, photo=replace(network.photo, **settings)))


# The ablations of the paper.
OVERRIDES: dict[str, Callable[[BaseConfig, Any], BaseConfig]] = {
    "--size": resized,
    "--pose-window": _pose_window,
    "--pose-channels": lambda config, channels: _pose(config, channels=channels),
    "--unet-image-input": lambda config, channels: _photo(config, unet_channels=channels),
    "--clip-only": lambda config, only: _photo(config, vae_tokens=not only),
}


def build(seed: int, config: BaseConfig, vae: AutoencoderKL | None = None) -> DreamPose:
    """A new base, with `vae` around that one."""
    return build_mini(seed, config, vae)


def build_mini(seed: int, config: BaseConfig = MINI, vae: AutoencoderKL | None = None) -> DreamPose:
    """The mini architecture at random initialisation: every component of the paper at about a hundredth of the size.

    With `vae` it is built around that one, for which `config` states the statistics of the latents.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = vae or small_autoencoder(config)
        encoder = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=3,
                num_attention_heads=3,
                image_size=112,
                patch_size=16,
                projection_dim=96,
            )
        )
        processor = CLIPImageProcessorPil(
            size={"height": 112, "width": 112},
            do_center_crop=False,
            resample=3,
            image_mean=OPENAI_MEAN,
            image_std=OPENAI_STD,
        )
        latent_channels = vae.config.latent_channels
        unet = UNet2DConditionModel(
            sample_size=(config.resolution[0] // 4, config.resolution[1] // 4),
            in_channels=latent_channels,
            out_channels=latent_channels,
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64, 128),
            layers_per_block=1,
            cross_attention_dim=96,
            attention_head_dim=(1, 4, 4),  # diffusers reads this as the number of heads
            norm_num_groups=8,
        )
        widen(unet, unet_inputs(config, latent_channels))
        # New input channels need no pretrained prediction to protect: from scratch nothing is gained by zeros.
        torch.nn.init.kaiming_uniform_(unet.conv_in.weight, a=5**0.5)
        if settings_of(config).photo.surface_code:
            add_surface_code(unet)
        adapter = make_adapter(config, vae, encoder)
    return _assemble(config, unet, adapter, vae, encoder, processor, dict(VELOCITY))


def from_stable_diffusion(
    source: str,
    image_encoder: str | None,
    config: BaseConfig = PAPER,
    progress: Progress | None = None,
    note: Note | None = None,
) -> DreamPose:
    """Widen a Stable Diffusion in the diffusers layout (unet/, vae/, scheduler/) into a base, as the paper does.

    source and image_encoder (a CLIP, or its vision part; None: the paper's) are folders or repositories on the Hub. The
    adapter is new; its VAE part starts without effect. Raises BaseError where weights are missing or do not fit.
    """
    folder, name = components.stable_diffusion_folder(source, ("unet", "vae"), progress, note)
    clip, clip_name = components.image_encoder_folder(image_encoder, progress, note)
    origin = {"stable_diffusion": name, "image_encoder": clip_name, "licence": components.SD_LICENCE}
    config = replace(config, provenance=origin)
    unet = components.load("unet", folder / "unet", torch.float32)
    vae = components.load("vae", folder / "vae", torch.float32)
    encoder = components.load("image_encoder", clip, torch.float32)
    components.check_widths(unet, encoder)
    widen(unet, unet_inputs(config, vae.config.latent_channels))
    adapter = make_adapter(config, vae, encoder)
    processor = components.image_processor(clip, encoder.config.image_size)
    scheduler = components.schedule(folder / "scheduler")
    return _assemble(config, unet, adapter, vae, encoder, processor, scheduler)


def _assemble(config: BaseConfig, unet, adapter, vae, image_encoder, processor, schedule: dict) -> DreamPose:
    modules = {"unet": unet, "adapter": adapter, "vae": vae, "image_encoder": image_encoder}
    return DreamPose(config, modules, {"image_encoder": processor}, schedule).to("cpu")
