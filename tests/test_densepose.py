"""DensePose from TorchScript files: a tiny scripted module of the same interface stands in for the real one.

Its people are rectangles: a colour channel says who it is, and the green values within are the part numbers.
"""

import json
import shutil
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dreampose_cli import cache as store
from dreampose_cli import media
from dreampose_cli.bases.hub import fetch_file
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import BaseError, DreamposeError, NoPersonError, PoseError, UsageError
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.poses import densepose, estimation
from dreampose_cli.poses.densepose import charts_to_pixels, load_densepose, resize_for
from dreampose_cli.poses.estimator import load_estimator
from dreampose_cli.poses.extraction import extract, load_poses
from dreampose_cli.poses.files import open_poses
from dreampose_cli.poses.torchvision_ops import ensure_torchvision_operators
from dreampose_cli.poses.tracking import PersonTracker, describe_ranges, nearest_seen, ranges_of

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of making the module, not of loading
SIZE = (60, 80)


class People(torch.nn.Module):
    """The interface, with both operators inside: blue is asked first, so it tells BGR from RGB by the order of boxes."""

    def forward(self, picture: torch.Tensor):
        boxes = torch.zeros(0, 4)
        for channel in (0, 2):
            where = (picture[channel] > 100).nonzero()
            if len(where) > 0:
                low, high = where.min(0)[0], where.max(0)[0] + 1
                box = torch.stack([low[1], low[0], high[1], high[0]]).float()[None]
                boxes = torch.cat([boxes, box, box + 0.5])  # each found twice: nms has something to do
        scores = torch.linspace(1.0, 0.5, len(boxes))
        boxes = boxes[torch.ops.torchvision.nms(boxes, scores, 0.5)]
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
        green = torch.ops.torchvision.roi_align(picture[None, 1:2], rois, 1.0, 112, 112, 1, True)
        part = green.round().clamp(0, 24).long()[:, 0]
        fine = torch.nn.functional.one_hot(part, 25).permute(0, 3, 1, 2).float()
        coarse = torch.stack([(part == 0).float(), (part > 0).float()], dim=1)
        ramp = torch.linspace(-0.1, 1.1, 112)
        u = ramp[None, None, None, :].expand_as(fine)
        v = ramp[None, None, :, None].expand_as(fine)
        return boxes, coarse, fine, u, v


class Dict(torch.nn.Module):
    def forward(self, picture: torch.Tensor):
        return {"pred_boxes": picture, "scores": picture[0]}


class Three(torch.nn.Module):
    def forward(self, picture: torch.Tensor):
        return picture, picture[0], picture[0, 0]


class OtherShapes(torch.nn.Module):
    def forward(self, picture: torch.Tensor):
        charts = torch.zeros(1, 25, 56, 56)
        return torch.ones(1, 4), charts[:, :2], charts, charts, charts


class Batched(torch.nn.Module):
    def forward(self, picture: torch.Tensor):
        return torch.nn.functional.interpolate(picture[None, None, None], scale_factor=2.0)


class Astray(torch.nn.Module):
    def forward(self, picture: torch.Tensor):
        charts = torch.zeros(1, 25, 112, 112)
        return torch.full((1, 4), 1e6), charts[:, :2], charts, charts, charts


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """The path of a module's .torchscript file."""
    ensure_torchvision_operators()
    folder = tmp_path_factory.mktemp("scripts")

    def make(kind):
        path = folder / f"{kind.__name__}.torchscript"
        if not path.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.jit.save(torch.jit.script(kind()), path)
        return path

    return make


@pytest.fixture(autouse=True)
def trusted(monkeypatch, request):
    """The files here are our own; the tests of trust itself leave it out."""
    if "untrusted" not in request.fixturenames:
        monkeypatch.setattr(densepose, "require_trusted", lambda cache, file: None)


@pytest.fixture
def untrusted():
    """Files are run only with --trust-code, as outside of tests."""


@pytest.fixture
def people(scripted):
    return scripted(People)


