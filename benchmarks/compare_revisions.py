"""Do two revisions compute the same numbers? Everything is run through the command line, on the CPU, in float32, on one thread.

    python benchmarks/compare_revisions.py v0.1.0 HEAD                 # two revisions of git, each in a worktree of its own
    python benchmarks/compare_revisions.py --record out/ --source src  # one source tree: inputs and results into out/
    python benchmarks/compare_revisions.py --compare a/ b/             # two recorded folders

Recorded are: frames of an untuned photo by every sampler and way of drawing noise, a tuned subject and its frames, a
low-rank subject, an imported checkpoint of the official kind at tiny size (random weights), a base trained for a few steps
from scratch and one from a tiny Stable Diffusion, and metrics. The inputs are drawn by the first revision and shared.
The comparison is bit for bit and says by how much what differs does; the exit code is 1 if anything does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
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


def record(source: Path, inputs: Path, out: Path) -> None:
    """Run what is compared with the code in `source`; the results lie in `out`."""
    out.mkdir(parents=True)
    clip = next((inputs / "clips" / "test").iterdir()).resolve()
    photo, poses = sorted((clip / "frames").iterdir())[0], clip / "video.poses"
    device = ("--device", "cpu")
    fast = ("--memory", "high") if "high (for speed)" in dreampose(source, out, "render", "--help") else ()
    render = ("render", "--poses", poses, "--dtype", "float32", "--align", "off", "--batch-size", 4, *device)
    untuned = (*render, "--photo", photo, "--base", "mini")
    for sampler in SAMPLERS:
        dreampose(source, out, *untuned, "--sampler", sampler, "--steps", 5, "--seed", 3, "-o", f"{sampler}/")
    dreampose(
        source, out, *untuned, "--s1", 2, "--s2", 1, "--guidance-interval", "0.2:0.8", "--steps", 5, "-o", "interval/"
    )
    dreampose(source, out, *render[:-4], *device, "--photo", photo, "--base", "mini", "--memory", "low", "-o", "low/")
    tune = ("tune", photo, "--base", "mini", "--steps", 3, "--decoder-steps", 3, "--json", *device, *fast)
    rank = "--lora-rank" if "--lora-rank" in dreampose(source, out, "tune", "--help") else "--rank"
    for name, more in (("tuned", ()), ("lora", (rank, 4))):
        subject = json.loads(dreampose(source, out, *tune, *more))
        keep_weights(Path(subject["path"]), out / name / "weights")
        dreampose(source, out, *render, "--subject", subject["id"], "-o", f"{name}/frames/")
    parts = ("--stable-diffusion", inputs.resolve() / "sd", "--image-encoder", inputs.resolve() / "clip")
    dreampose(source, out, "base", "import", inputs.resolve() / "checkpoints", "--name", "official", *parts)
    official = (*render[:-4], "--batch-size", 4, *device, "--photo", photo, "--base", "official", "--steps", 4)
    dreampose(source, out, *official, "-o", "official/")
    for name, more in (("scratch", ("--preset", "mini")), ("widened", ("--base", inputs.resolve() / "sd", *parts[2:]))):
        dreampose(
            source, out, "train", inputs.resolve() / "clips", "-o", name, "--max-steps", 3, "--estimator", "mini", *more, *device,
            *(("--batch-size", 2) if name == "widened" else ()),
        )  # fmt: skip
    dreampose(
        source,
        out,
        *render[:-4],
        *device,
        "--photo",
        photo,
        "--base",
        out.resolve() / "scratch",
        "-o",
        "scratch-frames/",
    )
    (out / "metrics.json").write_text(dreampose(source, out, "eval", "tuned/frames", clip / "frames", "--json"))
    shutil.rmtree(out / "cache")


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
    chosen = parser.parse_args()
    if chosen.compare:
        sys.exit(not compare(*chosen.compare))
    if chosen.record:
        inputs = chosen.inputs or chosen.record / "inputs"
        if not inputs.exists():
            write_inputs(chosen.source, inputs)
        return record(chosen.source, inputs, chosen.record / "results")
    if len(chosen.revisions) != 2:
        parser.error("name two revisions, or --record, or --compare")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, revision in zip("ab", chosen.revisions, strict=True):
            subprocess.run(["git", "worktree", "add", "--detach", folder / name, revision], check=True)
        try:
            write_inputs(folder / "a" / "src", folder / "inputs")
            for name in "ab":
                record(folder / name / "src", folder / "inputs", folder / f"results-{name}")
            sys.exit(not compare(folder / "results-a", folder / "results-b"))
        finally:
            for name in "ab":
                subprocess.run(["git", "worktree", "remove", "--force", folder / name], check=True)


if __name__ == "__main__":
    main()
