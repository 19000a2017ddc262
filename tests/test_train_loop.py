"""The training loop: refusing what does not fit, stopping and continuing, loading ahead, and parts that make a whole."""

import dataclasses
import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from dreampose_cli.__main__ import main
from dreampose_cli.errors import TrainingError, TrainingStopped, UsageError
from dreampose_cli.prefetch import Prefetcher
from dreampose_cli.training import loop as loop_module
from dreampose_cli.training.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from dreampose_cli.training.csv_log import CsvLogger
from dreampose_cli.training.loop import LoopSettings, SampleRng, run


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))


class SampledLine:
    """Least squares on random points, drawn sample by sample."""

    def __init__(self, slow=0.0):
        self.modules = {"line": Line()}
        self.slow, self.seen = slow, []

    def load(self, draws):
        time.sleep(self.slow)
        return torch.stack([torch.randn(3, generator=draw.torch, dtype=torch.float64) for draw in draws]), draws

    def loss(self, loaded, step, settings):
        x, draws = loaded
        self.seen += [draw.index for draw in draws]
        return ((self.modules["line"].weight - torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) * x).square().mean()

    @property
    def weight(self):
        return self.modules["line"].weight.detach()


SETTINGS = LoopSettings(steps=12, learning_rate=0.1, batch_size=6, seed=3, ema=0.9, save_every=4, decay=0.5)


def test_accumulation_and_prefetching_change_nothing():
    whole = SampledLine()
    run(whole, SETTINGS)
    assert whole.seen == list(range(12 * 6))  # every sample has a number of its own, and comes once
    for count, threads in ((1, 3), (2, 0), (6, 2)):
        parts = SampledLine()
        run(parts, dataclasses.replace(SETTINGS, gradient_accumulation_steps=count), prefetch_threads=threads)
        assert parts.seen == whole.seen
        assert (parts.weight - whole.weight).abs().max() < 1e-14


def test_a_step_that_cannot_be_divided_is_refused():
    with pytest.raises(UsageError, match="6 samples cannot be divided into 4 equal parts"):
        run(SampledLine(), dataclasses.replace(SETTINGS, gradient_accumulation_steps=4))


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path):
    class Steep(SampledLine):
        def loss(self, loaded, step, settings):
            weight = self.modules["line"].weight
            steep = (weight - weight.detach()).abs().sqrt().sum()  # 0, with a slope that is no number
            return super().loss(loaded, step, settings) + (steep if step == 5 else 0.0)

    task = Steep()
    with pytest.raises(TrainingError, match=r"the gradient became (nan|inf) at step 6.*step-00000004"):
        run(task, dataclasses.replace(SETTINGS, save_every=4), checkpoints=tmp_path)
    assert torch.isfinite(task.weight).all()


def test_sigterm_saves_at_the_end_of_the_step_and_resume_goes_on(tmp_path):
    whole = SampledLine()
    run(whole, SETTINGS, checkpoints=tmp_path / "whole")
    calls = []

    def taken_away():
        calls.append(1)
        return len(calls) == 7

    with pytest.raises(TrainingStopped, match=r"after step 7 of 12.*step-00000007") as stopped:
        run(SampledLine(), SETTINGS, checkpoints=tmp_path / "cut", stop=taken_away, prefetch_threads=2)
    assert stopped.value.exit_code == 143
    again = SampledLine()
    assert run(again, SETTINGS, checkpoints=tmp_path / "cut", resume=True).resumed_from == 7
    assert again.seen == whole.seen[7 * 6 :]
    assert torch.equal(again.weight, whole.weight)
    assert (tmp_path / "cut/losses.csv").read_text() == (tmp_path / "whole/losses.csv").read_text()


