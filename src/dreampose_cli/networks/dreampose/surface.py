"""Photo channels of kind "surface": the photo's texture carried to where its surface points are in the target pose.

A pose frame says for each pixel which surface point of the body it shows (part I, chart coordinates U, V). A photo
with its own pose is therefore a partial texture of that body, and a target pose says where each texel goes. DensePose
Transfer (Neverova et al., ECCV 2018) builds a network on this; here it is an input of the UNet, an option next to the
paper's conditioning (`PhotoSettings.unet_channels`), which carries pattern and print at sizes where cross-attention
alone does not. The network still decides everything: what is hidden in the photo, skirts, hair, folds, the face.

Charts must be symmetric for the fall-backs (the mannequins' charts are: see `mannequins.figure`): (front, U, V) and
(back, U, V) are opposite surface points, and left and right limbs are mirror images with equal (U, V).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...poses.sequence import PARTS
from ..network import each

TEXELS = 32  # side of one chart in the atlas, a power of two
OPPOSITE = {1: 2, 2: 1, 7: 9, 9: 7, 8: 10, 10: 8, 11: 13, 13: 11, 12: 14, 14: 12}
OPPOSITE |= {15: 17, 17: 15, 16: 18, 18: 16, 19: 21, 21: 19, 20: 22, 22: 20}
MIRROR = {3: 4, 5: 6, 7: 8, 9: 10, 11: 12, 13: 14, 15: 16, 17: 18, 19: 20, 21: 22, 23: 24}
MIRROR |= {b: a for a, b in MIRROR.items()}


def _fallbacks() -> Tensor:
    """(4, 25): for each part the chart to read: its own, its opposite, its mirror image, the mirror's opposite."""
    own = torch.arange(PARTS + 1)
    opposite = torch.tensor([OPPOSITE.get(i, i) for i in range(PARTS + 1)])
    mirror = torch.tensor([MIRROR.get(i, i) for i in range(PARTS + 1)])
    return torch.stack([own, opposite, mirror, opposite[mirror]])


FALLBACKS = _fallbacks()


@dataclass(frozen=True)
class Surface:
    """A photo as a partial texture: where in the photo each texel is seen, and how surely.

    photo (B, 3, H, W) in [-1, 1]; atlas (B, 4, 25 A, A), the charts below one another, chart 0 (background) empty: x and
    y in [-1, 1] (grid_sample's units), the confidence in [0, 1] that the texel itself was seen, and that of the chart
    that stands in for it where it was not.
    """

    photo: Tensor
    atlas: Tensor

    def each(self, rows: int) -> Surface:
        """The surfaces of N photos for `rows` target poses, rows / N of each in turn; of one photo without copying."""
        return Surface(each(self.photo, rows), each(self.atlas, rows))


def surface_channels(factor: int) -> int:
    """The number of channels that `transfer` gives on a latent grid of 1/factor: colour, the body's mask, two confidences."""
    return 3 * factor * factor + factor * factor + 2


def build_surface(photo: Tensor, pose: Tensor) -> Surface:
    """photo (B, 3, H, W) in [-1, 1], its pose (B, 3, H, W) as I, U, V -> the texture the photo shows."""
    batch, _, height, width = photo.shape
    device = photo.device
    part, u, v = pose[:, 0].round().long(), pose[:, 1], pose[:, 2]  # (B, H, W)
    ys = ((torch.arange(height, device=device) + 0.5) * 2 / height - 1).view(1, height, 1).expand(batch, -1, width)
    xs = ((torch.arange(width, device=device) + 0.5) * 2 / width - 1).view(1, 1, width).expand(batch, height, -1)
    shown = part > 0
    chart = (torch.arange(batch, device=device).view(-1, 1, 1) * (PARTS + 1) + part)[shown]
    values = torch.stack([xs[shown], ys[shown], torch.ones_like(u[shown])], dim=-1).float()  # (body pixels, 3)
    a, b = u[shown] * TEXELS - 0.5, v[shown] * TEXELS - 0.5  # in texels, from the first one's centre
    a0, b0 = a.floor(), b.floor()
    atlas = torch.zeros(batch * (PARTS + 1) * TEXELS * TEXELS, 3, device=device)
    for da in (0, 1):
        for db in (0, 1):  # each pixel is splatted on its four nearest texels
            weight = (1 - (a - a0 - da).abs()) * (1 - (b - b0 - db).abs())
            column = (a0 + da).clamp(0, TEXELS - 1).long()
            row = (b0 + db).clamp(0, TEXELS - 1).long()
            atlas.index_add_(0, (chart * TEXELS + row) * TEXELS + column, values * weight.unsqueeze(-1))
    atlas = atlas.view(batch * (PARTS + 1), TEXELS, TEXELS, 3).permute(0, 3, 1, 2)
    seen = (atlas[:, 2:] / 0.25).clamp(max=1.0)  # a quarter of a pixel in a texel counts as seen
    seen = F.max_pool2d(seen, (5, 7), stride=1, padding=(2, 3))  # a thin limb has fewer pixels than texels
    coordinates, reach = _fill(atlas[:, :2], atlas[:, 2:])
    confidence = torch.where(reach > 0, 0.05 + 0.95 * seen, torch.zeros_like(seen))
    charts = torch.cat([coordinates, confidence], dim=1).view(batch, PARTS + 1, 3, TEXELS, TEXELS)
    chosen = torch.cat([charts, charts[:, :, 2:]], dim=2)  # x, y, own, best
    for rank, other in enumerate(FALLBACKS.to(device)[1:], start=1):
        stand_in = charts[:, other]
        trust = stand_in[:, :, 2:] * (0.9 - 0.1 * rank)
        better = trust > chosen[:, :, 3:]
        chosen[:, :, :2] = torch.where(better, stand_in[:, :, :2], chosen[:, :, :2])
        chosen[:, :, 3:] = torch.where(better, trust, chosen[:, :, 3:])
    return Surface(photo.float(), chosen.transpose(1, 2).reshape(batch, 4, (PARTS + 1) * TEXELS, TEXELS))


