"""Phase 2 (paper section 4.4): what is learned from a subject's views, UNet + adapter first, then the VAE decoder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ..bases.config import TuningSettings
from ..networks import lora as lowrank
from ..networks.dreampose.conditioning import encode, pictures_to_tensor
from ..networks.dreampose.network import Base, save_tensors
from ..networks.dreampose.surface import PARTS
from ..reporting import Note, Progress
from ..sampling import derived_seed
from ..subjects.views import Views
from .autoencoder import reconstruction_loss
from .denoising import Batch, Chance, DenoisingTask
from .loop import Draw, LoopSettings, SampledTask
from .memory import Thrift, run_within_memory


def fit_subject(
    model: Base,
    views: Views,
    preset: TuningSettings,
    seed: int,
    autocast: str | None,
    checkpoints: Path | None,
    progress: Progress | None = None,
    note: Note | None = None,
    thrift: Thrift | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Tune `model` in place on `views`: UNet + adapter on random crops, then the decoder on full frames.

    Returns what makes the subject: for "unet", "adapter" and "decoder" the weights, or with `preset.rank` what is added
    to them (`lowrank.put_on`).
    """
    total = preset.steps + preset.decoder_steps
    stages = [
        ("network", NetworkTuning, preset.steps, preset.learning_rate, preset.batch_size, 0),
        (
            "decoder",
            DecoderTuning,
            preset.decoder_steps,
            preset.decoder_learning_rate,
            min(preset.decoder_batch_size, len(views.pictures)),
            preset.steps,
        ),
    ]
    thrift = thrift or Thrift(checkpointing=preset.gradient_checkpointing)
    found: dict[str, dict[str, Tensor]] = {}
    for name, kind, steps, rate, batch, before in stages:
        task = kind(model, views, preset)
        blend = preset.blend if name == "network" else 1.0
        before_it = _put_aside(task, checkpoints) if blend != 1 and not preset.rank else {}
        updates = {}
        if preset.rank:
            for index, (part, module) in enumerate(task.modules.items()):
                updates[part] = lowrank.attach(module, preset.rank, derived_seed(seed, index))
                module.to(memory_format=torch.channels_last)
        settings = LoopSettings(
            steps=steps, learning_rate=rate, batch_size=batch, seed=seed, autocast=autocast,
            decay=preset.decay, save_every=max(20, steps // 4), keep=1, eight_bit_adam=thrift.eight_bit_adam,
        )  # fmt: skip

        def report(done: int, _total, text: str = "", name: str = name, before: int = before) -> None:
            if progress:
                progress(before + done, total, f"{name}, {text}")

        if steps:
            learning = task if not updates else _Learning(task, updates)
            stored = checkpoints / name if checkpoints else None
            result, thrift = run_within_memory(learning, model, settings, thrift, stored, report, note)
            if result.resumed_from and note:
                note(f"{name}: went on from step {result.resumed_from}.")
        for part, module in task.modules.items():
            if updates:
                found[part] = updates[part].tensors(blend)
                lowrank.detach(module)
                lowrank.put_on(module, found[part])
            else:
                if part in before_it:
                    _go_back(module, before_it[part](), 1 - blend)
                found[part] = module.state_dict()
    return found


def _put_aside(task: SampledTask, folder: Path | None) -> dict[str, Callable[[], dict[str, Tensor]]]:
    """For each of a task's modules what gives back its weights as they were before: from files in `folder`, which take no
    memory meanwhile, or without one from the CPU's memory."""
    found = {}
    for part, module in task.modules.items():
        tensors = dict(module.named_parameters())
        if folder is None:
            copies = {name: p.detach().to("cpu", copy=True) for name, p in tensors.items()}
            found[part] = lambda copies=copies: copies
        else:
            file = folder / f"{part}-before.safetensors"
            save_tensors(tensors, file)
            found[part] = functools.partial(load_file, file)
    return found


@torch.no_grad()
def _go_back(module: nn.Module, earlier: dict[str, Tensor], share: float) -> None:
    """Move the weights of `module` towards what they were, by `share` of the way."""
    for name, parameter in module.named_parameters():
        parameter.lerp_(earlier[name].to(parameter), share)


class _Learning:
    """A task of which only the updates learn."""

    def __init__(self, task: SampledTask, updates: dict[str, nn.Module]):
        self.load, self.loss, self.modules = task.load, task.loss, updates


class NetworkTuning(DenoisingTask):
    """UNet + adapter on a subject's photos; no dropout (paper section 4.4)."""

    def __init__(self, model: Base, views: Views, preset: TuningSettings):
        super().__init__(model, _Crops(model, views, preset), train_encoder=False, dropout=None)

    def load(self, draws: list[Draw]) -> tuple[Batch, Chance]:
        """Crops of the samples with these draws, and what else is random about them."""
        shape = (1, self.base.latent_channels, *self.base.latent_size)
        batches = self.source.draw([draw.numpy for draw in draws])
        chances = [Chance.of(draw.torch, shape, self.timesteps) for draw in draws]
        together = Chance(*(torch.cat([getattr(c, name) for c in chances]) for name in ("noise", "timesteps", "fate")))
        return batches, together

    def loss(self, loaded: tuple[Batch, Chance], step: int, settings: LoopSettings) -> Tensor:
        return self.denoise(*loaded)


class _Crops:
    """Random crops: a target and its pose share one crop, the conditioning photo has another.

    So the network cannot learn to copy the photo pixel by pixel, which shows as texture that sticks to the screen.
    """

    def __init__(self, model: Base, views: Views, preset: TuningSettings):
        self.model, self.views, self.preset = model, views, preset

    def draw(self, generators: list[np.random.Generator]) -> Batch:
        """One sample from each of the generators."""
        config = self.model.config
        targets, windows, photos, photo_poses = [], [], [], []
        for rng in generators:
            i, j = rng.integers(len(self.views.pictures), size=2)
            target, pose = random_crop(rng, self.views.pictures[i], self.views.poses[i], self.preset.crop)
            photo, photo_pose = random_crop(rng, self.views.pictures[j], self.views.poses[j], self.preset.crop)
            if rng.random() < self.preset.hide:
                photo_pose = hide_parts(rng, photo_pose)
            targets.append(target)
            windows.append(np.repeat(pose[None], config.poses.count, 0))
            photos.append(photo)
            photo_poses.append(photo_pose)
        device = self.model.device
        with torch.no_grad():
            target = encode(self.model, pictures_to_tensor(np.stack(targets), config.target_range).to(device))
            latents = encode(self.model, pictures_to_tensor(np.stack(photos), config.photo.condition_range).to(device))
        return Batch(
            target=target.float(),
            photo_latents=latents.float(),
            photos=np.stack(photos),
            photo_poses=torch.from_numpy(np.stack(photo_poses)),
            windows=torch.from_numpy(np.stack(windows)),
        )


def random_crop(
    rng: np.random.Generator, picture: np.ndarray, pose: np.ndarray, smallest: float
) -> tuple[np.ndarray, np.ndarray]:
    """A random crop of a picture (H, W, 3) and its pose (3, H, W), resized back to H x W."""
    height, width = picture.shape[:2]
    share = rng.uniform(smallest, 1.0)
    h, w = round(height * share), round(width * share)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    crop = np.ascontiguousarray(picture[top : top + h, left : left + w])
    resized = np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC))
    rows = top + ((np.arange(height) + 0.5) * h / height).astype(int)
    columns = left + ((np.arange(width) + 0.5) * w / width).astype(int)
    return resized, pose[:, rows][:, :, columns]


