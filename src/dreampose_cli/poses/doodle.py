"""Doodles: a stick figure drawn by hand -> the 18 body points of OpenPose.

A small network looks at the ink of one figure (`doodle_ink`) and says for each point how likely it is at each place. It
was trained by `dreampose train --preset doodle` on doodles that `dreampose synth --doodles` draws. A drawing without a
face does not say whether the figure is seen from the front or from behind: the network answers for the front, and
`facing` exchanges left and right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import PoseError
from ..media import read_photo
from ..media.files import list_files
from ..media.photos import SUFFIXES
from .doodle_ink import CROP, Figure, figures_on
from .doodle_motion import CANVAS, sequence_of
from .keypoints import KeypointsInMemory
from .skeleton_picture import LIMBS

NAME = "doodle"
DOODLE_FILE, CONFIG_FILE = "doodle.safetensors", "doodle.json"
FPS = 12.0  # of a sequence of doodles, unless told
STRAY = 0.15  # the share of ink away from the figure that is understood, from which on there is more than it
NO_FIGURE = 0.45  # mean likelihood around the best places of drawn joints, under which there is none
JOINTS = 18
GRID = 24  # places along a side of the crop
WIDTHS = (24, 40, 64, 96)


class Residual(nn.Module):
    """Two convolutions around which the input passes unchanged: (B, C, H, W) -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.body(x))


def _enter(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1, stride=stride), nn.GroupNorm(8, channels), nn.SiLU()
    )


