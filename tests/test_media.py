"""Photos, videos, animations and folders in; results out, whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, PngImagePlugin

from dreampose_cli import media
from dreampose_cli.errors import MediaError, OutputError, OutputExistsError, UsageError
from dreampose_cli.media import atomic, photos

STEP = 8


def grey(index: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A picture that tells its number in the clip."""
    return np.full((*size, 3), index * STEP, np.uint8)


def clip(count: int, size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    return [grey(index, size) for index in range(count)]


def numbers(frames) -> list[int]:
    return [round(float(frame.mean()) / STEP) for frame in frames]


def half_and_half(size: tuple[int, int] = (24, 40)) -> np.ndarray:
    """Red above, blue below."""
    picture = np.zeros((*size, 3), np.uint8)
    picture[: size[0] // 2, :, 0] = 200
    picture[size[0] // 2 :, :, 2] = 200
    return picture


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", "-y", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def counting(tmp_path_factory) -> Path:
    """30 numbered frames at 30 a second."""
    return media.write_frames(tmp_path_factory.mktemp("videos") / "counting.mp4", clip(30), fps=30)


@pytest.fixture(scope="module")
def singing(tmp_path_factory) -> Path:
    """A video of 2 s with 3 s of sound."""
    path = tmp_path_factory.mktemp("videos") / "singing.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=32x32:r=10:d=2", "-f", "lavfi", "-i", "sine=d=3", "-c:a", "aac", path)
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- photos ---------------------------------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_a_photo_comes_back_as_it_is(tmp_path, suffix):
    picture = half_and_half()
    path = save(tmp_path / f"photo{suffix}", picture, **({"lossless": True} if suffix == ".webp" else {}))
    read = media.read_photo(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, picture)


def test_a_photo_is_turned_upright(tmp_path):
    picture = half_and_half()
    tags = Image.Exif()
    tags[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    save(tmp_path / "turned.png", picture, exif=tags)
    assert np.array_equal(media.read_photo(tmp_path / "turned.png"), np.rot90(picture, -1))


def test_damaged_exif_is_no_reason_to_refuse_a_photo(tmp_path):
    picture = half_and_half()
    save(tmp_path / "photo.png", picture, exif=b"Exif\0\0II*\0nonsense")
    assert np.array_equal(media.read_photo(tmp_path / "photo.png"), picture)


def test_transparency_is_laid_on_white(tmp_path):
    picture = np.zeros((4, 6, 4), np.uint8)
    picture[:, :3] = (10, 20, 30, 255)
    picture[:, 3:] = (10, 20, 30, 0)
    expected = np.full((4, 6, 3), 255, np.uint8)
    expected[:, :3] = (10, 20, 30)
    assert np.array_equal(media.read_photo(save(tmp_path / "rgba.png", picture)), expected)

    pale = np.full((2, 2, 2), (0, 128), np.uint8)
    assert np.array_equal(media.read_photo(save(tmp_path / "la.png", pale)), np.full((2, 2, 3), 127, np.uint8))

    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    indexed.putpalette([200, 0, 0, 0, 200, 0])
    indexed.save(tmp_path / "palette.png", transparency=1)
    assert media.read_photo(tmp_path / "palette.png").tolist() == [[[200, 0, 0], [255, 255, 255]]]


def test_grey_of_many_depths_becomes_rgb(tmp_path):
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    expected = np.repeat(np.array([[0, 100, 255]], np.uint8)[..., None], 3, axis=2)
    for name in ("deep.png", "deep.tif"):
        assert np.array_equal(media.read_photo(save(tmp_path / name, deep)), expected)
    assert np.array_equal(media.read_photo(save(tmp_path / "grey.png", expected[..., 0])), expected)
    bits = save(tmp_path / "bits.png", np.array([[0, 255]], np.uint8), "1")
    assert media.read_photo(bits).tolist() == [[[0] * 3, [255] * 3]]
    floats = save(tmp_path / "float.tif", np.array([[0.0, 0.5, 1.0]], np.float32))
    assert media.read_photo(floats)[0, :, 0].tolist() == [0, 128, 255]


def test_other_colour_models_become_rgb(tmp_path):
    path = save(tmp_path / "cmyk.tif", half_and_half(), "CMYK")
    assert np.abs(media.read_photo(path).astype(int) - half_and_half()).max() <= 2


def test_of_an_animation_the_first_frame_is_the_photo(tmp_path):
    media.write_frames(tmp_path / "moving.webp", [half_and_half(), grey(3, (24, 40))], fps=5)
    assert np.abs(media.read_photo(tmp_path / "moving.webp").astype(int) - half_and_half()).mean() < 8


def a_truncated_png(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path.write_bytes(save(path, noise).read_bytes()[:1500])


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("missing.png", lambda path: None, "does not exist"),
        ("empty.jpg", lambda path: path.write_bytes(b""), "is empty"),
        ("text.jpg", lambda path: path.write_text("not a picture"), "is no JPG picture"),
        ("notes.txt", lambda path: path.write_text("not a picture"), "is no picture"),
        ("folder.png", lambda path: path.mkdir(), "is a folder"),
        ("cut.png", a_truncated_png, "damaged or cut short"),
        ("phone.heic", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)), "HEIC"),
        ("dance.mp4", lambda path: path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(40)), "is a video"),
        ("book.pdf", lambda path: path.write_bytes(b"%PDF-1.4\n"), "is no picture"),
    ],
)
def test_what_is_no_photo_is_refused_in_a_sentence(tmp_path, name, make, reason):
    path = tmp_path / name
    make(path)
    with pytest.raises(MediaError, match=reason) as caught:
        media.read_photo(path)
    assert str(path) in str(caught.value)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    header = b"P6\n60000 60000\n255\n"
    (tmp_path / "bomb.ppm").write_bytes(header + bytes(100))
    with pytest.raises(MediaError, match="too large"):
        media.read_photo(tmp_path / "bomb.ppm")
    with monkeypatch.context() as patch:
        patch.setattr(photos.Image, "MAX_IMAGE_PIXELS", 30_000)
        (tmp_path / "large.ppm").write_bytes(b"P6\n200 200\n255\n" + bytes(100))  # a warning of Pillow's, no more
        with pytest.raises(MediaError, match="cut short"):
            media.read_photo(tmp_path / "large.ppm")
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (photos.Image.MAX_IMAGE_PIXELS // 40), zip=True)
    save(tmp_path / "text.png", grey(0), pnginfo=info)
    with pytest.raises(MediaError, match="damaged"):
        media.read_photo(tmp_path / "text.png")


def test_resize_takes_height_and_width():
    small = media.resize(half_and_half((24, 40)), (12, 10))
    assert small.shape == (12, 10, 3)
    assert small[2, 5].tolist() == [200, 0, 0]
    assert small[10, 5].tolist() == [0, 0, 200]


# --- videos ---------------------------------------------------------------------------------------------------------


def test_a_video_tells_what_it_is(counting, singing):
    info = media.probe_video(counting)
    assert (info.width, info.height, info.fps, info.frames, info.has_audio) == (48, 32, 30.0, 30, False)
    assert info.duration == pytest.approx(1.0)
    info = media.probe_video(singing)
    assert (info.fps, info.frames, info.has_audio) == (10.0, 20, True)
    assert info.duration == pytest.approx(2.0)


def test_a_video_is_read_frame_by_frame(counting):
    frames = list(media.read_video(counting))
    assert numbers(frames) == list(range(30))
    assert all(frame.shape == (32, 48, 3) and frame.dtype == np.uint8 and frame.flags.writeable for frame in frames)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fps": 10}, list(range(0, 30, 3))),
        ({"fps": 15}, list(range(0, 30, 2))),
        ({"fps": 20, "end": 0.3}, [0, 1, 3, 4, 6, 7]),
        ({"fps": 60, "end": 0.1}, [0, 0, 1, 1, 2, 2]),
        ({"start": 0.5, "end": 0.7}, [15, 16, 17, 18, 19, 20]),
        ({"start": 0.49, "end": 0.6}, [15, 16, 17]),
        ({"start": 0.5, "fps": 10}, [15, 18, 21, 24, 27]),
        ({"start": 0.9}, [27, 28, 29]),
    ],
)
def test_a_part_of_a_video_at_another_rate(counting, options, expected):
    assert numbers(media.read_video(counting, **options)) == expected
    source = media.open_frames(counting, **options)
    assert source.length == len(expected)
    assert source.fps == options.get("fps", 30)
    assert numbers(source) == expected


