"""Photos and driving videos of any size and aspect: the person's region of a photo, and the dancer brought to its place."""

import dataclasses
import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from poses_in_memory import PosesInMemory

from dreampose_cli import cache as store
from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import PoseError, UsageError
from dreampose_cli.inference.alignment import LOOKED_AT, Alignment, PlacedPoses, align, landmarks, place
from dreampose_cli.inference.clip import pose_windows
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.media.fitting import FILLED, SMALL, Crop, Fit, body_box, fit_pose
from dreampose_cli.networks.dreampose.presets import MINI
from dreampose_cli.poses.files import PoseWriter, open_poses
from dreampose_cli.poses.photo import estimate_photo
from dreampose_cli.poses.sequence import PoseSequence, subsequence
from dreampose_cli.subjects import views as reading
from dreampose_cli.subjects.loading import LoadedSubject, find_subject, load_photo, load_subject
from dreampose_cli.workflows.options import RenderOptions, TuneOptions
from dreampose_cli.workflows.render import render
from dreampose_cli.workflows.tune import tune


@pytest.fixture(scope="module")
def dance():
    """Eight frames of a mannequin, 128 wide x 160 high: pictures and poses."""
    return list(perform(draw_subject(5), draw_dance(6, 8, 12.0)))


@pytest.fixture(scope="module")
def poses(dance):
    return [frame.pose for frame in dance]


def moved(pose, scale, right, down, size):
    """A pose as it would be seen `scale` times as large and shifted, in a frame of `size`."""
    rows = np.floor((np.arange(size[0]) + 0.5 - down) / scale).astype(int)
    columns = np.floor((np.arange(size[1]) + 0.5 - right) / scale).astype(int)
    inside = ((rows >= 0) & (rows < pose.shape[1]))[:, None] & (columns >= 0) & (columns < pose.shape[2])
    rows, columns = rows.clip(0, pose.shape[1] - 1), columns.clip(0, pose.shape[2] - 1)
    return pose[:, rows][:, :, columns] * inside


def on_canvas(picture, size, corner):
    """A picture on a plain canvas of `size`, its corner at (top, left)."""
    canvas = np.full((*size, 3), picture[0, 0], np.uint8)
    canvas[corner[0] : corner[0] + picture.shape[0], corner[1] : corner[1] + picture.shape[1]] = picture
    return canvas


def subject_of(pose, size=None, **config):
    """A subject whose photo of `size` (else the pose's) shows `pose`, on mini's settings."""
    config = dataclasses.replace(MINI, **config)
    size = tuple(size or pose.shape[1:])
    fitted = fit_pose(pose, config.resolution, config.fit)
    picture = np.zeros((*config.resolution, 3), np.uint8)
    return LoadedSubject(SimpleNamespace(config=config), picture, fitted, size, "photo anna.jpg")


# ---- the transform


@pytest.mark.parametrize(
    ("scale", "right", "down", "size"),
    [(1.0, 0, 0, (160, 128)), (2.5, 30, 60, (500, 400)), (0.8, 190, 25, (200, 480)), (3.3, -60, 8, (560, 300))],
)
def test_a_known_scale_and_shift_are_recovered(poses, scale, right, down, size):
    driving = [moved(pose, scale, right, down, size) for pose in poses]
    found, cut, looked = align(user_cache(), PosesInMemory(driving, 12.0), subject_of(poses[0]))
    assert found.scale == pytest.approx(1 / scale, rel=0.02)
    assert (cut, looked) == (0, 8)
    for here, there in zip(poses, driving, strict=True):  # the same body comes to lie on itself
        (top, bottom), _ = body_box(there)
        (high, low), _ = body_box(here)
        assert found.scale * top + found.down == pytest.approx(high, abs=1.5)
        assert found.scale * bottom + found.down == pytest.approx(low, abs=1.0)
    middles = [found.scale * np.mean(body_box(there)[1]) + found.right - np.mean(body_box(here)[1])
               for here, there in zip(poses, driving, strict=True)]  # fmt: skip
    torsos = [np.nonzero(np.isin(pose[0], (1, 2)).any(0))[0].mean() for pose in poses]
    drift = torsos[0] - np.median(torsos)  # the photo is the first frame, the clip's middle comes to its place
    assert np.allclose(middles, drift, atol=2.0)


