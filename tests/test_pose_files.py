"""Pose sequences: windows, parts of them, every format in and out, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from poses_in_memory import PosesInMemory

from dreampose_cli import media
from dreampose_cli.errors import OutputError, OutputExistsError, PoseError, UsageError
from dreampose_cli.poses.files import PoseWriter, is_pose_source, open_poses
from dreampose_cli.poses.frame_folders import write_dreampose_folder, write_iuv_folder
from dreampose_cli.poses.sequence import PoseSequence, subsequence, window_indices
from dreampose_cli.poses.visualize import BACKGROUND, colorize_iuv

SIZE = (20, 12)


def pose(index: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A torso and a head; U tells the number of the frame."""
    frame = np.zeros((3, *size), np.float32)
    frame[0, 6:16, 3:9] = 2
    frame[0, 1:5, 4:8] = 23
    body = frame[0] > 0
    frame[1][body] = 0.2 + index / 100
    frame[2][body] = np.broadcast_to(np.linspace(0.01, 1, size[0], dtype=np.float32)[:, None], size)[body]
    return frame


def sequence(count: int, fps: float = 10.0) -> PosesInMemory:
    return PosesInMemory([pose(index) for index in range(count)], fps, source="dance.mp4")


def numbers(poses: PoseSequence) -> list[int]:
    return [round((float(frame[1].max()) - 0.2) * 100) for frame in poses]


def write(path: Path, frames, size: tuple[int, int] = SIZE, fps: float = 10.0, **options) -> Path:
    with PoseWriter(path, size, fps, **options) as writer:
        for frame in frames:
            writer.append(frame)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """20 frames at 10 a second, each ten shades brighter than the one before."""
    frames = [np.full((16, 16, 3), 10 * index, np.uint8) for index in range(20)]
    return media.write_frames(tmp_path_factory.mktemp("videos") / "dance.mp4", frames, fps=10)


# --- windows and parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("i", "rule", "expected"),
    [
        (0, "current", [0, 0, 0, 1, 2]),  # as the official code does
        (5, "current", [3, 4, 5, 6, 5]),
        (6, "current", [4, 5, 6, 6, 6]),
        (3, "current", [1, 2, 3, 4, 5]),
        (0, "edge", [0, 0, 0, 1, 2]),
        (5, "edge", [3, 4, 5, 6, 6]),
        (1, "edge", [0, 0, 1, 2, 3]),
        (1, "current", [1, 0, 1, 2, 3]),
    ],
)
def test_the_window_of_five_at_the_ends_of_a_clip(i, rule, expected):
    assert window_indices(i, 7, rule=rule) == expected


@pytest.mark.parametrize(
    ("stride", "n_poses", "expected"),
    [
        (2.0, 5, [6, 8, 10, 12, 14]),
        (2.5, 5, [5, 8, 10, 12, 15]),
        (0.5, 5, [9, 10, 10, 10, 11]),
        (1.0, 1, [10]),
        (3.0, 3, [7, 10, 13]),
    ],
)
def test_the_window_has_a_stride_and_a_length(stride, n_poses, expected):
    assert window_indices(10, 21, n_poses=n_poses, stride=stride) == expected


def test_impossible_windows_are_refused():
    for stride in (0, -1, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="stride"):
            window_indices(0, 7, stride=stride)
    with pytest.raises(ValueError, match="odd"):
        window_indices(0, 7, n_poses=4)
    with pytest.raises(ValueError, match="rule"):
        window_indices(0, 7, rule="mirror")
    for i in (-1, 7):
        with pytest.raises(IndexError):
            window_indices(i, 7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fps": 5},
        {"fps": 4},
        {"fps": 20},
        {"start": 0.5},
        {"end": 0.35},
        {"start": 0.41, "end": 1.0, "fps": 5},
        {"start": 0.3, "end": 0.9, "fps": 15},
    ],
)
def test_a_part_of_a_sequence_shows_the_same_moments_as_the_video(video, options):
    shown = [round(float(frame.mean()) / 10) for frame in media.read_video(video, **options)]
    part = subsequence(sequence(20), **options)
    assert numbers(part) == shown
    assert len(part) == len(shown)
    assert part.fps == options.get("fps", 10)
    assert (part.size, part.source, part.has_parts) == (SIZE, "dance.mp4", True)


