"""Phase 1's samples: pairs of frames of one person, and clips of frames with a photo of their person.

Latents of all frames are encoded once and kept next to them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cache import Cache
from ..errors import TrainingError
from ..media import atomic_path
from ..networks.network import Network, pictures_to_tensor
from ..networks.storage import fingerprint
from ..reporting import Note
from .data import counted, some
from .denoising import Batch
from .frames import Clip, FrameDataset
from .loop import SampleRng
from .preparation import caching


class _FrameSource:
    """Batches of frames of a dataset, whose latents were encoded once; `photo_latents`: where the VAE sees photos in another
    range."""

    def __init__(
        self,
        network: Network,
        frames: FrameDataset,
        latents: Callable[[list[int]], Tensor],
        photo_latents: Callable[[list[int]], Tensor] | None,
    ):
        self.network, self.frames = network, frames
        self.latents, self.photo_latents = latents, photo_latents or latents

    def _window(self, clip: Clip, frame: int) -> np.ndarray:
        settings = self.network.config.poses
        return self.frames.window(clip, frame, settings.count, settings.training_fps, settings.window_rule)

    def _batch(self, photos: list[int], targets: list[int], windows: list[np.ndarray]) -> Batch:
        """The samples of rows of the dataset: the photos' and the targets', with each target's pose window."""
        views = self.network.views(self.frames.pictures[photos], self.frames.pose(photos))
        views = replace(views, latents=self.photo_latents(photos))
        return Batch(self.latents(targets), torch.from_numpy(np.stack(windows)), views)


