"""A base's description, as data: every convention that differs between bases is a field here, so that one code path serves all.

A base is a folder: `base.json` (this file's `BaseConfig`) next to a folder for each module, in the layout of diffusers and
transformers where they know it, and `scheduler/`. What all families share stands in `BaseConfig`; `network` is the part of
the base's own family (`bases.families`). Nothing in training or in sampling asks *which* base it runs; it asks these fields.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BaseError
from ..names import BASE_ESTIMATORS
from ..regular import read_regular_text
from .families import FamilySettings, settings_class
from .validation import checked, parse

FORMAT = "dreampose-base"
VERSION = 2
CONFIG_FILE = "base.json"


@dataclass(frozen=True)
class PoseWindow:
    """Which poses a frame is conditioned on: of a window of neighbours, or of the frame alone."""

    kind: str = "densepose"  # body surface coordinates; or "keypoints"
    count: int = 5  # poses in a window, p(i-2)..p(i+2)
    resize: str = "nearest"  # to the base's resolution: "nearest" or "bilinear"
    window_rule: str = "edge"  # outside the clip: "edge" (nearest end) or "current" (the frame itself)
    training_fps: float | None = None  # windows are taken at this rate; None: neighbours are neighbours


@dataclass(frozen=True)
class SamplingSettings:
    """Defaults of `render` for this base. guidance: the weight of each condition, by the names that the network knows."""

    sampler: str = "pndm"
    steps: int = 100
    guidance: dict[str, float] = field(default_factory=lambda: {"image": 8.0, "pose": 3.0})


@dataclass(frozen=True)
class TuningSettings:
    """Phase 2 (paper section 4.4 and 5): the denoiser, then the VAE decoder."""

    steps: int = 500
    learning_rate: float = 1e-5
    batch_size: int = 1
    decoder_steps: int = 1500
    decoder_learning_rate: float = 5e-5
    decoder_batch_size: int = 1
    decoder_views: int = 0  # so many shifted and mirrored copies of each photo are decoded too, 3 of 4 samples
    decoder_predictions: int = 0  # and so many latents that the denoiser makes of it, every other sample
    crop: float = 0.85  # smallest share of a side that a random crop keeps
    decay: float = 0.0  # share of each phase, at its end, over which the learning rate falls to zero
    part_dropout: float = 0.0  # share of samples whose photo has half of its body parts hidden, where its pose is known
    # The share that is kept of what the denoiser learned (weight-space ensembling; Wortsman et al. 2022).
    weight_interpolation: float = 1.0
    gradient_checkpointing: bool = False
    lora_rank: int = 0  # 0: all weights are tuned; else low-rank updates of this rank (`networks.lora`)


@dataclass(frozen=True)
class BaseConfig:
    """One base. Sizes are (height, width) in pixels."""

    name: str
    resolution: tuple[int, int]
    network: FamilySettings
    family: str = "dreampose"
    shift_factor: tuple[float, ...] = (0.0,)  # latents = (vae(x) - shift) * scaling, per channel or one for all
    scaling_factor: tuple[float, ...] = (0.18215,)
    target_range: tuple[float, float] = (-1.0, 1.0)  # picture range on the VAE's side, training target and decode
    fit: str = "contain"  # other sizes: "contain" (pad, keep the aspect) or "stretch" (as the official code)
    poses: PoseWindow = field(default_factory=PoseWindow)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    people: str = "people"  # what the base knows: "people" or "mannequins"
    estimator: str = "r50"  # the estimator whose charts the base was trained on; "mini" for mannequins
    provenance: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path | str) -> BaseConfig:
        """Read `base.json`; unknown keys are refused, since they would change what the base computes."""
        raw = parse(text, where)
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise BaseError(f"{where} does not describe a dreampose base.")
        version = raw.pop("version", None)
        if version == 1:
            raise BaseError(
                f"{where} is of format version 1, from before the first release; make the base again with this version."
            )
        if version != VERSION:
            raise BaseError(
                f"{where} is of format version {version}; this dreampose reads version {VERSION}. Update it."
            )
        try:
            config = _build(cls, raw, {"network": settings_class(raw.get("family", ""))})
            if config.estimator not in BASE_ESTIMATORS:
                raise ValueError(
                    f"its estimator is {config.estimator!r}, and a base may name only {', '.join(BASE_ESTIMATORS)}; a "
                    "file is given with --estimator"
                )
            return checked(config)
        except (TypeError, ValueError) as error:
            raise BaseError(f"{where} cannot be used: {error}.") from error


def _build(cls: type, raw: Any, classes: dict[str, type] | None = None):
    """A dataclass, and those within it, from parsed JSON. Raises ValueError or TypeError for what does not belong there."""
    if not isinstance(raw, dict):
        raise ValueError(f"{repr(raw)[:60]} is no group of settings")
    known = typing.get_type_hints(cls) | (classes or {})
    surplus = sorted(set(raw) - {f.name for f in dataclasses.fields(cls)})
    if surplus:
        raise ValueError(f"unknown setting {', '.join(surplus)[:300]}")
    values = {}
    for key, value in raw.items():
        if dataclasses.is_dataclass(known[key]):
            value = _build(known[key], value)
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return cls(**values)


def read_config(folder: Path) -> BaseConfig:
    """The config of the base in `folder`. Raises BaseError when it is none."""
    path = Path(folder) / CONFIG_FILE
    try:
        return BaseConfig.from_json(read_regular_text(path), path)
    except FileNotFoundError:
        raise BaseError(f"{folder} is not a base: it has no {CONFIG_FILE}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaseError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
