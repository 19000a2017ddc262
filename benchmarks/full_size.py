"""DreamPose at its real size (Stable Diffusion 1.4, CLIP ViT-B/32, 512 wide x 640 high) without its weights.

For budgets, benchmarks and tests: with random weights, or with none at all on the meta device. What can be measured on it is
time and memory, never quality.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from dreampose_cli.bases.config import BaseConfig
from dreampose_cli.networks.dreampose.conditioning import unet_inputs
from dreampose_cli.networks.dreampose.network import DreamPose, make_adapter
from dreampose_cli.networks.dreampose.presets import PAPER
from dreampose_cli.networks.pretrained import OPENAI_MEAN, OPENAI_STD
from dreampose_cli.networks.small import SCHEDULE

# TFLOP at 512x640, two per multiplication and addition: one UNet row, one decode, one encode.
ROW_TFLOP, DECODE_TFLOP, ENCODE_TFLOP = 1.04, 3.15, 1.41


def build_full_size(
    device: torch.device | str = "meta", dtype: torch.dtype = torch.float32, config: BaseConfig | None = None
) -> DreamPose:
    """The published architecture as a base, its weights random, or absent on the "meta" device."""
    config = config or replace(PAPER, name="full-size")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that no float32 copy of it is ever held
    try:
        with torch.device(device):
            unet = UNet2DConditionModel(
                sample_size=64,
                in_channels=unet_inputs(config, 4),
                block_out_channels=(320, 640, 1280, 1280),
                layers_per_block=2,
                cross_attention_dim=768,
                attention_head_dim=8,  # diffusers reads this as the number of heads
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            )
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                sample_size=512,
            )
            encoder = CLIPVisionModel(
                CLIPVisionConfig(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=12,
                    num_attention_heads=12,
                    image_size=224,
                    patch_size=32,
                )
            )
            adapter = make_adapter(config, vae, encoder)
    finally:
        torch.set_default_dtype(before)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=OPENAI_MEAN,
        image_std=OPENAI_STD,
    )
    schedule = {**SCHEDULE, "prediction_type": "epsilon", "timestep_spacing": "leading"}
    modules = {"unet": unet, "adapter": adapter, "vae": vae, "image_encoder": encoder}
    base = DreamPose(config, modules, {"image_encoder": processor}, schedule)
    for module in base.modules.values():
        module.eval()
    return base