def test_an_empty_part_is_refused():
    for options in ({"start": 2.0}, {"start": 0.95}, {"start": 0.01, "end": 0.05}, {"end": 0}, {"fps": -1}):
        with pytest.raises(UsageError, match=r"dance\.mp4"):
            subsequence(sequence(10), **options)


def test_a_sequence_knows_its_ends():
    poses = sequence(3)
    for i in (-1, 3):
        with pytest.raises(IndexError):
            poses.frame(i)
    poses.frame(0)[:] = 7  # a fresh array: nobody else sees this
    assert np.array_equal(poses.frame(0), pose(0))


# --- .poses ---------------------------------------------------------------------------------------------------------


def test_poses_come_back_as_they_were_written(tmp_path):
    path = write(tmp_path / "dance.poses", sequence(7), fps=29.97, source="dance.mp4", estimator="mini 1")
    poses = open_poses(path)
    assert (len(poses), poses.size, poses.fps, poses.has_parts) == (7, SIZE, 29.97, True)
    assert (poses.source, poses.estimator) == ("dance.mp4", "mini 1")
    for index in (6, 0, 3, 3):
        frame = poses.frame(index)
        assert frame.dtype == np.float32
        assert frame.shape == (3, *SIZE)
        assert np.array_equal(frame[0], pose(index)[0])
        assert np.abs(frame - pose(index)).max() < 1 / 65535
    assert os.listdir(tmp_path) == ["dance.poses"]


def test_numpy_opens_the_file_and_the_same_poses_make_the_same_bytes(tmp_path):
    path = write(tmp_path / "dance.poses", sequence(3))
    with np.load(path) as arrays:
        assert arrays["frames/000002"].shape == (3, *SIZE)
        assert arrays["frames/000002"].dtype == np.uint16
    again = write(tmp_path / "again.poses", sequence(3))
    assert again.read_bytes() == path.read_bytes()


def test_the_ends_of_the_range_do_not_wrap(tmp_path):
    frame = pose()
    frame[1:] += np.where(frame[1:] > 0.99, 5e-5, -5e-5) * (frame[0] > 0)
    frame[1, 0, 0], frame[2, 8, 5] = -5e-5, 1 + 5e-5
    read = open_poses(write(tmp_path / "edge.poses", [frame])).frame(0)
    assert np.abs(read - np.clip(frame, 0, [[[24]], [[1]], [[1]]])).max() < 1e-4


def test_poses_without_parts_say_so(tmp_path):
    poses = open_poses(write(tmp_path / "dance.poses", [pose()], has_parts=False))
    assert not poses.has_parts
    assert not poses.frame(0)[0].any()
    assert np.abs(poses.frame(0)[1:] - pose()[1:]).max() < 1e-4


def test_a_sequence_is_read_from_several_threads_and_processes(tmp_path):
    poses = open_poses(write(tmp_path / "dance.poses", sequence(12)))
    poses.frame(0)
    assert numbers(pickle.loads(pickle.dumps(poses))) == list(range(12))
    read: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda k=k: read.update({k: numbers(poses)})) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == {k: list(range(12)) for k in range(4)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_worker_opens_the_file_for_itself(tmp_path):
    poses = open_poses(write(tmp_path / "dance.poses", sequence(2)))
    parent = poses._zip()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"own" if poses._zip() is not parent and numbers(poses) == [0, 1] else b"shared")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"own"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_nothing_behind(tmp_path, failure):
    with pytest.raises(failure), PoseWriter(tmp_path / "dance.poses", SIZE, 10) as writer:
        writer.append(pose())
        raise failure
    assert os.listdir(tmp_path) == []
    with pytest.raises(PoseError, match="no pose frames"):
        write(tmp_path / "dance.poses", [])
    assert os.listdir(tmp_path) == []


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = write(tmp_path / "dance.poses", sequence(3))
    with pytest.raises(PoseError):
        write(path, [pose(), pose(size=(8, 8))])
    assert len(open_poses(path)) == 3
    write(path, sequence(4))
    assert len(open_poses(path)) == 4
    assert os.listdir(tmp_path) == ["dance.poses"]


