"""`edit` and `render --edit`: regions of the body, soft edges, and the whole command against a tiny Hub."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import tiny_hub
from dreampose_cli import cache, media
from dreampose_cli.__main__ import main
from dreampose_cli.errors import BaseError, MediaError, OutputError, PoseError, UsageError
from dreampose_cli.media.compositing import composite, feather, read_mask
from dreampose_cli.media.metadata import NOTICE
from dreampose_cli.names import EDIT_REGIONS
from dreampose_cli.poses.regions import ARMS, HEAD, LEGS, TORSO, face_mask, region_mask
from dreampose_cli.workflows.edit import edit
from dreampose_cli.workflows.options import EditOptions, RenderOptions

SIZE = (200, 120)


@pytest.fixture(scope="module")
def pose():
    """A figure of boxes: head, torso, arms, hands, legs, feet, with a gap between the legs."""
    frame = np.zeros((3, *SIZE), np.float32)
    for part, rows, columns in (
        (23, (10, 40), (48, 60)), (24, (10, 40), (60, 72)), (2, (40, 100), (40, 80)), (16, (40, 90), (30, 40)),
        (15, (40, 90), (80, 90)), (4, (90, 100), (30, 40)), (3, (90, 100), (80, 90)), (10, (100, 180), (42, 56)),
        (9, (100, 180), (64, 78)), (6, (180, 190), (42, 56)), (5, (180, 190), (64, 78)),
    ):  # fmt: skip
        frame[0, slice(*rows), slice(*columns)] = part
    return frame


def test_regions_are_their_parts_and_a_little_of_the_background(pose):
    labels = pose[0]
    masks = {name: region_mask(pose, name, SIZE) for name in EDIT_REGIONS}
    for name, parts in (("torso", TORSO), ("legs", LEGS), ("clothes", (*TORSO, *LEGS, *ARMS))):
        own = np.isin(labels, parts)
        assert masks[name][own].all()
        assert not masks[name][(labels > 0) & ~own].any()  # never onto another part
        assert (masks[name] & (labels == 0)).any()
    assert not masks["background"][labels > 0].any()
    assert masks["background"][0, 0] and not masks["background"][41, 29]  # hands off the outline
    assert masks["hair"][11:15, 50:70].all() and masks["hair"][20, 45]  # the crown, and next to the head
    assert not (masks["hair"] & np.isin(labels, (*TORSO, *ARMS))).any()


def test_the_face_is_the_lower_part_of_the_head(pose):
    face = face_mask(pose, SIZE)
    assert face[22:40, 48:72].all() and not face[:15].any()
    assert not (face & region_mask(pose, "hair", SIZE) & np.isin(pose[0], HEAD)).any()
    assert not face_mask(np.where(np.isin(pose, HEAD), 0, pose), SIZE).any()


def test_regions_have_the_photos_size(pose):
    large = region_mask(pose, "torso", (400, 240))
    assert large.shape == (400, 240)
    assert abs(large.mean() - region_mask(pose, "torso", SIZE).mean()) < 0.01


def test_what_is_not_in_the_photo(pose):
    with pytest.raises(PoseError, match="shows no legs; choose another --where"):
        region_mask(np.where(np.isin(pose, LEGS), 0, pose), "legs", SIZE)
    with pytest.raises(PoseError, match="nobody is found in the photo, so there is no background"):
        region_mask(pose * 0, "background", SIZE)


def test_edges_are_soft_inwards_and_the_rest_is_exact():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    mask[2, 2] = True  # thinner than the edge: it does not vanish
    opacity = feather(mask, 4)
    assert (opacity[~mask] == 0).all() and (opacity[mask] > 0).all()
    assert np.allclose(opacity[20, 9:15], [0, 0.25, 0.5, 0.75, 1, 1])
    rng = np.random.default_rng(0)
    below, above = (rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(2))
    mixed = composite(below, above, opacity)
    assert (mixed[~mask] == below[~mask]).all()
    assert (mixed[opacity == 1] == above[opacity == 1]).all()
    half = below[20, 11] / 2 + above[20, 11] / 2
    assert np.abs(mixed[20, 11] - half).max() <= 0.5
    assert (composite(below, above, opacity * 0) == below).all()


def test_masks_from_files(tmp_path):
    file = tmp_path / "mask.png"
    Image.fromarray(np.pad(np.full((10, 20), 255, np.uint8), 5)).save(file)
    assert read_mask(file, (20, 30)).sum() == 200
    with pytest.raises(UsageError, match="mask.png is 30x20 and the photo 20x30; give a mask of the photo's size"):
        read_mask(file, (30, 20))
    Image.new("RGB", (30, 20)).save(file)
    with pytest.raises(MediaError, match="nowhere white"):
        read_mask(file, (20, 30))


@pytest.fixture
def model(tiny_repositories):
    return str(tiny_hub.build("timbrooks/instruct-pix2pix", tiny_repositories))


@pytest.fixture
def photo(clip, tmp_path):
    """A photo of a mannequin, 32 wide x 48 high, whose pose is the clip's first."""
    file = tmp_path / "anna.png"
    Image.fromarray(media.read_photo(sorted((clip / "frames").iterdir())[0])).save(file)
    return file


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"instruction": "  "}, UsageError, "the instruction is empty"),
        ({"instruction": "red " * 500}, UsageError, "has 500 words and the model reads about 50"),
        ({"where": "shoes"}, UsageError, "--where is 'shoes', but must be clothes"),
        ({"strength": 1.5}, UsageError, "--strength is 1.5, but must be between 0 and 1"),
        ({"guidance": 0.5}, UsageError, "--guidance is 0.5, but must be between 1 and 30"),
        ({"output": "out.jpg"}, UsageError, "out.jpg: an edited photo is a .png"),
        ({"model": "nowhere at all"}, BaseError, "neither a folder nor a repository"),
        ({"output": "PHOTO"}, OutputError, "anna.png is an input of this command too, and would be lost"),
        ({"photo": "none.jpg"}, MediaError, "none.jpg does not exist"),
    ],
)
def test_bad_requests_are_refused_without_weights(changes, error, words, photo, clip, tmp_path):
    changes = {name: photo if value == "PHOTO" else value for name, value in changes.items()}
    given = {
        "overwrite": True,
        "photo": photo,
        "instruction": "make it red",
        "output": tmp_path / "out.png",
        "photo_pose": clip / "video.poses",
    }
    with pytest.raises(error, match=words):
        edit(EditOptions(**{**given, **changes}))
    assert not (tmp_path / "out.png").exists()


