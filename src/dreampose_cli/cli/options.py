"""Options that several commands share, each declared once: its spelling, its check and its line of help."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from ..errors import UsageError
from ..names import (
    DTYPES,
    GUIDANCE_RANGE,
    SAMPLERS,
    SEED_RANGE,
    STEPS_RANGE,
    check_choice,
    check_device,
    check_name,
    check_range,
)

MACHINE = "Machine"
FILES = "Result and messages"


def _dtype(value: str) -> str:
    return check_choice("dtype", value, DTYPES)


def _sampler(value: str | None) -> str | None:
    return None if value is None else check_choice("sampler", value, SAMPLERS)


def _seed(value: int) -> int:
    return int(check_range("--seed", value, SEED_RANGE))


def _steps(value: int | None) -> int | None:
    return None if value is None else int(check_range("--steps", value, STEPS_RANGE))


def _name(value: str | None) -> str | None:
    return None if value is None else check_name(value)


def guidance(option: str):
    """A check that the guidance given with `option` is a number in its range."""

    def check(value: float | None) -> float | None:
        return None if value is None else check_range(option, value, GUIDANCE_RANGE)

    return check


def positive(option: str, *, zero: bool = False):
    """A check that the number given with `option` is finite and above zero (or zero, where that makes sense)."""

    def check(value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
            raise UsageError(f"{option} is {value:g}, but must be {'0 or more' if zero else 'more than 0'}.")
        return value

    return check


Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="BASE",
        help="Base to use: a name (see `dreampose base ls`) or a folder. Default: DREAMPOSE_BASE, else the only "
        "trained or imported one, else mini.",
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to compute: auto, cpu, cuda, cuda:N or mps.",
        callback=check_device,
        rich_help_panel=MACHINE,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Number format: auto, float32, float16 or bfloat16.",
        callback=_dtype,
        rich_help_panel=MACHINE,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Frames computed at once; fewer need less memory. Default: what suits the base.",
        show_default=False,
        rich_help_panel=MACHINE,
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", help="Seed of all randomness; one seed gives one result.", callback=_seed),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        help="Denoising steps, 1 to 1000. Default: the base's.",
        callback=_steps,
        show_default=False,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="SAMPLER",
        help=f"Sampler: {', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}. Default: the base's.",
        callback=_sampler,
        autocompletion=lambda: list(SAMPLERS),
        show_default=False,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        metavar="RATE",
        help="Learning rate of UNet and adapter. Default: the base's.",
        callback=positive("--learning-rate"),
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="A name for the result (letters, digits, dot, underscore, hyphen), to be used instead of its id.",
        callback=_name,
        show_default=False,
    ),
]
Start = Annotated[
    float | None,
    typer.Option(
        "--start",
        metavar="SECONDS",
        help="Begin here in the driving video.",
        callback=positive("--start", zero=True),
        show_default=False,
    ),
]
End = Annotated[
    float | None,
    typer.Option(
        "--end",
        metavar="SECONDS",
        help="Stop here in the driving video.",
        callback=positive("--end"),
        show_default=False,
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        "--fps",
        metavar="FPS",
        help="Frames per second of the result. Default: the driving video's.",
        callback=positive("--fps"),
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace a result that exists already.", rich_help_panel=FILES),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document instead.", rich_help_panel=FILES),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no notes; the result alone.", rich_help_panel=FILES),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="More notes, and the whole story of an error.", rich_help_panel=FILES),
]


def check_span(start: float | None, end: float | None) -> None:
    """UsageError where --end is not after --start."""
    if start is not None and end is not None and end <= start:
        raise UsageError(f"--end ({end:g} s) must be after --start ({start:g} s).")


def counted(number: int, one: str, many: str | None = None) -> str:
    """"1 frame", "2 frames"."""
    return f"{number} {one if number == 1 else many or one + 's'}"
