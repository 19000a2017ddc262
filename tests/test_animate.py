"""The reference-attention family against an independent reference (animate_reference.py), from the published files on."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace as Folders

import numpy as np
import pytest
import torch

import animate_reference as plain
import tiny_hub
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import BaseError, OutputExistsError
from dreampose_cli.inference.joint import decode_frames, denoise_clip
from dreampose_cli.networks.animate.importers import import_animate_anyone, import_magicanimate
from dreampose_cli.networks.animate.settings import MAGICPOSE, AnimateSettings
from dreampose_cli.networks.animate.unet import FrameNorm, clip_norm_count
from dreampose_cli.networks.network import Branch
from dreampose_cli.networks.storage import load_base, save_base
from dreampose_cli.poses.control_picture import VIRIDIS, draw_control_picture, read_control_picture
from dreampose_cli.sampling import context_windows, joint_noise, make_sampler
from footprint import Peak

HEIGHT, WIDTH = 80, 64  # a latent grid of 10 x 8: not a multiple of 8, so that skips and upsampled maps differ in size
FRAMES, WINDOW, OVERLAP, STEPS = 7, 6, 2, 5


def close(ours: torch.Tensor, theirs: torch.Tensor, limit: float = 1e-4) -> bool:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm()) < limit


def repository(folder, name):
    return tiny_hub.build(name, folder)


@pytest.fixture(scope="session")
def sources(tiny_repositories):
    sd = repository(tiny_repositories, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    vae = repository(tiny_repositories, "stabilityai/sd-vae-ft-mse")
    encoder = repository(tiny_repositories, "lambdalabs/sd-image-variations-diffusers") / "image_encoder"
    return {
        "magicanimate": Folders(
            weights=repository(tiny_repositories, "zcxu-eric/MagicAnimate"), stable_diffusion=sd, vae=vae
        ),
        "animate-anyone": Folders(
            weights=repository(tiny_repositories, "patrolli/AnimateAnyone"),
            stable_diffusion=sd,
            vae=vae,
            image_encoder=encoder,
        ),
    }


@pytest.fixture(scope="session")
def bases(sources, tmp_path_factory):
    """Both published models as bases, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMPOSE_CACHE", str(tmp_path_factory.mktemp("animate") / "cache"))
        return {
            "magicanimate": import_magicanimate(user_cache(), **vars(sources["magicanimate"]), name="magicanimate"),
            "animate-anyone": import_animate_anyone(user_cache(), **vars(sources["animate-anyone"]), name="animate-anyone"),
        }


@pytest.fixture(scope="session")
def networks(bases):
    return {name: load_base(folder) for name, folder in bases.items()}


