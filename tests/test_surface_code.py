"""The adapter with tokens on the latent grid, the surface code in cross-attention, and how phase 1 draws samples for it."""

import dataclasses

import numpy as np
import pytest
import torch

from dreampose_cli.bases.config import BaseConfig
from dreampose_cli.inference.denoise import RenderSettings, prepare, render_batch, render_latents
from dreampose_cli.networks.dreampose import surface_code as code
from dreampose_cli.networks.dreampose.presets import MINI, PAPER, build_mini
from dreampose_cli.networks.dreampose.settings import PhotoSettings
from dreampose_cli.networks.storage import load_base, save_base
from dreampose_cli.training.denoising import (
    Batch,
    DenoisingTask,
    Dropout,
    NoiseSample,
    Pairing,
    even_timestep,
    near_figure,
)
from dreampose_cli.training.frames import Clip, FrameDataset
from dreampose_cli.training.loop import LoopSettings, SampleRng
from dreampose_cli.training.sources import PairSource


@pytest.fixture(scope="module")
def base():
    return build_mini(0, dataclasses.replace(MINI, resolution=(48, 32)))


@pytest.fixture
def poses():
    """Five windows (5, 5, 3, 48, 32) of a body of two parts."""
    generator = torch.Generator().manual_seed(0)
    found = torch.rand((5, 5, 3, 48, 32), generator=generator)
    found[:, :, 0] = 0
    found[:, :, 0, 8:24, 8:24] = 2
    found[:, :, 0, 24:40, 8:16] = 9
    return found


def frames_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    starts = np.cumsum([0, *lengths])
    clips = [Clip(str(i), "train", int(starts[i]), n, 12.0) for i, n in enumerate(lengths)]
    poses = np.zeros((count, 3, 48, 32), np.uint8)
    poses[:, 0, 8:40, 8:24] = 2
    return FrameDataset(None, rng.integers(0, 255, (count, 48, 32, 3), dtype=np.uint8), poses, clips), clips


def source_of(base, lengths, each):
    frames, clips = frames_of(lengths)
    values = torch.randn(
        sum(lengths), base.latent_channels, *base.latent_size, generator=torch.Generator().manual_seed(1)
    )
    return PairSource(base, frames, clips, lambda rows: values[rows], each=each), values


def test_it_is_off_by_default():
    assert (
        not PhotoSettings().surface_code
        and not PAPER.network.photo.surface_code
        and PAPER.network.photo.adapter == "pooled"
    )
    with pytest.raises(ValueError, match='needs photo.adapter "grid"'):
        PhotoSettings(surface_code=True)


