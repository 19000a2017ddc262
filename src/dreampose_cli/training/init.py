"""What phase 1 starts from: nothing, a base, or a Stable Diffusion that is widened into one; and how that is known again."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bases import repositories as hub
from ..bases.config import CONFIG_FILE, BaseConfig
from ..bases.fingerprint import fingerprint as folder_fingerprint
from ..bases.registry import lasting_name, list_bases, resolve_base
from ..cache import Cache
from ..errors import UsageError
from ..names import BASE_ESTIMATORS
from ..networks import pretrained as components
from ..networks.dreampose.presets import MINI, PAPER, build_mini, from_stable_diffusion
from ..networks.dreampose.settings import settings_of
from ..networks.network import Network
from ..networks.storage import fingerprint, load_base
from ..reporting import Note, Progress


@dataclass(frozen=True)
class ArchOverrides:
    """What a new base is to be like where it is not to be like its preset: the ablations of the paper, and the estimator.

    window: poses in a window. pose_channels, photo_channels, vae_tokens: `PoseSettings.channels`,
    `PhotoSettings.unet_channels` and `vae_tokens` of the DreamPose family. None: as the preset has it.
    """

    window: int | None = None
    pose_channels: str | None = None
    photo_channels: str | None = None
    vae_tokens: bool | None = None

    def of(self, config: BaseConfig) -> BaseConfig:
        """`config` with these settings."""
        network = settings_of(config)
        pose = dataclasses.replace(network.pose, **_given(channels=self.pose_channels))
        photo = _given(unet_channels=self.photo_channels, vae_tokens=self.vae_tokens)
        return dataclasses.replace(
            config,
            poses=dataclasses.replace(config.poses, **_given(count=self.window)),
            network=dataclasses.replace(network, pose=pose, photo=dataclasses.replace(network.photo, **photo)),
        )


@dataclass(frozen=True)
class InitialModel:
    """What a training begins with. model: None for the estimator. config: that of the base it is (or, for the estimator, the
    one it is made for) before the first step. identity: the preset, what the weights come from, and the settings they depend
    on, for the checkpoints. taken: what was taken over from elsewhere, for the provenance."""

    model: Network | None
    config: BaseConfig
    identity: dict[str, Any]
    taken: dict[str, Any]


def starting_model(
    cache: Cache,
    preset: str,
    base: str | None,
    image_encoder: str | None,
    vae: str | None,
    shape: ArchOverrides,
    estimator: str | None,
    seed: int,
    progress: Progress | None,
    note: Note,
) -> InitialModel:
    """The model before the first step, and where it is from (see `InitialModel`). Raises BaseError, UsageError."""
    identity: dict[str, Any] = {"preset": preset, "base": None, "vae": None}
    if preset == "estimator":
        return InitialModel(None, MINI, identity, {})
    taken = {}
    if base:
        model = starting_point(cache, base, image_encoder, progress, note, shape)
        identity["base"] = fingerprint(model.modules)
    elif vae:
        model, taken["vae"] = _with_vae_of(cache, vae, seed, shape.of(MINI), progress, note)
        identity["vae"] = taken["vae"]["revision"]
    else:
        model = build_mini(seed, *((shape.of(MINI),) if shape != ArchOverrides() else ()))
    if estimator:
        people = model.config.people if base and estimator == model.config.estimator else _people(estimator)
        named = estimator if estimator in BASE_ESTIMATORS else model.config.estimator
        if named != estimator:
            note(
                f"the base will name the estimator {named}, since it may name no file; give `tune --estimator "
                f"{estimator}`, and to `render` what `poses --estimator {estimator}` writes."
            )
        model.config = dataclasses.replace(model.config, estimator=named, people=people)
    return InitialModel(model, model.config, identity | _conventions(model.config), taken)


def starting_point(
    cache: Cache,
    base: str,
    image_encoder: str | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
    shape: ArchOverrides | None = None,
) -> Network:
    """What `--base` means to phase 1: a base as it is, or a Stable Diffusion, widened (paper section 4)."""
    if not _is_stable_diffusion(cache, base):
        if image_encoder:
            raise UsageError(f"{base} is a base, which has an image encoder; leave --image-encoder out.")
        if shape not in (None, ArchOverrides()):
            raise UsageError(
                f"{base} is a base, whose conditioning is settled; --pose-window, --pose-channels, --unet-image-input and "
                "--clip-only are for one that begins from scratch or from a Stable Diffusion."
            )
        start = resolve_base(cache, base, note, progress)
        model = load_base(start)
        which = {"base": lasting_name(start), "revision": folder_fingerprint(start)}
        model.config = dataclasses.replace(model.config, provenance=model.config.provenance | which)
        return model
    folder, name = components.stable_diffusion_folder(base, ("unet", "vae"), progress, note)
    encoder, encoder_name = components.image_encoder_folder(image_encoder, progress, note)
    origin = {"stable_diffusion": name, "image_encoder": encoder_name, "licence": components.SD_LICENCE}
    config = (shape or ArchOverrides()).of(dataclasses.replace(PAPER, provenance=origin))
    return from_stable_diffusion(folder, encoder, config)


def _with_vae_of(
    cache: Cache, name: str, seed: int, config: BaseConfig, progress: Progress | None, note: Note
) -> tuple[Network, dict[str, str]]:
    """A new model around the trained autoencoder of the base `name`, with the statistics of its latents; and which it was,
    and its licence."""
    folder = resolve_base(cache, name, note, progress)
    other = load_base(folder)
    config = dataclasses.replace(
        config,
        shift_factor=other.config.shift_factor,
        scaling_factor=other.config.scaling_factor,
        target_range=other.config.target_range,
    )
    model = build_mini(seed, config, other.vae)
    note(f"the autoencoder is that of {name}; the stage vae is left out.")
    licence = other.config.provenance.get("licence")
    return model, {"from": lasting_name(folder), "revision": folder_fingerprint(folder), **_given(licence=licence)}


def _conventions(config: BaseConfig) -> dict[str, Any]:
    """The settings of a base that its training depends on, flat."""
    flat = {"resolution": list(config.resolution), "fit": config.fit, "target_range": list(config.target_range)}
    groups = {"poses": asdict(config.poses), **asdict(config.network)}
    return flat | {f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()}


def _is_stable_diffusion(cache: Cache, base: str) -> bool:
    """Whether `base` is the layout of diffusers, here or on the Hub, and no base."""
    folder = Path(base)
    if folder.is_dir():
        return not (folder / CONFIG_FILE).exists() and (folder / "unet" / "config.json").exists()
    if any(entry.name == base for entry in list_bases(cache)):
        return False
    reference = hub.parse(base)
    if reference is None:
        return False
    # The one repository that everybody starts from is known, so that it is not asked for a base first.
    return reference.repo == components.STABLE_DIFFUSION.repo or not hub.is_base(reference)


def _people(estimator: str) -> str:
    return "mannequins" if estimator == "mini" else "people"


def _given(**values) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
