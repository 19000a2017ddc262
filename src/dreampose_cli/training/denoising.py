"""The network's task: predict the noise (or velocity) of a target frame from a photo and a pose window.

Phase 1 (paper section 4.4) draws random pairs of frames of one subject from a frame store; phase 2 draws crops of a
subject's own photos. Both are a source of `Batch`es for the one loss here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..media import atomic_path
from ..networks.dreampose.conditioning import (
    clip_pixels,
    context,
    encode,
    null_context,
    null_pose,
    photo_channels,
    pictures_to_tensor,
    pose_channels,
    prior_of,
)
from ..networks.dreampose.network import Base
from ..networks.dreampose.surface import build_surface
from ..sampling import make_sampler
from .frames import Clip, FrameStore
from .loop import Draw, LoopSettings
from .shards import caching


@dataclass
class Batch:
    """B training samples. The photo conditions, the target is predicted.

    target and photo_latents (B, C, h, w); photos uint8 (B, H, W, 3); photo_poses (B, 3, H, W); windows
    (B, n, 3, H, W), the target's own pose in the middle; clip, the photos as CLIP sees them (B, 3, s, s), where that was
    computed ahead.
    """

    target: Tensor
    photo_latents: Tensor
    photos: np.ndarray
    photo_poses: Tensor
    windows: Tensor
    clip: Tensor | None = None


@dataclass
class Chance:
    """What is random about B samples beside their pictures: noise (B, C, h, w), timesteps (B,), and fate (B,) in [0, 1),
    which decides what is dropped."""

    noise: Tensor
    timesteps: Tensor
    fate: Tensor

    @classmethod
    def of(cls, generator: torch.Generator, shape: tuple[int, ...], timesteps: int) -> Chance:
        """Drawn on the CPU for samples whose latents are of `shape`, (B, C, h, w)."""
        return cls(
            torch.randn(shape, generator=generator),
            torch.randint(0, timesteps, shape[:1], generator=generator),
            torch.rand(shape[0], generator=generator),
        )


class Source(Protocol):
    """Where the samples come from."""

    def draw(self, rng: np.random.Generator, count: int) -> Batch: ...


@dataclass(frozen=True)
class Dropout:
    """Share of samples whose image, pose, or both are replaced by null (paper section 4.4: 5 % each)."""

    image: float = 0.05
    pose: float = 0.05
    both: float = 0.05


class DenoisingTask:
    """UNet + adapter, and CLIP where it starts from nothing."""

    def __init__(self, base: Base, source: Source, *, train_encoder: bool, dropout: Dropout | None):
        self.base, self.source, self.dropout = base, source, dropout
        self.modules: dict[str, nn.Module] = {"unet": base.unet, "adapter": base.adapter}
        base.vae.requires_grad_(False)
        base.image_encoder.requires_grad_(train_encoder)
        if train_encoder:
            self.modules["image_encoder"] = base.image_encoder
        self.schedule = make_sampler("ddim", base.scheduler)

    def loss(self, draw: Draw, step: int, settings: LoopSettings) -> Tensor:
        batch = self.source.draw(draw.numpy, settings.batch_size)
        return self.denoise(batch, Chance.of(draw.torch, tuple(batch.target.shape), self.timesteps))

    @property
    def timesteps(self) -> int:
        return self.schedule.config.num_train_timesteps

    def denoise(self, batch: Batch, chance: Chance) -> Tensor:
        """The loss of predicting what was added to the targets: a mean over the samples."""
        base, config = self.base, self.base.config
        count = len(batch.target)
        target = batch.target.to(base.device)
        windows = batch.windows.to(base.device)
        noise, timesteps = chance.noise.to(base.device), chance.timesteps.to(base.device)
        fate = chance.fate.to(base.device)

        pixels = (clip_pixels(base, list(batch.photos)) if batch.clip is None else batch.clip).to(base.device)
        tokens = context(base, pixels, batch.photo_latents.to(base.device))
        pose = pose_channels(config.poses, windows, base.factor)
        surface = None
        if config.photo.unet_channels == "surface":
            photos = pictures_to_tensor(batch.photos, (-1.0, 1.0)).to(base.device)
            surface = build_surface(photos, batch.photo_poses.to(base.device))
        middle = windows[:, config.poses.count // 2]
        photo, guess = photo_channels(base, batch.photo_latents.to(base.device), surface, middle, pose)
        regression = F.mse_loss(guess.float(), target) if guess is not None else 0.0
        if self.dropout is not None:
            drop = self.dropout
            no_image = (fate < drop.image) | (
                (fate >= drop.image + drop.pose) & (fate < drop.image + drop.pose + drop.both)
            )
            no_pose = (fate >= drop.image) & (fate < drop.image + drop.pose + drop.both)
            if no_image.any():
                tokens = torch.where(no_image.view(-1, 1, 1), null_context(base), tokens)
            pose = torch.where(no_pose.view(-1, 1, 1, 1), null_pose(config.poses, pose), pose)
            # The carried texture needs both; the plain photo latents need the image only.
            blank = no_image | no_pose if surface is not None else no_image
            photo = torch.where(blank.view(-1, 1, 1, 1), torch.zeros_like(photo), photo)
        else:
            blank = torch.zeros(count, dtype=torch.bool, device=base.device)
        prior = prior_of(base, guess, blank) if guess is not None else None

        noisy = self.schedule.add_noise(target, noise, timesteps)
        prediction = base.predict(noisy, timesteps, tokens, pose, photo, prior)
        if self.schedule.config.prediction_type == "v_prediction":
            goal = self.schedule.get_velocity(target, noise, timesteps)
        else:
            goal = noise
        return F.mse_loss(prediction, goal) + regression


class PairTask(DenoisingTask):
    """Phase 1: pairs of frames, each sample drawn by its own number alone."""

    source: PairSource

    def load(self, draws: list[Draw]) -> tuple[Batch, Chance]:
        shape = (1, self.base.latent_channels, *self.base.latent_size)
        chances = [Chance.of(draw.torch, shape, self.timesteps) for draw in draws]
        together = Chance(*(torch.cat([getattr(c, name) for c in chances]) for name in ("noise", "timesteps", "fate")))
        return self.source.pairs(draws), together

    def loss(self, loaded: tuple[Batch, Chance], step: int, settings: LoopSettings) -> Tensor:
        return self.denoise(*loaded)


class PairSource:
    """Random pairs of frames of one subject; latents of all frames are encoded once and kept beside them.

    Every frame is the target once in an epoch, in an order of its own in each; its photo is any other frame of its clip.
    """

    def __init__(
        self,
        base: Base,
        frames: FrameStore,
        clips: list[Clip],
        latents: Callable[[list[int]], Tensor],
        photo_latents: Callable[[list[int]], Tensor] | None = None,  # where the VAE sees photos in another range
    ):
        self.base, self.frames, self.clips = base, frames, clips
        self.latents, self.photo_latents = latents, photo_latents or latents
        self.clip_of = np.repeat(np.arange(len(clips)), [clip.length for clip in clips])
        self.frame_of = np.concatenate([np.arange(clip.length) for clip in clips])

    def pairs(self, draws: list[Draw]) -> Batch:
        """The samples with the numbers of `draws`."""
        settings = self.base.config.poses
        photos, targets, windows = [], [], []
        for draw in draws:
            epoch, place = divmod(draw.index, len(self.clip_of))
            chosen = _order(draw.seed, epoch, len(self.clip_of))[place]
            clip, target = self.clips[self.clip_of[chosen]], int(self.frame_of[chosen])
            photo = int(draw.numpy.integers(max(1, clip.length - 1)))
            photo += photo >= target and clip.length > 1  # any but the target itself, if there is another
            photos.append(clip.start + photo)
            targets.append(clip.start + target)
            windows.append(
                self.frames.window(clip, target, settings.count, settings.training_fps, settings.window_rule)
            )
        pictures = self.frames.pictures[photos]
        return Batch(
            target=self.latents(targets),
            photo_latents=self.photo_latents(photos),
            photos=pictures,
            photo_poses=torch.from_numpy(self.frames.pose(photos)),
            windows=torch.from_numpy(np.stack(windows)),
            clip=clip_pixels(self.base, list(pictures)),
        )


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` frames in an epoch, int32."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(1,)))
    return rng.permutation(count).astype(np.int32)


@torch.no_grad()
def encode_frames(
    base: Base, frames: FrameStore, value_range: tuple[float, float], progress=None, share: tuple[int, int] = (0, 1)
) -> Callable[[list[int]], Tensor]:
    """Latents of every frame, encoded once; `value_range` is the VAE input range, the target's or the condition's.

    Returns a function from rows to float32 (B, C, h, w). Kept as float16 in a file for each clip beside its shard, under a
    name that follows the VAE's weights, so that a run that resumes reads what it had: 10 KB a frame for mini. Of several
    processes, `share` = (this one, how many), each begins with its own clips and takes others only where they are missing.
    """
    mark = _fingerprint(base, value_range)
    clips = frames.clips or [Clip("all", "train", 0, len(frames.pictures), 1.0)]
    files = [_latents_file(frames, clip, mark) for clip in clips]
    order = sorted(range(len(clips)), key=lambda i: i % share[1] != share[0])
    done, total = 0, len(frames.pictures)
    for i in order:
        clip = clips[i]
        if not files[i].exists():
            with caching(), atomic_path(files[i]) as partial:
                partial.write_bytes(_encode_clip(base, frames, clip, value_range).tobytes())
        done += clip.length
        if progress:
            progress(done, total, "latents")
    starts = np.cumsum([0, *(clip.length for clip in clips)])
    shape = (base.latent_channels, *base.latent_size)

    def read(row: int) -> np.ndarray:
        clip = int(np.searchsorted(starts, row, side="right")) - 1
        size = 2 * int(np.prod(shape))
        with files[clip].open("rb", buffering=0) as file:
            file.seek((row - int(starts[clip])) * size)
            return np.frombuffer(file.read(size), np.float16).reshape(shape)

    return lambda rows: torch.from_numpy(np.stack([read(int(row)) for row in rows]).astype(np.float32))


def _encode_clip(base: Base, frames: FrameStore, clip: Clip, value_range: tuple[float, float]) -> np.ndarray:
    parts = []
    for start in range(clip.start, clip.start + clip.length, 32):
        pictures = frames.pictures[start : min(start + 32, clip.start + clip.length)]
        parts.append(encode(base, pictures_to_tensor(pictures, value_range).to(base.device)).half().cpu().numpy())
    return np.concatenate(parts)


def _latents_file(frames: FrameStore, clip: Clip, mark: str) -> Path:
    shard = clip.shard or frames.folder / f"{clip.name}.shard"
    return shard.with_name(f"{shard.stem}.{mark}.latents")


def _fingerprint(base: Base, value_range: tuple[float, float]) -> str:
    """16 hex digits of what a frame's latents depend on."""
    digest = hashlib.sha256(repr((base.config.latent_shift, base.config.latent_scale, value_range)).encode())
    for value in base.vae.encoder.state_dict().values():
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
