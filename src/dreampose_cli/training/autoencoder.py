"""The tasks of the autoencoder: training one from scratch, its decoder alone, and tuning that on a subject's photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..networks.network import Network, pictures_to_tensor
from .frames import Clip, FrameDataset
from .loop import LoopSettings, SampleRng

SHIFT = 1 / 16  # of the shorter side: how far a view is shifted at most
PLAIN = 4  # of so many samples of a photo one is the photo as it is, not a view of it


class AutoencoderTask:
    """Reconstruction on crops around the figure.

    Loss: L1 + half the L1 of gradients + 3 MSE + L1 of f x f means + a little KL. Trained plainly, a four-channel latent
    tends to lose one hue axis; early on three of its channels are pulled towards a colour thumbnail and the colour
    channels of some pictures are permuted, which prevents it.
    """

    def __init__(self, network: Network, frames: FrameDataset, clips: list[Clip], crop: int = 64):
        self.network, self.frames = network, frames
        self.crop = min(crop, *frames.pictures.shape[1:3])
        self.rows = np.concatenate([np.arange(c.start, c.start + c.length) for c in clips])
        self.modules = network.learn(("vae",))

    def load(self, rngs: list[SampleRng]) -> tuple[Tensor, list[SampleRng]]:
        crops = np.stack([self._crop(rng.numpy) for rng in rngs])
        return pictures_to_tensor(crops, self.network.config.target_range), rngs

    def loss(self, loaded: tuple[Tensor, list[SampleRng]], step: int, settings: LoopSettings) -> Tensor:
        target, rngs = loaded[0].to(self.network.device), loaded[1]
        posterior = self.network.vae.encode(target).latent_dist
        shape = posterior.mean.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=rng.torch) for rng in rngs]).to(target.device)
        output = self.network.vae.decode(posterior.mean + posterior.std * noise).sample
        thumbnail = F.avg_pool2d(target, self.network.vae_scale_factor)
        loss = reconstruction_loss(output, target, self.network.vae_scale_factor)
        loss = loss + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        pull = max(0.0, 1.0 - step / (0.25 * settings.steps))
        if pull:
            loss = loss + pull * F.l1_loss(posterior.mean[:, :3], thumbnail)
        return loss

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        """A crop of a frame around its figure, its colour channels exchanged half of the time: uint8 (s, s, 3)."""
        size = self.crop
        height, width = self.frames.pictures.shape[1:3]
        row = rng.choice(self.rows)
        body = np.argwhere(self.frames.poses[row, 0, ::4, ::4] > 0) * 4
        centre = body[rng.integers(len(body))] if len(body) and rng.random() < 0.9 else (height // 2, width // 2)
        top = int(np.clip(centre[0] - size // 2 + rng.integers(-16, 17), 0, height - size))
        left = int(np.clip(centre[1] - size // 2 + rng.integers(-16, 17), 0, width - size))
        picture = self.frames.pictures[row][top : top + size, left : left + size]
        return picture[..., rng.permutation(3)] if rng.random() < 0.5 else picture


class DecoderTask:
    """The decoder alone, `modules`, on whole frames of the clips; the encoder, and so what the denoiser learned, stays.

    Normalization and attention in the decoder see the whole picture: trained on crops alone (`AutoencoderTask`), it is not
    yet at its best on the frames that it is for. `latents`: from rows of the dataset to their latents (B, C, h, w).
    """

    def __init__(
        self,
        network: Network,
        frames: FrameDataset,
        clips: list[Clip],
        latents: Callable[[list[int]], Tensor],
        modules: Sequence[str],
    ):
        self.network, self.frames, self.latents = network, frames, latents
        self.rows = np.concatenate([np.arange(c.start, c.start + c.length) for c in clips])
        self.modules = network.learn(modules)

    def load(self, rngs: list[SampleRng]) -> tuple[Tensor, Tensor]:
        rows = [int(rng.numpy.choice(self.rows)) for rng in rngs]
        return self.latents(rows), pictures_to_tensor(self.frames.pictures[rows], self.network.config.target_range)

    def loss(self, loaded: tuple[Tensor, Tensor], step: int, settings: LoopSettings) -> Tensor:
        latents, target = (part.to(self.network.device) for part in loaded)
        return reconstruction_loss(self.network.reconstruct(latents), target, self.network.vae_scale_factor)


class ReconstructionTask:
    """The VAE decoder on full frames of a subject's photos uint8 (N, H, W, 3): crops would shift what it does to the
    background. `modules` names what learns.

    One photo is one set of latents, which hundreds of thousands of weights soon know by heart. `views` copies of each photo,
    mirrored or not and shifted by up to SHIFT of the shorter side, fall on the latent grid elsewhere; as whole pixels, since a
    picture that is resampled is blurred and teaches blur. Every PLAIN-th of these samples is the photo as it is.

    `predicted`: latents that the denoiser itself made and the pictures they should have been (`predictions.predict_photos`), as
    many of each photo; every other sample is one of them. From these the decoder learns the subject's colours alone
    (`colour_loss`): edges do not lie where the truth has them, and detail that is compared all the same is blurred.
    """

    def __init__(
        self,
        network: Network,
        pictures: np.ndarray,
        modules: Sequence[str],
        views: int = 0,
        predicted: tuple[Tensor, np.ndarray] | None = None,
    ):
        self.network, self.modules = network, network.learn(modules)
        self.photos, self.views = len(pictures), views
        rng = np.random.default_rng(0)
        shown = [*pictures, *(moved(rng, photo) for photo in pictures for _ in range(views))]
        self.target = pictures_to_tensor(np.stack(shown), network.config.target_range)
        with torch.no_grad():
            self.latents = torch.cat([network.encode(photo[None].to(network.device)).float() for photo in self.target])
        self.shown, self.predictions = len(shown), 0
        if predicted:
            latents, pictures = predicted
            self.predictions = len(pictures) // self.photos
            self.latents = torch.cat([self.latents, latents.to(self.latents)])
            self.target = torch.cat([self.target, pictures_to_tensor(pictures, network.config.target_range)])

    def load(self, rngs: list[SampleRng]) -> list[int]:
        """Which pictures: of all photos in turn, so that a step of as many samples sees each once."""
        return [self._picture(rng) for rng in rngs]

    def _picture(self, rng: SampleRng) -> int:
        photo, turn = rng.index % self.photos, rng.index // self.photos
        if self.predictions:
            turn, own = divmod(turn, 2)
            if own:
                return self.shown + photo * self.predictions + int(rng.numpy.integers(self.predictions))
        if not self.views or turn % PLAIN == 0:
            return photo
        return self.photos + photo * self.views + int(rng.numpy.integers(self.views))

    def loss(self, rows: list[int], step: int, settings: LoopSettings) -> Tensor:
        factor = self.network.vae_scale_factor
        target = self.target[rows].to(self.network.device)
        output = self.network.reconstruct(self.latents[rows])
        photos = [i for i, row in enumerate(rows) if row < self.shown]
        own = [i for i, row in enumerate(rows) if row >= self.shown]
        losses = [
            measure(output[chosen], target[chosen], factor) * (len(chosen) / len(rows))
            for measure, chosen in ((reconstruction_loss, photos), (colour_loss, own))
            if chosen
        ]
        return torch.stack(losses).sum()


@dataclass(frozen=True)
class Shift:
    """A move by whole pixels, down and to the right; what comes in is the border continued, in a pose background."""

    down: int
    across: int

    def of_picture(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3)"""
        height, width = picture.shape[:2]
        rows = np.clip(np.arange(height) - self.down, 0, height - 1)
        columns = np.clip(np.arange(width) - self.across, 0, width - 1)
        return picture[rows][:, columns]

    def of_pose(self, pose: np.ndarray) -> np.ndarray:
        """(3, H, W)"""
        height, width = pose.shape[1:]
        moved = np.roll(pose, (self.down, self.across), (1, 2))
        rows, columns = np.arange(height) - self.down, np.arange(width) - self.across
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        return np.where(inside, moved, 0).astype(pose.dtype)

    @classmethod
    def draw(cls, rng: np.random.Generator, height: int, width: int) -> Shift:
        """By up to SHIFT of the shorter side, at least a pixel."""
        most = max(1, round(SHIFT * min(height, width)))
        down, across = rng.integers(-most, most + 1, size=2)
        return cls(int(down), int(across))


