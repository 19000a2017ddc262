"""The rules for a description: types by msgspec, ranges and choices by name, and limits to any JSON from outside."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BaseError
from ..names import GUIDANCE_RANGE, SAMPLERS, STEPS_RANGE

MAX_BYTES = 4_000_000  # of a description: provenance and figures take kilobytes
_MAX_DEPTH = 16
_MAX_TEXT = 100_000
_MAX_NAME = 200  # of a setting, and of a module's tensor
_LARGEST = 1e12

# By field, or by class and field where a name means several things; every number of a field lies within.
_RANGES: dict[str, tuple[float, float]] = {
    "resolution": (8, 4096),
    "count": (1, 99),
    "training_fps": (0.01, 1000),
    "range": (-1e3, 1e3),
    "null": (-1e3, 1e3),
    "condition_range": (-1e3, 1e3),
    "target_range": (-1e3, 1e3),
    "start_range": (-1e3, 1e3),
    "SamplingSettings.steps": STEPS_RANGE,
    "image_guidance": GUIDANCE_RANGE,
    "pose_guidance": GUIDANCE_RANGE,
    "guidance": GUIDANCE_RANGE,
    "TuningSettings.steps": (0, 10_000_000),
    "decoder_steps": (0, 10_000_000),
    "learning_rate": (0, 1),
    "decoder_learning_rate": (0, 1),
    "batch_size": (1, 65536),
    "decoder_batch_size": (1, 65536),
    "crop": (0.01, 1),
    "decay": (0, 1),
    "hide": (0, 1),
    "part_dropout": (0, 1),
    "decoder_views": (0, 64),
    "decoder_predictions": (0, 64),
    "blend": (0, 1),
    "weight_interpolation": (0, 1),
    "rank": (0, 4096),
    "lora_rank": (0, 4096),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "fit": ("contain", "stretch"),
    "resize": ("nearest", "bilinear"),
    "to_latents": ("nearest", "area"),
    "window_rule": ("edge", "current"),
    "channels": ("uv", "iuv"),
    "people": ("people", "mannequins"),
    "sampler": SAMPLERS,
}


def parse(text: str, where: Path | str) -> Any:
    """JSON from outside: BaseError in one sentence for what is none, too large, too deep, or holds no valid text."""
    if len(text) > MAX_BYTES:
        raise BaseError(
            f"{where} is larger than {MAX_BYTES // 10**6} MB, which no description is; make the base again."
        )

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        raw = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise BaseError(f"{where} is not valid JSON ({error}); make the base again.") from error
    except (ValueError, RecursionError) as error:  # of numbers of thousands of digits, of thousands of brackets
        what = "it is nested too deep" if isinstance(error, RecursionError) else str(error).split(";")[0]
        raise BaseError(f"{where} cannot be used: {what}; make the base again.") from error
    try:
        _limit(raw, "", 0)
    except ValueError as error:
        raise BaseError(f"{where} cannot be used: {error}; make the base again.") from error
    return raw


def checked(config: Any, prefix: str = "") -> Any:
    """`config` itself, a dataclass, where each of its fields has the type it is declared with and lies in its range.

    Raises ValueError that names the field, such as "tuning.steps is -1, but must be between 0 and 10000000".
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            checked(value, f"{name}.")
            continue
        try:
            msgspec.convert(value, hints[field.name], strict=True)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name} is {_shown(value)}, but must be {_wanted(error)}") from error
        limits = _RANGES.get(f"{type(config).__name__}.{field.name}") or _RANGES.get(field.name)
        if limits:
            _within(name, value, limits)
        choices = _CHOICES.get(field.name)
        if choices and value not in choices:
            raise ValueError(f"{name} is {_shown(value)}, but must be one of {', '.join(choices)}")
    return config


def _within(name: str, value: Any, limits: tuple[float, float]) -> None:
    each = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else [value]
    for number in each:
        if number is not None and not limits[0] <= number <= limits[1]:
            raise ValueError(f"{name} is {_shown(value)}, but must be between {limits[0]:g} and {limits[1]:g}")


def _limit(value: Any, name: str, depth: int) -> None:
    """ValueError for what no description holds, wherever it stands."""
    here = name or "it"
    if depth > _MAX_DEPTH:
        raise ValueError(f"{here} is nested too deep")
    if isinstance(value, str):
        if len(value) > _MAX_TEXT or "\0" in value or not value.isprintable() and _is_broken(value):
            raise ValueError(f"{here} holds text that is too long or no text")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= _LARGEST and depth > 0:  # also of no number; integers may be too large for a float
            raise ValueError(f"{here} is a number out of range")
    elif isinstance(value, dict):
        for key, item in value.items():
            _limit(key, f"a name in {here}", depth + 1)
            if len(key) > _MAX_NAME:
                raise ValueError(f"a name in {here} is too long")
            _limit(item, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _limit(item, f"{name}[{number}]", depth + 1)


def _is_broken(text: str) -> bool:
    """Whether there is half of a pair of surrogates in it, which no file can hold."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _shown(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wanted(error: msgspec.ValidationError) -> str:
    """ "an `int`" of "Expected `int`, got `str` - at `$[0]`"."""
    words = str(error).split(", got ")[0].split(" - at ")[0]
    return words.removeprefix("Expected ").replace("`", "").replace("array", "list").replace("object", "group")