def test_the_dancers_own_motion_remains(poses):
    walking = [moved(poses[0], 1.0, 20 * i, 0, (160, 400)) for i in range(8)]
    found, _, _ = align(user_cache(), PosesInMemory(walking, 12.0), subject_of(poses[0]))
    placed = PlacedPoses(PosesInMemory(walking, 12.0), subject_of(poses[0]), found)
    centres = [np.nonzero(placed.frame(i)[0].any(0))[0].mean() for i in (3, 4)]
    assert found.scale == pytest.approx(1.0, abs=0.01)
    assert centres[1] - centres[0] == pytest.approx(20, abs=1)


def test_jumps_and_a_frame_without_anybody_do_not_move_the_ground(poses):
    jumping = [moved(pose, 1.0, 0, 40, (240, 128)) for pose in poses]
    jumping[3] = moved(poses[3], 1.0, 0, 10, (240, 128))
    jumping[5] = np.zeros_like(jumping[5])
    found, _, looked = align(user_cache(), PosesInMemory(jumping, 12.0), subject_of(poses[0]))
    assert looked == 7
    assert found.scale == pytest.approx(1.0, rel=0.02) and found.down == pytest.approx(-40, abs=1.5)


@pytest.mark.parametrize("rows", [slice(0, 85), slice(0, 60), slice(50, 160)], ids=["to the hips", "bust", "no head"])
def test_half_figures_are_compared_by_what_both_show(poses, rows):
    half = [pose[:, rows] for pose in poses]
    known = 1.0 / 1.6
    tolerance = 0.12 if rows == slice(0, 60) else 0.04  # of a bust only the head is whole: a handful of pixels
    driving = PosesInMemory([moved(pose, 1.6, 40, 20, (320, 300)) for pose in poses], 12.0)
    found, cut, looked = align(user_cache(), driving, subject_of(half[0]))
    assert found.scale == pytest.approx(known, rel=tolerance)
    assert found.down == pytest.approx(-20 * known - (rows.start or 0), abs=4)
    assert cut == looked  # legs or head lie outside such a photo
    found, _, _ = align(user_cache(), PosesInMemory(half, 12.0), subject_of(moved(poses[0], 1.6, 0, 0, (256, 205)), (256, 205)))
    assert found.scale == pytest.approx(1.6, rel=tolerance)


def test_poses_without_parts_are_compared_as_outlines(poses):
    driving = [np.concatenate([0 * pose[:1], pose[1:]]) for pose in poses]
    driving = PosesInMemory([moved(pose, 2.0, 10, 30, (400, 300)) for pose in driving], 12.0, has_parts=False)
    found, _, _ = align(user_cache(), driving, subject_of(poses[0]))
    assert found.scale == pytest.approx(0.5, rel=0.03) and found.down == pytest.approx(-15, abs=2)
    with pytest.raises(PoseError, match="in common"):  # an outline cut by the edge measures nothing
        align(user_cache(), driving, subject_of(poses[0][:, :100]))


def test_landmarks_follow_one_another_and_stray_pixels_do_not_count(poses):
    ys, xs = landmarks(poses[0])
    assert np.isfinite(ys).all() and (np.diff(ys) > 0).all()
    strayed = poses[0].copy()
    strayed[:, 2, 2:4] = [[5, 5], [0.5, 0.5], [0.5, 0.5]]  # two pixels of a foot next to the head
    again, _ = landmarks(strayed)
    assert np.array_equal(ys, again)
    assert np.isnan(landmarks(np.zeros((3, 20, 20), np.float32))[0]).all()
    mixed = poses[0].copy()
    mixed[0, ::2] *= 0.77  # as a bilinear resize leaves them at the borders of parts
    assert np.nanmax(np.abs(landmarks(mixed)[0] - ys)) <= 2


