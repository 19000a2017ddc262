"""The presets of phase 1: which stages they have, how each is trained where nothing else is asked for, and what then is."""

from __future__ import annotations

import dataclasses
import math
import os

from ..errors import UsageError
from .denoising import Pairing
from .loop import LoopSettings

STAGES = {
    "mini": {
        "vae": LoopSettings(
            steps=8000, learning_rate=2e-3, batch_size=6, warmup=100, decay=0.6, ema=0.995, save_every=500
        ),
        "network": LoopSettings(
            steps=25000,
            learning_rate=1e-3,
            batch_size=16,
            warmup=60,
            decay=0.4,
            floor=0.05,
            beta2=0.99,
            ema=0.998,
            save_every=200,
        ),
    },
    "estimator": {
        "estimator": LoopSettings(
            steps=2400, learning_rate=2e-3, batch_size=8, warmup=100, decay=0.6, ema=0.995, save_every=500
        ),
    },
    # The paper's settings (section 5): AdamW, lr 5e-6, constant, effective batch 16. How many steps, EPOCHS says.
    "paper": {
        "network": LoopSettings(steps=0, learning_rate=5e-6, batch_size=16, save_every=500),
    },
}
EPOCHS = {"paper": 5.0}
PAIRS = {"mini": Pairing(targets_per_photo=2, figure_weight=2.0, even_timesteps=True)}  # elsewhere as in the paper
# What learns in a stage besides what the network's own stage says: CLIP, where it starts from scratch.
ALSO_LEARNS = {"mini": {"network": ("image_encoder",)}}
STORED_AS = {"mini": "float16"}  # the format of a finished base's weights; others keep what they are trained in


def preset_of(
    preset: str | None,
    base: str | None,
    image_encoder: str | None,
    vae: str | None,
    epochs: float | None,
    max_steps: int | None,
) -> str:
    """The preset meant; UsageError where the request contradicts itself."""
    if preset is not None and preset not in STAGES:
        raise UsageError(f"unknown preset {preset!r}; choose one of {', '.join(STAGES)}.")
    preset = preset or ("paper" if base else "mini")
    if preset == "estimator" and base:
        raise UsageError("the preset estimator starts from scratch; leave --base or --preset out.")
    if preset == "paper" and not base:
        raise UsageError("the preset paper starts from a base; name it with --base.")
    if image_encoder and preset != "paper":
        raise UsageError("--image-encoder goes with --base and a Stable Diffusion; leave it out.")
    if vae and (base or preset != "mini"):
        raise UsageError(
            "--vae is for a base from scratch (--preset mini without --base), which has no autoencoder yet."
        )
    if epochs and max_steps:
        raise UsageError("--epochs and --max-steps both say how far to go; give one of them.")
    return preset


def precision_of(dtype: str) -> str:
    """`dtype`, or where it is left open what accelerate's launcher was configured for."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return {"bf16": "bfloat16", "fp16": "float16"}.get(asked, dtype) if dtype == "auto" else dtype


def resolve_settings(name: str, stage: LoopSettings, batch_size: int | None, processes: int, changes: dict) -> LoopSettings:
    """A stage's settings: the preset's, but for the `changes` that are asked for (None: as it is) and for `batch_size`, what
    each of the processes takes at once. Raises UsageError where a step cannot be divided among them."""
    parts = changes["accumulate"] * processes
    if batch_size:
        changes = changes | {"batch_size": batch_size * parts}
    elif stage.batch_size % parts:
        raise UsageError(
            f"the preset's {stage.batch_size} samples a step of {name} cannot be divided into {parts} equal parts "
            f"({processes} processes, {changes['accumulate']} times each); say with --batch-size how many each takes at once."
        )
    return dataclasses.replace(stage, **{key: value for key, value in changes.items() if value is not None})


def in_epochs(stage: LoopSettings, epochs: float | None, max_steps: int | None, frames: int) -> LoopSettings:
    """The settings with as many steps as `epochs` passes over the training frames take, if that is asked for."""
    if max_steps or epochs is None:
        return stage
    return dataclasses.replace(stage, steps=max(1, math.ceil(epochs * frames / stage.batch_size)))
