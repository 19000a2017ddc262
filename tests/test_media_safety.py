"""Hostile and broken media: nothing but the file itself is opened, everything ends, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from dreampose_cli import media
from dreampose_cli.errors import MediaError
from dreampose_cli.media import ffmpeg as processes
from dreampose_cli.media import photos, videos


@pytest.fixture(scope="module")
def flash(tmp_path_factory) -> bytes:
    """Eight frames in a .flv, whose time stamps are easily found."""
    path = tmp_path_factory.mktemp("videos") / "a.flv"
    source = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=8:d=1", "-c:v", "flv1"]
    subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", *source, str(path)], check=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile a.flv\n",
        "file 'a.flv'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.flv\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat", "list.m3u8", "list.mpd", "list.txt"])
def test_a_list_of_other_files_is_not_followed(tmp_path, flash, name, content):
    (tmp_path / "a.flv").write_bytes(flash)
    (tmp_path / name).write_text(content)
    for read in (media.probe_video, media.open_frames):
        with pytest.raises(MediaError, match="list of other files|no video that can be read"):
            read(tmp_path / name)
    with pytest.raises(MediaError):
        media.read_metadata(tmp_path / name)
    with pytest.raises(MediaError):
        media.write_frames(tmp_path / "out.mp4", [np.zeros((16, 16, 3), np.uint8)], fps=8, audio_from=tmp_path / name)


def test_a_playlist_is_called_one(tmp_path, flash):
    (tmp_path / "a.flv").write_bytes(flash)
    (tmp_path / "dance.mp4").write_text("ffconcat version 1.0\nfile a.flv\n")
    with pytest.raises(MediaError, match=r"dance\.mp4 is a list of other files, which is not followed; give the video"):
        media.open_frames(tmp_path / "dance.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("suffix", [".mp4", ".png", ""])
def test_pipes_and_devices_are_refused_without_being_opened(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for path in (tmp_path / f"pipe{suffix}", Path("/dev/zero"), Path("/dev/stdin")):
        if not path.exists() or path.is_file():
            continue
        began = time.monotonic()
        for read in (media.read_photo, media.probe_video, media.open_frames, media.read_metadata):
            with pytest.raises(MediaError, match="a pipe or a device"):
                read(path)
        assert time.monotonic() - began < 2


def flipped(flash: bytes, tag: int, byte: int, bit: int) -> bytes:
    """The file with one bit of one tag's time stamp turned; bytes 4 to 6 are its milliseconds, 7 the highest eight."""
    place = 13
    for _ in range(tag):
        place += 11 + int.from_bytes(flash[place + 1 : place + 4], "big") + 4
    data = bytearray(flash)
    data[place + byte] ^= 1 << bit
    return bytes(data)


@pytest.mark.parametrize("byte", [4, 5, 6, 7])
@pytest.mark.parametrize("tag", [2, 5, 8])
def test_damaged_time_stamps_end_in_frames_or_a_sentence(tmp_path, flash, tag, byte):
    for bit in (0, 6):
        path = tmp_path / f"{bit}.flv"
        path.write_bytes(flipped(flash, tag, byte, bit))
        try:
            assert 1 <= sum(1 for _ in media.read_video(path)) <= 2 * 8 + 250
        except MediaError as error:
            assert str(path) in str(error)


def test_weeks_between_two_pictures_are_not_believed(tmp_path, flash):
    (tmp_path / "weeks.flv").write_bytes(flipped(flash, 5, 7, 0))
    with pytest.raises(MediaError, match=r"weeks\.flv has damaged time stamps \(8 pictures in \d+ s\)"):
        media.probe_video(tmp_path / "weeks.flv")


def test_a_video_that_goes_on_beyond_what_it_announces_is_stopped(tmp_path, monkeypatch):
    frames = [np.full((16, 16, 3), 80, np.uint8)] * 300
    path = media.write_frames(tmp_path / "long.mp4", frames, fps=100)
    info = media.probe_video(path)
    short = videos.VideoInfo(info.width, info.height, 100.0, 8, 0.08, False)
    read = 0
    with pytest.raises(MediaError, match="announces 8 frames and does not end after 266"):
        for _ in videos.decode(path, short, fps=None, start=None, end=None):
            read += 1
    assert read == 266
    assert sum(1 for _ in videos.decode(path, short, fps=None, start=None, end=0.05)) == 5  # as many as were asked for
    monkeypatch.setattr(videos, "MAX_FRAMES", 200)
    with pytest.raises(MediaError, match="more than 200 frames"):
        media.probe_video(path)


def test_ffmpeg_that_says_nothing_is_stopped(monkeypatch):
    monkeypatch.setattr(processes, "_STALL_SECONDS", 0.4)
    slow = ["-re", "-f", "lavfi", "-i", "color=s=16x16:r=0.001", "-vf", "fps=0.0005", "-f", "rawvideo", "-"]
    began = time.monotonic()
    with processes.Ffmpeg("-loglevel", "error", *slow) as process:
        assert process.read_all() == b""
        assert process.finish() != 0
    assert time.monotonic() - began < 10


@pytest.mark.skipif(not processes._CAN_LIMIT_TIME, reason="the system cannot limit processor time")
def test_ffmpeg_gets_a_budget_of_processor_time():
    endless = ["-f", "lavfi", "-i", "testsrc2=s=64x64", "-f", "null", "-"]
    began = time.monotonic()
    with processes.Ffmpeg("-loglevel", "error", *endless, seconds=1) as process:
        assert process.finish() != 0
    assert time.monotonic() - began < 30


WORK = """
import sys, time, numpy as np
from pathlib import Path
from dreampose_cli import media
path = Path(sys.argv[2])
if sys.argv[1] == "read":
    frames = media.read_video(path)
    next(frames)
else:
    def frames():
        for index in range(10**6):
            yield np.full((64, 64, 3), index % 255, np.uint8)
            if index == 50:
                print("ready", flush=True)
                time.sleep(60)
    media.write_frames(path.with_name("out.mp4"), frames(), fps=30)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("work", ["read", "write"])
def test_ffmpeg_does_not_outlive_a_killed_parent(tmp_path, work):
    path = tmp_path / "dance.mp4"  # too many pictures for a pipe
    source = ["-f", "lavfi", "-i", "testsrc=s=320x240:r=30:d=4", "-preset", "ultrafast"]
    subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", *source, str(path)], check=True)
    command = [sys.executable, "-c", WORK, work, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_huge_jpeg_is_read_smaller_and_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "MAX_PIXELS", 10_000)
    Image.new("RGB", (240, 160), (10, 200, 30)).save(tmp_path / "phone.jpg", quality=95)
    read = media.read_photo(tmp_path / "phone.jpg")
    assert read.shape == (80, 120, 3)
    assert np.abs(read.astype(int) - (10, 200, 30)).max() <= 4
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # what Pillow calls a bomb, as a 200-megapixel photo is
    assert media.read_photo(tmp_path / "phone.jpg").shape == (80, 120, 3)
    for name in ("scan.png", "scan.tif", "scan.webp"):
        Image.new("RGB", (240, 160)).save(tmp_path / name)
        with pytest.raises(MediaError, match="too large"):
            media.read_photo(tmp_path / name)
    Image.new("RGB", (2400, 1600)).save(tmp_path / "vast.jpg")
    with pytest.raises(MediaError, match="too large"):
        media.read_photo(tmp_path / "vast.jpg")
