"""Do two revisions compute the same numbers? Everything is run through the command line, on the CPU, in float32, on one thread.

    python benchmarks/compare_revisions.py v0.1.0 HEAD                 # two revisions of git, each in a worktree of its own
    python benchmarks/compare_revisions.py --record out/ --source src  # one source tree: inputs and results into out/
    python benchmarks/compare_revisions.py --compare a/results b/results  # two recorded folders

The parts, of which `--parts` names some: frames of an untuned photo by every sampler (untuned), a subject and its frames (tuned,
low_rank), frames of an imported checkpoint of the official kind at tiny size and random weights (official), a base after a few
steps from scratch (scratch) and from a tiny Stable Diffusion (widened), and the metrics of changed pictures (metrics). The
inputs are drawn by the first revision and shared. The comparison is bit for bit and says by how much what differs does; the
exit code is 1 if anything does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel

SAMPLERS = ("ddim", "pndm", "dpm++", "dpm++-sde", "unipc")
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}


def write_inputs(source: Path, folder: Path) -> None:
    """Mannequin clips, drawn by the code in `source`, and tiny stand-ins for what official checkpoints come in."""
    folder.mkdir(parents=True)
    dreampose(
        source, folder, "synth", "clips", "--subjects", 4, "--test-subjects", 1, "--frames", 6, "--seed", 5, "--png"
    )
    (folder / "changed").mkdir()
    for file in (next((folder / "clips" / "test").iterdir()) / "frames").iterdir():
        picture = np.asarray(Image.open(file).convert("RGB"))
        Image.fromarray(np.roll(picture // 8 * 7, 2, axis=1)).save(folder / "changed" / file.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        unet, vae = tiny_unet(14), tiny_vae()
        clip = CLIPVisionModel(CLIPVisionConfig(
            hidden_size=768, intermediate_size=96, num_hidden_layers=2, num_attention_heads=12, image_size=224, patch_size=32,
        ))  # fmt: skip
        adapter = {
            "vae2clip.weight": torch.randn(768, 1280) * 0.02,
            "vae2clip.bias": torch.randn(768) * 0.1,
            "linear1.weight": torch.eye(50, 54) + torch.randn(50, 54) * 0.05,
            "linear1.bias": torch.randn(50) * 0.1,
        }
        tiny_unet(4).save_pretrained(folder / "sd" / "unet")
        tiny_vae().save_pretrained(folder / "sd" / "vae")
    (folder / "sd" / "scheduler").mkdir()
    (folder / "sd" / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    clip.save_pretrained(folder / "clip")
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    torch.save(unet.state_dict(), checkpoints / "unet_epoch_20.pth")
    torch.save(adapter, checkpoints / "adapter_20.pth")
    torch.save(vae.state_dict(), checkpoints / "vae_1499.pth")


def tiny_unet(in_channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64, in_channels=in_channels, out_channels=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(16, 32), layers_per_block=1,
        cross_attention_dim=768, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip


def dreampose(source: Path, folder: Path, *arguments: object) -> str:
    """Standard output of `dreampose ARGUMENTS` of the code in `source`, run in `folder`."""
    environment = os.environ | {
        "PYTHONPATH": str(source.resolve()), "DREAMPOSE_CACHE": str(folder.resolve() / "cache"), "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "DREAMPOSE_BASE": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "dreampose_cli", *map(str, arguments)]
    print("+ dreampose", *map(str, arguments), flush=True)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


class Recorder:
    """One revision and what it computes: a method a part, which writes into a folder of the part's name in `out`."""

    def __init__(self, source: Path, inputs: Path, out: Path):
        self.source, self.inputs, self.out = source, inputs.resolve(), out
        out.mkdir(parents=True)
        clip = next((self.inputs / "clips" / "test").iterdir())
        self.frames = clip / "frames"
        self.photo = sorted(self.frames.iterdir())[0]
        self.device = ("--device", "cpu")
        self.render = ("render", "--poses", clip / "video.poses", "--dtype", "float32", "--align", "off", *self.device)
        self.four = ("--batch-size", 4)

    def run(self, *arguments: object) -> str:
        return dreampose(self.source, self.out, *arguments)

    def untuned(self) -> None:
        """Frames of an untuned photo: every sampler, an interval of guidance, and one frame at a time."""
        mini = (*self.render, "--photo", self.photo, "--base", "mini")
        for sampler in SAMPLERS:
            self.run(*mini, *self.four, "--sampler", sampler, "--steps", 5, "--seed", 3, "-o", f"untuned/{sampler}/")
        interval = ("--s1", 2, "--s2", 1, "--guidance-interval", "0.2:0.8", "--steps", 5)
        self.run(*mini, *self.four, *interval, "-o", "untuned/interval/")
        self.run(*mini, "--memory", "low", "-o", "untuned/low/")

    def tuned(self) -> None:
        self._subject("tuned")

    def low_rank(self) -> None:
        name = "--lora-rank" if "--lora-rank" in self.run("tune", "--help") else "--rank"
        self._subject("low-rank", name, 4)

    def _subject(self, part: str, *options: object) -> None:
        """A subject of three steps each of network and decoder, and its frames."""
        words = " ".join(self.run("tune", "--help").split())
        fast = ("--memory", "high") if "high (for speed)" in words else ()  # else on few cores one sample at a time
        steps = ("--steps", 3, "--decoder-steps", 3)
        said = self.run("tune", self.photo, "--base", "mini", *steps, "--json", *self.device, *fast, *options)
        subject = json.loads(said)
        keep_weights(Path(subject["path"]), self.out / part / "weights")
        self.run(*self.render, *self.four, "--subject", subject["id"], "-o", f"{part}/frames/")

    def official(self) -> None:
        """Three frames of a checkpoint of the official kind."""
        parts = ("--stable-diffusion", self.inputs / "sd", "--image-encoder", self.inputs / "clip")
        self.run("base", "import", self.inputs / "checkpoints", "--name", "official", *parts)
        options = ("--photo", self.photo, "--base", "official", "--steps", 2, "--end", 0.2)
        self.run(*self.render, *self.four, *options, "-o", "official/frames/")

    def scratch(self) -> None:
        """A base of the preset mini after three steps a stage, and its frames."""
        self._train("scratch", "--preset", "mini")
        base = (self.out / "scratch" / "base").resolve()
        self.run(*self.render, *self.four, "--photo", self.photo, "--base", base, "-o", "scratch/frames/")

    def widened(self) -> None:
        """A base from a tiny Stable Diffusion after three steps."""
        networks = ("--base", self.inputs / "sd", "--image-encoder", self.inputs / "clip")
        self._train("widened", *networks, "--batch-size", 2)

    def _train(self, part: str, *options: object) -> None:
        fixed = ("--max-steps", 3, "--estimator", "mini")
        self.run("train", self.inputs / "clips", "-o", f"{part}/base", *fixed, *options, *self.device)

    def metrics(self) -> None:
        (self.out / "metrics").mkdir()
        said = self.run("eval", self.inputs / "changed", self.frames, "--json")
        (self.out / "metrics" / "metrics.json").write_text(said)