def test_an_instruction_of_more_tokens_than_the_model_reads(photo, clip, model, tmp_path):
    words = " ".join(["antidisestablishmentarianism"] * 20)
    asked = EditOptions(photo, words, tmp_path / "out.png", photo_pose=clip / "video.poses", model=model, steps=1)
    with pytest.raises(UsageError, match=r"the instruction has \d+ tokens and the model reads 77, about 51 words"):
        edit(asked)


def test_a_folder_that_is_no_such_model(photo, clip, tmp_path):
    asked = EditOptions(
        photo, "make it red", tmp_path / "out.png", photo_pose=clip / "video.poses", model=str(tmp_path)
    )
    with pytest.raises(BaseError, match="has no model_index.json, so it is no InstructPix2Pix"):
        edit(asked)


def test_an_edit_keeps_what_lies_outside_and_is_made_once(photo, clip, model, tmp_path, monkeypatch):
    from dreampose_cli.networks import instruct_pix2pix

    runs = []
    made = instruct_pix2pix.edit_picture
    monkeypatch.setattr(instruct_pix2pix, "edit_picture", lambda *a, **k: (runs.append(1), made(*a, **k))[1])
    before = media.read_photo(photo)
    pose = clip / "video.poses"

    def edited(name, **more):
        options = EditOptions(photo, "make the dress red", tmp_path / name, photo_pose=pose, model=model, steps=2)
        result = edit(EditOptions(**{**vars(options), **more}))
        return media.read_photo(result.path), result

    from dreampose_cli.poses.files import open_poses

    frame = open_poses(pose).frame(0)
    face = face_mask(frame, before.shape[:2])
    whole, result = edited("whole.png", face=True)
    assert whole.shape == before.shape and result.changed > 0.9
    kept, _ = edited("kept.png")
    assert (kept[face] == before[face]).all() and (kept != before).any(axis=2).mean() > 0.5
    torso = region_mask(frame, "torso", before.shape[:2]) & ~face
    part, result = edited("torso.png", where="torso")
    assert (part[~torso] == before[~torso]).all() and (part[torso] != before[torso]).any()
    none, result = edited("none.png", strength=0.0)
    assert (none == before).all() and result.changed == 0
    mask = np.zeros(before.shape[:2], np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    left, _ = edited("left.png", where=str(tmp_path / "mask.png"))
    assert (left[:, 16:] == before[:, 16:]).all() and (left[:, :16] != before[:, :16]).any()
    assert len(runs) == 1  # the model ran once: all that differed was where its result went
    other, _ = edited("other.png", face=True, seed=1)
    assert len(runs) == 2 and (other != whole).any()
    about = media.read_metadata(tmp_path / "torso.png")
    assert b"trainedAlgorithmicMedia" in (tmp_path / "torso.png").read_bytes()
    assert about["notice"] == NOTICE and about["photo"] == "anna.png"
    assert about["edit"]["instruction"] == "make the dress red" and about["edit"]["where"] == "torso"
    assert str(tmp_path) not in json.dumps(about) and os.path.dirname(model) not in json.dumps(about)


def test_edit_fetches_its_model_once_and_render_animates_the_edit(
    tiny_hub, tiny_base, photo, clip, tmp_path, monkeypatch, capsys
):
    """The first in this process, the second offline in a fresh one, the third offline in this one."""
    home, pose = tmp_path / "hf", clip / "video.poses"
    words = ["edit", photo, "make the dress red", "--photo-pose", pose, "--steps", "2", "--where", "clothes"]
    tiny_hub.use(monkeypatch, home)
    assert main(list(map(str, [*words, "-o", tmp_path / "red.png"]))) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "red.png")
    assert said.err.count("licence: MIT") == 1 and "timbrooks/instruct-pix2pix" in said.err
    fetched = {name.removeprefix("timbrooks/instruct-pix2pix/") for name in tiny_hub.downloads("timbrooks")}
    assert "unet/diffusion_pytorch_model.safetensors" in fetched
    assert not [
        name for name in fetched if name.endswith((".ckpt", ".bin", ".md", ".fp16.safetensors")) or "safety" in name
    ]
    asked = len(tiny_hub.requests)
    command = [sys.executable, "-m", "dreampose_cli", *map(str, words), "-o", str(tmp_path / "again.png")]
    offline = tiny_hub.environment(home, offline=True)
    second = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0 and "licence" not in second.stderr, second.stderr
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "red.png").read_bytes()
    video = ["render", "--photo", photo, "--photo-pose", pose, "--poses", pose, "--base", tiny_base, "--steps", "1"]
    video += ["--edit", "make the dress red", "--edit-where", "clothes", "-o", tmp_path / "red.gif"]
    tiny_hub.use(monkeypatch, home, offline=True)
    assert main(list(map(str, video))) == 0, capsys.readouterr().err
    assert len(tiny_hub.requests) == asked
    about = media.read_metadata(tmp_path / "red.gif")
    assert about["who"] == "photo anna.png, edited"
    assert about["edit"]["instruction"] == "make the dress red" and "@" in about["edit"]["model"]
    assert {entry.kind for entry in cache.user_cache().list_entries()} == {"edit"}


def test_render_edits_photos_only(clip):
    from dreampose_cli.workflows.render import render

    with pytest.raises(UsageError, match="--edit needs --photo"):
        render(RenderOptions([clip / "video.poses"], "out.mp4", edit="make it red"))
    with pytest.raises(UsageError, match="--edit-where needs --edit"):
        render(RenderOptions([clip / "video.poses"], "out.mp4", edit_where="torso"))
