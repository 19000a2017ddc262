"""A device that is not the CPU, without one: on the `meta` device an operation that meets a tensor left on the CPU fails."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from dreampose_cli import device
from dreampose_cli.device import slow_format
from dreampose_cli.inference.denoise import RenderSettings, prepare, render_latents
from dreampose_cli.names import SAMPLERS
from dreampose_cli.networks.dreampose.presets import MINI, build_mini
from dreampose_cli.training.autoencoder import ReconstructionTask
from dreampose_cli.training.crops import CropSource
from dreampose_cli.training.denoising import DenoisingTask, Dropout
from dreampose_cli.training.loop import LoopSettings, SampleRng
from dreampose_cli.workflows import train as train_workflow
from dreampose_cli.workflows.options import RenderOptions, TrainOptions, TuneOptions
from dreampose_cli.workflows.render import render
from dreampose_cli.workflows.train import train
from dreampose_cli.workflows.tune import tune

SIZE = (48, 32)


@functools.cache
def elsewhere(**photo):
    """A tiny network on the meta device."""
    settings = dataclasses.replace(MINI.network.photo, unet_channels="latents", **photo)
    network = dataclasses.replace(MINI.network, photo=settings)
    return build_mini(0, dataclasses.replace(MINI, resolution=SIZE, network=network)).to("meta")


@pytest.mark.parametrize("start", ["noise", "photo"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rendering_leaves_nothing_on_the_cpu(sampler, start, monkeypatch):
    """The network computes in the first step; in the others, what it is handed is looked at."""
    network = elsewhere(start=start)
    real, places = network.predict, []

    def predict(latents, timestep, *rest):
        places.append((latents.device.type, torch.as_tensor(timestep).device.type))
        return real(latents, timestep, *rest) if len(places) == 1 else torch.zeros_like(latents)

    monkeypatch.setattr(network, "predict", predict)
    prepared = prepare(network, np.zeros((*SIZE, 3), np.uint8), np.zeros((3, *SIZE), np.float32))
    settings = RenderSettings(sampler, 4, {"image": 2.0, "pose": 1.5}, noise="per-frame")
    latents = render_latents(network, prepared, torch.zeros(2, 5, 3, *SIZE), settings)
    assert latents.device.type == "meta" and latents.shape == (2, network.latent_channels, 12, 8)
    assert len(places) >= 4 and set(places) == {places[0]} and places[0][0] == "meta"
    assert network.decode(latents).shape == (2, 3, *SIZE)


@pytest.mark.parametrize("stage", ["network", "decoder"])
def test_tuning_and_training_leave_nothing_on_the_cpu(stage):
    network = elsewhere()
    pictures, poses = np.zeros((2, *SIZE, 3), np.uint8), np.zeros((2, 3, *SIZE), np.float32)
    learns = next(each.modules for each in network.tuning_stages if each.name == stage)
    if stage == "network":
        source = CropSource(network, pictures, poses, network.config.tuning)
        task = DenoisingTask(network, source, learns, Dropout(0.3, 0.3, 0.3))
    else:
        task = ReconstructionTask(network, pictures, learns)
    loss = task.loss(task.load([SampleRng.of(0, i) for i in range(4)]), 0, LoopSettings(1, 1e-3, 4))
    loss.backward()
    learning = [p for module in task.modules.values() for p in module.parameters() if p.requires_grad]
    assert learning and all(p.grad is not None and p.grad.device.type == "meta" for p in learning)


@pytest.mark.parametrize(
    ("has", "dtype", "where", "slow"),
    [
        ({}, "bfloat16", "cpu", True),
        ({}, "float32", "cpu", False),
        ({}, "auto", "cpu", False),
        ({}, "bfloat16", "meta", False),
        ({"avx512_bw": True}, "bfloat16", "cpu", False),
        ({"avx_ne_convert": True}, "bfloat16", "cpu", False),
        ({"architecture": "aarch64"}, "bfloat16", "cpu", False),
    ],
)
def test_a_processor_that_is_slow_in_bfloat16_is_named(has, dtype, where, slow, monkeypatch):
    known = {"architecture": "x86_64", "avx2": True, "avx512_bw": False, "avx_ne_convert": False} | has
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert bool(slow_format(dtype, torch.device(where))) is slow


def test_train_tune_and_render_say_it(clips, clip, tiny_base, tmp_path, monkeypatch):
    def slow(dtype, where):  # asked in float32, which is not slow anywhere, for the test's sake
        return f"slow in {dtype} on {where.type}."

    for module in (device, train_workflow):
        monkeypatch.setattr(module, "slow_format", slow)
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "cache"))
    photo, poses = clip / "frames" / "00000.png", clip / "video.poses"
    quick = {"device": "cpu", "dtype": "float32"}
    training = {"preset": "mini", "base": str(tiny_base), "max_steps": 1, "batch_size": 1}
    tuning = {"base": str(tiny_base), "poses": [poses], "steps": 1, "decoder_steps": 1}
    rendering = {"photo": photo, "photo_pose": poses, "base": str(tiny_base), "steps": 1, "end": 0.03}
    for command in (
        lambda note: train(TrainOptions(clips, tmp_path / "base", **training, **quick), note=note),
        lambda note: tune(TuneOptions([photo], **tuning, **quick), note=note),
        lambda note: render(RenderOptions([poses], tmp_path / "out.mp4", **rendering, **quick), note=note),
    ):
        notes: list[str] = []
        command(notes.append)
        assert sum(text.startswith("slow in ") and text.endswith(" on cpu.") for text in notes) == 1, notes