def picture(*figures, size=SIZE):
    """A picture with figures (channel, x, y, w, h): red is channel 0, blue 2; parts 3 above and 7 below."""
    frame = np.zeros((*size, 3), np.uint8)
    for channel, x, y, w, h in figures:
        frame[y : y + h, x : x + w, channel] = 200
        frame[y : y + h // 2, x : x + w, 1] = 3
        frame[y + h // 2 : y + h, x : x + w, 1] = 7
    return frame


def red(x, y=10, w=20, h=40):
    return (0, x, y, w, h)


def blue(x, y=20, w=10, h=20):
    return (2, x, y, w, h)


def bounds(pose):
    """x, y, w, h of the person in a pose frame."""
    rows, columns = np.flatnonzero(pose[0].any(1)), np.flatnonzero(pose[0].any(0))
    return int(columns[0]), int(rows[0]), len(columns), len(rows)


def folder_of(path, pictures):
    media.write_frames(f"{path}/", pictures, fps=10)
    return path


# ---- one picture


def test_a_picture_becomes_a_pose_frame(people):
    pose = load_densepose(user_cache(), people).estimate([picture(red(30))])[0]
    assert (pose.dtype, pose.shape) == (np.float32, (3, *SIZE))
    assert bounds(pose) == (30, 10, 20, 40)
    assert set(np.unique(pose[0])) <= {0, 3, 7}
    assert pose[0, 12, 40] == 3
    assert pose[0, 45, 40] == 7
    assert pose[1, 30, 30] == 0  # -0.1 is clamped
    assert pose[1, 30, 49] == 1
    assert abs(pose[2, 20, 40] - (-0.1 + 1.2 * (10.5 / 40))) < 0.01
    assert not pose[:, pose[0] == 0].any()


def test_the_network_sees_blue_first(people, monkeypatch):
    seen = []
    model = load_densepose(user_cache(), people)
    network = model.network
    model.__dict__["network"] = lambda pixels: seen.append(pixels) or network(pixels)
    model.estimate([picture(red(30))])
    assert seen[0].dtype == torch.float32
    assert seen[0].shape == (3, *SIZE)
    assert seen[0][2].max() == 200  # red last
    assert seen[0][0].max() == 0
    monkeypatch.setattr(densepose, "CHANNELS", "RGB")
    model.estimate([picture(red(30))])
    assert seen[1][0].max() == 200


def test_nobody_gives_an_empty_frame(people):
    pose = load_densepose(user_cache(), people).estimate([picture()])[0]
    assert pose.shape == (3, *SIZE)
    assert not pose.any()


def reference(box, coarse, fine, u, v, size):
    """The published conversion, pixel by pixel after the resampling."""
    x, y, w, h = int(box[0]), int(box[1]), max(int(box[2] - box[0]), 1), max(int(box[3] - box[1]), 1)
    grow = [
        F.interpolate(t[None], (h, w), mode="bilinear", align_corners=False)[0].numpy() for t in (coarse, fine, u, v)
    ]
    frame = np.zeros((3, *size), np.float32)
    for row in range(h):
        for column in range(w):
            part = grow[1][:, row, column].argmax() if grow[0][:, row, column].argmax() > 0 else 0
            if part and 0 <= y + row < size[0] and 0 <= x + column < size[1]:
                values = [part, *(np.clip(grow[k][part, row, column], 0, 1) for k in (2, 3))]
                frame[:, y + row, x + column] = values
    return frame


@pytest.mark.parametrize(
    "box", [[3.9, 4.2, 30.8, 50.1], [-7.5, -3.2, 20, 20], [60, 40, 99, 80], [5, 5, 5.2, 5.3], [200, 200, 220, 220]]
)
def test_charts_become_pixels_as_published(box):
    torch.manual_seed(0)
    coarse, fine = torch.randn(2, 112, 112), torch.randn(25, 112, 112)
    u, v = torch.randn(25, 112, 112), torch.rand(25, 112, 112)
    box = np.array(box)
    frame = charts_to_pixels(box, coarse, fine, u, v, SIZE).numpy()
    expected = reference(box, coarse, fine, u, v, SIZE)
    assert np.array_equal(frame[0], expected[0])
    assert np.abs(frame - expected).max() < 1e-6


def test_another_input_size_comes_back_at_the_source_size(people):
    assert resize_for(np.zeros((480, 640, 3), np.uint8), 800).shape == (800, 1067, 3)
    assert resize_for(np.zeros((300, 1000, 3), np.uint8), 800).shape == (400, 1333, 3)
    assert resize_for(np.zeros((640, 512, 3), np.uint8), None).shape == (640, 512, 3)
    for size in (30, 120):
        pose = load_densepose(user_cache(), people, size=size).estimate([picture(red(30))])[0]
        assert pose.shape == (3, *SIZE)
        assert np.abs(np.subtract(bounds(pose), (30, 10, 20, 40))).max() <= 2


def test_loading_warns_of_nothing(people):
    densepose._load.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_densepose(user_cache(), people).estimate([picture(red(30))])


# ---- several people


def test_the_largest_person_is_followed_through_a_crossing(people):
    model = load_densepose(user_cache(), people)
    frames = [picture(red(5 * i), blue(60 - 2 * i)) for i in range(5)]
    frames += [picture(red(25, w=8, h=16), blue(48 - 2 * i, h=36, w=30)) for i in range(2)]  # now blue is larger
    poses = list(model.stream(frames))
    assert [bounds(pose)[0] for pose in poses] == [0, 5, 10, 15, 20, 25, 25]
    assert bounds(model.estimate([frames[-1]])[0])[2] == 30  # on its own the largest is blue


def test_a_person_can_be_chosen(people):
    frames = [picture(red(0)), picture(red(5), blue(60)), picture(red(10)), picture(red(15), blue(57))]
    poses = list(load_densepose(user_cache(), people, person=2).stream(frames))
    assert [pose.any() for pose in poses] == [False, True, False, True]
    assert [bounds(pose)[0] for pose in poses if pose.any()] == [60, 57]


def test_following():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 40, 20], [21, 1, 39, 19.0]])
    assert PersonTracker().choose(boxes) == 1
    assert PersonTracker(2).choose(boxes) == 0  # the third shows the second person again
    assert PersonTracker(3).choose(boxes) is None
    assert PersonTracker().choose(boxes, np.array([9, 5, 3])) == 0
    assert PersonTracker().choose(np.zeros((0, 4))) is None
    cut = PersonTracker()
    cut.choose(boxes)
    assert cut.choose(boxes[:1]) == 0  # another scene: the largest again
    patient = PersonTracker(1)
    patient.choose(boxes)
    assert [patient.choose(boxes[:1]) for _ in range(31)] == [None] * 30 + [0]