def _fill(total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Push-pull: weighted means where there is weight, coarser means where there is none. Returns means and reach."""
    side = total.shape[-1]
    if side <= 1:
        return total / weight.clamp(min=1e-6), weight
    coarse, reach = _fill(F.avg_pool2d(total, 2), F.avg_pool2d(weight, 2))
    coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")
    reach = F.interpolate(reach, scale_factor=2, mode="nearest")
    trust = (weight / 0.05).clamp(max=1.0)
    fine = total / weight.clamp(min=1e-6)
    return torch.where(weight > 0, trust * fine + (1 - trust) * coarse, coarse), torch.maximum(weight, reach)


def transfer(surface: Surface, pose: Tensor, factor: int) -> Tensor:
    """Carry a photo's texture to a target pose, on the latent grid.

    surface of B photos, pose (B, 3, H, W) as I, U, V -> (B, surface_channels(factor), H / factor, W / factor): the
    carried colours in [-1, 1] and the body's mask in {0, 1}, both at full resolution with pixels folded into channels,
    and two confidences in [0, 1]: that the point itself was seen, and that its fall-back was.
    """
    height, width = pose.shape[-2:]
    colours, body, own, best = carry(surface, pose)
    return torch.cat(
        [
            F.pixel_unshuffle(colours, factor),
            F.pixel_unshuffle(body, factor),
            F.avg_pool2d(own, factor),
            F.avg_pool2d(best, factor),
        ],
        dim=1,
    )


def carry(surface: Surface, pose: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `transfer`, at full resolution: colours (B, 3, H, W), body, own and best confidence (B, 1, H, W)."""
    height, width = pose.shape[-2:]
    device = pose.device
    part = pose[:, 0].round()
    body = (part > 0).float().unsqueeze(1)
    half = 0.5 / TEXELS  # between the outermost texel centres a chart does not bleed into its neighbours
    x = pose[:, 1].clamp(half, 1 - half) * 2 - 1
    y = (part + pose[:, 2].clamp(half, 1 - half)) * 2 / (PARTS + 1) - 1
    found = F.grid_sample(surface.atlas, torch.stack([x, y], dim=-1), mode="bilinear", align_corners=False)
    chosen = found[:, :2]
    own, best = found[:, 2:3] * body, found[:, 3:] * body
    # Around the body (hair, skirts, folds) nothing has coordinates: what is near the body moves with it.
    ys = (torch.arange(height, device=device) + 0.5) * 2 / height - 1
    xs = (torch.arange(width, device=device) + 0.5) * 2 / width - 1
    here = torch.stack([xs.view(1, -1).expand(height, -1), ys.view(-1, 1).expand(-1, width)])  # (2, H, W)
    known = (best > 0).float()
    shift = _extend((chosen - here) * known, known)
    where = (here + torch.where(known > 0, chosen - here, shift)).permute(0, 2, 3, 1)
    colours = F.grid_sample(surface.photo, where, mode="bilinear", padding_mode="border", align_corners=False)
    return colours, body, own, best


def _extend(total: Tensor, weight: Tensor, levels: int = 5) -> Tensor:
    """Push-pull over the picture: the field `total / weight` continued smoothly to where weight is 0."""
    if levels == 0 or min(total.shape[-2:]) < 2:
        return total.sum((2, 3), keepdim=True).expand_as(total) / weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
    size = total.shape[-2:]
    pooled = F.avg_pool2d(total, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)
    coarse = F.interpolate(_extend(*pooled, levels - 1), size=size, mode="bilinear", align_corners=False)
    trust = weight.clamp(max=1.0)
    return torch.where(weight > 0, trust * total / weight.clamp(min=1e-6) + (1 - trust) * coarse, coarse)
