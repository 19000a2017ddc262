"""The denoising task: predict the noise (or velocity) of a target frame from a photo and the target's poses.

Phase 1 (paper section 4.4) draws random pairs of frames of one subject from a frame store (`PairSource`); phase 2 draws
crops of a subject's own photos (`crops.CropSource`). Both are a source of `Batch`es for the one loss here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..cache import Cache
from ..media import atomic_path
from ..networks.network import Network, Views, pictures_to_tensor
from ..networks.storage import fingerprint
from ..sampling import make_sampler
from .frames import Clip, FrameDataset
from .loop import LoopSettings, SampleRng
from .preparation import caching


@dataclass(frozen=True)
class Batch:
    """B training samples: target (B, C, h, w), the latents that are predicted; windows (B, n, 3, H, W), the pose window of each
    target, its own pose in the middle; views, the N photos that condition, B / N targets each in turn."""

    target: Tensor
    windows: Tensor
    views: Views


@dataclass(frozen=True)
class NoiseSample:
    """What is random about B samples next to their pictures: noise (B, C, h, w), timesteps (B,), and dropout (B,) in [0, 1),
    which decides what is dropped."""

    noise: Tensor
    timesteps: Tensor
    dropout: Tensor

    @classmethod
    def draw(cls, rngs: Sequence[SampleRng], shape: tuple[int, int, int], timesteps: int) -> NoiseSample:
        """One sample from each generator, on the CPU, for latents of `shape` (C, h, w)."""
        draws = [
            (
                torch.randn((1, *shape), generator=rng.torch),
                torch.randint(0, timesteps, (1,), generator=rng.torch),
                torch.rand(1, generator=rng.torch),
            )
            for rng in rngs
        ]
        return cls(*(torch.cat(tensors) for tensors in zip(*draws, strict=True)))


class Source(Protocol):
    """Where the samples come from."""

    def batch(self, rngs: list[SampleRng]) -> Batch:
        """One sample from each generator, in any thread."""
        ...


@dataclass(frozen=True)
class Dropout:
    """Share of samples whose image, pose, or both are replaced by null (paper section 4.4: 5 % each)."""

    image: float = 0.05
    pose: float = 0.05
    both: float = 0.05

    def masks(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Whose image and whose pose is dropped, (B,) each, by numbers (B,) uniform in [0, 1)."""
        pose_from, both_from = self.image, self.image + self.pose
        end = both_from + self.both
        no_image = (uniform < pose_from) | ((uniform >= both_from) & (uniform < end))
        return no_image, (uniform >= pose_from) & (uniform < end)


NO_DROPOUT = Dropout(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Pairing:
    """How phase 1 draws its samples and weighs them. The paper says nothing of the kind; the defaults are the plain choice.

    targets_per_photo: targets that share a photo, whose tokens are then computed once. figure_weight: how often the squared
    error on and around the figure counts. even_timesteps: whether neighbouring samples have timesteps spread evenly over the
    schedule, which makes the loss less noisy, instead of independent ones.
    """

    targets_per_photo: int = 1
    figure_weight: float = 1.0
    even_timesteps: bool = False


PLAIN = Pairing()
GOLDEN = (5**0.5 - 1) / 2


class DenoisingTask:
    """The denoiser and what conditions it; `modules` names what learns."""

    def __init__(
        self,
        network: Network,
        source: Source,
        modules: Sequence[str],
        dropout: Dropout = NO_DROPOUT,
        pairing: Pairing = PLAIN,
    ):
        self.network, self.source, self.dropout, self.pairing = network, source, dropout, pairing
        self.modules = network.learn(modules)
        self.schedule = make_sampler("ddim", network.schedule)

    def load(self, rngs: list[SampleRng]) -> tuple[Batch, NoiseSample]:
        shape = (self.network.latent_channels, *self.network.latent_size)
        timesteps = self.schedule.config.num_train_timesteps
        sample = NoiseSample.draw(rngs, shape, timesteps)
        if self.pairing.even_timesteps:
            even = [even_timestep(rng.seed, rng.index, timesteps) for rng in rngs]
            sample = replace(sample, timesteps=torch.tensor(even))
        return self.source.batch(rngs), sample

    def loss(self, loaded: tuple[Batch, NoiseSample], step: int, settings: LoopSettings) -> Tensor:
        """The squared error of predicting what was added to the targets, a mean over the samples; with it that of the network's
        first guess of the targets, if it makes one."""
        network, (batch, sample) = self.network, loaded
        target = batch.target.to(network.device)
        noise, timesteps = sample.noise.to(network.device), sample.timesteps.to(network.device)
        no_image, no_pose = self.dropout.masks(sample.dropout)

        reference = network.reference(batch.views, null=bool(no_image.any()))
        condition = network.condition(reference, batch.windows)
        regression = network.regression(condition, target)
        noisy = self.schedule.add_noise(target, noise, timesteps)
        prediction = network.predict(
            noisy, timesteps, condition.drop(no_image, no_pose), network.at(reference, timesteps)
        )
        velocity = self.schedule.config.prediction_type == "v_prediction"
        goal = self.schedule.get_velocity(target, noise, timesteps) if velocity else noise
        error = (prediction - goal).square()
        if self.pairing.figure_weight != 1.0:
            pose = batch.windows[:, batch.windows.shape[1] // 2].to(network.device)
            weight = 1.0 + (self.pairing.figure_weight - 1.0) * near_figure(pose, network.vae_scale_factor)
            error = error * (weight / weight.mean((2, 3), keepdim=True))
        return error.mean() + regression


def near_figure(pose: Tensor, factor: int, reach: int = 2) -> Tensor:
    """Poses (B, 3, H, W) -> 1 in the latent cells that touch the body or lie within `reach` cells of it: (B, 1, h, w).

    Hair and skirts are no part of a pose, and lie around it.
    """
    body = F.max_pool2d((pose[:, :1] > 0).float(), factor)
    return F.max_pool2d(body, 2 * reach + 1, stride=1, padding=reach)


def even_timestep(seed: int, index: int, timesteps: int) -> int:
    """The timestep of sample `index`: a golden ratio sequence, any stretch of which is spread evenly over the schedule."""
    start = np.random.default_rng(np.random.SeedSequence([seed], spawn_key=(4,))).random()
    return min(timesteps - 1, int((start + index * GOLDEN) % 1.0 * timesteps))


class PairSource:
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
        photo_latents: Callable[[list[int]], Tensor] | None = None,  # where the VAE sees photos in another range
        each: int = 1,
    ):
        self.network, self.frames, self.clips, self.each = network, frames, clips, each
        self.latents, self.photo_latents = latents, photo_latents or latents
        groups = [-(-clip.length // each) for clip in clips]
        self.clip_of = np.repeat(np.arange(len(clips)), groups)
        self.group_of = np.concatenate([np.arange(count) for count in groups])

    def batch(self, rngs: list[SampleRng]) -> Batch:
        settings = self.network.config.poses
        photos, targets, windows = [], [], []
        for rng in rngs:
            clip, photo, target = self._pair(rng)
            photos.append(clip.start + photo)
            targets.append(clip.start + target)
            windows.append(
                self.frames.window(clip, target, settings.count, settings.training_fps, settings.window_rule)
            )
        whole = rngs[0].index % self.each == 0 and len(rngs) % self.each == 0
        photos = photos[:: self.each] if whole else photos  # else a group was divided, and its photo is taken twice
        views = self.network.views(self.frames.pictures[photos], self.frames.pose(photos))
        views = replace(views, latents=self.photo_latents(photos))
        return Batch(self.latents(targets), torch.from_numpy(np.stack(windows)), views)

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
