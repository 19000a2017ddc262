"""The road from a folder of videos and photos to training frames: layouts, shards, bad clips, and little room."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from poses_in_memory import PosesInMemory

from dreampose_cli import media
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import StoreError, TrainingError
from dreampose_cli.poses.files import PoseWriter, open_poses
from dreampose_cli.poses.frame_folders import write_dreampose_folder
from dreampose_cli.training import preparation
from dreampose_cli.training.data import find_clips, find_test_clips
from dreampose_cli.training.frames import LazyFrames, prepare_frames
from dreampose_cli.training.identities import require_strangers
from dreampose_cli.training.shards import ShardWriter, open_shard, read_picture, read_pose

SIZE = (48, 32)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(folder, notes=None):
    return {(s.split, s.name) for s in find_clips(folder, (notes if notes is not None else []).append)}


# ---- layouts


def test_videos_in_one_folder_or_in_two(tmp_path):
    touch(tmp_path / "flat/b.mp4", tmp_path / "flat/a.mov", tmp_path / "flat/a.poses", tmp_path / "flat/notes.md")
    flat = find_clips(tmp_path / "flat")
    assert [(s.name, s.split, s.poses and s.poses.name) for s in flat] == [
        ("a", "train", "a.poses"),
        ("b", "train", None),
    ]
    assert [s.needs_estimator for s in flat] == [False, True]
    touch(tmp_path / "ubc/train/a.mp4", tmp_path / "ubc/train/deep/er/b.mp4", tmp_path / "ubc/test/c.mp4")
    assert found(tmp_path / "ubc") == {("train", "a"), ("train", "deep/er"), ("test", "c")}


def test_lists_say_what_is_for_testing(tmp_path):
    touch(*(tmp_path / f"{name}.mp4" for name in "abcde"))
    (tmp_path / "fashion_train.txt").write_text("# ours\nhttps://example.org/videos/a.mp4?x=1\nb.mp4\nc\nmissing.mp4\n")
    (tmp_path / "fashion_test.csv").write_text("video,frames\nc.mp4,300\nsome/folder/d.mp4,300\n")
    notes = []
    assert found(tmp_path, notes) == {("train", "a"), ("train", "b"), ("test", "c"), ("test", "d")}
    assert any("fashion_train.txt names 1 clip not there (missing.mp4)" in note for note in notes)
    assert "1 clip in the lists for training and for testing (c): kept for testing." in notes
    assert "1 clip left out (e): in no list." in notes
    (tmp_path / "fashion_train.txt").unlink()
    assert found(tmp_path) == {*(("train", name) for name in "abe"), ("test", "c"), ("test", "d")}


def test_what_lies_beside_train_and_test_is_left_out_and_said(tmp_path):
    touch(tmp_path / "train/a.mp4", tmp_path / "test/b.mp4", *(tmp_path / f"{name}.mp4" for name in "cdef"))
    touch(tmp_path / "val/g.mp4")
    notes = []
    assert found(tmp_path, notes) == {("train", "a"), ("test", "b")}
    assert notes == ["5 clips left out (c, d, e and others): next to train/ and test/, and in neither."]
    shutil.rmtree(tmp_path / "train")  # then nothing says what is for training: all but the test clips
    assert found(tmp_path, notes) == {*(("train", name) for name in ["c", "d", "e", "f", "val"]), ("test", "b")}
    assert len(notes) == 1


def test_lists_beside_folders_are_read_and_a_folder_counts_first(tmp_path):
    touch(tmp_path / "train/a.mp4", tmp_path / "test/b.mp4", *(tmp_path / f"{name}.mp4" for name in "cde"))
    (tmp_path / "fashion_train.txt").write_text("https://example.org/train/a.mp4\nc.mp4\n")
    (tmp_path / "fashion_test.txt").write_text("d.mp4\na.mp4\n")
    notes = []
    assert found(tmp_path, notes) == {("train", "a"), ("train", "c"), ("test", "b"), ("test", "d")}
    assert any("fashion_test.txt names 1 clip in a folder train/ (a.mp4); the folder counts." in note for note in notes)
    assert any(note.startswith("1 clip left out (e): ") for note in notes) and len(notes) == 2


def test_data_sets_within_a_folder_keep_their_test_clips(tmp_path):
    touch(tmp_path / "ubc/train/a.mp4", tmp_path / "ubc/test/b.mp4", tmp_path / "shop/c.mp4", tmp_path / "shop/d.mp4")
    (tmp_path / "shop/test.txt").write_text("d\n")
    touch(tmp_path / "house/spring/e.mp4", tmp_path / "house/spring/more/f.WMV", tmp_path / "house/spring/cover.jpg")
    notes = []
    assert found(tmp_path, notes) == {
        *(("train", name) for name in ("ubc/a", "shop/c", "house/spring/e", "house/spring/more")),
        *(("test", name) for name in ("ubc/b", "shop/d")),
    }
    assert [note.split(":")[0] for note in notes] == ["1 picture left out (house/spring/cover.jpg)"]


def test_whatever_is_no_clip_is_counted(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "a_poses.mp4", tmp_path / "b.jpg", tmp_path / "c.jpg")
    touch(tmp_path / "clip/frames/0.png", tmp_path / "clip/video.mp4", tmp_path / "clip/other.mp4")
    touch(tmp_path / "anna/front.jpg", tmp_path / "anna/masks/front.png", tmp_path / "anna/front_IUV.png")
    touch(tmp_path.joinpath(*"123456789", "deep.mp4"))
    notes = []
    assert found(tmp_path, notes) == {("train", name) for name in ("a", "clip", "anna", "1/2/3/4/5/6/7/8/9")}
    assert {note.split(":")[0] for note in notes} == {
        "1 video left out (a_poses.mp4)",
        "2 videos left out (clip/other.mp4, clip/video.mp4)",
        "2 pictures left out (b.jpg, c.jpg)",
        "1 folder left out (anna/masks)",
    }
    assert [s.name for s in find_clips(tmp_path / "clip")] == ["clip"]  # one clip, named itself
    deeper = tmp_path.joinpath(*"1234567899")
    touch(deeper / "b.mp4", deeper / "c.mp4")
    assert ("train", "1/2/3/4/5/6/7/8/9/deep") not in found(tmp_path, notes)
    assert any("1 folder left out (1/2/3/4/5/6/7/8/9): it lies more than 8 folders deep" in note for note in notes)


def test_clips_to_test_with(tmp_path):
    touch(
        tmp_path / "train/a.mp4", tmp_path / "test/b.mp4", tmp_path / "test/b.poses", tmp_path / "test/c/frames/0.png"
    )
    touch(tmp_path / "test/anna/front.jpg", tmp_path / "test/d/frame_0.png", tmp_path / "test/d/frame_0_densepose.npy")
    notes = []
    test = find_test_clips(tmp_path, notes.append)
    assert [(s.name, s.media.relative_to(tmp_path / "test").as_posix(), s.poses is not None) for s in test] == [
        ("b", "b.mp4", True),
        ("c", "c/frames", False),
        ("d", "d", False),
    ]
    assert notes == ["1 clip left out (anna): photos without an order in time."]
    assert [s.name for s in find_test_clips(tmp_path / "test")] == ["b", "c", "d"]  # nothing is said: all of them
    assert find_test_clips(tmp_path / "train")[0].split == "test"
    shutil.rmtree(tmp_path / "test")
    assert find_test_clips(tmp_path) == []
    (tmp_path / "train").rename(tmp_path / "videos")
    (tmp_path / "videos/test.txt").write_text("a.mp4\n")
    assert [s.name for s in find_test_clips(tmp_path)] == ["videos/a"]
    with pytest.raises(TrainingError, match="1 clip there to test with, and none besides"):
        find_clips(tmp_path / "videos")
    with pytest.raises(TrainingError, match="not a folder"):
        find_test_clips(tmp_path / "gone")


def test_deepfashions_people_are_told_apart_by_path_and_by_name(tmp_path):
    shop = tmp_path / "shop/Img/img/WOMEN/Dresses"
    touch(*(shop / f"id_0000000{i}/0{k}_1_front.jpg" for i in (1, 2) for k in (1, 2)))
    flat = ("WOMEN-Dresses-id_00000003-02_1_front.jpg", "WOMEN-Dresses-id_00000003-02_2_side.jpg")
    touch(*(tmp_path / "flat" / name for name in flat), tmp_path / "flat/fashionWOMENDressesid0000000401_1front.jpg")
    assert found(tmp_path / "flat") == {("train", "id_00000003/02"), ("train", "id_00000004/01")}
    assert {len(s.pictures) for s in find_clips(tmp_path / "flat")} == {1, 2}
    assert not any(s.ordered for s in find_clips(tmp_path / "flat"))
    names = {(i, k): f"Img/img/WOMEN/Dresses/id_0000000{i}/0{k}" for i in (1, 2) for k in (1, 2)}
    assert found(tmp_path / "shop") == {("train", name) for name in names.values()}
    (tmp_path / "shop/Eval").mkdir()
    table = "4\nimage_name item_id evaluation_status\n"
    rows = [(1, 1, "train"), (1, 2, "train"), (2, 1, "query"), (2, 2, "gallery")]
    lines = [f"img/WOMEN/Dresses/id_0000000{i}/0{k}_1_front.jpg id_0000000{i} {split}\n" for i, k, split in rows]
    (tmp_path / "shop/Eval/list_eval_partition.txt").write_text(table + "".join(lines))
    splits = {1: "train", 2: "test"}
    assert found(tmp_path / "shop") == {(splits[i], name) for (i, _), name in names.items()}


def test_a_person_in_training_and_in_testing_is_refused_by_name(tmp_path):
    touch(*(tmp_path / f"{split}/WOMEN/id_0000000{i}/01_1_front.jpg" for split, i in (("train", 1), ("train", 2), ("test", 3))))
    assert len(find_clips(tmp_path)) == 3
    touch(tmp_path / "test/MEN/id_00000002/02_1_front.jpg")
    with pytest.raises(TrainingError, match="^id_00000002 is both in training and in testing in .*leave them out of one"):
        find_clips(tmp_path)
    shutil.rmtree(tmp_path / "test")
    row = "img/WOMEN/id_00000001/01_1_front.jpg id_00000001"
    (tmp_path / "list_eval_partition.txt").write_text(f"2\nimage_name item_id evaluation_status\n{row} train\n{row} query\n")
    with pytest.raises(TrainingError, match="^id_00000001 is both .*list_eval_partition.txt"):
        find_clips(tmp_path)


def test_whoever_is_trained_on_and_tested_with_is_refused_in_any_layout(tmp_path):
    """By their names, but for those that are counts, and by what the files hold, whatever they are called."""

    def look(folder):
        require_strangers(find_clips(folder), folder)

    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)

    for split in ("train", "test"):
        write(tmp_path / split / "clip-1.mp4", split.encode())
        write(tmp_path / split / f"of-{split}" / "frames" / "0001.png", f"frame {split}".encode())
        write(tmp_path / split / "0007" / f"{split}.jpg", split.encode() * 2)
    look(tmp_path)
    write(tmp_path / "test" / "anna.mp4", b"dancing")
    write(tmp_path / "train" / "anna.mp4", b"sitting")
    with pytest.raises(TrainingError, match="^anna is both in training and in testing in .*leave them out of one"):
        look(tmp_path)
    (tmp_path / "train" / "anna.mp4").rename(tmp_path / "train" / "berta.mp4")
    look(tmp_path)
    write(tmp_path / "test" / "9" / "1.jpg", b"train" * 2)
    write(tmp_path / "test" / "scene" / "frames" / "12.png", b"frame train")
    with pytest.raises(TrainingError, match=r"^9 \(in training as 0007\), scene \(in training as of-train\) are both"):
        look(tmp_path)
    shutil.rmtree(tmp_path / "test")
    write(tmp_path / "photos" / "test" / "carla" / "02_1_front.jpg", b"two")
    write(tmp_path / "train" / "carla" / "01_1_front.jpg", b"one")
    with pytest.raises(TrainingError, match="^carla is both in training and in testing in .*train and .*photos"):
        prepare_frames(user_cache(), tmp_path / "train", (48, 32), photos=tmp_path / "photos")


def test_a_folder_of_the_tiktok_dataset_is_a_clip(tmp_path):
    for i in range(1, 4):
        labels = np.zeros((20, 16, 3), np.uint8)
        labels[4:16, 4:12] = (i, 60 * i, 80)
        for kind, picture in (("images", np.full((20, 16, 3), 50 * i, np.uint8)), ("densepose", labels), ("masks", labels)):
            if (kind, i) != ("densepose", 2):
                (tmp_path / "00001" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(tmp_path / "00001" / kind / f"{i:04d}.png")
    notes = []
    (clip,) = find_clips(tmp_path, notes.append)
    assert clip.name == "00001" and clip.ordered and [p.name for p, _ in clip.pictures] == ["0001.png", "0003.png"]
    assert notes == ["1 picture left out (00001/images/0002.png): densepose/ has none of its name."]
    frames = prepare_frames(user_cache(), tmp_path, (20, 16))
    assert frames.pictures[1, 0, 0, 0] == 150 and frames.pose([1])[0, 0, 8, 8] == 3


def test_an_empty_test_list_is_said(tmp_path):
    touch(tmp_path / "a.mp4")
    (tmp_path / "test.txt").write_text("\n")
    notes = []
    assert found(tmp_path, notes) == {("train", "a")}
    assert any("test.txt names no clip" in note for note in notes)
    (tmp_path / "test.txt").unlink()
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    shutil.move(tmp_path / "a.mp4", tmp_path / "train")
    assert found(tmp_path, notes) == {("train", "a")}
    assert any("test holds no clip" in note for note in notes)


def test_photos_of_people(tmp_path):
    women = tmp_path / "img/WOMEN/Dresses"
    touch(*(women / f"id_00000002/{name}.jpg" for name in ("01_1_front", "01_2_side", "02_1_front")))
    touch(women / "id_00000002/01_1_front_densepose.npy", women / "id_7/summer.jpg", women / "id_7/winter.png")
    sources = {s.name: s for s in find_clips(tmp_path)}
    assert set(sources) == {f"img/WOMEN/Dresses/{name}" for name in ("id_00000002/01", "id_00000002/02", "id_7")}
    one = sources["img/WOMEN/Dresses/id_00000002/01"]
    assert not one.ordered and one.needs_estimator
    assert [(p.name, poses and poses.name) for p, poses in one.pictures] == [
        ("01_1_front.jpg", "01_1_front_densepose.npy"),
        ("01_2_side.jpg", None),
    ]


def test_the_official_layout_has_an_order(tmp_path):
    for i in (0, 1, 2, 10):
        touch(tmp_path / f"clip/frame_{i}.png", tmp_path / f"clip/frame_{i}_densepose.npy")
    (source,) = find_clips(tmp_path)
    assert source.ordered and not source.needs_estimator
    assert [p.name for p, _ in source.pictures] == [f"frame_{i}.png" for i in (0, 1, 2, 10)]


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(TrainingError, match="not a folder"):
        find_clips(tmp_path / "none")
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(TrainingError, match="no training clips"):
        find_clips(tmp_path)
    with pytest.raises(TrainingError, match="readme.txt is a file; give the folder"):
        find_clips(tmp_path / "readme.txt")


# ---- shards


def test_a_shard_gives_back_what_was_put_in(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
    poses = rng.integers(0, 25, (5, 3, *SIZE), dtype=np.uint8)
    with ShardWriter(tmp_path / "a.shard", SIZE, 24.0, True) as writer:
        for pair in zip(pictures, poses, strict=True):
            writer.add(*pair)
        assert not (tmp_path / "a.shard").exists()  # whole, or not at all
    assert [p.name for p in tmp_path.iterdir()] == ["a.shard"]
    shard = open_shard(tmp_path / "a.shard")
    assert (shard.length, shard.fps, shard.ordered) == (5, 24.0, True)
    for i in range(5):
        assert np.array_equal(read_picture(shard, i), pictures[i]) and np.array_equal(read_pose(shard, i), poses[i])

    rows = LazyFrames([shard, shard], read_picture, (*SIZE, 3))
    whole = np.concatenate([pictures, pictures])
    assert rows.shape == whole.shape and len(rows) == 10
    for key in (
        3,
        -1,
        [7, 0, 7],
        np.array([[1, 2], [8, 9]]),
        slice(2, 9, 3),
        (4, 0, slice(None, None, 4)),
        ([1, 6], 2),
    ):
        assert np.array_equal(rows[key], whole[key]), key
    with pytest.raises(IndexError):
        rows[10]
    with zipfile.ZipFile(tmp_path / "a.shard") as archive:  # what any program reads
        assert np.array_equal(np.asarray(Image.open(archive.open("000003.png"))), pictures[3])
    data = (tmp_path / "a.shard").read_bytes()
    place = int(shard.members[0, 0]) + 500  # within the pixels of the first picture
    (tmp_path / "a.shard").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(StoreError, match="damaged"):
        read_picture(shard, 0)
    assert np.array_equal(read_picture(shard, 1), pictures[1])
    (tmp_path / "a.shard").write_bytes(data[:-30])
    with pytest.raises(StoreError, match="damaged"):
        open_shard(tmp_path / "a.shard")


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="halfway"), ShardWriter(tmp_path / "a.shard", SIZE, 24.0, True) as writer:
        writer.add(np.zeros((*SIZE, 3), np.uint8), np.zeros((3, *SIZE), np.uint8))
        raise ValueError("halfway")
    assert not list(tmp_path.iterdir())


def write_clip(folder, *, frames, size, fps, body=True, poses=None, name="video"):
    """A clip with noise for pictures and a block for a body."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(frames)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(frames)]
    media.write_frames(folder / f"{name}.mp4", iter(pictures), fps=fps)
    with PoseWriter(folder / f"{name}.poses", size, fps) as writer:
        for _ in range(frames if poses is None else poses):
            pose = np.zeros((3, *size), np.float32)
            if body:
                pose[0, 8:-8, 8:-8], pose[1:, 8:-8, 8:-8] = 2, 0.5
            writer.append(pose)