def test_ranges_and_nearest():
    assert nearest_seen([False, True, False, False, False, True, False]) == [1, 1, 1, 1, 5, 5, 5]
    assert ranges_of([0, 3, 4, 5, 9]) == [(0, 0), (3, 5), (9, 9)]
    assert describe_ranges([(0, 0), (3, 5)]) == "0, 3-5"
    assert describe_ranges([(i, i) for i in range(0, 20, 2)]).endswith("14 and 2 more ranges")


# ---- clips: gaps, the cache, reading ahead


def test_gaps_take_the_nearest_pose_and_are_named(people, tmp_path):
    pictures = [picture(red(2 * i)) if i not in (0, 3, 4, 5, 8) else picture() for i in range(9)]
    source = folder_of(tmp_path / "frames", pictures)
    notes = []
    found = extract(user_cache(), source, tmp_path / "out.poses", estimator=str(people), fps=10, device="cpu", note=notes.append)
    assert (found.frames, found.fps, found.gaps, found.estimator) == (9, 10, 5, "People.torchscript")
    assert found.gap_ranges == [(0, 0), (3, 5), (8, 8)]
    assert [bounds(pose)[0] for pose in open_poses(found.path)] == [2, 2, 4, 4, 4, 12, 12, 14, 14]
    assert any("5 frames" in note and "0, 3-5, 8" in note for note in notes)
    assert any("seconds for each frame" in note for note in notes)


def test_poses_are_estimated_once_for_each_setting(people, tmp_path, monkeypatch):
    source = folder_of(tmp_path / "frames", [picture(red(2 * i), blue(60)) for i in range(4)])
    estimated = []
    original = estimation._estimate
    monkeypatch.setattr(estimation, "_estimate", lambda *words: estimated.append(words) or original(*words))
    settings = {"estimator": str(people), "device": "cpu"}
    for extra in ({}, {}, {"person": 2}, {"person": 2}, {"estimator_size": 90}, {"fps": 5}, {"end": 0.1}, {"end": 0.1}):
        sequence, name, gaps = load_poses(user_cache(), source, **settings, **extra)
        assert (name, gaps) == ("People.torchscript", [])
    assert len(estimated) == 5
    assert len(sequence) == 3
    assert len(list((store.user_cache().root / "poses").glob("*.poses"))) == 5