# ---- placed poses


def test_labels_stay_labels(poses):
    driving = PosesInMemory([moved(pose, 1.7, 33, 21, (300, 280)) for pose in poses], 12.0)
    placed, alignment = place(user_cache(), driving, subject_of(poses[0]))
    assert alignment and placed.size == (160, 128) and len(placed) == 8 and placed.fps == 12.0
    for frame, source in zip(placed, driving, strict=True):
        assert frame.dtype == np.float32 and frame.shape == (3, 160, 128)
        assert set(np.unique(frame[0])) <= set(np.unique(source[0]))
        assert set(np.unique(frame[1])) <= set(np.unique(source[1]))
        assert not frame[1:, frame[0] == 0].any()
    exact = PlacedPoses(driving, subject_of(poses[0]), Alignment(1 / 1.7, -33 / 1.7, -21 / 1.7))
    agree = [(a[0] == b[0])[(a[0] > 0) | (b[0] > 0)].mean() for a, b in zip(exact, poses, strict=True)]
    assert np.mean(agree) > 0.9


def test_the_padding_of_the_photo_stays_empty(poses):
    subject = subject_of(poses[0][:, 5:, 30:100], (155, 70))  # taller than the base: bars at both sides
    driving = PosesInMemory([moved(pose, 1.0, 0, 0, (160, 300)) for pose in poses], 12.0)
    placed, _ = place(user_cache(), driving, subject)
    rows, columns = subject.fit.box
    outside = np.ones((160, 128), bool)
    outside[rows, columns] = False
    assert outside.any() and not any(frame[:, outside].any() for frame in placed)


class Counted(PoseSequence):
    """Poses that know how many of their frames are alive."""

    def __init__(self, pose, length):
        super().__init__(length, pose.shape[1:], 12.0)
        self.pose, self.alive, self.most, self.reads = pose, weakref.WeakSet(), 0, 0

    def frame(self, i):
        frame = self.pose.copy().view(Tracked)
        self.alive.add(frame)
        self.most, self.reads = max(self.most, len(self.alive)), self.reads + 1
        return frame


class Tracked(np.ndarray):
    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other if isinstance(other, Tracked) else super().__eq__(other)


@pytest.mark.parametrize("length", [30, 300])
def test_memory_does_not_grow_with_the_clip(poses, length):
    sequence = Counted(moved(poses[0], 1.5, 10, 10, (260, 220)), length)
    subject = subject_of(poses[0])
    placed, alignment = place(user_cache(), sequence, subject)
    assert alignment and sequence.reads == min(length, LOOKED_AT) and sequence.most <= 3
    for _ in pose_windows(subject.model, placed):
        pass
    assert sequence.most <= 3 and sequence.reads <= min(length, LOOKED_AT) + length


def test_windows_beyond_a_cut_are_placed_alike(poses):
    still = PosesInMemory([moved(poses[0], 1.5, 4 * i, 10, (260, 300)) for i in range(40)], 24.0)
    placed, alignment = place(user_cache(), subsequence(still, None, 0.5, 1.0), subject_of(poses[0]))
    whole, shown = placed.origin()
    assert len(whole) == 40 and list(shown) == list(range(12, 24))
    assert np.array_equal(whole.frame(12), placed.frame(0))
    windows = list(pose_windows(SimpleNamespace(config=MINI), placed))
    assert len(windows) == 12  # the poses are those of 12 frames a second: 8, 10, 12, 14, 16
    for window, i in zip(windows[0], (8, 10, 12, 14, 16), strict=True):
        assert np.array_equal(window.numpy(), PlacedPoses(still, subject_of(poses[0]), alignment).frame(i))


# ---- when


