"""The experiment on PoseMaster Fusion's claims (benchmarks/fusion_findings.py): how its bases differ, and what it measures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreampose_cli.__main__ import main
from dreampose_cli.bases.config import read_config
from dreampose_cli.networks.animate import presets, reference_attention

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def findings():
    if not (FOLDER / "fusion_findings.py").exists():
        pytest.skip("the benchmarks are not part of this copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        spec = importlib.util.spec_from_file_location("fusion_findings", FOLDER / "fusion_findings.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_bases_that_are_compared_differ_in_one_option(findings, tmp_path):
    chosen = Namespace(output=tmp_path, base="mini", steps=5, batch_size=None, size=None, save_every=2, device="cpu", dtype="auto")
    commands = {name: list(map(str, findings.training(chosen, name))) for name in findings.VARIANTS}
    plain = [word for word in commands["full"] if word != str(tmp_path / "bases" / "full")]
    for name, words in commands.items():
        rest = [word for word in words if word != str(tmp_path / "bases" / name)]
        for word in findings.VARIANTS[name]:
            rest.remove(word)
        assert rest == [word for word in plain if name != "again" or word not in ("--seed", "0")], name


def test_what_is_measured_tells_the_truth_from_an_average_person_and_from_another(findings):
    """Of the truth all is explained and all texture there; of everybody's mean nothing; of another person's pictures less."""
    truth = [findings.Subject.draw(i, 2, (80, 64)) for i in range(3)]
    own = [subject.pictures for subject in truth]
    right = findings.score(truth, own)
    assert right["explained"] == [1, 1, 1] and right["figure_l1"] == [0, 0, 0]
    assert right["texture"] == pytest.approx([1, 1, 1])
    assert all(0 < value < 0.2 for value in right["drift"])  # light
    exchanged = findings.score(truth, [own[1], own[2], own[0]])
    assert max(exchanged["explained"]) < 0 and min(exchanged["figure_l1"]) > 0.02
    grey = [np.full_like(pictures, 128) for pictures in own]
    assert findings.score(truth, grey)["drift"] == pytest.approx([0, 0, 0], abs=1e-6)


def test_differences_count_where_they_pass_their_spread_and_that_of_seeds(findings):
    scores = {"full": {"texture": [0.5, 0.5, 0.5]}, "again": {"texture": [0.6, 0.6, 0.6]}}
    for name, values in {"without": [0.1, 0.2, 0.1], "global": [0.45, 0.45, 0.45], "apart": [0.9, None, 0.1]}.items():
        scores[name] = {"texture": values}
    assert findings.difference(scores, "without", "texture").endswith("worse")
    assert findings.difference(scores, "global", "texture").endswith("=")  # two seeds are further apart
    assert findings.difference(scores, "apart", "texture").endswith("=")
    assert findings.difference(scores, "again", "texture") == "+0.100 ± 0.000 better"


@torch.no_grad()
@pytest.mark.parametrize("choice", ["all", "global", "none"])
def test_what_is_read_of_the_photo(choice):
    """A token for each place, their mean, or nothing: then the photo changes nothing. The weights are the same in number."""
    small = dataclasses.replace(presets.SMALL, resolution=(48, 32))
    network = presets.build(0, presets.OVERRIDES["--reference"](small, choice))
    views = network.views(np.zeros((1, 48, 32, 3), np.uint8))
    latents = torch.randn(1, 8, 12, 8)
    reference = [network.reference(dataclasses.replace(views, latents=latents * scale)) for scale in (1, 3)]
    tokens = {bank.shape[1] for bank in reference[0].bank.values()}
    assert tokens == {"all": {6, 24, 96}, "global": {1}, "none": set()}[choice]
    condition = network.condition(reference[0], torch.zeros(1, 1, 3, 48, 32))
    one, other = (network.predict(torch.zeros(1, 8, 12, 8), torch.tensor(500), condition, r) for r in reference)
    assert torch.equal(one, other) == (choice == "none")


def test_where_weights_learn_attention_is_the_same():
    """In 32 bits and outside of autocast, whatever the rest is computed in."""
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    weights = torch.einsum("bnhc,bmhc->bhnm", query.view(2, 5, 4, 4), key.view(2, 7, 4, 4)) / 2
    expected = torch.einsum("bhnm,bmhc->bnhc", weights.softmax(-1), value.view(2, 7, 4, 4)).flatten(2)
    assert torch.allclose(reference_attention.attend(query, key, value, 4), expected, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = reference_attention.attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), 4)
    assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), expected, atol=0.05)
    network = presets.build(0, dataclasses.replace(presets.SMALL, resolution=(48, 32)))
    views = dataclasses.replace(network.views(np.zeros((2, 48, 32, 3), np.uint8)), latents=torch.randn(2, 8, 12, 8))
    predictions = []
    for learns in (False, True):
        with torch.set_grad_enabled(learns):
            reference = network.reference(views)
            condition = network.condition(reference, torch.zeros(2, 1, 3, 48, 32)).drop(torch.tensor([False, True]), False)
            predictions.append(network.predict(torch.ones(2, 8, 12, 8), torch.tensor(500), condition, reference).detach())
    assert torch.allclose(*predictions, atol=1e-5)


@pytest.mark.slow
def test_the_experiment_from_clips_to_tables(findings, tiny_base, tmp_path, monkeypatch):
    """All of it at tiny size: the bases share what they can, pictures are made once, tables are written."""
    sampling = dataclasses.replace(presets.SMALL.sampling, steps=2)
    monkeypatch.setattr(presets, "SMALL", dataclasses.replace(presets.SMALL, resolution=(48, 32), sampling=sampling))
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "cache"))
    ran = []

    def here(self, job):
        ran.append([str(word) for word in job[1]])
        return job[0], main([*ran[-1], *(["--size", "32x48"] if ran[-1][0] == "synth" else []), "-q"])

    monkeypatch.setattr(findings.Jobs, "_one", here)
    out, page = tmp_path / "out", tmp_path / "results.md"
    words = ["-o", out, "--base", tiny_base, "--clips", 2, "--steps", 2, "--batch-size", 2, "--subjects", 2, "--poses", 2]
    words += ["--sampling-steps", 1, "--device", "cpu", "--dtype", "bfloat16"]
    assert findings.main([str(word) for word in words]) == 0
    assert len(ran) == 2 + len(findings.VARIANTS)  # the clips, and what `full` and `apart` share
    networks = {name: read_config(out / "bases" / name).network for name in findings.VARIANTS}
    assert networks["without"].fused_blocks == "none" and networks["global"].reference_tokens == "mean"
    assert networks["full"] == networks["apart"] == networks["again"]
    full, apart = (
        sorted((out / "bases" / name / "checkpoints" / "appearance").glob("step-*"))[-1] for name in ("full", "apart")
    )
    assert (full / "weights.safetensors").read_bytes() == (apart / "weights.safetensors").read_bytes()
    document = json.loads((out / "results.json").read_text())
    assert set(document["scores"]) == {"photo", "truth", *findings.VARIANTS}
    assert document["scores"]["full"] != document["scores"]["apart"]
    page.write_text(f"before\n{findings.BEGIN}\nold\n{findings.END}\nafter\n")
    assert findings.main(["-o", str(out), "--write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert all(findings.TITLES[name] in text for name in findings.VARIANTS) and (tmp_path / "images" / "fusion.jpg").exists()
    ran.clear()
    stamp = {file: file.stat().st_mtime_ns for file in (out / "pictures").rglob("*.png")}
    assert findings.main([str(word) for word in words]) == 0
    assert stamp and stamp == {file: file.stat().st_mtime_ns for file in (out / "pictures").rglob("*.png")}