def test_a_part_of_a_video_that_was_estimated_whole_is_not_estimated_again(people, tmp_path, monkeypatch):
    pictures = [picture(red(2 * i)) for i in range(12)]
    source = tmp_path / "dance.mp4"
    media.write_frames(source, pictures, fps=10)
    settings = {"estimator": str(people), "device": "cpu"}
    alone, _, _ = load_poses(user_cache(), source, start=0.3, end=0.8, fps=5, around=0.2, at_least=12, **settings)
    (store.user_cache().root / "poses").joinpath(next(iter((store.user_cache().root / "poses").iterdir())).name).unlink()
    whole, _, _ = load_poses(user_cache(), source, **settings)
    monkeypatch.setattr(estimation, "_estimate", None)
    part, _, _ = load_poses(user_cache(), source, start=0.3, end=0.8, fps=5, around=0.2, at_least=12, **settings)
    assert [bounds(pose)[0] for pose in part] == [6, 10, 14]
    assert part.origin()[0] is not part and len(part.origin()[0]) == len(whole) == 12
    same, _, _ = load_poses(user_cache(), source, fps=10, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(same, whole, strict=True))


def test_damaged_poses_in_the_cache_are_estimated_again(people, tmp_path):
    source = folder_of(tmp_path / "frames", [picture(red(2 * i)) for i in range(4)])
    before = list(load_poses(user_cache(), source, estimator=str(people), device="cpu")[0])
    (entry,) = (store.user_cache().root / "poses").glob("*.poses")
    entry.write_bytes(entry.read_bytes()[:500])
    after = list(load_poses(user_cache(), source, estimator=str(people), device="cpu")[0])
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_number_format_finds_the_same_figures(people, dtype, tmp_path):
    exact, close = (load_densepose(user_cache(), people, dtype=name).estimate([picture(red(30))])[0] for name in ("float32", dtype))
    assert bounds(close) == bounds(exact) and np.abs(close[1:] - exact[1:]).max() < 0.02
    mannequin = next(iter(perform(draw_subject(5), draw_dance(6, 1, 12.0)))).picture
    exact, close = (load_estimator(user_cache(), "mini", dtype=name).estimate([mannequin])[0] for name in ("float32", dtype))
    assert close.dtype == np.float32 and (exact[0] == close[0]).mean() > 0.97 and not np.array_equal(exact, close)
    Image.fromarray(mannequin).save(tmp_path / "photo.png")
    entries = [
        len(list((store.user_cache().root / "poses").glob("*.poses")))
        for name in ("auto", "float32", dtype)
        if load_poses(user_cache(), tmp_path / "photo.png", dtype=name, device="cpu")
    ]
    assert entries == [1, 1, 2]


def test_nobody_at_all_is_an_error(people, tmp_path):
    source = folder_of(tmp_path / "frames", [picture(red(5))] * 2)
    empty = folder_of(tmp_path / "empty", [picture()] * 2)
    with pytest.raises(NoPersonError, match=r"finds nobody in .*empty"):
        load_poses(user_cache(), empty, estimator=str(people), device="cpu")
    with pytest.raises(NoPersonError, match="finds no 3 people"):
        load_poses(user_cache(), source, estimator=str(people), person=3, device="cpu")
    assert not list((store.user_cache().root / "poses").glob("*"))


@pytest.mark.parametrize("format", ["iuv", "dreampose"])
def test_poses_can_be_written_as_folders(people, tmp_path, format):
    source = folder_of(tmp_path / "frames", [picture(red(4 * i)) for i in range(3)])
    found = extract(user_cache(), source, tmp_path / "out", estimator=str(people), format=format, device="cpu")
    direct, _, _ = load_poses(user_cache(), source, estimator=str(people), device="cpu")
    again = open_poses(found.path)
    assert again.has_parts == (format == "iuv")
    assert len(again) == 3
    for a, b in zip(again, direct, strict=True):
        assert np.abs(a[1:] - b[1:]).max() <= 0.5 / 255 + 1e-6
        if format == "iuv":
            assert np.array_equal(a[0], b[0])
    back = extract(user_cache(), found.path, tmp_path / "back.poses")  # and from there
    assert np.abs(open_poses(back.path).frame(2) - again.frame(2)).max() < 1e-5
    with pytest.raises(DreamposeError, match="exists already"):
        extract(user_cache(), source, tmp_path / "out", estimator=str(people), format=format, device="cpu")


def test_formats_and_names_must_agree(tmp_path):
    with pytest.raises(UsageError, match="--format iuv"):
        extract(user_cache(), tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="named as a file"):
        extract(user_cache(), tmp_path, tmp_path / "out.poses", format="iuv")
    with pytest.raises(UsageError, match="no format"):
        extract(user_cache(), tmp_path, tmp_path / "out.poses", format="bvh")


