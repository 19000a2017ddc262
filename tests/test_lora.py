"""Low-rank subjects: what the thin matrices compute, their size, and the road from tuning to a render."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dreampose_cli import media
from dreampose_cli.cache import user_cache
from dreampose_cli.networks import lora
from dreampose_cli.networks.storage import load_base
from dreampose_cli.subjects.views import read_views
from dreampose_cli.training.tuning import fit_subject
from dreampose_cli.workflows.options import RenderOptions, TuneOptions
from dreampose_cli.workflows.render import render
from dreampose_cli.workflows.tune import resolve_settings, tune


class Small(nn.Module):
    """Every kind of layer that is updated, with what is left alone next to it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)
        self.dilated = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.strided = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.linear = nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, x):
        x = self.norm(self.strided(self.dilated(self.convolution(x)).relu())).mean((2, 3))
        x = self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]
        return self.linear(self.frozen(x))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small()


def learn(module, updates):
    """A few real steps, so that no matrix is zero any more."""
    optimizer = torch.optim.Adam(updates.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.ones(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()


def test_updates_start_without_effect_and_nothing_else_learns(small):
    x = torch.randn(2, 3, 8, 8)
    before, weights = small(x), copy.deepcopy(small.state_dict())
    updates = lora.inject(small, 2, seed=0)
    assert updates.names == ["convolution", "dilated", "strided", "linear"]
    assert torch.equal(small(x), before)
    learning = {id(p) for p in small.parameters() if p.requires_grad}
    assert learning == {id(p) for p in updates.parameters()}
    learn(small, updates)
    assert not torch.allclose(small(x), before)
    lora.remove(small)
    assert all(torch.equal(value, weights[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_updates_added_into_the_weights_compute_the_same(small, memory_format):
    x = torch.randn(2, 3, 8, 8)
    small.to(memory_format=memory_format)
    updates = lora.inject(small, 2, seed=0)
    learn(small, updates)
    beside, tensors = small(x), updates.tensors()
    lora.remove(small)
    lora.merge(small, tensors)
    torch.testing.assert_close(small(x), beside, rtol=1e-4, atol=1e-5)


def test_a_layer_thinner_than_the_rank_has_its_own(small):
    updates = lora.inject(small, 100, seed=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in updates.tensors().items()}
    assert shapes["linear.lora_A.weight"] == (5, 8) and shapes["linear.lora_B.weight"] == (5, 5)
    assert shapes["convolution.lora_A.weight"] == (6, 3, 3, 3) and shapes["convolution.lora_B.weight"] == (6, 6, 1, 1)


def test_one_seed_is_one_beginning(small):
    one, same, other = (lora.inject(copy.deepcopy(small), 2, seed).tensors() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["linear.lora_A.weight"], other["linear.lora_A.weight"])


def test_what_does_not_fit_is_named(small):
    whole = small.state_dict()
    lora.merge(small, whole)
    with pytest.raises(ValueError, match=r"missing weight linear\.weight"):
        lora.merge(small, {name: value for name, value in whole.items() if name != "linear.weight"})
    with pytest.raises(ValueError, match="unknown weight surprise"):
        lora.merge(small, {**whole, "surprise": torch.ones(1)})
    with pytest.raises(ValueError, match=r"linear\.weight is \(1, 8\), not \(5, 8\)"):
        lora.merge(small, {**whole, "linear.weight": torch.ones(1, 8)})
    pair = {"linear.lora_A.weight": torch.ones(2, 8), "linear.lora_B.weight": torch.ones(5, 2)}
    with pytest.raises(ValueError, match=r"missing weight linear\.lora_B"):
        lora.merge(small, {"linear.lora_A.weight": pair["linear.lora_A.weight"]})
    with pytest.raises(ValueError, match="update of linear does not fit"):
        lora.merge(small, {**pair, "linear.lora_B.weight": torch.ones(5, 3)})
    assert all(torch.equal(value, whole[name]) for name, value in small.state_dict().items())


def test_at_stable_diffusions_size_a_subject_of_rank_8_is_under_25_mb():
    from full_size import build_full_size

    base = build_full_size("meta")
    size = 0
    for module in (base.unet, base.adapter, base.vae.decoder):
        tensors = lora.inject(module, 8, seed=0).tensors()
        size += sum(2 * tensor.numel() for tensor in tensors.values())  # kept as float16
    assert 15e6 < size < 25e6


def test_learning_rates_follow_the_method(tiny_base):
    preset = load_base(tiny_base).config.tuning
    assert resolve_settings(preset, TuneOptions([])).learning_rate == preset.learning_rate
    low = resolve_settings(preset, TuneOptions([], lora_rank=4))
    assert low.lora_rank == 4 and low.learning_rate > preset.learning_rate
    assert low.decoder_learning_rate > preset.decoder_learning_rate
    assert resolve_settings(preset, TuneOptions([], learning_rate=0.25, lora_rank=4)).learning_rate == 0.25
    assert resolve_settings(dataclasses.replace(preset, lora_rank=4), TuneOptions([], lora_rank=0)) == preset


def test_a_low_rank_subject_is_small_and_renders(tiny_base, clip, subject, tmp_path):
    photo, poses = clip / "frames" / "00000.png", clip / "video.poses"
    options = {"base": str(tiny_base), "poses": [poses], "steps": 2, "decoder_steps": 2}
    low = tune(TuneOptions([photo], lora_rank=2, **options))
    assert low.id != subject.id and not low.cached
    assert tune(TuneOptions([photo], lora_rank=2, **options)).cached

    def weights(subject):
        return sum(p.stat().st_size for p in subject.path.glob("*.safetensors"))

    assert weights(low) < weights(subject) / 5
    for name in ("unet", "adapter", "vae.decoder"):
        tensors = load_file(low.path / f"{name}.safetensors")
        assert all(key.endswith((lora.A, lora.B)) for key in tensors), name
        assert any(value.any() for key, value in tensors.items() if key.endswith(lora.B)), name
    assert json.loads((low.path / "subject.json").read_text())["settings"]["lora_rank"] == 2

    def frames(name, **who):
        render(RenderOptions(poses=[poses], output=f"{tmp_path / name}/", steps=2, **who))
        return np.stack(list(media.open_frames(tmp_path / name))).astype(int)

    untuned = frames("untuned", photo=photo, base=str(tiny_base), photo_pose=poses)
    tuned = frames("tuned", subject=low.id)
    assert np.abs(tuned - untuned).max() > 0


@pytest.mark.slow
def test_an_interrupted_low_rank_tune_resumes_to_the_same_subject(tiny_base, clip, monkeypatch):
    from dreampose_cli import cache as store
    from dreampose_cli.training import tuning

    photo = clip / "frames" / "00000.png"
    options = {"base": str(tiny_base), "poses": [clip / "video.poses"], "steps": 2, "decoder_steps": 2, "lora_rank": 2}
    subject = tune(TuneOptions([photo], **options))
    whole = {p.name: p.read_bytes() for p in subject.path.glob("*.safetensors")}
    store.remove(store.user_cache(), store.user_cache().find_subject(subject.id))
    monkeypatch.setattr(tuning, "max", lambda a, b: 1, raising=False)  # a checkpoint after every step

    class Killed(Exception):
        pass

    def kill(done, total, note=""):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        tune(TuneOptions([photo], **options), progress=kill)
    notes = []
    again = tune(TuneOptions([photo], **options), note=notes.append)
    assert any("resumed from step" in note for note in notes)
    assert {p.name: p.read_bytes() for p in again.path.glob("*.safetensors")} == whole


@pytest.mark.parametrize("rank", [0, 2])
def test_a_subject_keeps_a_share_of_what_was_learned(tiny_base, clip, rank):
    photo = clip / "frames" / "00000.png"
    picture = media.read_photo(photo)
    learned = {}
    for blend in (1.0, 0.25):
        base = load_base(tiny_base)
        before = copy.deepcopy(base.unet).state_dict()
        views = read_views(user_cache(), base.config, [photo], [picture], [clip / "video.poses"], "mini", "cpu")
        preset = resolve_settings(
            base.config.tuning,
            TuneOptions([], steps=2, decoder_steps=1, learning_rate=1e-3, batch_size=1, lora_rank=rank),
        )
        fit_subject(base, views, dataclasses.replace(preset, weight_interpolation=blend), 0, None, None)
        learned[blend] = {name: weight - before[name] for name, weight in base.unet.state_dict().items()}
    assert sum(delta.abs().sum() for delta in learned[1.0].values()) > 0
    for name, delta in learned[1.0].items():
        torch.testing.assert_close(learned[0.25][name], 0.25 * delta, rtol=1e-3, atol=1e-6)