def moved(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) shifted by whole pixels, and mirrored half of the time."""
    shifted = Shift.draw(rng, *picture.shape[:2]).of_picture(picture)
    return shifted[:, ::-1] if rng.random() < 0.5 else shifted


def reconstruction_loss(output: Tensor, target: Tensor, factor: int) -> Tensor:
    """L1 + half the L1 of the gradients + 3 MSE + L1 of the means over factor x factor blocks."""
    difference = output - target
    gradient = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return (
        difference.abs().mean()
        + 0.5 * gradient
        + 3 * difference.square().mean()
        + F.avg_pool2d(difference, factor).abs().mean()
    )


def colour_loss(output: Tensor, target: Tensor, factor: int) -> Tensor:
    """L1 of the means over blocks of factor x factor pixels, and over blocks of half that side."""
    difference = output - target
    return F.avg_pool2d(difference, factor).abs().mean() + F.avg_pool2d(difference, factor // 2).abs().mean()


@torch.no_grad()
def latent_statistics(network: Network, frames: FrameDataset, clips: list[Clip], count: int = 512) -> tuple[list, list]:
    """Per-channel shift (mean) and scale (1 / standard deviation) of the latents of `count` random frames."""
    rows = np.concatenate([np.arange(c.start, c.start + c.length) for c in clips])
    rows = np.sort(np.random.default_rng(0).choice(rows, min(count, len(rows)), replace=False))
    means = []
    for part in np.array_split(rows, max(1, len(rows) // 16)):
        pictures = pictures_to_tensor(frames.pictures[part], network.config.target_range).to(network.device)
        means.append(network.vae.encode(pictures).latent_dist.mode())
    latents = torch.cat(means).transpose(0, 1).flatten(1)
    return latents.mean(1).tolist(), (1 / latents.std(1)).tolist()