@pytest.mark.parametrize(
    "options",
    [{"start": 5.0}, {"start": -1.0}, {"start": 0.5, "end": 0.5}, {"start": 0.98}, {"fps": 0}, {"fps": float("nan")}],
)
def test_an_impossible_part_is_refused_at_once(counting, options):
    with pytest.raises(UsageError, match=r"counting\.mp4"):
        media.read_video(counting, **options)


def test_the_exact_frame_rate_survives(tmp_path):
    media.write_frames(tmp_path / "ntsc.mp4", clip(12), fps=30000 / 1001)
    info = media.probe_video(tmp_path / "ntsc.mp4")
    assert info.fps == pytest.approx(30000 / 1001, abs=1e-9)
    assert info.frames == len(list(media.read_video(tmp_path / "ntsc.mp4"))) == 12


def test_a_turned_video_is_upright(tmp_path):
    media.write_frames(tmp_path / "lying.mp4", [half_and_half()] * 3, fps=10)
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "lying.mp4", "-c", "copy", tmp_path / "turned.mp4")
    info = media.probe_video(tmp_path / "turned.mp4")
    assert (info.width, info.height) == (24, 40)
    frame = next(media.read_video(tmp_path / "turned.mp4"))
    assert frame.shape == (40, 24, 3)
    assert frame[20, 4, 0] > 150 > 50 > frame[20, 4, 2]  # what was above is left now


