"""Descriptions from anywhere (base.json, configs of modules, jobs, manifests): one sentence with file and key for everything that
does not belong there."""

from __future__ import annotations

import json
import time

import pytest

from dreampose_cli.bases.components import read_component
from dreampose_cli.bases.config import BaseConfig, read_config
from dreampose_cli.bases.registry import bundled
from dreampose_cli.errors import BaseError, UsageError
from dreampose_cli.networks.dreampose.presets import MINI
from dreampose_cli.workflows.batch.jobs import read_jobs
from dreampose_cli.workflows.batch.manifest import read_lines

TEXT = MINI.to_json()


def changed(path: str, value) -> str:
    """The description of mini with one setting changed; `path` as in "tuning.steps"."""
    document = json.loads(TEXT)
    *groups, name = path.split(".")
    place = document
    for group in groups:
        place = place[group]
    place[name] = value
    return json.dumps(document)


def test_what_the_presets_say_is_accepted():
    assert BaseConfig.from_json(TEXT, "base.json") == MINI
    assert read_config(bundled()).name == "mini"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", 5),
        ("name", ["mini"]),
        ("name", "a\0b"),
        ("name", "x" * 10_000_000),
        ("name", "\ud800"),
        ("resolution", 128),
        ("resolution", [128]),
        ("resolution", [128, 160, 3]),
        ("resolution", ["128", "160"]),
        ("resolution", [-128, 160]),
        ("resolution", [128, 10**9]),
        ("resolution", None),
        ("fit", 0),
        ("fit", "cover"),
        ("people", "cats"),
        ("estimator", ["mini"]),
        ("poses.count", "5"),
        ("poses.count", -5),
        ("poses.count", 2.5),
        ("poses.count", True),
        ("poses.training_fps", 1e308),
        ("poses.training_fps", 0),
        ("poses.resize", ["nearest"]),
        ("poses", []),
        ("poses", 3),
        ("sampling.steps", -1),
        ("sampling.steps", 10**6),
        ("sampling.sampler", "euler"),
        ("tuning.steps", -1),
        ("tuning.batch_size", 0),
        ("tuning.learning_rate", "fast"),
        ("tuning.learning_rate", -1),
        ("tuning.decay", 2**31),
        ("tuning.part_dropout", 2**31),
        ("tuning.decoder_views", 1000),
        ("tuning.decoder_predictions", -1),
        ("provenance", "mine"),
        ("provenance", {"a": 10**400}),
        ("provenance", {"a": [[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]}),
        ("figures", {"ssim": 1e300}),
        ("surprise", 1),
    ],
)
def test_what_does_not_belong_there_is_one_sentence_with_file_and_key(path, value):
    with pytest.raises(BaseError) as caught:
        BaseConfig.from_json(changed(path, value), "some/base.json")
    sentence = str(caught.value)
    assert "some/base.json" in sentence
    assert len(sentence) < 400 and "\n" not in sentence
    assert path.split(".")[-1] in sentence or "larger than 4 MB" in sentence or path in ("poses",), sentence


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"a": ' * 50_000,
        "9" * 6000,
        '{"format": NaN}',
        '{"format": Infinity}',
        TEXT[: len(TEXT) // 2],
        TEXT.replace("128", "1" + "0" * 6000),
        TEXT.replace('"version"', '"edition"'),
    ],
)
def test_what_is_no_description_is_refused_quickly(text):
    began = time.monotonic()
    with pytest.raises(BaseError, match=r"some/base\.json"):
        BaseConfig.from_json(text, "some/base.json")
    assert time.monotonic() - began < 5


# ---- the configs of modules


