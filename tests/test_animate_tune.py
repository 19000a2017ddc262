"""`tune` and `render --subject` on bases of the reference-attention family, as typed, at tiny size."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny_hub
from dreampose_cli.__main__ import main
from dreampose_cli.cache import user_cache
from dreampose_cli.networks.animate.unet import forward
from dreampose_cli.networks.storage import load_base

SD, VAE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/sd-vae-ft-mse"
ENCODER = "lambdalabs/sd-image-variations-diffusers"
SMALL = {"magic": [64, 64], "anyone": [80, 64]}


@pytest.fixture(scope="module")
def home(tiny_repositories, tmp_path_factory):
    """A cache with both bases at a small resolution."""
    names = (SD, VAE, "zcxu-eric/MagicAnimate", "patrolli/AnimateAnyone", ENCODER)
    found = {name: tiny_hub.build(name, tiny_repositories) for name in names}
    home = tmp_path_factory.mktemp("animate-tune") / "cache"
    common = ["--stable-diffusion", str(found[SD]), "--vae", str(found[VAE]), "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMPOSE_CACHE", str(home))
        magic = [str(found["zcxu-eric/MagicAnimate"]), "--kind", "magicanimate", "--name", "magic"]
        anyone = [str(found["patrolli/AnimateAnyone"]), "--kind", "animate-anyone", "--name", "anyone"]
        assert main(["base", "import", *magic, *common]) == 0
        assert main(["base", "import", *anyone, *common, "--image-encoder", str(found[ENCODER] / "image_encoder")]) == 0
        for name, size in SMALL.items():
            file = home / "bases" / name / "base.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"resolution": size}))
    return home


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    monkeypatch.setenv("DREAMPOSE_CACHE", str(home))
    random = np.random.default_rng(4)
    Image.fromarray(random.integers(0, 256, (90, 70, 3), np.uint8)).save(tmp_path / "photo.png")
    labels = random.integers(1, 25, (9, 7)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    for name, frames in (("pose", 1), ("dance", 3)):
        (tmp_path / name).mkdir()
        for i in range(frames):
            frame = np.roll(labels, 10 * i, 1)
            Image.fromarray(np.dstack([frame, frame * 9, frame * 5])).save(tmp_path / name / f"{i:05d}.png")
    person = {"pose_keypoints_2d": [v for i in range(18) for v in (5 + 3 * i, 8 + 5 * (i % 9), 0.9)]}
    document = {"people": [person], "canvas_width": 70, "canvas_height": 90}
    (tmp_path / "pose.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path


def tune(here, base, pose, *words):
    command = ["tune", str(here / "photo.png"), "--base", base, "--poses", str(here / pose), "--device", "cpu", "-q"]
    return main([*command, *(words or ["--steps", "4", "--decoder-steps", "3", "--lora-rank", "2"])])


def pictures(folder):
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])


@pytest.mark.parametrize(("base", "pose", "dance"), [("magic", "pose", "dance"), ("anyone", "pose.json", "pose.json")])
def test_a_subject_is_low_rank_and_renders_through_the_same_path(here, capsys, base, pose, dance):
    assert tune(here, base, pose) == 0
    subject = user_cache().find_subject(capsys.readouterr().out.strip())
    learned = {name: load_file(subject.path / f"{name}.safetensors") for name in ("unet", "appearance", "vae.decoder")}
    for name in ("unet", "appearance"):
        layers = {re.sub(r"\.lora_[AB]\.weight$", "", key) for key in learned[name]}
        assert layers and all(re.search(r"\.attentions\..*\.to_(q|k|v|out\.0)$", layer) for layer in layers)
        assert not any("motion_modules" in layer for layer in layers)
    for tensors in learned.values():
        assert all(tensor.shape[0] == 2 or tensor.flatten(1).shape[1] == 2 for tensor in tensors.values())
        assert any(tensor.any() for key, tensor in tensors.items() if ".lora_B." in key)
    assert sum(file.stat().st_size for file in subject.path.iterdir()) < 600_000

    words = ["--poses", str(here / dance), "--steps", "2", "--seed", "1", "--device", "cpu", "--dtype", "float32", "-q"]
    assert main(["render", "--subject", subject.id, *words, "-o", f"{here / 'tuned'}/"]) == 0
    assert main(["render", "--base", base, "--photo", str(here / "photo.png"), *words, "-o", f"{here / 'plain'}/"]) == 0
    tuned, plain = pictures(here / "tuned"), pictures(here / "plain")
    assert tuned.shape == plain.shape and not np.array_equal(tuned, plain)


def test_all_weights_are_not_tuned(here, capsys):
    assert tune(here, "magic", "pose", "--lora-rank", "0") == 2
    assert "tuned in low rank only" in capsys.readouterr().err


def test_a_picture_passes_the_motion_modules_by(home):
    unet = load_base(home / "bases" / "magic").modules["unet"]
    latents, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, 5, unet.config.cross_attention_dim)
    with torch.no_grad():
        before = forward(unet, latents, torch.tensor([10]), tokens)
        for name, parameter in unet.named_parameters():
            if "motion_modules" in name:
                parameter.mul_(3)
        assert torch.equal(forward(unet, latents, torch.tensor([10]), tokens), before)


def test_checkpointing_changes_no_gradient(home):
    gradients = []
    for twice in (False, True):
        network = load_base(home / "bases" / "magic")
        network.checkpoint_activations(twice)
        unet = network.learn(("unet",))["unet"]
        torch.manual_seed(0)
        latents, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 5, unet.config.cross_attention_dim)
        forward(unet, latents, torch.tensor([10]), tokens, frames=2, clip_norms=True).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
