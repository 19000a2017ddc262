"""The options of `tune` and `render` that a job may name, from a command line, a csv file or JSON.

What both have with one meaning has one name; what means something else in each is plain for `render` and has the prefix
`tune-` for `tune`. The device is the engine's business, and no option of a job.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import UsageError
from ...names import (
    ALIGNMENTS,
    DTYPES,
    EDIT_REGIONS,
    ESTIMATORS,
    FACINGS,
    FPS_RANGE,
    GUIDANCE_RANGE,
    MEMORIES,
    NOISES,
    RATE_RANGE,
    SAMPLERS,
    SEED_RANGE,
    STEPS_RANGE,
    check_choice,
    check_name,
    check_range,
    parse_interval,
    parse_size,
    parse_window,
)

MANY = 10**9
Parser = Callable[[str, Any], Any]


@dataclass(frozen=True)
class JobOptions:
    """The options of a job for `tune` and `render`, by the names of their fields; `tuned`: whether its photos are tuned at
    all. Jobs with equal options share one object."""

    tune: Mapping[str, Any] = field(default_factory=dict)
    render: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    tuned: bool = True

    # What is computed does not depend on these, but for rounding.
    TUNE_NEUTRAL = frozenset({"memory", "name", "poses"})
    RENDER_NEUTRAL = frozenset({"memory", "batch_size", "compile"})

    def tune_content(self) -> dict[str, Any]:
        """The options that a subject depends on; its photos' poses are counted by their content elsewhere."""
        return {key: value for key, value in self.tune.items() if key not in self.TUNE_NEUTRAL and value is not None}

    def render_content(self) -> dict[str, Any]:
        """The options that a video depends on."""
        return {k: v for k, v in self.render.items() if k not in self.RENDER_NEUTRAL and v is not None}

    def files(self) -> dict[str, str]:
        """The options that name a file or a folder, of which the content counts: paths by the names of the fields."""
        found = {name: self.render.get(name) for name in ("start_noise", "c2pa_key")}
        found |= {"edit_where": _path_unless(self.render.get("edit_where"), EDIT_REGIONS)}
        found |= {"estimator": _path_unless(self.render.get("estimator"), ESTIMATORS)}
        return {name: path for name, path in found.items() if path is not None}


def _path_unless(value: str | None, names: tuple[str, ...]) -> str | None:
    return None if value in names else value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}, but must be text.")
    return value


def _number(low: float, high: float, whole: bool = False, above: bool = False) -> Parser:
    def parse(name: str, value: Any) -> float:
        try:
            found = float(value) if not isinstance(value, bool) else math.nan
            exact = int(value) if whole and not isinstance(value, float) else found
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"{name} is {str(value)[:60]}, but must be a number.") from None
        if whole and found != exact or whole and not float(found).is_integer():
            raise UsageError(f"{name} is {value!r}, but must be a whole number.")
        found = int(exact) if whole else found
        if above and found <= 0:
            raise UsageError(f"{name} is {found:g}, but must be more than 0.")
        return check_range(name, found, (low, high))

    return parse


def _whole(low: int, high: int = MANY) -> Parser:
    return _number(low, high, whole=True)


def _choice(choices: tuple[str, ...]) -> Parser:
    return lambda name, value: check_choice(name, _text(name, value), choices)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("true", "yes", "1", "on"):
        return True
    if word in ("false", "no", "0", "off"):
        return False
    raise UsageError(f"{name} is {value!r}, but must be true or false.")


def _interval(name: str, value: Any) -> tuple[float, float]:
    text = value if isinstance(value, str) else ":".join(map(str, value if isinstance(value, list | tuple) else ()))
    return parse_interval(name, text)


def _paths(name: str, value: Any) -> tuple[str, ...]:
    """One path, several with semicolons between them, or a list."""
    parts = value.split(";") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts or not all(isinstance(p, str) and p.strip() for p in parts):
        raise UsageError(f"{name} is {value!r}, but must be a path, or several.")
    return tuple(part.strip() for part in parts)