@pytest.fixture
def mixed(tmp_path):
    """Clips of every kind that is met in the wild."""
    data = tmp_path / "mixed"
    write_clip(data / "a", frames=6, size=(96, 64), fps=24)
    write_clip(data / "b", frames=4, size=(64, 64), fps=12.5)
    write_clip(data / "one-frame", frames=1, size=(48, 32), fps=30)
    write_clip(data / "nobody", frames=3, size=(48, 32), fps=30, body=False)
    write_clip(data / "short-poses", frames=5, size=(48, 32), fps=30, poses=3)
    write_clip(data / "corrupt", frames=9, size=(96, 64), fps=30)
    video = data / "corrupt" / "video.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    write_clip(data / "other-poses", frames=4, size=(48, 32), fps=30)
    shutil.copy(data / "b" / "video.poses", data / "other-poses" / "video.poses")
    return data


def test_bad_clips_are_named_and_the_others_prepared(mixed):
    notes = []
    frames = prepare_frames(user_cache(), mixed, SIZE, note=notes.append)
    assert [(clip.name, clip.length, clip.fps) for clip in frames.clips] == [
        ("a", 6, 24.0),
        ("b", 4, 12.5),
        ("one-frame", 1, 30.0),
    ]
    assert frames.pictures.shape == (11, *SIZE, 3)
    words = {note.split()[1]: note for note in notes if note.startswith("clip ")}
    assert set(words) == {"nobody", "short-poses", "corrupt", "other-poses"}
    assert "show nobody" in words["nobody"] and "more frames than its poses (3)" in words["short-poses"]
    assert "video.mp4" in words["corrupt"] and "poses of another clip" in words["other-poses"]
    assert any("1 clip of a single frame (one-frame)" in note for note in notes)
    window = frames.window(frames.clips[1], 0, 5, 12.5, "edge")  # a square picture in an upright frame is padded
    assert window[0, 0, 2].max() == 0 and window[0, 0, 24].max() == 2


