"""Validation while a base is trained: a grid of pictures and scores on clips that are not trained on.

The scores are for following one training: few frames, few sampling steps, poses as they were prepared. What a base is worth
is measured afterwards, on whole clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..evaluation.figure import figure_mask, figure_ssim, texture
from ..evaluation.metrics import figure_l1, l1, mean, sharpness, ssim
from ..inference.denoise import RenderSettings, prepare, render_batch
from ..media import atomic_path
from ..networks.network import Network
from ..poses.visualize import colorize_iuv
from ..training.csv_log import CsvLogger
from ..training.distributed import ProcessGroup
from ..training.frames import Clip, FrameDataset

CLIPS = 16  # are scored
SHOWN = 6  # of these are in the grid
STEPS = 20  # of sampling at most


@dataclass(frozen=True)
class Shown:
    """One clip's pictures, uint8: the photo (H, W, 3), and poses, predictions and truth (N, H, W, 3); and the body's part
    labels in the truth, (N, H, W), 0 off the body; of keypoints the skeleton is all that is known of it."""

    photo: np.ndarray
    poses: np.ndarray
    made: np.ndarray
    truth: np.ndarray
    parts: np.ndarray


def watched(frames: FrameDataset) -> list[Clip]:
    """The clips that are looked at: of the test list if there is one, else of the training clips."""
    return (frames.split("test") or frames.split("train"))[:CLIPS]


def predictions(model: Network, frames: FrameDataset) -> Iterator[Shown]:
    """For each watched clip its first frame as the photo, and the frames at one and at two thirds; of a network that denoises
    frames together, one window from a third on."""
    together = model.context.size  # frames that attend to each other follow one another, and have noise of their own
    quick: dict[str, Any] = {"sampler": "ddim", "steps": STEPS} if model.config.sampling.steps > STEPS else {}
    settings = RenderSettings.of(model, noise="per-frame" if together > 1 else None, **quick)
    poses = model.config.poses
    for clip in watched(frames):
        photo = frames.pictures[clip.start]
        rows = [min(clip.length - 1, clip.length * part // 3) for part in (2, 1)]
        if together > 1:
            first = max(0, min(clip.length // 3, clip.length - together))
            rows = [min(clip.length - 1, first + i) for i in range(together)]
        windows = np.stack(
            [frames.window(clip, row, poses.count, poses.training_fps, poses.window_rule) for row in rows]
        )
        prepared = prepare(model, photo, frames.pose([clip.start])[0])
        made = render_batch(model, prepared, torch.from_numpy(windows), settings)
        middle = windows[:, poses.count // 2]
        if frames.kind == "keypoints":
            drawn = np.rint(middle * 255).astype(np.uint8).transpose(0, 2, 3, 1)
            parts = np.asarray((middle > 0).max(axis=1), np.float32)
        else:
            drawn, parts = np.stack([colorize_iuv(pose) for pose in middle]), middle[:, 0]
        yield Shown(photo, drawn, made, frames.pictures[[clip.start + row for row in rows]], parts)


def scores(shown: list[Shown]) -> dict[str, Any]:
    """Means over all frames, of RGB in [0, 1]: SSIM and L1, both on the figure too (the body and what lies within two pixels of
    it), sharpness against the truth's, and how much of the garments' texture is there."""
    figures = [(s, figure_mask(s.parts)) for s in shown]
    pairs = [(s.made, s.truth) for s in shown]
    return {
        "figure_l1": mean([v for s, mask in figures for v in figure_l1(s.made, s.truth, mask)]),
        "figure_ssim": mean([v for s, mask in figures for v in figure_ssim(s.made, s.truth, mask)]),
        "texture": mean([v for s in shown for v in texture(s.made, s.truth, s.parts)]),
        "sharpness": mean([value for made, truth in pairs for value in sharpness(made, truth)]),
        "ssim": mean([value for made, truth in pairs for value in ssim(made, truth)]),
        "l1": mean([value for made, truth in pairs for value in l1(made, truth)]),
        "frames": sum(len(truth) for _, truth in pairs),
    }


def write_sample_grid(shown: list[Shown], path: Path) -> None:
    """A column for each predicted frame of a few clips: photo, pose, prediction, truth."""
    columns = [
        np.concatenate([s.photo, s.poses[i], s.made[i], s.truth[i]], axis=0)
        for s in shown[:SHOWN]
        for i in sorted({0, len(s.truth) // 2})
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        Image.fromarray(np.concatenate(columns, axis=1)).save(partial)


@dataclass
class Validator:
    """Pictures and scores of the network on the clips that are watched, in `folder`."""

    model: Network
    frames: FrameDataset
    folder: Path
    first: int
    processes: ProcessGroup
    note: Callable[[str], None]
    last_step: int = -1
    last: dict[str, Any] | None = None
    last_grid: Path | None = None
    log: CsvLogger | None = field(default=None, repr=False)

    def __call__(self, step: int) -> dict[str, Any] | None:
        """Predict, write the grid and log the scores of `step`; returns them, None without a test list."""
        if not self.processes.main or step == self.last_step:
            return self.last
        for module in self.model.modules.values():
            module.eval()
        shown = list(predictions(self.model, self.frames))
        self.last_step, self.last_grid = step, self.folder / f"{step:08d}.png"
        write_sample_grid(shown, self.last_grid)
        if self.frames.split("test"):
            self.last = scores(shown)
            figures = ("ssim", "l1", "figure_ssim", "figure_l1", "texture", "sharpness")
            self.log = self.log or CsvLogger(self.folder / "scores.csv", ("step", *figures, "frames"), self.first)
            self.log.add(step, *(_shown(self.last[name]) for name in figures), self.last["frames"])
            self.log.flush()
            self.processes.track(step, {name: self.last[name] for name in figures if self.last[name] is not None})
            self.note(
                f"step {step}: SSIM {self.last['ssim']:.4f}, L1 {self.last['l1']:.4f}, on the figure "
                f"{_shown(self.last['figure_l1'], 4)}, texture {_shown(self.last['texture'], 2)}, sharpness "
                f"{_shown(self.last['sharpness'], 2)} on the test clips."
            )
        return self.last


def _shown(value: float | None, digits: int = 5) -> str:
    """A score in words; "-" where no frame has it."""
    return "-" if value is None else f"{value:.{digits}f}"
