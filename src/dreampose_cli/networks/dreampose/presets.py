"""Architectures that `train` can build from scratch, and the widening of a given Stable Diffusion folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from ...bases.config import BaseConfig, PoseWindow, SamplingSettings, TuningSettings
from .. import pretrained as components
from ..network import scale_factor
from ..pretrained import OPENAI_MEAN, OPENAI_STD
from .conditioning import unet_inputs
from .network import DreamPose, make_adapter, widen
from .settings import DreamPoseSettings, PhotoSettings, PoseSettings, settings_of
from .surface_code import add_surface_code

# SD's noise schedule. Zero terminal SNR would suit a small base better, but PNDM divides by alpha_bar_T.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "skip_prk_steps": True,
    "clip_sample": False,
}

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
        decoder_steps=40,
        decoder_learning_rate=2e-4,
        decoder_batch_size=4,
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


def build_mini(seed: int, config: BaseConfig = MINI, vae: AutoencoderKL | None = None) -> DreamPose:
    """The mini architecture at random initialisation: every component of the paper at about a hundredth of the size.

    With `vae` it is built around that one, for which `config` states the statistics of the latents.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = vae or AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 32, 64),
            layers_per_block=1,
            latent_channels=len(config.scaling_factor),
            norm_num_groups=8,
            mid_block_add_attention=False,  # it is trained on crops and sees whole frames
            sample_size=config.resolution[0],
            scaling_factor=1.0,
        )
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
        widen(unet, unet_inputs(config, latent_channels, scale_factor(vae)))
        # New input channels need no pretrained prediction to protect: from scratch nothing is gained by zeros.
        torch.nn.init.kaiming_uniform_(unet.conv_in.weight, a=5**0.5)
        if settings_of(config).photo.surface_code:
            add_surface_code(unet)
        adapter = make_adapter(config, vae, encoder)
    schedule = {**SCHEDULE, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "set_alpha_to_one": True}
    return _assemble(config, unet, adapter, vae, encoder, processor, schedule)


def from_stable_diffusion(
    stable_diffusion: Path, image_encoder: Path, config: BaseConfig = PAPER, dtype: torch.dtype = torch.float32
) -> DreamPose:
    """Widen a Stable Diffusion in the diffusers layout (unet/, vae/, scheduler/) into a base, as the paper does.

    `image_encoder` is a folder of a CLIP or of its vision part. The adapter is new; its VAE part starts without effect.
    Raises BaseError where weights are missing or do not fit.
    """
    unet = components.load("unet", stable_diffusion / "unet", dtype)
    vae = components.load("vae", stable_diffusion / "vae", dtype)
    encoder = components.load("image_encoder", image_encoder, dtype)
    components.check_widths(unet, encoder)
    widen(unet, unet_inputs(config, vae.config.latent_channels, scale_factor(vae)))
    adapter = make_adapter(config, vae, encoder).to(dtype)
    processor = components.image_processor(image_encoder, encoder.config.image_size)
    scheduler = components.schedule(stable_diffusion / "scheduler")
    return _assemble(config, unet, adapter, vae, encoder, processor, scheduler)


def _assemble(config: BaseConfig, unet, adapter, vae, image_encoder, processor, schedule: dict) -> DreamPose:
    modules = {"unet": unet, "adapter": adapter, "vae": vae, "image_encoder": image_encoder}
    return DreamPose(config, modules, {"image_encoder": processor}, schedule).to("cpu")