def test_auto_leaves_alone_what_has_one_size_or_one_convention(poses):
    small = PosesInMemory([moved(pose, 0.7, 10, 10, (160, 128)) for pose in poses], 12.0)
    other = PosesInMemory([moved(pose, 0.7, 10, 10, (150, 128)) for pose in poses], 12.0)
    subject = subject_of(poses[0])
    assert place(user_cache(), small, subject) == (small, None)
    assert place(user_cache(), other, subject, "off") == (other, None)
    assert place(user_cache(), other, subject_of(poses[0], fit="stretch")) == (other, None)
    notes = []
    placed, alignment = place(user_cache(), other, subject, note=notes.append)
    assert alignment.scale == pytest.approx(1 / 0.7, rel=0.02)
    assert "scale 1.4" in notes[0] and "--align off" in notes[0] and len(notes) == 1
    forced, alignment = place(user_cache(), small, subject_of(poses[0], fit="stretch"), "on")
    assert alignment.scale == pytest.approx(1 / 0.7, rel=0.02) and forced.size == (160, 128)


def test_what_cannot_be_compared_is_left_or_refused(poses):
    legs = PosesInMemory([pose[:, 100:140] for pose in poses], 12.0)
    bust = subject_of(poses[0][:, :60])
    notes = []
    assert place(user_cache(), legs, bust, note=notes.append) == (legs, None)
    assert "not aligned" in notes[0] and "in common" in notes[0]
    with pytest.raises(PoseError, match="--align off"):
        place(user_cache(), legs, bust, "on")
    with pytest.raises(PoseError, match="shows nobody"):
        place(user_cache(), PosesInMemory([0 * poses[0][:, :100]], 12.0), bust, "on")


def test_the_photos_pose_is_estimated_only_when_it_is_needed(poses, monkeypatch):
    from dreampose_cli.inference import alignment as module

    asked = []
    monkeypatch.setattr(module, "estimate_photo", lambda cache, picture, *rest: asked.append(picture.shape) or poses[0])
    unknown = subject_of(np.zeros((3, 160, 128), np.float32))
    same = PosesInMemory(poses, 12.0)
    assert place(user_cache(), same, unknown) == (same, None) and not asked
    _, found = place(user_cache(), PosesInMemory([moved(p, 2.0, 0, 0, (320, 300)) for p in poses], 12.0), unknown)
    assert asked == [(160, 128, 3)] and found.scale == pytest.approx(0.5, rel=0.02)


# ---- the region of a photo that is used


def test_a_small_person_in_a_photo_of_another_aspect_is_found(poses):
    wide = moved(poses[0], 1.0, 300, 20, (200, 800))
    crop = Crop.around(wide, (200, 800), (160, 128), "contain")
    (top, bottom), (left, right) = body_box(wide)
    assert crop.top <= top and bottom <= crop.top + crop.height
    assert crop.left <= left and right <= crop.left + crop.width
    assert crop.width / crop.height == pytest.approx(128 / 160, rel=0.02)
    assert (bottom - top) / crop.height == pytest.approx(FILLED, rel=0.05)
    large = Crop.around(wide, (2000, 8000), (160, 128), "contain")  # the pose may be of another resolution
    places = [(large.top, crop.top), (large.left, crop.left), (large.height, crop.height), (large.width, crop.width)]
    assert all(abs(a - 10 * b) <= 10 for a, b in places)
    assert np.abs(np.subtract(large.of_pose(wide, (2000, 8000)).shape[1:], crop.size)).max() <= 1


@pytest.mark.parametrize("size", [(160, 128), (640, 512), (400, 320), (1601, 1281)])
def test_photos_of_the_bases_aspect_are_used_whole(poses, size):
    pose = moved(poses[0], size[0] / 160 / 4, size[1] / 3, size[0] / 3, size)
    assert Crop.around(pose, size, (160, 128), "contain") is None


@pytest.mark.parametrize("size", [(180, 180), (190, 128), (170, 128)])
def test_large_persons_are_used_whole(poses, size):
    pose = moved(poses[0], 1.0, (size[1] - 128) / 2, size[0] - 160, size)
    assert Crop.around(pose, size, (160, 128), "contain") is None
    assert Crop.around(0 * pose, size, (160, 128), "contain") is None
    tiny = moved(poses[0], 0.3, 10, 10, size)
    assert Crop.around(tiny, size, (160, 128), "stretch") is None
    assert Crop.around(tiny, size, (160, 128), "contain").height < size[0] * 0.5


