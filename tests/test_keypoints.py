"""Keypoints: OpenPose's JSON, `.poses` files, the skeleton picture, DWPose through rtmlib, and label videos."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from dreampose_cli.cache import user_cache
from dreampose_cli.errors import PoseError, UsageError
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.doodle_poses import mannequin_joints
from dreampose_cli.mannequins.posing import NEUTRAL, draw_labels, stature_of
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.poses import part_labels
from dreampose_cli.poses.control_picture import VIRIDIS
from dreampose_cli.poses.dwpose import DWPose, load_dwpose
from dreampose_cli.poses.extraction import extract, load_poses
from dreampose_cli.poses.files import is_pose_source, open_poses
from dreampose_cli.poses.keypoint_files import KeypointWriter, write_openpose_folder
from dreampose_cli.poses.keypoints import BODY, FACE, LEFT_HAND, POINTS, RIGHT_HAND, KeypointsInMemory, body_frame
from dreampose_cli.poses.posed_mannequin import in_kind
from dreampose_cli.poses.skeleton_picture import COLORS, LIMBS, draw_skeleton


def some_frames(count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    frames = np.zeros((count, POINTS, 3), np.float32)
    frames[..., :2] = rng.uniform(20, 200, (count, POINTS, 2))
    frames[..., 2] = rng.uniform(0.4, 1, (count, POINTS))
    return frames


def flat(points: np.ndarray) -> list[float]:
    return points.astype(float).ravel().tolist()


def test_a_poses_file_of_keypoints_is_read_as_it_was_written(tmp_path):
    frames, file = some_frames(), tmp_path / "a.poses"
    with KeypointWriter(file, (240, 200), 12.5, source="dance.mp4", estimator="dwpose") as writer:
        for frame in frames:
            writer.append(frame)
    found = open_poses(file)
    assert (found.kind, found.size, found.fps, found.estimator, len(found)) == (
        "keypoints", (240, 200), 12.5, "dwpose", 3
    )  # fmt: skip
    assert np.array_equal(np.stack(list(found)), frames) and is_pose_source(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(PoseError, match="damaged"):
        open_poses(file)


def test_openpose_json_goes_out_and_comes_back(tmp_path):
    frames = some_frames().round(2)
    write_openpose_folder(tmp_path / "json", KeypointsInMemory(frames, (240, 200), 25))
    found = open_poses(tmp_path / "json", fps=25)
    assert found.size == (240, 200) and np.allclose(np.stack(list(found)), frames, atol=1e-4)


def test_body_25_takes_its_own_places_and_the_best_person_is_followed(tmp_path):
    body = np.stack([np.arange(25) * 10.0, np.arange(25) * 20.0, np.full(25, 0.9)], 1)
    weak = np.stack([np.arange(18) * 1.0, np.arange(18) * 1.0, np.full(18, 0.4)], 1)
    people = [{"pose_keypoints_2d": flat(weak)}, {"pose_keypoints_2d": flat(body)}]
    (tmp_path / "one.json").write_text(json.dumps({"people": people}), encoding="utf-8")
    frame = open_poses(tmp_path / "one.json").frame(0)
    # Right hip is 9 in BODY_25 and 8 here; the middle of the hips (8 there) is no point here.
    assert frame[8, 0] == 90 and frame[11, 0] == 120 and frame[14, 0] == 150 and frame[17, 0] == 180


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "damaged"),
        ('{"peeps": []}', "no list `people`"),
        ('{"people": []}', "nobody"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "no flat list"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 1, 1, 2, 1]}]}', "2 points, not 18"),
        ('{"people": [3]}', "no set of keypoints"),
    ],
)
def test_bad_json_is_said_in_one_sentence(tmp_path, content, words):
    (tmp_path / "bad.json").write_text(content, encoding="utf-8")
    with pytest.raises(PoseError, match=words):
        open_poses(tmp_path / "bad.json")


def test_the_skeleton_is_drawn_as_dwpose_draws_it():
    frame = np.zeros((POINTS, 3), np.float32)
    frame[2], frame[3] = (50, 100, 1), (150, 100, 1)  # a right upper arm, horizontal
    frame[FACE.start] = (20, 30, 1)
    frame[LEFT_HAND.start] = (200, 50, 1)
    frame[4] = (150, 180, 0.29)  # too unsure to be drawn
    picture = draw_skeleton(frame, (200, 256))
    dimmed = [int(c * 0.6) for c in COLORS[2]]
    assert (picture[100, 100] == dimmed).all() and (picture[104, 100] == dimmed).all()
    assert not picture[105, 100].any() and not picture[180, 150].any()
    assert (picture[100, 50] == COLORS[2]).all() and (picture[100, 150] == COLORS[3]).all()
    assert (picture[30, 20] == 255).all() and (picture[33, 20] == 255).all() and not picture[34, 20].any()
    assert (picture[50, 200] == (0, 0, 255)).all()
    assert len(LIMBS) == 17 and len(COLORS) == 18


def test_the_skeleton_equals_opencvs_but_for_edges():
    cv2 = pytest.importorskip("cv2")
    frame = body_frame(np.concatenate([np.random.default_rng(1).uniform(20, 490, (18, 2)), np.ones((18, 1))], 1))
    theirs = np.zeros((512, 512, 3), np.uint8)
    for (a, b), color in zip(LIMBS, COLORS, strict=False):
        (ax, ay), (bx, by) = frame[a, :2].astype(float), frame[b, :2].astype(float)
        angle = int(np.degrees(np.arctan2(ay - by, ax - bx)))
        half = int(np.hypot(ax - bx, ay - by) / 2)
        middle = int((ax + bx) / 2), int((ay + by) / 2)
        cv2.fillConvexPoly(theirs, cv2.ellipse2Poly(middle, (half, 4), angle, 0, 360, 1), color)
    theirs = (theirs * 0.6).astype(np.uint8)
    for i, color in enumerate(COLORS):
        cv2.circle(theirs, (int(frame[i, 0]), int(frame[i, 1])), 4, color, -1)
    differing = (theirs != draw_skeleton(frame, (512, 512))).any(-1).sum()
    assert differing < 0.03 * theirs.any(-1).sum()


def fake_rtmlib(people: list[tuple[np.ndarray, float]]):
    """A double of rtmlib's interface: Wholebody(mode=, to_openpose=, backend=, device=)(BGR) -> (N, 134, 2), (N, 134)."""

    class Wholebody:
        MODE = {"performance": {"det": "https://host/yolox_m_1.zip", "pose": "https://host/rtmw_20231122.zip"}}

        def __init__(self, *, mode, to_openpose, backend, device):
            assert (mode, to_openpose, backend) == ("performance", True, "onnxruntime")

        def __call__(self, image):
            self.seen = image
            return np.stack([p for p, _ in people]), np.stack([np.full(134, s) for _, s in people])

    return types.SimpleNamespace(Wholebody=Wholebody)