def test_processes_make_what_one_makes_and_nothing_is_made_twice(mixed, cache):
    one = prepare_frames(user_cache(), mixed, SIZE)
    made = {p: p.stat().st_mtime_ns for p in one.folder.glob("*.shard")}
    before = {p: p.read_bytes() for p in made}
    again = prepare_frames(user_cache(), mixed, SIZE, workers=2)
    assert {p: p.stat().st_mtime_ns for p in one.folder.glob("*.shard")} == made and again.key == one.key
    shutil.rmtree(cache)
    two = prepare_frames(user_cache(), mixed, SIZE, workers=2)
    assert two.key == one.key and [clip.name for clip in two.clips] == [clip.name for clip in one.clips]
    assert {p: p.read_bytes() for p in two.folder.glob("*.shard")} == before


def test_the_key_follows_the_content_and_not_the_place(mixed, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(mixed, moved)
    assert prepare_frames(user_cache(), moved, SIZE).key == prepare_frames(user_cache(), mixed, SIZE).key
    before = prepare_frames(user_cache(), moved, SIZE)
    shutil.rmtree(moved / "b")
    write_clip(moved / "c", frames=5, size=(96, 64), fps=24)
    notes = []
    after = prepare_frames(user_cache(), moved, SIZE, note=notes.append)
    assert after.key != before.key and [clip.name for clip in after.clips] == ["a", "c", "one-frame"]
    assert any("of 7 clips are prepared already" in note for note in notes)


def test_a_killed_preparation_keeps_what_is_done(clips, tmp_path, cache):
    data = tmp_path / "data"
    shutil.copytree(clips / "train", data)
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from dreampose_cli.cache import user_cache\n"
        "from dreampose_cli.training import shards\n"
        "from dreampose_cli.training.frames import prepare_frames\n"
        "add = shards.ShardWriter.add\n"
        "def slow(self, *frame):\n"
        "    time.sleep(0.1)\n"
        "    add(self, *frame)\n"
        "shards.ShardWriter.add = slow\n"
        "prepare_frames(user_cache(), Path(sys.argv[1]), (48, 32))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(data)], env={**os.environ, "DREAMPOSE_CACHE": str(cache)}
    )
    waiting = time.monotonic() + 60
    while len(list(cache.glob("data/*/*.tmp"))) + len(list(cache.glob("data/*/*.shard"))) < 2:
        assert child.poll() is None and time.monotonic() < waiting
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (half,) = cache.glob("data/*/*.tmp")
    made = {p: p.stat().st_mtime_ns for p in cache.glob("data/*/*.shard")}
    assert 1 <= len(made) < 3
    notes = []
    frames = prepare_frames(user_cache(), data, SIZE, note=notes.append)
    assert len(frames.clips) == 3 and not half.exists()
    assert f"{len(made)} of 3 clips are prepared already." in notes
    assert {p: p.stat().st_mtime_ns for p in made} == made


