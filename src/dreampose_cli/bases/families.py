"""The families of networks, a line each: where their settings (data, no torch), their network and what `train` can begin
with are found.

The classes are imported when a base of the family is met, and not before.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from .schedule import SCHEDULER_FILE

FAMILIES = {
    "dreampose": (
        "dreampose_cli.networks.dreampose.settings:DreamPoseSettings",
        "dreampose_cli.networks.dreampose.network:DreamPose",
        "dreampose_cli.networks.dreampose.presets",
    ),
    "animate": (
        "dreampose_cli.networks.animate.settings:AnimateSettings",
        "dreampose_cli.networks.animate.network:AnimateNetwork",
        "dreampose_cli.networks.animate.presets",
    ),
}

WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}


def find(place: str) -> Any:
    """The class at "package.module:Class"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def settings_class(family: str) -> type[FamilySettings]:
    """The class of a family's own settings. Raises ValueError for one that is not known."""
    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}; known are {', '.join(FAMILIES)}")
    return find(FAMILIES[family][0])


def network_class(family: str) -> Any:
    """The class of a family's network (a `networks.network.Network`)."""
    return find(FAMILIES[family][1])


def presets_of(family: str) -> Any:
    """The module that says what `train` can begin with: `new_config()` and `build(seed, config, vae)` from scratch,
    `widened_config()` and `from_stable_diffusion(source, companion, config, progress, note)`, and `OVERRIDES`, by the name
    of an option what a value of it makes of a config."""
    return importlib.import_module(FAMILIES[family][2])


@dataclass(frozen=True)
class FamilySettings(ABC):
    """A family's own part of `base.json`: subclasses add fields, and say here what others must know of them."""

    @property
    @abstractmethod
    def modules(self) -> dict[str, str]:
        """The modules, each with the class that its library loads it by ("diffusers:AutoencoderKL"), or "" where the network
        builds it. The first is the denoiser; "unet" and "vae" are what they are called in every family."""

    @property
    def processors(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """The processor of a module's input, by the module's name: its class, and the files it is kept in."""
        return {}

    @property
    def needs_photo_pose(self) -> bool:
        """Whether the network must know the pose in the photo."""
        return False

    @property
    def sees_several_photos(self) -> bool:
        """Whether the frames of a subject can follow all of its photos at once."""
        return False

    @property
    def tuned_in_low_rank(self) -> bool:
        """Whether tuning learns low-rank updates and nothing else: all weights of a large network make no small subject."""
        return False

    @property
    def needs_tuning(self) -> bool:
        """Whether a photo is to be tuned on before its person can be rendered well."""
        return True

    @property
    def joint(self) -> bool:
        """Whether the frames of a clip are denoised together, in windows."""
        return False

    @property
    def needs_parts(self) -> bool:
        """Whether poses need body part labels; else their U and V suffice."""
        return False

    @property
    def facts(self) -> tuple[str, ...]:
        """The lines of a base's card about these settings, in a few words each."""
        return ()

    def module_files(self, name: str) -> tuple[str, ...]:
        """The files of a module, relative to the base's folder: its config, if it has one, and its weights."""
        library = self.modules[name].partition(":")[0]
        return (f"{name}/config.json", f"{name}/{WEIGHTS[library]}") if library else (f"{name}/{name}.safetensors",)

    @property
    def files(self) -> tuple[str, ...]:
        """All files of a base but `base.json`, relative to its folder."""
        own = [file for name in self.modules for file in self.module_files(name)]
        prepared = [f"{name}/{file}" for name, (_, files) in self.processors.items() for file in files]
        return (*own, *prepared, SCHEDULER_FILE)