def test_a_crop_stays_inside_and_keeps_the_person_whole(poses):
    rng = np.random.default_rng(0)
    cropped = 0
    for _ in range(60):
        size = tuple(int(n) for n in rng.integers(40, 600, 2))
        scale = rng.uniform(0.15, 1.2) * min(size[0] / 160, size[1] / 128)
        pose = moved(
            poses[0], scale, rng.uniform(-10, size[1] - 40 * scale), rng.uniform(-10, size[0] - 80 * scale), size
        )
        crop = Crop.around(pose, size, (160, 128), "contain")
        if crop is None:
            continue
        cropped += 1
        (top, bottom), (left, right) = body_box(pose)
        assert 0 <= crop.top <= top and bottom <= crop.top + crop.height <= size[0]
        assert 0 <= crop.left <= left and right <= crop.left + crop.width <= size[1]
        before = Fit.of(size, (160, 128), "contain")
        after = Fit.of(crop.size, (160, 128), "contain")
        assert (bottom - top) * before.height / size[0] < SMALL * 160 + 1
        assert after.height / crop.height >= before.height / size[0] * 0.99  # never smaller than it was
    assert cropped > 15


def test_one_frame_for_photo_and_poses_is_cut_alike(poses):
    wide = [moved(pose, 1.0, 300, 20, (200, 800)) for pose in poses]
    crop = Crop.around(wide[0], (200, 800), (160, 128), "contain")
    subject = dataclasses.replace(subject_of(crop.of_pose(wide[0], (200, 800)), (200, 800)), crop=crop)
    placed, alignment = place(user_cache(), PosesInMemory(wide, 12.0), subject)
    assert alignment is None
    assert np.array_equal(placed.frame(0), subject.pose)
    double = PosesInMemory([moved(pose, 2.0, 0, 0, (400, 1600)) for pose in wide], 12.0)
    again, alignment = place(user_cache(), double, subject, "off")
    assert alignment is None and np.mean(again.frame(0)[0] != subject.pose[0]) < 0.01
    tall = PosesInMemory([pose[:, :, 300:420] for pose in wide], 12.0)
    assert place(user_cache(), tall, subject, "off") == (tall, None)


# ---- from files to files


@pytest.fixture
def wide(dance, tmp_path):
    """A wide photo of a small mannequin, and its exact pose."""
    photo, pose = tmp_path / "wide.png", tmp_path / "wide.poses"
    Image.fromarray(on_canvas(dance[0].picture, (180, 480), (12, 250))).save(photo)
    with PoseWriter(pose, (180, 480), 12.0) as writer:
        writer.append(moved(dance[0].pose, 1.0, 250, 12, (180, 480)))
    return photo, pose


@pytest.fixture
def driving(poses, tmp_path):
    path = tmp_path / "dance.poses"
    with PoseWriter(path, (90, 160), 12.0) as writer:
        for pose in poses[:3]:
            writer.append(moved(pose, 0.5, 40, 6, (90, 160)))
    return path


def test_a_wide_photo_is_tuned_and_rendered_by_its_region(tiny_base, wide, driving, tmp_path):
    notes = []
    options = {"base": str(tiny_base), "poses": [wide[1]], "steps": 1, "decoder_steps": 1}
    subject = tune(TuneOptions([wide[0]], **options), note=notes.append)
    assert any("around the person" in note for note in notes)
    assert tune(TuneOptions([wide[0]], **options)).cached
    crop = store.read_json(subject.path / "subject.json")["photos"][0]["crop"]
    assert 250 < crop["left"] < crop["left"] + crop["width"] < 380
    result = render(RenderOptions(poses=[driving], output=f"{tmp_path / 'out'}/", steps=1), note=notes.append)
    assert any("dance.poses" in note or "aligned: scale" in note for note in notes)
    about = media.read_metadata(tmp_path / "out")
    assert about["crop"] == crop and about["align"] == "auto"
    assert about["alignment"] == result.settings["alignments"][0]
    assert about["alignment"]["scale"] == pytest.approx(2.0, rel=0.05)
    frame = media.read_photo(tmp_path / "out" / "00000.png")
    assert frame.shape[0] / frame.shape[1] == pytest.approx(crop["height"] / crop["width"], rel=0.06)


