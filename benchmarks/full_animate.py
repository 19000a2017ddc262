"""MagicAnimate at its real size (Stable Diffusion 1.5 with 20 motion modules, 512x512) without its weights.

    python benchmarks/full_animate.py import FOLDER     # write the published layout with random weights, and import it
                                                        # (`layout FOLDER` does the first alone)
    python benchmarks/full_animate.py window            # one window of one step on the CPU or a GPU

What can be measured on it is time and memory, never quality. `import` needs 14 GB of disk in FOLDER and about as little
memory as the largest file; `window` 5.2 GB of memory in bfloat16 and what `--frames` and `--size` take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from dreampose_cli.networks.animate.importers import MAGICANIMATE_BASE
from dreampose_cli.networks.animate.modules import add_motion, build_module
from dreampose_cli.networks.animate.network import AnimateNetwork
from dreampose_cli.networks.animate.settings import EPS_LINEAR, MAGICANIMATE

SHAPE = {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 768,
         "attention_head_dim": 8}  # fmt: skip


def modules_on_meta() -> dict[str, torch.nn.Module]:
    """Every module of the base, without weights."""
    with torch.device("meta"):
        plain = UNet2DConditionModel(sample_size=64, **SHAPE)
        unet = add_motion(plain, MAGICANIMATE)
        return {
            "unet": unet,
            "appearance": build_module("appearance", MAGICANIMATE, plain),
            "control": ControlNetModel(**SHAPE),
            "vae": autoencoder(),
            "prompt": build_module("prompt", MAGICANIMATE, plain),
        }


def autoencoder() -> AutoencoderKL:
    """Stable Diffusion's, on the default device."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def build_full_animate(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    modules: dict[str, torch.nn.Module] | None = None,
) -> AnimateNetwork:
    """The published architecture with random weights; of `modules` that were made on the meta device, if they were."""
    modules = modules or modules_on_meta()
    for module in modules.values():
        state = {}
        for name, tensor in module.state_dict().items():
            state[name] = torch.empty(tensor.shape, dtype=dtype, device=device).normal_(0, 0.02)
            if "norm" in name and name.endswith("weight"):
                state[name].fill_(1.0)
        module.load_state_dict(state, assign=True)
        module.eval()
    return AnimateNetwork(MAGICANIMATE_BASE, modules, {}, dict(EPS_LINEAR))


def write_layout(folder: Path) -> None:
    """The three repositories as on the Hub, random values: MagicAnimate and VAE in float32, Stable Diffusion in halves."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import tiny_hub

    def fill(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {name: torch.empty(t.shape, dtype=dtype).normal_(0, 0.02) for name, t in module.state_dict().items()}

    magic, sd, vae = folder / "MagicAnimate", folder / "stable-diffusion", folder / "vae"
    weights = "diffusion_pytorch_model.safetensors"
    with torch.device("meta"):
        unet, control = UNet2DConditionModel(sample_size=64, **SHAPE), ControlNetModel(**SHAPE)
        moving, auto = add_motion(unet, MAGICANIMATE), autoencoder()
    tiny_hub.write_config(magic / "appearance_encoder", unet, _class_name="AppearanceEncoderModel")
    tiny_hub.write_weights(
        magic / "appearance_encoder" / weights, tiny_hub.appearance_state(_Filled(fill(unet, torch.float32)))
    )
    tiny_hub.write_config(magic / "densepose_controlnet", control)
    tiny_hub.write_weights(magic / "densepose_controlnet" / weights, fill(control, torch.float32))
    motion = {k: v for k, v in moving.state_dict().items() if "motion_modules" in k}
    named = tiny_hub.animatediff_names({k: torch.empty(v.shape).normal_(0, 0.02) for k, v in motion.items()})
    (magic / "temporal_attention").mkdir(parents=True, exist_ok=True)
    torch.save(named, magic / "temporal_attention" / "temporal_attention.ckpt")
    tiny_hub.write_config(sd / "unet", unet)
    tiny_hub.write_weights(sd / "unet" / "diffusion_pytorch_model.fp16.safetensors", fill(unet, torch.float16))
    vocabulary = tiny_hub.write_tokenizer(sd / "tokenizer")
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, hidden_size=768, intermediate_size=3072,
                                           num_hidden_layers=12, num_attention_heads=12,
                                           bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1))  # fmt: skip
    encoder.config.save_pretrained(sd / "text_encoder")
    tiny_hub.write_weights(sd / "text_encoder" / "model.fp16.safetensors", encoder.half().state_dict())
    tiny_hub.write_config(vae, auto)
    tiny_hub.write_weights(vae / weights, fill(auto, torch.float32))


class _Filled(dict):
    """A state in place of its module."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self)


