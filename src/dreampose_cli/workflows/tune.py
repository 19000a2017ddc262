"""Phase 2: from photos of one subject to a subject (paper section 4.4): UNet + adapter first, then the VAE decoder.

A subject is cached by what determines it: the photos' bytes, their poses, the base's content and the settings.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import __version__, cache, media
from ..bases.config import BaseConfig, TuningSettings, read_config
from ..bases.fingerprint import revision
from ..bases.registry import lasting_name, resolve_base
from ..device import autocast_of, keep_little, pick_device, release, spares_memory
from ..errors import NoPersonError, PoseError, StoreError, UsageError
from ..media.fitting import Crop, fit_picture, fit_pose
from ..networks import lora as lowrank
from ..networks.dreampose.conditioning import encode, pictures_to_tensor
from ..networks.dreampose.network import Base, load_base, save_tensors
from ..networks.dreampose.surface import PARTS
from ..poses.extraction import nobody, poses_of
from ..sampling import derived_seed
from ..training.autoencoder import reconstruction_loss
from ..training.denoising import Batch, Chance, DenoisingTask
from ..training.loop import Draw, LoopSettings, SampledTask
from ..training.memory import Thrift, run_within_memory

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]
SUBJECT_VERSION = 1
SUBJECT_FILE = "subject.json"
LOW_RANK_RATE, LOW_RANK_DECODER_RATE = 10.0, 10.0  # learning rates of low-rank updates, times those of full tuning
WIDENINGS = 4  # of a photo's region, before the whole is taken
DENSEPOSE_SIDE = 800  # detectron2's own limit for the short side of a picture


@dataclass(frozen=True)
class TunedSubject:
    """A subject in the cache; `cached` says that nothing had to be computed."""

    id: str
    name: str | None
    base: str
    path: Path
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Views:
    """A subject's photos at the base's resolution: pictures uint8 (N, H, W, 3), poses float32 (N, 3, H, W).

    crops: of each photo the region that was used, None for the whole.
    """

    pictures: np.ndarray
    poses: np.ndarray
    crops: list[Crop | None]


def tune(
    photos: list[Path],
    *,
    base: str | None = None,
    name: str | None = None,
    poses: list[Path] | None = None,
    steps: int | None = None,
    decoder_steps: int | None = None,
    learning_rate: float | None = None,
    decoder_learning_rate: float | None = None,
    batch_size: int | None = None,
    rank: int | None = None,
    seed: int = 0,
    estimator: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = "auto",
    progress: Progress | None = None,
    note: Note | None = None,
) -> TunedSubject:
    """Tune the base on one or more photos of one subject; what is cached is returned at once.

    `poses` are pose sources, one a photo, in place of the estimator. `rank`: of the updates of a low-rank subject, 0 for
    all weights. `memory`: "auto", "low" to spare it, "high" not to, which changes nothing else but rounding. A run that was
    interrupted goes on where its last checkpoint left it. Raises MediaError, PoseError, NoPersonError, BaseError,
    UsageError, StoreError, OutOfMemoryError.
    """
    note = note or (lambda text: None)
    started = time.monotonic()
    if not photos:
        raise UsageError("tune needs at least one photo.")
    if poses and len(poses) != len(photos):
        raise UsageError(f"{len(photos)} photos but {len(poses)} --poses: give one for each photo, in the same order.")
    pictures = [media.read_photo(path) for path in photos]
    folder = resolve_base(base, note, progress)
    where = pick_device(device)
    config = read_config(folder)
    preset = settle(config.tuning, steps, decoder_steps, learning_rate, decoder_learning_rate, batch_size, rank)
    autocast = autocast_of(dtype, where)
    if spares_memory(where, memory):
        keep_little(where)
    thrift = Thrift.of(preset, where, memory, autocast)
    views = read_views(config, photos, pictures, poses, estimator or config.estimator, device, note)
    identity = {
        "version": SUBJECT_VERSION,
        "base": revision(folder),
        "photos": [cache.file_digest(path) for path in photos],
        "poses": cache.key(np.ascontiguousarray(views.poses).tobytes()),
        "settings": asdict(preset),
        "seed": seed,
        "autocast": autocast,
        "eight_bit_adam": thrift.eight_bit_adam,
    }
    id = cache.key("subject", identity)
    with cache.lock(f"subject-{id}", waiting=note, what=f"the subject {id}"):
        entry = cache.path_of("subject", id)
        cached = _is_whole(entry)
        if not cached:
            partial = cache.partial_folder(id)
            if not (partial / SUBJECT_FILE).exists():  # else it was stopped after its last step, and is whole
                model = load_base(folder, device=where, dtype=thrift.frozen)
                release(where)  # what reading and loading took
                tuned = fit_subject(
                    model, views, preset, seed, autocast, partial / "checkpoints", progress, note, thrift
                )
                description = {
                    "id": id,
                    "name": name,
                    "dreampose": __version__,
                    "base": {
                        "name": lasting_name(folder),
                        "path": str(folder.absolute()),
                        "revision": identity["base"],
                    },
                    "photos": [
                        {"file": str(path), "sha256": digest, "size": list(picture.shape[:2])}
                        | ({"crop": asdict(crop)} if crop else {})
                        for path, digest, picture, crop in zip(
                            photos, identity["photos"], pictures, views.crops, strict=True
                        )
                    ],
                    "seconds": round(time.monotonic() - started, 1),
                    **{key: identity[key] for key in ("version", "settings", "seed")},
                }
                write_subject(tuned, views, description, partial)
            shutil.rmtree(partial / "checkpoints", ignore_errors=True)
            entry = cache.publish_partial(id, "subject")
        if name is not None:
            _rename(entry, name)
    cache.touch("subject", id)
    cache.set_last_subject(id)
    if name is None:
        name = cache.read_json(entry / SUBJECT_FILE).get("name")
    return TunedSubject(id, name, config.name, entry, cached, time.monotonic() - started)


def settle(
    preset: TuningSettings, steps=None, decoder_steps=None, rate=None, decoder_rate=None, batch_size=None, rank=None
) -> TuningSettings:
    """The base's preset, but for what was asked for. The preset's learning rates are those of full tuning."""
    if rank if rank is not None else preset.rank:
        preset = dataclasses.replace(
            preset,
            learning_rate=LOW_RANK_RATE * preset.learning_rate,
            decoder_learning_rate=LOW_RANK_DECODER_RATE * preset.decoder_learning_rate,
        )
    asked = {
        "steps": steps,
        "decoder_steps": decoder_steps,
        "learning_rate": rate,
        "decoder_learning_rate": decoder_rate,
        "batch_size": batch_size,
        "rank": rank,
    }
    return dataclasses.replace(preset, **{key: value for key, value in asked.items() if value is not None})


def read_views(
    config: BaseConfig, photos, pictures, poses, estimator: str, device: str, note: Note | None = None
) -> Views:
    """Photos and their poses at the base's resolution; the poses from the given files, else from the estimator."""
    fitted, frames, crops = [], [], []
    for i, (path, picture) in enumerate(zip(photos, pictures, strict=True)):
        if poses:
            sequence, _, _ = poses_of(poses[i], estimator=estimator, device=device, note=note)
            frame = sequence.frame(0)
            if not (frame[1:] > 0).any():
                raise PoseError(f"{poses[i]} shows nobody; give the pose of {path}, or leave it to the estimator.")
            if abs(frame.shape[1] / frame.shape[2] * picture.shape[1] / picture.shape[0] - 1) > 0.03:
                raise PoseError(
                    f"the pose in {poses[i]} is {frame.shape[2]}x{frame.shape[1]} and {path} is "
                    f"{picture.shape[1]}x{picture.shape[0]}: give the pose of this very photo, or leave it to the estimator."
                )
        else:
            frame = estimate_photo(picture, path, estimator, device, note)
        size = picture.shape[:2]
        crop = Crop.around(frame, size, config.resolution, config.fit)
        if crop and not poses:
            crop, frame = look_nearer(crop, picture, frame, path, config, estimator, device)
        elif crop:
            frame = crop.of_pose(frame, size)
        if crop:
            picture = crop.of_picture(picture)
            if note:
                note(f"{path} is cut to {crop.width}x{crop.height} around the person, who would be small in the whole.")
        fitted.append(fit_picture(picture, config.resolution, config.fit))
        frames.append(fit_pose(frame, config.resolution, config.fit, config.poses.resize))
        crops.append(crop)
    return Views(np.stack(fitted), np.stack(frames), crops)


