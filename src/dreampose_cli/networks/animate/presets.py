"""What `train` can begin with in this family: a small network from scratch, or Stable Diffusion next to a pose ControlNet.

Both are of MagicPose's kind (arXiv 2311.12052), which is PoseMaster Fusion's too: an appearance network whose
self-attention inputs join those of the denoising UNet in every block, a pose ControlNet, frames denoised one by one until
motion modules are added (`motion.with_motion`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from ...bases.config import BaseConfig, PoseWindow, SamplingSettings, TuningSettings
from ...bases.pipelines import OPENPOSE_CONTROLNET, STABLE_DIFFUSION_15, pipeline_folder
from ...errors import BaseError
from ...reporting import Note, Progress
from .. import pretrained
from ..network import AnyModule, scale_factor
from ..small import VELOCITY, resized, small_autoencoder
from .appearance import cut_tail
from .modules import EmptyPrompt, empty_prompt
from .network import AnimateNetwork
from .settings import MAGICPOSE, settings_of

SMALL = BaseConfig(
    name="fusion",
    family="animate",
    resolution=(160, 128),
    # The photo is read once and not every step; nothing is said, so one token of zeros says it.
    network=replace(MAGICPOSE, reference_timestep="zero", prompt_tokens=1),
    shift_factor=(0.0,) * 8,
    scaling_factor=(1.0,) * 8,
    poses=PoseWindow(count=1),
    sampling=SamplingSettings(sampler="ddim", steps=20, guidance={"image": 1.5}),
    tuning=TuningSettings(steps=100, learning_rate=1e-4, decoder_steps=40, decoder_learning_rate=2e-4, lora_rank=16),
    people="mannequins",
    estimator="mini",
)
PEOPLE = BaseConfig(
    name="fusion",
    family="animate",
    resolution=(512, 512),
    network=MAGICPOSE,
    poses=PoseWindow(count=1),
    sampling=SamplingSettings(sampler="ddim", steps=50, guidance={"image": 7.0}),
    tuning=TuningSettings(decoder_steps=500, lora_rank=16, gradient_checkpointing=True),
)
# All that is read of a Stable Diffusion: not its index, nor what only some tokenizers have.
_NEEDED = replace(
    STABLE_DIFFUSION_15,
    files=tuple(
        name
        for name in STABLE_DIFFUSION_15.files
        if name not in ("model_index.json", "tokenizer/special_tokens_map.json")
    ),
)


def new_config() -> BaseConfig:
    """The base that `build` makes where nothing else is asked for."""
    return SMALL


def widened_config() -> BaseConfig:
    """The base that a Stable Diffusion is made into."""
    return PEOPLE


def _null_pose(config: BaseConfig, choice: str) -> BaseConfig:
    return replace(config, network=replace(settings_of(config), null_sees_pose=choice == "keep"))


def _reference(config: BaseConfig, choice: str) -> BaseConfig:
    changes: dict[str, Any] = {"all": {}, "global": {"reference_tokens": "mean"}, "none": {"fused_blocks": "none"}}[choice]
    return replace(config, network=replace(settings_of(config), **changes))


def _keypoints(config: BaseConfig, _yes: bool) -> BaseConfig:
    return replace(config, poses=replace(config.poses, kind="keypoints"), estimator="dwpose")


OVERRIDES: dict[str, Callable[[BaseConfig, Any], BaseConfig]] = {
    "--size": resized,
    "--null-pose": _null_pose,
    "--reference": _reference,
    "keypoints": _keypoints,
}


def build(seed: int, config: BaseConfig = SMALL, vae: AutoencoderKL | None = None) -> AnimateNetwork:
    """A small network of the family at random initialisation, with `vae` around that one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = vae or small_autoencoder(config)
        factor = scale_factor(vae)
        unet = UNet2DConditionModel(
            sample_size=(config.resolution[0] // factor, config.resolution[1] // factor),
            in_channels=vae.config.latent_channels,
            out_channels=vae.config.latent_channels,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64, 96),
            layers_per_block=1,
            cross_attention_dim=32,
            # Diffusers reads this as the number of heads; at full size fewer of them, of 16 channels, take half the time.
            attention_head_dim=(2, 4, 4),
            norm_num_groups=8,
        )
        # As many halvings as there are from a picture to its latents.
        widths = (16, 32, 64, 96)[: factor.bit_length()]
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths)
        prompt = EmptyPrompt(torch.zeros(1, settings_of(config).prompt_tokens, 32))
    return _assembled(config, unet, control, vae, prompt, dict(VELOCITY))


def from_stable_diffusion(
    source: str, control: str | None, config: BaseConfig, progress: Progress | None, note: Note | None
) -> AnimateNetwork:
    """A Stable Diffusion 1.5 and a pose ControlNet for it (None: the one for OpenPose skeletons), folders or repositories on
    the Hub, as a network before its training: the appearance network is a copy of the UNet.

    Raises BaseError where weights are missing or do not fit.
    """
    folder, name = pipeline_folder(_NEEDED, source, progress=progress, note=note)
    steering, control_name = pipeline_folder(OPENPOSE_CONTROLNET, control, progress=progress, note=note)
    unet = pretrained.load("unet", folder / "unet", torch.float32)
    controlnet = pretrained.load("control", steering, torch.float32)
    _require_fitting(unet, controlnet, name, control_name)
    vae = pretrained.load("vae", folder / "vae", torch.float32)
    prompt: AnyModule = empty_prompt(folder)
    if config.resolution == PEOPLE.resolution:  # no other was asked for: the size at which the UNet is at home
        side = (unet.config.sample_size or 64) * scale_factor(vae)
        height, width = (round(length * side / 512 / 8) * 8 for length in config.resolution)
        config = replace(config, resolution=(height, width))
    config = replace(
        config,
        network=replace(settings_of(config), prompt_tokens=prompt.tokens.shape[1]),
        provenance={
            "stable_diffusion": _last(name),
            "control": _last(control_name),
            "licence": f"{pretrained.SD_LICENCE}; the pose control's own, {OPENPOSE_CONTROLNET.licence} of the default one",
        },
    )
    return _assembled(config, unet, controlnet, vae, prompt, pretrained.schedule(folder / "scheduler"))


def _last(name: str) -> str:
    """A repository as it is called, a folder by its last name: a base that is given away names no path."""
    return Path(name).name if Path(name).is_absolute() else name


def _require_fitting(unet: AnyModule, control: AnyModule, name: str, control_name: str) -> None:
    """BaseError unless the ControlNet was made for a UNet of this shape."""
    for key, what in (
        ("block_out_channels", "blocks of {} channels"),
        ("cross_attention_dim", "tokens of width {}"),
        ("in_channels", "latents of {} channels"),
        ("layers_per_block", "{} layers a block"),
    ):
        ours, theirs = _plain(unet.config[key]), _plain(control.config[key])
        if ours != theirs:
            raise BaseError(
                f"the pose control {control_name} is for {what.format(theirs)}, but the UNet of {name} has "
                f"{what.format(ours)}; choose another with --control."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _assembled(config: BaseConfig, unet, control, vae, prompt, schedule: dict[str, Any]) -> AnimateNetwork:
    appearance = cut_tail(copy.deepcopy(unet))
    modules = {"unet": unet, "appearance": appearance, "control": control, "vae": vae, "prompt": prompt}
    return AnimateNetwork(config, modules, {}, schedule).to("cpu")