def hide_parts(rng: np.random.Generator, pose: np.ndarray) -> np.ndarray:
    """A pose (3, H, W) with a random half of its body parts made background.

    A tuned network always sees its subject's photo; hiding parts of it keeps it from learning that everything can be
    copied, and makes it learn what the subject wears.
    """
    hidden = np.flatnonzero(rng.random(PARTS + 1) < 0.5)
    return np.where(np.isin(pose[0], hidden), 0, pose).astype(pose.dtype)


class DecoderTuning:
    """The VAE decoder on full frames of the photos: crops would shift what it does to the background."""

    def __init__(self, model: Base, views: Views, preset: TuningSettings):
        model.vae.requires_grad_(False)
        model.vae.decoder.requires_grad_(True)
        self.model = model
        self.modules: dict[str, nn.Module] = {"decoder": model.vae.decoder}
        self.target = pictures_to_tensor(views.pictures, model.config.target_range)
        with torch.no_grad():
            self.latents = torch.cat([encode(model, photo[None].to(model.device)).float() for photo in self.target])

    def load(self, draws: list[Draw]) -> list[int]:
        """Which photos: all of them in turn, so that a step of as many samples sees each once."""
        return [draw.index % len(self.target) for draw in draws]

    def loss(self, rows: list[int], step: int, settings: LoopSettings) -> Tensor:
        target = self.target[rows].to(self.model.device)
        latents = self.latents[rows] / self.model.latent_scale + self.model.latent_shift
        output = self.model.vae.decode(latents.to(self.model.dtype)).sample
        return reconstruction_loss(output, target, self.model.factor)
