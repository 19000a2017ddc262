"""What phase 1 starts from: nothing, a base, or a Stable Diffusion that is widened into one; and how that is known again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ..bases import repositories as hub
from ..bases.config import CONFIG_FILE, BaseConfig, read_config
from ..bases.families import presets_of
from ..bases.fingerprint import fingerprint as folder_fingerprint
from ..bases.pipelines import STABLE_DIFFUSION_15
from ..bases.registry import lasting_name, list_bases, resolve_base
from ..cache import Cache
from ..errors import UsageError
from ..names import BASE_ESTIMATORS
from ..networks import pretrained as components
from ..networks.network import Network
from ..networks.storage import fingerprint, load_base
from ..reporting import Note, Progress
from .recipes import PRESETS


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
    companions: Mapping[str, str | None],
    vae: str | None,
    overrides: Mapping[str, Any],
    estimator: str | None,
    seed: int,
    progress: Progress | None,
    note: Note,
) -> InitialModel:
    """The model before the first step, and where it is from (see `InitialModel`).

    companions: see `recipes.preset_of`. overrides: what a new base is to be like where it is not to be like its preset, by
    the names of the options that say so; the family's `OVERRIDES` know them. Raises BaseError, UsageError.
    """
    identity: dict[str, Any] = {"preset": preset, "base": None, "vae": None}
    family = PRESETS[preset].family
    if not family:
        return InitialModel(None, presets_of("dreampose").new_config(), identity, {})
    taken = {}
    if base:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the parts that a Stable Diffusion lacks: a resumed training builds the same ones
            model = starting_point(cache, base, companions, progress, note, overrides, preset)
        identity["base"] = fingerprint(model.modules)
    else:
        config, other = _adapted(preset, presets_of(family).new_config(), overrides), None
        if vae:
            config, other, taken["vae"] = _with_vae_of(cache, vae, config, progress, note)
            identity["vae"] = taken["vae"]["revision"]
        model = presets_of(family).build(seed, config, other)
    if estimator:
        people = model.config.people if base and estimator == model.config.estimator else _people(estimator)
        named = estimator if estimator in BASE_ESTIMATORS else model.config.estimator
        if named != estimator:
            note(
                f"the base will name the estimator {named}, since it may name no file; give `tune --estimator "
                f"{estimator}`, and to `render` what `poses --estimator {estimator}` writes."
            )
        model.config = dataclasses.replace(model.config, estimator=named, people=people)
    return InitialModel(model, model.config, identity | conventions(model.config), taken)


def starting_point(
    cache: Cache,
    base: str,
    companions: Mapping[str, str | None],
    progress: Progress | None = None,
    note: Note | None = None,
    overrides: Mapping[str, Any] | None = None,
    preset: str = "paper",
) -> Network:
    """What `--base` means to phase 1: a base as it is, or a Stable Diffusion, made one of the preset's family."""
    family = PRESETS[preset].family
    if not is_stable_diffusion(cache, base):
        if given := [option for option, value in companions.items() if value]:
            raise UsageError(f"{base} is a base, which is complete; leave {given[0]} out.")
        if overrides:
            raise UsageError(
                f"{base} is a base, whose size is given and whose conditioning is settled; {', '.join(overrides)} "
                f"{'is' if len(overrides) == 1 else 'are'} for one that begins from scratch or from a Stable Diffusion."
            )
        start = resolve_base(cache, base, note, progress)
        config = read_config(start)
        if config.family != family:
            fitting = " or ".join(name for name, other in PRESETS.items() if other.family == config.family)
            lacks = "" if "control" in config.network.modules else ", without a pose control of its own"
            raise UsageError(
                f"{base} is a base of the family {config.family}{lacks}, which the preset {preset} cannot train; give "
                f"--preset {fitting}, or a Stable Diffusion."
            )
        model = load_base(start)
        which = {"base": lasting_name(start), "revision": folder_fingerprint(start)}
        model.config = dataclasses.replace(model.config, provenance=model.config.provenance | which)
        return model
    presets = presets_of(family)
    config = _adapted(preset, presets.widened_config(), overrides or {})
    return presets.from_stable_diffusion(base, companions.get(PRESETS[preset].companion or ""), config, progress, note)


def _adapted(preset: str, config: BaseConfig, overrides: Mapping[str, Any]) -> BaseConfig:
    known = presets_of(config.family).OVERRIDES
    for option, value in overrides.items():
        if option not in known:
            raise UsageError(f"{option} means nothing to the preset {preset}; leave it out.")
        config = known[option](config, value)
    return config


def _with_vae_of(
    cache: Cache, name: str, config: BaseConfig, progress: Progress | None, note: Note
) -> tuple[BaseConfig, AutoencoderKL, dict[str, str]]:
    """`config` with the statistics of the latents of the base `name`; its trained autoencoder; and which it was, and its
    licence."""
    folder = resolve_base(cache, name, note, progress)
    other = load_base(folder)
    config = dataclasses.replace(
        config,
        shift_factor=other.config.shift_factor,
        scaling_factor=other.config.scaling_factor,
        target_range=other.config.target_range,
    )
    note(f"the autoencoder is that of {name}; the stage vae is left out.")
    licence = other.config.provenance.get("licence")
    taken = {"from": lasting_name(folder), "revision": folder_fingerprint(folder), **_given(licence=licence)}
    return config, other.vae, taken


def conventions(config: BaseConfig) -> dict[str, Any]:
    """The settings of a base that its training depends on, flat."""
    flat: dict[str, Any] = {"resolution": list(config.resolution), "fit": config.fit, "target_range": list(config.target_range)}
    for name, group in {"poses": asdict(config.poses), **asdict(config.network)}.items():
        flat |= {f"{name}.{key}": value for key, value in group.items()} if isinstance(group, dict) else {name: group}
    return flat


def is_stable_diffusion(cache: Cache, base: str) -> bool:
    """Whether `base` is the layout of diffusers, here or on the Hub, and no base."""
    folder = Path(base)
    if folder.is_dir():
        return not (folder / CONFIG_FILE).exists() and (folder / "unet" / "config.json").exists()
    if any(entry.name == base for entry in list_bases(cache)):
        return False
    reference = hub.parse(base)
    if reference is None:
        return False
    # The repositories that everybody starts from are known, so that they are not asked for a base first.
    known = (components.STABLE_DIFFUSION.repo, STABLE_DIFFUSION_15.reference.repo)
    return reference.repo in known or not hub.is_base(reference)


def _people(estimator: str) -> str:
    return "mannequins" if estimator == "mini" else "people"


def _given(**values) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
