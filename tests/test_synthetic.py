"""The mannequin studio: determinism, labels, motion, and the datasets written from it."""

import dataclasses
import json

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from dreampose_cli.errors import OutputExistsError, UsageError
from dreampose_cli.mannequins import studio
from dreampose_cli.mannequins.dance import CHANNELS, Dance, draw_dance, facing
from dreampose_cli.mannequins.skeleton import BONE, BONES, PARTS, bone_coordinates, chart, pose_skeleton
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.media import open_frames
from dreampose_cli.poses.files import open_poses
from dreampose_cli.workflows.synth import default_test_subjects, plan_clip, write_dataset

PAIRS = {3: 4, 5: 6, 7: 8, 9: 10, 11: 12, 13: 14, 15: 16, 17: 18, 19: 20, 21: 22, 23: 24}
SWAP = np.arange(25)
for _a, _b in PAIRS.items():
    SWAP[_a], SWAP[_b] = _b, _a


def standing(yaws, **channels):
    """A dance that stands still, arms slightly away, turned by `yaws`."""
    values = np.zeros((len(yaws), len(CHANNELS)))
    for name, value in {"arm_abduct_l": 30.0, "arm_abduct_r": 30.0, **channels}.items():
        values[:, CHANNELS.index(name)] = value
    return Dance(0, values, np.asarray(yaws, dtype=float), 12.0)


def with_skirt():
    return next(s for s in map(draw_subject, range(100)) if s.outfit.skirt is not None and s.outfit.skirt.hem > 0.11)


def test_same_seed_gives_the_same_frames():
    first, again = ([*studio.perform(draw_subject(5), draw_dance(6, 3))] for _ in range(2))
    assert draw_subject(5) == draw_subject(5)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.picture, b.picture) and np.array_equal(a.pose, b.pose)
    assert not np.array_equal(first[0].picture, next(studio.perform(draw_subject(7), draw_dance(6, 1))).picture)


@pytest.mark.parametrize("size", [(160, 128), (96, 64)])
def test_frames_have_the_promised_shapes_and_ranges(size):
    for seed in range(4):
        for frame in studio.perform(draw_subject(seed), draw_dance(seed, 4), size):
            assert frame.picture.dtype == np.uint8 and frame.picture.shape == (*size, 3)
            part, u, v = frame.pose
            body = part > 0
            assert frame.pose.dtype == np.float32 and frame.pose.shape == (3, *size)
            assert np.array_equal(part, np.rint(part)) and part.max() <= 24 and 0.1 < body.mean() < 0.35
            assert not u[~body].any() and not v[~body].any()
            for plane in (u[body], v[body]):
                assert plane.min() >= 1 / 255 and plane.max() <= 1
            edges = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
            assert not edges.any()


def test_bad_arguments():
    with pytest.raises(ValueError):
        draw_dance(0, 0)
    with pytest.raises(ValueError):
        draw_dance(0, 4, fps=0)


@pytest.mark.parametrize("frames", [12, 24, 48])
def test_dances_start_in_front_and_turn(frames):
    yaw = np.stack([draw_dance(seed, frames).yaw for seed in range(120)])
    assert np.abs(yaw[:, 0]).max() <= 10
    assert 0.4 < (np.abs(facing(yaw)) > 60).mean() < 0.7
    assert np.median(np.abs(facing(yaw[:, 1:] - yaw[:, :1]))) >= 60
    assert np.abs(np.diff(yaw, axis=1)).max() < 60


def test_hands_stay_in_the_picture():
    for seed in range(60):
        body, dance = draw_subject(seed).body, draw_dance(seed + 900, 36)
        skeleton = pose_skeleton(body, dance)
        for side in "lr":
            tip = skeleton.at(f"hand_{side}", 0, body.hand, 0) * body.fill
            assert np.abs(tip[:, 0]).max() < 0.4 and tip[:, 1].max() < 1.0


def test_most_subjects_wear_a_pattern():
    assert np.mean([draw_subject(seed).patterned for seed in range(200)]) >= 0.65


def test_copying_the_first_frame_does_not_pay():
    scores = []
    for seed in range(10):
        frames = [f.picture / 255 for f in studio.perform(draw_subject(seed), draw_dance(seed + 50, 24))]
        scores += [
            structural_similarity(
                frames[0],
                frames[i],
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                channel_axis=-1,
                data_range=1.0,
            )
            for i in (12, 16, 20)
        ]
    assert np.mean(scores) <= 0.75


def test_left_and_right_are_mirror_images():
    (frame,) = studio.perform(draw_subject(3), standing([0.0]))
    part, u, v = frame.pose
    mirrored = frame.pose[:, :, ::-1]
    assert np.array_equal(part, SWAP[mirrored[0].astype(int)])
    limbs = part > 2
    assert np.abs(v - mirrored[2]).max() < 1e-3
    around = np.abs(u - mirrored[1])[limbs]
    assert np.minimum(around, 1 - around).max() < 2e-3
    torso = part == 2
    assert np.abs(u[torso] - (1 - mirrored[1][torso])).max() < 0.01


def test_the_right_hand_is_on_the_left_of_a_front_view():
    front, back = studio.perform(draw_subject(3), standing([0.0, 180.0]))
    for frame, sign in ((front, 1), (back, -1)):
        column = {p: np.nonzero(frame.pose[0] == p)[1].mean() for p in (3, 4)}
        assert (column[4] - column[3]) * sign > 20
    assert {2, 9, 10, 13, 14} <= set(np.unique(front.pose[0])) and not {1, 7, 8} & set(np.unique(front.pose[0]))
    assert {1, 7, 8, 11, 12} <= set(np.unique(back.pose[0])) and not {2, 9, 10} & set(np.unique(back.pose[0]))
    torso = front.pose[:, front.pose[0] == 2]
    columns = np.nonzero(front.pose[0] == 2)[1]
    assert np.corrcoef(torso[1], columns)[0, 1] > 0.9  # U runs from the figure's right to its left


