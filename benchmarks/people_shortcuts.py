"""What shortcuts save and change on a base of reference attention, against the computation as the authors' code does it.

    python benchmarks/people_shortcuts.py [--frames 24] [--steps 25] [--rounds 2] [--output shortcuts.json]
    python benchmarks/people_shortcuts.py operations     # shares of a step at full size, counted on the meta device

MagicAnimate's layout at tiny size with random weights: what differs is arithmetic, and nothing about pictures of people. The
full computation runs the appearance network in every step and the pose control for both halves of the guidance, with guidance
in every step, in DDIM's `--steps`. Seconds are those of the CPU, of one thread, without decoding; the least of `--rounds`.
Differences are of latents, relative to those that they are compared with: the full computation's, and those of DDIM in four
times as many steps, since two samplers that are both right agree with that and not with each other's error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dreampose_cli.cache import Cache
from dreampose_cli.inference.denoise import ALL_LEVELS
from dreampose_cli.inference.joint import denoise_clip
from dreampose_cli.networks.animate import network as animate
from dreampose_cli.networks.animate.importers import MAGICANIMATE_BASE, import_magicanimate
from dreampose_cli.networks.network import Branch
from dreampose_cli.networks.storage import load_base
from dreampose_cli.poses.control_picture import VIRIDIS
from dreampose_cli.sampling import context_windows, joint_noise, make_sampler

HEIGHT, WIDTH = 80, 64
WINDOW, OVERLAP = 16, 4
GUIDANCE = 7.5
TIMES = 4  # as many steps of DDIM are what samplers are compared with


def tiny_magicanimate(folder: Path) -> animate.AnimateNetwork:
    """MagicAnimate's repositories at tiny size and random weights, imported as by `base import`."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import tiny_hub

    names = ("zcxu-eric/MagicAnimate", "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/sd-vae-ft-mse")
    weights, sd, vae = (tiny_hub.build(name, folder) for name in names)
    cache = Cache(folder / "cache")
    return load_base(import_magicanimate(cache, weights=weights, stable_diffusion=sd, vae=vae, name="tiny"))


