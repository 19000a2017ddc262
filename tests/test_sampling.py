"""Sampling: the guidance formula, the noise rule, and every sampler against an oracle."""

import functools

import numpy as np
import pytest
import torch

from dreampose_cli.errors import UsageError
from dreampose_cli.names import SAMPLERS
from dreampose_cli.networks.animate.settings import EPS_LINEAR, V_ZERO_SNR
from dreampose_cli.networks.dreampose.presets import MINI, build_mini
from dreampose_cli.networks.small import SCHEDULE
from dreampose_cli.sampling import clip_noise, guide, make_sampler, sample

SCHEDULES = {
    "mini": None,  # as built
    "stable diffusion": {**SCHEDULE, "prediction_type": "epsilon", "timestep_spacing": "leading"},
}


@functools.cache
def mini():
    return build_mini(0, MINI)


def schedule_of(name):
    return SCHEDULES[name] or mini().schedule


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [10, 100])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_sampler_finds_what_an_oracle_predicts(name, steps, schedule):
    sampler = make_sampler(name, schedule_of(schedule))
    generator = torch.Generator().manual_seed(0)
    truth, noise = torch.randn(2, 2, 4, 6, 5, generator=generator)
    alphas = sampler.alphas_cumprod

    def oracle(latents, timestep):
        alpha = alphas[int(timestep)]
        noise_in_it = (latents - alpha.sqrt() * truth) / (1 - alpha).sqrt()
        if sampler.config.prediction_type == "epsilon":
            return noise_in_it
        return alpha.sqrt() * noise_in_it - (1 - alpha).sqrt() * truth

    found = sample(oracle, noise, sampler, steps)
    assert torch.isfinite(found).all()
    # Stable Diffusion's schedule ends at its first alpha, not at one: a noise of 0.03 remains by design.
    assert (found - truth).abs().mean() < 0.05


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [SCHEDULE, EPS_LINEAR, V_ZERO_SNR])
def test_a_few_steps_are_a_few_calls_on_every_schedule(name, schedule):
    for steps in (1, 2, 3, 4):
        seen = []

        def predict(latents, timestep, seen=seen):
            seen.append(timestep)
            return 0.1 * latents

        found = sample(predict, torch.ones(1, 4, 2, 2), make_sampler(name, schedule), steps)
        assert len(seen) == (steps if name != "pndm" or steps == 1 else steps + 1) and torch.isfinite(found).all()


def test_guidance_is_the_papers_formula():
    network = mini()
    generator = torch.Generator().manual_seed(1)
    null, image, full = torch.randn(3, 2, 4, 3, 3, generator=generator)
    for s_image, s_pose in [(8.0, 3.0), (1.5, 1.5), (0.0, 2.0)]:
        branches = network.branches({"image": s_image, "pose": s_pose})
        assert [(b.drop_image, b.drop_pose) for b in branches] == [(True, True), (False, True), (False, False)]
        expected = null + s_image * (image - null) + s_pose * (full - image)
        found = guide(torch.stack([null, image, full]), [branch.weight for branch in branches])
        torch.testing.assert_close(found, expected)
    assert [branch.weight for branch in network.branches({"image": 1.0, "pose": 1.0})] == [0.0, 0.0, 1.0]


def test_clip_noise_is_the_documented_draw():
    expected = torch.randn((1, 4, 5, 3), generator=torch.Generator("cpu").manual_seed(9))
    assert torch.equal(clip_noise((4, 5, 3), 9), expected)
    assert not torch.equal(clip_noise((4, 5, 3), 10), expected)


def test_an_unknown_sampler_is_a_usage_error():
    with pytest.raises(UsageError, match="pndm, ddim"):
        make_sampler("euler", SCHEDULE)


def test_pndm_keeps_sds_timesteps():
    sampler = make_sampler("pndm", {**SCHEDULE, "prediction_type": "epsilon", "timestep_spacing": "leading"})
    sampler.set_timesteps(10)
    assert sampler.timesteps.tolist()[:3] == [901, 801, 801]
    assert len(sampler.timesteps) == 11  # N steps are N + 1 evaluations
    np.testing.assert_allclose(sampler.alphas_cumprod[-1], 0.0047, atol=1e-4)
