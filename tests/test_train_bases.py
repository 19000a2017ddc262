"""What `train` starts from and what it leaves: bases trained further, ablations, scores, the card, and refusals."""

import csv
import dataclasses
import json
import shutil
from operator import attrgetter

import pytest
import torch
from torch import nn

from dreampose_cli.__main__ import main
from dreampose_cli.bases.config import read_config
from dreampose_cli.errors import TrainingError, UsageError
from dreampose_cli.networks.dreampose import presets
from dreampose_cli.networks.dreampose.presets import MINI
from dreampose_cli.networks.storage import load_base
from dreampose_cli.training import recipes
from dreampose_cli.training.loop import LoopSettings
from dreampose_cli.training.model_card import MARK
from dreampose_cli.workflows import train as phase1
from dreampose_cli.workflows.options import RenderOptions, TrainOptions

QUICK = {"max_steps": 2, "batch_size": 2, "device": "cpu"}


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.allclose(value, theirs[key], atol=1e-3) for key, value in one.state_dict().items())


@pytest.fixture
def tiny_mini(monkeypatch):
    """Bases from scratch are made at the size of the tiny clips."""
    config = dataclasses.replace(MINI, resolution=(48, 32), sampling=dataclasses.replace(MINI.sampling, steps=2))
    monkeypatch.setattr(presets, "MINI", config)
    return config


def test_a_base_is_trained_further_whole_but_for_its_vae(clips, tiny_base, tmp_path):
    out = tmp_path / "better"
    result = phase1.train(
        TrainOptions(clips, out, preset="mini", base=str(tiny_base), learning_rate=2.0, ema=0.0, **QUICK)
    )
    assert (result.path, result.steps, result.finished) == (out, 2, True)
    before, after = load_base(tiny_base), load_base(out)
    assert same(before.vae, after.vae)
    for part in ("unet", "adapter", "image_encoder"):
        assert not same(before.modules[part], after.modules[part]), part
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["network"]
    assert after.config.provenance["stages"].keys() == {"network"}