def test_dwpose_takes_the_best_person_and_sorts_rtmlibs_134_points(monkeypatch, tmp_path):
    points = np.stack([np.arange(134.0), np.arange(134.0) + 1000], 1)
    monkeypatch.setitem(sys.modules, "rtmlib", fake_rtmlib([(points + 5, 0.4), (points, 0.9)]))
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "cache"))
    model = load_dwpose(user_cache())
    frame = next(model.stream(iter([np.zeros((8, 8, 3), np.uint8)])))
    assert frame[BODY, 0].tolist() == list(range(18))
    assert frame[LEFT_HAND, 0].tolist() == list(range(92, 113))
    assert frame[RIGHT_HAND, 0].tolist() == list(range(113, 134))
    assert frame[FACE, 0][:68].tolist() == list(range(24, 92)) and not frame[FACE][68:].any()
    assert frame[0, 2] == pytest.approx(0.9)


def test_dwpose_sees_bgr():
    seen = []

    def model(image):
        seen.append(image)
        return np.zeros((1, 134, 2)), np.ones((1, 134))

    DWPose(model, "x").estimate([np.array([[[1, 2, 3]]], np.uint8)])
    assert seen[0].ravel().tolist() == [3, 2, 1]


def test_missing_rtmlib_and_missing_weights_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(PoseError, match=r"needs the package rtmlib.*\[keypoints\]"):
        load_dwpose(user_cache())
    double = fake_rtmlib([])

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(double.Wholebody, "__init__", refuse)
    monkeypatch.setitem(sys.modules, "rtmlib", double)
    with pytest.raises(PoseError, match="no route to host.*go online once.*yolox_m_1.onnx and rtmw_20231122.onnx"):
        load_dwpose(user_cache())