def measure_import(folder: Path) -> dict:
    """Write the layout if it is not there, then import it in a process of its own and read its peak."""
    if not (folder / "vae" / "config.json").is_file():
        subprocess.run([sys.executable, __file__, "layout", str(folder)], check=True)  # whose memory is given back
    script = (
        "import sys, json, time; from pathlib import Path\n"
        "from dreampose_cli.cache import user_cache\n"
        "from dreampose_cli.networks.animate.importers import import_magicanimate\n"
        "def peak():  # of this process alone: getrusage knows that of its parent too\n"
        "    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')) / 1e6\n"
        "before = peak(); began = time.monotonic()\n"
        "f = Path(sys.argv[1])\n"
        "path = import_magicanimate(user_cache(), weights=f / 'MagicAnimate',\n"
        "    stable_diffusion=f / 'stable-diffusion', vae=f / 'vae',\n"
        "    name='full', halves=True, overwrite=True)\n"
        "size = sum(p.stat().st_size for p in path.rglob('*.safetensors'))\n"
        "print(json.dumps({'seconds': round(time.monotonic() - began, 1), 'peak_gb': peak(), 'imports_gb': before,\n"
        "    'base_gb': size / 1e9}))\n"
    )
    environment = {**os.environ, "DREAMPOSE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script, str(folder)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    read = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {"files_gb": read / 1e9, **json.loads(done.stdout)}


@torch.inference_mode()
def measure_window(device: str, dtype: torch.dtype, frames: int, side: int, low: bool) -> dict:
    """Both branches of one window (in turn with `low`), after one pass of the appearance network."""
    from dreampose_cli.inference.joint import guided_prediction
    from dreampose_cli.networks.animate.network import Reference

    network = build_full_animate(device, dtype)
    if low and device != "cpu":
        network.offload_only(*network.occasional)
    began = time.monotonic()
    latents = torch.randn(frames, 4, side // 8, side // 8, device=device)
    tokens = network.modules["prompt"].tokens
    reference = network.at_timestep(Reference(latents[:1].to(dtype), tokens, None), torch.tensor(961))
    appearance = time.monotonic() - began
    condition = network.condition(reference, torch.rand(frames, 3, side, side))
    prediction = guided_prediction(
        network, latents, torch.tensor(961), condition, reference, network.branches({"image": 7.5}), low
    )
    finite = bool(prediction.isfinite().all())
    seconds = time.monotonic() - began
    peak = (
        torch.cuda.max_memory_allocated()
        if device != "cpu"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {"device": device, "dtype": str(dtype), "frames": frames, "side": side, "low": low, "finite": finite,
            "appearance_seconds": round(appearance, 1), "seconds": round(seconds, 1), "peak_gb": peak / 1e9}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("layout", "import", "window"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("full-animate"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--low", action="store_true", help="branches in turn, and on a GPU modules offloaded")
    chosen = parser.parse_args()
    if chosen.what == "layout":
        write_layout(chosen.folder)
        return
    if chosen.what == "import":
        found = measure_import(chosen.folder)
    else:
        dtype = getattr(torch, chosen.dtype)
        found = measure_window(chosen.device, dtype, chosen.frames, chosen.size, chosen.low)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