def test_the_decoder_is_trained_alone_on_whole_frames(clips, tiny_base, tmp_path, capsys):
    out = tmp_path / "sharper"
    options = {"preset": "mini", "base": str(tiny_base), "batch_size": 2, "device": "cpu", "stages": ["decoder"]}
    phase1.train(TrainOptions(clips, out, max_steps=6, save_every=3, learning_rate=0.05, ema=0.0, **options))
    before, after = load_base(tiny_base), load_base(out)
    assert not same(before.vae.decoder, after.vae.decoder)
    for part in ("unet", "adapter", "image_encoder", "vae.encoder", "vae.quant_conv", "vae.post_quant_conv"):
        theirs = after.module(part).state_dict()  # stored in float16
        assert all(torch.equal(v.half(), theirs[k].half()) for k, v in before.module(part).state_dict().items()), part
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["decoder"]
    provenance = after.config.provenance
    assert provenance["stages"].keys() == {"decoder"} and provenance["samples"] == 0  # none of the denoiser's
    with (out / "validation" / "decoder" / "scores.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]
    with (out / "checkpoints/decoder/losses.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert min(losses[1:]) < losses[0]
    # The same again: stopped and resumed, and after a stage of the network.
    both = options | {"stages": ["network", "decoder"]}
    assert phase1.train(TrainOptions(clips, tmp_path / "both", max_steps=2, **both)).finished
    assert read_config(tmp_path / "both").provenance["stages"].keys() == {"network", "decoder"}
    command = ["train", str(clips), "-o", str(tmp_path / "both"), "--preset", "mini", "--base", str(tiny_base), "--resume"]
    command += ["--stage", "decoder", "--max-steps", "3", "--batch-size", "2", "--device", "cpu"]
    assert main(command) == 0 and "network: stays as it is after step 2." in capsys.readouterr().err
    assert read_config(tmp_path / "both").provenance["stages"]["decoder"]["steps"] == 3


def test_a_training_leaves_scores_a_strip_and_a_card(clips, tiny_base, tmp_path):
    out, notes = tmp_path / "mine", []
    options = {"preset": "mini", "base": str(tiny_base), "batch_size": 2, "device": "cpu", "validate_every": 2}
    result = phase1.train(TrainOptions(clips, out, max_steps=4, **options), note=notes.append)
    with (out / "validation" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"] and 0 < float(rows[-1]["l1"]) < 1
    assert sorted(p.name for p in (out / "validation").glob("*.png")) == ["00000002.png", "00000004.png"]
    assert result.scores["ssim"] == pytest.approx(float(rows[-1]["ssim"]), abs=1e-4)
    assert any(note.startswith("step 2: SSIM") for note in notes)
    card = (out / "README.md").read_text()
    assert MARK in card and "knows mannequins" in card and f"SSIM {result.scores['ssim']:.4f}" in card
    assert "| train | 3 | 0 | 24 |" in card and "| network | 4 | 2 |" in card and (out / "samples.png").exists()
    assert "Not stated." in card  # the licence is nobody's to guess
    provenance = read_config(out).provenance
    assert provenance["samples"] == 8 and provenance["validation"]["frames"] == 2
    (out / "README.md").write_text("# mine\n")
    longer = phase1.train(TrainOptions(clips, out, max_steps=6, resume=True, **options), note=notes.append)
    assert longer.steps == 6 and read_config(out).provenance["samples"] == 12
    assert (out / "README.md").read_text() == "# mine\n"
    assert any("was not written by dreampose" in note for note in notes)
    assert any("resuming from step 4 of 6" in note and "was to have 4" in note for note in notes)


@pytest.mark.slow
def test_a_card_that_was_changed_is_kept(clips, tiny_base, tmp_path):
    out, notes = tmp_path / "mine", []
    options = {"preset": "mini", "base": str(tiny_base), "batch_size": 2, "device": "cpu"}
    phase1.train(TrainOptions(clips, out, max_steps=1, **options), note=notes.append)
    card = out / "README.md"
    phase1.train(
        TrainOptions(clips, out, max_steps=2, resume=True, **options)
    )  # nobody has touched it: written anew, and no more
    assert "| network | 2 | 2 |" in card.read_text() and not list(out.glob("README.md.old*"))
    changed = card.read_text() + "\nThanks to all who danced.\n"
    card.write_text(changed)
    phase1.train(TrainOptions(clips, out, max_steps=3, resume=True, **options), note=notes.append)
    assert "| network | 3 | 2 |" in card.read_text() and (out / "README.md.old").read_text() == changed
    assert sum("was changed by hand; it is kept as README.md.old next to" in note for note in notes) == 1
    card.write_text(changed)
    phase1.train(TrainOptions(clips, out, max_steps=1, overwrite=True, **options), note=notes.append)
    assert "| network | 1 | 2 |" in card.read_text()
    assert [(out / f"README.md.old{i}").read_text() for i in ("", "1")] == [changed, changed]
    assert [p.name for p in (out / "checkpoints/network").glob("step-*")] == ["step-00000001"]


def test_a_licence_and_an_origin_are_handed_down(clips, tiny_base, tiny_mini, tmp_path):
    from dreampose_cli.bases.fingerprint import fingerprint

    shutil.copytree(tiny_base, tmp_path / "start")
    config = json.loads((tmp_path / "start/base.json").read_text())
    config["provenance"] = {"stable_diffusion": "some/diffusion@0123", "licence": "CreativeML OpenRAIL-M"}
    (tmp_path / "start/base.json").write_text(json.dumps(config))
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    phase1.train(TrainOptions(clips, first, preset="mini", base=str(tmp_path / "start"), **QUICK))
    about = read_config(first).provenance
    assert about["licence"] == "CreativeML OpenRAIL-M"
    assert (about["from"]["base"], about["from"]["revision"]) == ("tiny", fingerprint(tmp_path / "start"))
    phase1.train(TrainOptions(clips, second, preset="mini", base=str(first), **QUICK))
    card = (second / "README.md").read_text()
    assert read_config(second).provenance["from"]["from"]["stable_diffusion"] == "some/diffusion@0123"
    assert "base_model: some/diffusion\n" in card and "license: creativeml-openrail-m" in card
    assert f"1. first (revision {fingerprint(first)}; made by `dreampose train --preset mini`" in card
    assert "2. tiny (revision" in card and card.endswith("## Licence\n\nCreativeML OpenRAIL-M\n")
    phase1.train(TrainOptions(clips, third, preset="mini", vae=str(first), **QUICK))  # its autoencoder alone
    assert read_config(third).provenance["licence"] == "CreativeML OpenRAIL-M"
    assert (
        f"1. the autoencoder of first (revision {fingerprint(first)}; licence: CreativeML"
        in (third / "README.md").read_text()
    )


@pytest.mark.slow
def test_a_licence_that_was_stated_by_hand_stays(clips, tiny_base, tmp_path):
    out = tmp_path / "mine"
    options = {"preset": "mini", "base": str(tiny_base), "batch_size": 2, "device": "cpu"}
    phase1.train(TrainOptions(clips, out, max_steps=1, **options))
    assert (
        "Not stated." in (out / "README.md").read_text() and "began from have a say" in (out / "README.md").read_text()
    )
    config = json.loads((out / "base.json").read_text())
    config["provenance"]["licence"] = "CC BY 4.0"
    (out / "base.json").write_text(json.dumps(config))
    phase1.train(TrainOptions(clips, out, max_steps=2, resume=True, **options))
    assert read_config(out).provenance["licence"] == "CC BY 4.0"
    assert (out / "README.md").read_text().endswith("CC BY 4.0\n")
    phase1.train(
        TrainOptions(clips, out, max_steps=1, overwrite=True, **options)
    )  # other weights, which nobody has licensed yet
    assert "licence" not in read_config(out).provenance


def test_without_a_test_list_nothing_is_scored(clips, tiny_base, tmp_path):
    shutil.copytree(clips / "train", tmp_path / "data")
    notes = []
    out = tmp_path / "out"
    result = phase1.train(
        TrainOptions(tmp_path / "data", out, preset="mini", base=str(tiny_base), **QUICK), note=notes.append
    )
    assert result.scores is None and not (out / "validation" / "scores.csv").exists()
    assert (out / "validation" / "00000002.png").exists()  # of clips that were trained on, to look at
    assert "None: there were no clips besides those" in (out / "README.md").read_text()
    assert "3 clips (24 frames) to train on, none to test with." in notes


ABLATIONS = {
    "one-pose": ({"pose_window": 1}, ("poses", "count", 1)),
    "uv": ({"pose_channels": "uv"}, ("network.pose", "channels", "uv")),
    "clip-only": ({"clip_only": True}, ("network.photo", "vae_tokens", False)),
    "latents": ({"unet_image_input": "latents"}, ("network.photo", "unet_channels", "latents")),
}


@pytest.mark.parametrize(
    "name", [name if name == "latents" else pytest.param(name, marks=pytest.mark.slow) for name in ABLATIONS]
)
def test_ablations_are_options_and_share_an_autoencoder(name, clips, clip, tiny_base, tiny_mini, tmp_path):
    options, (part, key, value) = ABLATIONS[name]
    out = tmp_path / name
    phase1.train(TrainOptions(clips, out, preset="mini", vae=str(tiny_base), **options, **QUICK))
    base = load_base(out)
    assert getattr(attrgetter(part)(base.config), key) == value
    differing = {
        (p, k)
        for p in ("poses", "network.pose", "network.photo")
        for k, v in dataclasses.asdict(attrgetter(p)(base.config)).items()
        if v != dataclasses.asdict(attrgetter(p)(tiny_mini))[k]
    }
    assert len(differing) == len(options)  # and nothing else is another
    assert same(base.vae, load_base(tiny_base).vae)
    assert base.config.provenance["vae"]["revision"] and "vae" not in base.config.provenance["stages"]
    if name == "clip-only":
        from dreampose_cli.workflows.render import render

        photo, video = clip / "frames" / "00000.png", tmp_path / "out.mp4"
        render(
            RenderOptions(photo=photo, poses=[clip / "video.poses"], output=video, base=str(out), steps=1, align="off")
        )
        assert video.exists()


def test_a_bases_conditioning_is_settled(clips, tiny_base, tmp_path):
    with pytest.raises(UsageError, match="conditioning is settled"):
        phase1.train(TrainOptions(clips, tmp_path / "out", base=str(tiny_base), pose_window=1, **QUICK))
    assert not (tmp_path / "out").exists()


def test_the_paper_preset_is_the_papers_recipe(clips, tiny_base, tmp_path):
    paper = recipes.PRESETS["paper"].stages["network"]
    assert (paper.learning_rate, paper.batch_size, paper.ema, paper.decay) == (5e-6, 16, 0.0, 0.0)
    assert recipes.in_epochs(paper, 5.0, None, 1000).steps == 313  # 5 x 1000 frames, 16 at a time
    assert phase1.Dropout() == phase1.Dropout(image=0.05, pose=0.05, both=0.05)
    out = tmp_path / "out"
    phase1.train(TrainOptions(clips, out, base=str(tiny_base), epochs=0.1, batch_size=2, ema=0.9, device="cpu"))
    state = json.loads((out / "checkpoints/network/step-00000002/state.json").read_text())  # 2.4 frames
    assert state["settings"]["preset"] == "paper" and state["settings"]["learning_rate"] == 5e-6
    assert state["settings"]["ema"] == 0.9 and (out / "checkpoints/network/step-00000002/average.safetensors").exists()
    assert same(load_base(tiny_base).modules["image_encoder"], load_base(out).modules["image_encoder"])  # CLIP is frozen
    assert read_config(out).provenance["trained_by"] == "dreampose train --preset paper"


def test_changed_settings_are_refused_before_the_data_is_touched(clips, tiny_base, tmp_path, monkeypatch):
    out = tmp_path / "out"
    options = {"preset": "mini", "base": str(tiny_base), "device": "cpu", "resume": True}
    phase1.train(TrainOptions(clips, out, max_steps=1, batch_size=2, **options))
    monkeypatch.setattr(phase1, "prepare_frames", lambda *_, **__: pytest.fail("the data was prepared"))
    with pytest.raises(TrainingError) as refused:
        phase1.train(TrainOptions(clips, out, max_steps=3, batch_size=3, seed=4, learning_rate=1e-4, **options))
    before = recipes.PRESETS["mini"].stages["network"].learning_rate
    for words in (f"learning_rate was {before} and is 0.0001", "batch_size was 2 and is 3", "seed was 0 and is 4"):
        assert words in str(refused.value)


@pytest.fixture
def from_nothing(clips, tiny_mini, tmp_path, monkeypatch):
    """Trains a base from scratch in two stages at tiny size; returns how, and the folder of a finished one."""
    monkeypatch.setattr(phase1.AutoencoderTask.__init__, "__defaults__", (32,))
    out, notes = tmp_path / "out", []

    def again(folder=out, progress=None, **options):
        return phase1.train(
            TrainOptions(clips, folder, **{"batch_size": 2, "device": "cpu", **options}),
            progress=progress,
            note=notes.append,
        )

    again(max_steps=2)
    return again, out, notes


def newest(out, stage):
    return max(p.name for p in (out / "checkpoints" / stage).glob("step-*"))


@pytest.mark.slow
def test_a_longer_run_leaves_the_autoencoder_beneath_the_network_alone(from_nothing, tmp_path):
    again, out, notes = from_nothing
    before = (out / "checkpoints/vae/step-00000002/weights.safetensors").read_bytes()
    vae = load_base(out).vae
    assert again(max_steps=4, resume=True).finished
    assert (newest(out, "vae"), newest(out, "network")) == ("step-00000002", "step-00000004")
    assert (out / "checkpoints/vae/step-00000002/weights.safetensors").read_bytes() == before
    assert same(vae, load_base(out).vae)
    assert "vae: stays as it is after step 2." in notes
    stages = read_config(out).provenance["stages"]
    assert (stages["vae"]["steps"], stages["network"]["steps"]) == (2, 4)
    # The network's stage alone, with more steps than the autoencoder has ever had: the same.
    assert again(max_steps=5, resume=True, stages=["network"]).finished
    assert (newest(out, "vae"), newest(out, "network")) == ("step-00000002", "step-00000005")
    with pytest.raises(TrainingError, match="vae stays at step 2.*another -o"):
        again(max_steps=6, resume=True, stages=["vae"])
    with pytest.raises(TrainingError, match="batch_size was 2 and is 3"):
        again(max_steps=6, resume=True, batch_size=3)


@pytest.mark.slow
def test_a_longer_run_before_the_network_began_goes_on_with_the_autoencoder(from_nothing, tmp_path):
    again, _, _ = from_nothing
    other = tmp_path / "other"
    again(other, max_steps=2, stages=["vae"])
    again(other, max_steps=3, resume=True)
    assert (newest(other, "vae"), newest(other, "network")) == ("step-00000003", "step-00000003")


def test_an_autoencoder_that_was_cut_short_is_not_built_on(from_nothing, tmp_path):
    again, out, _ = from_nothing

    def cut(done, total, text=""):
        if text.startswith("vae") and done == 3:
            raise KeyboardInterrupt

    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        again(other, max_steps=4, save_every=2, progress=cut)
    with pytest.raises(TrainingError, match="vae comes first.*step 2 of 4"):  # though 2 are asked for today
        again(other, max_steps=2, resume=True, stages=["network"])
    shutil.rmtree(out / "checkpoints/vae")
    with pytest.raises(TrainingError, match="trained on a finished stage vae, but it has no checkpoint"):
        again(max_steps=4, resume=True)
    shutil.copytree(other / "checkpoints/vae", out / "checkpoints/vae")
    with pytest.raises(TrainingError, match="network was trained on a finished stage vae.*step 2 of 4"):
        again(max_steps=4, resume=True)


def test_an_autoencoder_that_was_changed_is_refused(from_nothing, tmp_path):
    again, out, _ = from_nothing
    other = tmp_path / "other"
    again(other, max_steps=3, stages=["vae"])
    recorded = json.loads((out / "checkpoints/network/step-00000002/state.json").read_text())["settings"]
    assert len(recorded["autoencoder"]) == 16
    shutil.rmtree(out / "checkpoints/vae")
    shutil.copytree(other / "checkpoints/vae", out / "checkpoints/vae")
    with pytest.raises(TrainingError, match="network/step-00000002 was trained on another autoencoder.*vae now; put"):
        again(max_steps=4, resume=True)
    assert newest(out, "network") == "step-00000002"


def test_other_data_is_refused(clips, tiny_base, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(clips, data)
    options = {"preset": "mini", "base": str(tiny_base), "device": "cpu", "batch_size": 2, "resume": True}
    phase1.train(TrainOptions(data, out, max_steps=1, **options))
    shutil.rmtree(sorted((data / "train").iterdir())[0])
    with pytest.raises(TrainingError, match=r"data was [0-9a-f]{16} and is [0-9a-f]{16}"):
        phase1.train(TrainOptions(data, out, max_steps=2, **options))


def test_too_little_room_for_checkpoints_is_said_first(clips, tiny_base, tmp_path, monkeypatch):
    out, real = tmp_path / "out", shutil.disk_usage
    full = real(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if path == out else real(path))
    with pytest.raises(TrainingError, match=r"3 checkpoints take [\d.]+ [GM]B, and 1.0 MB are free.*--keep"):
        phase1.train(TrainOptions(clips, out, preset="mini", base=str(tiny_base), **QUICK))


def test_a_step_must_divide_among_processes_and_parts():
    stage = LoopSettings(steps=1, learning_rate=1, batch_size=16)
    divided = recipes.resolve_settings("network", stage, None, 4, {"gradient_accumulation_steps": 2})
    assert (divided.batch_size, divided.gradient_accumulation_steps) == (16, 2)
    assert recipes.resolve_settings("network", stage, 3, 4, {"gradient_accumulation_steps": 2}).batch_size == 24
    with pytest.raises(UsageError, match=r"16 samples a step of network cannot be divided into 6 equal parts"):
        recipes.resolve_settings("network", stage, None, 3, {"gradient_accumulation_steps": 2})


def test_contradictions_are_usage_errors(tmp_path, capsys):
    (videos := tmp_path / "videos").mkdir()
    for words, sentence in (
        ("--preset paper", "starts from a base"),
        ("--preset estimator --base mini", "starts from scratch"),
        ("--preset mini --base mini --vae mini", "has no autoencoder yet"),
        ("--epochs 1 --max-steps 3", "both say how far"),
        ("--preset mini --image-encoder x", "--image-encoder goes with"),
        ("--pose-window 4", "--pose-window is 4"),
        ("--preset estimator --pose-window 1", "--pose-window means nothing to the preset estimator"),
        ("--size 64", "must be WIDTHxHEIGHT"),
        ("--size 64x88", "width and height must be multiples of 16"),
        ("--preset mini --base mini --size 64x80", "--size is for one that begins from scratch"),
        ("--ema 1", "--ema is 1"),
        ("--stage estimator", "has no stage estimator"),
    ):
        assert main(["train", str(videos), "-o", str(tmp_path / "out"), *words.split()]) == 2, words
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_launcher_says(monkeypatch):
    from dreampose_cli.training.launcher_env import local_rank, process_count, process_rank

    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (process_count(), process_rank(), local_rank()) == (1, 0, 0)
    monkeypatch.setenv("RANK", "3")
    assert process_rank() == 0  # alone, whatever is left over in the environment
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (process_count(), process_rank(), local_rank()) == (4, 3, 1)


def test_a_tracker_that_is_missing_is_said_first(tmp_path, monkeypatch, capsys):
    from dreampose_cli.training import distributed

    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    assert main(["train", str(tmp_path), "-o", str(tmp_path / "out"), "--tracker", "tensorboard"]) == 1
    assert "pip install 'dreampose-cli[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tensorboard_gets_the_figures(clips, tiny_base, tmp_path):
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    options = {"preset": "mini", "base": str(tiny_base), "batch_size": 1, "device": "cpu", "tracker": "tensorboard"}
    phase1.train(TrainOptions(clips, out, max_steps=20, validate_every=20, **options))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (out / "logs").rglob("events.*.0")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    assert {"loss", "learning_rate", "samples_per_second", "data_wait", "ssim", "l1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [20]
