"""base.json from anywhere: one sentence with file and key for everything that does not belong there."""

from __future__ import annotations

import json
import time

import pytest

from dreampose_cli.bases.config import BaseConfig, read_config
from dreampose_cli.bases.registry import bundled
from dreampose_cli.errors import BaseError
from dreampose_cli.networks.dreampose.presets import MINI

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
