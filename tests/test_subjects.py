"""Tune and render: the cache, resuming, what is computed and how often, and the real command line at tiny size."""

import dataclasses
import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from poses_in_memory import PosesInMemory

from dreampose_cli import cache as store
from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import MediaError, OutputExistsError, StoreError, SubjectError, UsageError
from dreampose_cli.inference.batch_plan import SMALLEST, BatchPlan
from dreampose_cli.inference.clip import pose_windows
from dreampose_cli.inference.denoise import RenderSettings, prepare, render_frames
from dreampose_cli.networks.storage import load_base
from dreampose_cli.poses.files import open_poses
from dreampose_cli.poses.sequence import subsequence
from dreampose_cli.subjects.views import SubjectPhotos
from dreampose_cli.training import predictions, tuning
from dreampose_cli.training.autoencoder import ReconstructionTask, Shift, colour_loss, reconstruction_loss
from dreampose_cli.training.crops import CropSource, random_crop
from dreampose_cli.training.loop import LoopSettings, SampleRng
from dreampose_cli.training.predictions import predict_photos
from dreampose_cli.workflows.options import RenderOptions, TuneOptions
from dreampose_cli.workflows.render import render
from dreampose_cli.workflows.tune import tune


@pytest.fixture
def photo(clip):
    return clip / "frames" / "00000.png"


def test_tune_once(tiny_base, clip, photo, subject):
    assert not subject.cached and (subject.path / "subject.json").exists()
    again = tune(TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=2, decoder_steps=2))
    assert again.cached and again.id == subject.id
    other = tune(TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=3, decoder_steps=2))
    assert other.id != subject.id
    assert store.user_cache().last_subject() == other.id


def test_tuning_changes_unet_adapter_and_decoder_only(tiny_base, subject):
    from safetensors.torch import load_file

    base = load_base(tiny_base)
    for name, module in (("unet", base.unet), ("adapter", base.adapter), ("vae.decoder", base.vae.decoder)):
        tuned = load_file(subject.path / f"{name}.safetensors")
        changed = [key for key, value in module.state_dict().items() if not torch.equal(tuned[key].float(), value)]
        assert changed, name
    assert {p.name for p in subject.path.glob("*.safetensors")} == {
        "unet.safetensors", "adapter.safetensors", "vae.decoder.safetensors",
    }  # fmt: skip


def test_an_interrupted_tune_resumes_to_the_same_subject(tiny_base, clip, photo, subject, monkeypatch, cache):
    whole = {p.name: p.read_bytes() for p in subject.path.glob("*.safetensors")}
    store.remove(store.user_cache(), store.user_cache().find_subject(subject.id))
    monkeypatch.setattr(tuning, "max", lambda a, b: 1, raising=False)  # a checkpoint after every step

    class Killed(Exception):
        pass

    def kill(done, total, note=""):
        if done == 3:
            raise Killed

    options = {"base": str(tiny_base), "poses": [clip / "video.poses"], "steps": 2, "decoder_steps": 2}
    with pytest.raises(Killed):
        tune(TuneOptions([photo], **options), progress=kill)
    notes = []
    again = tune(TuneOptions([photo], **options), note=notes.append)
    assert again.id == subject.id and not again.cached
    assert any("resumed from step" in note for note in notes)
    assert {p.name: p.read_bytes() for p in again.path.glob("*.safetensors")} == whole


def test_a_tune_killed_before_it_was_published_is_not_tuned_again(tiny_base, photo, clip, subject, monkeypatch):
    partial = store.user_cache().path_of("partial", subject.id)
    partial.parent.mkdir(exist_ok=True)
    subject.path.rename(partial)
    (partial / "checkpoints" / "network" / "step-00000002").mkdir(parents=True)  # half removed
    (partial / "checkpoints" / "network" / "step-00000002" / "state.json").write_text("{}")
    monkeypatch.setattr(tuning, "fit_subject", None)
    options = {"base": str(tiny_base), "poses": [clip / "video.poses"], "steps": 2, "decoder_steps": 2}
    again = tune(TuneOptions([photo], name="anna", **options))
    assert (again.id, again.name) == (subject.id, "anna")
    assert not (again.path / "checkpoints").exists() and not partial.exists()
    assert store.user_cache().find_subject("anna").id == subject.id