@pytest.mark.parametrize(
    "size",
    [(60, 90), (8, 8), (20, 400), *(pytest.param(s, marks=pytest.mark.slow) for s in ((90, 60), (64, 64), (400, 20), (600, 960)))],
)
def test_photos_of_any_size_render_at_their_own_aspect(tiny_base, dance, driving, size, tmp_path):
    pose = tmp_path / "photo.poses"
    Image.fromarray(dance[0].picture).resize((size[1], size[0])).save(tmp_path / "photo.png")
    with PoseWriter(pose, size, 12.0) as writer:
        writer.append(fit_pose(dance[0].pose, size, "stretch"))
    shown = load_photo(user_cache(), tmp_path / "photo.png", pose, str(tiny_base), "cpu", None)
    render(
        RenderOptions(
            poses=[driving],
            output=tmp_path / "out.mp4",
            photo=tmp_path / "photo.png",
            photo_pose=pose,
            base=str(tiny_base),
            steps=1,
            end=0.1,
            side_by_side=True,
        )
    )
    info = media.probe_video(tmp_path / "out.mp4")
    assert 0 <= info.height - shown.fit.height <= 1 and 0 <= info.width - 3 * shown.fit.width <= 1
    assert max(shown.fit.height / 48, shown.fit.width / 32) == 1
    region = shown.crop.size if shown.crop else size
    assert abs(shown.fit.height / region[0] * region[1] - shown.fit.width) <= max(1, region[1] / region[0])


def test_a_subject_remembers_its_region(tiny_base, wide):
    tune(TuneOptions([wide[0]], base=str(tiny_base), poses=[wide[1]], steps=0, decoder_steps=0))
    again = load_subject(user_cache(), *find_subject(user_cache(), None, None), 1, "cpu", None)
    assert again.crop == load_photo(user_cache(), *wide, str(tiny_base), "cpu", None).crop
    assert again.fit.height == 48 and again.size == (180, 480)


def test_a_base_without_surface_uses_the_whole_photo_where_nobody_is_found(tmp_path):
    photo = dataclasses.replace(MINI.network.photo, adapter="spatial", surface_code=False)
    plain = SimpleNamespace(
        config=dataclasses.replace(MINI, resolution=(48, 32), network=dataclasses.replace(MINI.network, photo=photo))
    )
    model_cache = SimpleNamespace(base=lambda folder, device, dtype: plain)
    Image.new("RGB", (90, 40), "white").save(tmp_path / "empty.png")
    (tmp_path / "base.json").write_text(plain.config.to_json())
    notes = []
    subject = load_photo(user_cache(), tmp_path / "empty.png", None, tmp_path, "cpu", None, notes.append, model_cache=model_cache)
    assert subject.model is plain and subject.crop is None and not subject.pose.any() and "used whole" in notes[0]