class PairSource(_FrameSource):
    """Random pairs of frames of one subject; latents of all frames are encoded once and kept next to them.

    Every frame is the target once in an epoch, in an order of its own in each; its photo is any other frame of its clip.
    `each` targets of a clip follow one another and share a photo, which is none of them; the last ones of a clip that cannot
    be divided so are filled up with others of it.
    """

    def __init__(
        self,
        network: Network,
        frames: FrameDataset,
        clips: list[Clip],
        latents: Callable[[list[int]], Tensor],
        photo_latents: Callable[[list[int]], Tensor] | None = None,
        each: int = 1,
    ):
        super().__init__(network, frames, latents, photo_latents)
        self.clips, self.each = clips, each
        groups = [-(-clip.length // each) for clip in clips]
        self.clip_of = np.repeat(np.arange(len(clips)), groups)
        self.group_of = np.concatenate([np.arange(count) for count in groups])

    def batch(self, rngs: list[SampleRng]) -> Batch:
        photos, targets, windows = [], [], []
        for rng in rngs:
            clip, photo, target = self._pair(rng)
            photos.append(clip.start + photo)
            targets.append(clip.start + target)
            windows.append(self._window(clip, target))
        whole = rngs[0].index % self.each == 0 and len(rngs) % self.each == 0
        photos = photos[:: self.each] if whole else photos  # else a group was divided, and its photo is taken twice
        return self._batch(photos, targets, windows)

    def _pair(self, rng: SampleRng) -> tuple[Clip, int, int]:
        """The clip of a sample, and the numbers of photo and target in it."""
        number, member = divmod(rng.index, self.each)
        epoch, place = divmod(number, len(self.clip_of))
        chosen = _order(rng.seed, epoch, len(self.clip_of))[place]
        clip, group = self.clips[self.clip_of[chosen]], int(self.group_of[chosen])
        if self.each == 1:
            photo = int(rng.numpy.integers(max(1, clip.length - 1)))
            return clip, photo + (photo >= group and clip.length > 1), group  # another frame, if there is one
        order = np.random.default_rng(np.random.SeedSequence([rng.seed, epoch, int(chosen) - group], spawn_key=(2,)))
        frames = order.permutation(clip.length)
        targets = frames[np.arange(group * self.each, (group + 1) * self.each) % clip.length]
        others = np.setdiff1d(frames, targets)
        shared = np.random.default_rng(np.random.SeedSequence([rng.seed, number], spawn_key=(3,)))
        return clip, int(shared.choice(others if len(others) else targets)), int(targets[member])


def long_enough(clips: list[Clip], size: int, stride: int = 1) -> list[Clip]:
    """The clips in which `size` frames in their order lie `stride` apart; TrainingError where there is none."""
    reach = (size - 1) * stride + 1
    ordered = [clip for clip in clips if clip.ordered]
    if not (found := [clip for clip in ordered if clip.length >= reach]):
        spaced = f"{size} frames" + (f", {stride} apart (--stride)," if stride > 1 else "")
        longest = max((clip.length for clip in ordered), default=0)
        raise TrainingError(
            f"none of the {len(clips)} training clips is long enough for {spaced} at once: that takes {reach}, and the "
            f"longest has {longest}; ask for fewer with --frames, or give longer clips."
        )
    return found


class ClipSource(_FrameSource):
    """Clips of `size` frames in their order, `stride` apart, with a photo of their person; latents as in `PairSource`.

    Every place where such a clip begins is drawn once in an epoch, in an order of its own in each; the photo is any frame of
    the same clip. Photos without an order and clips that are too short take no part. Raises TrainingError where none is left.
    """

    def __init__(
        self,
        network: Network,
        frames: FrameDataset,
        clips: list[Clip],
        latents: Callable[[list[int]], Tensor],
        photo_latents: Callable[[list[int]], Tensor] | None = None,
        *,
        size: int,
        stride: int = 1,
        note: Note | None = None,
    ):
        super().__init__(network, frames, latents, photo_latents)
        self.size, self.stride = size, stride
        self.clips = long_enough(clips, size, stride)
        reach = (size - 1) * stride + 1
        if note and (short := [clip.name for clip in clips if clip not in self.clips]):
            note(f"{counted(short)} left out of the motion ({some(short)}): no {reach} frames in their order.")
        starts = [clip.length - reach + 1 for clip in self.clips]
        self.clip_of = np.repeat(np.arange(len(starts)), starts)
        self.start_of = np.concatenate([np.arange(count) for count in starts])

    def batch(self, rngs: list[SampleRng]) -> Batch:
        photos, targets, windows = [], [], []
        for rng in rngs:
            epoch, place = divmod(rng.index, len(self.clip_of))
            chosen = _order(rng.seed, epoch, len(self.clip_of))[place]
            clip, first = self.clips[self.clip_of[chosen]], int(self.start_of[chosen])
            photos.append(clip.start + int(rng.numpy.integers(clip.length)))
            for frame in range(first, first + self.size * self.stride, self.stride):
                targets.append(clip.start + frame)
                windows.append(self._window(clip, frame))
        return self._batch(photos, targets, windows)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` frames in an epoch, int32."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(1,)))
    return rng.permutation(count).astype(np.int32)


@torch.no_grad()
def encode_frames(
    cache: Cache,
    network: Network,
    frames: FrameDataset,
    value_range: tuple[float, float],
    progress=None,
    share: tuple[int, int] = (0, 1),
) -> Callable[[list[int]], Tensor]:
    """Latents of every frame, encoded once; `value_range` is the VAE input range, the target's or the condition's.

    Returns a function from rows to float32 (B, C, h, w). Kept as float16 in a file for each clip next to its shard, under a
    name that follows the VAE's weights, so that a run that resumes reads what it had: 10 KB a frame for mini. Of several
    processes, `share` = (this one, how many), each begins with its own clips and takes others only where they are missing.
    """
    config = network.config
    mark = fingerprint({"encoder": network.vae.encoder}, config.shift_factor, config.scaling_factor, value_range)
    clips = frames.clips or [Clip("all", "train", 0, len(frames.pictures), 1.0)]
    files = [_latents_file(frames, clip, mark) for clip in clips]
    order = sorted(range(len(clips)), key=lambda i: i % share[1] != share[0])
    done, total = 0, len(frames.pictures)
    for i in order:
        clip = clips[i]
        if not files[i].exists():
            with caching(cache), atomic_path(files[i]) as partial:
                partial.write_bytes(_encode_clip(network, frames, clip, value_range).tobytes())
        done += clip.length
        if progress:
            progress(done, total, "latents")
    starts = np.cumsum([0, *(clip.length for clip in clips)])
    shape = (network.latent_channels, *network.latent_size)

    def read(row: int) -> np.ndarray:
        clip = int(np.searchsorted(starts, row, side="right")) - 1
        size = 2 * int(np.prod(shape))
        with files[clip].open("rb", buffering=0) as file:
            file.seek((row - int(starts[clip])) * size)
            return np.frombuffer(file.read(size), np.float16).reshape(shape)

    return lambda rows: torch.from_numpy(np.stack([read(int(row)) for row in rows]).astype(np.float32))


def _encode_clip(network: Network, frames: FrameDataset, clip: Clip, value_range: tuple[float, float]) -> np.ndarray:
    parts = []
    for start in range(clip.start, clip.start + clip.length, 32):
        pictures = frames.pictures[start : min(start + 32, clip.start + clip.length)]
        latents = network.encode(pictures_to_tensor(pictures, value_range).to(network.device))
        parts.append(latents.half().cpu().numpy())
    return np.concatenate(parts)


def _latents_file(frames: FrameDataset, clip: Clip, mark: str) -> Path:
    shard = clip.shard or frames.folder / f"{clip.name}.shard"
    return shard.with_name(f"{shard.stem}.{mark}.latents")
