"""`train --preset fusion`: appearance, pose control and motion, from clips to a rendered video, at tiny size."""

from __future__ import annotations

import dataclasses
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny_hub
from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.bases.config import read_config
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import BaseError, TrainingError, UsageError
from dreampose_cli.networks.animate import presets
from dreampose_cli.networks.storage import load_base
from dreampose_cli.poses.keypoint_files import KeypointWriter
from dreampose_cli.poses.keypoints import POINTS
from dreampose_cli.poses.skeleton_picture import draw_skeleton
from dreampose_cli.training.denoising import Batch, DenoisingTask, Dropout
from dreampose_cli.training.frames import Clip, FrameDataset, pose_kind, prepare_frames
from dreampose_cli.training.identities import content_mark
from dreampose_cli.training.loop import LoopSettings, SampleRng
from dreampose_cli.training.sources import ClipSource
from dreampose_cli.workflows import train as phase1
from dreampose_cli.workflows.options import TrainOptions
from test_keypoints import fake_rtmlib

SD, OPENPOSE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "lllyasviel/control_v11p_sd15_openpose"
SIZE = (48, 32)
QUICK = ["--max-steps", "2", "--batch-size", "2", "--device", "cpu", "--prepare-workers", "1", "-q"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The small network at the size of the tiny clips, two steps of sampling."""
    sampling = dataclasses.replace(presets.SMALL.sampling, steps=2)
    monkeypatch.setattr(presets, "SMALL", dataclasses.replace(presets.SMALL, resolution=SIZE, sampling=sampling))
    sampling = dataclasses.replace(presets.PEOPLE.sampling, steps=2)
    monkeypatch.setattr(presets, "PEOPLE", dataclasses.replace(presets.PEOPLE, sampling=sampling))


@pytest.fixture(scope="module")
def few(clips, tmp_path_factory):
    """Two of the clips, one of them for testing, each the first of its split."""
    folder = tmp_path_factory.mktemp("few") / "data"
    for split in ("train", "test"):
        shutil.copytree(next((clips / split).iterdir()), folder / split / "clip-1")
    return folder


def weights(folder, stage):
    newest = sorted((folder / "checkpoints" / stage).glob("step-*"))[-1]
    return load_file(newest / "weights.safetensors")


def same(checkpoint, base, tolerance=1e-3):
    """Whether every weight of a checkpoint is in the base, which keeps halves."""
    found = {f"{name}.{key}": value for name, part in base.modules.items() for key, value in part.state_dict().items()}
    return all(torch.allclose(found[key], value, atol=tolerance, rtol=tolerance) for key, value in checkpoint.items())


def test_from_clips_to_a_video_stage_by_stage(few, clip, tiny_base, tmp_path, capsys):
    """Each stage moves its own weights alone, one at a time as well as all of them; the base renders at once."""
    out = tmp_path / "retarget"
    command = ["train", str(few), "-o", str(out), "--preset", "fusion", "--vae", str(tiny_base), "--learning-rate", "0.01"]
    assert main([*command, *QUICK, "--stage", "appearance"]) == 0
    assert not (out / "base.json").exists()
    first = weights(out, "appearance")
    assert {key.partition(".")[0] for key in first} == {"unet", "appearance"}
    fresh = presets.build(0, presets.SMALL)
    for name in ("unet", "appearance"):
        assert not torch.allclose(first[f"{name}.conv_in.weight"], fresh.modules[name].conv_in.weight, atol=1e-3)
    assert main([*command, *QUICK, "--resume"]) == 0
    base = load_base(out)
    assert same(first, base) and same(weights(out, "control"), base)
    assert {key.partition(".")[0] for key in weights(out, "control")} == {"control"}
    # it began as a copy of what the UNet had become, and said nothing until it learned
    copied = base.modules["control"].conv_in.weight
    assert torch.allclose(copied, base.unet.conv_in.weight, atol=0.05) and not torch.equal(copied, base.unet.conv_in.weight)
    assert base.modules["control"].controlnet_mid_block.weight.any()
    assert torch.equal(base.vae.decoder.conv_in.weight, load_base(tiny_base).vae.decoder.conv_in.weight.half().float())
    assert base.settings.motion_modules == 0 and not base.settings.null_sees_pose
    assert sorted(p.name for p in (out / "validation").iterdir()) == ["appearance", "control"]
    assert base.config.provenance["trained_on"] == [content_mark(few / "train" / "clip-1" / "frames")]
    assert list(base.config.provenance["stages"]) == ["appearance", "control"] and base.config.provenance["samples"] == 8
    assert main([*command, *QUICK, "--resume", "--stage", "motion", "--frames", "4"]) == 0
    moving = load_base(out)
    assert moving.settings.motion_modules == 9 and moving.context.size == 4 and same(first, moving)
    learned = weights(out, "motion")
    assert all(".motion_modules." in key for key in learned) and same(learned, moving)
    assert any(value.any() for key, value in learned.items() if key.endswith("proj_out.weight"))
    capsys.readouterr()
    photo, video = clip / "frames" / "00000.png", tmp_path / "out.mp4"
    words = ["render", "--photo", photo, "--poses", clip / "video.poses", "--base", out, "-o", video, "--device", "cpu", "-q"]
    assert main([str(word) for word in words]) == 0
    with media.open_frames(video) as frames:
        assert len(list(frames)) == 8


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(few, tiny_base, tmp_path):
    how = {"preset": "fusion", "vae": str(tiny_base), "max_steps": 3, "save_every": 2, "batch_size": 2, "device": "cpu"}
    how |= {"stages": ["appearance", "control", "motion"], "frames": 3}

    class Killed(Exception):
        pass

    phase1.train(TrainOptions(few, tmp_path / "whole", **how))
    for stage in ("appearance", "motion"):

        def kill(done, total=None, text="", stage=stage):
            if text.startswith(f"{stage}, loss") and done == 3:
                raise Killed

        with pytest.raises(Killed):
            phase1.train(TrainOptions(few, tmp_path / "cut", resume=True, **how), progress=kill)
    phase1.train(TrainOptions(few, tmp_path / "cut", resume=True, **how))
    for stage in ("appearance", "control", "motion"):
        whole, cut = weights(tmp_path / "whole", stage), weights(tmp_path / "cut", stage)
        assert whole.keys() == cut.keys() and all(torch.equal(value, cut[key]) for key, value in whole.items()), stage
    notes = []
    assert phase1.train(TrainOptions(few, tmp_path / "cut", resume=True, **how), note=notes.append).finished
    assert "finished already" in notes[-1]


@pytest.fixture(scope="module")
def diffusion(tiny_repositories):
    return tiny_hub.build(SD, tiny_repositories), tiny_hub.build(OPENPOSE, tiny_repositories)


def test_from_a_stable_diffusion_and_a_controlnet(few, clip, diffusion, tmp_path, capsys):
    sd, control = diffusion
    out = tmp_path / "people"
    command = ["train", few, "-o", out, "--preset", "fusion", "--base", sd, "--control", control, "--null-pose", "keep"]
    quick = ["--max-steps", "1", "--batch-size", "1", "--device", "cpu", "--prepare-workers", "1", "-q"]
    assert main([str(word) for word in command] + quick) == 0, capsys.readouterr().err
    base = load_base(out)
    assert base.config.resolution == (64, 64) and base.settings.null_sees_pose and base.settings.prompt_tokens == 77
    assert base.config.provenance["from"]["control"] == "control_v11p_sd15_openpose"
    assert "OpenRAIL" in base.config.provenance["licence"] and str(tmp_path) not in (out / "base.json").read_text()
    # appearance and UNet began as the same weights, the control as what was given
    given = load_file(control / "diffusion_pytorch_model.safetensors")
    assert torch.allclose(base.modules["control"].conv_in.weight, given["conv_in.weight"], atol=1e-3)
    ours, theirs = base.unet.conv_in.weight, base.modules["appearance"].conv_in.weight
    assert torch.allclose(ours, theirs, atol=1e-3)
    photo, picture = clip / "frames" / "00000.png", tmp_path / "out.png"
    shutil.copytree(clip / "frames", tmp_path / "poses")
    labels = np.zeros((48, 32, 3), np.uint8)
    labels[8:40, 8:24] = 2
    from PIL import Image

    shutil.rmtree(tmp_path / "poses")
    (tmp_path / "poses").mkdir()
    Image.fromarray(labels).save(tmp_path / "poses" / "00000.png")
    words = ["render", "--photo", photo, "--poses", tmp_path / "poses", "--base", out, "-o", picture, "--device", "cpu", "-q"]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    assert picture.exists()
    # and it is a base like any other: its control alone is trained further, with what came before in it
    more = ["train", few, "-o", tmp_path / "more", "--preset", "fusion", "--base", out, "--stage", "control"]
    assert main([str(word) for word in more] + quick) == 0, capsys.readouterr().err
    assert [p.name for p in (tmp_path / "more" / "checkpoints").iterdir()] == ["control"]


def test_a_base_has_the_size_that_is_asked_for(few, clip, tiny_base, tmp_path):
    words = ["--preset", "fusion", "--vae", str(tiny_base), "--size", "48x64", "--max-steps", "1", "-q"]
    assert main(["train", str(few), "-o", str(tmp_path / "base"), *words]) == 0
    assert read_config(tmp_path / "base").resolution == (64, 48)
    render = ["render", "--photo", str(clip / "frames" / "00000.png"), "--base", str(tmp_path / "base"), "--steps", "1"]
    assert main([*render, "--poses", str(clip / "video.poses"), "--end", "0.05", "-o", str(tmp_path / "out.png"), "-q"]) == 0
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size[1] == 64  # the photo is a little narrower than the base


def test_a_stable_diffusion_takes_the_size_that_is_asked_for(diffusion):
    sd, control = map(str, diffusion)
    asked = presets.OVERRIDES["--size"](presets.PEOPLE, (192, 128))
    assert presets.from_stable_diffusion(sd, control, asked, None, None).config.resolution == (192, 128)
    with pytest.raises(UsageError, match="96x128, but width and height must be multiples of 64"):
        presets.OVERRIDES["--size"](presets.PEOPLE, (128, 96))


def test_keypoints_next_to_the_clips_are_drawn_and_followed(few, tiny_base, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "retarget"
    shutil.copytree(few, data)
    person = np.zeros((8, POINTS, 3), np.float32)
    person[:, :18] = [(6 + 5 * (i % 5), 4 + 2.2 * i, 0.9) for i in range(18)]
    person[:, :, 0] += np.arange(8)[:, None] * (person[:, :, 2] > 0)
    for split in ("train", "test"):
        with KeypointWriter(data / split / "clip-1" / "video.poses", SIZE, 12.0, source="a test", estimator="dwpose") as file:
            for frame in person:
                file.append(frame)
    command = ["train", str(data), "-o", str(out), "--preset", "fusion", "--vae", str(tiny_base), *QUICK]
    assert main(command) == 0, capsys.readouterr().err
    config = read_config(out)
    assert (config.poses.kind, config.estimator, config.people) == ("keypoints", "dwpose", "mannequins")
    frames = prepare_frames(user_cache(), data, SIZE, kind="keypoints")
    drawn = draw_skeleton(person[3], SIZE)
    assert drawn.any() and np.allclose(frames.pose([3])[0], drawn.transpose(2, 0, 1) / 255.0)
    photo, picture = data / "test/clip-1/frames/00000.png", tmp_path / "out.mp4"
    words = ["render", "--photo", photo, "--poses", data / "test/clip-1/video.poses", "--base", out, "-o", picture, "-q"]
    assert main([str(word) for word in [*words, "--device", "cpu"]]) == 0, capsys.readouterr().err
    notes = []
    how = {"preset": "fusion", "base": str(out), "device": "cpu", "max_steps": 1}
    with pytest.raises(TrainingError, match="none of the training clips can be used"):
        phase1.train(TrainOptions(few, tmp_path / "more", **how), note=notes.append)
    assert any("holds DensePose, and this base follows keypoints" in note for note in notes)


def test_keypoints_are_estimated_where_no_file_has_them(few, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(few, data, ignore=shutil.ignore_patterns("*.poses"))
    points = np.zeros((134, 2))
    points[:18] = [(6 + 5 * (i % 5), 4 + 2.2 * i) for i in range(18)]
    monkeypatch.setitem(sys.modules, "rtmlib", fake_rtmlib([(points, 0.9)]))
    assert (pose_kind(data, "dwpose"), pose_kind(data)) == ("keypoints", "densepose")
    frames = prepare_frames(user_cache(), data, SIZE, kind="keypoints", estimator="dwpose")
    assert len(frames.clips) == 2 and frames.kind == "keypoints" and all(frames.pose([row]).any() for row in (0, 15))


def test_a_sample_of_motion_is_a_clip_with_one_timestep():
    network = presets.build(0, presets.SMALL).entering("motion", 3, 0)
    pictures = np.zeros((11, *SIZE, 3), np.uint8)
    poses = np.zeros((11, 3, *SIZE), np.uint8)
    poses[:, 0] = np.arange(11)[:, None, None]
    clips = [Clip("short", "train", 0, 3, 12.0), Clip("photos", "train", 3, 8, 12.0, False), Clip("long", "train", 3, 8, 12.0)]
    latents = torch.arange(11.0)[:, None, None, None].expand(11, 8, 12, 8)
    notes = []
    source = ClipSource(
        network, FrameDataset(None, pictures, poses, clips), clips, lambda rows: latents[rows], size=3, stride=2,
        note=notes.append,
    )  # fmt: skip
    assert notes == ["2 clips left out of the motion (short, photos): no 5 frames in their order."]
    task = DenoisingTask(network, source, network.stages[-1].modules, Dropout(0, 0, 0))
    batch, sample = task.load([SampleRng.of(0, i) for i in range(4)])
    starts = batch.target[:, 0, 0, 0].view(4, 3)
    assert sorted(starts[:, 0].tolist()) == [3, 4, 5, 6]  # every place once in an epoch
    assert torch.equal(starts - starts[:, :1], torch.tensor([[0.0, 2.0, 4.0]] * 4))
    assert torch.equal(batch.windows[:, 0, 0, 0, 0], batch.target[:, 0, 0, 0])
    assert sample.noise.shape == (12, 8, 12, 8) and sample.timesteps.shape == (4,) and len(batch.views) == 4
    loss = task.loss((batch, sample), 0, LoopSettings(steps=1, learning_rate=1, batch_size=4))
    loss.backward()
    moved = [name for name, p in network.unet.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved and all(".motion_modules." in name and ".proj_out." in name for name in moved)  # the rest is behind zeros
    with pytest.raises(TrainingError, match="none of the 3 training clips is long enough for 9 frames.*longest has 8"):
        ClipSource(network, source.frames, clips, source.latents, size=9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["magicanimate", "animate-anyone"])
def test_published_bases_learn_stage_by_stage_too(tiny_repositories, tmp_path, kind):
    """Whatever a member's pose input, tokens and norms are, a stage's gradients reach its own modules, and no others."""
    repo = {"magicanimate": "zcxu-eric/MagicAnimate", "animate-anyone": "patrolli/AnimateAnyone"}[kind]
    names = {"stable-diffusion": SD, "vae": "stabilityai/sd-vae-ft-mse"}
    found = {option: str(tiny_hub.build(name, tiny_repositories)) for option, name in names.items()}
    if kind == "animate-anyone":
        encoder = tiny_hub.build("lambdalabs/sd-image-variations-diffusers", tiny_repositories)
        found["image-encoder"] = str(encoder / "image_encoder")
    words = [word for option, folder in found.items() for word in (f"--{option}", folder)]
    source = str(tiny_hub.build(repo, tiny_repositories))
    assert main(["base", "import", source, "--kind", kind, "--name", "member", "-q", *words]) == 0
    network = load_base(user_cache().root / "bases" / "member")
    network.config = dataclasses.replace(network.config, resolution=(64, 64))
    shape = (network.latent_channels, *network.latent_size)

    class Some:
        def __init__(self, frames):
            self.frames = frames

        def batch(self, rngs):
            rows = len(rngs) * self.frames
            views = network.views(np.zeros((len(rngs), 64, 64, 3), np.uint8))
            views = dataclasses.replace(views, latents=torch.randn(len(rngs), *shape))
            return Batch(torch.randn(rows, *shape), torch.full((rows, 1, 3, 64, 64), 0.5), views)

    for stage in network.stages[1:]:
        assert network.entering(stage.name, 4, 0) is network
        for module in network.modules.values():
            module.zero_grad(set_to_none=True)
        task = DenoisingTask(network, Some(4 if stage.data == "clips" else 1), stage.modules, Dropout(*stage.dropout))
        loaded = task.load([SampleRng.of(0, i) for i in (2, 3)])  # the first two are among the null rows
        task.loss(loaded, 0, LoopSettings(steps=1, learning_rate=1, batch_size=2)).backward()
        parameters = [(f"{name}.{key}", p) for name, m in network.modules.items() for key, p in m.named_parameters()]
        moved = [key for key, p in parameters if p.grad is not None and p.grad.any()]
        assert all(key.startswith(tuple(f"{name}." for name in stage.modules)) for key in moved), stage.name
        assert all(any(key.startswith(f"{name}.") for key in moved) for name in stage.modules), stage.name
        assert stage.name == "motion" or not any(".motion_modules." in key for key in moved)
    with pytest.raises(BaseError, match="know clips of .* frames and not of 99"):
        network.entering("motion", 99, 0)


def test_what_cannot_be_trained_is_one_sentence(few, tiny_base, diffusion, tmp_path, monkeypatch):
    def refused(error, words, **how):
        with pytest.raises(error, match=words) as found:
            phase1.train(TrainOptions(few, tmp_path / "out", **{"preset": "fusion", "device": "cpu", **how}))
        assert "\n" not in str(found.value) and not (tmp_path / "out").exists()

    sd, control = diffusion
    refused(UsageError, "family dreampose, without a pose control.*--preset mini or paper", base=str(tiny_base))
    monkeypatch.setattr(tiny_hub, "CONTEXT", 64)
    tiny_hub.openpose_controlnet(tmp_path / "wide")
    words = "wide is for tokens of width 64, but the UNet of .* has tokens of width 32; choose another with --control"
    refused(BaseError, words, base=str(sd), control=str(tmp_path / "wide"))
    refused(BaseError, "has no config.json.*ControlNet", base=str(sd), control=str(tmp_path))
    refused(UsageError, "--control goes with --base", control=str(control))
    refused(TrainingError, "stage vae comes first", stages=["motion"])
    refused(TrainingError, "stage appearance comes first", stages=["motion"], vae=str(tiny_base))
    refused(UsageError, "motion builds on control", stages=["appearance", "motion"])
    refused(TrainingError, "long enough for 40 frames at once.*--frames", frames=40, vae=str(tiny_base))
    refused(UsageError, "--pose-window means nothing to the preset fusion", pose_window=1)
    refused(UsageError, "--frames means nothing to the preset mini", preset="mini", frames=4)
    refused(UsageError, "--null-pose means nothing to the preset mini", preset="mini", null_pose="drop")