def test_impossible_places_and_full_disks_are_said_in_words(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write(tmp_path / "file" / "dance.poses", [pose()])
    (tmp_path / "file").unlink()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match="the disk is full"), monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", full)
        write(tmp_path / "dance.poses", [pose()])
    assert os.listdir(tmp_path) == []


def changed(index: tuple, value: float) -> np.ndarray:
    frame = pose()
    frame[index] = value
    return frame


@pytest.mark.parametrize(
    "frame",
    [
        pose(size=(12, 20)),
        pose()[1:],
        changed((0, 0, 0), 25),
        changed((0, 0, 0), -1),
        changed((1, 0, 0), 1.1),
        changed((2, 0, 0), -0.1),
        changed((1, 0, 0), np.nan),
    ],
)
def test_frames_that_are_no_poses_are_not_written(tmp_path, frame):
    with pytest.raises(PoseError, match=r"dance\.poses: pose frame 1"):
        write(tmp_path / "dance.poses", [pose(), frame])


def repacked(path: Path, change) -> Path:
    """The file with its members changed: `change` gets a dictionary of names and bytes."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)
    return path


def header(**changes: object):
    def change(members: dict[str, bytes]) -> None:
        members["header.json"] = json.dumps({**json.loads(members["header.json"]), **changes}).encode()

    return change


def array(name: str, values: np.ndarray):
    def change(members: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        np.save(buffer, values)
        members[name] = buffer.getvalue()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (header(version=2), "of version 2"),
        (header(format="else"), "is no .poses file"),
        (header(frames=4), "pose frame 3 of 4 is missing"),
        (header(frames=0), "makes no sense"),
        (header(frames="3"), "makes no sense"),
        (header(width=100), "of another size"),
        (header(width=10**9), "makes no sense"),
        (header(fps=0), "makes no sense"),
        (header(fps=None), "makes no sense"),
        (lambda members: members.pop("header.json"), "is no .poses file"),
        (lambda members: members.update({"header.json": b"{"}), "is no .poses file"),
        (lambda members: members.update({"header.json": b"[]"}), "is no .poses file"),
        (lambda members: members.pop("frames/000001.npy"), "pose frame 1 of 3 is missing"),
        (array("frames/000001.npy", np.zeros((3, 8, 8), np.uint16)), "of another size"),
        (array("frames/000001.npy", np.full((3, *SIZE), 25, np.uint16)), "pose frame 1 is damaged"),
        (array("frames/000001.npy", np.zeros((SIZE[0], 3, SIZE[1]), np.uint16)), "pose frame 1 is damaged"),
        (array("frames/000001.npy", np.zeros((3, *SIZE), np.float16)), "pose frame 1 is damaged"),
        (lambda members: members.update({"frames/000001.npy": bytes(6 * 240 + 128)}), "damaged"),
    ],
)
def test_a_damaged_or_foreign_poses_file_is_refused(tmp_path, change, reason):
    path = repacked(write(tmp_path / "dance.poses", sequence(3)), change)
    with pytest.raises(PoseError, match=reason) as caught:
        list(open_poses(path))
    assert str(path) in str(caught.value)


def test_a_truncated_poses_file_is_refused(tmp_path):
    whole = write(tmp_path / "dance.poses", sequence(3)).read_bytes()
    path = tmp_path / "cut.poses"
    for kept in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:kept])
        with pytest.raises(PoseError, match=r"cut\.poses is cut short"):
            open_poses(path)
    damaged = bytearray(whole)
    damaged[60:90] = bytes(30)
    path.write_bytes(damaged)
    with pytest.raises(PoseError, match=r"cut\.poses is cut short"):
        list(open_poses(path))


# --- the official DreamPose's files ---------------------------------------------------------------------------------


def test_official_folders_are_read_by_number(tmp_path):
    for number in (0, 1, 2, 10, 9):
        np.save(tmp_path / f"frame_{number}_densepose.npy", pose(number)[1:].astype(np.float64))
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / f"frame_{number}.png")
    poses = open_poses(tmp_path)
    assert (len(poses), poses.size, poses.fps, poses.has_parts) == (5, SIZE, 30.0, False)
    assert numbers(poses) == [0, 1, 2, 9, 10]
    assert poses.frame(0).dtype == np.float32
    assert not poses.frame(0)[0].any()
    assert np.array_equal(poses.frame(0)[1:], pose()[1:])
    assert open_poses(tmp_path, fps=24).fps == 24
    assert is_pose_source(tmp_path)
    assert numbers(open_poses(tmp_path / "frame_9_densepose.npy")) == [9]


def test_official_folders_are_written(tmp_path):
    path = write_dreampose_folder(tmp_path / "npy", sequence(12))
    assert sorted(os.listdir(path)) == sorted(f"frame_{i}_densepose.npy" for i in range(12))
    values = np.load(path / "frame_11_densepose.npy")
    assert (values.dtype, values.shape) == (np.float64, (2, *SIZE))
    assert np.array_equal(values, pose(11)[1:])
    assert numbers(open_poses(path)) == list(range(12))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pose(), "has the shape"),
        (np.zeros((2, 0, 4)), "has the shape"),
        (pose()[1:] * 255, "holds no U and V"),
        (np.full((2, *SIZE), np.nan), "holds no U and V"),
        (np.zeros((2, *SIZE), np.int64), "holds no U and V"),
        (np.array([{"a": 1}], dtype=object), "no .npy file of numbers"),
    ],
)
def test_arrays_that_are_no_poses_are_refused(tmp_path, values, reason):
    np.save(tmp_path / "frame_0_densepose.npy", values, allow_pickle=True)
    with pytest.raises(PoseError, match=reason) as caught:
        open_poses(tmp_path)
    assert "frame_0_densepose.npy" in str(caught.value)


def test_a_truncated_or_odd_array_in_the_middle_is_refused(tmp_path):
    path = write_dreampose_folder(tmp_path / "npy", sequence(3))
    file = path / "frame_1_densepose.npy"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(PoseError, match=r"frame_1_densepose\.npy cannot be read"):
        list(open_poses(path))
    np.save(file, np.zeros((2, 8, 9)))
    with pytest.raises(PoseError, match=r"frame_1_densepose\.npy is 9x8"):
        list(open_poses(path))


# --- IUV pictures ---------------------------------------------------------------------------------------------------


def iuv(frame: np.ndarray, order: tuple[int, int, int] = (0, 1, 2)) -> Image.Image:
    planes = np.rint(frame * np.array([1, 255, 255])[:, None, None]).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(planes[list(order)].transpose(1, 2, 0)))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_iuv_pictures_are_read_in_both_orders(tmp_path, order):
    for index in range(11):
        frame = pose(index) if index else np.zeros_like(pose())  # nobody in the first picture
        iuv(frame, order).save(tmp_path / f"image_{index}.png")
    poses = open_poses(tmp_path, fps=25)
    assert (len(poses), poses.size, poses.fps, poses.has_parts) == (11, SIZE, 25, True)
    assert numbers(poses)[1:] == list(range(1, 11))
    assert np.array_equal(poses.frame(4)[0], pose(4)[0])
    assert np.abs(poses.frame(4) - pose(4)).max() <= 0.5 / 255 + 1e-6
    assert is_pose_source(tmp_path)


def test_iuv_pictures_are_written(tmp_path):
    path = write_iuv_folder(tmp_path / "iuv", sequence(3))
    assert sorted(os.listdir(path)) == ["00000.png", "00001.png", "00002.png"]
    with Image.open(path / "00000.png") as picture:
        assert picture.getpixel((5, 10)) == (2, 51, round(float(pose()[2, 10, 5]) * 255))
    assert numbers(open_poses(path)) == [0, 1, 2]
    without = PosesInMemory([pose()], 10, has_parts=False)
    with pytest.raises(PoseError, match="no body parts"):
        write_iuv_folder(tmp_path / "no", without)
    assert os.listdir(tmp_path) == ["iuv"]


@pytest.mark.parametrize("export", [write_iuv_folder, write_dreampose_folder])
def test_an_export_replaces_only_its_own_files(tmp_path, export):
    path = export(tmp_path / "out", sequence(3))
    with pytest.raises(OutputExistsError):
        export(path, sequence(2))
    export(path, sequence(2), overwrite=True)
    assert len(os.listdir(path)) == 2
    (path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        export(path, sequence(2), overwrite=True)
    assert (path / "mine.txt").exists()


def test_one_iuv_picture_is_a_sequence_of_one(tmp_path):
    iuv(pose(5)).save(tmp_path / "pose.png")
    assert is_pose_source(tmp_path / "pose.png")
    assert numbers(open_poses(tmp_path / "pose.png")) == [5]


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def without_red() -> np.ndarray:
    picture = photo()
    picture[..., 0] = 20  # a deep sea: red stays low everywhere, but is never the mask of the rest
    picture[:5, :, 0] = 0
    return picture


def dark() -> np.ndarray:
    return photo() // 16


@pytest.mark.parametrize("picture", [photo, without_red, dark, lambda: np.zeros((*SIZE, 3), np.uint8)])
def test_ordinary_pictures_are_no_iuv_pictures(tmp_path, picture):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(picture()).save(folder / f"{index}.png")
    for path in (folder, folder / "0.png"):
        assert not is_pose_source(path)
        with pytest.raises(PoseError, match="holds no IUV pictures"):
            open_poses(path)


def test_an_order_that_cannot_be_told_is_refused(tmp_path):
    frame = pose()
    frame[2] = frame[0] / 255  # V stays as low as the part number
    iuv(frame).save(tmp_path / "0.png")
    assert not is_pose_source(tmp_path)
    with pytest.raises(PoseError, match="cannot be told"):
        open_poses(tmp_path)
    iuv(pose()).save(tmp_path / "1.png")  # another frame settles it
    assert np.array_equal(open_poses(tmp_path).frame(0)[0], frame[0])


def test_damaged_iuv_pictures_are_refused(tmp_path):
    path = write_iuv_folder(tmp_path / "iuv", sequence(9))
    file = path / "00001.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(PoseError, match=r"00001\.png cannot be read"):
        list(open_poses(path))
    Image.fromarray(photo()).save(file)
    with pytest.raises(PoseError, match="a body part above 24"):
        list(open_poses(path))
    Image.fromarray(photo()[..., 0]).save(path / "00000.png")
    with pytest.raises(PoseError, match="no three channels"):
        open_poses(path)


# --- what is what ---------------------------------------------------------------------------------------------------


def test_sources_are_told_apart(tmp_path, video):
    poses = write(tmp_path / "dance.poses", sequence(2))
    assert is_pose_source(poses)
    assert is_pose_source(poses.rename(tmp_path / "dance"))  # whatever its name
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    for path in (video, tmp_path / "empty", tmp_path / "text.txt", tmp_path / "missing.poses"):
        assert not is_pose_source(path)
        with pytest.raises(PoseError, match=path.name):
            open_poses(path)


# --- preview --------------------------------------------------------------------------------------------------------


def test_the_preview_tells_parts_and_background_apart():
    frame = np.zeros((3, 25, 40), np.float32)
    for part in range(25):
        frame[0, part] = part
        frame[1:, part] = 0.06 if part else 0
    picture = colorize_iuv(frame)
    assert (picture.dtype, picture.shape) == (np.uint8, (25, 40, 3))
    assert picture[0, 0].tolist() == list(BACKGROUND)
    tones = picture[:, 20].astype(int)
    distances = np.abs(tones[:, None] - tones[None]).sum(-1) + 1000 * np.eye(25, dtype=int)
    assert distances.min() >= 12


def test_the_preview_shows_the_surface_with_and_without_parts():
    frame = pose(size=(64, 48))
    frame[1][frame[0] > 0] = np.linspace(0, 1, int((frame[0] > 0).sum()), dtype=np.float32)
    for parts in (1, 0):
        frame[0] *= parts
        picture = colorize_iuv(frame)
        assert picture[0, 0].tolist() == list(BACKGROUND)
        assert len(np.unique(picture[6:16, 3:9].reshape(-1, 3), axis=0)) > 20
    assert (colorize_iuv(np.zeros((3, 4, 4), np.float32)) == BACKGROUND).all()