def test_oblong_pixels_become_square(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=red:s=32x32:r=10:d=1,setsar=2/1", tmp_path / "wide.mp4")
    assert media.probe_video(tmp_path / "wide.mp4").width == 64
    assert next(media.read_video(tmp_path / "wide.mp4")).shape == (32, 64, 3)


def test_a_variable_rate_is_made_constant(tmp_path, counting):
    chosen = "select='lt(n,12)+not(mod(n,3))'"  # 30 frames a second at first, then 10
    for name in ("vfr.mp4", "vfr.mkv"):
        ffmpeg("-i", counting, "-vf", chosen, "-fps_mode", "vfr", "-crf", "5", tmp_path / name)
        source = media.open_frames(tmp_path / name)
        found = numbers(source)
        assert source.fps == 30
        assert source.length == len(found)
        assert found[:12] == list(range(12))
        assert found[12:27] == [12 + 3 * (k // 3) for k in range(15)]


def test_odd_sizes_single_frames_and_videos_without_duration(tmp_path, counting):
    ffmpeg("-f", "lavfi", "-i", "color=red:s=33x21:r=10:d=1,format=yuv444p", tmp_path / "odd.mkv")
    assert [frame.shape for frame in media.read_video(tmp_path / "odd.mkv")] == [(21, 33, 3)] * 10
    media.write_frames(tmp_path / "one.mp4", [grey(7)], fps=30)
    assert media.probe_video(tmp_path / "one.mp4").frames == 1
    assert numbers(media.read_video(tmp_path / "one.mp4")) == [7]
    for name in ("raw.h264", "live.mkv"):
        live = ["-live", "1"] if name == "live.mkv" else []
        ffmpeg("-i", counting, "-c", "copy", *live, tmp_path / name)
        assert numbers(media.read_video(tmp_path / name)) == list(range(30))
        assert numbers(media.read_video(tmp_path / name, start=0.5, end=0.6)) == [15, 16, 17]


def test_any_file_name_is_only_a_name(tmp_path, counting):
    for name in ("a:b %d.mp4", "-y.mp4", "tänzerin 'x'.mp4"):
        (tmp_path / name).write_bytes(counting.read_bytes())
    folder = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert all(len(list(media.read_video(name, end=0.1))) == 3 for name in os.listdir())
    finally:
        os.chdir(folder)


def test_leaving_early_stops_ffmpeg(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=320x240:r=30:d=20", "-preset", "ultrafast", tmp_path / "long.mp4")
    before = running_children()
    frames = media.read_video(tmp_path / "long.mp4")
    next(frames)
    assert running_children() == before + 1
    frames.close()
    assert running_children() == before
    with media.open_frames(tmp_path / "long.mp4") as source:
        next(iter(source))
    assert running_children() == before


def running_children() -> int:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    own = str(os.getpid())
    found = 0
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split() if entry.name.isdecimal() else []
        except OSError:
            continue
        found += bool(fields) and fields[1] == own
    return found


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.mp4", None, "does not exist"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"hello\n", "no whole video"),
        ("text.txt", b"hello\n" * 20, "no video that can be read"),
        ("noise.avi", bytes(range(256)) * 40, "no video that can be read"),
    ],
)
def test_what_is_no_video_is_refused_in_a_sentence(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for read in (media.probe_video, media.read_video, media.open_frames):
        with pytest.raises(MediaError, match=reason) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_sound_and_pictures_are_no_video(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", tmp_path / "song.m4a")
    with pytest.raises(MediaError, match="has no video in it"):
        media.open_frames(tmp_path / "song.m4a")
    save(tmp_path / "photo.png", grey(3))
    with pytest.raises(MediaError, match="is a picture"):
        media.probe_video(tmp_path / "photo.png")


def test_a_truncated_video_gives_what_it_has_and_then_says_so(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), np.uint8)
    whole = media.write_frames(tmp_path / "whole.mp4", noise, fps=30).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    frames, read = media.read_video(tmp_path / "cut.mp4"), 0
    with pytest.raises(MediaError, match="is cut short or damaged") as caught:
        for _ in frames:
            read += 1
    assert 5 < read < 20
    assert f"only {read} of about 30 frames" in str(caught.value)
    assert len(list(media.read_video(tmp_path / "cut.mp4", end=0.1))) == 3  # its first part can be used
    (tmp_path / "head.mp4").write_bytes(whole[:400])
    with pytest.raises(MediaError, match=r"head\.mp4"):
        media.open_frames(tmp_path / "head.mp4")


# --- pictures and animations in time --------------------------------------------------------------------------------


def test_a_picture_is_a_source_of_one_frame(tmp_path):
    save(tmp_path / "pose.png", grey(5))
    source = media.open_frames(tmp_path / "pose.png")
    assert (source.fps, source.length, source.size) == (30.0, 1, (32, 48))
    assert numbers(source) == [5]


def test_a_folder_of_pictures_is_read_by_number(tmp_path):
    for index in range(12):
        save(tmp_path / f"frame_{index}.png", grey(index))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture")
    source = media.open_frames(tmp_path)
    assert (source.fps, source.length, source.size) == (30.0, 12, (32, 48))
    assert numbers(source) == list(range(12))
    source = media.open_frames(tmp_path, fps=10, start=0.3, end=0.6)
    assert (source.fps, source.length) == (10.0, 3)
    assert numbers(source) == [3, 4, 5]


def test_a_folder_must_hold_pictures_of_one_size(tmp_path):
    with pytest.raises(MediaError, match="holds no pictures"):
        media.open_frames(tmp_path)
    save(tmp_path / "0.png", grey(0))
    save(tmp_path / "1.png", grey(1, (20, 20)))
    with pytest.raises(MediaError, match=r"1\.png is 20x20"):
        list(media.open_frames(tmp_path))


@pytest.mark.parametrize("name", ["dance.gif", "dance.webp", "dance.png"])
def test_an_animation_is_a_driving_video(tmp_path, name):
    frames = [Image.fromarray(frame) for frame in clip(10)]
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=[40, 60] * 5, **options)
    source = media.open_frames(tmp_path / name)
    assert source.fps == pytest.approx(20)
    assert (source.length, source.size) == (10, (32, 48))
    assert numbers(source) == list(range(10))
    assert numbers(media.open_frames(tmp_path / name, fps=10)) == [0, 2, 4, 6, 8]
    assert numbers(media.open_frames(tmp_path / name, start=0.1, end=0.25)) == [2, 3, 4]


def test_a_long_frame_of_an_animation_is_repeated(tmp_path):
    frames = [Image.fromarray(frame) for frame in clip(3)]
    frames[0].save(tmp_path / "slow.gif", save_all=True, append_images=frames[1:], duration=[100, 400, 100])
    source = media.open_frames(tmp_path / "slow.gif")
    assert (source.fps, source.length) == (10, 6)
    assert numbers(source) == [0, 1, 1, 1, 1, 2]
    assert numbers(media.open_frames(tmp_path / "slow.gif", fps=20, end=0.3)) == [0, 0, 1, 1, 1, 1]
    assert numbers(media.open_frames(tmp_path / "slow.gif", fps=5)) == [0, 1, 1]


# --- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("out.mp4", "mp4"),
        ("OUT.MP4", "mp4"),
        ("out.gif", "gif"),
        ("out.webp", "webp"),
        ("out.png", "png"),
        ("out/", "folder"),
        ("out", "folder"),
        ("out.v2/", "folder"),
    ],
)
def test_the_name_tells_the_kind_of_result(name, kind):
    assert media.output_kind(name) == kind


