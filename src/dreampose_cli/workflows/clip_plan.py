"""The settings of a clip of the reference-attention family, resolved before a frame is computed. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..bases.config import BaseConfig
from ..bases.schedule import check_steps
from ..errors import UsageError
from ..networks.animate.settings import AnimateSettings, settings_of
from .options import RenderOptions


@dataclass(frozen=True)
class Plan:
    """The resolved settings: the base's settings with what was asked for in their place."""

    config: BaseConfig
    settings: AnimateSettings
    fit: str
    fps: float | None
    sampler: str
    steps: int
    guidance: dict[str, float]


def plan(options: RenderOptions, config: BaseConfig, schedule: dict[str, Any], factor: int = 8) -> Plan:
    """The options in place of the base's own values. Raises UsageError for what cannot go together.

    size (height, width): photo and poses are resized to it whatever their aspect. window: (frames, overlap).
    """
    settings = settings_of(config)
    if options.size is not None:
        height, width = options.size
        if height % factor or width % factor:
            raise UsageError(f"--size {width}x{height}: both sides must be multiples of {factor} on this base.")
        config = replace(config, resolution=options.size)
    if options.window is not None:
        size, overlap = options.window
        if settings.motion_modules and size > settings.motion_positions:
            raise UsageError(
                f"--window {size}: the base {config.name} knows windows of at most {settings.motion_positions} frames."
            )
        settings = replace(settings, window=size, overlap=overlap)
    if options.noise == "per-frame":
        settings = replace(settings, noise="independent")
    sampling = config.sampling
    guidance = dict(sampling.guidance)
    if options.image_guidance is not None:
        guidance["image"] = options.image_guidance
    steps = options.steps or sampling.steps
    check_steps(steps, schedule)
    return Plan(
        config,
        settings,
        "stretch" if options.size is not None else config.fit,
        options.fps or settings.fps,
        options.sampler or sampling.sampler,
        steps,
        guidance,
    )