def test_memory_does_not_grow_with_the_clip(tmp_path, monkeypatch):
    import tracemalloc

    frame = np.zeros((64, 64, 3), np.uint8)
    pose = np.zeros((3, 64, 64), np.float32)
    pose[:, 8:56, 8:56] = 1

    def peak(count):
        job = preparation._Job(
            preparation.Source("long", "train", tmp_path / "v.mp4", tmp_path / "v.poses"), f"k{count}", tmp_path,
            preparation.Preparation(user_cache(), (64, 64)),
        )  # fmt: skip
        tracemalloc.start()
        preparation._write(job, ((frame.copy(), pose.copy()) for _ in range(count)), 30.0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(5)
    short, long = peak(20), peak(400)
    assert long - short < 40 * frame.nbytes  # of 380 more frames; their places in the file are kept


def test_too_little_room_is_said_before_the_work(mixed, monkeypatch, cache):
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(
        TrainingError, match=r"preparing 7 clips needs about 0.1 MB .* where 0.0 MB are free.*DREAMPOSE_CACHE"
    ):
        prepare_frames(user_cache(), mixed, SIZE)
    assert not list(cache.glob("data/*/*.shard"))


def test_estimated_poses_take_room_too(clips, tmp_path, cache):
    """They are kept at the clip's own size, and may be larger than what training reads."""
    data = tmp_path / "data"
    data.mkdir()
    for i, clip in enumerate(sorted((clips / "train").iterdir())):
        shutil.copy(clip / "video.mp4", data / f"{i}.mp4")
    sources = find_clips(data)
    prepare_frames(user_cache(), data, SIZE, estimator="mini", device="cpu")
    taken = sum(p.stat().st_size for p in cache.glob("poses/*.poses"))
    assert 0.5 * taken < preparation._estimates(sources) < 1.5 * taken
    assert preparation._estimates(find_clips(clips)) == 0  # poses lie next to them


def test_a_full_cache_is_the_caches_fault_and_no_clips(clips, tiny_base, tmp_path, monkeypatch):
    import errno
    from pathlib import Path

    from dreampose_cli.media import outputs
    from dreampose_cli.networks.storage import load_base
    from dreampose_cli.poses.files import PoseWriter
    from dreampose_cli.training.sources import encode_frames

    def full(self, frame):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise outputs.disk_full(self._path) from error

    shutil.copy(sorted((clips / "train").iterdir())[0] / "video.mp4", tmp_path / "a.mp4")
    monkeypatch.setattr(PoseWriter, "append", full)
    with pytest.raises(StoreError, match="the disk of the cache .* is full.*DREAMPOSE_CACHE"):
        prepare_frames(user_cache(), tmp_path, SIZE, estimator="mini", device="cpu")
    frames, latents = prepare_frames(user_cache(), clips, SIZE), Path.write_bytes

    def full_for_latents(self, data):
        if ".latents" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return latents(self, data)

    monkeypatch.setattr(Path, "write_bytes", full_for_latents)
    with pytest.raises(StoreError, match="the disk of the cache .* is full"):
        encode_frames(user_cache(), load_base(tiny_base), frames, (-1.0, 1.0))


def test_the_estimate_of_the_room_is_near(mixed):
    sources = [s for s in find_clips(mixed) if s.name in ("a", "b", "one-frame")]
    assert 5 <= preparation._count_frames(sources) <= 22  # 11, by the size of videos of noise
    assert preparation._count_frames(sources[:1]) == pytest.approx(6, rel=0.2)


def test_photos_are_a_second_source(clips, tmp_path):
    from dreampose_cli.networks.network import Views
    from dreampose_cli.training.loop import SampleRng
    from dreampose_cli.training.sources import PairSource

    first = sorted((clips / "train").iterdir())[0]
    photos = tmp_path / "photos"
    person = photos / "WOMEN" / "id_1"
    person.mkdir(parents=True)
    sequence = open_poses(first / "video.poses")
    views = (("01_1_front", 0), ("01_2_side", 3), ("01_3_back", 6))
    for name, i in views:
        shutil.copy(first / "frames" / f"{i:05d}.png", person / f"{name}.png")
        with PoseWriter(person / f"{name}.poses", sequence.size, 30) as writer:
            writer.append(sequence.frame(i))
    (person / "01_4_full.png").write_bytes(b"no picture")
    shutil.copy(person / "01_1_front.poses", person / "01_4_full.poses")
    shutil.copy(person / "01_1_front.png", person / "01_5_additional.png")
    notes = []
    frames = prepare_frames(user_cache(), clips, SIZE, photos=photos, note=notes.append)
    (clip,) = [clip for clip in frames.clips if not clip.ordered]
    assert clip.name == "WOMEN/id_1/01" and clip.length == 3 and clip.split == "train"
    assert any("01_4_full.png of WOMEN/id_1/01 left out" in note for note in notes)
    assert any("01_5_additional.png of WOMEN/id_1/01 left out: it has no pose file" in note for note in notes)
    window = frames.window(clip, 1, 5, 12.0, "edge")
    assert all(np.array_equal(pose, window[0]) for pose in window)  # no neighbours in time: the pose itself
    assert np.array_equal(window[0], frames.pose([clip.start + 1])[0])

    class Tiny:
        class config:
            from dreampose_cli.bases.config import PoseWindow

            poses = PoseWindow(training_fps=12.0)

        def views(self, pictures, poses):
            return Views(pictures, poses)

    import torch

    seen = []

    def latents(rows):
        seen.append(list(rows))
        return torch.zeros(len(rows), 4, 12, 8)

    source = PairSource(Tiny(), frames, frames.split("train"), latents)
    count = sum(clip.length for clip in frames.split("train"))
    source.batch([SampleRng.of(0, i) for i in range(count)])
    photos_of, targets = seen
    assert sorted(targets) == list(range(count))  # an epoch: every frame is the target once
    starts = {row: clip for clip in frames.split("train") for row in range(clip.start, clip.start + clip.length)}
    assert all(starts[a] is starts[b] and a != b for a, b in zip(targets, photos_of, strict=True))


def test_the_official_files_are_read_where_no_body_part_is_needed(tmp_path):
    data = tmp_path / "data"
    write_clip(data / "clip", frames=3, size=(48, 32), fps=30)
    poses = open_poses(data / "clip" / "video.poses")
    official = tmp_path / "official" / "clip"
    official.parent.mkdir()
    write_dreampose_folder(official, PosesInMemory(list(poses), 30.0))
    for i, picture in enumerate(media.read_video(data / "clip" / "video.mp4")):
        Image.fromarray(picture).save(official / f"frame_{i}.png")
    frames = prepare_frames(user_cache(), tmp_path / "official", SIZE, parts=False)
    assert frames.clips[0].length == 3 and frames.clips[0].ordered
    assert frames.pose([1])[0, 1, 24, 16] == pytest.approx(0.5, abs=0.01)
    notes = []
    with pytest.raises(TrainingError, match="none of the training clips"):
        prepare_frames(user_cache(), tmp_path / "official", SIZE, parts=True, note=notes.append)
    assert any("knows no body parts" in note for note in notes)


def test_a_clip_without_a_person_is_estimated_once(tmp_path, cache, monkeypatch):
    from dreampose_cli.poses.estimator import Estimator

    data = tmp_path / "data"
    data.mkdir()
    media.write_frames(data / "grey.mp4", iter([np.full((48, 32, 3), 90, np.uint8)] * 3), fps=12)
    notes = []
    with pytest.raises(TrainingError, match="none of the training clips"):
        prepare_frames(user_cache(), data, SIZE, estimator="mini", device="cpu", note=notes.append)
    assert any("clip grey left out: the estimator mini finds nobody in" in note for note in notes)
    monkeypatch.setattr(Estimator, "estimate", lambda *_: pytest.fail("it is known already"))
    again = []
    with pytest.raises(TrainingError):
        prepare_frames(user_cache(), data, SIZE, estimator="mini", device="cpu", note=again.append)
    assert [note for note in again if "grey" in note] == [note for note in notes if "grey" in note]


def test_poses_are_estimated_where_no_file_has_them(clips, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    first = sorted((clips / "train").iterdir())[0]
    shutil.copy(first / "video.mp4", data / "a.mp4")
    notes = []
    with pytest.raises(TrainingError):
        prepare_frames(user_cache(), data, (160, 128), note=notes.append)
    assert any("clip a left out: it has no pose file next to it." in note for note in notes)
    frames = prepare_frames(user_cache(), data, (160, 128), estimator="mini", device="cpu")
    exact = prepare_frames(user_cache(), clips, (160, 128))
    estimated, truth = frames.pose(range(8))[:, 0] > 0, exact.pose(range(8))[:, 0] > 0
    assert (estimated & truth).sum() / (estimated | truth).sum() > 0.5  # at a quarter of the size it was trained on


def test_an_estimator_that_cannot_be_had_is_not_the_clips_fault(tmp_path):
    from dreampose_cli.errors import DreamposeError

    touch(tmp_path / "a.mp4")
    with pytest.raises(DreamposeError, match="unknown estimator"):
        prepare_frames(user_cache(), tmp_path, SIZE, estimator=str(tmp_path / "none"), device="cpu")