@pytest.mark.parametrize("name", ["out.mov", "out.jpg", "out.v2"])
def test_other_suffixes_are_refused(name):
    with pytest.raises(UsageError, match="no format for results"):
        media.output_kind(name)


@pytest.mark.parametrize("size", [(32, 48), (31, 47), (33, 48), (1, 1)])
def test_a_written_video_looks_the_same(tmp_path, size):
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    frames = [np.stack([rows * 6, columns * 4, rows * 0 + 20 * k], -1).astype(np.uint8) for k in range(5)]
    path = media.write_frames(tmp_path / "out.mp4", iter(frames), fps=12.5)
    info = media.probe_video(path)
    even = (height + height % 2, width + width % 2)
    assert (info.height, info.width, info.fps, info.frames) == (*even, 12.5, 5)
    for read, frame in zip(media.read_video(path), frames, strict=True):
        padded = np.pad(frame, ((0, even[0] - height), (0, even[1] - width), (0, 0)), mode="edge")
        assert np.abs(read.astype(int) - padded).mean() < 4


def test_a_written_video_plays_everywhere(tmp_path):
    path = media.write_frames(tmp_path / "out.mp4", clip(3), fps=30)
    words = subprocess.run([get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    assert "h264" in words
    assert "yuv420p(tv, bt709" in words
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts before it is downloaded whole


def test_a_folder_holds_numbered_pictures_and_nothing_else(tmp_path):
    path = media.write_frames(tmp_path / "frames/", clip(12, (31, 47)), fps=30)
    assert left_in(path) == [f"{index:05d}.png" for index in range(12)]
    assert all(np.array_equal(media.read_photo(path / f"{i:05d}.png"), grey(i, (31, 47))) for i in range(12))


@pytest.mark.parametrize("name", ["out.gif", "out.webp"])
def test_a_written_animation_keeps_size_rate_and_frames(tmp_path, name):
    path = media.write_frames(tmp_path / name, clip(15, (31, 47)), fps=30)
    source = media.open_frames(path)
    assert source.size == (31, 47)
    assert source.fps == pytest.approx(30, rel=0.02)
    assert numbers(source) == list(range(15))
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0


METADATA = {"base": "mini", "seed": 7, "words": 'a=b; c#d \\ "quoted"\nnew line é', "nested": {"guidance": [2.0, 1.5]}}


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out.png", "out/"])
def test_metadata_travels_in_the_result(tmp_path, name):
    count = 1 if name == "out.png" else 3
    path = media.write_frames(tmp_path / name, clip(count), fps=30, metadata=METADATA)
    assert media.read_metadata(path) == METADATA
    plain = media.write_frames(tmp_path / f"plain-{name}", clip(count), fps=30)
    assert media.read_metadata(plain) is None


def test_metadata_of_others_is_not_ours(tmp_path, counting):
    ffmpeg("-i", counting, "-c", "copy", "-metadata", "comment=made on a phone", tmp_path / "phone.mp4")
    assert media.read_metadata(tmp_path / "phone.mp4") is None
    (tmp_path / "text.mp4").write_text("hello")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(MediaError, match=name):
            media.read_metadata(tmp_path / name)


def sound_of(path: Path, start: float, seconds: float) -> np.ndarray:
    cut = ["-ss", str(start), "-t", str(seconds), "-i", str(path), "-f", "f32le", "-ac", "1", "-"]
    run = subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", *cut], capture_output=True, check=True)
    return np.frombuffer(run.stdout, np.float32)


def test_sound_is_cut_to_the_frames(tmp_path, singing):
    path = media.write_frames(tmp_path / "out.mp4", clip(15), fps=10, audio_from=singing)
    info = media.probe_video(path)
    assert info.has_audio
    assert (info.frames, len(list(media.read_video(path)))) == (15, 15)
    assert np.abs(sound_of(path, 0.5, 0.5)).mean() > 0.01
    assert len(sound_of(path, 0, 10)) / 44100 == pytest.approx(1.5, abs=0.03)  # one frame of AAC
    assert left_in(tmp_path) == ["out.mp4"]


def test_sound_that_ends_early_does_not_cut_the_frames(tmp_path, singing):
    path = media.write_frames(tmp_path / "out.mp4", clip(30), fps=10, audio_from=singing, audio_start=2.0)
    assert len(list(media.read_video(path))) == 30
    assert np.abs(sound_of(path, 0.3, 0.4)).mean() > 0.01
    assert np.abs(sound_of(path, 2.0, 0.5)).max() < 0.001  # silence, after the one second that was left


def test_a_silent_video_gives_no_sound(tmp_path, counting):
    path = media.write_frames(tmp_path / "out.mp4", clip(3), fps=10, audio_from=counting)
    assert not media.probe_video(path).has_audio
    with pytest.raises(UsageError, match="only an .mp4 can carry sound"):
        media.write_frames(tmp_path / "out.gif", clip(3), fps=10, audio_from=counting)
    with pytest.raises(MediaError, match="does not exist"):
        media.write_frames(tmp_path / "out2.mp4", clip(3), fps=10, audio_from=tmp_path / "missing.mp4")
    assert left_in(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out/"])
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, MediaError])
def test_frames_that_fail_leave_nothing_behind(tmp_path, name, failure):
    def frames():
        yield from clip(3)
        raise failure("stopped")

    with pytest.raises(failure, match="stopped"):
        media.write_frames(tmp_path / name, frames(), fps=30)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out.png", "out/"])
def test_no_frames_make_no_result(tmp_path, name):
    with pytest.raises(MediaError, match="there are no frames"):
        media.write_frames(tmp_path / name, [], fps=30)
    with (
        pytest.raises(MediaError, match="of one size|need one size") if name != "out.png" else pytest.raises(UsageError)
    ):
        media.write_frames(tmp_path / name, [grey(0), grey(1, (16, 16))] if name != "out.png" else clip(2), fps=30)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(tmp_path, fps):
    with pytest.raises(UsageError, match="no frame rate"):
        media.write_frames(tmp_path / "out.mp4", clip(1), fps=fps)


def never():
    raise AssertionError("no frame may be asked for")
    yield


@pytest.mark.parametrize("name", ["out.mp4", "out.png"])
def test_an_existing_file_is_replaced_only_on_request(tmp_path, name):
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        media.write_frames(path, never(), fps=30)
    assert path.read_text() == "mine"
    media.write_frames(path, clip(1), fps=30, overwrite=True)
    assert left_in(tmp_path) == [name]
    assert numbers(media.open_frames(path)) == [0]


def test_a_failed_replacement_keeps_the_old_result(tmp_path):
    def frames():
        yield grey(1)
        raise RuntimeError

    for name in ("out.mp4", "frames"):
        path = media.write_frames(tmp_path / name, clip(3), fps=30)
        with pytest.raises(RuntimeError):
            media.write_frames(path, frames(), fps=30, overwrite=True)
        assert len(list(media.open_frames(path))) == 3
    assert left_in(tmp_path) == ["frames", "out.mp4"]


def test_a_folder_with_files_of_somebody_else_is_never_replaced(tmp_path):
    path = media.write_frames(tmp_path / "frames", clip(3), fps=30)
    with pytest.raises(OutputExistsError):
        media.write_frames(path, never(), fps=30)
    media.write_frames(path, clip(2), fps=30, overwrite=True)
    assert left_in(path) == ["00000.png", "00001.png"]
    (path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        media.write_frames(path, never(), fps=30, overwrite=True)
    assert (path / "thesis.txt").read_text() == "mine"
    (path / "thesis.txt").unlink()

    def frames():
        (path / "late.txt").write_text("mine")  # while the work continues
        yield grey(0)

    with pytest.raises(OutputError, match=r"late\.txt"):
        media.write_frames(path, frames(), fps=30, overwrite=True)
    assert left_in(path) == ["00000.png", "00001.png", "late.txt"]
    assert left_in(tmp_path) == ["frames"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "frames").mkdir()
    assert left_in(media.write_frames(tmp_path / "frames", clip(1), fps=30)) == ["00000.png"]


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "frames/"])
def test_folders_above_a_result_are_made_when_it_is_written(tmp_path, name):
    place = f"{tmp_path}/a/b c/{name}"
    media.check_output(place, False)
    assert left_in(tmp_path) == []
    media.write_frames(place, clip(1), fps=30)
    assert Path(place).exists()