def look_nearer(
    crop: Crop,
    picture: np.ndarray,
    frame: np.ndarray,
    path: Path | str,
    config: BaseConfig,
    estimator: str,
    device: str,
) -> tuple[Crop | None, np.ndarray]:
    """The region of a photo with room for all of the person, and the pose there: nearer, the estimator sees more.

    A region that cuts what is seen of the person is widened; where that does not help, None, for the whole photo, and
    its pose `frame`.
    """
    size, aspect = picture.shape[:2], config.resolution[1] / config.resolution[0]
    for _ in range(WIDENINGS):
        try:
            near = estimate_photo(crop.of_picture(picture), path, estimator, device)
        except NoPersonError:
            return crop, crop.of_pose(frame, size)
        cuts = crop.cuts(near, size)
        if not any(cuts):
            return crop, near
        crop = crop.wider(cuts, size, aspect)
        if crop.is_nearly_all(size):
            break
    return None, frame


def estimate_photo(
    picture: np.ndarray, path: Path | str, estimator: str, device: str, note: Note | None = None
) -> np.ndarray:
    """The pose (3, h, w) of one photo by the estimator, of the photo's size or, if that is large, smaller.

    Raises NoPersonError.
    """
    from ..poses.densepose import DensePose, resize_for
    from ..poses.estimator import has_person, load_estimator

    model = load_estimator(estimator, pick_device(device), note=note)
    if isinstance(model, DensePose) and min(picture.shape[:2]) > DENSEPOSE_SIDE:
        picture = resize_for(picture, DENSEPOSE_SIDE)  # it was trained on pictures no larger
    frame = model.estimate([picture])[0]
    if not has_person(frame, model.least_person):
        raise NoPersonError(nobody(path, model.name))
    return frame


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


