"""The forward pass of the family's UNets: Stable Diffusion's, with one more layer over time where there are motion modules.

The layers are those of diffusers (`UNetMotionModel`, `UNet2DConditionModel`); the pass is written out here because it
differs from both of theirs: in what the norms take their statistics over, in where a pose enters, and in that the
appearance network ends with the last self-attention that is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..network import AnyModule


def forward(
    unet: AnyModule,
    latents: Tensor,
    timestep: Tensor,
    tokens: Tensor,
    *,
    frames: int = 1,
    reference: Any = None,
    features: Tensor | None = None,
    residuals: Sequence[Tensor] | None = None,
    clip_norms: bool = False,
) -> Tensor | None:
    """Latents (clips * frames, C, h, w) -> the prediction in their shape; None of an appearance network, which has no end.

    timestep (clips,); tokens (clips * frames, T, D); `reference` is handed to the attention layers; pose `features`
    (clips * frames, C0, h, w) are added after the first convolution, a ControlNet's `residuals` to the skips and, the last
    one, to the middle. `clip_norms`: the residual blocks take their statistics over all frames of a clip.
    A clip of one frame has no motion, and passes the motion modules by. Where gradients are computed and the blocks'
    checkpointing is on, activations are computed twice.
    """
    embedding = unet.time_embedding(unet.time_proj(timestep).to(latents.dtype))  # (clips, E)
    resnet = clip_resnet if clip_norms else frame_resnet

    def attend(attention: AnyModule, x: Tensor) -> Tensor:
        return attention(
            x, encoder_hidden_states=tokens, cross_attention_kwargs={"reference": reference}, return_dict=False
        )[0]

    def layer(residual: AnyModule, attention: AnyModule | None, motion: AnyModule | None, x: Tensor) -> Tensor:
        x = resnet(residual, x, embedding)
        x = x if attention is None else attend(attention, x)
        return x if motion is None or frames == 1 else motion(x, num_frames=frames)

    # An appearance network's layers leave their bank behind: those are computed once.
    twice = unet.conv_out is not None and torch.is_grad_enabled() and unet.mid_block.gradient_checkpointing

    def compute(parts: tuple[nn.Module, nn.Module | None, nn.Module | None], x: Tensor) -> Tensor:
        return checkpoint(layer, *parts, x, use_reentrant=False) if twice else layer(*parts, x)

    x = unet.conv_in(latents)
    if features is not None:
        x = x + features
    skips = [x]
    for block in unet.down_blocks:
        for parts in _layers(block):
            x = compute(parts, x)
            skips.append(x)
        for downsample in block.downsamplers or ():
            x = downsample(x)
            skips.append(x)

    middle = unet.mid_block
    x = resnet(middle.resnets[0], x, embedding)
    for residual, attention, motion in _layers(middle, first=1):
        x = attend(attention, x)
        x = x if motion is None or frames == 1 else motion(x, num_frames=frames)
        x = resnet(residual, x, embedding)

    if residuals is not None:
        for i, added in enumerate(residuals[:-1]):
            skips[i] = skips[i] + added
        x = x + residuals[-1]
    for block in unet.up_blocks:
        for parts in _layers(block):
            x = compute(parts, torch.cat([x, skips.pop()], dim=1))
        for upsample in block.upsamplers or ():
            x = upsample(x, output_size=skips[-1].shape[-2:])  # of odd sizes twice the size is not the skip's

    if unet.conv_out is None:
        return None
    x = over_clip(unet.conv_norm_out, x, len(embedding)) if clip_norms else unet.conv_norm_out(x)
    return unet.conv_out(F.silu(x))


def _layers(block: AnyModule, first: int = 0) -> Iterator[tuple[AnyModule, AnyModule | None, AnyModule | None]]:
    """The (resnet, attention or None, motion module or None) of a block, in order."""
    resnets = list(block.resnets)[first:]
    nothing = [None] * len(resnets)
    attentions = list(getattr(block, "attentions", None) or nothing)
    motions = list(getattr(block, "motion_modules", None) or nothing)
    return zip(resnets, attentions, motions, strict=True)


def frame_resnet(layer: AnyModule, x: Tensor, embedding: Tensor) -> Tensor:
    """A residual block on x (clips * frames, C, h, w), each frame by itself; embedding (clips, E)."""
    return layer(x, embedding.repeat_interleave(len(x) // len(embedding), dim=0))


def clip_resnet(layer: AnyModule, x: Tensor, embedding: Tensor) -> Tensor:
    """The same with the statistics of both norms taken over all frames of a clip."""
    clips = len(embedding)
    frames = len(x) // clips
    shift = layer.time_emb_proj(F.silu(embedding)).repeat_interleave(frames, dim=0)[:, :, None, None]
    hidden = layer.conv1(F.silu(over_clip(layer.norm1, x, clips))) + shift
    hidden = layer.conv2(F.silu(over_clip(layer.norm2, hidden, clips)))
    return (x if layer.conv_shortcut is None else layer.conv_shortcut(x)) + hidden


def over_clip(norm: nn.GroupNorm, x: Tensor, clips: int) -> Tensor:
    """A GroupNorm on x (clips * frames, C, h, w) with its statistics taken over all frames of a clip."""
    frames = len(x) // clips
    joined = x.unflatten(0, (clips, frames)).transpose(1, 2)  # (clips, C, frames, h, w)
    return norm(joined).transpose(1, 2).reshape(x.shape)


class FrameNorm(nn.GroupNorm):
    """The norm of a motion module on (clips, C, frames, h, w), with its statistics taken over each frame.

    diffusers takes them over the clip, which no published motion module was trained with.
    """

    def forward(self, x: Tensor) -> Tensor:
        clips, _, frames = x.shape[:3]
        folded = x.transpose(1, 2).flatten(0, 1)
        if torch.is_grad_enabled() and not folded.requires_grad:
            # Of an input without a gradient in channels_last, torch's backward on a CPU writes through a null pointer.
            folded = folded.contiguous()
        return super().forward(folded).unflatten(0, (clips, frames)).transpose(1, 2)


def norm_motion_by_frame(unet: AnyModule) -> int:
    """Put a `FrameNorm` into each motion module of `unet` in place of its norm; returns how many there are."""
    count = 0
    for name, module in unet.named_modules():
        if ".motion_modules." in name and name.rpartition(".")[0].endswith(".motion_modules"):
            old = module.norm
            module.norm = FrameNorm(old.num_groups, old.num_channels, old.eps, device=old.weight.device)
            module.norm.load_state_dict(old.state_dict(), assign=True)
            count += 1
    return count


def clip_norm_count(unet: AnyModule) -> int:
    """The number of norms that this pass takes over clips with `clip_norms`: two a residual block, and the last one.

    Raises ValueError where `unet` has a norm that the pass does not know of: it would be computed over frames.
    """
    blocks = [unet.mid_block, *unet.down_blocks, *unet.up_blocks]
    known = [norm for block in blocks for layer in block.resnets for norm in (layer.norm1, layer.norm2)]
    known.append(unet.conv_norm_out)
    elsewhere = (".attentions.", ".motion_modules.")  # over frames in every member of the family
    found = [
        module
        for name, module in unet.named_modules()
        if isinstance(module, nn.GroupNorm) and not any(part in name for part in elsewhere)
    ]
    if {id(norm) for norm in known} != {id(norm) for norm in found}:
        raise ValueError(f"{len(found)} norms lie outside of attention and motion, and {len(known)} of them are known")
    return len(known)
