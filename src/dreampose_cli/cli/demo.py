"""`dreampose demo`: the full pipeline on generated material, in a few minutes on any machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..workflows.options import DemoOptions
from . import options
from .output import Output, duration, table


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write; an earlier demo is replaced."),
    ] = Path("dreampose-demo"),
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """See it work on a mannequin that the base has never seen.

    Tunes and renders as you would, on generated material and without the network. Writes out.mp4 (photo, driving
    video, pose, result), samples.png (with the truth) and metrics.json.

    Examples:
      dreampose demo
      dreampose demo --seed 3 -o another/
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from ..workflows.demo import demo as show

    with out.progress(None, "demo") as progress:
        shown = show(DemoOptions(output, seed, device, dtype), progress=progress, note=out.note)
    for line in _figures(shown):
        out.note(line)
    out.note("now the same by yourself, with its photo and dance:")
    out.note(f"  dreampose tune {shlex.quote(str(output / 'photo.png'))}")
    out.note(f"  dreampose render --poses {shlex.quote(str(output / 'dance.mp4'))} -o mine.mp4")
    out.result(output, {"path": output, **shown})


def _figures(shown: dict) -> list[str]:
    """The measured figures as a small table."""
    rows = [
        [name, *(f"{shown[name][figure]:.3f}" for figure in ("l1", "ssim")), f"{shown[name]['psnr']:.1f}"]
        for name in ("untuned", "tuned")
        if name in shown
    ]
    lines = table(["", "L1", "SSIM", "PSNR"], rows, right={1, 2, 3}) if rows else []
    seconds = shown.get("seconds")
    if isinstance(seconds, dict):
        lines.append(", ".join(f"{name} {duration(value)}" for name, value in seconds.items()))
    return lines