@pytest.mark.parametrize("name", ["unet/config.json", "image_encoder/config.json", "scheduler/scheduler_config.json"])
def test_the_configs_of_mini_are_accepted(name):
    file = bundled() / name
    weights = next(file.parent.glob("*.safetensors"), None)
    assert read_component(file, weights) == json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"num_hidden_layers": 48_000}, "num_hidden_layers"),
        ({"num_hidden_layers": "12"}, "num_hidden_layers"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"hidden_size": [768]}, "hidden_size"),
        ({"vision_config": {"image_size": 2**31}}, "vision_config.image_size"),
        ({"vision_config": [1]}, "vision_config"),
        ({"block_out_channels": [64] * 100_000}, "block_out_channels"),
        ({"block_out_channels": [64, 10**8]}, "block_out_channels"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"block_out_channels": 64}, "block_out_channels"),
        ({"layers_per_block": 10**6}, "layers_per_block"),
        ({"transformer_layers_per_block": [1, [1, 10**6]]}, "transformer_layers_per_block"),
        ({"cross_attention_dim": 10**10}, "cross_attention_dim"),
        ({"down_block_types": ["DownBlock2D"] * 50}, "down_block_types"),
        ({"sample_size": [10**9, 10**9]}, "sample_size"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ({"beta_end": 1e300}, "beta_end"),
        ({"crop_size": {"height": 10**7, "width": 2}}, "crop_size"),
        ({"x": "y" * 10_000_000}, "larger than"),
        ({"x": "a\0b"}, "x"),
        ({"x": 10**400}, "x"),
    ],
)
def test_what_would_take_the_machines_memory_is_one_sentence(config, key, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(BaseError) as caught:
        read_component(file)
    assert str(file) in str(caught.value) and key in str(caught.value)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_config_describes_no_more_than_its_weights_hold(tmp_path):
    file, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    weights.write_bytes(b"x" * 1000)
    file.write_text(json.dumps({"num_hidden_layers": 500, "hidden_size": 16_384}), encoding="utf-8")
    with pytest.raises(BaseError, match=r"at least 536,870,912,000 parameters, more than model.safetensors holds"):
        read_component(file, weights)
    file.write_text(json.dumps({"block_out_channels": [65_536] * 4, "layers_per_block": 2}), encoding="utf-8")
    with pytest.raises(BaseError, match="they do not belong together"):
        read_component(file, weights)
    file.write_text(json.dumps({"num_hidden_layers": 1, "hidden_size": 8}), encoding="utf-8")
    assert read_component(file, weights)


def test_a_base_with_such_a_config_is_refused_before_anything_is_built(tiny_base, tmp_path):
    import shutil

    from dreampose_cli.networks.storage import load_base

    for name in ("unet", "vae", "image_encoder"):
        folder = shutil.copytree(tiny_base, tmp_path / name)
        file = folder / name / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        key = "num_hidden_layers" if name == "image_encoder" else "layers_per_block"
        file.write_text(json.dumps({**config, key: 48_000}), encoding="utf-8")
        with pytest.raises(BaseError, match=rf"{name}.config.json cannot be used: {key} is not what it can be"):
            load_base(folder)


# ---- jobs and manifests


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("fps", 1e308, "fps is 1e+308, but must be between 0 and 1000"),
        ("fps", float("inf"), "fps"),
        ("fps", 10**400, "fps"),
        ("fps", "9" * 6000, "fps"),
        ("fps", True, "fps"),
        ("steps", [3], "steps is [3], but must be a number"),
        ("steps", -1, "steps is -1, but must be between 1 and 1000"),
        ("steps", 10**4000, "steps"),
        ("steps", 2.5, "steps is 2.5, but must be a whole number"),
        ("batch-size", 2**31, "batch-size is 2147483648"),
        ("learning-rate", 5e8, "learning-rate is 5e+08, but must be between 0 and 1"),
        ("start", 1e308, "start"),
        ("seed", {"a": 1}, "seed"),
        ("audio", 3, "audio is 3, but must be true or false"),
        ("guidance-interval", {"a": 1}, "guidance-interval"),
        ("output", "a\0b.mp4", "output cannot be used"),
        ("output", "\ud800.mp4", "output cannot be used"),
        ("output", "x" * 5000, "output cannot be used"),
        ("poses", {}, "poses"),
        ("photo", [["p.jpg"]], "photo"),
        ("base", "y" * 900_000, "base cannot be used"),
        ("estimator", "x" * 100_000, "estimator cannot be used"),
        ("name", "../x", "cannot be a name"),
        ("\ud800", 1, "a field cannot be used"),
        ("a\0", 1, "a field cannot be used"),
        ("surprise", 1, "has the unknown field surprise"),
    ],
)
def test_a_job_that_cannot_be_is_one_sentence_with_file_line_and_field(field, value, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jpg").touch()
    (tmp_path / "d.mp4").touch()
    file = tmp_path / "jobs.jsonl"
    file.write_text(json.dumps({"photo": "p.jpg", "poses": "d.mp4", field: value}) + "\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_jobs(file, tmp_path / "out")
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"{file}, line 1: ") and words in first
    assert len(first) < 800
    str(caught.value).encode()


@pytest.mark.parametrize("text", ["[" * 60_000, '{"seed": ' + "9" * 6000 + "}", "[]", "\0", '{"a": NaN}', "{"])
def test_lines_that_are_no_jobs(text, tmp_path):
    file = tmp_path / "jobs.jsonl"
    file.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_jobs(file, tmp_path / "out")
    assert str(caught.value).startswith(f"{file}, line 1: ")
    assert "sys.set_int" not in str(caught.value)


def test_lines_of_a_manifest_that_nobody_wrote_are_left_out(tmp_path):
    good = {"event": "done", "kind": "video", "step": "1", "seconds": 2.5, "result": {"frames": 3, "bytes": 7}}
    bad = [
        {**good, "seconds": 10**400},
        {**good, "seconds": -1},
        {**good, "seconds": "2"},
        {**good, "result": []},
        {**good, "result": {"frames": -3}},
        {**good, "result": {"frames": True}},
        {**good, "step": 1},
        {**good, "event": None},
        {"kind": "video"},
    ]
    lines = [json.dumps(good), *map(json.dumps, bad), "[" * 60_000, "9" * 6000, '{"event": "done", "seconds": NaN}']
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert list(read_lines(tmp_path)) == [good]
