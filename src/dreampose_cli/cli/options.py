"""Options that several commands share, each declared once: its spelling, its check and its line of help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..names import (
    ALIGNMENTS,
    DTYPES,
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
    check_device,
    check_name,
    check_range,
    parse_interval,
    parse_size,
    parse_window,
)
from . import candidates

FROM_BASE = "base's"
MANY = 10**9


def described(command: Callable) -> str:
    """A command's docstring as help: paragraphs flow to the terminal's width, indented blocks keep their lines."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(f"\b\n{text}" if "\n  " in text else text.replace("\n", " ") for text in paragraphs)


def within(option: str, low: float, high: float = MANY) -> Callable[[float | None], float | None]:
    """A check that the number given with `option` lies in [low, high]."""
    return lambda value: None if value is None else check_range(option, value, (low, high))


def positive(option: str, *, zero: bool = False, high: float = MANY) -> Callable[[float | None], float | None]:
    """A check that the number given with `option` is above zero (or zero, where that makes sense), and at most `high`."""

    def check(value: float | None) -> float | None:
        if value is not None and not (value > 0 or (zero and value == 0)):  # as it is for nan
            raise UsageError(f"{option} is {value:g}, but must be {'0 or more' if zero else 'more than 0'}.")
        if value is not None and value > high:
            raise UsageError(f"{option} is {value:g}, but must be {high:g} or less.")
        return value

    return check


