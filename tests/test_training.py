"""The training loop, phase 1 on real clips at tiny size, and resuming after a kill."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from dreampose_cli.cache import user_cache
from dreampose_cli.errors import DreamposeError, OutputError, OutputExistsError, TrainingError, UsageError
from dreampose_cli.networks.dreampose import presets
from dreampose_cli.networks.dreampose.presets import MINI, build_mini
from dreampose_cli.networks.dreampose.settings import PhotoSettings
from dreampose_cli.networks.storage import load_base
from dreampose_cli.training.denoising import Batch, DenoisingTask, Dropout
from dreampose_cli.training.frames import prepare_frames
from dreampose_cli.training.loop import LoopSettings, SampleRng, latest_checkpoint, run
from dreampose_cli.training.run_dir import RunDir
from dreampose_cli.workflows import train as phase1
from dreampose_cli.workflows.options import TrainOptions


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


class LineTask:
    """Least squares on random points: a loop test in milliseconds."""

    def __init__(self, stop_at=None, spoil_at=None):
        self.modules = {"line": Line()}
        self.stop_at, self.spoil_at = stop_at, spoil_at
        self.seen = []

    def load(self, rngs):
        return rngs

    def loss(self, rngs, step, settings):
        if step == self.stop_at:
            raise KeyboardInterrupt
        x = torch.cat([torch.randn(1, 3, generator=rng.torch) for rng in rngs])
        self.seen.append(float(x.sum()) + float(rngs[0].numpy.random()))
        loss = ((self.modules["line"].weight - torch.tensor([1.0, 2.0, 3.0])) * x).square().mean()
        return loss * float("nan") if step == self.spoil_at else loss


SETTINGS = LoopSettings(steps=40, learning_rate=0.2, batch_size=4, ema=0.9, save_every=10, warmup=5, decay=0.5, seed=7)


def curve(folder):
    with (folder / "losses.csv").open() as file:
        return list(csv.reader(file))


def test_a_killed_run_resumes_on_the_same_curve(tmp_path):
    whole = LineTask()
    run(whole, SETTINGS, checkpoints=tmp_path / "whole")
    cut = LineTask(stop_at=27)
    with pytest.raises(KeyboardInterrupt):
        run(cut, SETTINGS, checkpoints=tmp_path / "cut")
    again = LineTask()
    result = run(again, SETTINGS, checkpoints=tmp_path / "cut", resume=True)
    assert result.resumed_from == 20
    assert again.seen == whole.seen[20:]
    assert torch.equal(again.modules["line"].weight, whole.modules["line"].weight)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 41


def test_the_loop_learns_and_keeps_the_last_checkpoints(tmp_path):
    task = LineTask()
    losses = run(task, dataclasses.replace(SETTINGS, steps=200, ema=0.0), checkpoints=tmp_path).losses
    assert losses[-1] < 0.05 * losses[0]
    kept = sorted(p.name for p in tmp_path.glob("step-*"))
    assert kept == ["step-00000190", "step-00000200"]
    state = json.loads((latest_checkpoint(tmp_path) / "state.json").read_text())
    assert state["step"] == 200 and state["settings"]["seed"] == 7


def test_a_loss_that_is_not_a_number_names_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="step 26.*step-00000020"):
        run(LineTask(spoil_at=25), SETTINGS, checkpoints=tmp_path)


def test_the_learning_rate_warms_up_and_decays():
    rates = [SETTINGS.rate(step) for step in range(40)]
    assert rates[0] == pytest.approx(0.04) and rates[10] == 0.2
    assert rates[39] < 0.01 and rates == sorted(rates[:5]) + rates[5:20] + sorted(rates[20:], reverse=True)


def test_phase_1_makes_a_base_and_resumes(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "MINI", dataclasses.replace(MINI, resolution=(48, 32)))
    monkeypatch.setattr(phase1.AutoencoderTask.__init__, "__defaults__", (32,))
    options = {"preset": "mini", "max_steps": 4, "save_every": 2, "batch_size": 2}
    phase1.train(TrainOptions(clips, tmp_path / "whole", **options))
    base = load_base(tmp_path / "whole")
    assert base.config.name == "whole" and base.config.provenance["samples"] == 8
    assert base.config.scaling_factor != MINI.scaling_factor
    assert (tmp_path / "whole" / "validation" / "00000004.png").exists()

    class Killed(Exception):
        pass

    def kill(done, total, note=""):
        if note.startswith("network") and done == 3:
            raise Killed

    with pytest.raises(Killed):
        phase1.train(TrainOptions(clips, tmp_path / "cut", **options), progress=kill)
    assert not (tmp_path / "cut" / "base.json").exists()
    notes = []
    phase1.train(TrainOptions(clips, tmp_path / "cut", resume=True, **options), note=notes.append)
    assert any("step-00000002" in note for note in notes)
    for stage in ("vae", "network"):
        assert curve(tmp_path / "cut/checkpoints" / stage) == curve(tmp_path / "whole/checkpoints" / stage)
    again = load_base(tmp_path / "cut")
    for name, module in base.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, again.modules[name].state_dict()[key]), (name, key)
    assert phase1.train(TrainOptions(clips, tmp_path / "cut", resume=True, **options), note=notes.append).finished
    assert "finished already" in notes[-1]
    with pytest.raises(OutputExistsError, match="--resume"):
        phase1.train(TrainOptions(clips, tmp_path / "cut", **options))


def test_one_stage_at_a_time(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "MINI", dataclasses.replace(MINI, resolution=(48, 32)))
    monkeypatch.setattr(phase1.AutoencoderTask.__init__, "__defaults__", (32,))
    options = {"preset": "mini", "max_steps": 2, "batch_size": 2}
    out, notes = tmp_path / "base", []
    with pytest.raises(TrainingError, match="vae comes first"):
        phase1.train(TrainOptions(clips, out, stages=["network"], **options))
    assert not out.exists()
    with pytest.raises(UsageError, match="has no stage estimator"):
        phase1.train(TrainOptions(clips, out, stages=["estimator"], **options))
    result = phase1.train(TrainOptions(clips, out, stages=["vae"], **options), note=notes.append)
    assert not result.finished and result.steps == 2 and "--stage network --resume" in notes[-1]
    assert not (out / "base.json").exists() and not (out / "checkpoints" / "network").exists()
    with pytest.raises(UsageError, match="leave --overwrite"):
        phase1.train(TrainOptions(clips, out, stages=["network"], overwrite=True, **options))
    assert phase1.train(TrainOptions(clips, out, stages=["network"], resume=True, **options)).finished
    load_base(out)


@pytest.mark.slow
def test_overwrite_clears_nothing_before_the_data_is_there(clips, tmp_path):
    out = tmp_path / "base"
    how = {"preset": "mini", "max_steps": 1, "batch_size": 2, "device": "cpu"}
    phase1.train(TrainOptions(clips, out, **how))
    with pytest.raises(DreamposeError):
        phase1.train(TrainOptions(tmp_path / "gone", out, overwrite=True, **how))
    load_base(out)
    assert (out / "checkpoints").exists()


def test_training_leaves_other_peoples_folders_alone(tmp_path):
    def start(folder, notes=None, **how):
        how = {"resume": False, "overwrite": False, **how}
        say = (notes if notes is not None else []).append
        RunDir(folder, "base.json", how["resume"]).require_free(how["overwrite"], say)

    notes = []
    start(tmp_path / "new", notes, resume=True)
    assert "starting afresh" in notes[0]
    project = tmp_path / "project"  # with checkpoints of its own
    (project / "checkpoints").mkdir(parents=True)
    (project / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="thesis.tex"):
        start(project, overwrite=True)
    diffusion = tmp_path / "sd"
    (diffusion / "unet").mkdir(parents=True)
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputExistsError, match="another -o"):
            start(diffusion, **how)
    assert (project / "thesis.tex").exists() and (diffusion / "unet").exists()
    logged = tmp_path / "logged"  # a log next to what is trained is no obstacle
    logged.mkdir()
    (logged / "train.log").write_text("x")
    start(logged, notes, resume=True)
    assert len(notes) == 2


def test_the_estimator_preset(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "MINI", dataclasses.replace(MINI, resolution=(48, 32)))
    phase1.train(TrainOptions(clips, tmp_path / "eyes", preset="estimator", max_steps=2, batch_size=2))
    from dreampose_cli.poses.estimator import load_estimator

    estimator = load_estimator(user_cache(), str(tmp_path / "eyes"))
    pose = estimator.estimate([np.zeros((70, 50, 3), np.uint8)])[0]
    assert pose.shape == (3, 70, 50) and set(np.unique(pose[0])) <= set(range(25))


def test_frames_are_prepared_once_and_bad_clips_left_out(clips, tmp_path, cache):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(clips, data)
    broken = data / "train" / "broken"
    broken.mkdir()
    (broken / "video.mp4").write_bytes(b"no video")
    notes = []
    frames = prepare_frames(user_cache(), data, (48, 32), note=notes.append)
    assert len(notes) == 1 and "broken" in notes[0]
    assert len(frames.split("train")) == 3 and len(frames.split("test")) == 1
    assert frames.pictures.shape == (32, 48, 32, 3)
    pose = frames.pose([0])[0]
    assert pose[0].max() <= 24 and 0 < pose[1].max() <= 1
    made = {p: p.stat().st_mtime_ns for p in frames.folder.glob("*.shard")}
    assert len(made) == 4
    assert {p: p.stat().st_mtime_ns for p in prepare_frames(user_cache(), data, (48, 32)).folder.glob("*.shard")} == made
    window = frames.window(frames.clips[0], 0, 5, 12.0, "edge")
    assert window.shape == (5, 3, 48, 32) and np.array_equal(window[0], window[2])
    slower = frames.window(frames.clips[0], 3, 5, 6.0, "edge")  # every second frame
    assert np.array_equal(slower[4], frames.pose([frames.clips[0].start + 7])[0])


def test_training_needs_clips(tmp_path):
    (tmp_path / "clips").mkdir()
    with pytest.raises(TrainingError, match="no training clips"):
        phase1.train(TrainOptions(tmp_path / "clips", tmp_path / "out", preset="mini"))
    with pytest.raises(UsageError, match="unknown preset"):
        phase1.train(TrainOptions(tmp_path / "clips", tmp_path / "out", preset="huge"))


@pytest.mark.parametrize("photo", [MINI.network.photo, PhotoSettings(adapter="spatial", unet_channels="latents")])
def test_conditions_are_dropped_sample_by_sample(photo):
    network = dataclasses.replace(MINI.network, photo=photo)
    base = build_mini(0, dataclasses.replace(MINI, resolution=(48, 32), network=network))
    count = 400

    class Source:
        def batch(self, rngs):
            n = len(rngs)
            latents = torch.ones(n, 8, 12, 8)
            pose = torch.zeros(n, 3, 48, 32)
            pose[:, 0, 8:40, 8:24] = 2
            pose[:, 1:, 8:40, 8:24] = 0.5
            pictures = np.full((1, 48, 32, 3), 200, np.uint8)  # all samples share their photo
            views = dataclasses.replace(base.views(pictures, pose[:1]), latents=latents[:1])
            return Batch(latents, pose[:, None].repeat(1, 5, 1, 1, 1), views)

    seen = {}

    def spy(noisy, timestep, condition, reference):
        seen.update(tokens=condition.tokens, pose=condition.pose, photo=condition.photo, null=condition.null_tokens)
        seen.update(image=condition.image, code=condition.code)
        return noisy

    base.predict = spy
    task = DenoisingTask(base, Source(), ("unet", "adapter"), Dropout())
    with torch.no_grad():
        loaded = task.load([SampleRng.of(0, i) for i in range(count)])
        task.loss(loaded, 0, LoopSettings(steps=1, learning_rate=1, batch_size=count))
    no_pose = seen["pose"].abs().amax((1, 2, 3)) == 0
    if photo.surface_code:
        no_image = seen["image"] == 0
        assert torch.equal(no_pose, seen["code"].abs().amax((1, 2, 3)) == 0)
    else:
        no_image = (seen["tokens"] - seen["null"]).abs().amax((1, 2)) < 1e-5
        assert torch.equal(seen["photo"].abs().amax((1, 2, 3)) == 0, no_image)
    shares = [(no_image & ~no_pose), (~no_image & no_pose), (no_image & no_pose)]
    for share in shares:
        assert 0.02 < share.float().mean() < 0.09  # 5 % each; 400 samples have a standard deviation of 1.1 %