def test_the_whole_way_from_pictures_through_dwpose_to_a_posed_mannequin(monkeypatch, tmp_path):
    joints = mannequin_joints(NEUTRAL, draw_dance(3, 1))[0]
    points = np.zeros((134, 2))
    points[:18] = np.stack([joints[:, 0] * 300 + 128, 340 - joints[:, 1] * 300], 1)
    monkeypatch.setitem(sys.modules, "rtmlib", fake_rtmlib([(points, 0.9)]))
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "cache"))
    Image.fromarray(np.full((360, 256, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    done = extract(user_cache(), tmp_path / "photo.png", tmp_path / "k.poses", estimator="dwpose", preview=tmp_path / "k.png")
    assert done.estimator == "dwpose" and open_poses(tmp_path / "k.poses").kind == "keypoints"
    posed, used, _ = load_poses(user_cache(), tmp_path / "photo.png", estimator="dwpose")
    assert used == "dwpose" and posed.kind == "densepose" and posed.frame(0).shape == (3, 360, 256)
    assert len(np.unique(posed.frame(0)[0])) > 10
    with pytest.raises(PoseError, match="holds DensePose, and this base takes keypoints"):
        in_kind(posed, "keypoints", "a.poses")


def test_a_mannequin_posed_by_its_own_joints_covers_itself():
    overlaps = []
    for seed in range(4):
        dance = draw_dance(seed, 6)
        subject = draw_subject(seed)
        frames = list(perform(subject, dance, (320, 256)))
        scale = subject.body.fill * 320
        for joints, frame in zip(mannequin_joints(subject.body, dance), frames, strict=True):
            x, y = joints[:, 0] * scale + 128, 160 + scale / 2 + 0.008 * 320 - joints[:, 1] * scale
            body = np.stack([x, y, np.ones(18)], 1)
            labels = draw_labels(body, (320, 256), stature_of(body[None], 0.3))
            ours, theirs = labels[0] > 0, frame.pose[0] > 0
            overlaps.append((ours & theirs).sum() / (ours | theirs).sum())
    assert np.mean(overlaps) > 0.6 and min(overlaps) > 0.4


# Videos of labels


def label_video(tmp_path, table: np.ndarray, ground=None):
    pose = next(perform(draw_subject(5), draw_dance(5, 1), (320, 256))).pose
    picture = table[np.rint(pose[0]).astype(int)].copy()
    if ground is not None:
        picture[pose[0] == 0] = ground
    Image.fromarray(picture).save(tmp_path / "labels.png")
    return tmp_path / "labels.png", pose


def test_a_control_picture_is_read_as_poses(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "cache"))
    file, pose = label_video(tmp_path, VIRIDIS)
    notes = []
    sequence, used, _ = load_poses(user_cache(), file, note=notes.append)
    frame = sequence.frame(0)
    assert used == "control-picture" and "U and V are unknown" in notes[0]
    assert np.array_equal(frame[0], pose[0])
    assert np.allclose(frame[1][pose[0] > 0], 0.5, atol=1e-4) and not frame[1:, pose[0] == 0].any()


@pytest.mark.parametrize("palette", ["parula", "jet", "turbo", "inferno"])
def test_another_palette_is_refused_by_its_name(tmp_path, palette):
    file, _ = label_video(tmp_path, part_labels._tables()[palette].astype(np.uint8), ground=0)
    with pytest.raises(PoseError, match=f"palette {palette} on black"):
        load_poses(user_cache(), file)


def test_palettes_are_opencvs():
    cv2 = pytest.importorskip("cv2")
    values = np.array([[int(i * 255 / 24) for i in range(25)]], np.uint8)
    for name, table in part_labels._tables().items():
        theirs = cv2.applyColorMap(values, getattr(cv2, f"COLORMAP_{name.upper()}"))[0, :, ::-1]
        assert np.abs(theirs.astype(int) - table).max() <= 1


def test_photos_of_mannequins_are_no_labels():
    for seed in range(12):
        picture = next(perform(draw_subject(seed), draw_dance(seed, 1), (160, 128))).picture
        assert part_labels.palette_of(picture) is None and not part_labels.recognise(picture, "x")


def test_options_for_doodles_are_refused_elsewhere(tmp_path):
    file, _ = label_video(tmp_path, VIRIDIS)
    with pytest.raises(UsageError, match="--estimator doodle"):
        load_poses(user_cache(), file, interpolate=3)
