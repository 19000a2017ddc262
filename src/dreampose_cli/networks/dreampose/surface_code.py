"""The surface code: what lets cross-attention compare points of the body (`PhotoSettings.surface_code`).

An addition to the paper, off by default. A pose frame says of each pixel which point of the body it shows: part I, chart
coordinates U, V. `surface_code` writes that as numbers whose inner products are large for the same point and small for
others. A learned linear map P in each cross-attention layer adds P code(target pose) to the queries and P code(photo's pose)
to the keys of the photo's tokens: queries and keys that agree on the body's surface find each other whatever the two poses
are, as relative position encodings do for points of a sequence (Shaw et al., 2018). What is fetched, and whether it fits,
the network decides as before; null image and null pose have the code zero.

Where training begins decides whether it is found at all: P starts as a factor of a kernel that compares two points
(`kernel`), so that untrained attention already looks at the right part of the photo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from ...poses.sequence import PARTS

WAVES = (1, 2, 4, 8)  # half periods along a chart's side
CODE = 1 + PARTS + 4 * len(WAVES)  # numbers a pixel: the body's mask, the part, the waves of U and V

# The parts of DensePose that are one limb: torso, hands, feet, upper legs, lower legs, upper arms, lower arms, head; and the
# pairs that are front and back of the same limb.
LIMBS = ((1, 2), (3, 4), (5, 6), (7, 8, 9, 10), (11, 12, 13, 14), (15, 16, 17, 18), (19, 20, 21, 22), (23, 24))
FRONT_AND_BACK = ((1, 2), (7, 9), (8, 10), (11, 13), (12, 14), (15, 17), (16, 18), (19, 21), (20, 22))
SAME_PART, SAME_SIDE, SAME_LIMB, SAME_PLACE = 3.0, 3.0, 6.0, 10.0


def surface_code(pose: Tensor, factor: int) -> Tensor:
    """A pose (B, 3, H, W) as I in 0..24, U and V in [0, 1] -> its code (B, CODE, H / factor, W / factor), cell means.

    Per pixel: 1 on the body; one-hot the part; sin and cos of pi k U and pi k V for k in WAVES. Zero off the body.
    """
    part = pose[:, 0].round().long()
    body = (part > 0).unsqueeze(1)
    places = torch.cat(
        [wave(math.pi * k * pose[:, i : i + 1]) for i in (1, 2) for k in WAVES for wave in (_sin, _cos)], 1
    )
    labels = F.one_hot(part, PARTS + 1)[..., 1:].permute(0, 3, 1, 2)
    code = torch.cat([body.to(pose), labels.to(pose), places * body], dim=1)
    return F.avg_pool2d(code, factor)


_sin, _cos = torch.sin, torch.cos


def kernel() -> Tensor:
    """The likeness of two points of the body, as a bilinear form of their codes: (CODE, CODE), symmetric, no negative eigenvalue.

    The same part counts SAME_PART, the same part but for front and back SAME_SIDE, the same kind of limb SAME_LIMB, and
    agreeing U and V at most SAME_PLACE.
    """
    form = torch.zeros(CODE, CODE)
    parts = torch.arange(1, PARTS + 1)
    form[parts, parts] += SAME_PART
    single = set(range(1, PARTS + 1)) - {part for pair in FRONT_AND_BACK for part in pair}
    for groups, weight in (((*FRONT_AND_BACK, *((part,) for part in single)), SAME_SIDE), (LIMBS, SAME_LIMB)):
        for group in groups:
            for a in group:
                form[a, list(group)] += weight
    waves = torch.arange(1 + PARTS, CODE)
    form[waves, waves] += SAME_PLACE / (2 * len(WAVES))
    return form


def initial_map(heads: int, width: int) -> Tensor:
    """The first weight of a layer's map P, (heads * width, CODE): `width` rows for each head, which begin alike.

    The best approximation of `kernel` of that rank, for points spread evenly over the parts; scaled so that a head's
    attention scores, which are divided by the root of its width, begin as the kernel itself.
    """
    spread = _spread()
    values, vectors = torch.linalg.eigh(spread)
    root = vectors @ torch.diag(values.clamp(min=1e-6).sqrt()) @ vectors.T
    inverse = vectors @ torch.diag(values.clamp(min=1e-6).rsqrt()) @ vectors.T
    values, vectors = torch.linalg.eigh(root @ kernel().double() @ root)
    rank = min(width, CODE)
    factor = (vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()).T @ inverse
    rows = torch.zeros(width, CODE, dtype=torch.float64)
    rows[:rank] = factor * width**0.25
    return rows.repeat(heads, 1).float()


def _spread() -> Tensor:
    """Second moments of the code over points that are spread evenly over the parts and their charts: (CODE, CODE)."""
    side = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    u, v = torch.meshgrid(side, side, indexing="ij")
    charts = torch.stack([torch.stack([torch.full_like(u, part), u, v]) for part in range(1, PARTS + 1)])
    code = surface_code(charts, 1).transpose(0, 1).flatten(1)
    return code @ code.T / code.shape[1]


Kept: TypeAlias = dict[nn.Module, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SurfaceQuery:
    """The layers' inputs of B target frames: code (B, CODE, h, w) of their poses, and `image` (B,), 1 where
    the photo is seen and 0 where it is null; None: everywhere.

    kept: keys and values of the photos' tokens, which a layer computes once and finds here at the next steps and frames;
    None where weights learn, and they change from step to step.
    """

    code: Tensor
    image: Tensor | None = None
    kept: Kept | None = None

    def level(self, positions: int) -> tuple[int, int]:
        """Height and width of the level of the UNet that has so many positions."""
        height, width = self.code.shape[-2:]
        while height * width > positions:
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


def _resized(grid: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Values on a grid (B, h w, k) of `size` averaged to another: (B, h' w', k)."""
    if size == to:
        return grid
    return F.adaptive_avg_pool2d(grid.transpose(1, 2).unflatten(2, size), to).flatten(2).transpose(1, 2)


