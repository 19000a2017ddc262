"""The baselines of `eval --suite`: what each of them sees, and their rows, against a tiny Hub."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_hub
from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.errors import BaseError, EvaluationError, PoseError, UsageError
from dreampose_cli.names import BASELINE_PROMPT, BASELINES
from dreampose_cli.networks.baselines import Baseline, ReferenceUNet
from dreampose_cli.poses.files import open_poses
from dreampose_cli.poses.keypoint_files import KeypointWriter
from dreampose_cli.poses.keypoints import KeypointsInMemory, body_frame
from dreampose_cli.poses.skeleton_picture import draw_skeleton
from dreampose_cli.subjects import views
from dreampose_cli.workflows import suite
from dreampose_cli.workflows.options import SuiteOptions
from dreampose_cli.workflows.suite_baselines import skeleton

SIZE = (48, 32)
REPOSITORIES = (
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "lllyasviel/control_v11p_sd15_openpose",
    "h94/IP-Adapter",
)


def figure(shift: float = 0.0) -> np.ndarray:
    """A keypoint frame of a figure that stands in a picture of `SIZE`, its arms raised by `shift` pixels."""
    body = np.ones((18, 3), np.float32)
    body[:, :2] = [
        (16, 8), (16, 13), (12, 13), (9, 19), (8, 25), (20, 13), (23, 19), (24, 25), (13, 25),
        (13, 34), (13, 43), (19, 25), (19, 34), (19, 43), (15, 7), (17, 7), (14, 8), (18, 8),
    ]  # fmt: skip
    body[[3, 4, 6, 7], 1] -= shift
    return body_frame(body)


@pytest.fixture(scope="module")
def load(tiny_repositories):
    folders = [tiny_hub.build(name, tiny_repositories) for name in REPOSITORIES]
    return lambda name: Baseline(name, *folders, device=torch.device("cpu"), dtype=torch.float32)


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", BASELINES)
def test_frames_follow_the_pose_and_only_two_see_the_photo(name, load):
    baseline = load(name)
    assert baseline.size_of(photo(0)) == (64, 40)
    poses = KeypointsInMemory(np.stack([figure(), figure(12)]), SIZE, 10)
    drawn = [skeleton(poses, i, (64, 40)) for i in range(2)]

    def frames(picture, pictures=drawn, **changes):
        settings = {"prompt": "a person", "steps": 1, "seed": 3} | changes
        return list(baseline.frames(picture, pictures, **settings))

    standing, raised = frames(photo(0))
    assert standing.shape == (64, 40, 3) and standing.dtype == np.uint8
    assert (standing != raised).any()
    (other,) = frames(photo(1), drawn[:1])
    assert (other != standing).any() == (name != "controlnet")
    (again,) = frames(photo(0), drawn[:1])
    assert (again == standing).all()  # and nothing is left of the other photo
    assert (frames(photo(0), drawn[:1], seed=4)[0] != standing).any()
    assert (frames(photo(0), drawn[:1], prompt="a red dress")[0] != standing).any()


def test_the_null_half_does_not_see_the_photo(load):
    unet = load("controlnet")._pipeline.unet
    scheduler = load("controlnet")._pipeline.scheduler
    generator = torch.Generator().manual_seed(0)
    latents, tokens = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 4), (2, 77, tiny_hub.CONTEXT)))
    time = torch.tensor(500)
    with torch.inference_mode():
        plain = unet(latents, time, tokens).sample
        seen = [
            ReferenceUNet(unet, scheduler, picture, torch.zeros(1, 4, 8, 4))(latents, time, tokens).sample
            for picture in torch.randn(2, 1, 4, 8, 4, generator=generator)
        ]
    assert torch.allclose(seen[0][0], plain[0], atol=1e-5) and torch.allclose(seen[1][0], plain[0], atol=1e-5)
    assert (seen[0][1] - plain[1]).abs().max() > 1e-3 and (seen[0][1] - seen[1][1]).abs().max() > 1e-3


def test_skeletons_are_drawn_at_the_size_of_the_frames():
    poses = KeypointsInMemory([figure()], SIZE, 10)
    twice = figure()
    twice[:, :2] *= 2
    assert (skeleton(poses, 0, (96, 64)) == draw_skeleton(twice, (96, 64))).all()
    assert (poses.frame(0) == figure()).all()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two test clips of eight frames whose poses are keypoints, and the labels that they were drawn with, next to it."""
    from dreampose_cli.workflows.synth import write_dataset

    folder = tmp_path_factory.mktemp("baselines") / "clips"
    write_dataset(folder, subjects=2, test_subjects=2, frames=8, seed=5, png=True, size=SIZE)
    shutil.copytree(folder, folder.parent / "labels")
    for clip in (folder / "test").iterdir():
        (clip / "video.poses").unlink()
        with KeypointWriter(clip / "video.poses", SIZE, 10, source=clip.name, estimator=None) as writer:
            for i in range(8):
                writer.append(figure(i))
    return folder


@pytest.fixture(autouse=True)
def exact_photo_poses(monkeypatch, dataset):
    """The estimator of mannequins knows 128 x 160: the poses of tiny photos are the clip's."""

    def estimate(cache, picture, path, estimator, device, note=None):
        path = Path(path)
        return open_poses(dataset.parent / "labels/test" / path.parent.name / "video.poses").frame(int(path.stem))

    monkeypatch.setattr(views, "estimate_photo", estimate)


def asked(dataset, folder, base, *names, **changes):
    given = {"base": str(base), "compare": {name: name for name in names}, "frames": 2, "steps": 1}
    return SuiteOptions(dataset, folder, **given | changes)


