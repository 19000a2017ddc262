"""What a base is, as data: every convention that differs between bases is a field here, so that one code path serves all.

A base is a folder: `base.json` (this file's `BaseConfig`) beside `unet/`, `vae/`, `image_encoder/`, `scheduler/`
in the layout of diffusers and transformers, and `adapter/`. Nothing in the network, in training or in sampling
asks *which* base it runs; it asks these fields.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BaseError
from ..names import BASE_ESTIMATORS

FORMAT = "dreampose-base"
VERSION = 1
CONFIG_FILE = "base.json"


@dataclass(frozen=True)
class PoseSettings:
    """How a pose window reaches the UNet (paper section 4.3)."""

    channels: str = "uv"  # "uv" as in the paper, "iuv" with the part label
    count: int = 5  # poses in a window, p(i-2)..p(i+2)
    range: tuple[float, float] = (0.0, 1.0)  # where [0, 1] is mapped to; the part label counts as I / 24
    null: float = 0.0  # the null pose: this value everywhere, after the mapping
    resize: str = "nearest"  # to the base's resolution: "nearest" or "bilinear"
    to_latents: str = "nearest"  # to the latent grid: "nearest" (every f-th pixel) or "area"
    window_rule: str = "edge"  # outside the clip: "edge" (nearest end) or "current" (the frame itself)
    training_fps: float | None = None  # windows are taken at this rate; None: neighbours are neighbours

    @property
    def per_frame(self) -> int:
        return len(self.channels)

    @property
    def total_channels(self) -> int:
        return self.count * self.per_frame


@dataclass(frozen=True)
class PhotoSettings:
    """How the photo reaches the UNet (paper section 4.2)."""

    condition_range: tuple[float, float] = (-1.0, 1.0)  # the VAE's input range for the image condition
    null_transposed: bool = False  # the official null image is encoded with height and width swapped
    adapter: str = "pooled"  # "pooled": four VAE tokens as published; "spatial": a grid of VAE tokens
    vae_tokens: bool = True  # False: the ablation "CLIP only"
    unet_channels: str = "none"  # photo channels concatenated at the UNet input: "none", "latents" or "surface"
    texture_dilations: tuple[int, ...] = (1, 2, 4, 1)  # "surface": one residual block of the texture encoder each
    guess_variance: float = (
        0.1  # "surface": how far the texture encoder's guess is trusted, see `networks.dreampose.prior`
    )


@dataclass(frozen=True)
class SamplingSettings:
    """Defaults of `render` for this base."""

    sampler: str = "pndm"
    steps: int = 100
    image_guidance: float = 8.0
    pose_guidance: float = 3.0
    start: str = "noise"  # "noise", or "photo": the noised photo latents, as the official code starts
    start_range: tuple[float, float] = (-1.0, 1.0)  # the VAE's input range for start="photo"


@dataclass(frozen=True)
class TuningSettings:
    """Phase 2 (paper section 4.4 and 5): UNet + adapter, then the VAE decoder."""

    steps: int = 500
    learning_rate: float = 1e-5
    batch_size: int = 1
    decoder_steps: int = 1500
    decoder_learning_rate: float = 5e-5
    decoder_batch_size: int = 1
    crop: float = 0.85  # smallest share of a side that a random crop keeps
    decay: float = 0.0  # share of each phase, at its end, over which the learning rate falls to zero
    hide: float = 0.0  # share of samples whose conditioning photo has half of its body parts hidden ("surface" only)
    blend: float = (
        1.0  # share that is kept of what UNet + adapter learned (weight-space ensembling; Wortsman et al. 2022)
    )
    gradient_checkpointing: bool = False
    rank: int = 0  # 0: all weights are tuned; else low-rank updates of this rank (`networks.lora`)


@dataclass(frozen=True)
class BaseConfig:
    """One base. Sizes are (height, width) in pixels."""

    name: str
    resolution: tuple[int, int]
    latent_shift: tuple[float, ...] = (0.0,)  # latents = (vae(x) - shift) * scale, per channel or one for all
    latent_scale: tuple[float, ...] = (0.18215,)
    target_range: tuple[float, float] = (-1.0, 1.0)  # picture range on the VAE's side, training target and decode
    fit: str = "contain"  # other sizes: "contain" (pad, keep the aspect) or "stretch" (as the official code)
    poses: PoseSettings = field(default_factory=PoseSettings)
    photo: PhotoSettings = field(default_factory=PhotoSettings)
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
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise BaseError(f"{where} is not valid JSON ({error}); make the base again.") from error
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise BaseError(f"{where} does not describe a dreampose base.")
        version = raw.pop("version", None)
        if version != VERSION:
            raise BaseError(
                f"{where} is of format version {version}; this dreampose reads version {VERSION}. Update it."
            )
        try:
            config = _build(cls, raw)
            if config.estimator not in BASE_ESTIMATORS:
                raise ValueError(
                    f"its estimator is {config.estimator!r}, and a base may name only {', '.join(BASE_ESTIMATORS)}; a "
                    "file is given with --estimator"
                )
            return config
        except (TypeError, ValueError) as error:
            raise BaseError(f"{where} cannot be used: {error}.") from error


_NESTED = {
    "poses": PoseSettings,
    "photo": PhotoSettings,
    "sampling": SamplingSettings,
    "tuning": TuningSettings,
}


def _build(cls, raw: dict[str, Any]):
    known = {f.name for f in dataclasses.fields(cls)}
    surplus = sorted(set(raw) - known)
    if surplus:
        raise ValueError(f"unknown setting {', '.join(surplus)}")
    values = {}
    for key, value in raw.items():
        if cls is BaseConfig and key in _NESTED:
            value = _build(_NESTED[key], value)
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return cls(**values)


def read_config(folder: Path) -> BaseConfig:
    """The config of the base in `folder`. Raises BaseError when it is none."""
    path = Path(folder) / CONFIG_FILE
    try:
        return BaseConfig.from_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise BaseError(f"{folder} is not a base: it has no {CONFIG_FILE}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaseError(f"{path} cannot be read ({error}).") from error