class DoodleNet(nn.Module):
    """Ink (B, 1, 96, 96) in [0, 1] -> logits of the places (B, 18, 24 * 24) and of being drawn at all (B, 18).

    At a sixteenth of the size every place sees the whole figure, which tells left from right and arms from legs.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        a, b, c, d = self.widths = tuple(widths)
        self.enter = _enter(4, a, 1)  # 48
        self.down = nn.ModuleList([nn.Sequential(_enter(x, y, 2), Residual(y)) for x, y in ((a, b), (b, c), (c, d))])
        self.middle = nn.Sequential(Residual(d), Residual(d))  # 6
        self.up = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1)])
        self.mix = nn.ModuleList([Residual(c), Residual(b)])
        self.places = nn.Conv2d(b, JOINTS, 1)
        self.seen = nn.Linear(d, JOINTS)

    def forward(self, ink: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(F.pixel_unshuffle(ink, 2))
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = self.middle(x)
        seen = self.seen(x.mean((2, 3)))
        for narrow, mix, skip in zip(self.up, self.mix, skips[-2::-1], strict=True):
            x = mix(F.interpolate(narrow(x), scale_factor=2, mode="bilinear", align_corners=False) + skip)
        return self.places(x).flatten(2), seen


def decode(places: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Logits -> points (B, 18, 2) as x, y in shares of the crop, and scores (B, 18) in [0, 1].

    A point is the mean place within two cells of the likeliest one.
    """
    share = places.softmax(-1).unflatten(-1, (GRID, GRID))
    best = share.flatten(2).argmax(-1)
    row, column = (best // GRID)[..., None, None], (best % GRID)[..., None, None]
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    near = share * (((y.to(row.device) - row).abs() <= 2) & ((x.to(row.device) - column).abs() <= 2))
    near = near / near.sum((-2, -1), keepdim=True)
    points = torch.stack([(near * x.to(near)).sum((-2, -1)), (near * y.to(near)).sum((-2, -1))], -1)
    return (points + 0.5) / GRID, seen.sigmoid()


class DoodleReader:
    """Finds the 18 points of a figure's crop."""

    def __init__(self, network: DoodleNet) -> None:
        self._network = network.eval()

    @torch.inference_mode()
    def joints(self, figure: Figure, source: str) -> np.ndarray:
        """The joints (18, 3) of a figure: x, y in pixels of the picture, and the score of being drawn.

        source names the picture in errors. Raises PoseError for what is no single stick figure.
        """
        places, seen = self._network(torch.from_numpy(figure.crop)[None, None])
        points, scores = decode(places, seen)
        self._require_one_figure(figure.crop, places[0], points[0].numpy(), scores[0].numpy(), source)
        xy = np.asarray(figure.corner) + points[0].numpy() * (CROP * figure.scale)
        return np.concatenate([xy, scores[0].numpy()[:, None]], 1)

    @staticmethod
    def _require_one_figure(
        crop: np.ndarray, places: Tensor, points: np.ndarray, scores: np.ndarray, source: str
    ) -> None:
        """PoseError where the joints are at no clear places, or where the ink is of more than this figure."""
        drawn = scores > 0.5
        sure = clearness(places)[torch.from_numpy(drawn)]
        if int(drawn.sum()) < 6 or float(sure.mean()) < NO_FIGURE:
            raise PoseError(
                f"{source} shows strokes, but no stick figure is recognised; draw head, body, arms and legs."
            )
        if stray_ink(crop, points, drawn) > STRAY:
            raise PoseError(
                f"{source} shows more than one figure in one drawing, or other things next to it; draw one figure a sheet, "
                "or several apart from each other in a row."
            )


def clearness(places: Tensor) -> Tensor:
    """The share of each joint's likelihood (18, 24 * 24, logits) that lies within three cells of its best place, (18,)."""
    share = places.softmax(-1).unflatten(-1, (GRID, GRID))
    cells = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij"), -1).float()
    best = share.flatten(1).argmax(-1)
    centre = torch.stack([best // GRID, best % GRID], -1).float()
    return (share * ((cells[None] - centre[:, None, None]).norm(dim=-1) <= 3)).sum((1, 2))


def stray_ink(crop: np.ndarray, points: np.ndarray, drawn: np.ndarray) -> float:
    """The share of a crop's ink that lies away from the figure's bones and head.

    points: (18, 2) in shares of the crop. drawn: bool (18,).
    """
    ys, xs = np.nonzero(crop > 0.4)
    ink = (np.stack([xs, ys], 1) + 0.5) / CROP
    height = np.ptp(points[:, 1]) + 1e-6
    head = points[[0, 14, 15, 16, 17]].mean(0)
    away = np.linalg.norm(ink - head, axis=1) - max(0.75 * float(np.linalg.norm(head - points[1])), 0.06 * height)
    for a, b in LIMBS[:13]:
        if drawn[a] and drawn[b]:
            along = points[b] - points[a]
            t = np.clip((ink - points[a]) @ along / max(float(along @ along), 1e-9), 0, 1)
            away = np.minimum(away, np.linalg.norm(ink - points[a] - t[:, None] * along, axis=1))
    return float((away > 0.1 * height).mean()) if len(ink) else 0.0


def load_doodle_reader(folder: Path | None = None) -> DoodleReader:
    """The reader that ships with the package, or one made by `train --preset doodle`. Raises PoseError."""
    folder = folder or Path(str(resources.files("dreampose_cli") / "data" / "doodle"))
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        network = DoodleNet(tuple(config["widths"]))
        network.load_state_dict({k: v.float() for k, v in load_file(folder / DOODLE_FILE).items()})
    except Exception as error:  # a damaged file raises whatever its library likes
        raise PoseError(
            f"the doodle reader in {folder} cannot be loaded ({error}); make or install it again."
        ) from error
    return DoodleReader(network)


def read_doodles(
    source: Path,
    *,
    reader: Path | None = None,
    facing: str = "front",
    between: int = 0,
    fps: float | None = None,
    note: Callable[[str], None] | None = None,
) -> KeypointsInMemory:
    """Doodles, on one sheet or a picture each in a folder, as a sequence of keypoints of human proportions.

    facing: "front" or "back", which a drawing without a face does not say. between: frames from each doodle to the next.
    fps: 12 without another. reader: a folder made by `train --preset doodle`. Raises MediaError, NoPersonError, PoseError.
    """
    if source.is_dir():
        files = list_files(source, SUFFIXES)
        if not files:
            raise PoseError(
                f"{source} holds no pictures of doodles; give a folder of PNG or JPEG files, or one picture."
            )
    else:
        files = [source]
    network = load_doodle_reader(reader)
    joints = []
    for file in files:
        figures = figures_on(read_photo(file), str(file))
        if len(figures) > 1 and note:
            note(f"{file}: {len(figures)} doodles, read as a sequence from left to right.")
        joints += [network.joints(figure, str(file)) for figure in figures]
    frames = sequence_of(joints, facing, between)
    return KeypointsInMemory(frames, CANVAS, fps or FPS, source=str(source), estimator=NAME)
