"""The presets of phase 1: which stages they have, how each is trained where nothing else is asked for, and what then is."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import UsageError
from .denoising import PLAIN, Pairing
from .loop import LoopSettings


@dataclass(frozen=True)
class Preset:
    """What `train` does where nothing else is asked for.

    stages: how each is trained, in their order, where the network is small; `people`: where it began from a Stable Diffusion
    or a base of people, if that differs. from_scratch: stages that fall away where an
    autoencoder is taken over. optional: those that are trained where they are asked for. family: of the network;
    "" for a pose estimator. needs_base, takes_base: whether it begins from a base. takes_vae: whether a new one can take over
    the autoencoder of another base. companion: the option that names what is added to a Stable Diffusion.
    draws_keypoints: whether a new network follows keypoints where those of the clips are. epochs: passes over
    the data, in place of steps. also_learns: what learns in a stage besides what the network's own stage says. stored_as:
    the format of a finished base's weights; None keeps what they are trained in.
    """

    stages: dict[str, LoopSettings]
    people: dict[str, LoopSettings] = field(default_factory=dict)
    from_scratch: tuple[str, ...] = ("vae",)
    optional: tuple[str, ...] = ()
    family: str = "dreampose"
    needs_base: bool = False
    takes_base: bool = True
    takes_vae: bool = False
    companion: str | None = None
    epochs: float | None = None
    draws_keypoints: bool = False
    pairing: Pairing = PLAIN
    also_learns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stored_as: str | None = None


_SMALL_VAE = LoopSettings(
    steps=8000, learning_rate=2e-3, batch_size=6, warmup=100, decay=0.6, ema=0.995, save_every=500
)
_SMALL_DECODER = LoopSettings(
    steps=4000, learning_rate=1e-3, batch_size=4, warmup=60, decay=0.6, beta2=0.99, ema=0.998, save_every=200, optimizer="muon"
)
_SMALL = LoopSettings(
    steps=8000, learning_rate=1e-3, batch_size=8, warmup=60, decay=0.4, floor=0.05, beta2=0.99, ema=0.998, save_every=200
)
_PEOPLE = LoopSettings(steps=20000, learning_rate=1e-5, batch_size=16, warmup=500, save_every=500)

PRESETS = {
    "mini": Preset(
        {
            "vae": _SMALL_VAE,
            "network": dataclasses.replace(_SMALL, steps=25000, batch_size=16, learning_rate=2e-3, optimizer="muon"),
            "decoder": _SMALL_DECODER,
        },
        optional=("decoder",),
        takes_vae=True,
        pairing=Pairing(targets_per_photo=2, figure_weight=2.0, even_timesteps=True),  # elsewhere as in the paper
        also_learns={"network": ("image_encoder",)},  # CLIP starts from scratch too
        stored_as="float16",
    ),
    "estimator": Preset(
        {
            "estimator": LoopSettings(
                steps=6400,
                learning_rate=1e-2,
                batch_size=16,
                warmup=100,
                decay=0.6,
                ema=0.995,
                save_every=250,
                optimizer="muon",
            ),
        },
        family="",
        takes_base=False,
    ),
    # The paper's settings (section 5): AdamW, lr 5e-6, constant, effective batch 16. How many steps, the epochs say.
    "paper": Preset(
        {"network": LoopSettings(steps=0, learning_rate=5e-6, batch_size=16, save_every=500)},
        needs_base=True,
        companion="--image-encoder",
        epochs=5.0,
    ),
    # MagicPose's order and rate (arXiv 2311.12052): appearance first, then the control with all else frozen.
    "fusion": Preset(
        {
            "vae": _SMALL_VAE,
            "appearance": _SMALL,
            "control": _SMALL,
            "motion": dataclasses.replace(_SMALL, steps=2000, batch_size=2),
        },
        people={
            "appearance": dataclasses.replace(_PEOPLE, steps=10000),
            "control": _PEOPLE,
            "motion": dataclasses.replace(_PEOPLE, steps=10000, batch_size=4),
        },
        optional=("motion",),
        family="animate",
        takes_vae=True,
        companion="--control",
        draws_keypoints=True,
        pairing=Pairing(figure_weight=2.0, even_timesteps=True),
        stored_as="float16",
    ),
}


def preset_of(
    name: str | None,
    base: str | None,
    companions: Mapping[str, str | None],
    vae: str | None,
    epochs: float | None,
    max_steps: int | None,
) -> str:
    """The name of the preset meant; `companions`: what was given with the options that name what is added to a Stable
    Diffusion. UsageError where the request contradicts itself."""
    if name is not None and name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
    name = name or ("paper" if base else "mini")
    preset = PRESETS[name]
    if base and not preset.takes_base:
        raise UsageError(f"the preset {name} starts from scratch; leave --base or --preset out.")
    if preset.needs_base and not base:
        raise UsageError(f"the preset {name} starts from a base; name it with --base.")
    for option, value in companions.items():
        if value and (option != preset.companion or not base):
            presets = " or ".join(key for key, other in PRESETS.items() if other.companion == option)
            raise UsageError(f"{option} goes with --base and a Stable Diffusion, for --preset {presets}; leave it out.")
    if vae and (base or not preset.takes_vae):
        presets = " or ".join(f"--preset {key}" for key, other in PRESETS.items() if other.takes_vae)
        raise UsageError(f"--vae is for a base from scratch ({presets} without --base), which has no autoencoder yet.")
    if epochs and max_steps:
        raise UsageError("--epochs and --max-steps both say how far to go; give one of them.")
    return name


def precision_of(dtype: str) -> str:
    """`dtype`, or where it is left open what accelerate's launcher was configured for."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return {"bf16": "bfloat16", "fp16": "float16"}.get(asked, dtype) if dtype == "auto" else dtype


def resolve_settings(name: str, stage: LoopSettings, batch_size: int | None, processes: int, changes: dict) -> LoopSettings:
    """A stage's settings: the preset's, but for the `changes` that are asked for (None: as it is) and for `batch_size`, what
    each of the processes takes at once. Raises UsageError where a step cannot be divided among them."""
    times = changes["gradient_accumulation_steps"]
    parts = times * processes
    if batch_size:
        changes = changes | {"batch_size": batch_size * parts}
    elif stage.batch_size % parts:
        raise UsageError(
            f"the preset's {stage.batch_size} samples a step of {name} cannot be divided into {parts} equal parts "
            f"({processes} processes, {times} times each); say with --batch-size how many each takes at once."
        )
    return dataclasses.replace(stage, **{key: value for key, value in changes.items() if value is not None})


def in_epochs(stage: LoopSettings, epochs: float | None, max_steps: int | None, frames: int) -> LoopSettings:
    """The settings with as many steps as `epochs` passes over the training frames take, if that is asked for."""
    if max_steps or epochs is None:
        return stage
    return dataclasses.replace(stage, steps=max(1, math.ceil(epochs * frames / stage.batch_size)))