# ---- files that are something else


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Dict, "a dict of pred_boxes, scores"),
        (Three, r"a tuple of one tensor \(3, 60, 80\), one tensor \(60, 80\)"),
        (OtherShapes, r"one tensor \(1, 25, 56, 56\)"),
        (Batched, "cannot compute a picture"),
        (Astray, "far outside"),
    ],
)
def test_another_interface_is_named(scripted, kind, what):
    with pytest.raises(PoseError, match=what) as caught:
        load_densepose(user_cache(), scripted(kind)).estimate([picture(red(30))])
    assert "(N, 25, 112, 112)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_named(people, tmp_path):
    path = tmp_path / "other.torchscript"
    whole = people.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(PoseError, match=r"other\.torchscript is no TorchScript file"):
            load_densepose(user_cache(), path).estimate([picture()])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(PoseError, match="cannot be loaded as TorchScript"):
        load_densepose(user_cache(), path).estimate([picture()])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(80 << 20))
    with pytest.raises(PoseError, match="would unpack"):
        load_densepose(user_cache(), path).estimate([picture()])
    with pytest.raises(PoseError, match="does not exist"):
        load_densepose(user_cache(), tmp_path / "missing.torchscript")


def test_estimators_by_name(people, tmp_path):
    assert load_estimator(user_cache(), str(people)).fingerprint == store.file_digest(people)[:16]
    assert load_estimator(user_cache(), "mini").name == "mini"
    with pytest.raises(UsageError, match="use mini, r50, r101"):
        load_estimator(user_cache(), "r152")
    for options in ({"person": 2}, {"size": 400}):
        with pytest.raises(UsageError, match="is for DensePose"):
            load_estimator(user_cache(), "mini", **options)


def test_the_rate_of_a_folder_of_pictures_is_the_one_given(people, tmp_path):
    """Windows ask for at least a base's training rate; of pictures none may be left out for it."""
    source = folder_of(tmp_path / "frames", [picture(red(5 + index)) for index in range(6)])
    for fps in (5, 20):
        found, _, _ = load_poses(user_cache(), source, estimator=str(people), fps=fps, at_least=12, around=0.2, device="cpu")
        assert (len(found), found.fps, len(found.origin()[0])) == (6, fps, 6)


# ---- the Hub


