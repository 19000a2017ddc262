"""The network: the widened UNet, the adapters, conditioning, the base as a folder."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from dreampose_cli.bases.config import BaseConfig
from dreampose_cli.bases.fingerprint import fingerprint
from dreampose_cli.bases.registry import resolve_base
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import BaseError
from dreampose_cli.inference.denoise import prepare
from dreampose_cli.networks.dreampose.adapter import PooledAdapter, SpatialAdapter
from dreampose_cli.networks.dreampose.conditioning import pose_channels
from dreampose_cli.networks.dreampose.network import widen
from dreampose_cli.networks.dreampose.presets import MINI, build_mini
from dreampose_cli.networks.dreampose.settings import PoseSettings
from dreampose_cli.networks.storage import load_base, save_base


@pytest.fixture(scope="module")
def mini():
    return build_mini(0, dataclasses.replace(MINI, resolution=(48, 32)))


def figure(height=48, width=32, shift=0):
    """A picture of random texture and a pose: a torso whose charts run with the pixels, shifted to the right."""
    rng = np.random.default_rng(0)
    texture = rng.random((24, 16, 3))
    picture = np.full((height, width, 3), 240, np.uint8)
    pose = np.zeros((3, height, width), np.float32)
    rows, columns = slice(12, 36), slice(6 + shift, 22 + shift)
    picture[rows, columns] = (texture * 255).astype(np.uint8)
    pose[0, rows, columns] = 2
    pose[1, rows, columns] = (np.arange(16) + 0.5)[None] / 16
    pose[2, rows, columns] = (np.arange(24) + 0.5)[:, None] / 24
    return picture, pose


def test_widening_leaves_the_pretrained_prediction_alone(mini):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    latents, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)
    weight, bias = unet.conv_in.weight.clone(), unet.conv_in.bias.clone()
    before = unet(latents, 500, encoder_hidden_states=tokens).sample
    widen(unet, 4 + 10)
    pose = torch.randn(2, 10, 8, 8)
    after = unet(torch.cat([latents, pose], 1), 500, encoder_hidden_states=tokens).sample
    assert torch.equal(unet.conv_in.weight[:, :4], weight) and not unet.conv_in.weight[:, 4:].any()
    assert torch.equal(unet.conv_in.bias, bias)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert unet.config.in_channels == 14


def test_the_vae_part_of_both_adapters_starts_without_effect():
    clip, latents = torch.randn(2, 50, 96), torch.randn(2, 4, 12, 8)
    pooled = PooledAdapter((4, 12, 8), 50, 96)
    torch.testing.assert_close(pooled(clip, latents), clip)
    torch.testing.assert_close(pooled(clip, latents), pooled(clip, None))
    spatial = SpatialAdapter((4, 12, 8), 50, 96).eval()
    torch.testing.assert_close(spatial(clip, latents), spatial(clip, torch.zeros_like(latents)))
    assert spatial(clip, latents).shape == (2, 50 + 3 * 2, 96)


def test_the_pooled_adapter_is_sized_from_the_base():
    adapter = PooledAdapter((4, 80, 64), 50, 768)  # the official sizes
    assert adapter.vae2clip.in_features == 1280 and adapter.linear1.weight.shape == (50, 54)
    assert torch.equal(adapter.linear1.weight, torch.eye(50, 54))


def test_pose_channels_map_ranges_and_the_null_pose():
    windows = torch.zeros(1, 5, 3, 8, 8)
    windows[:, 2, 0] = 24
    windows[:, 2, 1:] = 1
    uv = pose_channels(PoseSettings(channels="uv", range=(-1.0, 1.0)), windows, 4)
    assert uv.shape == (1, 10, 2, 2)
    assert uv[0, 4:6].eq(1).all() and uv[0, :4].eq(-1).all()  # the middle pose, and the background of the others
    iuv = pose_channels(PoseSettings(channels="iuv", to_latents="area"), windows, 4)
    assert iuv.shape == (1, 15, 2, 2) and iuv[0, 6:9].eq(1).all()


def test_a_base_survives_its_folder(mini, tmp_path):
    folder = save_base(mini, tmp_path / "base")
    again = load_base(folder)
    assert again.config == mini.config
    for name, module in mini.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, again.modules[name].state_dict()[key]), (name, key)
    picture, pose = figure()
    one, other = (prepare(network, picture, pose).reference for network in (mini, again))
    for name in ("tokens", "null_tokens", "latents"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_half_precision_storage_stays_close(mini, tmp_path):
    before = mini.unet.conv_in.weight.clone()
    again = load_base(save_base(mini, tmp_path / "half", torch.float16))
    assert torch.equal(mini.unet.conv_in.weight, before)
    torch.testing.assert_close(again.unet.conv_in.weight, before, rtol=1e-3, atol=1e-3)


def test_a_base_does_not_tell_where_its_parts_were_loaded_from(mini, tmp_path):
    loaded = load_base(save_base(mini, tmp_path / "somebody's folder"))
    again = save_base(loaded, tmp_path / "again")
    for name in ("unet", "vae", "image_encoder"):
        assert "somebody's folder" not in (again / name / "config.json").read_text()
    load_base(again)


def test_damaged_bases_are_one_sentence(mini, tmp_path):
    folder = save_base(mini, tmp_path / "base")
    with pytest.raises(BaseError, match="no base.json"):
        load_base(tmp_path)
    text = (folder / "base.json").read_text()
    (folder / "base.json").write_text(text.replace('"version": 2', '"version": 9'))
    with pytest.raises(BaseError, match="version 9"):
        load_base(folder)
    (folder / "base.json").write_text(text.replace('"version": 2', '"version": 1'))
    with pytest.raises(BaseError, match="format version 1, from before the first release"):
        load_base(folder)
    (folder / "base.json").write_text(text.replace('"family": "dreampose"', '"family": "unheard-of"'))
    with pytest.raises(BaseError, match="no family 'unheard-of'; known are dreampose"):
        load_base(folder)
    (folder / "base.json").write_text(json.dumps({**json.loads(text), "surprise": 1}))
    with pytest.raises(BaseError, match="surprise"):
        load_base(folder)
    (folder / "base.json").write_text(text)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseError, match="cut short"):
        load_base(folder)


def test_revision_follows_the_content(mini, tmp_path):
    folder = save_base(mini, tmp_path / "base")
    first = fingerprint(folder)
    assert fingerprint(save_base(mini, tmp_path / "copy")) == first
    changed = load_base(folder)
    changed.config = dataclasses.replace(mini.config, name="other")
    assert fingerprint(save_base(changed, tmp_path / "other")) != first


def test_config_round_trip():
    assert BaseConfig.from_json(MINI.to_json(), "x") == MINI


def test_which_base_is_meant(mini, tmp_path, cache, monkeypatch):
    notes = []
    assert resolve_base(user_cache(), None, notes.append).name == "mini" and "mannequins only" in notes[0]
    save_base(mini, cache / "bases" / "mine")
    assert resolve_base(user_cache(), None).name == "mine"
    save_base(mini, cache / "bases" / "yours")
    with pytest.raises(BaseError, match="mine, yours"):
        resolve_base(user_cache(), None)
    monkeypatch.setenv("DREAMPOSE_BASE", "yours")
    assert resolve_base(user_cache(), None).name == "yours"
    assert resolve_base(user_cache(), "mini").name == "mini"
    with pytest.raises(BaseError, match="unknown base 'nobody'"):
        resolve_base(user_cache(), "nobody")


def test_the_null_image_is_the_same_whatever_the_layout_of_the_weights(mini):
    expected = mini.null_photo()[1].clone()
    mini.vae.to(memory_format=torch.channels_last)
    assert torch.equal(mini.null_photo()[1], expected)
    assert not mini.vae.encoder.conv_in.weight.is_contiguous()  # they lie as before
