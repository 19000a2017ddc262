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
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from ...poses.sequence import PARTS

WAVES = (1, 2, 4, 8)  # half periods along a chart's side
CODE = 1 + PARTS + 4 * len(WAVES)  # numbers a pixel: the body's mask, the part, the waves of U and V

# The parts of DensePose that are one limb: torso, hands, feet, upper legs, lower legs, upper arms, lower arms, head; and the
# pairs that are front and back of the same limb.
LIMBS = ((1, 2), (3, 4), (5, 6), (7, 8, 9, 10), (11, 12, 13, 14), (15, 16, 17, 18), (19, 20, 21, 22), (23, 24))
FRONT_AND_BACK = ((1, 2), (7, 9), (8, 10), (11, 13), (12, 14), (15, 17), (16, 18), (19, 21), (20, 22))
BLOCK = 2**21  # attention weights at once
SAME_PART, SAME_SIDE, SAME_LIMB, SAME_PLACE = 3.0, 3.0, 6.0, 10.0


def surface_code(pose: Tensor, factor: int) -> Tensor:
    """A pose (B, 3, H, W) as I in 0..24, U and V in [0, 1] -> its code (B, CODE, H / factor, W / factor), cell means.

    Per pixel: 1 on the body; one-hot the part; sin and cos of pi k U and pi k V for k in WAVES. Zero off the body.
    """
    batch, _, height, width = pose.shape
    rows, columns = height // factor, width // factor
    part = pose[:, 0].round().long()
    # Each pixel is counted in its own cell: planes of 24 labels in full resolution would take the time of a layer.
    cell = (torch.arange(height) // factor).view(-1, 1) * columns + torch.arange(width) // factor
    places = part * (rows * columns) + cell.to(part.device)
    counts = pose.new_zeros(batch, (PARTS + 1) * rows * columns)
    counts.scatter_add_(1, places.flatten(1), torch.full_like(pose[:, 0], factor**-2).flatten(1))
    counts = counts.view(batch, PARTS + 1, rows, columns)
    waves = torch.cat(
        [wave(math.pi * k * pose[:, i : i + 1]) for i in (1, 2) for k in WAVES for wave in (torch.sin, torch.cos)], 1
    )
    waves = F.avg_pool2d(waves * (part > 0).unsqueeze(1), factor)
    return torch.cat([counts[:, 1:].sum(1, keepdim=True), counts[:, 1:], waves], dim=1)


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
    """Second moments of the code over points that are spread evenly over the parts and their charts: (CODE, CODE).

    A point's place on its chart has nothing to do with its part, so one chart says all.
    """
    side = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    u, v = torch.meshgrid(side, side, indexing="ij")
    code = surface_code(torch.stack([torch.ones_like(u), u, v])[None], 1)[0].flatten(1)
    moments = code @ code.T / code.shape[1]
    parts, waves = slice(1, 1 + PARTS), slice(1 + PARTS, CODE)
    moments[parts, parts] = torch.eye(PARTS, dtype=torch.float64) / PARTS
    moments[parts, 0] = moments[0, parts] = 1 / PARTS
    moments[parts, waves] = moments[:1, waves] / PARTS
    moments[waves, parts] = moments[waves, :1] / PARTS
    return moments


Kept: TypeAlias = dict[nn.Module, tuple[Tensor, Tensor]]
Level: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class SurfaceQuery:
    """The layers' inputs of B target frames that follow N subjects, B / N of each, at every level of the UNet (h, w), finest first.

    codes: (B, h w, CODE) of the targets' poses; tokens: (N, T, D) and their own codes (N, T, CODE), the tokens of a subject's
    photos with those on the latent grid averaged to the level; image (B,), 1 where they are seen and 0 where the
    image is null; None: seen everywhere.

    kept: keys and values of the photos' tokens, which a layer computes once and finds here at the next steps and frames;
    None where weights learn, and they change from step to step.
    """

    codes: dict[Level, Tensor]
    tokens: dict[Level, tuple[Tensor, Tensor]]
    image: Tensor | None = None
    kept: Kept | None = None

    @classmethod
    def of(
        cls,
        code: Tensor,
        tokens: Tensor,
        levels: int,
        image: Tensor | None = None,
        kept: Kept | None = None,
        together: int = 1,
    ) -> SurfaceQuery:
        """The code (B, CODE, h, w) and the tokens of photos (P, T, D + CODE), which end with theirs, averaged to so many levels of
        the UNet; `together` photos after one another become the tokens of one subject.

        Once for all the layers of a level; where all have kept what they make of the tokens, these are not needed.
        """
        finest = (code.shape[-2], code.shape[-1])
        sizes = [finest]
        for _ in range(levels - 1):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        codes = {size: F.adaptive_avg_pool2d(code, size).flatten(2).transpose(1, 2) for size in sizes}
        seen = {}
        if not kept:
            parts = tokens.split([tokens.shape[-1] - CODE, CODE], dim=-1)
            for size in sizes:
                at_level = [_averaged(part, finest, size).unflatten(0, (-1, together)).flatten(1, 2) for part in parts]
                seen[size] = (at_level[0], at_level[1])
        return cls(codes, seen, image, kept)

    def level(self, positions: int) -> Level:
        """Height and width of the level of the UNet that has so many positions."""
        return next(size for size in self.codes if size[0] * size[1] == positions)

    @property
    def levels(self) -> list[Level]:
        return list(self.codes)


def _resized(grid: Tensor, size: Level, to: Level) -> Tensor:
    """Values on a grid (B, h w, k) of `size` averaged to another: (B, h' w', k)."""
    return F.adaptive_avg_pool2d(grid.transpose(1, 2).unflatten(2, size), to).flatten(2).transpose(1, 2)


def _averaged(tokens: Tensor, finest: Level, to: Level) -> Tensor:
    """Tokens (N, T, D), the last of which lie on the `finest` grid if there are enough of them, averaged to another."""
    cells = finest[0] * finest[1]
    if to == finest or tokens.shape[1] < cells:
        return tokens
    loose, grid = tokens.tensor_split([tokens.shape[1] - cells], dim=1)
    return torch.cat([loose, _resized(grid, finest, to)], dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of `heads` heads: (B, N, C), (B, M, C), (B, M, C) -> (B, N, C)."""
    batch, width = query.shape[0], query.shape[-1] // heads
    query, key, value = (x.reshape(batch, -1, heads, width).transpose(1, 2) for x in (query, key, value))
    if query.requires_grad and query.device.type == "cpu":
        seen = attend_in_blocks(query, key, value)
    else:
        seen = F.scaled_dot_product_attention(query, key, value)
    return seen.transpose(1, 2).flatten(2)


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, block: int = BLOCK) -> Tensor:
    """`F.scaled_dot_product_attention` as plain products, of about `block` weights at once, for training on CPUs.

    The fused kernel's backward took up to eight times as long on one CPU and a fifth longer on another, and all weights at once
    a quarter longer (bfloat16; `benchmarks/training.py attention`). (B, heads, N, C), (B, heads, M, C), (B, heads, M, D) ->
    (B, heads, N, D).
    """
    batch, heads, positions, width = query.shape
    row = heads * key.shape[-2]  # weights of one position
    rows = min(positions, max(1, block // row))
    many = max(1, block // (row * positions)) if rows == positions else 1

    query = query * width**-0.5

    def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v

    if rows == positions and many >= batch:
        return products(query, key, value)
    found = []
    for q, k, v in zip(query.split(many), key.split(many), value.split(many), strict=True):
        found.append(torch.cat([products(part, k, v) for part in q.split(rows, 2)], dim=2))
    return torch.cat(found)


class SelfAttention:
    """Attention among a frame's own positions in a UNet whose other attention takes a `SurfaceQuery`; on the finest level each
    position looks at the frame in half the size, which costs a quarter."""

    def __call__(  # diffusers reads from its signature what it may hand over, and gives what has no default
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        surface: SurfaceQuery | None = None,
    ) -> Tensor:
        assert surface is not None
        finest, *lower = surface.levels
        seen = hidden_states
        if lower and surface.level(hidden_states.shape[1]) == finest:
            seen = _resized(hidden_states, finest, lower[0])
        found = attend(attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen), attn.heads)
        return attn.to_out[1](attn.to_out[0](found))


class SurfaceAttention(nn.Module):
    """Cross-attention of target frames to the tokens of a subject's photos, with the surface code on queries and keys.

    Target frames (B, N, C) follow subject by subject, B / R of each of R, so that keys and values are computed once for
    each. The tokens are the query's: those that diffusers hands on lie on the latent grid, whatever the level.
    """

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.code = nn.Linear(CODE, heads * width, bias=False)
        with torch.no_grad():
            self.code.weight.copy_(initial_map(heads, width))

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        surface: SurfaceQuery | None = None,
    ) -> Tensor:
        assert surface is not None  # None is there for diffusers, which reads the signature
        level = surface.level(hidden_states.shape[1])
        query = attn.to_q(hidden_states) + self.code(surface.codes[level].to(hidden_states))
        if surface.kept is not None and self in surface.kept:
            key, value = surface.kept[self]
        else:
            tokens, code = surface.tokens[level]
            key, value = attn.to_k(tokens) + self.code(code), attn.to_v(tokens)
            if surface.kept is not None:
                surface.kept[self] = key, value
        by_photo = query.reshape(len(key), -1, query.shape[-1])
        seen = attend(by_photo, key, value, attn.heads).reshape(query.shape)
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
