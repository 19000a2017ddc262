"""A device that is not the CPU, without one: on the `meta` device an operation that meets a tensor left on the CPU fails."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from dreampose_cli.inference.denoise import RenderSettings, prepare, render_latents
from dreampose_cli.names import SAMPLERS
from dreampose_cli.networks.dreampose.presets import MINI, build_mini
from dreampose_cli.training.autoencoder import ReconstructionTask
from dreampose_cli.training.crops import CropSource
from dreampose_cli.training.denoising import DenoisingTask, Dropout
from dreampose_cli.training.loop import LoopSettings, SampleRng

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