@pytest.mark.slow
def test_a_suite_has_their_rows_and_fetches_the_weights_once(
    dataset, tiny_base, tiny_hub, tmp_path, monkeypatch, capsys
):
    tiny_hub.use(monkeypatch, tmp_path / "hf")
    folder = tmp_path / "run"
    words = ["eval", "--suite", dataset, "--base", tiny_base, "--frames", 2, "--steps", 1, "--json", "-o", folder]
    words += [word for name in BASELINES for word in ("--compare", name)]
    assert main([str(word) for word in words]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err.count("licence") == 3 and "lllyasviel/control_v11p_sd15_openpose" in captured.err
    fetched = tiny_hub.downloads()
    assert len(fetched) == len(set(fetched)) and not [
        name for name in fetched if name.endswith((".bin", ".ckpt", ".md", ".fp16.safetensors")) or "sdxl" in name
    ]
    rows = document["summary"]["variants"]
    assert list(rows) == ["copied", "untuned", *BASELINES]
    frames = {}
    for name in BASELINES:
        assert rows[name]["clips"] == 2 and 0 <= rows[name]["metrics"]["l1"] <= 1
        assert rows[name]["variant"]["baseline"] == "untuned"
        about = document["baselines"][name]
        assert about["prompt"] == BASELINE_PROMPT and about["steps"] == 1
        assert ("h94/IP-Adapter@" in str(about["weights"])) == (name == "ip-adapter")
        for clip in document["clips"]:
            made = list(media.open_frames(folder / "frames" / name / clip))
            assert [frame.shape for frame in made] == [(*SIZE, 3)] * 2
            frames[name, clip] = made[0]
    one, two = document["clips"]  # their poses are the same, and their people are not
    assert (frames["controlnet", one] == frames["controlnet", two]).all()
    for name in BASELINES[1:]:
        assert (frames[name, one] != frames[name, two]).any()
    assert {row["variant"] for row in csv.DictReader((folder / "results.csv").open())} >= set(BASELINES)

    requests = len(tiny_hub.requests)
    tiny_hub.use(monkeypatch, tmp_path / "hf", offline=True)
    suite.suite(asked(dataset, tmp_path / "offline", tiny_base, "controlnet", clips=1))
    assert len(tiny_hub.requests) == requests
    with pytest.raises(EvaluationError, match=r"other settings \(base controlnet\)"):
        suite.suite(asked(dataset, tmp_path / "offline", tiny_base, "controlnet", clips=1, prompt="a dancer"))
    with pytest.raises(UsageError, match=r"the prompt has \d+ tokens and the model reads 77"):
        suite.suite(asked(dataset, tmp_path / "long", tiny_base, "controlnet", prompt="dress " * 100))


def test_without_a_network_or_dwpose_nothing_is_begun(dataset, tiny_base, tiny_hub, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    tiny_hub.use(monkeypatch, tmp_path / "hf", offline=True)
    with pytest.raises(BaseError, match="stable-diffusion-v1-5") as raised:
        suite.suite(asked(dataset, folder, tiny_base, "controlnet"))
    assert str(raised.value).count("\n") == 0 and not folder.exists()
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    labels = dataset.parent / "labels"
    with pytest.raises(PoseError, match=r"mannequin-000000 has none: .* needs the package rtmlib") as raised:
        suite.suite(asked(labels, folder, tiny_base, "controlnet"))
    assert str(raised.value).count("\n") == 0 and not folder.exists()


@pytest.mark.slow
def test_labels_become_skeletons_by_dwpose(dataset, tiny_base, tiny_hub, tmp_path, monkeypatch):
    from dreampose_cli.poses import dwpose, estimator
    from dreampose_cli.workflows import suite_baselines

    people = np.zeros((1, 134, 2), np.float32)
    people[0, :18] = figure()[:18, :2]
    found = dwpose.DWPose(lambda picture: (people, np.full((1, 134), 0.9, np.float32)), "double")
    monkeypatch.setattr(dwpose, "load_dwpose", lambda *_, **__: found)
    monkeypatch.setattr(suite_baselines, "load_dwpose", lambda *_, **__: found)
    assert estimator.load_estimator(None, "dwpose") is found
    tiny_hub.use(monkeypatch, tmp_path / "hf")
    options = asked(dataset.parent / "labels", tmp_path / "run", tiny_base, "controlnet", clips=1)
    document, _ = suite.suite(options)
    assert document["summary"]["variants"]["controlnet"]["clips"] == 1
    assert document["summary"]["variants"]["untuned"]["metrics"]["warp"] is not None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--compare", "uv"], "must be NAME=BASE, such as uv=bases/uv, or one of controlnet, reference-only, ip-adapter"),
        (["--compare", "uv=nowhere at all"], "unknown base 'nowhere at all'"),
        (["--compare", "controlnet", "--compare", "controlnet"], "names controlnet twice"),
        (["--compare", "untuned=controlnet"], "choose another name for it"),
        (["--photo", "a.png"], "leave out clips, --per-frame, --poses, --photo and --align-by"),
    ],
)
def test_bad_requests_are_one_sentence(words, sentence, dataset, tiny_base, tmp_path, capsys):
    code = main([*map(str, ["eval", "--suite", dataset, "--base", tiny_base, "-o", tmp_path / "x", *words])])
    captured = capsys.readouterr()
    assert code in (1, 2) and captured.out == "" and captured.err.count("\n") == 1
    assert sentence in captured.err and not (tmp_path / "x").exists()