def test_a_disk_that_is_full_while_tuning_is_the_caches(tiny_base, clip, photo, cache, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 8575488 vs 8575380")

    monkeypatch.setattr("dreampose_cli.training.checkpoints.torch.save", full)
    options = TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=2, decoder_steps=2)
    with pytest.raises(StoreError, match=f"disk of the cache {cache} is full"):
        tune(options)
    monkeypatch.undo()
    monkeypatch.setenv("DREAMPOSE_CACHE", str(cache))
    assert not tune(options).cached


def test_random_crops_move_a_picture_and_its_pose_together():
    height, width = 48, 32
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 5, columns * 7, 0 * rows], -1).astype(np.uint8)
    pose = np.stack([0 * rows, rows / height, columns / width]).astype(np.float32)
    crop, labels = random_crop(np.random.default_rng(0), picture, pose, 0.7)
    assert crop.shape == picture.shape and labels.shape == pose.shape
    assert not np.array_equal(labels, pose)
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(crop[inner][..., 0] / 5 - labels[1][inner] * height).max() < 1.2
    assert np.abs(crop[inner][..., 1] / 7 - labels[2][inner] * width).max() < 1.2


@pytest.mark.parametrize("several", [True, False])
def test_of_several_photos_the_others_condition(tiny_base, several):
    network = load_base(tiny_base)
    if not several:  # as a base without a surface code
        photo = dataclasses.replace(network.settings.photo, surface_code=False)
        network.config = dataclasses.replace(network.config, network=dataclasses.replace(network.settings, photo=photo))
    shades = np.array([0, 100, 200], np.uint8)
    pictures = np.broadcast_to(shades[:, None, None, None], (3, 48, 32, 3))
    poses = np.broadcast_to(shades[:, None, None, None] / np.float32(255), (3, 3, 48, 32))  # U and V say of which photo a pose is
    settings = dataclasses.replace(network.config.tuning, part_dropout=0.0)
    batch = CropSource(network, pictures, poses, settings).batch([SampleRng.of(1, index) for index in range(12)])
    assert batch.views.together == (2 if several else 1)
    targets = (batch.windows[:, 0, 1, 0, 0] * 255).round().int().tolist()
    seen = batch.views.pictures[:, 0, 0, 0].reshape(12, -1).tolist()
    assert set(targets) == {0, 100, 200}
    others = [{0, 100, 200} - {target} for target in targets]
    assert all(set(row) == other if several else row[0] in other for row, other in zip(seen, others, strict=True))
    alone = CropSource(network, pictures[1:2], poses[1:2], settings).batch([SampleRng.of(1, 0)])
    assert alone.views.together == 1 and alone.views.pictures[0, 0, 0, 0] == 100