PARTS = ("untuned", "tuned", "low_rank", "official", "scratch", "widened", "metrics")


def record(source: Path, inputs: Path, out: Path, parts: Sequence[str]) -> None:
    """Run the parts with the code in `source`; the results lie in `out`."""
    recorder = Recorder(source, inputs, out)
    for part in parts:
        getattr(recorder, part)()
    shutil.rmtree(out / "cache", ignore_errors=True)


def keep_weights(subject: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in subject.glob("*.safetensors"):
        shutil.copyfile(file, target / file.name)


def compare(first: Path, second: Path) -> bool:
    """Print each result in which the folders differ, and how many are equal."""
    names = sorted({
        file.relative_to(folder) for folder in (first, second) for file in folder.rglob("*")
        if file.suffix in (".png", ".safetensors", ".csv") or file.name == "metrics.json"
    })  # fmt: skip
    names = [name for name in names if name.name not in ("speed.csv", "photo-1.png")]
    found = {name: differ(first / name, second / name) for name in names}
    for name, difference in found.items():
        if difference:
            print(f"{name}: {difference}")
    equal = sum(not difference for difference in found.values())
    print(f"{equal} of {len(found)} results are equal, bit for bit.")
    return equal == len(found)


def differ(first: Path, second: Path) -> str | None:
    """By how much two results differ, None where they do not."""
    if not first.exists() or not second.exists():
        return f"only in {(first if first.exists() else second).parent}"
    if first.suffix == ".safetensors":
        a, b = load_file(first), load_file(second)
        if a.keys() != b.keys():
            return f"other tensors: {', '.join(sorted(a.keys() ^ b.keys())[:4])}"
        return worst({name: (a[name].double().numpy(), b[name].double().numpy()) for name in a})
    if first.suffix == ".png":
        return worst({"pixels": tuple(np.asarray(Image.open(file), np.float64) for file in (first, second))})
    if first.suffix == ".csv":
        return None if first.read_bytes() == second.read_bytes() else "other rows"
    a, b = ({**json.loads(file.read_text()), "seconds": None} for file in (first, second))
    return None if a.get("metrics") == b.get("metrics") else "other metrics"


def worst(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> str | None:
    """The largest absolute and relative difference of arrays by their names."""
    found = []
    for name, (a, b) in pairs.items():
        if a.shape != b.shape:
            return f"{name} is {a.shape} and {b.shape}"
        if not np.array_equal(a, b, equal_nan=True):
            found.append(
                (float(np.abs(a - b).max()), float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30)), name)
            )
    if not found:
        return None
    most = max(found)
    return f"{len(found)} of {len(pairs)} differ, most {most[2]} by {most[0]:.3g}, relative {most[1]:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revisions", nargs="*", help="two revisions of git")
    parser.add_argument("--record", type=Path, help="record one source tree into this folder")
    parser.add_argument("--source", type=Path, default=Path("src"), help="the source tree to record")
    parser.add_argument("--inputs", type=Path, help="inputs to share; made where they are not there")
    parser.add_argument("--compare", type=Path, nargs=2, help="two recorded folders")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    chosen = parser.parse_args()
    if chosen.compare:
        sys.exit(not compare(*chosen.compare))
    if chosen.record:
        inputs = chosen.inputs or chosen.record / "inputs"
        if not inputs.exists():
            write_inputs(chosen.source, inputs)
        return record(chosen.source, inputs, chosen.record / "results", chosen.parts)
    if len(chosen.revisions) != 2:
        parser.error("name two revisions, or --record, or --compare")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, revision in zip("ab", chosen.revisions, strict=True):
            subprocess.run(["git", "worktree", "add", "--detach", folder / name, revision], check=True)
        try:
            write_inputs(folder / "a" / "src", folder / "inputs")
            for name in "ab":
                record(folder / name / "src", folder / "inputs", folder / f"results-{name}", chosen.parts)
            sys.exit(not compare(folder / "results-a", folder / "results-b"))
        finally:
            for name in "ab":
                subprocess.run(["git", "worktree", "remove", "--force", folder / name], check=True)


if __name__ == "__main__":
    main()