def test_a_region_that_cuts_the_person_is_widened(poses, monkeypatch):
    wide = moved(poses[0], 1.0, 300, 20, (200, 800))
    photo = np.broadcast_to(wide[0][..., None] * 10, (200, 800, 3)).astype(np.uint8)  # its estimator reads it off
    legs = wide.copy()
    legs[:, :110] = 0  # all that was seen from afar
    seen = []

    def estimate(cache, picture, path, estimator, device, note=None):
        seen.append(picture.shape)
        found = np.repeat(picture[None, ..., 0] / 10, 3, 0).astype(np.float32)
        return legs if len(seen) == 1 else found

    monkeypatch.setattr(reading, "estimate_photo", estimate)
    views = reading.read_views(user_cache(), MINI, ["photo.jpg"], [photo], None, "mini", "cpu")
    crop, ((top, bottom), (left, right)) = views.crops[0], body_box(wide)
    assert crop.top <= top and bottom <= crop.top + crop.height < 190
    assert crop.left <= left and right <= crop.left + crop.width < 500
    assert 3 <= len(seen) <= 5 and crop.size == seen[-1][:2]
    assert np.array_equal(np.unique(views.poses[0][0]), np.unique(wide[0]))
    seen.clear()
    monkeypatch.setattr(reading, "WIDENINGS", 1)
    assert reading.read_views(user_cache(), MINI, ["photo.jpg"], [photo], None, "mini", "cpu").crops == [None]


def test_a_large_photo_is_shown_to_densepose_at_its_own_measure(monkeypatch):
    from dreampose_cli.poses import estimator
    from dreampose_cli.poses.densepose import DensePose

    class Seen(DensePose):
        def estimate(self, pictures):
            shapes.append(pictures[0].shape)
            return [np.ones((3, *pictures[0].shape[:2]), np.float32)]

    shapes = []
    monkeypatch.setattr(estimator, "load_estimator", lambda *a, **k: Seen("r50", None, "", "cpu"))
    pose = estimate_photo(user_cache(), np.zeros((2400, 1600, 3), np.uint8), "photo.jpg", "r50", "cpu")
    assert shapes == [(1200, 800, 3)] and pose.shape == (3, 1200, 800)
    estimate_photo(user_cache(), np.zeros((640, 512, 3), np.uint8), "photo.jpg", "r50", "cpu")
    assert shapes[1] == (640, 512, 3)


def test_align_on_the_command_line(tiny_base, clip, driving, tmp_path, capsys):
    photo = clip / "frames" / "00000.png"
    words = ["render", "--poses", str(driving), "--photo", str(photo), "--photo-pose", str(clip / "video.poses")]
    words += ["--base", str(tiny_base), "--steps", "1", "--json"]
    assert main([*words, "-o", f"{tmp_path / 'on'}/"]) == 0
    said = capsys.readouterr()
    settings = json.loads(said.out)["settings"]
    assert settings["align"] == "auto" and set(settings["alignments"][0]) == {"scale", "right", "down"}
    assert "aligned: scale" in said.err and "--align off" in said.err
    assert main([*words, "-o", f"{tmp_path / 'off'}/", "--align", "off"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["align"], settings["alignments"]) == ("off", [None])
    assert main([*words, "-o", f"{tmp_path / 'bad'}/", "--align", "maybe"]) == 2
    assert "maybe" in capsys.readouterr().err and not (tmp_path / "bad").exists()
    with pytest.raises(UsageError, match="alignment"):
        render(RenderOptions(poses=[driving], output=tmp_path / "x.mp4", align="maybe"))


def test_side_by_side_shows_the_aligned_pose(tiny_base, clip, driving, tmp_path):
    photo, pose = clip / "frames" / "00000.png", clip / "video.poses"
    heights = {}
    for mode in ("off", "on"):
        render(
            RenderOptions(
                poses=[driving],
                output=f"{tmp_path / mode}/",
                photo=photo,
                photo_pose=pose,
                base=str(tiny_base),
                steps=1,
                side_by_side=True,
                align=mode,
            )
        )
        shown = media.read_photo(tmp_path / mode / "00000.png")[:, 32:64].astype(int)
        drawn = (np.abs(shown - shown[0, 0]).sum(-1) > 60).any(1)
        heights[mode] = np.flatnonzero(drawn).max() - np.flatnonzero(drawn).min() + 1
    (top, bottom), _ = body_box(open_poses(pose).frame(0))
    assert heights["on"] == pytest.approx(bottom - top, abs=2)
    assert heights["off"] < 0.6 * heights["on"]
    assert Alignment(1.23456, 2.34, -3.45).as_settings() == {"scale": 1.2346, "right": 2.3, "down": -3.5}