class SelfAttention(AttnProcessor2_0):
    """diffusers' own attention for the layers next to those that take a `SurfaceQuery`; on the finest level each position looks
    at the frame in half the size, which costs a quarter."""

    def __call__(self, attn: Attention, hidden_states: Tensor, *args, surface: SurfaceQuery | None = None, **kwargs):
        assert surface is not None  # None is there for diffusers, which reads the signature
        height, width = surface.code.shape[-2:]
        size = (height, width)
        if hidden_states.shape[1] == size[0] * size[1]:
            return super().__call__(
                attn, hidden_states, _resized(hidden_states, size, surface.level(size[0] * size[1] - 1))
            )
        return super().__call__(attn, hidden_states, *args, **kwargs)


class SurfaceAttention(nn.Module):
    """Cross-attention of target frames to a photo's tokens, with the surface code on queries and keys.

    The tokens (R, T, D + CODE) of R photos end with the code of the photo's pose at each token, zero where it has none; the
    last of them lie on the latent grid, and each level of the UNet looks at them averaged to its own resolution. Target
    frames (B, N, C) follow photo by photo, B / R of each, so that keys and values are computed once for each photo.
    """

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.code = nn.Linear(CODE, heads * width, bias=False)
        with torch.no_grad():
            self.code.weight.copy_(initial_map(heads, width))

    def __call__(  # diffusers reads from its signature what it may hand over
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        surface: SurfaceQuery | None = None,
    ) -> Tensor:
        batch, positions, _ = hidden_states.shape
        photos = encoder_hidden_states.shape[0]
        assert surface is not None
        height, width = surface.code.shape[-2:]
        size = (height, width)
        level, cells = surface.level(positions), height * width
        here = F.adaptive_avg_pool2d(surface.code, level).flatten(2).transpose(1, 2)
        query = attn.to_q(hidden_states) + self.code(here.to(hidden_states))
        if surface.kept is not None and self in surface.kept:
            key, value = surface.kept[self]
        else:
            if encoder_hidden_states.shape[1] > cells:
                loose, grid = encoder_hidden_states.tensor_split([encoder_hidden_states.shape[1] - cells], dim=1)
                encoder_hidden_states = torch.cat([loose, _resized(grid, size, level)], dim=1)
            tokens, code = encoder_hidden_states.split([encoder_hidden_states.shape[-1] - CODE, CODE], dim=-1)
            key, value = attn.to_k(tokens) + self.code(code), attn.to_v(tokens)
            if surface.kept is not None:
                surface.kept[self] = key, value
        query, key, value = (x.reshape(photos, -1, attn.heads, x.shape[-1] // attn.heads) for x in (query, key, value))
        seen = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        seen = seen.transpose(1, 2).reshape(batch, positions, -1)
        if surface.image is not None:  # tokens that are zero would give zero
            seen = seen * surface.image.view(-1, 1, 1).to(seen)
        return attn.to_out[1](attn.to_out[0](seen))


def add_surface_code(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give the attention of `unet` the surface code, in place: `SurfaceAttention` where it looks at the photo."""
    processors = {}
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            cross = name.endswith("attn2")
            width = module.inner_dim // module.heads
            processors[f"{name}.processor"] = SurfaceAttention(module.heads, width) if cross else SelfAttention()
    unet.set_attn_processor(processors)
    return unet