def test_an_output_is_no_input(tmp_path, counting):
    video = tmp_path / "dance.mp4"
    video.write_bytes(counting.read_bytes())
    frames = media.write_frames(tmp_path / "frames/", clip(2), fps=30)
    (tmp_path / "link.mp4").symlink_to(video)
    os.link(video, tmp_path / "hard.mp4")
    for place in (video, tmp_path / "link.mp4", tmp_path / "hard.mp4", f"{tmp_path}/frames/../dance.mp4"):
        with pytest.raises(OutputError, match="is an input of this command too"):
            media.require_apart(place, [None, video])
    for place in (frames / "out.mp4", frames / "a" / "out/"):
        with pytest.raises(OutputError, match="which is an input folder"):
            media.require_apart(place, [frames])
    with pytest.raises(OutputError, match="which would be replaced"):
        media.require_apart(f"{tmp_path}/", [video])
    media.require_apart(f"{tmp_path}/", [video], replaced=False)
    media.require_apart(tmp_path / "other.mp4", [video, frames, tmp_path / "missing.mp4"])


def test_impossible_places_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "file" / "out.mp4", tmp_path / "file" / "a" / "out.mp4", f"{tmp_path / 'file'}/"):
        with pytest.raises(OutputError, match="cannot be written|is a file"):
            media.check_output(path, True)
        with pytest.raises(OutputError):
            media.write_frames(path, never(), fps=30)
    media.check_output(tmp_path / "dance.poses", False)  # any kind of file may ask


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        media.check_output(tmp_path / "out.mp4", False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out.png"])
def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch, name):
    def full(folder: Path, target: Path) -> Path:
        part = folder / target.name
        part.symlink_to("/dev/full")
        return part

    monkeypatch.setattr(atomic, "_part", full)
    with pytest.raises(OutputError, match="the disk is full"):
        media.write_frames(tmp_path / name, clip(1), fps=30)
    assert left_in(tmp_path) == []