def test_the_decoder_sees_its_photos_elsewhere_too(tiny_base):
    network = load_base(tiny_base)
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (2, 48, 32, 3), np.uint8)
    plain = ReconstructionTask(network, pictures, ["vae.decoder"])
    assert plain.load([SampleRng.of(0, index) for index in range(4)]) == [0, 1, 0, 1] and len(plain.target) == 2
    task = ReconstructionTask(network, pictures, ["vae.decoder"], views=5)
    rows = task.load([SampleRng.of(0, index) for index in range(80)])
    assert rows == task.load([SampleRng.of(0, index) for index in range(80)])  # it resumes
    assert [row for index, row in enumerate(rows) if index // 2 % 4 == 0] == [0, 1] * 10
    views = [(index % 2, row) for index, row in enumerate(rows) if index // 2 % 4]
    assert all(2 + 5 * photo <= row < 7 + 5 * photo for photo, row in views) and {row for _, row in views} == set(range(2, 12))
    # Whole pixels, of which none is made up: what is shifted, mirrored or not, lies within the photo as it was.
    mirrored = set()
    for row in range(2, 12):
        photo = pictures[(row - 2) // 5]
        shown = ((task.target[row].permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(np.uint8)
        inner = shown[2:-2, 2:-2]  # by at most 1/16 of 32 pixels
        found = [
            flip
            for flip in (False, True)
            for down in range(-2, 3)
            for across in range(-2, 3)
            if np.array_equal(inner, np.roll(photo, (down, across), (0, 1))[:, :: -1 if flip else 1][2:-2, 2:-2])
        ]
        assert len(found) == 1, row
        mirrored.update(found)
    assert mirrored == {False, True}


def test_the_decoder_learns_colours_from_what_the_base_makes_of_a_photo(tiny_base):
    network = load_base(tiny_base)
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (2, 48, 32, 3), np.uint8)
    poses = np.zeros((2, 3, 48, 32), np.float32)
    poses[0, :, 8:40, 10:22] = 0.5
    poses[0, 0, 8:40, 10:22] = 1
    latents, targets = predicted = predict_photos(network, pictures, poses, 3)
    assert latents.shape == (6, network.latent_channels, *network.latent_size) and not latents.is_inference()
    assert len({tuple(each.flatten().tolist()) for each in latents}) == 6
    again = predict_photos(network, pictures, poses, 3)
    assert torch.equal(latents, again[0]) and np.array_equal(targets, again[1])  # it resumes
    for row, target in enumerate(targets):
        whole = [
            (down, across)
            for down in range(-2, 3)
            for across in range(-2, 3)
            if np.array_equal(target[2:-2, 2:-2], np.roll(pictures[row // 3], (down, across), (0, 1))[2:-2, 2:-2])
        ]
        assert len(whole) == 1, row

    task = ReconstructionTask(network, pictures, ["vae.decoder"], views=5, predicted=predicted)
    rows = task.load([SampleRng.of(0, index) for index in range(80)])
    assert [row >= 12 for row in rows] == [False, False, True, True] * 20
    assert all((row - 12) // 3 == index % 2 for index, row in enumerate(rows) if row >= 12) and set(rows) == set(range(18))
    # What the batch holds of both kinds is weighed as it would be one by one.
    settings = LoopSettings(1, 1e-3, 4)
    alone = [task.loss([row], 0, settings) for row in (0, 12, 13)]
    together = task.loss([0, 12, 13], 0, settings)
    assert torch.allclose(together, torch.stack(alone).mean(), rtol=1e-4)


def test_a_predictions_pose_is_shifted_with_the_photo_it_is_compared_with(tiny_base, monkeypatch):
    network, asked = load_base(tiny_base), []

    def render(network, prepared, windows, settings, batch_plan):
        asked.append(windows[0].numpy())
        return torch.zeros(1, network.latent_channels, *network.latent_size)

    monkeypatch.setattr(predictions, "render_latents", render)
    body = np.zeros((48, 32), np.uint8)
    body[8:40, 10:22] = 255
    _, targets = predict_photos(network, np.repeat(body[None, ..., None], 3, 3), np.stack([body] * 3)[None] / np.float32(255), 9)
    for window, target in zip(asked, targets, strict=True):
        assert len(window) == network.config.poses.count
        assert all(np.array_equal(pose, target.transpose(2, 0, 1) / 255) for pose in window)
    assert len({target.tobytes() for target in targets}) > 4


def test_a_subjects_decoder_is_tuned_on_predictions_where_the_base_says_so(tiny_base):
    pictures = np.random.default_rng(3).integers(0, 256, (1, 48, 32, 3), np.uint8)
    photos = SubjectPhotos(pictures, np.ones((1, 3, 48, 32), np.float32), [None])
    tuned = []
    for count in (0, 0, 2):
        network = load_base(tiny_base)
        preset = dataclasses.replace(network.config.tuning, steps=0, decoder_steps=2, decoder_predictions=count)
        tuned.append(tuning.fit_subject(network, photos, preset, 0, None, None)["vae.decoder"])
    plain, again, predicted = tuned
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert any(not torch.equal(plain[name], predicted[name]) for name in plain)


def test_detail_within_a_block_is_no_matter_of_colour():
    detail = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)[None, None]
    flat = torch.zeros(1, 1, 16, 16)
    assert colour_loss(detail, flat, 4) == 0 and colour_loss(flat + 0.1, flat, 4) == pytest.approx(0.2)
    assert reconstruction_loss(detail, flat, 4) > 1


def test_a_pose_is_shifted_as_its_picture_is():
    body = np.zeros((6, 5), np.float32)
    body[1:4, 2:4] = 1
    shift = Shift(2, -1)
    assert np.argwhere(shift.of_pose(np.stack([body] * 3))[2]).tolist() == [[r, c] for r in (3, 4, 5) for c in (1, 2)]
    picture = np.repeat((body * 255).astype(np.uint8)[..., None], 3, 2)
    assert np.array_equal(shift.of_picture(picture)[..., 0] / 255, shift.of_pose(body[None].repeat(3, 0))[0])
    assert not Shift(-6, 0).of_pose(np.stack([body] * 3)).any()  # nothing comes in again on the other side


def counting(base):
    """Counts of what a base computes: UNet rows, decodes, encodes, CLIP passes."""
    counts = dict.fromkeys(("unet", "decode", "encode", "clip"), 0)

    def count(module, key):
        inner = module.forward

        def forward(*args, **kwargs):
            first = args[0] if args else kwargs["pixel_values"]
            counts[key] += len(first)
            return inner(*args, **kwargs)

        module.forward = forward

    count(base.unet, "unet")
    count(base.vae.decoder, "decode")
    count(base.vae.encoder, "encode")
    count(base.modules["image_encoder"], "clip")
    return counts


@pytest.mark.parametrize(("guidance", "rows"), [((2.0, 1.5), 3), ((1.5, 1.5), 2), ((1.0, 1.0), 1)])
def test_a_frame_costs_its_rows_and_one_decode(tiny_base, clip, photo, guidance, rows):
    base = load_base(tiny_base)
    counts = counting(base)
    poses = open_poses(clip / "video.poses")
    prepared = prepare(base, media.read_photo(photo), poses.frame(0))
    assert (counts["encode"], counts["clip"]) == (1, 1)  # the photo, once; the null image of this adapter is zeros
    settings = RenderSettings("ddim", 3, dict(zip(("image", "pose"), guidance, strict=True)))
    frames = list(render_frames(base, prepared, pose_windows(base, poses), settings, BatchPlan(3, decoded=2)))
    assert len(frames) == len(poses) == 8
    assert counts == {"unet": 8 * 3 * rows, "decode": 8, "encode": 1, "clip": 1}


def test_batching_does_not_change_a_frame(tiny_base, clip, photo):
    base = load_base(tiny_base)
    poses = open_poses(clip / "video.poses")
    prepared = prepare(base, media.read_photo(photo), poses.frame(0))
    settings = RenderSettings("pndm", 3, {"image": 2.0, "pose": 1.5}, seed=4)
    one, many = (
        list(render_frames(base, prepared, pose_windows(base, poses), settings, batch_plan))
        for batch_plan in (SMALLEST, BatchPlan(5))
    )
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(one, many, strict=True)) <= 1


def test_windows_are_taken_at_the_training_rate(tiny_base):
    base = load_base(tiny_base)  # trained at 12 frames a second
    frames = []
    for i in range(20):
        pose = np.zeros((3, 48, 32), np.float32)
        pose[0], pose[1] = 2, (i + 1) / 20
        frames.append(pose)
    windows = list(pose_windows(base, PosesInMemory(frames, 24.0)))
    assert len(windows) == 20
    seen = [round(float(pose[1, 0, 0]) * 20) - 1 for pose in windows[10]]
    assert seen == [6, 8, 10, 12, 14]
    assert [round(float(pose[1, 0, 0]) * 20) - 1 for pose in windows[0]] == [0, 0, 0, 2, 4]


def test_windows_of_an_official_base_are_the_neighbours_that_are_rendered(tiny_base, tmp_path):
    base = load_base(tiny_base)
    poses = dataclasses.replace(base.config.poses, training_fps=None, window_rule="current")
    base.config = dataclasses.replace(base.config, poses=poses)
    for i in (2, 4, 5, 6, 10):
        np.save(tmp_path / f"frame_{i}_densepose.npy", np.full((2, 48, 32), i / 20))

    def seen(sequence):
        return [[round(float(pose[1, 0, 0]) * 20) for pose in window] for window in pose_windows(base, sequence)]

    official = open_poses(tmp_path, fps=10)
    assert seen(official) == [[2, 2, 2, 2, 4], [2, 4, 4, 5, 6], [5, 4, 5, 6, 5], [4, 5, 6, 6, 6], [10] * 5]
    assert seen(subsequence(official, start=0.1)) == [[4, 4, 4, 5, 6], [5, 4, 5, 6, 5], [4, 5, 6, 6, 6], [10] * 5]
    frames = [np.full((3, 48, 32), i / 20, np.float32) for i in range(12)]
    every_other = subsequence(PosesInMemory(frames, 60.0), fps=30.0)
    assert seen(every_other)[2] == [0, 2, 4, 6, 8]


def test_render_writes_a_folder_a_video_and_metadata(clip, subject, tmp_path):
    result = render(RenderOptions(poses=[clip / "video.poses"], output=f"{tmp_path / 'frames'}/", steps=2, seed=3))
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == [f"{i:05d}.png" for i in range(8)] and result.frames == 8
    with Image.open(tmp_path / "frames" / "00000.png") as frame:
        assert frame.size == (32, 48)
    render(RenderOptions(poses=[clip / "video.poses"], output=tmp_path / "out.mp4", steps=2, seed=3, side_by_side=True))
    info = media.probe_video(tmp_path / "out.mp4")
    assert (info.width, info.height) == (96, 48) and round(info.fps) == 12
    about = media.read_metadata(tmp_path / "out.mp4")
    assert about["notice"] == "AI-generated" and about["seed"] == 3 and about["steps"] == 2
    with pytest.raises(OutputExistsError, match="--overwrite"):
        render(RenderOptions(poses=[clip / "video.poses"], output=tmp_path / "out.mp4", steps=2))


@pytest.mark.slow
def test_one_seed_is_one_result(clip, subject, tmp_path):
    def frames(name, **options):
        render(RenderOptions(poses=[clip / "video.poses"], output=f"{tmp_path / name}/", steps=2, **options))
        return np.stack(list(media.open_frames(tmp_path / name)))

    first = frames("a", seed=1)
    assert np.array_equal(first, frames("b", seed=1))
    assert np.abs(first.astype(int) - frames("together", seed=1, batch_size=8)).max() <= 1
    assert not np.array_equal(frames("c", seed=1), frames("d", seed=2))


def test_a_subject_of_several_photos_is_rendered_from_all_of_them(tiny_base, clip, tmp_path):
    photos, poses = [clip / "frames" / f"0000{i}.png" for i in (0, 5)], clip / "video.poses"
    tune(TuneOptions(photos, base=str(tiny_base), poses=[poses, poses], steps=1, decoder_steps=0, name="both"))

    def frames(name, **options):
        target = tmp_path / f"{name}.webp"
        render(RenderOptions(poses=[poses], output=target, subject="both", steps=2, end=0.2, **options))
        return np.stack(list(media.open_frames(target))), media.read_metadata(target)

    (every, about), (first, alone), (second, _) = frames("all"), frames("1", photo_index=1), frames("2", photo_index=2)
    assert about["photos"] == 2 and "photos" not in alone
    assert not any(np.array_equal(*pair) for pair in ((every, first), (every, second), (first, second)))


def test_several_dances_need_a_folder(clip, subject, tmp_path):
    import shutil

    shutil.copy(clip / "video.poses", tmp_path / "b.poses")
    with pytest.raises(UsageError, match="folder"):
        render(RenderOptions(poses=[clip / "video.poses", tmp_path / "b.poses"], output=tmp_path / "out.mp4", steps=1))
    result = render(
        RenderOptions(poses=[clip / "video.poses", tmp_path / "b.poses"], output=f"{tmp_path / 'out'}/", steps=1)
    )
    assert [p.name for p in result.paths] == ["video.mp4", "b.mp4"]
    shutil.copy(clip / "video.poses", tmp_path / "c.poses")
    two = [clip / "video.poses", tmp_path / "c.poses"]
    with pytest.raises(OutputExistsError, match="video.mp4"):
        render(RenderOptions(poses=two, output=f"{tmp_path / 'out'}/", steps=1))
    render(RenderOptions(poses=two, output=f"{tmp_path / 'out'}/", steps=1, overwrite=True))  # what else is there stays
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.mp4", "c.mp4", "video.mp4"]
    with pytest.raises(MediaError):
        render(RenderOptions(poses=[two[0], tmp_path / "missing.poses"], output=f"{tmp_path / 'other'}/", steps=1))
    assert not (tmp_path / "other").exists()


def test_impossible_results_are_refused_before_any_work(clip, subject, photo, tmp_path, monkeypatch):
    from dreampose_cli.poses.extraction import extract
    from dreampose_cli.workflows import render_request as job

    monkeypatch.setattr(job, "load", None)
    poses = clip / "video.poses"
    with pytest.raises(UsageError, match="no format"):
        render(RenderOptions(poses=[tmp_path / "missing.mp4"], output=tmp_path / "out.avi"))
    with pytest.raises(UsageError, match="holds one frame"):
        render(RenderOptions(poses=[poses], output=tmp_path / "out.png"))
    with pytest.raises(UsageError, match="--photo-index"):
        render(RenderOptions(poses=[poses], output=tmp_path / "out.mp4", photo=photo, photo_index=2))
    monkeypatch.setattr(job, "_has_sound", lambda source: True)
    with pytest.raises(UsageError, match="carry sound"):
        render(RenderOptions(poses=[poses], output=tmp_path / "out.gif", audio=True))
    for preview, words in (("look.avi", "no format"), ("look.png", "holds one pose")):
        with pytest.raises(UsageError, match=words):
            extract(user_cache(), poses, tmp_path / "out.poses", preview=tmp_path / preview)
    assert not list(tmp_path.iterdir())


def test_a_picture_has_no_sound(photo):
    from dreampose_cli.workflows.render_request import _has_sound

    assert not _has_sound(photo)


def test_a_subject_finds_its_base_from_any_folder(clip, photo, tiny_base, tmp_path, monkeypatch):
    from dreampose_cli.subjects.loading import find_subject, load_subject

    monkeypatch.chdir(tiny_base.parent.parent)
    base = f"{tiny_base.parent.name}/{tiny_base.name}"  # elsewhere this could be the name of a repository on the Hub
    tune(TuneOptions([photo], base=base, poses=[clip / "video.poses"], steps=0, decoder_steps=0))
    monkeypatch.chdir(tmp_path)
    assert (
        load_subject(
            user_cache(), *find_subject(user_cache(), None, None), 1, torch.device("cpu"), torch.float32
        ).model.config.name
        == "tiny"
    )


def test_what_is_tuned_already_loads_no_network(tiny_base, clip, photo, subject, monkeypatch):
    monkeypatch.setattr(tuning, "fit_subject", None)
    assert tune(
        TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=2, decoder_steps=2)
    ).cached


def test_a_subject_carries_its_base(clip, subject, tiny_base, tmp_path):
    options = {"poses": [clip / "video.poses"], "output": tmp_path / "o.mp4", "steps": 1}
    with pytest.raises(UsageError, match="tuned on the base tiny"):
        render(RenderOptions(base="mini", **options))
    render(RenderOptions(base=str(tiny_base), **options))
    config = dataclasses.replace(load_base(tiny_base).config, name="changed")
    before = (tiny_base / "base.json").read_text()
    try:
        (tiny_base / "base.json").write_text(config.to_json())
        with pytest.raises(SubjectError, match="tune the photo again"):
            render(RenderOptions(**options, overwrite=True))
    finally:
        (tiny_base / "base.json").write_text(before)


def test_a_photo_tuned_on_two_bases_is_the_one_of_the_base_asked_for(tiny_base, clip, photo, tmp_path):
    from dreampose_cli.subjects.loading import find_subject, load_subject

    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    config = dataclasses.replace(load_base(tiny_base).config, name="other")
    (other / "base.json").write_text(config.to_json())
    tuned = {
        str(base): tune(TuneOptions([photo], base=str(base), poses=[clip / "video.poses"], steps=0, decoder_steps=0)).id
        for base in (tiny_base, other)  # "other" is the newest
    }
    for base, id in tuned.items():
        loaded = load_subject(
            user_cache(), *find_subject(user_cache(), str(photo), base), 1, torch.device("cpu"), torch.float32
        )
        assert loaded.label == f"subject {id}" and loaded.model.config.name == Path(base).name
    with pytest.raises(UsageError, match="tuned on the base other"):
        load_subject(
            user_cache(), *find_subject(user_cache(), str(photo), "mini"), 1, torch.device("cpu"), torch.float32
        )


def test_damaged_subjects_are_one_sentence(clip, subject, tmp_path):
    options = {"poses": [clip / "video.poses"], "output": tmp_path / "o.mp4", "steps": 1}
    weights = subject.path / "unet.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(SubjectError, match="cache rm"):
        render(RenderOptions(**options))
    about = json.loads((subject.path / "subject.json").read_text())
    (subject.path / "subject.json").write_text(json.dumps({**about, "version": 99}))
    with pytest.raises(SubjectError, match="another version"):
        render(RenderOptions(**options))


def dreampose(*words, cache):
    import os

    done = subprocess.run(
        [sys.executable, "-m", "dreampose_cli", *map(str, words)],
        capture_output=True, text=True, env={**os.environ, "DREAMPOSE_CACHE": str(cache)}, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_the_road_on_the_command_line(tiny_base, clip, photo, cache, tmp_path, capsys):
    words = ["--base", tiny_base, "--poses", clip / "video.poses", "--steps", 1, "--decoder-steps", 1, "--name", "anna"]
    assert main(list(map(str, ["tune", photo, *words, "-q"]))) == 0
    said = capsys.readouterr()
    assert len(said.out.split()) == 1 and said.err == ""
    out = tmp_path / "out.gif"
    made = dreampose(
        "render", "--poses", clip / "video.poses", "--subject", photo, "-o", out, "--steps", 1, cache=cache
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == str(out) and out.exists()
    render = ["render", "--poses", str(clip / "video.poses"), "-o", str(tmp_path / "x.mp4")]
    assert main([*render, "--subject", str(clip / "video.mp4")]) == 1
    assert f"dreampose tune {clip / 'video.mp4'}" in capsys.readouterr().err
    assert main([*render, "--steps", "0"]) == 2


def test_a_damaged_subject_is_tuned_anew(tiny_base, clip, photo, cache):
    first = tune(TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=1, decoder_steps=1))
    for file in ("unet.safetensors", "subject.json"):
        whole = (first.path / file).read_bytes()
        (first.path / file).write_bytes(whole[: len(whole) // 2])
        again = tune(TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=1, decoder_steps=1))
        assert not again.cached and again.id == first.id
        assert (first.path / "unet.safetensors").stat().st_size > 1000
        json.loads((first.path / "subject.json").read_text())
    assert tune(
        TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=1, decoder_steps=1)
    ).cached


def test_a_name_is_that_of_whoever_was_tuned_last_under_it(tiny_base, clip, photo, cache, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(media.read_photo(photo)[:, ::-1]).save(other)
    words = {"base": str(tiny_base), "poses": [clip / "video.poses"], "steps": 1, "decoder_steps": 1, "name": "anna"}
    first = tune(TuneOptions([photo], **words))
    second = tune(TuneOptions([other], **words))
    assert store.user_cache().find_subject("anna").id == second.id
    time.sleep(0.02)
    assert tune(TuneOptions([photo], **words)).cached
    assert store.user_cache().find_subject("anna").id == first.id


def test_no_path_and_no_user_stands_in_a_subject(tiny_base, clip, photo, subject, tmp_path):
    render(RenderOptions([clip / "video.poses"], tmp_path / "out.png", end=0.01, steps=1, subject=subject.id))
    texts = [(subject.path / "subject.json").read_text(), json.dumps(media.read_metadata(tmp_path / "out.png"))]
    for text in texts:
        for private in (str(Path.home()), str(photo.parent), str(tiny_base), str(tiny_base.parent), getpass.getuser()):
            assert private not in text
    assert photo.name in texts[0]
    assert store.user_cache().place_of(subject.id) == str(tiny_base)  # of this machine, next to the subject
    if os.name == "posix":
        assert {path.stat().st_mode & 0o77 for path in subject.path.rglob("*")} == {0}