def test_a_changed_setting_is_refused_by_name_and_a_longer_run_goes_on(tmp_path):
    identity = {"preset": "mini", "data": "0123"}
    run(SampledLine(), SETTINGS, checkpoints=tmp_path, identity=identity)

    def again(identity=identity, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        return run(SampledLine(), settings, checkpoints=tmp_path, resume=True, identity=identity)

    with pytest.raises(TrainingError) as refused:
        again(identity={**identity, "data": "4567"}, learning_rate=0.2, batch_size=12)
    words = str(refused.value)
    assert "learning_rate was 0.1 and is 0.2" in words and "batch_size was 6 and is 12" in words
    assert "data was 0123 and is 4567" in words and "preset" not in words and "--overwrite" in words
    longer = again(steps=16, save_every=1, keep=3, gradient_accumulation_steps=3)
    assert (longer.resumed_from, longer.steps) == (12, 16)
    assert [p.name for p in sorted(tmp_path.glob("step-*"))] == ["step-00000014", "step-00000015", "step-00000016"]
    done = again(steps=10)  # it has gone further already
    assert (done.resumed_from, done.steps, done.losses) == (16, 16, [])


def test_a_checkpoint_says_where_it_is(tmp_path):
    run(SampledLine(), SETTINGS, checkpoints=tmp_path, identity={"preset": "mini"})
    state = json.loads((latest_checkpoint(tmp_path) / "state.json").read_text())
    assert (state["step"], state["samples"]) == (12, 72)
    assert state["settings"]["preset"] == "mini" and state["settings"]["learning_rate"] == 0.1
    assert state["seconds"] >= 0


def test_the_gradient_scaler_is_kept(tmp_path):
    modules = {"line": Line()}
    optimizer = torch.optim.AdamW(modules["line"].parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    path = save_checkpoint(tmp_path, 3, modules, optimizer, None, scaler, {"batch_size": 1}, 2, 1.0)
    fresh = torch.amp.GradScaler("cpu")
    load_checkpoint(path, modules, optimizer, None, fresh)
    assert fresh.state_dict()["scale"] == 512.0


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(SampledLine(), SETTINGS, checkpoints=tmp_path)
    newest = latest_checkpoint(tmp_path)
    (newest / "optimizer.pt").write_bytes(b"cut short")
    with pytest.raises(TrainingError, match=r"step-00000012 does not fit this run .*; remove it"):
        run(SampledLine(), SETTINGS, checkpoints=tmp_path, resume=True)
    (newest / "state.json").write_text("{")
    with pytest.raises(TrainingError, match=r"step-00000012 does not fit this run"):
        run(SampledLine(), SETTINGS, checkpoints=tmp_path, resume=True)


def test_validation_sees_the_average_and_leaves_no_trace(tmp_path):
    plain = SampledLine()
    run(plain, SETTINGS)
    seen = []
    task = SampledLine()
    run(task, SETTINGS, validate=lambda step: seen.append((step, task.weight.clone())), validate_every=5)
    assert [step for step, _ in seen] == [5, 10]
    assert torch.equal(task.weight, plain.weight)
    trained = SampledLine()
    run(trained, dataclasses.replace(SETTINGS, steps=5, decay=0.0, ema=0.0))
    assert not torch.equal(seen[0][1], trained.weight)  # behind what is trained, as an average is


def test_progress_tells_speed_and_the_wait_for_data(tmp_path):
    said = []
    run(
        SampledLine(slow=0.02),
        dataclasses.replace(SETTINGS, steps=40),
        checkpoints=tmp_path,
        progress=lambda done, total, text: said.append(text),
    )
    words = said[-1].split(", ")
    assert [word.split()[0] for word in words[:2]] == ["loss", "rate"]
    assert words[2].endswith("samples/s") and 5 < float(words[2].split()[0]) < 300  # 6 in 20 ms or more
    assert int(words[3].removeprefix("data wait ").removesuffix(" %")) > 50
    rows = (tmp_path / "speed.csv").read_text().split()
    assert rows[0] == "step,samples_per_second,data_wait"
    assert [row.split(",")[0] for row in rows[1:]] == ["20", "40"] and float(rows[2].split(",")[2]) > 0.5


def test_the_loader_keeps_the_order_and_loads_ahead():
    def job(i):
        def work():
            time.sleep(0.002 * (i % 3))
            return i, threading.current_thread().name

        return work

    with Prefetcher((job(i) for i in range(20)), 3) as loader:
        results = list(loader)
    assert [i for i, _ in results] == list(range(20))
    assert len({name for _, name in results}) > 1
    with Prefetcher(iter([lambda: 1]), 0) as loader:
        assert list(loader) == [1] and loader.waited >= 0


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_of_the_loader_reaches_the_training(threads):
    def fail():
        raise TrainingError("the shard is gone")

    with Prefetcher(iter([lambda: 1, fail]), threads) as loader:
        assert next(loader) == 1
        with pytest.raises(TrainingError, match="gone"):
            next(loader)


def test_a_log_goes_on_without_repeating_itself(tmp_path):
    path = tmp_path / "losses.csv"
    log = CsvLogger(path, ("step", "loss"), 0)
    for step in range(1, 6):
        log.add(step, step / 10)
    log.flush()
    with path.open("a") as file:
        file.write("6,0.")  # a kill in the middle of a line
    CsvLogger(path, ("step", "loss"), 3)
    assert path.read_text().split() == ["step,loss", "1,0.1", "2,0.2", "3,0.3"]
    CsvLogger(path, ("step", "loss"), 0)
    assert path.read_text().split() == ["step,loss"]


def test_samples_are_drawn_by_their_number_alone():
    one, same, other = SampleRng.of(5, 7), SampleRng.of(5, 7), SampleRng.of(5, 8)
    assert one.numpy.random() == same.numpy.random() != other.numpy.random()
    first = torch.randn(4, generator=one.torch)
    assert torch.equal(first, torch.randn(4, generator=same.torch))
    assert not torch.equal(first, torch.randn(4, generator=other.torch))
    assert (one.seed, one.index) == (5, 7)


def test_what_cannot_work_is_said_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    words = f"train {tmp_path} -o {tmp_path}/out --device cpu"
    assert main([*words.split(), "--8bit-adam"]) == 1
    assert "needs the package bitsandbytes" in capsys.readouterr().err
    assert main([*words.split(), "--dtype", "float16"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # as the launcher says it
    assert main(words.split()) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sigterm_is_a_flag_only_inside_the_block():
    before = signal.getsignal(signal.SIGTERM)
    with loop_module.sigterm_flag() as came:
        assert not came()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert came()
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_epoch_shows_every_frame_once():
    from dreampose_cli.training.sources import _order

    first, second = _order(1, 0, 50), _order(1, 1, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, _order(2, 0, 50))
