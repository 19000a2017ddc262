"""The mini pose estimator: a picture -> its DensePose frame, for mannequins; and the one way to get any estimator.

Every estimator has `name`, `fingerprint`, `person`, `least_person`, `pace`, `estimate(pictures)` and `stream(pictures)`.

A small U-Net predicts for each pixel which of 24 parts it shows, or background, and where on the part's chart. It was
trained by `dreampose train --preset estimator` on the project's own mannequins and knows nothing else.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from .dwpose import DWPose

from ..cache import Cache
from ..errors import PoseError, UsageError
from ..media.fitting import fit_picture
from ..names import BASE_ESTIMATORS, ESTIMATORS
from ..reporting import Note, Progress
from .densepose import SUFFIX, DensePose, load_densepose
from .fingerprint import CONFIG_FILE, ESTIMATOR_FILE, FILES, bundled_estimator, folder_fingerprint
from .sequence import PARTS
from .zoom_search import ZoomSearch

MIN_PERSON = 0.004  # a person covers at least this share of what is looked at
AT_ONCE = 2  # pictures that a CPU computes together: more are no faster


class Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.GroupNorm(8, channels_out),
            nn.SiLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.GroupNorm(8, channels_out),
            nn.SiLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PoseNet(nn.Module):
    """RGB (B, 3, H, W) in [-1, 1], H and W even, 32 or more -> part logits (B, 25, H, W), U and V (B, 2, H, W) in [0, 1].

    Pixels are folded 2 x 2 into channels on the way in and unfolded on the way out: a quarter of the work at a small
    loss of sharpness.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128, 192)):
        super().__init__()
        self.widths = widths
        self.enter = Block(12, widths[0])
        self.down = nn.ModuleList(Block(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(Block(a + b, b) for a, b in zip(widths[::-1], widths[-2::-1], strict=False))
        self.leave = nn.Conv2d(widths[0], 4 * (PARTS + 1 + 2), 3, padding=1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(F.pixel_unshuffle(picture, 2))
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(F.avg_pool2d(x, 2))
        for block in self.up:
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        out = F.pixel_shuffle(self.leave(x), 2)
        return out[:, : PARTS + 1], out[:, PARTS + 1 :].sigmoid()


@dataclass
class Estimator:
    """A pose estimator: `estimate(pictures)` gives one pose frame a picture, at the picture's own size."""

    name: str
    fingerprint: str  # changes whenever its answers could; part of cache keys
    network: PoseNet
    resolution: tuple[int, int]
    device: torch.device
    dtype: torch.dtype = torch.float32
    least_person: float = 0.0  # of the picture: who is found is somebody, however small
    person: int | None = None
    pace: str = ""  # what to expect of the time it takes, where that is worth a sentence

    def estimate(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """uint8 (H, W, 3) each -> float32 (3, H, W): I in 0..24, U and V in [0, 1], all zero where nobody is."""
        return self._search.each(pictures)

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pose frames of the frames of one clip, a few at a time: memory does not grow with the clip."""
        return self._search.along(pictures)

    @property
    def _search(self) -> ZoomSearch:
        return ZoomSearch(self._see, self.resolution, MIN_PERSON)

    @torch.inference_mode()
    def _see(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Pictures, each fitted as a whole, -> poses (n, 3, *resolution)."""
        fitted = np.stack([fit_picture(picture, self.resolution, "contain") for picture in pictures])
        size = AT_ONCE if self.device.type == "cpu" else len(fitted)
        found = []
        for begin in range(0, len(fitted), size):
            pixels = torch.from_numpy(fitted[begin : begin + size]).permute(0, 3, 1, 2).to(self.device)
            logits, uv = self.network((pixels.float() / 127.5 - 1).to(self.dtype))
            part = logits.argmax(1, keepdim=True)
            on_body = part > 0
            found.append(torch.cat([part.float(), uv.float().clamp(1 / 255, 1) * on_body], dim=1).cpu().numpy())
        return np.concatenate(found)


def has_person(frame: np.ndarray, least: float = 0.0) -> bool:
    """Whether a pose frame (3, H, W) shows somebody who covers at least the share `least` of it."""
    share = float((frame[0] > 0).mean())
    return share > 0 and share >= least


def load_estimator(
    cache: Cache,
    name: str = "mini",
    device: str | torch.device = "cpu",
    *,
    size: int | None = None,
    person: int | None = None,
    dtype: str = "float32",
    note: Note | None = None,
    progress: Progress | None = None,
) -> Estimator | DensePose | DWPose:
    """The estimator `name`: "mini", which ships with the package; "r50" or "r101", DensePose from the Hub; the path of a
    .torchscript file of the same interface; or a folder made by `train --preset estimator`.

    dtype: what it computes in, "float32", "float16" or "bfloat16". size (the short side it sees) and person (which of
    several) are DensePose's, see `load_densepose`; UsageError with the others. Raises PoseError if it is unavailable.
    """
    if name == "dwpose":
        from .dwpose import load_dwpose

        if size is not None:
            raise UsageError("--estimator-size is for DensePose; dwpose has a size of its own.")
        return load_dwpose(cache, str(device), person, note)
    if name in FILES or (name not in BASE_ESTIMATORS and (Path(name).suffix.lower() == SUFFIX or Path(name).is_file())):
        return load_densepose(cache, name, device, size, person, dtype, note=note, progress=progress)
    folder = bundled_estimator() if name == "mini" else Path(name)
    if name in BASE_ESTIMATORS[1:] or not (folder / CONFIG_FILE).is_file():
        if name == "mini":
            raise PoseError("this installation has no mini estimator; reinstall dreampose-cli.")
        raise UsageError(
            f"unknown estimator {name!r}; use {', '.join(ESTIMATORS)}, a .torchscript file of DensePose, or a folder "
            "made by `dreampose train --preset estimator`."
        )
    for option, value in (("--estimator-size", size), ("--person", person)):
        if value is not None:
            raise UsageError(
                f"{option} is for DensePose; the estimator {name} looks at the whole picture, for one figure."
            )
    return _load(folder, name, str(device), getattr(torch, dtype))


@functools.lru_cache(maxsize=2)
def _load(folder: Path, name: str, device: str, dtype: torch.dtype) -> Estimator:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        network = PoseNet(tuple(config["widths"]))
        network.load_state_dict({k: v.float() for k, v in load_file(folder / ESTIMATOR_FILE).items()})
        resolution = tuple(config["resolution"])
    except Exception as error:  # a damaged file raises whatever its library likes
        raise PoseError(f"the estimator in {folder} cannot be loaded ({error}); make or install it again.") from error
    return Estimator(
        name, folder_fingerprint(folder), network.to(device, dtype).eval(), resolution, torch.device(device), dtype
    )
