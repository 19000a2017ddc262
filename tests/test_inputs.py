"""An input is never the output, whatever the command and --overwrite say."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading

import pytest

from dreampose_cli.__main__ import main


@pytest.fixture
def given(clip, tmp_path):
    """A dance, frames, and what was in them before."""
    shutil.copy(clip / "video.mp4", tmp_path / "dance.mp4")
    shutil.copytree(clip / "frames", tmp_path / "frames")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    yield tmp_path
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "words",
    [
        "render --poses {0}/dance.mp4 -o {0}/dance.mp4 --photo {0}/frames/00000.png",
        "render --poses {0}/dance.mp4 -o {0}/frames/00000.png --photo {0}/frames/00000.png",
        "render --poses {0}/frames -o {0}/frames/out.mp4 --photo {0}/frames/00000.png",
        "render --poses {0}/dance.mp4 -o {0}/frames/ --photo {0}/frames/00000.png",
        "poses {0}/frames -o {0}/frames/dance.poses",
        "poses {0}/dance.mp4 -o {0}/new.poses --preview {0}/dance.mp4",
        "batch {0}/frames --poses {0}/dance.mp4 -o {0}/frames",
        "batch {0}/frames --poses {0}/dance.mp4 -o {0}/frames/videos",
        "batch {0}/frames/00000.png --poses {0}/frames -o {0}/frames",
        "edit {0}/frames/00000.png hat -o {0}/frames/00000.png",
        "train {0} -o {0}/base",
        "train {0}/frames -o {0}/base --photos {0}",
        "eval {0}/frames {0}/frames --report {0}/frames/report.html",
    ],
)
def test_an_input_is_never_the_output(given, words, capsys):
    assert main([*words.format(given).split(), "--overwrite", "-q"]) in (1, 2)
    error = capsys.readouterr().err
    assert "is an input" in error or "which would be replaced" in error, error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    "words",
    [
        "base info {0}/base",
        "poses {0}/json -o {0}/out.poses",
        "poses {0}/npy -o {0}/out.poses",
        "poses {0}/png -o {0}/out.poses",
        "eval {0}/png {0}/frames",
        "tune {0}/frames/00000.png --base {0}/weights --poses {0}/dance.mp4",
        "cache import {0}/json/000000_keypoints.json",
        "batch --jobs /dev/zero -o {0}/out",
    ],
)
def test_pipes_and_devices_stop_nothing(given, tiny_base, words, capsys):
    """A pipe in a folder from elsewhere, into which nobody writes, is refused without being opened."""
    shutil.copytree(tiny_base, given / "weights")
    next((given / "weights").rglob("*.safetensors")).unlink()
    for name in ("base/base.json", "json/000000_keypoints.json", "npy/frame_0_densepose.npy", "png/00000.png"):
        (given / name).parent.mkdir()
        os.mkfifo(given / name)
    os.mkfifo(given / "weights" / "unet" / "more.safetensors")
    with alarm(30):
        assert main([*words.format(given).split(), "-q"]) in (1, 2)
    error = capsys.readouterr().err
    assert "a pipe or a device" in error or "no entry that" in error, error
    shutil.rmtree(given / "weights")


@contextlib.contextmanager
def alarm(seconds):
    """TimeoutError where the block takes longer, even if it waits in the system."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_jobs_may_come_from_a_command(given, monkeypatch):
    """As of `--jobs <(a command)`; and a pipe is no config file."""
    from dreampose_cli.workflows.batch.jobs import read_jobs

    os.mkfifo(given / "jobs")
    line = json.dumps({"photo": str(given / "frames" / "00000.png"), "poses": str(given / "dance.mp4")})
    writer = threading.Thread(target=(given / "jobs").write_text, args=(line + "\n",))
    writer.start()
    assert len(read_jobs(given / "jobs", given / "out")) == 1
    writer.join()
    monkeypatch.setenv("DREAMPOSE_CONFIG", str(given / "jobs"))
    with alarm(30):
        assert main(["cache", "dir"]) == 2


def test_folders_above_a_result_are_made(given, clip, tiny_base, capsys):
    """mkdir is nobody's job, whatever the command."""
    new, dance = given / "new", clip / "video.poses"
    photo = given / "frames" / "00000.png"
    try:
        for words in (
            ["poses", dance, "-o", new / "a" / "b" / "dance.poses", "--preview", new / "p" / "q.mp4"],
            ["synth", new / "s" / "data", "--subjects", 1, "--test-subjects", 0, "--frames", 2, "--size", "32x48"],
            ["eval", given / "dance.mp4", given / "dance.mp4", "--metrics", "l1"]
            + ["--report", new / "r" / "r.html", "--per-frame", new / "f" / "f.csv"],
            ["tune", photo, "--base", tiny_base, "--poses", dance, "--steps", 1, "--decoder-steps", 0],
            ["render", "--poses", dance, "--end", 0.01, "--steps", 1, "-o", new / "v" / "w" / "out.png"],
            ["subject", "export", photo, "-o", new / "x" / "subject"],
            ["cache", "export", photo, "-o", new / "y" / "anna.dreampose"],
        ):
            assert main([*map(str, words), "-q"]) == 0, capsys.readouterr().err
        made = {path.relative_to(new).as_posix() for path in new.glob("*/*")}
        assert made == {"a/b", "p/q.mp4", "s/data", "r/r.html", "f/f.csv", "v/w", "x/subject", "y/anna.dreampose"}
    finally:
        shutil.rmtree(new, ignore_errors=True)
