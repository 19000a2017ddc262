"""The network's task: predict the noise (or velocity) of a target frame from a photo and a pose window.

Phase 1 (paper section 4.4) draws random pairs of frames of one subject from a frame store; phase 2 draws crops of a
subject's own photos. Both are a source of `Batch`es for the one loss here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..media import atomic_path
from ..model.base import Base
from ..model.conditioning import (
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
from ..model.surface import build_surface
from ..sampling import make_sampler
from .frames import Clip, FrameStore
from .loop import Draw, LoopSettings


@dataclass
class Batch:
    """B training samples. The photo conditions, the target is predicted.

    target and photo_latents (B, C, h, w); photos uint8 (B, H, W, 3); photo_poses (B, 3, H, W); windows
    (B, n, 3, H, W), the target's own pose in the middle.
    """

    target: Tensor
    photo_latents: Tensor
    photos: np.ndarray
    photo_poses: Tensor
    windows: Tensor


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
        base, config = self.base, self.base.config
        batch = self.source.draw(draw.numpy, settings.batch_size)
        count = settings.batch_size
        target = batch.target.to(base.device)
        windows = batch.windows.to(base.device)
        noise = torch.randn(target.shape, generator=draw.torch).to(base.device)
        timesteps = torch.randint(0, self.schedule.config.num_train_timesteps, (count,), generator=draw.torch)
        fate = torch.rand(count, generator=draw.torch)
        timesteps, fate = timesteps.to(base.device), fate.to(base.device)

        pixels = clip_pixels(base, list(batch.photos)).to(base.device)
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


class PairSource:
    """Phase 1: random pairs of frames of one subject; latents of all frames are encoded once and kept beside them."""

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

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        settings = self.base.config.poses
        photos, targets, windows = [], [], []
        for _ in range(count):
            clip = self.clips[rng.integers(len(self.clips))]
            photo, target = rng.choice(clip.length, 2, replace=clip.length < 2)
            photos.append(clip.start + photo)
            targets.append(clip.start + target)
            windows.append(
                self.frames.window(clip, int(target), settings.count, settings.training_fps, settings.window_rule)
            )
        return Batch(
            target=self.latents(targets),
            photo_latents=self.photo_latents(photos),
            photos=self.frames.pictures[photos],
            photo_poses=torch.from_numpy(self.frames.pose(photos)),
            windows=torch.from_numpy(np.stack(windows)),
        )


@torch.no_grad()
def encode_frames(
    base: Base, frames: FrameStore, value_range: tuple[float, float], progress=None
) -> Callable[[list[int]], Tensor]:
    """Latents of every frame, encoded once; `value_range` is the VAE input range, the target's or the condition's.

    Returns a function from rows to float32 (B, C, h, w). Kept as float16 beside the frames, under a name that follows
    the VAE's weights, so that a run that resumes reads what it had: 10 KB a frame for mini.
    """
    count, chunk = len(frames.pictures), 32
    shape = (count, base.latent_channels, *base.latent_size)
    path = frames.folder / f"latents-{_fingerprint(base, value_range)}.bin"
    if not path.exists():
        with atomic_path(path) as partial:
            store = np.memmap(partial, np.float16, "w+", shape=shape)
            for start in range(0, count, chunk):
                pictures = pictures_to_tensor(frames.pictures[start : start + chunk], value_range)
                store[start : start + chunk] = encode(base, pictures.to(base.device)).float().cpu().numpy()
                if progress:
                    progress(min(start + chunk, count), count, "latents")
            store.flush()
    latents = np.memmap(path, np.float16, "r", shape=shape)
    return lambda rows: torch.from_numpy(latents[np.asarray(rows)].astype(np.float32))


def _fingerprint(base: Base, value_range: tuple[float, float]) -> str:
    """16 hex digits of what a frame's latents depend on."""
    digest = hashlib.sha256(repr((base.config.latent_shift, base.config.latent_scale, value_range)).encode())
    for value in base.vae.encoder.state_dict().values():
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