def test_without_a_network_it_fails_at_once_and_says_what_to_do(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for offline, words in ((True, "HF_HUB_OFFLINE forbids"), (False, "cannot be reached")):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        began = time.monotonic()
        with pytest.raises(PoseError, match=words) as caught:
            load_estimator(user_cache(), "r50")
        assert "PATH.torchscript" in str(caught.value)
        assert time.monotonic() - began < 20  # a loaded machine; it takes milliseconds


def failures():
    import errno

    from huggingface_hub import errors

    class Response:
        status_code = 503
        headers: dict = {}
        request = None

    def http(kind):
        error = kind.__new__(kind)
        error.response = Response()
        return error

    yield http(errors.GatedRepoError), "gated"
    yield http(errors.RepositoryNotFoundError), "no repository on the Hub"
    yield http(errors.RevisionNotFoundError), "no revision 'v9'"
    yield errors.LocalEntryNotFoundError("lost"), "the Hub cannot be reached"
    yield http(errors.RemoteEntryNotFoundError), "no such file"
    yield http(errors.HfHubHTTPError), "status 503"
    yield OSError(errno.ENOSPC, "No space left on device"), "is full; make room"
    yield PermissionError(errno.EACCES, "Permission denied"), "cannot be saved"
    yield RuntimeError("peer closed connection"), "was interrupted"


@pytest.mark.parametrize(("failure", "words"), list(failures()), ids=lambda value: str(value)[:20] or "error")
def test_each_failure_of_the_hub_has_its_sentence(monkeypatch, failure, words):
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(*_, local_files_only=False, **__):
        raise LocalEntryNotFoundError("not here") if local_files_only else failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("dreampose_cli.bases.hub.require_hub", lambda *_: None)
    with pytest.raises(PoseError, match=words) as caught:
        fetch_file("owner/name", "file", "v9", error=PoseError, instead="give a file")
    assert "file of owner/name" in str(caught.value) or words.startswith(("no revision", "no repository"))


def test_a_download_names_the_licence_once(monkeypatch, people):
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    here = []

    def download(repository, file, *, revision, local_files_only=False, tqdm_class=None):
        assert (repository, file) == (densepose.REPOSITORY, "densepose_r101_fpn_dl.torchscript")
        if local_files_only and not here:
            raise LocalEntryNotFoundError("not here")
        if tqdm_class:
            with tqdm_class(total=4_000_000, initial=0, desc="x", name="y", unit="B", unit_scale=True) as bar:
                bar.update(2_000_000)
        here.append(file)
        return str(people)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("dreampose_cli.bases.hub.require_hub", lambda *_: None)
    notes, steps = [], []
    for _ in range(2):
        model = load_estimator(user_cache(), "r101", note=notes.append, progress=lambda *step: steps.append(step))
    assert model.name == "r101"
    assert len(notes) == 1
    assert "CC BY-SA 3.0" in notes[0]
    assert steps == [(2, 4, "MB of densepose_r101_fpn_dl.torchscript")]


# ---- the command


def test_the_command_reports_gaps_in_its_document(people, tmp_path, capsys):
    from dreampose_cli.__main__ import main

    source = folder_of(tmp_path / "frames", [picture(red(5)), picture(), picture(red(9))])
    words = ["poses", str(source), "-o", str(tmp_path / "out.poses"), "--estimator", str(people), "--person", "1"]
    assert main([*words, "--device", "cpu", "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["gaps"], document["gap_ranges"]) == (1, [[1, 1]])
    assert document["size"] == {"width": 80, "height": 60}
    assert main(["poses", str(source), "-o", str(tmp_path / "m.poses"), "--estimator", "mini", "--person", "2"]) == 2
    assert "--person is for DensePose" in capsys.readouterr().err


# ---- TorchScript is code


def test_a_torchscript_file_is_run_only_where_its_user_trusts_it(people, untrusted, tmp_path, capsys):
    from dreampose_cli.__main__ import main

    source = folder_of(tmp_path / "frames", [picture(red(5))])
    words = ["poses", str(source), "--estimator", str(people), "--device", "cpu", "-q", "-o"]
    assert main([*words, str(tmp_path / "a.poses")]) == 1
    assert "TorchScript, which is code that runs with your rights" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "a.poses"), "--trust-code"]) == 0
    assert main([*words, str(tmp_path / "b.poses")]) == 0  # its checksum is remembered
    changed = tmp_path / "changed.torchscript"
    changed.write_bytes(people.read_bytes() + b"\0")
    with pytest.raises(PoseError, match="--trust-code"):
        load_densepose(user_cache(), changed)
    words = ["poses", str(source), "-o", str(tmp_path / "c.poses"), "--trust-code"]
    for estimator in ([], ["--estimator", "mini"], ["--estimator", "r50"]):
        assert main([*words, *estimator]) == 2
        assert "--trust-code is for a TorchScript file" in capsys.readouterr().err


def test_a_base_names_no_file_as_its_estimator(people, untrusted, tiny_base, tmp_path, monkeypatch, capsys):
    from dreampose_cli.__main__ import main
    from dreampose_cli.bases.config import read_config

    base = shutil.copytree(tiny_base, tmp_path / "base")
    for name in (str(people), people.name, "../x", "mini/", ""):
        document = json.loads((tiny_base / "base.json").read_text())
        document["estimator"] = name
        (base / "base.json").write_text(json.dumps(document))
        with pytest.raises(BaseError, match=r"base\.json cannot be used: its estimator is .*; a file is given with"):
            read_config(base)
        picture_file = tmp_path / "photo.png"
        media.write_frames(picture_file, [picture(red(5))], fps=1, overwrite=True)
        assert main(["tune", str(picture_file), "--base", str(base), "--steps", "1"]) == 1
        assert "a base may name only mini, r50, r101" in capsys.readouterr().err
    # a file of such a name in the working directory is not meant
    monkeypatch.chdir(tmp_path)
    shutil.copy(people, tmp_path / "doodle")
    with pytest.raises(UsageError):
        load_estimator(user_cache(), "doodle")


def test_the_same_poses_are_the_same_bytes(people, tmp_path, cache, monkeypatch):
    source = folder_of(tmp_path / "frames", [picture(red(5)), picture(), picture(red(9))])
    found, now = [], time.time()
    for hours in (0, 5):
        monkeypatch.setattr(time, "time", lambda hours=hours: now + 3600 * hours)
        shutil.rmtree(cache, ignore_errors=True)
        load_poses(user_cache(), source, estimator=str(people), device="cpu")
        (path,) = (cache / "poses").iterdir()
        found.append(path.read_bytes())
    assert b"gaps.json" in found[0]
    assert found[0] == found[1]
