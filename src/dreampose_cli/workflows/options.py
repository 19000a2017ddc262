"""The options of every workflow: one frozen dataclass each, made once and passed on whole. Imports nothing heavy.

The command line makes them from what was typed; Python callers make them themselves. What a field means is said where
`dreampose COMMAND --help` says it; None means the base's own value, or "not asked for".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TuneOptions:
    """A subject to be tuned (phase 2) from one or more photos of one person in one outfit.

    poses: pose sources, one a photo, in place of the estimator. name: to find the subject by. steps, learning_rate: of
    UNet and adapter; decoder_steps, decoder_learning_rate: of the VAE decoder. lora_rank: of a low-rank subject, 0 tunes
    all weights. memory: "auto", "low" to spare it, "high" not to, which changes nothing else but rounding.
    """

    photos: Sequence[Path]
    base: str | None = None
    name: str | None = None
    poses: Sequence[Path] | None = None
    estimator: str | None = None
    steps: int | None = None
    decoder_steps: int | None = None
    learning_rate: float | None = None
    decoder_learning_rate: float | None = None
    lora_rank: int | None = None
    batch_size: int | None = None
    seed: int = 0
    memory: str = "auto"
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class RenderOptions:
    """A subject, or a photo on the untuned base, in the poses of one or more sources.

    poses: whatever `dreampose poses` reads; several need a folder as `output`, which is a path as typed: a slash at its
    end means a folder. subject: id, name or a photo it was tuned from; None: the one tuned last. photo_index: which of
    the subject's photos conditions, from 1. guidance_interval: the noise levels (1 is pure noise) with guidance. noise:
    "shared", one draw for the clip, or "per-frame". align: "auto", "on" or "off", see `inference.alignment`. fps, start
    and end (seconds) choose among the driving video's frames. c2pa_key: a PEM file, see `media.credentials`.
    """

    poses: Sequence[Path]
    output: Path | str
    subject: str | None = None
    photo: Path | None = None
    photo_pose: Path | None = None
    base: str | None = None
    photo_index: int = 1
    image_guidance: float | None = None
    pose_guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    steps: int | None = None
    sampler: str | None = None
    seed: int = 0
    noise: str = "shared"
    align: str = "auto"
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    side_by_side: bool = False
    audio: bool = False
    batch_size: int | None = None
    memory: str = "auto"
    compile: bool = False
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False
    c2pa_key: Path | None = None