def write_subject(tuned: dict[str, dict[str, Tensor]], views: Views, description: dict, folder: Path) -> None:
    """What was tuned with the photos and their poses; `subject.json`, which completes it, last."""
    for name, tensors in tuned.items():
        save_tensors(tensors, folder / f"{name}.safetensors", torch.float16)
    for i, (picture, pose) in enumerate(zip(views.pictures, views.poses, strict=True)):
        Image.fromarray(picture).save(folder / f"photo-{i + 1}.png")
        np.save(folder / f"pose-{i + 1}.npy", pose.astype(np.float32))
    cache.write_json(folder / SUBJECT_FILE, description)


def _is_whole(entry: Path) -> bool:
    """Whether the subject in the cache is there with weights that can be opened; a damaged one is tuned anew."""
    if cache.get("subject", entry.name) is None:
        return False
    try:
        for part in ("unet", "adapter", "decoder"):
            with safe_open(entry / f"{part}.safetensors", "pt"):
                pass
    except (OSError, SafetensorError):
        return False
    return True


def _rename(entry: Path, name: str) -> None:
    try:
        description = json.loads((entry / SUBJECT_FILE).read_text(encoding="utf-8"))
        # Written even if it has the name already: of several with one name the newest is meant, and that is now this one.
        cache.write_json(entry / SUBJECT_FILE, {**description, "name": name})
    except (OSError, ValueError) as error:
        raise StoreError(f"{entry / SUBJECT_FILE} cannot be updated ({error}).") from error
