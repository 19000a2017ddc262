"""What MagicAnimate needs in memory at its real size, counted without computing, and how a clip is fitted into what there is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dreampose_cli.inference import joint_plan
from dreampose_cli.inference.joint_plan import JointPlan, peak_bytes, plan_clip, window_bytes

SIZE = (512, 512)


@pytest.fixture(scope="module")
def full():
    """MagicAnimate's modules on the meta device, in half precision."""
    from full_animate import modules_on_meta

    from dreampose_cli.networks.animate.importers import MAGICANIMATE_BASE
    from dreampose_cli.networks.animate.network import AnimateNetwork
    from dreampose_cli.networks.animate.settings import EPS_LINEAR

    modules = {name: torch.nn.Module.to(module, dtype=torch.bfloat16) for name, module in modules_on_meta().items()}
    return AnimateNetwork(MAGICANIMATE_BASE, modules, {}, dict(EPS_LINEAR))


class Device:
    """A GPU in place of the meta device."""

    type = "cuda"


@pytest.fixture
def gpu(full, monkeypatch):
    """Say how much memory is free on a GPU that holds the weights."""
    monkeypatch.setattr(type(full), "device", Device())
    return lambda free: monkeypatch.setattr(joint_plan, "free_bytes", lambda device: free)


def test_low_memory_fits_cards_of_8_gb(full):
    """5.2 GB of weights; in turn and with modules offloaded the peak stays below 6 GB."""
    low, plain = JointPlan(16, 4, in_turn=True, offload=True), JointPlan(16, 4)
    assert peak_bytes(full, SIZE, low, 2) < 6.0e9 < 7.5e9 < peak_bytes(full, SIZE, plain, 2) < 8.5e9
    assert peak_bytes(full, (768, 768), JointPlan(8, 2, True, True), 2) < 6.2e9


def test_a_plan_takes_as_much_at_once_as_fits_and_never_other_windows_unasked(full, gpu):
    both = window_bytes(full, SIZE, JointPlan(16, 4), 2)
    gpu(2 * both)
    assert plan_clip(full, SIZE, 16, 4, 2) == JointPlan(16, 4)
    gpu(both)  # a fifth of it is left alone
    assert plan_clip(full, SIZE, 16, 4, 2) == JointPlan(16, 4, in_turn=True)
    gpu(both // 8)
    assert plan_clip(full, SIZE, 16, 4, 2) == JointPlan(16, 4, in_turn=True, offload=True)


def test_memory_low_puts_away_and_takes_smaller_windows_where_even_that_does_not_fit(full, gpu):
    row = window_bytes(full, SIZE, JointPlan(16, 4, in_turn=True), 2)
    gpu(4 * row)
    assert plan_clip(full, SIZE, 16, 4, 2, "low") == JointPlan(16, 4, True, True)
    gpu(row)
    assert plan_clip(full, SIZE, 16, 4, 2, "low") == JointPlan(8, 2, True, True)
    gpu(0)
    assert plan_clip(full, SIZE, 16, 4, 2, "low") == JointPlan(4, 1, True, True)  # the smallest


def test_less_at_once_comes_in_an_order():
    steps, plan = [], JointPlan(16, 4)
    while (plan := plan.smaller("cuda")) is not None:
        steps.append((plan.window, plan.overlap, plan.in_turn, plan.offload))
    assert steps == [(16, 4, True, False), (16, 4, True, True), (8, 2, True, True), (4, 1, True, True)]
    assert JointPlan(16, 4, in_turn=True).smaller("cpu").window == 8  # nothing can be offloaded there


@pytest.mark.slow
def test_a_window_needs_what_is_planned_with(monkeypatch):
    from full_animate import build_full_animate, modules_on_meta
    from torch._subclasses.fake_tensor import FakeTensorMode

    from dreampose_cli.networks.animate import network as animate
    from footprint import Peak

    # Masks are values, which tensors without content do not have: all rows see photo and pose.
    monkeypatch.setattr(animate, "_where", lambda seen, part: part)
    monkeypatch.setattr(animate, "_repeats", lambda *_: True)
    monkeypatch.setattr(animate, "_reading", lambda c, reference: animate.Reading(reference.bank, c.photo, None))
    everybody = type("Everybody", (), {"any": lambda self: True})()
    modules = modules_on_meta()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        network = build_full_animate("cpu", torch.bfloat16, modules)
        reference = animate.Reference(
            torch.empty(1, 4, 64, 64, dtype=torch.bfloat16), network.modules["prompt"].tokens, None
        )
        with Peak(*network.modules.values()) as appearance:
            now = network.at_timestep(reference, torch.tensor(961))
        with Peak(*network.modules.values()) as window:
            condition = network.condition(now, torch.empty(16, 3, 512, 512))
            condition = dataclasses.replace(condition, sees_pose=everybody)
            network.predict(torch.empty(16, 4, 64, 64), torch.tensor(961), condition, now)
    planned = window_bytes(network, SIZE, JointPlan(16, 4, in_turn=True), 2)
    assert window.bytes == pytest.approx(planned, rel=0.03)
    assert appearance.bytes < 0.1e9
