"""Reference attention: what the appearance network's self-attention sees is joined to the denoising UNet's keys and values.

    write:  bank[block] = x,                   attention(x)
    read:   queries x, keys and values from [x, bank[block]] by the UNet's own projections

x is the input of a block's self-attention, after its norm. Blocks of the two networks are paired by name (MagicAnimate,
section 3.2; AnimateAnyone, section 3.2). The bank is a value that travels with the call, as `reference` in the
`cross_attention_kwargs` of diffusers: no layer keeps any of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn import functional as F

from ..network import AnyModule

Bank = dict[str, Tensor]  # self-attention inputs (photos, tokens, channels) by the name of their transformer block
_SELF_ATTENTION = ".attn1.processor"
_MIDDLE_AND_UP = ("mid_block.", "up_blocks.")


@dataclass(frozen=True)
class Reading:
    """Which rows of a batch read which photo of a bank.

    seeing: indices of the rows that read it, None for all of them; photo: for each row the photo in the bank.
    """

    bank: Bank
    photo: Tensor
    seeing: Tensor | None = None


class PlainAttention(AttnProcessor2_0):
    """Attention as it is, next to layers that read or write; where weights learn on a CPU, in 32 bits."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, reference=None):
        if not (torch.is_grad_enabled() and hidden_states.device.type == "cpu") or hidden_states.dim() != 3:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        found = attend(attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context), attn.heads)
        return attn.to_out[1](attn.to_out[0](found))


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of `heads` heads on a CPU: (B, N, C), (B, M, C), (B, M, C) -> (B, N, C).

    The fused kernel and its backward take 1.3 to 4 times as long in bfloat16 as in float32 at the small network's sizes, and
    plain products in bfloat16 up to three times as long.
    """
    batch, kind = len(query), query.dtype
    query, key, value = (x.float().reshape(batch, x.shape[1], heads, -1).transpose(1, 2) for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        seen = F.scaled_dot_product_attention(query, key, value)
    return seen.transpose(1, 2).flatten(2).to(kind)


class WriteReference(PlainAttention):
    """Self-attention whose input is left in the bank under the block's name."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.block = block

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, reference=None):
        reference[self.block] = hidden_states
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class ReadReference(PlainAttention):
    """Self-attention of rows that see the photo over their own tokens and the photo's; of all others over their own."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.block = block

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, reference=None):
        if reference is None or (reference.seeing is not None and len(reference.seeing) == 0):
            return super().__call__(attn, hidden_states)
        states = reference.bank[self.block].to(hidden_states)
        if reference.seeing is None:
            return self._joined(attn, hidden_states, states, reference.photo)
        # Rows never mix, so the plain attention of all rows is right for those that see nothing.
        blind = torch.ones(len(hidden_states), dtype=torch.bool, device=hidden_states.device)
        blind[reference.seeing] = False
        result = torch.empty_like(hidden_states)
        result[blind] = super().__call__(attn, hidden_states[blind])
        seen = hidden_states[reference.seeing]
        result[reference.seeing] = self._joined(attn, seen, states, reference.photo[reference.seeing])
        return result

    def _joined(self, attn, rows: Tensor, states: Tensor, photo: Tensor) -> Tensor:
        photos = states.expand(len(rows), -1, -1) if len(states) == 1 else states[photo]
        return super().__call__(attn, rows, encoder_hidden_states=torch.cat([rows, photos], dim=1))


def write_reference(unet: AnyModule, fused_blocks: str) -> list[str]:
    """Make the self-attention of the fused blocks of `unet` write; returns their names."""
    return _install(unet, fused_blocks, WriteReference)


def read_reference(unet: AnyModule, fused_blocks: str) -> list[str]:
    """Make the self-attention of the fused blocks of `unet` read; returns their names."""
    return _install(unet, fused_blocks, ReadReference)


def attend_plainly(module: AnyModule) -> None:
    """Make all attention of a ControlNet `PlainAttention`."""
    module.set_attn_processor({name: PlainAttention() for name in module.attn_processors})


def _install(unet: AnyModule, fused_blocks: str, kind: type) -> list[str]:
    processors, fused = {}, []
    for name, old in unet.attn_processors.items():
        block = name.removesuffix(_SELF_ATTENTION)
        if ".motion_modules." in name:
            processors[name] = old  # over time: takes no part in any of this
        elif name.endswith(_SELF_ATTENTION) and _is_fused(name, fused_blocks):
            processors[name] = kind(block)
            fused.append(block)
        else:
            processors[name] = PlainAttention()
    unet.set_attn_processor(processors)
    return fused


def _is_fused(name: str, fused_blocks: str) -> bool:
    return fused_blocks == "full" or (fused_blocks == "midup" and name.startswith(_MIDDLE_AND_UP))