def test_the_code_says_where_on_the_body_a_pixel_lies(poses):
    found = code.surface_code(poses[:, 2], 4)
    assert found.shape == (5, code.CODE, 12, 8)
    assert not found[:, :, 0].any() and (found[:, 0, 3, 3] == 1).all()  # off the body all is zero
    assert (found[:, 2, 3, 3] == 1).all() and not found[:, 1, 3, 3].any()  # part 2, and no other
    one = torch.tensor([2.0, 0.25, 0.75]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.allclose(
        code.surface_code(one, 4)[0, 25:27, 0, 0], torch.tensor([0.5, 0.5]).sqrt()
    )  # sin, cos of pi / 4


@pytest.mark.parametrize("width", [16, 32])
def test_untrained_attention_finds_the_same_point(width):
    """The initial map, scores over the root of the width as attention has them: among all parts and a grid of places the
    point itself, or at rank 16 one near it, has the most weight."""
    side = (torch.arange(6) + 0.5) / 6
    u, v = torch.meshgrid(side, side, indexing="ij")
    charts = torch.stack([torch.stack([torch.full_like(u, part), u, v]) for part in range(1, 25)])
    points = code.surface_code(charts, 1).permute(0, 2, 3, 1).reshape(-1, code.CODE)
    mapped = points @ code.initial_map(1, width).T
    weights = (mapped @ mapped.T / width**0.5).softmax(-1)
    expected = (points @ code.kernel() @ points.T).softmax(-1)
    assert expected.diagonal().mean() > 0.1
    part = weights.view(24, 36, 24, 36).sum(3)
    limb = torch.stack([part[p - 1, :, [q - 1 for q in limb]].sum(1).mean() for limb in code.LIMBS for p in limb])
    assert limb.min() > 0.8  # hardly any other limb is looked at
    best = weights.argmax(-1)
    near = (
        charts[:, 1:].flatten(2).permute(0, 2, 1).reshape(-1, 2)[best]
        - charts[:, 1:].flatten(2).permute(0, 2, 1).reshape(-1, 2)
    ).norm(dim=1)
    assert near.mean() < (0.05 if width == 32 else 0.25)
    random = points @ torch.randn(width, code.CODE, generator=torch.Generator().manual_seed(0)).T / code.CODE**0.5
    assert (random @ random.T).softmax(-1).diagonal().mean() < weights.diagonal().mean()


def views_of(base, count, poses):
    pictures = np.random.default_rng(0).integers(0, 255, (count, 48, 32, 3), dtype=np.uint8)
    return base.views(pictures, poses[:count, 2].numpy())


def test_targets_of_one_photo_share_its_tokens(base, poses):
    generator = torch.Generator().manual_seed(3)
    shape = (4, base.latent_channels, *base.latent_size)
    views = views_of(base, 2, poses)
    batch = Batch(torch.randn(shape, generator=generator), poses[:4], views)
    dropped = torch.tensor([0.01, 0.5, 0.07, 0.12])  # image null, nothing, pose null, both null
    sample = NoiseSample(torch.randn(shape, generator=generator), torch.tensor([10, 300, 600, 900]), dropped)
    task = DenoisingTask(base, None, ("unet", "adapter"), Dropout(), Pairing(2, 2.0))
    twice = base.views(views.pictures.repeat(2, 0), views.poses.repeat_interleave(2, 0).numpy())
    with torch.no_grad():
        shared = task.loss((batch, sample), 0, None)
        alone = task.loss((dataclasses.replace(batch, views=twice), sample), 0, None)
    assert torch.allclose(shared, alone, rtol=1e-5)


def test_a_null_image_is_no_token_at_all(base, poses):
    reference = base.reference(views_of(base, 1, poses))
    assert not reference.null_tokens.any()
    condition = base.condition(reference, poses[:2])
    noisy = torch.randn(2, base.latent_channels, *base.latent_size, generator=torch.Generator().manual_seed(0))
    empty = dataclasses.replace(condition, photo_tokens=reference.null_tokens)
    with torch.no_grad():
        t = torch.tensor(500)
        mixed = base.predict(noisy, t, condition.drop(torch.tensor([True, False]), False))
        without, both = base.predict(noisy, t, empty), base.predict(noisy, t, condition)
    assert torch.allclose(mixed[0], without[0], atol=1e-6) and torch.allclose(mixed[1], both[1], atol=1e-6)
    assert not torch.allclose(mixed[0], both[0], atol=1e-3)
    nothing = condition.drop(False, True)
    assert not nothing.code.any() and not nothing.pose.any() and nothing.image.all()


def test_a_coded_base_is_saved_and_loaded_whole(base, poses, tmp_path, caplog):
    again = load_base(save_base(base, tmp_path))
    for name, tensor in base.unet.state_dict().items():
        assert torch.equal(tensor, again.unet.state_dict()[name]), name
    assert any(name.endswith("processor.code.weight") for name in again.unet.state_dict())
    picture = np.random.default_rng(0).integers(0, 255, (48, 32, 3), dtype=np.uint8)
    settings = RenderSettings("ddim", 2, {"image": 1.5, "pose": 1.25})
    made = [render_batch(b, prepare(b, picture, poses[0, 2].numpy()), poses[:2], settings) for b in (base, again)]
    assert np.array_equal(*made) and not caplog.records
    assert BaseConfig.from_json(again.config.to_json(), "x") == again.config


def test_every_frame_is_a_target_once_and_pairs_share_a_photo(base):
    source, values = source_of(base, (6, 4, 8), each=2)
    draws = [SampleRng.of(5, index) for index in range(18)]
    batch = source.batch(draws)
    rows = [int(torch.nonzero((values == t).flatten(1).all(1))) for t in batch.target]
    photos = [int(torch.nonzero((values == t).flatten(1).all(1))) for t in batch.views.latents]
    assert sorted(rows) == list(range(18)) and len(photos) == 9
    clip_of = np.repeat([0, 1, 2], [6, 4, 8])
    for i, photo in enumerate(photos):
        assert photo not in rows[2 * i : 2 * i + 2]
        assert {clip_of[photo]} == {clip_of[row] for row in rows[2 * i : 2 * i + 2]}
    assert rows != [
        int(torch.nonzero((values == t).flatten(1).all(1)))
        for t in source.batch([SampleRng.of(5, i + 18) for i in range(18)]).target
    ]
    # A sample does not depend on what it is loaded with, also where a pair is divided among two parts.
    apart = [source.batch([draw]) for draw in draws]
    assert torch.equal(torch.cat([part.target for part in apart]), batch.target)
    assert torch.equal(torch.cat([part.views.latents for part in apart])[::2], batch.views.latents)


def test_an_odd_clip_is_filled_up(base):
    source, values = source_of(base, (3, 1), each=2)
    batch = source.batch([SampleRng.of(0, index) for index in range(6)])
    assert len({tuple(t.flatten()[:2].tolist()) for t in batch.target}) == 4 and batch.target.shape[0] == 6


def test_timesteps_are_spread_evenly():
    for start in (0, 16, 160):
        found = np.sort([even_timestep(3, index, 1000) for index in range(start, start + 16)])
        assert np.diff([*found, found[0] + 1000]).max() < 125  # independent ones leave gaps of 200 in most batches
    assert even_timestep(3, 5, 1000) != even_timestep(4, 5, 1000)


def test_the_figure_counts_twice(base, poses):
    pose = poses[:1, 2]
    near = near_figure(pose, 4)
    assert near.shape == (1, 1, 12, 8) and near[0, 0, 0, 4] and not near[0, 0, 11, 7]  # two cells beyond the body
    rate = LoopSettings(steps=100, learning_rate=1.0, batch_size=1, decay=0.4, floor=0.05)
    assert rate.rate(50) == 1.0 and rate.rate(99) < 0.06 and rate.rate(99) > 0.05


def test_keys_and_values_of_a_photo_are_computed_once(base, poses, monkeypatch):
    picture = np.random.default_rng(3).integers(0, 255, (48, 32, 3), dtype=np.uint8)
    settings = RenderSettings.of(base, {"image": 2.0, "pose": 2.0}, steps=3)
    looked_at = []
    layers = [module for name, module in base.unet.named_modules() if name.endswith("attn2.to_k")]
    hooks = [layer.register_forward_hook(lambda *_: looked_at.append(1)) for layer in layers]
    prepared = prepare(base, picture, poses[0, 2].numpy())
    frames = render_batch(base, prepared, poses, settings)
    again = render_batch(base, prepared, poses.flip(0), settings)
    assert len(looked_at) == len(layers)  # three steps, two branches, two batches
    for hook in hooks:
        hook.remove()
    monkeypatch.setattr(code.SurfaceQuery, "__post_init__", lambda self: object.__setattr__(self, "kept", None), raising=False)
    assert np.array_equal(frames, render_batch(base, prepare(base, picture, poses[0, 2].numpy()), poses, settings))
    assert np.array_equal(frames[::-1], again)


def test_frames_follow_all_photos_of_a_subject(base, poses):
    one, other = np.random.default_rng(3).integers(0, 255, (2, 48, 32, 3), dtype=np.uint8)
    first, second = poses[0, 2].numpy(), poses[3, 2].numpy()
    settings = RenderSettings.of(base, {"image": 2.0, "pose": 2.0}, steps=2)

    def latents(*photos):
        return render_latents(base, prepare(base, *photos[0], *photos[1:]), poses, settings)

    alone = latents((one, first))
    # A photo that is there twice has every token twice, which changes no mean: all are looked at, and weighed alike.
    torch.testing.assert_close(latents((one, first), (one, first)), alone, atol=1e-4, rtol=1e-4)
    both = latents((one, first), (other, second))
    assert (both - alone).abs().max() > 1e-2 and (both - latents((other, second))).abs().max() > 1e-2
    torch.testing.assert_close(latents((other, second), (one, first)), both, atol=1e-4, rtol=1e-4)


def test_while_weights_learn_nothing_is_kept(base, poses):
    picture = np.zeros((1, 48, 32, 3), np.uint8)
    reference = base.reference(base.views(picture, poses[:1, 2].numpy()))
    condition = base.condition(reference, poses)
    base.predict(torch.zeros(5, base.latent_channels, *base.latent_size), torch.tensor(500), condition)
    assert condition.kept is None and not reference.kept


def test_attention_is_the_same_whether_weights_learn_or_not():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 12, generator=generator) for n in (5, 7, 7))
    fused = code.attend(query, key, value, heads=3)
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    learning = code.attend(*leaves, heads=3)
    torch.testing.assert_close(learning, fused)
    learning.square().sum().backward()
    expected = [x.clone().requires_grad_() for x in (query, key, value)]
    seen = torch.nn.functional.scaled_dot_product_attention(
        *(x.unflatten(2, (3, 4)).transpose(1, 2) for x in expected)
    )
    seen.square().sum().backward()
    for mine, theirs in zip(leaves, expected, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("block", (1, 40, 100, 300, 10**6))  # a position, several, a frame, two frames, all at once
def test_attention_in_blocks_is_attention(block):
    generator = torch.Generator().manual_seed(1)
    planes = [torch.randn(3, 2, n, 4, generator=generator) for n in (9, 7, 7)]
    found, expected = ([x.clone().requires_grad_() for x in planes] for _ in range(2))
    mine = code.attend_in_blocks(*found, block=block)
    theirs = torch.nn.functional.scaled_dot_product_attention(*expected)
    torch.testing.assert_close(mine, theirs)
    for seen in (mine, theirs):
        seen.square().sum().backward()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