class Clip:
    """A photo and a dance of random labels that move, and how it is denoised."""

    def __init__(self, network: animate.AnimateNetwork, frames: int):
        random = np.random.default_rng(0)
        photo = random.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        labels = random.integers(0, 25, (HEIGHT // 8, WIDTH // 8)).repeat(8, 0).repeat(8, 1)
        dance = np.stack([VIRIDIS[np.roll(labels, 2 * i, axis=1)] for i in range(frames)])
        self.network, self.pictures = network, torch.from_numpy(dance).permute(0, 3, 1, 2) / 255
        self.reference = network.reference(network.views(photo[None]))
        self.start = joint_noise("tiled", frames, (4, HEIGHT // 8, WIDTH // 8), seed=1, period=WINDOW)

    def denoise(
        self, steps: int, sampler: str = "ddim", once: bool = False, pose: bool = True, interval=ALL_LEVELS
    ) -> Tensor:
        """The latents. once: `--appearance-once`; pose: whether null rows see it; interval: `--guidance-interval`."""
        reference = self.network.at_timestep(self.reference, torch.tensor(0)) if once else self.reference
        branches = [Branch(1 - GUIDANCE, drop_image=True, drop_pose=not pose), Branch(GUIDANCE)]
        windows = context_windows(len(self.start), WINDOW, OVERLAP)
        schedule = make_sampler(sampler, self.network.schedule)
        return denoise_clip(
            self.network, reference, lambda frames: self.pictures[frames], self.start, schedule, steps, branches, windows,
            guidance_interval=interval,
        )  # fmt: skip


def both_halves():
    """As the authors' code: the pose control is computed for both halves of the guidance."""
    return mock.patch.object(animate, "_repeats", lambda *_: False)


def settings(steps: int) -> dict[str, dict]:
    """What is measured, by its name."""
    fewer = (max(1, steps * 3 // 5), max(1, steps * 2 // 5))  # 15 and 10 of 25
    found = {
        "pose control once for both halves (always)": {},
        "--appearance-once": {"once": True},
        "null rows without the pose": {"pose": False},
        "--guidance-interval 0.2:1": {"interval": (0.2, 1.0)},
        "--guidance-interval 0:0.8": {"interval": (0.0, 0.8)},
    }
    for count in (steps, *fewer):
        for sampler in ("ddim", "dpm++", "unipc", "pndm"):
            if (sampler, count) != ("ddim", steps):
                found[f"--sampler {sampler} --steps {count}"] = {"sampler": sampler, "steps": count}
    return found


def apart(found: Tensor, other: Tensor) -> float:
    """How far latents are from others, relative to those."""
    return float((found - other).norm() / other.norm())


def measure(frames: int, steps: int, rounds: int) -> dict:
    """Seconds and differences of every setting; the baseline is measured again in every round."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = Clip(tiny_magicanimate(Path(folder)), frames)
        converged = clip.denoise(TIMES * steps)
        asked = {"full computation": (both_halves, {}), **{k: (contextlib.nullcontext, v) for k, v in settings(steps).items()}}
        seconds: dict[str, list[float]] = {name: [] for name in asked}
        latents = {}
        for _ in range(rounds):
            for name, (context, values) in asked.items():
                with context():
                    began = time.process_time()
                    latents[name] = clip.denoise(**{"steps": steps, **values})
                    seconds[name].append(time.process_time() - began)
    full, took = latents["full computation"], min(seconds["full computation"])
    rows = {
        name: {
            "seconds": min(seconds[name]),
            "time": min(seconds[name]) / took,
            "from_full": apart(latents[name], full),
            "from_converged": apart(latents[name], converged),
        }
        for name in asked
    }
    return {"frames": frames, "steps": steps, "rounds": rounds, "rows": rows}


def operations(side: int = 512) -> dict:
    """Operations of one step of one window of 16 frames at full size, in TFLOP, of each part, and what share of the authors'
    step is computed; two a multiplication and addition."""
    from full_animate import modules_on_meta

    modules = modules_on_meta()
    animate.AnimateNetwork(MAGICANIMATE_BASE, modules, {}, {})  # which makes attention read and write
    grid = side // 8
    with torch.device("meta"), torch.inference_mode():
        latents, tokens = torch.empty(WINDOW, 4, grid, grid), torch.empty(WINDOW, 77, 768)
        timesteps, picture = torch.zeros(WINDOW), torch.empty(WINDOW, 3, side, side)
        photo = torch.zeros(WINDOW, dtype=torch.long)
        with FlopCounterMode(display=False) as appearance:
            bank = animate.read_photos(modules["appearance"], latents[:1], timesteps[:1], tokens[:1])
        with FlopCounterMode(display=False) as control:
            modules["control"](latents, timesteps, tokens, controlnet_cond=picture, return_dict=False)
        counts = {"appearance": appearance.get_total_flops(), "control": control.get_total_flops()}
        for name, reading in (("null row", None), ("full row", animate.Reading(bank, photo))):
            with FlopCounterMode(display=False) as row:
                animate.forward(
                    modules["unet"], latents, timesteps[:1], tokens, frames=WINDOW, reference=reading, clip_norms=True
                )
            counts[name] = row.get_total_flops()
    tflop = {name: count / 1e12 for name, count in counts.items()}
    now = sum(tflop.values())
    authors = now + tflop["control"] + tflop["appearance"]  # both for both halves
    shares = {
        "as computed here": now / authors,
        "--appearance-once": (now - tflop["appearance"]) / authors,
        "a step outside of --guidance-interval": (now - tflop["null row"]) / authors,
    }
    return {"side": side, "tflop": tflop, "of_the_authors_step": shares}


def table(found: dict) -> str:
    lines = ["| setting | time | from the full computation | from DDIM in four times the steps |", "|---|---|---|---|"]
    for name, row in found["rows"].items():
        lines.append(f"| {name} | {row['time']:.2f} | {row['from_full']:.2g} | {row['from_converged']:.2g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("shortcuts", "operations"), default="shortcuts")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    asked = parser.parse_args()
    if asked.what == "operations":
        found = operations()
        print(json.dumps(found, indent=2))
    else:
        found = measure(asked.frames, asked.steps, asked.rounds)
        print(table(found))
    if asked.output:
        asked.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
