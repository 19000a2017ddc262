"""What the small networks have in common that `train` builds from scratch, whatever their family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import AutoencoderKL

from ..bases.config import BaseConfig
from ..errors import UsageError

# Stable Diffusion's noise schedule. Zero terminal SNR would suit a small base better, but PNDM divides by alpha_bar_T.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "skip_prk_steps": True,
    "clip_sample": False,
}
VELOCITY = {**SCHEDULE, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "set_alpha_to_one": True}


def resized(config: BaseConfig, size: tuple[int, int]) -> BaseConfig:
    """The base at another size (height, width). UsageError where the levels of its networks do not divide it."""
    step = 64 if config.people == "people" else 16  # a latent cell times the levels of the UNet
    if any(side % step or side < 2 * step for side in size):
        raise UsageError(
            f"--size is {size[1]}x{size[0]}, but width and height must be multiples of {step}, from {2 * step} on, for this base."
        )
    return replace(config, resolution=size)


def small_autoencoder(config: BaseConfig) -> AutoencoderKL:
    """An autoencoder at random initialisation, 4 pixels a latent, with as many channels as `config` has scaling factors."""
    return AutoencoderKL(
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
