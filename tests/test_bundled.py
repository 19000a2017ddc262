"""What ships with the package: the mini base and the mini estimator, on mannequins they have never seen."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreampose_cli import media
from dreampose_cli.bases.config import read_config
from dreampose_cli.bases.registry import bundled
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import NoPersonError
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.poses.estimator import bundled_estimator, has_person, load_estimator
from dreampose_cli.poses.extraction import load_poses
from dreampose_cli.workflows.synth import plan_clip

HELD_OUT = 31_337  # the seed of a dataset that nothing was trained on


def held_out(index, frames=24):
    plan = plan_clip(HELD_OUT, "test", index)
    return list(perform(draw_subject(plan.subject_seed), draw_dance(plan.dance_seed, frames)))


def test_what_ships_is_small_and_says_what_it_is():
    weights = [*bundled().rglob("*.safetensors"), *bundled_estimator().rglob("*.safetensors")]
    assert len(weights) == 5  # UNet, VAE, image encoder, adapter; estimator
    assert sum(p.stat().st_size for p in weights) <= 20e6
    config = read_config(bundled())
    assert config.name == "mini" and config.people == "mannequins"
    assert config.resolution == (160, 128)
    trainings = [config.provenance]  # each begins from the one before
    while trainings[-1].get("from"):
        trainings.append(trainings[-1]["from"])
    samples = sum(each["samples"] for each in trainings)
    assert samples > 10_000 and all("clips" in each for each in trainings)
    page = Path(__file__).parent.parent / "docs" / "mini.md"
    assert f"{samples:,} samples" in page.read_text(encoding="utf-8")
    assert config.figures["subjects"] >= 24  # measured, with the command that measures it
    assert "held_out.py" in config.figures["command"]


def test_the_estimator_finds_mannequins_where_they_are():
    estimator = load_estimator(user_cache(), "mini")
    overlap, parts, surface = [], [], []
    for index in range(6):
        frames = held_out(index)[::6]
        for frame, found in zip(frames, estimator.estimate([f.picture for f in frames]), strict=True):
            truth, guess = frame.pose[0] > 0, found[0] > 0
            both = truth & guess
            overlap.append(both.sum() / (truth | guess).sum())
            parts.append((frame.pose[0] == found[0])[both].mean())
            surface.append(np.abs(frame.pose[1:] - found[1:])[:, both].mean())
    assert np.mean(overlap) > 0.93
    assert np.mean(parts) > 0.92
    assert np.mean(surface) < 0.05


@pytest.mark.parametrize("kind", ["white", "black", "noise", "gradient", "bars"])
def test_the_estimator_finds_nobody_where_nobody_is(kind, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    picture = {
        "white": np.full((160, 128, 3), 255, np.uint8),
        "black": np.zeros((160, 128, 3), np.uint8),
        "noise": rng.integers(0, 256, (160, 128, 3), dtype=np.uint8),
        "gradient": np.broadcast_to(np.linspace(0, 255, 160)[:, None, None], (160, 128, 3)).astype(np.uint8),
        "bars": np.broadcast_to((np.arange(128) // 16 % 2 * 200)[None, :, None], (160, 128, 3)).astype(np.uint8),
    }[kind]
    assert not has_person(load_estimator(user_cache(), "mini").estimate([picture])[0])
    Image.fromarray(picture).save(tmp_path / "empty.png")
    with pytest.raises(NoPersonError, match="empty.png"):
        load_poses(user_cache(), tmp_path / "empty.png")


def test_larger_pictures_with_room_around_the_figure():
    frame = held_out(0)[0]
    canvas = np.pad(frame.picture, ((40, 24), (30, 50), (0, 0)), mode="edge")
    canvas = media.resize(canvas, (canvas.shape[0] * 3, canvas.shape[1] * 3))
    found = load_estimator(user_cache(), "mini").estimate([canvas])[0]
    truth = np.pad(frame.pose[0] > 0, ((40, 24), (30, 50))).repeat(3, 0).repeat(3, 1)
    assert found.shape == (3, *canvas.shape[:2])
    assert (truth & (found[0] > 0)).sum() / (truth | (found[0] > 0)).sum() > 0.75


def test_the_untuned_base_beats_the_copied_photo(tmp_path):
    import torch
    from poses_in_memory import PosesInMemory

    from dreampose_cli.evaluation.metrics import ssim
    from dreampose_cli.inference.clip import pose_windows
    from dreampose_cli.inference.denoise import RenderSettings, prepare, render_batch
    from dreampose_cli.networks.storage import load_base

    base = load_base(bundled())
    copied, rendered = [], []
    for index in (1, 2):
        frames = held_out(index)
        photo = prepare(base, frames[0].picture, frames[0].pose)
        windows = list(pose_windows(base, PosesInMemory([f.pose for f in frames], 12.0)))
        chosen = (14, 18, 22)
        made = render_batch(base, photo, torch.stack([windows[i] for i in chosen]), RenderSettings.of(base))
        truth = np.stack([frames[i].picture for i in chosen])
        copied += ssim(np.stack([frames[0].picture] * len(chosen)), truth)
        rendered += ssim(made, truth)
    assert np.mean(rendered) > np.mean(copied) + 0.1


@pytest.mark.slow
def test_the_demo_runs_and_tells_the_truth(tmp_path):
    import subprocess
    import sys

    def dreampose(*words):
        command = [sys.executable, "-m", "dreampose_cli", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done

    done = dreampose("demo", "-o", str(tmp_path / "demo"))
    tune, render = (line.split() for line in done.stderr.splitlines()[-2:])  # what it tells to type next, in short
    dreampose(*tune[1:], "--steps", "2", "--decoder-steps", "0")
    dreampose(*render[1:], "--steps", "2", "--end", "0.2")
    assert media.probe_video(tmp_path / "mine.mp4").frames
    folder = tmp_path / "demo"
    assert done.stdout.splitlines()[-1] == str(folder)
    figures = json.loads((folder / "metrics.json").read_text())
    assert set(figures["tuned"]) == set(figures["untuned"]) == {"l1", "ssim", "psnr"}
    assert figures["tuned"]["ssim"] > 0.8 and figures["tuned"]["l1"] < 0.05
    assert figures["own_build"]["tuned"]["ssim"] < figures["tuned"]["ssim"]  # the dancer's build is another one
    assert (folder / "samples.png").exists()
    info = media.probe_video(folder / "out.mp4")
    assert info.frames == figures["frames"] and info.width > 4 * 128
