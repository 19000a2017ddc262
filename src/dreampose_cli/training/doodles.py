"""Training of the doodle reader on drawn doodles whose joints are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TrainingError
from ..media import read_photo
from ..poses.doodle import GRID, DoodleNet, decode
from ..poses.doodle_ink import CROP, cut_known
from ..reporting import Progress
from .loop import LoopSettings, SampleRng

LIST = "doodles.json"
MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]  # left for right and right for left
SPREAD = 0.85  # standard deviation of a point's target, in cells


class DoodleStore:
    """Crops of a folder of doodles and their points, in memory: uint8 (N, 96, 96), (N, 18, 2) in shares, bool (N, 18)."""

    def __init__(self, folder: Path, split: str, progress: Progress | None = None):
        rows = _rows(folder, split)
        self.crops = np.zeros((len(rows), CROP, CROP), np.uint8)
        self.points = np.zeros((len(rows), 18, 2), np.float32)
        self.visible = np.zeros((len(rows), 18), bool)
        count = 0
        for row in rows:
            figure = cut_known(read_photo(folder / split / row["name"])[..., 0])
            if figure is not None and _inside(figure, row["joints"]):
                known = np.array(row["joints"], np.float32)
                self.crops[count] = np.rint(figure.crop * 255)
                self.points[count] = (known[:, :2] - figure.corner) / (figure.scale * CROP)
                self.visible[count] = known[:, 2] > 0
                count += 1
            if progress:
                progress(count, len(rows), f"{split} doodles")
        if not count:
            raise TrainingError(
                f"{folder / split} holds no doodle with any ink; draw them with `dreampose synth --doodles`."
            )
        self.crops, self.points, self.visible = self.crops[:count], self.points[:count], self.visible[:count]

    def __len__(self) -> int:
        return len(self.crops)


def _inside(figure, joints: list[list[float]]) -> bool:
    """Whether every drawn joint lies on the crop: a doodle that was taken for two figures teaches nothing."""
    known = np.array(joints)
    places = (known[:, :2] - figure.corner) / (figure.scale * CROP)
    return bool((np.abs(places[known[:, 2] > 0] - 0.5) < 0.53).all())


def _rows(folder: Path, split: str) -> list[dict]:
    try:
        document = json.loads((folder / LIST).read_text(encoding="utf-8"))
        return list(document[split])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{folder} is no folder of doodles ({LIST} is missing or damaged); make one with `dreampose synth --doodles`."
        ) from error


class DoodleTask:
    """Cross-entropy of each drawn point's place, and whether it is drawn.

    Doodles are turned, scaled, shifted and mirrored (left becomes right), and at times a patch is rubbed out.
    """

    def __init__(self, network: DoodleNet, doodles: DoodleStore, device: torch.device):
        self.network, self.doodles, self.device = network, doodles, device
        self.modules: dict[str, nn.Module] = {"network": network}

    def load(self, draws: list[SampleRng]) -> tuple[Tensor, Tensor, Tensor]:
        """Ink (B, 1, 96, 96), points (B, 18, 2) in shares of the crop, drawn (B, 18)."""
        rows = [int(draw.numpy.integers(len(self.doodles))) for draw in draws]
        ink = torch.from_numpy(self.doodles.crops[rows]).float()[:, None] / 255
        points, visible = self.doodles.points[rows].copy(), self.doodles.visible[rows].copy()
        theta = np.zeros((len(rows), 2, 3), np.float32)
        for i, draw in enumerate(draws):
            rng = draw.numpy
            angle, size = np.deg2rad(rng.normal(0, 7)), np.exp(rng.normal(0, 0.07))
            shift = rng.normal(0, 0.02, 2)
            flip = -1.0 if rng.random() < 0.5 else 1.0
            c, s = np.cos(angle) * size, np.sin(angle) * size
            matrix = np.array([[c, -s], [s, c]]) @ np.diag([flip, 1.0])  # from a place in the result to one in the crop
            theta[i] = np.concatenate([matrix, shift[:, None] * 2], 1)
            centred = points[i] - 0.5 - shift
            points[i] = centred @ np.linalg.inv(matrix).T + 0.5
            if flip < 0:
                points[i], visible[i] = points[i][MIRRORED], visible[i][MIRRORED]
        grid = F.affine_grid(torch.from_numpy(theta), [len(rows), 1, CROP, CROP], align_corners=False)
        ink = F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for i, draw in enumerate(draws):
            rng = draw.numpy
            ink[i] = (ink[i] * float(np.exp(rng.normal(0, 0.25)))).clamp(0, 1)
            for _ in range(int(rng.integers(0, 3))):
                y, x, r = rng.integers(0, CROP), rng.integers(0, CROP), int(rng.integers(1, 6))
                ink[i, 0, max(0, y - r) : y + r, max(0, x - r) : x + r] = 0
        return ink, torch.from_numpy(points), torch.from_numpy(visible)

    def loss(self, loaded: tuple[Tensor, Tensor, Tensor], step: int, settings: LoopSettings) -> Tensor:
        ink, points, visible = (part.to(self.device) for part in loaded)
        places, seen = self.network(ink)
        inside = visible & ((points >= 0) & (points < 1)).all(-1)
        error = -(target(points) * places.log_softmax(-1)).sum(-1)
        placed = (error * inside).sum(1) / inside.sum(1).clamp(min=1)
        return placed.mean() + F.binary_cross_entropy_with_logits(seen, visible.float())


def target(points: Tensor) -> Tensor:
    """Points (B, 18, 2) in shares of the crop -> how likely each place shall be, (B, 18, 24 * 24), sums of 1."""
    cells = torch.arange(GRID, device=points.device)
    away = (points * GRID - 0.5)[..., None] - cells  # (B, 18, 2, 24)
    bell = torch.exp(-0.5 * (away / SPREAD) ** 2)
    both = bell[..., 1, :, None] * bell[..., 0, None, :]
    return (both / both.sum((-2, -1), keepdim=True).clamp(min=1e-8)).flatten(2)


@torch.inference_mode()
def score(network: DoodleNet, doodles: DoodleStore, batch: int = 64) -> dict[str, float]:
    """The share of drawn joints found within a tenth of the figure's height, and how often "drawn" is right."""
    network.eval()
    device = next(network.parameters()).device
    near, right = [], []
    for begin in range(0, len(doodles), batch):
        rows = slice(begin, begin + batch)
        ink = torch.from_numpy(doodles.crops[rows]).float()[:, None].to(device) / 255
        points, scores = decode(*network(ink))
        known, visible = doodles.points[rows], doodles.visible[rows]
        apart = np.linalg.norm(points.cpu().numpy() - known, axis=-1)
        ys = np.where(visible, known[..., 1], np.nan)
        height = np.nanmax(ys, axis=1) - np.nanmin(ys, axis=1)
        near += (apart <= 0.1 * height[:, None])[visible].tolist()
        right += ((scores.cpu().numpy() > 0.5) == visible).ravel().tolist()
    return {"within a tenth of the height": float(np.mean(near)), "drawn or not": float(np.mean(right))}