_BOTH: dict[str, Parser] = {"dtype": _choice(DTYPES), "memory": _choice(MEMORIES), "estimator": _text}
_TUNE: dict[str, tuple[str, Parser]] = {
    "name": ("name", lambda name, value: check_name(_text(name, value))),
    "photo-pose": ("poses", _paths),
    "tune-steps": ("steps", _whole(0, 1_000_000)),
    "decoder-steps": ("decoder_steps", _whole(0, 1_000_000)),
    "learning-rate": ("learning_rate", _number(*RATE_RANGE, above=True)),
    "decoder-learning-rate": ("decoder_learning_rate", _number(*RATE_RANGE, above=True)),
    "tune-batch-size": ("batch_size", _whole(1)),
    "lora-rank": ("lora_rank", _whole(0, 1024)),
    "tune-seed": ("seed", _whole(*SEED_RANGE)),
}
_RENDER: dict[str, tuple[str, Parser]] = {
    "photo-index": ("photo_index", _whole(1)),
    "edit": ("edit", _text),
    "edit-where": ("edit_where", _text),
    "size": ("size", lambda name, value: parse_size(name, _text(name, value))),
    "window": ("window", lambda name, value: parse_window(name, str(value))),
    "start-noise": ("start_noise", _text),
    "pose-pictures": ("pose_pictures", _flag),
    "appearance-once": ("appearance_once", _flag),
    "facing": ("facing", _choice(FACINGS)),
    "interpolate": ("interpolate", _whole(0, 1000)),
    "image-guidance": ("image_guidance", _number(*GUIDANCE_RANGE)),
    "pose-guidance": ("pose_guidance", _number(*GUIDANCE_RANGE)),
    "guidance-interval": ("guidance_interval", _interval),
    "steps": ("steps", _whole(*STEPS_RANGE)),
    "sampler": ("sampler", _choice(SAMPLERS)),
    "seed": ("seed", _whole(*SEED_RANGE)),
    "noise": ("noise", _choice(NOISES)),
    "align": ("align", _choice(ALIGNMENTS)),
    "fps": ("fps", _number(*FPS_RANGE, above=True)),
    "start": ("start", _number(0, MANY)),
    "end": ("end", _number(0, MANY, above=True)),
    "side-by-side": ("side_by_side", _flag),
    "audio": ("audio", _flag),
    "batch-size": ("batch_size", _whole(1)),
    "compile": ("compile", _flag),
    "c2pa-key": ("c2pa_key", _text),
}
# What is said without being different from not saying it.
_DEFAULTS: dict[str, Any] = {
    "tune": True, "dtype": "auto", "memory": "auto", "tune-seed": 0, "photo-index": 1, "seed": 0, "noise": "shared",
    "align": "auto", "side-by-side": False, "audio": False, "compile": False, "start": 0.0,
    "pose-pictures": False, "appearance-once": False, "facing": "front", "interpolate": 0,
}  # fmt: skip
NAMES = ("base", "tune", *_BOTH, *_TUNE, *_RENDER)


def parse_option(name: str, value: Any) -> Any:
    """The value of the option `name` as `tune` or `render` takes it. Raises UsageError naming the option."""
    if name == "base":
        return _text(name, value)
    if name == "tune":
        return _flag(name, value)
    parser = _BOTH.get(name) or (_TUNE.get(name) or _RENDER[name])[1]
    return parser(name, value)


class OptionSets:
    """JobOptions made of names and values; equal ones are one object, so that a million jobs take little memory."""

    def __init__(self, common: Mapping[str, Any] | None = None):
        self.common = {name: parse_option(name, value) for name, value in (common or {}).items() if value is not None}
        self._made: dict[tuple, JobOptions] = {}
        self._plain: JobOptions | None = None

    def of(self, given: Mapping[str, Any]) -> JobOptions:
        """The common options with those `given` for one job on top. Raises UsageError."""
        if not given and self._plain is not None:
            return self._plain
        values = {**self.common, **{name: parse_option(name, value) for name, value in given.items()}}
        values = {name: value for name, value in values.items() if value != _DEFAULTS.get(name)}
        mark = tuple(sorted(values.items()))
        found = self._made.get(mark)
        if found is None:
            found = self._made[mark] = _checked(values)
        if not given:
            self._plain = found
        return found


def _checked(values: Mapping[str, Any]) -> JobOptions:
    """Values that go together as options. Raises UsageError."""
    if values.get("end") is not None and values["end"] <= (values.get("start") or 0.0):
        raise UsageError(f"end ({values['end']:g} s) must be after start ({values.get('start') or 0:g} s).")
    tuned = values.get("tune", True)
    if "edit-where" in values and "edit" not in values:
        raise UsageError("edit-where needs edit: what is to change there.")
    if "edit" in values and tuned:
        raise UsageError("edit needs an untuned job (tune: false): a subject was tuned on its photos as they are.")
    both = {name: values[name] for name in _BOTH if name in values}
    found = JobOptions(
        tune=both | {key: values[name] for name, (key, _) in _TUNE.items() if name in values},
        render=both | {key: values[name] for name, (key, _) in _RENDER.items() if name in values},
        base=values.get("base"),
        tuned=tuned,
    )
    for name, path in found.files().items():
        if not os.path.exists(path):
            names = {"estimator": ESTIMATORS, "edit_where": EDIT_REGIONS}.get(name)
            way = f"known are {', '.join(names)}, or a path" if names else "check the path"
            raise UsageError(f"{name.replace('_', '-')} {path} does not exist; {way}.")
    return found
