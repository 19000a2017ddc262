"""The baselines of a suite (`networks.baselines`): their weights from the Hub, and the frames of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import media
from ..bases.pipelines import (
    IP_ADAPTER,
    OPENPOSE_CONTROLNET,
    STABLE_DIFFUSION_15,
    pipeline_folder,
)
from ..cache import Cache
from ..device import pick_device, pick_dtype
from ..errors import PoseError
from ..evaluation.frame_pairs import scored_size
from ..evaluation.pairing import ClipFiles
from ..names import BASELINE_PROMPT
from ..networks.baselines import GUIDANCE, Baseline
from ..networks.instruct_pix2pix import require_short
from ..poses.dwpose import NAME as DWPOSE
from ..poses.dwpose import load_dwpose
from ..poses.extraction import load_poses
from ..poses.files import open_poses
from ..poses.sequence import PoseSequence
from ..poses.skeleton_picture import draw_skeleton
from ..reporting import Note, Progress
from .options import SuiteOptions

STEPS = 30  # where --steps is not given
VERSION = 1  # of what is computed: raise it when frames change


class Baselines:
    """The baselines `names` of a run, by the names of their rows; one at a time is in memory.

    What can be missing, weights, dwpose where the clips have no keypoints, is asked for before anything is computed.
    `cache` is the user's own, where dwpose has its weights. Raises BaseError, PoseError, UsageError.
    """

    def __init__(
        self,
        names: dict[str, str],
        clips: Iterable[tuple[str, ClipFiles]],
        options: SuiteOptions,
        cache: Cache,
        progress: Progress | None,
        note: Note,
    ) -> None:
        self.names, self._options, self._cache, self._note = names, options, cache, note
        self.prompt = BASELINE_PROMPT if options.prompt is None else options.prompt
        self._folders: dict[str, Path] = {}
        self._models: dict[str, str] = {}
        self._loaded: tuple[str, Baseline] | None = None
        if not names:
            return
        self._require_keypoints(clips)
        wanted = {"diffusion": STABLE_DIFFUSION_15, "control": OPENPOSE_CONTROLNET}
        if "ip-adapter" in names.values():
            wanted["adapter"] = IP_ADAPTER
        for part, model in wanted.items():
            self._folders[part], self._models[part] = pipeline_folder(model, progress=progress, note=note)
        require_short(self.prompt, self._folders["diffusion"], "prompt")

    def document(self, row: str) -> dict[str, Any]:
        """What made a row's frames, for the results: which baseline, the commits of its weights, and its settings."""
        name = self.names[row]
        return {
            "baseline": name,
            "version": VERSION,
            "weights": {
                part: model for part, model in self._models.items() if part != "adapter" or name == "ip-adapter"
            },
            "prompt": self.prompt,
            "guidance": GUIDANCE,
            "steps": self._steps,
        }

    def frames(self, row: str, photo: np.ndarray, clip: ClipFiles, indices: range) -> Iterator[np.ndarray]:
        """The frames `indices` of a clip with the person of `photo`, uint8 (H, W, 3), at the size at which they are scored."""
        baseline = self._load(self.names[row])
        size = baseline.size_of(photo)
        poses = self._keypoints(clip)
        skeletons = (skeleton(poses, min(index, len(poses) - 1), size) for index in indices)
        options = self._options
        made = baseline.frames(photo, skeletons, prompt=self.prompt, steps=self._steps, seed=options.seed)
        scored = scored_size(photo.shape[:2], options.size)
        return (media.resize(frame, scored) for frame in made)

    @property
    def _steps(self) -> int:
        return STEPS if self._options.steps is None else self._options.steps

    def _load(self, name: str) -> Baseline:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            device = pick_device(self._options.device)
            dtype = pick_dtype(self._options.dtype, device)
            folders = self._folders
            made = Baseline(
                name, folders["diffusion"], folders["control"], folders.get("adapter"), device=device, dtype=dtype
            )
            self._loaded = name, made
        return self._loaded[1]

    def _keypoints(self, clip: ClipFiles) -> PoseSequence:
        """The keypoints of a whole clip: those of its pose file, or found in its frames by dwpose."""
        if clip.poses is not None:
            poses = open_poses(clip.poses)
            if poses.kind == "keypoints":
                return poses
        device = self._options.device
        return load_poses(
            self._cache, clip.frames, estimator=DWPOSE, kind="keypoints", device=device, note=self._note
        )[0]

    def _require_keypoints(self, clips: Iterable[tuple[str, ClipFiles]]) -> None:
        """PoseError where a clip has no keypoints and nothing is here to find them."""
        without = next(
            (name for name, clip in clips if clip.poses is None or open_poses(clip.poses).kind != "keypoints"), None
        )
        if without is None:
            return
        try:
            load_dwpose(self._cache, str(pick_device(self._options.device)), note=self._note)
        except PoseError as error:
            raise PoseError(f"the baselines follow keypoints, and {without} has none: {error}") from error


def skeleton(poses: PoseSequence, index: int, size: tuple[int, int]) -> np.ndarray:
    """The skeleton of one keypoint frame, drawn at `size` (height, width) and not scaled to it: the ControlNet knows lines of
    one width; uint8 (*size, 3)."""
    frame = poses.frame(index)
    frame[:, :2] *= np.array([size[1] / poses.size[1], size[0] / poses.size[0]], frame.dtype)
    return draw_skeleton(frame, size)