@pytest.fixture(scope="session")
def photo():
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(scope="session")
def labels():
    """Part labels of a clip (N, H, W), in blocks of a few pixels."""
    small = np.random.default_rng(2).integers(0, 25, (FRAMES, HEIGHT // 8, WIDTH // 8))
    return small.repeat(8, 1).repeat(8, 2).astype(np.float32)


def read(path):
    from safetensors.torch import load_file

    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.fixture(scope="session")
def magicanimate(sources, photo):
    """MagicAnimate's tensors as published, and what its authors compute of a photo and the empty prompt."""
    from transformers import CLIPTextModel

    source = sources["magicanimate"]
    encoder = CLIPTextModel.from_pretrained(source.stable_diffusion / "text_encoder")
    last = encoder.config.vocab_size - 1
    with torch.no_grad():
        text = encoder(torch.tensor([[last - 1] + [last] * 76])).last_hidden_state
    return {
        "unet": read(source.stable_diffusion / "unet/diffusion_pytorch_model.safetensors"),
        "motion": read(source.weights / "temporal_attention/temporal_attention.ckpt"),
        "appearance": read(source.weights / "appearance_encoder/diffusion_pytorch_model.safetensors"),
        "control": read(source.weights / "densepose_controlnet/diffusion_pytorch_model.safetensors"),
        "text": text,
        "latents": encode(source, photo),
        "pixels": (lambda latents: decode(source, latents)),
    }


@pytest.fixture(scope="session")
def animate_anyone(sources, photo):
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    source = sources["animate-anyone"]
    files = {name: read(source.weights / f"{name}.pth")
             for name in ("denoising_unet", "reference_unet", "pose_guider", "motion_module")}  # fmt: skip
    encoder = CLIPVisionModelWithProjection.from_pretrained(source.image_encoder)
    processor = CLIPImageProcessorPil.from_pretrained(source.image_encoder.parent / "feature_extractor")
    square = Image.fromarray(photo).resize((224, 224))
    with torch.no_grad():
        image = encoder(**processor(images=square, return_tensors="pt")).image_embeds[:, None]
    return {**files, "image": image, "latents": encode(source, photo)}


def vae(source):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(source.vae).eval()


@torch.no_grad()
def encode(source, photo):
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None] / 127.5 - 1
    return vae(source).encode(pixels).latent_dist.mean * 0.18215


@torch.no_grad()
def decode(source, latents):
    module = vae(source)
    frames = torch.cat([module.decode(frame[None] / 0.18215).sample for frame in latents])
    return ((frames / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255).numpy().astype(np.uint8)


def control(labels):
    return torch.from_numpy(VIRIDIS[labels.astype(int)]).permute(0, 3, 1, 2) / 255


def poses(labels):
    """As pose windows: I, and in place of U and V something that must not matter."""
    return torch.from_numpy(np.stack([labels, labels / 24, 1 - labels / 24], axis=1))[:, None]


def reference_of(network, photo):
    return network.reference(network.views(photo[None]))


# MagicAnimate, stage by stage


@torch.no_grad()
def test_bank(networks, magicanimate, photo):
    network = networks["magicanimate"]
    reference = network.at_timestep(reference_of(network, photo), torch.tensor(321))
    assert close(reference.latents, magicanimate["latents"], 1e-5)
    assert close(reference.tokens, magicanimate["text"], 1e-5)
    written: dict = {}
    plain.unet(magicanimate["appearance"], magicanimate["latents"], 321, magicanimate["text"], write=written)
    read_blocks = [name for name in written if name.startswith(("mid_block", "up_blocks"))]
    assert sorted(reference.bank) == sorted(read_blocks) and len(read_blocks) == 10
    assert all(close(reference.bank[name], written[name], 1e-5) for name in read_blocks)


@torch.no_grad()
def test_pose_residuals(networks, magicanimate, photo, labels):
    network = networks["magicanimate"]
    reference = network.at_timestep(reference_of(network, photo), torch.tensor(321))
    condition = network.condition(reference, poses(labels[:3]))
    latents = torch.randn(3, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    _, ours = network._pose(latents, torch.full((3,), 321), condition)
    theirs = plain.controlnet(magicanimate["control"], latents, 321, magicanimate["text"], control(labels[:3]))
    assert len(ours) == 13 and all(close(a, b, 1e-5) for a, b in zip(ours, theirs, strict=True))


def magicanimate_window(weights, x, t, pictures, bank):
    """The null and the full prediction of one window, in float32 throughout."""
    residuals = plain.controlnet(weights["control"], x, t, weights["text"], pictures)
    same = {"moving": weights["motion"], "over_frames": True, "residuals": residuals}
    null = plain.unet(weights["unet"], x, t, weights["text"], **same)
    return null, plain.unet(weights["unet"], x, t, weights["text"], bank=bank, **same)


def magicanimate_bank(weights, t):
    written: dict = {}
    plain.unet(weights["appearance"], weights["latents"], t, weights["text"], write=written)
    return {name: value for name, value in written.items() if not name.startswith("down_blocks")}


@torch.no_grad()
@pytest.mark.parametrize("in_turn", [False, True])
def test_window(networks, magicanimate, photo, labels, in_turn):
    network = networks["magicanimate"]
    reference = network.at_timestep(reference_of(network, photo), torch.tensor(321))
    condition = network.condition(reference, poses(labels[:WINDOW]))
    latents = torch.randn(WINDOW, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    null, full = condition.drop(True, False), condition
    if in_turn:
        ours = [network.predict(latents, torch.tensor(321), each, reference) for each in (null, full)]
    else:
        both = condition.cat([null, full])
        ours = network.predict(latents.repeat(2, 1, 1, 1), torch.tensor(321), both, reference).chunk(2)
    bank = magicanimate_bank(magicanimate, 321)
    theirs = magicanimate_window(magicanimate, latents, 321, control(labels[:WINDOW]), bank)
    assert all(close(a, b, 2e-5) for a, b in zip(ours, theirs, strict=True))
    assert not close(theirs[0], theirs[1], 1e-2)  # the photo is seen in one of them


@torch.no_grad()
def test_magicanimate_from_noise_to_frames(networks, magicanimate, sources, photo, labels):
    network = networks["magicanimate"]
    noise = joint_noise("tiled", FRAMES, (4, 10, 8), seed=3, period=WINDOW)
    banks: dict[int, dict] = {}

    def predict(x, t, window):
        banks.setdefault(t, magicanimate_bank(magicanimate, t))
        return magicanimate_window(magicanimate, x, t, control(labels[window]), banks[t])

    theirs = plain.denoise(noise, STEPS, 7.5, predict, size=WINDOW, overlap=OVERLAP)
    ours = run(network, photo, labels, noise, guidance=7.5)
    assert close(ours, theirs)
    made = np.stack(list(decode_frames(network, ours)))
    assert np.abs(made.astype(int) - decode(sources["magicanimate"], theirs)).max() <= 1


def run(network, photo, labels, noise, guidance, steps=STEPS, at=None, branches=None, **options):
    windows = context_windows(len(noise), WINDOW, OVERLAP)
    follow = poses if network.config.poses.kind == "densepose" else control
    reference = reference_of(network, photo)
    return denoise_clip(
        network,
        reference if at is None else network.at_timestep(reference, at),
        lambda frames: follow(labels[frames]),
        noise,
        make_sampler("ddim", network.schedule),
        steps,
        branches or network.branches({"image": guidance}),
        windows,
        **options,
    )


# AnimateAnyone


@torch.no_grad()
def test_animate_anyone_from_noise_to_frames(networks, animate_anyone, sources, photo, labels):
    network, weights = networks["animate-anyone"], animate_anyone
    reference = reference_of(network, photo)
    assert close(reference.tokens, weights["image"], 1e-5)
    bank: dict = {}
    plain.unet(weights["reference_unet"], weights["latents"], 0, weights["image"], write=bank)
    assert sorted(reference.bank) == sorted(bank) and len(bank) == 16
    assert all(close(reference.bank[name], bank[name], 1e-5) for name in bank)

    features = plain.pose_features(plain.Weights(weights["pose_guider"]), control(labels))
    assert close(network.condition(reference, control(labels)).pose, features, 1e-5)
    drawn = control(labels)[:, None]  # windows of one drawing, as `tune` and `train` hand them over
    assert close(network.condition(reference, drawn).pose, features, 1e-5)

    def predict(x, t, window):
        same = {"moving": weights["motion_module"], "features": features[window]}
        null = plain.unet(weights["denoising_unet"], x, t, torch.zeros_like(weights["image"]), **same)
        return null, plain.unet(weights["denoising_unet"], x, t, weights["image"], bank=bank, **same)

    noise = joint_noise("independent", FRAMES, (4, 10, 8), seed=3)
    theirs = plain.denoise(noise, STEPS, 3.5, predict, size=WINDOW, overlap=OVERLAP, velocity=True)
    ours = run(network, photo, labels, noise, guidance=3.5)
    assert close(ours, theirs)
    made = np.stack(list(decode_frames(network, ours)))
    assert np.abs(made.astype(int) - decode(sources["animate-anyone"], theirs)).max() <= 1


# What is computed once


@torch.no_grad()
def test_a_photo_is_looked_at_once_or_in_every_step_by_the_schedule(networks, photo, labels, monkeypatch):
    """At timestep zero, once equals every step to the bit; what a reference knows of a step, every later step takes."""
    from dreampose_cli.networks.animate import network as module

    looks = []
    real = module.read_photos
    monkeypatch.setattr(module, "read_photos", lambda unet, x, t, *more: looks.append(int(t[0])) or real(unet, x, t, *more))
    noise = joint_noise("tiled", FRAMES, (4, 10, 8), seed=3, period=WINDOW)
    followed = run(networks["magicanimate"], photo, labels, noise, guidance=2.0, steps=3)
    assert looks == [667, 334, 1]  # for all windows and both halves of the guidance
    looks.clear()
    once = run(networks["magicanimate"], photo, labels, noise, guidance=2.0, steps=3, at=torch.tensor(0))
    assert looks == [0] and not close(once, followed)
    looks.clear()
    network = networks["animate-anyone"]
    once = run(network, photo, labels, noise, guidance=2.0, steps=3)
    assert looks == [0]
    monkeypatch.setattr(network, "at_timestep", lambda reference, t: network._with_bank(reference, torch.tensor(0)))
    assert torch.equal(once, run(network, photo, labels, noise, guidance=2.0, steps=3)) and len(looks) == 1 + 1 + 3


@torch.no_grad()
def test_the_pose_control_is_computed_once_for_both_halves(networks, photo, labels, monkeypatch):
    """Which changes nothing but rounding; and null rows without the pose would not make it less."""
    from dreampose_cli.networks.animate import network as module

    network, rows = networks["magicanimate"], []
    noise = joint_noise("tiled", FRAMES, (4, 10, 8), seed=3, period=WINDOW)
    halves = [Branch(-1.0, drop_image=True, drop_pose=True), Branch(2.0)]
    hook = network.modules["control"].register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        once = run(network, photo, labels, noise, guidance=2.0, steps=1)
        without = run(network, photo, labels, noise, guidance=2.0, steps=1, branches=halves)
        monkeypatch.setattr(module, "_repeats", lambda *_: False)
        twice = run(network, photo, labels, noise, guidance=2.0, steps=1)
    finally:
        hook.remove()
    assert rows == [WINDOW] * 4 + [2 * WINDOW] * 2  # of two windows
    assert close(twice, once, 1e-5) and not close(without, once)


# Conventions


def test_norms_are_counted(networks):
    for name, motion in (("magicanimate", 20), ("animate-anyone", 21)):
        unet = networks[name].unet
        assert sum(isinstance(module, FrameNorm) for module in unet.modules()) == motion
        assert clip_norm_count(unet) == 45
    unet.conv_norm_out = torch.nn.Sequential(unet.conv_norm_out, torch.nn.GroupNorm(1, 32))
    with pytest.raises(ValueError, match="norms lie outside"):
        clip_norm_count(unet)
    unet.conv_norm_out = unet.conv_norm_out[0]


@torch.no_grad()
def test_frames_depend_on_their_window_through_the_norms_of_magicanimate_alone(networks, photo, labels):
    """Without motion, attention within frames is all there is: only statistics over the clip tie frames together."""
    from dreampose_cli.networks.animate.unet import forward

    latents = torch.randn(4, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    for name, together in (("magicanimate", True), ("animate-anyone", False)):
        network = networks[name]
        tokens = reference_of(network, photo).tokens.expand(4, -1, -1)
        appearance = network.modules["appearance"]  # a UNet without motion modules
        banks: list[dict] = [{}, {}]
        for bank, frames in zip(banks, (4, 1), strict=True):
            t = torch.full((len(latents) // frames,), 5)
            forward(appearance, latents, t, tokens, frames=frames, reference=bank, clip_norms=together)
        last = "up_blocks.3.attentions.2.transformer_blocks.0"
        assert close(banks[0][last], banks[1][last], 1e-4) is not together


@torch.no_grad()
def test_a_call_leaves_nothing_behind(networks, photo, labels):
    """Another photo in between changes nothing: the bank is a value."""
    for network in networks.values():
        t, latents = torch.tensor(321), torch.randn(3, 4, 10, 8, generator=torch.Generator().manual_seed(0))

        def predict(picture, network=network, t=t, latents=latents):
            reference = network.at_timestep(reference_of(network, picture), t)
            condition = network.condition(reference, poses(labels[:3]))
            return network.predict(latents, t, condition, reference)

        first, other, again = predict(photo), predict(255 - photo), predict(photo)
        assert torch.equal(first, again) and not torch.equal(first, other)


@torch.no_grad()
def test_rows_of_several_photos_are_those_of_each_alone(networks, photo, labels):
    network, t = networks["magicanimate"], torch.tensor(321)
    pictures = np.stack([photo, 255 - photo])
    latents = torch.randn(6, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    together = network.at_timestep(network.reference(network.views(pictures)), t)
    condition = network.condition(together, poses(np.concatenate([labels[:3], labels[3:6]])))
    mask = torch.tensor([False] * 3 + [True] * 3)
    ours = network.predict(latents, t, condition.drop(mask, mask), together)
    for clip, (picture, dropped) in enumerate(zip(pictures, (False, True), strict=True)):
        rows = slice(3 * clip, 3 * clip + 3)
        alone = network.at_timestep(reference_of(network, picture), t)
        single = network.condition(alone, poses(labels[rows])).drop(dropped, dropped)
        assert close(ours[rows], network.predict(latents[rows], t, single, alone), 1e-5)


@torch.no_grad()
def test_null_is_defined_once(networks, photo, labels):
    for name, network in networks.items():
        reference = network.at_timestep(reference_of(network, photo), torch.tensor(9))
        condition = network.condition(reference, poses(labels[:2]))
        null = condition.drop(image=True, pose=False)
        assert not null.sees_photo.any() and null.sees_pose.all()
        assert bool((null.tokens == 0).all()) is (name == "animate-anyone")
        assert torch.equal(condition.drop(False, False).tokens, condition.tokens)
        latents = torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
        other = network.condition(reference, poses(labels[2:4]))
        unposed = [
            network.predict(latents, torch.tensor(9), c.drop(False, True), reference) for c in (condition, other)
        ]
        assert torch.equal(*unposed)


@torch.no_grad()
def test_guidance_of_one_computes_the_full_branch_alone(networks, photo, labels):
    network = networks["magicanimate"]
    rows = []
    original = network.predict
    network.predict = lambda latents, *rest: rows.append(len(latents)) or original(latents, *rest)
    try:
        noise = joint_noise("tiled", FRAMES, (4, 10, 8), 3, WINDOW)
        single = run(network, photo, labels, noise, guidance=1.0, steps=1)
        assert set(rows) == {WINDOW}
        turns = [run(network, photo, labels, noise, guidance=2.0, steps=1, in_turn=turn) for turn in (False, True)]
        assert close(*turns, 1e-5) and not close(single, turns[0], 1e-4)
        assert set(rows) == {WINDOW, 2 * WINDOW}
    finally:
        del network.predict


@torch.no_grad()
def test_magicpose_conventions(networks, photo, labels):
    """Frame by frame, no motion modules, every block reads, and null rows are plain Stable Diffusion."""
    from dreampose_cli.networks.animate.modules import plain_config
    from dreampose_cli.networks.animate.network import AnimateNetwork

    published = networks["magicanimate"]
    unet = type(published.modules["appearance"]).from_config(plain_config(published.unet))
    tiny_hub.randomise(unet, 5)
    config = dataclasses.replace(published.config, network=MAGICPOSE)
    network = AnimateNetwork(config, {**published.modules, "unet": unet}, {}, published.schedule)
    try:
        branches = network.branches({"image": 7.0})
        assert [(b.weight, b.drop_image, b.drop_pose) for b in branches] == [(-6.0, True, True), (7.0, False, False)]
        t, latents = torch.tensor(9), torch.randn(1, 4, 10, 8, generator=torch.Generator().manual_seed(0))
        reference = network.at_timestep(reference_of(network, photo), t)
        assert len(reference.bank) == 16
        condition = network.condition(reference, poses(labels[:1]))
        null = network.predict(latents, t, condition.drop(True, True), reference)
        assert close(null, plain.unet(unet.state_dict(), latents, 9, reference.tokens), 1e-5)
        full = network.predict(latents, t, condition, reference)
        residuals = plain.controlnet(
            network.modules["control"].state_dict(), latents, 9, reference.tokens, condition.pose
        )
        theirs = plain.unet(unet.state_dict(), latents, 9, reference.tokens, bank=reference.bank, residuals=residuals)
        assert close(full, theirs, 1e-5)
    finally:
        AnimateNetwork(
            published.config, published.modules, {}, published.schedule
        )  # its appearance network writes 10 again


def test_control_pictures_as_they_are(networks, photo, labels):
    network = networks["magicanimate"]
    reference = reference_of(network, photo)
    drawn, given = network.condition(reference, poses(labels)), network.condition(reference, control(labels))
    assert torch.allclose(drawn.pose, given.pose)


def test_settings_refuse_what_makes_no_sense():
    for wrong in (
        {"noise": "pink"},
        {"window": 4, "overlap": 4},
        {"window": 25},
        {"pad_to": 0},
        {"fused_blocks": "up"},
    ):
        with pytest.raises(ValueError):
            AnimateSettings(**wrong)


# Windows and noise


def test_context_windows():
    assert context_windows(16, 16, 4) == [list(range(16))]
    assert context_windows(5, 16, 4) == [list(range(5))]
    assert context_windows(32, 16, 4)[-1] == [(24 + k) % 32 for k in range(16)]
    for frames in (17, 20, 33, 47, 199):
        for size, overlap in ((16, 4), (24, 0), (12, 4), (1, 0)):
            closed = context_windows(frames, size, overlap)
            assert closed == plain.windows(frames, size, overlap)
            opened = context_windows(frames, size, overlap, closed=False)
            assert {frame for window in opened for frame in window} == set(range(frames))
            assert all(window == list(range(window[0], window[0] + min(size, frames))) for window in opened)
            assert len(opened) == len({window[0] for window in opened})


def test_three_rules_of_noise():
    tiled = joint_noise("tiled", 8, (4, 3, 2), seed=1, period=3)
    assert torch.equal(tiled[0], tiled[3]) and torch.equal(tiled[1], tiled[7]) and not torch.equal(tiled[0], tiled[1])
    shared = joint_noise("shared", 4, (4, 3, 2), seed=1)
    assert torch.equal(shared[0], shared[3])
    drawn = torch.randn((1, 4, 5, 3, 2), generator=torch.Generator().manual_seed(7))
    assert torch.equal(joint_noise("independent", 5, (4, 3, 2), seed=7), drawn[0].transpose(0, 1))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip_but_for_latents(networks, photo):
    """Bytes alive at the peak of one step and of the decode, counted tensor by tensor."""
    network = networks["magicanimate"]
    reference = reference_of(network, np.tile(photo, (1, 2, 1))[:16, :80])
    picture = torch.zeros(1, 1, 3, 16, 80)

    def peak(frames):
        noise = joint_noise("tiled", frames, (4, 2, 10), 3, 16)
        windows = context_windows(frames, 16, 4)
        before = [*network.modules.values(), noise, reference.latents, reference.tokens, picture]
        with Peak(*before) as counted:
            latents = denoise_clip(network, reference, lambda rows: picture.expand(len(rows), -1, -1, -1, -1), noise,
                                   make_sampler("ddim", network.schedule), 1, network.branches({"image": 7.5}),
                                   windows)  # fmt: skip
            for _ in decode_frames(network, latents):
                pass
        return counted.bytes, noise.nbytes

    (short, little), (long, much) = peak(64), peak(1000)
    # Latents before, during and after the step of the sampler, and the sum of predictions.
    assert long - short <= 8 * (much - little)
    assert short > 40 * little  # or it would not show anything


# Import


@pytest.mark.parametrize("prefix", ["", "module.", "unet.", "module.unet."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_prefixes_of_motion_modules(sources, bases, tmp_path, prefix, wrapped):
    from dreampose_cli.networks.animate.importers import motion_weights

    tiny_hub.magicanimate(tmp_path / "weights", prefix=prefix, wrapped=wrapped)
    found = motion_weights(tmp_path / "weights/temporal_attention/temporal_attention.ckpt", print)
    expected = read(bases["magicanimate"] / "unet/diffusion_pytorch_model.safetensors")
    assert found.keys() == {name for name in expected if "motion_modules" in name} and len(found) == 540
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def change(path, edit):
    state = read(path)
    edit(state)
    tiny_hub.write_weights(path, state)


def copied(source, folder):
    import shutil

    shutil.copytree(source.weights, folder / "weights")
    return Folders(**vars(source) | {"weights": folder / "weights"})


KEY = "up_blocks.1.motion_modules.2.temporal_transformer.proj_in.weight"


@pytest.mark.parametrize(
    ("kind", "file", "edit", "said"),
    [
        ("magicanimate", "temporal_attention/temporal_attention.ckpt", lambda s: s.pop(KEY), "1 missing (up_blocks.1.mot"),
        ("animate-anyone", "motion_module.pth", lambda s: s.pop(KEY), "1 missing (up_blocks.1.motion_modules.2.proj_in"),
        ("magicanimate", "temporal_attention/temporal_attention.ckpt",
         lambda s: s.update({"down_blocks.9.motion_modules.0.x": torch.ones(1)}), "1 surplus (down_blocks.9"),
        ("magicanimate", "appearance_encoder/diffusion_pytorch_model.safetensors",
         lambda s: s.update({"conv_out.weight": torch.ones(1)}), "1 surplus (conv_out.weight)"),
        ("animate-anyone", "reference_unet.pth", lambda s: s.pop("up_blocks.3.attentions.2.proj_out.weight"), "1 missing"),
        ("animate-anyone", "pose_guider.pth", lambda s: s.update({"conv_out.bias": torch.ones(7)}), "of another shape"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(sources, tmp_path, cache, kind, file, edit, said):
    source = copied(sources[kind], tmp_path)
    change(source.weights / file, edit)
    importer = {"magicanimate": import_magicanimate, "animate-anyone": import_animate_anyone}[kind]
    with pytest.raises(BaseError) as caught:
        importer(**vars(source), name="wrong", cache=user_cache())
    assert said in str(caught.value) and not (cache / "bases" / "wrong").exists()


def test_what_else_an_import_refuses(sources, tmp_path):
    source = sources["animate-anyone"]
    tiny_hub.write_vision_encoder(tmp_path / "wide", 1, file="model.safetensors", projection=48)
    with pytest.raises(BaseError, match="48 wide"):
        import_animate_anyone(user_cache(), **vars(source) | {"image_encoder": tmp_path / "wide"}, name="anyone")
    magic = copied(sources["magicanimate"], tmp_path)
    config = magic.weights / "appearance_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_head_dim": 4}))
    with pytest.raises(BaseError, match="attention_head_dim 4"):
        import_magicanimate(user_cache(), **vars(magic), name="magic")
    with pytest.raises(BaseError, match="appearance_encoder has no config.json"):
        import_magicanimate(user_cache(), **vars(magic) | {"weights": source.weights}, name="magic")


def test_a_checkpoint_without_motion_modules_is_said(sources, tmp_path):
    source = copied(sources["magicanimate"], tmp_path)
    tiny_hub.write_weights(source.weights / "temporal_attention/temporal_attention.ckpt", {"conv_in.bias": torch.ones(32)})
    with pytest.raises(BaseError, match="holds no motion modules .*without them a video flickers"):
        import_magicanimate(user_cache(), **vars(source), name="still")


def test_a_text_encoder_of_another_width_is_said(sources, tmp_path):
    import shutil

    from transformers import CLIPTextConfig, CLIPTextModel

    source = sources["magicanimate"]
    shutil.copytree(source.stable_diffusion, tmp_path / "sd")
    config = json.loads((tmp_path / "sd/text_encoder/config.json").read_text())
    wide = CLIPTextConfig(**{**config, "hidden_size": 48, "num_attention_heads": 4})
    shutil.rmtree(tmp_path / "sd/text_encoder")
    CLIPTextModel(wide).save_pretrained(tmp_path / "sd/text_encoder")
    with pytest.raises(BaseError, match="width 32, but those of .*text_encoder are 48 wide"):
        import_magicanimate(user_cache(), **vars(source) | {"stable_diffusion": tmp_path / "sd"}, name="wide")


def test_too_little_disk_for_an_import_is_said_before_anything_is_written(sources, monkeypatch, cache):
    from collections import namedtuple

    from dreampose_cli.networks import importing

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(BaseError, match="GB free; make room, or set DREAMPOSE_CACHE"):
        import_magicanimate(user_cache(), **vars(sources["magicanimate"]), name="full")
    assert not (cache / "bases" / "full").exists()


def test_an_import_is_not_overwritten_unasked(sources):
    import_magicanimate(user_cache(), **vars(sources["magicanimate"]), name="people")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        import_magicanimate(user_cache(), **vars(sources["magicanimate"]), name="people")
    import_magicanimate(user_cache(), **vars(sources["magicanimate"]), name="people", overwrite=True)


def test_weights_outside_of_motion_are_said_and_left_out(sources, tmp_path):
    source = copied(sources["magicanimate"], tmp_path)
    change(
        source.weights / "temporal_attention/temporal_attention.ckpt",
        lambda s: s.update({"conv_in.bias": torch.ones(32)}),
    )
    notes: list[str] = []
    import_magicanimate(user_cache(), **vars(source), name="more", note=notes.append)
    assert any("1 weights that are not of motion modules" in note and "conv_in.bias" in note for note in notes)


def test_a_denoising_unet_is_completed_by_stable_diffusion(sources, tmp_path):
    source = copied(sources["animate-anyone"], tmp_path)
    change(source.weights / "denoising_unet.pth", lambda s: s.pop("conv_in.bias"))
    notes: list[str] = []
    base = load_base(import_animate_anyone(user_cache(), **vars(source), name="mixed", note=notes.append))
    own = read(source.stable_diffusion / "unet/diffusion_pytorch_model.safetensors")
    assert torch.equal(base.unet.conv_in.bias, own["conv_in.bias"])
    assert any("1 of 686 weights" in note for note in notes)


def test_a_base_is_saved_and_loaded_as_any_other(networks, tmp_path):
    for name, network in networks.items():
        (tmp_path / name).mkdir()
        again = load_base(save_base(network, tmp_path / name))
        assert again.config == network.config and again.schedule == network.schedule
        for part, module in network.modules.items():
            state = again.modules[part].state_dict()
            assert state.keys() == module.state_dict().keys()
            assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


# Pictures


def test_control_picture_from_labels_and_back(labels):
    frame = np.stack([labels[0], labels[0] * 0, labels[0] * 0])
    frame[0, :8], frame[0, -8:], frame[0, :, :8], frame[0, :, -8:] = 0, 0, 0, 0
    picture = draw_control_picture(frame)
    assert picture.dtype == np.uint8 and tuple(picture[0, 0]) == (68, 1, 84)
    noisy = np.clip(picture.astype(int) + np.random.default_rng(0).integers(-2, 3, picture.shape), 0, 255)
    assert np.array_equal(read_control_picture(picture), frame[0])
    assert np.array_equal(read_control_picture(noisy.astype(np.uint8)), frame[0])
    assert read_control_picture(np.zeros_like(picture)) is None  # DensePose on black: another palette
    assert read_control_picture(np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)) is None


def test_the_map_is_matplotlibs():
    """A few entries of the map by its definition: int(I * 255 / 24)."""
    assert VIRIDIS.shape == (25, 3) and len({tuple(colour) for colour in VIRIDIS}) == 25
    assert tuple(VIRIDIS[24]) == (253, 231, 37) and tuple(VIRIDIS[12]) == (33, 144, 141)