def test_front_and_back_charts_are_opposite():
    rng = np.random.default_rng(0)
    for name in ("chest", "pelvis", "upper_arm_l", "lower_arm_r", "upper_leg_r", "lower_leg_l"):
        bone = np.full(50, BONE[name])
        x, t, z = rng.uniform(-1, 1, 50), rng.uniform(0, 1, 50), rng.uniform(0.05, 1, 50)
        front, back = chart(bone, np.stack([x, t, z])), chart(bone, np.stack([x, t, -z]))
        assert set(front[0]) == {PARTS[name][0]} and set(back[0]) == {PARTS[name][1]}
        assert np.array_equal(front[1:], back[1:])
        level = chart(bone, np.stack([np.sort(x), np.full(50, 0.5), np.full(50, 0.3)]))
        assert (np.diff(level[1]) >= 0).all()  # U grows with the lateral coordinate


def test_bone_coordinates_run_from_the_proximal_end():
    skeleton = pose_skeleton(draw_subject(0).body, draw_dance(1, 2))
    for index, name in enumerate(BONES):
        for along in (0.0, 1.0):
            point = skeleton.at(name, 0.0, along * skeleton.length[index], 0.0)[1]
            place = bone_coordinates(skeleton, 1, np.array([index]), point[:, None].astype(np.float32))
            assert np.allclose(place[:, 0], [0, along, 0], atol=1e-4)


def test_the_skirt_sways_but_is_not_labelled():
    subject = with_skirt()
    bare = dataclasses.replace(subject, outfit=dataclasses.replace(subject.outfit, skirt=None, kind="shorts", leg=0.4))
    dance = draw_dance(11, 8)
    clothed, unclothed = list(studio.perform(subject, dance)), list(studio.perform(bare, dance))
    for a, b in zip(clothed, unclothed, strict=True):
        assert np.array_equal(a.pose, b.pose)
    # Both stop in the same pose; the one that has just turned still has its skirt moving.
    spun = list(studio.perform(subject, standing([-120.0, -80.0, -40.0, 0.0])))[-1]
    still = list(studio.perform(subject, standing([0.0] * 4)))[-1]
    assert np.array_equal(spun.pose, still.pose)
    assert (np.abs(spun.picture.astype(int) - still.picture).max(-1) > 30).sum() > 30


def test_labels_lie_on_the_figure():
    for seed in range(6):
        frames = list(studio.perform(draw_subject(seed), draw_dance(seed, 12)))
        backdrop = np.median([f.picture[:, 2] for f in frames], 0)[:, None]  # constant along rows
        for frame in frames[::4]:
            body = frame.pose[0] > 0
            inside = body & np.roll(body, 1, 0) & np.roll(body, -1, 0) & np.roll(body, 1, 1) & np.roll(body, -1, 1)
            different = np.abs(frame.picture.astype(int) - backdrop).max(-1) > 4
            assert different[inside].mean() > 0.97


def test_dataset_layout_and_contents(tmp_path):
    told = []
    out = write_dataset(
        tmp_path / "set", subjects=3, frames=2, seed=4, png=True, size=(80, 64), progress=lambda *a: told.append(a)
    )
    document = json.loads((out / "dataset.json").read_text())
    assert document["frames"] == 2 and [c["split"] for c in document["clips"]] == ["train", "train", "test"]
    assert [t[:2] for t in told] == [(1, 3), (2, 3), (3, 3)]
    clip = out / "train" / "mannequin-000001"
    assert sorted(p.name for p in clip.iterdir()) == ["frames", "video.mp4", "video.poses"]
    assert sorted(p.name for p in (clip / "frames").iterdir()) == ["00000.png", "00001.png"]
    seeds = document["clips"][1]
    frames = list(studio.perform(draw_subject(seeds["subject_seed"]), draw_dance(seeds["dance_seed"], 2), (80, 64)))
    poses = open_poses(clip / "video.poses")
    assert poses.size == (80, 64) and len(poses) == 2 and poses.fps == 12
    assert np.abs(poses.frame(1) - frames[1].pose).max() < 1e-4
    pictures = list(open_frames(clip / "video.mp4"))
    assert len(pictures) == 2 and np.abs(pictures[0].astype(int) - frames[0].picture).mean() < 4
    with pytest.raises(OutputExistsError):
        write_dataset(tmp_path / "set", subjects=1, frames=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_datasets_grow_and_a_single_subject_is_to_train_on(tmp_path):
    assert [default_test_subjects(n) for n in (1, 2, 8, 64)] == [0, 1, 1, 8]
    assert plan_clip(1, "train", 5) == plan_clip(1, "train", 5)
    seeds = {plan_clip(s, split, i).subject_seed for s in (1, 2) for split in ("train", "test") for i in range(50)}
    assert len(seeds) == 200
    out = write_dataset(tmp_path / "one", subjects=1, frames=1, size=(80, 64))
    assert [p.name for p in out.iterdir() if p.is_dir()] == ["train"]


def test_bad_dataset_requests_leave_nothing(tmp_path):
    good = {"subjects": 2, "frames": 2}
    for bad in ({"subjects": 0}, {"frames": 0}, {"test_subjects": 3}, {"size": (8, 8)}, {"workers": 0}, {"seed": -1}):
        with pytest.raises(UsageError):
            write_dataset(tmp_path / "out", **{**good, **bad})
    assert not list(tmp_path.iterdir())
