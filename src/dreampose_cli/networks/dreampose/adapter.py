"""The adapter A of the paper (section 4.2, figure 4): CLIP tokens and VAE latents become the cross-attention context.

"pooled" and "spatial" start out as the identity on the CLIP tokens: whatever carries VAE information is initialised to
zero, so that a pretrained UNet first sees what CLIP alone would give it. "grid" is for bases that are trained from scratch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...poses.sequence import PARTS
from .surface_code import CODE, surface_code


class PooledAdapter(nn.Module):
    """The published adapter: four VAE tokens, one per latent channel, mixed into the CLIP tokens over the token axis.

    Parameter names are the official ones (`vae2clip`, `linear1`), so its checkpoints load as they are. The official
    sizes (1280, 768, 50) follow from a 512 x 640 base; here they follow from `latent_shape` = (C, h, w),
    `tokens` and `width`.
    """

    def __init__(self, latent_shape: tuple[int, int, int], tokens: int, width: int):
        super().__init__()
        channels, height, wide = latent_shape
        self.vae2clip = nn.Linear((height // 2) * (wide // 2), width)
        self.linear1 = nn.Linear(tokens + channels, tokens)
        with torch.no_grad():
            self.linear1.weight.copy_(torch.eye(tokens, tokens + channels))
            self.linear1.bias.zero_()

    def forward(self, clip: Tensor, latents: Tensor | None) -> Tensor:
        """clip (B, T, D), latents (B, C, h, w) or None for CLIP only -> context (B, T, D)."""
        if latents is None:
            vae = clip.new_zeros(clip.shape[0], self.linear1.in_features - clip.shape[1], clip.shape[2])
        else:
            vae = self.vae2clip(F.max_pool2d(latents, 2).flatten(2))  # (B, C, D)
        mixed = self.linear1(torch.cat([clip, vae], dim=1).transpose(1, 2))  # (B, D, T): linear over the token axis
        return mixed.transpose(1, 2)


class SpatialAdapter(nn.Module):
    """VAE tokens that stay spatial: a strided convolution to a grid, learned positions, one transformer layer over all.

    The four pooled tokens of `PooledAdapter` need a very long training before they carry texture; a grid carries it
    after minutes at small size. The VAE tokens' projection starts at zero.
    """

    def __init__(self, latent_shape: tuple[int, int, int], tokens: int, width: int, hidden: int = 64, stride: int = 4):
        super().__init__()
        channels, height, wide = latent_shape
        self.tokens = tokens
        grid = math.ceil(height / stride) * math.ceil(wide / stride)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, width, stride, stride=stride),
        )
        self.positions = nn.Parameter(torch.randn(1, grid, width) * 0.02)
        self.clip_norm = nn.LayerNorm(width)
        self.mix = nn.TransformerEncoderLayer(
            width, max(1, width // 32), 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        nn.init.zeros_(self.convolutions[-1].get_parameter("weight"))
        nn.init.zeros_(self.convolutions[-1].get_parameter("bias"))

    def forward(self, clip: Tensor, latents: Tensor | None) -> Tensor:
        """clip (B, T, D), latents (B, C, h, w) or None for CLIP only -> context (B, T + grid, D)."""
        context = self.clip_norm(clip)
        if latents is not None:
            vae = self.convolutions(latents).flatten(2).transpose(1, 2)
            context = torch.cat([context, vae + self.positions], dim=1)
        return self.mix(context)


class GridAdapter(nn.Module):
    """A VAE token in each cell of the latent grid, next to CLIP's: what the photo shows there, and of which point of the body.

    A convolution and residual blocks over the photo's latents, its pose and its pose's `surface_code`. With `coded`, for
    bases with a surface code, the tokens end with the code itself, which the attention layers take off again; CLIP's
    tokens lie nowhere on the body, and theirs is zero.
    """

    def __init__(self, latent_shape: tuple[int, int, int], tokens: int, width: int, coded: bool = False, blocks: int = 3):
        super().__init__()
        channels, height, wide = latent_shape
        self.tokens, self.cells, self.width, self.coded = tokens, height * wide, width, coded
        groups = math.gcd(8, width)
        self.clip = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.enter = nn.Conv2d(channels + 3 + CODE, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(groups, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(groups, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def context_size(self, vae_tokens: bool = True) -> tuple[int, int]:
        """Tokens and numbers a token of the context."""
        return self.tokens + self.cells * vae_tokens, self.width + CODE * self.coded

    def forward(self, clip: Tensor, latents: Tensor | None, pose: Tensor) -> Tensor:
        """clip (B, T, D), latents (B, C, h, w) or None for CLIP only, pose (B, 3, H, W) as I, U, V of the photo ->
        context (B, T + h w, D), with a code (B, T + h w, D + CODE)."""
        context = self.clip(clip)
        code = None
        if latents is not None:
            factor = pose.shape[-1] // latents.shape[-1]
            code = surface_code(pose.float(), factor).to(latents)
            places = F.avg_pool2d(torch.cat([pose[:, :1] / PARTS, pose[:, 1:]], dim=1), factor).to(latents)
            x = self.enter(torch.cat([latents, places, code], dim=1))
            for block in self.blocks:
                x = x + block(x)
            context = torch.cat([context, self.norm(x.flatten(2).transpose(1, 2))], dim=1)
        if not self.coded:
            return context
        codes = context.new_zeros(*context.shape[:2], CODE)
        if code is not None:
            codes[:, clip.shape[1] :] = code.flatten(2).transpose(1, 2)
        return torch.cat([context, codes], dim=2)


ADAPTERS = {"pooled": PooledAdapter, "spatial": SpatialAdapter, "grid": GridAdapter}
