"""The denoising task: predict the noise (or velocity) of a target frame from a photo and the target's poses.

Phase 1 (paper section 4.4) draws random pairs of frames of one subject from a frame store, or clips of them
(`sources`); phase 2 draws crops of a subject's own photos (`crops.CropSource`). All are a source of `Batch`es for the one
loss here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..networks.network import Network, Views
from ..sampling import make_sampler
from .loop import LoopSettings, SampleRng


@dataclass(frozen=True)
class Batch:
    """B training samples of F frames (1, but for clips), R = B F rows, sample by sample: target (R, C, h, w), the latents that
    are predicted; windows (R, n, 3, H, W), the pose window of each target, its own pose in the middle; views, the N photos
    that condition, R / N targets each in turn."""

    target: Tensor
    windows: Tensor
    views: Views


@dataclass(frozen=True)
class NoiseSample:
    """What is random about B samples of F frames next to their pictures: noise (B F, C, h, w), timesteps (B,), and dropout
    (B,) in [0, 1), which decides what is dropped."""

    noise: Tensor
    timesteps: Tensor
    dropout: Tensor

    @classmethod
    def draw(
        cls, rngs: Sequence[SampleRng], shape: tuple[int, int, int], timesteps: int, frames: int = 1
    ) -> NoiseSample:
        """One sample of so many frames from each generator, on the CPU, for latents of `shape` (C, h, w)."""
        draws = [
            (
                torch.randn((frames, *shape), generator=rng.torch),
                torch.randint(0, timesteps, (1,), generator=rng.torch),
                torch.rand(1, generator=rng.torch),
            )
            for rng in rngs
        ]
        return cls(*(torch.cat(tensors) for tensors in zip(*draws, strict=True)))


class Source(Protocol):
    """Where the samples come from."""

    def batch(self, rngs: list[SampleRng]) -> Batch:
        """One sample from each generator, each of as many frames, in any thread."""
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
    """The denoiser and what conditions it; `modules` names what learns. Without a source nothing can be loaded: for a stage
    that has learned already."""

    def __init__(
        self,
        network: Network,
        source: Source | None,
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
        assert self.source is not None
        batch = self.source.batch(rngs)
        sample = NoiseSample.draw(rngs, shape, timesteps, len(batch.target) // len(rngs))
        if self.pairing.even_timesteps:
            even = [even_timestep(rng.seed, rng.index, timesteps) for rng in rngs]
            sample = replace(sample, timesteps=torch.tensor(even))
        return batch, sample

    def loss(self, loaded: tuple[Batch, NoiseSample], step: int, settings: LoopSettings) -> Tensor:
        """The squared error of predicting what was added to the targets, a mean over the samples.
        The frames of a sample have one timestep."""
        network, (batch, sample) = self.network, loaded
        target = batch.target.to(network.device)
        noise, timesteps = sample.noise.to(network.device), sample.timesteps.to(network.device)
        frames = len(target) // len(timesteps)
        no_image, no_pose = self.dropout.masks(sample.dropout.repeat_interleave(frames) if frames > 1 else sample.dropout)
        rows = timesteps.repeat_interleave(frames)

        reference = network.reference(batch.views, null=bool(no_image.any()))
        condition = network.condition(reference, batch.windows)
        noisy = self.schedule.add_noise(target, noise, rows)
        prediction = network.predict(noisy, rows, condition.drop(no_image, no_pose), network.at_timestep(reference, timesteps))
        velocity = self.schedule.config.prediction_type == "v_prediction"
        goal = self.schedule.get_velocity(target, noise, rows) if velocity else noise
        error = (prediction - goal).square()
        if self.pairing.figure_weight != 1.0:
            pose = batch.windows[:, batch.windows.shape[1] // 2].to(network.device)
            weight = 1.0 + (self.pairing.figure_weight - 1.0) * near_figure(pose, network.vae_scale_factor)
            error = error * (weight / weight.mean((2, 3), keepdim=True))
        return error.mean()


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