def one_of(what: str, choices: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """A check that the word given is one of `choices`."""
    return lambda value: None if value is None else check_choice(what, value, choices)


def check_span(start: float | None, end: float | None) -> None:
    """UsageError where --end is not after --start."""
    if start is not None and end is not None and end <= start:
        raise UsageError(f"--end ({end:g} s) must be after --start ({start:g} s).")


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 frame", "2 frames"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def pixels(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as (height, width); UsageError where it is none."""
    return parse_size("--size", text)


def trust_estimator(estimator: str | None, trust_code: bool) -> None:
    """Trust the TorchScript file given with --estimator, where --trust-code says so; UsageError where there is none."""
    if not trust_code:
        return
    if estimator is None or not Path(estimator).is_file():
        raise UsageError("--trust-code is for a TorchScript file given with --estimator.")
    from ..cache import user_cache
    from ..poses.trusted_code import trust

    trust(user_cache(), estimator)


def interval(text: str | None) -> tuple[float, float] | None:
    """LOW:HIGH as two shares of the noise schedule; UsageError where it is none."""
    return None if text is None else parse_interval("--guidance-interval", text)


def window(text: str | None) -> tuple[int, int] | None:
    """N or N:M as (frames, overlap), M 0 where it is left out; UsageError where it is none."""
    return None if text is None else parse_window("--window", text)


def whole(option: str, metavar: str, help: str, low: float, high: float = MANY, *, default: str | bool = True):
    """An option that takes a whole number in [low, high]."""
    return typer.Option(option, metavar=metavar, help=help, callback=within(option, low, high), show_default=default)


Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="BASE",
        help="A base: name, folder, or owner/name on the Hub.",
        autocompletion=candidates.bases,
        show_default="DREAMPOSE_BASE, the only own one, or mini",
    ),
]
ImageEncoder = Annotated[
    str | None,
    typer.Option(
        "--image-encoder",
        metavar="SOURCE",
        help="Hub repository or folder of a CLIP.",
        show_default="openai/clip-vit-base-patch32",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="A name to use in place of the id.",
        callback=lambda value: None if value is None else check_name(value),
    ),
]
Estimator = Annotated[
    str | None,
    typer.Option(
        "--estimator",
        metavar="NAME",
        help="mini (mannequins), r50, r101, dwpose, doodle, or a file.",
        autocompletion=candidates.estimators,
        show_default=FROM_BASE,
    ),
]
Facing = Annotated[
    str,
    typer.Option(
        "--facing",
        metavar="SIDE",
        help="Doodles: front, or back.",
        callback=one_of("side", FACINGS),
        autocompletion=lambda: list(FACINGS),
    ),
]
Interpolate = Annotated[int, whole("--interpolate", "N", "Doodles: frames from each to the next.", 0, 1000)]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run a TorchScript --estimator: it is code. Remembered.")]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        metavar="RATE",
        help="Learning rate of UNet and adapter.",
        callback=positive("--learning-rate", high=RATE_RANGE[1]),
        show_default=FROM_BASE,
    ),
]
Steps = Annotated[int | None, whole("--steps", "N", "Denoising steps, 1 to 1000.", *STEPS_RANGE, default=FROM_BASE)]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="SAMPLER",
        help=f"{', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}.",
        callback=one_of("sampler", SAMPLERS),
        autocompletion=lambda: list(SAMPLERS),
        show_default=FROM_BASE,
    ),
]
ImageGuidance = Annotated[
    float | None,
    typer.Option(
        "--image-guidance",
        "--guidance",
        "--s1",
        metavar="S",
        help="Weight of the photo, 0 to 30.",
        callback=within("--image-guidance", *GUIDANCE_RANGE),
        show_default=FROM_BASE,
    ),
]
PoseGuidance = Annotated[
    float | None,
    typer.Option(
        "--pose-guidance",
        "--s2",
        metavar="S",
        help="Weight of the pose, 0 to 30.",
        callback=within("--pose-guidance", *GUIDANCE_RANGE),
        show_default=FROM_BASE,
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        metavar="LOW:HIGH",
        help="Noise levels with guidance; 1 is pure noise.",
        show_default="0:1, all",
    ),
]
Noise = Annotated[
    str,
    typer.Option(
        "--noise",
        metavar="NOISE",
        help="One draw for the clip (shared), or per-frame.",
        callback=one_of("noise", NOISES),
        autocompletion=lambda: list(NOISES),
    ),
]
Align = Annotated[
    str,
    typer.Option(
        "--align",
        metavar="WHEN",
        help="Match the dancer's place to the photo's: auto, on or off.",
        callback=one_of("alignment", ALIGNMENTS),
        autocompletion=lambda: list(ALIGNMENTS),
    ),
]
SideBySide = Annotated[bool, typer.Option("--side-by-side", help="Show photo, pose and result together.")]
Audio = Annotated[bool, typer.Option("--audio", help="Keep the driving video's sound.")]
Seed = Annotated[int, whole("--seed", "N", "One seed gives one result.", *SEED_RANGE)]
Fps = Annotated[
    float | None,
    typer.Option(
        "--fps",
        metavar="FPS",
        help="Frames a second of the result.",
        callback=positive("--fps", high=FPS_RANGE[1]),
        show_default="the driving video's",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WIDTHxHEIGHT",
        help="Pixels of the result; photo and poses are resized to it.",
        show_default=FROM_BASE,
    ),
]
Start = Annotated[
    float | None,
    typer.Option(
        "--start", metavar="SECONDS", help="Begin here in the driving video.", callback=positive("--start", zero=True)
    ),
]
End = Annotated[
    float | None,
    typer.Option("--end", metavar="SECONDS", help="Stop here in the driving video.", callback=positive("--end")),
]
BatchSize = Annotated[
    int | None, whole("--batch-size", "N", "Frames at once; fewer need less memory.", 1, default=FROM_BASE)
]
RenderBatchSize = Annotated[int | None, whole("--batch-size", "N", "Frames at once.", 1, default="what fits into memory")]
Memory = Annotated[
    str,
    typer.Option(
        "--memory",
        metavar="HOW",
        help="auto, or low (as little as possible).",
        callback=one_of("memory", MEMORIES),
        autocompletion=lambda: list(MEMORIES),
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.", callback=check_device),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="auto, float32, float16 or bfloat16.",
        callback=one_of("dtype", DTYPES),
        autocompletion=lambda: list(DTYPES),
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result that exists already.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, the result alone.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More notes, and an error's full traceback.")]
