"""The appearance network: a copy of the UNet that ends with the last self-attention input that is read."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..network import AnyModule
from .reference_attention import Bank
from .unet import forward


class LastAttention(nn.Module):
    """The rest of the last spatial transformer: the way to the input of its self-attention, which goes to the bank.

    Names of weights as in diffusers' `Transformer2DModel`: norm, proj_in, transformer_blocks.0.norm1.
    """

    def __init__(self, whole: AnyModule, block: str) -> None:
        super().__init__()
        self.norm, self.proj_in = whole.norm, whole.proj_in
        first: AnyModule = nn.Module()
        first.norm1 = whole.transformer_blocks[0].norm1
        self.transformer_blocks: Any = nn.ModuleList([first])
        self.block = block

    def forward(self, x: Tensor, cross_attention_kwargs: dict, **_: object) -> tuple[Tensor]:
        tokens = self.norm(x)
        if isinstance(self.proj_in, nn.Linear):  # Stable Diffusion 2
            tokens = self.proj_in(tokens.flatten(2).transpose(1, 2))
        else:
            tokens = self.proj_in(tokens).flatten(2).transpose(1, 2)
        cross_attention_kwargs["reference"][self.block] = self.transformer_blocks[0].norm1(tokens)
        return (x,)


def cut_tail(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Turn a UNet, in place, into an appearance network: what nothing reads is left out."""
    last = unet.up_blocks[-1].attentions
    name = f"up_blocks.{len(unet.up_blocks) - 1}.attentions.{len(last) - 1}.transformer_blocks.0"
    last[-1] = LastAttention(last[-1], name)
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
    return unet


def read_photos(unet: UNet2DConditionModel, latents: Tensor, timestep: Tensor, tokens: Tensor) -> Bank:
    """The bank of photos: clean latents (P, C, h, w), timestep (P,), tokens (P, T, D)."""
    bank: Bank = {}
    forward(unet, latents, timestep, tokens, reference=bank)
    return bank
