"""Names and limits that the command line and the library share; imports nothing heavy."""

from __future__ import annotations

import math
import re

from .errors import UsageError

BASE_KINDS = ("dreampose", "magicanimate", "animate-anyone")  # of published weights that can be imported
SAMPLERS = ("pndm", "ddim", "dpm++", "dpm++-karras", "dpm++-sde", "unipc")
DTYPES = ("auto", "float32", "float16", "bfloat16")
PRESETS = ("mini", "estimator", "doodle", "paper", "fusion")
ESTIMATORS = ("mini", "r50", "r101", "dwpose", "doodle")  # those with a name; others by path
BASE_ESTIMATORS = ESTIMATORS  # what a base may name: never a file, since that could be code
POSE_FORMATS = ("poses", "iuv", "dreampose", "openpose")
STAGES = ("vae", "network", "decoder", "estimator", "appearance", "control", "motion")
NULL_POSES = ("keep", "drop")
REFERENCES = ("all", "global", "none")
POSE_CHANNELS = ("uv", "iuv")
PHOTO_CHANNELS = ("none", "latents")
TRACKERS = ("tensorboard",)
OPTIMIZERS = ("adamw", "muon")
FACINGS = ("front", "back")
NOISES = ("shared", "per-frame")
MEMORIES = ("auto", "low")
ALIGNMENTS = ("auto", "on", "off")
BASELINES = ("controlnet", "reference-only", "ip-adapter")  # what `eval --suite` can compare with, besides bases
BASELINE_PROMPT = "a full-body photo of a person, plain background"
EDIT_REGIONS = ("clothes", "torso", "legs", "hair", "background")

GUIDANCE_RANGE = (0.0, 30.0)
STEPS_RANGE = (1, 1000)
SEED_RANGE = (0, 2**63 - 1)
FPS_RANGE = (0.0, 1000.0)  # above 0
RATE_RANGE = (0.0, 1.0)  # of learning, above 0

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file there may have this name


def check_device(device: str) -> str:
    """`device` itself when it is auto, cpu, cuda, cuda:N or mps (here or elsewhere); else UsageError."""
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"{device!r} is no device; use auto, cpu, cuda, cuda:N (such as cuda:0) or mps.")
    return device


def check_name(name: str) -> str:
    """`name` itself when it may name a subject or a base: letters, digits, dot, underscore, hyphen. Else UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a name; use up to 64 letters, digits, dots, underscores and hyphens, "
            "beginning with a letter or a digit."
        )
    if _WINDOWS_DEVICE.fullmatch(name) or name.endswith("."):
        raise UsageError(
            f"{name!r} cannot be a name: Windows has no such folder, so it could not be moved there; use another."
        )
    return name


def check_range(what: str, value: float, limits: tuple[float, float]) -> float:
    """`value` itself when it is a number within `limits` (inclusive); UsageError naming `what` otherwise."""
    low, high = limits
    if not math.isfinite(value) or not low <= value <= high:
        told, least, most = (number if isinstance(number, int) else f"{number:g}" for number in (value, low, high))
        raise UsageError(f"{what} is {told}, but must be between {least} and {most}.")
    return value


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> str:
    """`value` itself when it is one of `choices`; UsageError that lists them otherwise."""
    if value not in choices:
        raise UsageError(f"there is no {what} {value!r}; choose one of {', '.join(choices)}.")
    return value


def parse_size(what: str, text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as (height, width); UsageError naming `what` where it is none."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or not all(16 <= int(number) <= 4096 for number in match.groups()):
        raise UsageError(f"{what} is {text!r}, but must be WIDTHxHEIGHT in pixels, such as 128x160, each 16 to 4096.")
    return int(match[2]), int(match[1])


def parse_window(what: str, text: str) -> tuple[int, int]:
    """N or N:M as (frames, overlap), M 0 where it is left out; UsageError naming `what` where it is none."""
    match = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", text)
    if not match or not 0 <= int(match[2] or 0) < int(match[1]):
        raise UsageError(f"{what} is {text!r}, but must be N or N:M frames with 0 <= M < N, such as 16:4.")
    return int(match[1]), int(match[2] or 0)


def parse_interval(what: str, text: str) -> tuple[float, float]:
    """LOW:HIGH as two shares of the noise schedule; UsageError naming `what` where it is none."""
    low, colon, high = text.partition(":")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (math.nan, math.nan)
    if not (colon and 0 <= found[0] < found[1] <= 1):
        raise UsageError(f"{what} is {text!r}, but must be LOW:HIGH with 0 <= LOW < HIGH <= 1.")
    return found
