"""Training in several processes over gloo: the same weights as one process with the whole batch."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreampose_cli.bases.config import read_config
from dreampose_cli.cache import user_cache
from dreampose_cli.networks.dreampose.presets import MINI, build_mini
from dreampose_cli.training.denoising import DenoisingTask, Dropout, Pairing
from dreampose_cli.training.distributed import init_distributed
from dreampose_cli.training.frames import prepare_frames
from dreampose_cli.training.loop import LoopSettings, run
from dreampose_cli.training.sources import PairSource

SIZE = (48, 32)
SETTINGS = LoopSettings(steps=3, learning_rate=1e-3, batch_size=4, seed=5, ema=0.5, clip_norm=0.1)


def trained(clips, processes, parts=1):
    """The weights of a tiny mini in float64 after a few steps, by their names."""
    base = build_mini(0, dataclasses.replace(MINI, resolution=SIZE))
    for module in base.modules.values():
        module.double()
    frames = prepare_frames(user_cache(), clips, SIZE)
    torch.manual_seed(1)
    latents = torch.randn(len(frames.pictures), base.latent_channels, *base.latent_size)
    source = PairSource(base, frames, frames.split("train"), lambda rows: latents[rows], each=2)
    learning, pairing = ("unet", "adapter", "image_encoder"), Pairing(2, 2.0, True)
    task = DenoisingTask(base, source, learning, Dropout(0.2, 0.2, 0.2), pairing)
    result = run(task, dataclasses.replace(SETTINGS, gradient_accumulation_steps=parts), processes=processes)
    weights = {f"{n}.{k}": v for n, m in task.modules.items() for k, v in m.state_dict().items()}
    return {**weights, "losses": torch.tensor(result.losses, dtype=torch.float64)}


def launch(command, count, **environment):
    """Run `command` in so many processes that train together; their outputs, once all have succeeded."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    children = []
    for rank in range(count):
        own = {**together, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1, **environment}
        env = {**os.environ, **{key: str(value) for key, value in own.items()}}
        children.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        outputs = [child.communicate(timeout=600) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0] * count, "\n".join(err for _, err in outputs)
    return outputs


@pytest.mark.slow
def test_two_processes_are_one_of_twice_the_batch(clips, tmp_path, cache):
    from dreampose_cli.training.distributed import SINGLE

    whole = trained(clips, SINGLE)
    losses = whole.pop("losses")
    launch([sys.executable, __file__, str(clips), str(tmp_path)], 2, DREAMPOSE_CACHE=cache)
    for parts in (1, 2):
        for rank in (0, 1):
            weights = load_file(tmp_path / f"{parts}-{rank}.safetensors")
            assert torch.allclose(weights.pop("losses"), losses, rtol=1e-6)  # which are float32
            worst = max((value.double() - whole[key].double()).abs().max().item() for key, value in weights.items())
            assert worst < 1e-9, (parts, rank)
    fresh = build_mini(0, dataclasses.replace(MINI, resolution=SIZE)).unet.state_dict()
    assert max((whole[f"unet.{key}"] - value).abs().max().item() for key, value in fresh.items()) > 1e-3


@pytest.mark.slow
def test_the_command_under_accelerates_launcher(clips, tiny_base, tmp_path, capsys):
    from dreampose_cli.__main__ import main

    def words(output, batch):
        options = f"--preset mini --base {tiny_base} --max-steps 2 --device cpu --batch-size {batch} --learning-rate 1"
        return ["train", str(clips), "-o", str(tmp_path / output), *options.split()]

    assert main(words("one", 4)) == 0
    # With --cpu the launcher wants MPI; its way for several GPUs starts any processes, and --device says what they use.
    launcher = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    together = subprocess.run(
        [sys.executable, "-m", *launcher.split(), "--dynamo_backend", "no", "-m", "dreampose_cli", *words("two", 2)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert together.stdout.split() == [str(tmp_path / "two")]  # one of them speaks
    one, two = (
        load_file(tmp_path / name / "checkpoints/network/step-00000002/weights.safetensors") for name in ("one", "two")
    )
    # Adam's first steps are as long for a gradient of noise as for any other: where there is none they may differ.
    near = [torch.isclose(one[key], two[key], atol=1e-4).float().mean().item() for key in one]
    assert sum(near) / len(near) > 0.99
    assert read_config(tmp_path / "two").provenance["processes"] == 2


if __name__ == "__main__":
    clips, output = Path(sys.argv[1]), Path(sys.argv[2])
    processes, _ = init_distributed("cpu")
    for parts in (1, 2):
        weights = {key: value.contiguous() for key, value in trained(clips, processes, parts).items()}
        save_file(weights, output / f"{parts}-{processes.rank}.safetensors")
    processes.end()