def test_a_full_disk_in_the_middle_of_a_folder(tmp_path):
    with pytest.raises(OutputError, match="the disk is full"), media.atomic_folder(tmp_path / "out") as part:
        (part / "00000.png").write_bytes(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert left_in(tmp_path) == []


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), media.atomic_path(tmp_path / "out.bin"):
        open(tmp_path / "somebody elses file", encoding="utf-8").close()
        open(tmp_path / "missing" / "file", encoding="utf-8").close()
    with pytest.raises(OutputError, match=r"out\.bin"), media.atomic_path(tmp_path / "out.bin") as part:
        part.mkdir()
        part.write_bytes(b"x")


def test_atomic_path_keeps_suffix_permissions_and_links(tmp_path):
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    with media.atomic_path(tmp_path / "link.bin") as part:
        assert part.name == "real.bin"
        assert part.parent.parent == tmp_path
        part.write_bytes(b"new")
        assert (tmp_path / "real.bin").read_bytes() == b"old"
    assert (tmp_path / "real.bin").read_bytes() == b"new"
    assert left_in(tmp_path) == ["link.bin", "real.bin"]


KILLED = """
import os, pathlib, signal
from dreampose_cli import media
here = pathlib.Path({folder!r})
with media.atomic_path(here / "out.mp4") as part, media.atomic_folder(here / "out") as half:
    part.write_bytes(b"half")
    part.with_suffix(".mkv").write_bytes(b"other")
    (half / "00000.png").write_bytes(b"half")
    os._exit(9)
"""


