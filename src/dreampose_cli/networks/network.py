"""The interface of a network: what sampling, training, tuning and storage need of a base, whatever its family.

A network is a value: modules, and the conventions that tie them together (`config`). It knows no files but the folder that
it is loaded from, no screen and no device policy. One step of denoising, as sampling and training both take it:

    reference = network.reference(views)                          # once for a photo
    condition = network.condition(reference, poses)               # once for a run of frames
    rows = condition.cat([condition.drop(image=True, pose=True), condition])
    prediction = network.predict(latents, t, rows, network.at_timestep(reference, t))

Rows: a row is one frame of one guidance branch, its latents are (C, h, w), and tensors of rows have them first. A network
whose `context.size` is n > 1 attends across frames: it gets whole windows, n rows of one window after the other.

A new family is a folder next to `dreampose/`: settings (data, no torch), a `Network` with its `Condition`, and presets to
train from; one line in `bases.families` makes it known, and `training.recipes` says how its presets are trained. Everything
that lists modules (saving, loading, the files on the Hub, fingerprints, moving, casting, what a subject keeps) follows from
`modules`.

Shapes: H, W of the base's resolution, h, w of its latent grid, f = H / h = W / w, C latent channels, R rows.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL, ModelMixin
from torch import Tensor, nn

from ..bases.config import BaseConfig
from ..errors import BaseError
from .placement import Placement

# An `nn.Module`, mostly of diffusers or transformers: torch's types know none of its attributes, so they are not checked.
AnyModule: TypeAlias = Any


@dataclass(frozen=True)
class ContextWindow:
    """The number of frames that are denoised together. Neighbouring windows share `overlap` frames, whose predictions are averaged;
    `closed`: the last windows of a clip wrap around to its first frames."""

    size: int = 1
    overlap: int = 0
    closed: bool = False


@dataclass(frozen=True)
class Branch:
    """A term of the guidance formula: the prediction under a condition without its image, its pose, or both, times `weight`.

    The weights of a network's branches sum to one. One whose weight is zero need not be computed.
    """

    weight: float
    drop_image: bool = False
    drop_pose: bool = False


@dataclass(frozen=True)
class Stage:
    """A stage of training or tuning: what learns and by which loss.

    modules: names in `Network.modules`, or of parts of them with dots ("vae.decoder"). loss: "denoising" (predict what was
    added to the latents of a frame), "reconstruction" (decode the latents of a photo or a frame), "autoencoder" (encode and
    decode). layers: a regular expression; low-rank updates are learned by the layers alone in whose name it is found. data:
    "pairs" of frames, or "clips", several frames in their order. dropout: the shares of samples that are trained without
    their image, their pose, and both.
    """

    name: str
    modules: tuple[str, ...]
    loss: str
    layers: str = ""
    data: str = "pairs"
    dropout: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Views:
    """N photos at the base's resolution, and what `Network.views` prepared of them without weights.

    pictures uint8 (N, H, W, 3); poses (N, 3, H, W) as I in 0..24, U and V in [0, 1], None where nobody looked; clip
    (N, 3, s, s): the pictures as CLIP sees them, None for a network that does not look with CLIP; latents (N, C, h, w):
    the photos' latents as conditions, where they were computed ahead. together: so many photos after one another show one
    subject, and its frames see them all; more than 1 where the family's settings say that it `sees_several_photos`.
    """

    pictures: np.ndarray
    poses: Tensor | None = None
    clip: Tensor | None = None
    latents: Tensor | None = None
    together: int = 1

    def __len__(self) -> int:
        return len(self.pictures)


SHARED: dict[str, Any] = {"shared": True}  # metadata of a condition's field that is not one of rows


@dataclass(frozen=True)
class Condition(ABC):
    """The condition of R rows: a frozen dataclass of tensors that have rows first.

    A field that belongs to all rows together, such as the null image's tokens, is declared with
    `field(metadata=SHARED)`. Fields may be None.
    """

    @property
    def rows(self) -> int:
        """R."""
        return next(len(value) for name, value in self._values() if value is not None)

    @abstractmethod
    def drop(self, image: bool | Tensor, pose: bool | Tensor) -> Self:
        """The same rows without their image, their pose, or both: for all rows, or for those where a mask (R,) is true.

        The one place where rows become null: guidance and the dropout of training both come here, and each family says here what
        it means.
        """

    def __getitem__(self, rows: slice) -> Self:
        """Some of the rows."""
        return dataclasses.replace(self, **{name: value[rows] for name, value in self._values() if value is not None})

    @classmethod
    def cat(cls, conditions: Sequence[Self]) -> Self:
        """The rows of several conditions, one after the other. What is not of rows is taken from the first."""
        first = conditions[0]
        joined = {
            name: torch.cat([getattr(condition, name) for condition in conditions])
            for name, value in first._values()
            if value is not None
        }
        return dataclasses.replace(first, **joined)

    def _values(self) -> list[tuple[str, Tensor | None]]:
        return [
            (each.name, getattr(self, each.name))
            for each in dataclasses.fields(self)
            if not each.metadata.get("shared")
        ]


class Network(Placement, ABC):
    """A base as one object. Modules are in eval mode unless they train; after training they are again."""

    context = ContextWindow()

    def __init__(
        self,
        config: BaseConfig,
        modules: dict[str, AnyModule],
        processors: dict[str, Any],
        schedule: dict[str, Any],
    ):
        """modules, and processors of their inputs, by the names in `config.network`; schedule: as diffusers' schedulers take
        it. Raises BaseError where they do not fit each other."""
        self.config, self.modules, self.processors, self.schedule = config, modules, processors, schedule
        # What a module froze itself, such as a copy of another one's weights, never learns.
        self._fixed = {id(p) for module in modules.values() for p in module.parameters() if not p.requires_grad}

    @classmethod
    def build(cls, name: str, config: BaseConfig, modules: Mapping[str, AnyModule]) -> AnyModule:
        """The module `name` that no library describes, without its trained weights, sized from those that are there."""
        raise BaseError(f"the family {config.family} has no module {name} of its own.")

    @classmethod
    def extends(cls, name: str, config: BaseConfig) -> bool:
        """Whether the family adds parts of its own to the library's module `name`, which `extend` does."""
        return False

    @classmethod
    def extend(cls, name: str, module: AnyModule) -> AnyModule:
        """The library's module `name` with the parts that the family adds, without their trained weights; in place."""
        return module

    # What it computes.

    @abstractmethod
    def views(self, pictures: np.ndarray, poses: np.ndarray | None = None) -> Views:
        """Photos uint8 (N, H, W, 3) and their poses (N, 3, H, W), made ready without weights: for any thread, on the CPU."""

    @abstractmethod
    def reference(self, views: Views, null: bool = True) -> Any:
        """All that depends on the photos alone, once a subject; the encoders are not needed after it.

        null: whether rows without their image will be asked for. Opaque to the caller, who hands it to `at_timestep` and
        `condition`. Gradients flow where they are on.
        """

    def at_timestep(self, reference: Any, t: Tensor) -> Any:
        """The photos' contribution at timestep t, a scalar or one of each photo: computed once a step, for all its rows.

        By default the reference unchanged: only the appearance network of some families looks at the timestep.
        """
        return reference

    @abstractmethod
    def condition(self, reference: Any, poses: Tensor) -> Condition:
        """The condition of R frames: pose windows (R, n, 3, H, W) of one photo, or of N photos, R / N frames of each in turn."""

    @abstractmethod
    def branches(self, guidance: Mapping[str, float]) -> tuple[Branch, ...]:
        """The guidance formula, by the names of `config.sampling.guidance`."""

    @abstractmethod
    def predict(self, latents: Tensor, t: Tensor, condition: Any, reference: Any = None) -> Tensor:
        """The prediction (R, C, h, w), float32, in the schedule's prediction type.

        latents (R, C, h, w) noised to t, a scalar or (R,); condition: of the family's own class, as `condition` gave it;
        reference: what `at_timestep` gave for t.
        """

    def start(self, views: Views) -> Tensor | None:
        """The latents (N, C, h, w) that sampling noises to start from; None where it starts from noise alone."""
        return None

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in a value range that the VAE takes -> latents (B, C, h, w): the mode, normalised."""
        latents = self.vae.encode(pictures.to(self.dtype)).latent_dist.mode()
        return (latents - self.shift_factor) * self.scaling_factor

    @property
    def photo_range(self) -> tuple[float, float]:
        """The range of pixels in which the VAE sees photos that condition."""
        return self.config.target_range

    def encode_views(self, views: Views) -> Tensor:
        """The latents (N, C, h, w) of photos as conditions."""
        return self.encode(pictures_to_tensor(views.pictures, self.photo_range).to(self.device))

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1], clamped."""
        pixels = self.reconstruct(latents).float()
        low, high = self.config.target_range
        return ((pixels - low) / (high - low)).clamp(0.0, 1.0)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) -> pictures (B, 3, H, W) as the VAE gives them, in `config.target_range`."""
        return self.vae.decode((latents / self.scaling_factor + self.shift_factor).to(self.dtype)).sample

    # What learns, and what is needed when.

    @property
    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Phase 1, in order: what `train` does from pairs of frames."""

    def entering(self, stage: str, frames: int, seed: int) -> Self:
        """The network as it begins a stage of phase 1: with the modules that this stage is the first to need, new ones drawn by
        `seed`, for clips of so many `frames`. By default the network itself."""
        return self

    @property
    def tuning_stages(self) -> tuple[Stage, ...]:
        """Phase 2, in order: what `tune` does on photos of one subject. A subject keeps the modules named here."""
        return ()

    @property
    def encoders(self) -> tuple[str, ...]:
        """The modules, or parts with dots, that nothing needs once `reference` and `start` are there."""
        return ()

    # What follows from the modules.

    def module(self, name: str) -> AnyModule:
        """A module by its name, or a part of one with dots: "vae.decoder"."""
        first, _, rest = name.partition(".")
        return self.modules[first].get_submodule(rest) if rest else self.modules[first]

    def learn(self, names: Sequence[str]) -> dict[str, AnyModule]:
        """The modules, or parts with dots, of these names: their weights get gradients from now on, and no others."""
        for module in self.modules.values():
            module.requires_grad_(False)
        learning = {name: self.module(name) for name in names}
        for module in learning.values():
            for parameter in module.parameters():
                parameter.requires_grad_(id(parameter) not in self._fixed)
        return learning

    @property
    def tuned(self) -> dict[str, AnyModule]:
        """The modules that tuning changes, by the names that a subject keeps them under."""
        return {name: self.module(name) for stage in self.tuning_stages for name in stage.modules}

    @property
    def unet(self) -> AnyModule:
        """The denoiser, a UNet of diffusers."""
        return self.modules["unet"]

    @property
    def vae(self) -> AutoencoderKL:
        """The autoencoder of pictures."""
        return self.modules["vae"]

    @property
    def latent_channels(self) -> int:
        """C."""
        return self.vae.config.latent_channels

    @property
    def vae_scale_factor(self) -> int:
        """f: pixels per latent along a side."""
        return scale_factor(self.vae)

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w)."""
        height, width = self.config.resolution
        return height // self.vae_scale_factor, width // self.vae_scale_factor

    @property
    def shift_factor(self) -> Tensor:
        """(1, C or 1, 1, 1)."""
        return torch.tensor(self.config.shift_factor, device=self.device, dtype=torch.float32).view(1, -1, 1, 1)

    @property
    def scaling_factor(self) -> Tensor:
        """(1, C or 1, 1, 1): latents = (vae(x) - shift_factor) * scaling_factor."""
        return torch.tensor(self.config.scaling_factor, device=self.device, dtype=torch.float32).view(1, -1, 1, 1)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move (and cast) all modules, in place."""
        for module in self.modules.values():
            nn.Module.to(module, device=device, dtype=dtype).eval()  # diffusers' own `to` warns for every cast
        return self

    def checkpoint_activations(self, on: bool) -> None:
        """Whether activations are computed twice instead of kept, where the module, or a part of our own, offers it."""
        for name, module in self.modules.items():
            if isinstance(module, ModelMixin):
                module.enable_gradient_checkpointing() if on else module.disable_gradient_checkpointing()
            elif not self.config.network.modules[name]:
                for part in module.modules():
                    if hasattr(part, "gradient_checkpointing"):
                        part.gradient_checkpointing = on


def each(values: Tensor, rows: int) -> Tensor:
    """Values of N photos (N, ...) for `rows` frames, rows / N of each in turn: (rows, ...); of one photo without a copy."""
    if len(values) in (1, rows):
        return values.expand(rows, *[-1] * (values.ndim - 1))
    return values.repeat_interleave(rows // len(values), dim=0)


def scale_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def pictures_to_tensor(pictures: np.ndarray, value_range: tuple[float, float]) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) with [0, 255] mapped to `value_range`."""
    pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255.0
    low, high = value_range
    return pixels * (high - low) + low
