"""MagicAnimate and AnimateAnyone in plain torch, from their files as published: what the network is held against.

Written from the papers and from what the authors' code computes, over the tensors by their published names, without a class
of the package, of diffusers or of transformers but for the autoencoder and CLIP, which are stock in the originals as well.
One row of guidance at a time, no batches; slow and short.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
HEADS = 8


class Weights:
    """Tensors below a prefix."""

    def __init__(self, state: State, prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __getitem__(self, name: str) -> Weights:
        return Weights(self.state, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return any(key.startswith(f"{self.prefix}{name}.") for key in self.state)

    def get(self, name: str) -> Tensor | None:
        return self.state.get(self.prefix + name)

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get("weight"), self.get("bias"))

    def conv(self, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.get("weight")
        return F.conv2d(x, weight, self.get("bias"), stride=stride, padding=weight.shape[-1] // 2)

    def layer_norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.get("weight"), self.get("bias"), 1e-5)

    def group_norm(self, x: Tensor, eps: float, over_frames: bool = False) -> Tensor:
        """x (f, c, h, w): each frame by itself, or all frames of the clip together."""
        x = x.permute(1, 0, 2, 3)[None] if over_frames else x
        x = F.group_norm(x, 32, self.get("weight"), self.get("bias"), eps)
        return x[0].permute(1, 0, 2, 3) if over_frames else x


def attention(w: Weights, x: Tensor, context: Tensor) -> Tensor:
    """x (n, tokens, c) attends to context (n, tokens', c')."""

    def heads(y: Tensor) -> Tensor:
        return y.reshape(y.shape[0], y.shape[1], HEADS, -1).permute(0, 2, 1, 3)

    q, k, v = heads(w["to_q"].linear(x)), heads(w["to_k"].linear(context)), heads(w["to_v"].linear(context))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return w["to_out"]["0"].linear((scores.softmax(-1) @ v).permute(0, 2, 1, 3).flatten(2))


def feed_forward(w: Weights, x: Tensor) -> Tensor:
    value, gate = w["net"]["0"]["proj"].linear(x).chunk(2, -1)
    return w["net"]["2"].linear(value * F.gelu(gate))


def resnet(w: Weights, x: Tensor, time: Tensor, over_frames: bool) -> Tensor:
    y = w["conv1"].conv(F.silu(w["norm1"].group_norm(x, 1e-5, over_frames)))
    y = y + w["time_emb_proj"].linear(F.silu(time))[None, :, None, None]
    y = w["conv2"].conv(F.silu(w["norm2"].group_norm(y, 1e-5, over_frames)))
    return y + (w["conv_shortcut"].conv(x) if "conv_shortcut" in w else x)


def spatial(
    w: Weights, x: Tensor, context: Tensor, name: str, bank: State | None, write: State | None
) -> Tensor | None:
    """The transformer within frames; None where the appearance encoder ends."""
    frames, _, height, width = x.shape
    y = w["proj_in"].conv(w["norm"].group_norm(x, 1e-6)).flatten(2).transpose(1, 2)
    block = w["transformer_blocks"]["0"]
    normed = block["norm1"].layer_norm(y)
    if write is not None:
        write[name] = normed
    if "to_q" not in block["attn1"]:
        return None
    seen = normed
    if bank is not None and name in bank:
        seen = torch.cat([normed, bank[name].repeat(frames, 1, 1)], dim=1)
    y = y + attention(block["attn1"], normed, seen)
    y = y + attention(block["attn2"], block["norm2"].layer_norm(y), context.repeat(frames, 1, 1))
    y = y + feed_forward(block["ff"], block["norm3"].layer_norm(y))
    return x + w["proj_out"].conv(y.transpose(1, 2).unflatten(2, (height, width)))


def motion(w: Weights, x: Tensor) -> Tensor:
    """The motion module: x (f, c, h, w), attention over the frames of each place."""
    w = w["temporal_transformer"]
    frames, _, height, width = x.shape
    y = w["norm"].group_norm(x, 1e-6).permute(2, 3, 0, 1).flatten(0, 1)  # (h w, f, c)
    y = w["proj_in"].linear(y)
    block = w["transformer_blocks"]["0"]
    for number in ("0", "1"):
        attn = block["attention_blocks"][number]
        placed = block["norms"][number].layer_norm(y) + attn["pos_encoder"].get("pe")[:, :frames]
        y = y + attention(attn, placed, placed)
    y = y + feed_forward(block["ff"], block["ff_norm"].layer_norm(y))
    return x + w["proj_out"].linear(y).unflatten(0, (height, width)).permute(2, 3, 0, 1)


def time_embedding(w: Weights, t: float, width: int) -> Tensor:
    half = width // 2
    angles = t * torch.exp(-math.log(10000.0) * torch.arange(half) / half)
    return w["linear_2"].linear(F.silu(w["linear_1"].linear(torch.cat([angles.cos(), angles.sin()]))))


def unet(
    state: State,
    x: Tensor,
    t: float,
    context: Tensor,
    *,
    moving: State | None = None,
    over_frames: bool = False,
    bank: State | None = None,
    write: State | None = None,
    residuals: list[Tensor] | None = None,
    features: Tensor | None = None,
) -> Tensor | None:
    """One row: x (f, 4, h, w), context (1, tokens, c)."""
    w, m = Weights(state), Weights(moving or {})
    time = time_embedding(w["time_embedding"], t, w["conv_in"].get("weight").shape[0])

    def layer(block: str, number: int, x: Tensor) -> Tensor | None:
        place = f"{block}.attentions.{number}"
        x = resnet(w[block]["resnets"][str(number)], x, time, over_frames)
        if place in w:
            x = spatial(w[place], x, context, f"{place}.transformer_blocks.0", bank, write)
        here = f"{block}.motion_modules.{number}"
        return motion(m[here], x) if x is not None and here in m else x

    x = w["conv_in"].conv(x)
    x = x if features is None else x + features
    skips = [x]
    for i in range(4):
        for j in range(2):
            x = layer(f"down_blocks.{i}", j, x)
            skips.append(x)
        if i < 3:
            x = w[f"down_blocks.{i}"]["downsamplers"]["0"]["conv"].conv(x, stride=2)
            skips.append(x)
    mid = w["mid_block"]
    x = resnet(mid["resnets"]["0"], x, time, over_frames)
    x = spatial(mid["attentions"]["0"], x, context, "mid_block.attentions.0.transformer_blocks.0", bank, write)
    if "mid_block" in m:
        x = motion(m["mid_block"]["motion_modules"]["0"], x)
    x = resnet(mid["resnets"]["1"], x, time, over_frames)
    if residuals is not None:
        *down, middle = residuals
        skips, x = [a + b for a, b in zip(skips, down, strict=True)], x + middle
    for i in range(4):
        for j in range(3):
            x = layer(f"up_blocks.{i}", j, torch.cat([x, skips.pop()], dim=1))
            if x is None:
                return None
        if i < 3:
            x = F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest")
            x = w[f"up_blocks.{i}"]["upsamplers"]["0"]["conv"].conv(x)
    if "conv_out" not in w:
        return None
    return w["conv_out"].conv(F.silu(w["conv_norm_out"].group_norm(x, 1e-5, over_frames)))


def pose_features(w: Weights, picture: Tensor) -> Tensor:
    """The conditioning embedding: picture (f, 3, H, W) in [0, 1]."""
    x = F.silu(w["conv_in"].conv(picture))
    for i in range(6):
        x = F.silu(w["blocks"][str(i)].conv(x, stride=1 + i % 2))
    return w["conv_out"].conv(x)


def controlnet(state: State, x: Tensor, t: float, context: Tensor, picture: Tensor) -> list[Tensor]:
    """The 12 residuals of the skips and that of the middle."""
    w = Weights(state)
    time = time_embedding(w["time_embedding"], t, w["conv_in"].get("weight").shape[0])
    x = w["conv_in"].conv(x) + pose_features(w["controlnet_cond_embedding"], picture)
    skips = [x]
    for i in range(4):
        block = w[f"down_blocks.{i}"]
        for j in range(2):
            x = resnet(block["resnets"][str(j)], x, time, False)
            x = spatial(block["attentions"][str(j)], x, context, "", None, None) if "attentions" in block else x
            skips.append(x)
        if i < 3:
            x = block["downsamplers"]["0"]["conv"].conv(x, stride=2)
            skips.append(x)
    mid = w["mid_block"]
    x = resnet(mid["resnets"]["0"], x, time, False)
    x = spatial(mid["attentions"]["0"], x, context, "", None, None)
    x = resnet(mid["resnets"]["1"], x, time, False)
    residuals = [w[f"controlnet_down_blocks.{i}"].conv(skip) for i, skip in enumerate(skips)]
    return [*residuals, w["controlnet_mid_block"].conv(x)]


# The loop


def alphas(zero_snr: bool) -> Tensor:
    """alpha_bar of 1000 timesteps with linear betas; rescaled to end in pure noise (Lin et al. 2023, algorithm 1)."""
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085, 0.012, 1000), 0)
    if not zero_snr:
        return alpha_bar
    root = alpha_bar.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root**2


def timesteps(steps: int, trailing: bool) -> list[int]:
    if trailing:
        return [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    return [i * (1000 // steps) + 1 for i in reversed(range(steps))]


def ddim(x: Tensor, prediction: Tensor, t: int, before: int, alpha_bar: Tensor, velocity: bool) -> Tensor:
    """One deterministic step from t to `before`, which may lie below zero: there nothing is noise."""
    a, b = alpha_bar[t], alpha_bar[before] if before >= 0 else torch.tensor(1.0)
    if velocity:
        clean, noise = a.sqrt() * x - (1 - a).sqrt() * prediction, a.sqrt() * prediction + (1 - a).sqrt() * x
    else:
        clean, noise = (x - (1 - a).sqrt() * prediction) / a.sqrt(), prediction
    return b.sqrt() * clean + (1 - b).sqrt() * noise


def windows(frames: int, size: int, overlap: int) -> list[list[int]]:
    if frames <= size:
        return [list(range(frames))]
    starts = range(0, frames, size - overlap)
    return [[(start + k) % frames for k in range(size)] for start in starts]


def denoise(
    noise: Tensor,
    steps: int,
    guidance: float,
    predict: Callable[[Tensor, int, list[int]], tuple[Tensor, Tensor]],
    *,
    size: int,
    overlap: int = 4,
    velocity: bool = False,
) -> Tensor:
    """Noise (N, 4, h, w) -> latents; `predict(x, t, window)` gives the null and the full prediction of a window."""
    alpha_bar, order = alphas(velocity), timesteps(steps, trailing=velocity)
    x = noise
    for t in order:
        null, full, count = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(len(x), 1, 1, 1)
        for window in windows(len(x), size, overlap):
            u, c = predict(x[window], t, window)
            null[window] += u
            full[window] += c
            count[window] += 1
        null, full = null / count, full / count
        x = ddim(x, null + guidance * (full - null), t, t - 1000 // steps, alpha_bar, velocity)
    return x
