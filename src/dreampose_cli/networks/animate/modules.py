"""The modules of the family that no library describes by a config of its own, sized from the UNet next to them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import Tensor, nn

from .. import pretrained
from ..network import AnyModule
from .appearance import cut_tail
from .settings import AnimateSettings

GUIDER_WIDTHS = (16, 32, 96, 256)  # of the pose guider, as of every ControlNet's conditioning embedding


class EmptyPrompt(nn.Module):
    """The empty prompt as Stable Diffusion's text encoder gives it, all that is needed of one: a buffer (1, T, D)."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.register_buffer("tokens", tokens)


def build_module(name: str, settings: AnimateSettings, unet: AnyModule) -> nn.Module:
    """The module `name` without its weights: "appearance", "control" (a pose guider) or "prompt"."""
    if name == "appearance":
        return cut_tail(UNet2DConditionModel.from_config(plain_config(unet)))
    if name == "control":
        return ControlNetConditioningEmbedding(unet.config.block_out_channels[0], 3, GUIDER_WIDTHS)
    return EmptyPrompt(torch.zeros(1, settings.prompt_tokens, plain_config(unet)["cross_attention_dim"]))


def add_motion(unet: UNet2DConditionModel, settings: AnimateSettings) -> UNetMotionModel:
    """A UNet with motion modules, shaped as `unet`; neither has weights: both are on the meta device."""
    with torch.device("meta"):
        return UNetMotionModel.from_unet2d(unet, _adapter(unet, settings), load_weights=False)


def start_motion(unet: UNet2DConditionModel, settings: AnimateSettings, seed: int) -> UNetMotionModel:
    """The same UNet, its weights shared, with new motion modules that change nothing yet: what they give out starts at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = _adapter(unet, settings)
    for name, value in adapter.named_parameters():
        if ".proj_out." in name:
            nn.init.zeros_(value)
    with torch.device("meta"):
        shape = UNet2DConditionModel.from_config(plain_config(unet))
        moving = UNetMotionModel.from_unet2d(shape, _adapter(unet, settings), load_weights=False)
    moving.load_state_dict({**unet.state_dict(), **adapter.state_dict()}, assign=True)
    return moving


def _adapter(unet: AnyModule, settings: AnimateSettings) -> MotionAdapter:
    config = unet.config
    return MotionAdapter(
        block_out_channels=tuple(config.block_out_channels),
        motion_layers_per_block=config.layers_per_block,
        motion_num_attention_heads=8,
        motion_norm_num_groups=config.norm_num_groups,
        motion_max_seq_length=settings.motion_positions,
        use_motion_mid_block=settings.motion_mid_block,
    )


def begin_as_copy(control: AnyModule, unet: AnyModule) -> None:
    """Give a ControlNet whose outputs are all zero, in place, the weights of the UNet's layers that it has too."""
    if control.controlnet_mid_block.weight.any() or any(part.weight.any() for part in control.controlnet_down_blocks):
        return
    there, own = unet.state_dict(), control.state_dict()
    control.load_state_dict({name: there.get(name, value) for name, value in own.items()})


def motion_count(unet: AnyModule, mid_block: bool) -> int:
    """How many motion modules a UNet gets: one a layer, downwards and upwards, and one in the middle if asked for."""
    return sum(len(block.resnets) for block in (*unet.down_blocks, *unet.up_blocks)) + mid_block


def plain_config(unet: AnyModule) -> dict:
    """The config of a `UNet2DConditionModel` with the shape of `unet`, which may have motion modules."""
    if isinstance(unet, UNet2DConditionModel):
        return dict(unet.config)
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    known = ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block", "act_fn", "norm_eps",
             "downsample_padding", "mid_block_scale_factor", "norm_num_groups", "cross_attention_dim",
             "transformer_layers_per_block", "use_linear_projection", "encoder_hid_dim", "encoder_hid_dim_type")  # fmt: skip
    plain = {key: config[key] for key in known if config.get(key) is not None}
    for blocks in ("down_block_types", "up_block_types"):
        plain[blocks] = tuple(f"{kind.removesuffix('Motion')}2D" for kind in config[blocks])
    # diffusers reads attention_head_dim of Stable Diffusion 1 as the number of heads.
    return {**plain, "attention_head_dim": config["num_attention_heads"]}


def empty_prompt(stable_diffusion: Path) -> EmptyPrompt:
    """BOS, EOS and padding up to the encoder's length, without a mask, through all layers and the final norm."""
    encoder, tokenizer = pretrained.text_encoder(stable_diffusion)
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    ids = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return EmptyPrompt(encoder(ids).last_hidden_state)
