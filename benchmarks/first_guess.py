"""How much of what the shipped mini makes is diffusion: SSIM of its first guess, decoded without a single sampling step.

    python benchmarks/first_guess.py --subjects 6

Rows: the photo copied; the texture encoder's guess, decoded (zero steps); one sampling step; the base's own sampler. Untuned,
on test mannequins of dataset seed 2026, with which nothing is trained; photo and driving poses exact; the photo is frame 0
of 24, scored is every second frame from 12 on. For bases with a first guess (`photo.unet_channels: surface`) alone. As JSON.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

from dreampose_cli.bases.registry import resolve_base
from dreampose_cli.cache import user_cache
from dreampose_cli.evaluation.metrics import ssim
from dreampose_cli.inference.denoise import RenderSettings, prepare, render_batch
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.networks.storage import load_base
from dreampose_cli.workflows.synth import FPS, plan_clip

SEED, FRAMES = 2026, 24


def rows_of(network, index: int) -> dict[str, float]:
    """The mean SSIM of each row on one mannequin."""
    plan = plan_clip(SEED, "test", index)
    frames = list(perform(draw_subject(plan.subject_seed), draw_dance(plan.dance_seed, FRAMES, FPS)))
    chosen = range(12, FRAMES, 2)
    around = [[min(max(i + k, 0), FRAMES - 1) for k in (-2, -1, 0, 1, 2)] for i in chosen]
    windows = torch.tensor(np.stack([[frames[j].pose for j in window] for window in around]), dtype=torch.float32)
    prepared = prepare(network, frames[0].picture, frames[0].pose)
    with torch.inference_mode():
        guess = network.condition(prepared.reference, windows).guess
        if guess is None:
            raise SystemExit(f"the base {network.config.name} makes no first guess")
        guessed = (network.decode(guess) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    made = {
        "copied": np.stack([frames[0].picture] * len(chosen)),
        "guess, zero steps": guessed,
        "one step": render_batch(network, prepared, windows, RenderSettings.of(network, steps=1)),
        "default": render_batch(network, prepared, windows, RenderSettings.of(network)),
    }
    truth = np.stack([frames[i].picture for i in chosen])
    return {name: float(np.mean(ssim(pictures, truth))) for name, pictures in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="mini", help="name or folder (default: mini)")
    parser.add_argument("--subjects", type=int, default=6, help="mannequins (default: 6)")
    arguments = parser.parse_args()
    network = load_base(resolve_base(user_cache(), arguments.base))
    found = [rows_of(network, index) for index in range(arguments.subjects)]
    means = {name: round(float(np.mean([rows[name] for rows in found])), 4) for name in found[0]}
    print(json.dumps({"subjects": len(found), "ssim": means}, indent=2))


if __name__ == "__main__":
    main()