def test_what_a_killed_process_left_is_swept_by_the_next_one(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED.format(folder=str(tmp_path))]).returncode == 9
    assert len(left := left_in(tmp_path)) == 2 and all(name.startswith(".out.") for name in left)
    with media.atomic_path(tmp_path / "other.mp4") as part:
        part.write_bytes(b"x")
    assert len(left_in(tmp_path)) == 3  # only of the same place
    with media.atomic_path(tmp_path / "out.mp4") as part:
        part.write_bytes(b"new")
    assert [name for name in left_in(tmp_path) if name.startswith(".out.mp4.")] == []
    with media.atomic_folder(tmp_path / "out") as folder:
        (folder / "00000.png").write_bytes(b"new")
    assert left_in(tmp_path) == ["other.mp4", "out", "out.mp4"]


def test_what_is_being_written_is_not_swept(tmp_path):
    target = tmp_path / "out.mp4"
    foreign = tmp_path / ".out.mp4.notes.tmp"  # of somebody else
    foreign.mkdir()
    with media.atomic_path(target) as mine:
        mine.write_bytes(b"in flight")
        with media.atomic_path(target) as theirs:
            theirs.write_bytes(b"first")
            assert mine.exists()
        assert mine.exists() and target.read_bytes() == b"first"
    assert target.read_bytes() == b"in flight" and foreign.exists()
    assert left_in(tmp_path) == [".out.mp4.notes.tmp", "out.mp4"]


def test_an_old_result_is_kept_until_there_is_a_new_one(tmp_path):
    kept = tmp_path / ".out.01234567.tmp" / "old"  # put aside by a process that was killed before the new one was there
    kept.mkdir(parents=True)
    with pytest.raises(RuntimeError), media.atomic_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert kept.exists()
    with media.atomic_folder(tmp_path / "out", overwrite=True):
        pass
    assert left_in(tmp_path) == ["out"]


def test_content_is_on_the_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", lambda source, target: (done.append("rename"), replace(source, target)))
    with media.atomic_path(tmp_path / "out.bin") as part:
        part.write_bytes(b"new")
    assert done == ["file", "rename", "folder"]
    done.clear()
    with media.atomic_folder(tmp_path / "out") as folder:
        (folder / "00000.png").write_bytes(b"new")
    assert done == ["file", "folder", "rename", "folder"]


def test_no_torch_for_pictures():
    code = "import sys, dreampose_cli.media, dreampose_cli.poses.files, dreampose_cli.poses.visualize as p; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
