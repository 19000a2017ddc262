"""What happens to real processes: kills, two at once, full disks, limits of the system, streams that are gone.

Each command runs as a process of its own with the tiny base. What is asked of all: no traceback, one sentence with the
place and the way out, nothing half-written, and the same command afterwards gives what an undisturbed one gives.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")]

STEPS = 12


@pytest.fixture
def place(tmp_path, clip, tiny_base, monkeypatch):
    """A folder with a photo, a dance and a base; commands run in it."""
    shutil.copy(clip / "frames" / "00000.png", tmp_path / "photo.png")
    shutil.copy(clip / "video.poses", tmp_path / "dance.poses")
    shutil.copy(clip / "video.mp4", tmp_path / "dance.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMPOSE_BASE", str(tiny_base))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


TUNE = ["tune", "photo.png", "--poses", "dance.poses", "--steps", str(STEPS), "--decoder-steps", "4", "-q"]
RENDER = [
    "render",
    "--poses",
    "dance.poses",
    "--photo",
    "photo.png",
    "--steps",
    "3",
    "-q",
    "--photo-pose",
    "dance.poses",
]


def dreampose(*words, limit="", **options):
    """One command line, under a limit of the shell (`ulimit -f 1`)."""
    script = f'{limit}{"; " if limit else ""}exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "dreampose_cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def start(*words, **options):
    command = [sys.executable, "-m", "dreampose_cli", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def content(folder: Path) -> dict[str, str]:
    """The digests of all weights and pictures in a subject; its description has times in it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sentence_of(done, *words) -> None:
    assert done.returncode in (1, 2), (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


# ---- kills


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_tune_that_is_ended_at_any_moment_resumes_to_the_same_subject(place, cache, how, monkeypatch):
    began = time.monotonic()
    undisturbed = dreampose(*TUNE, env={**os.environ, "DREAMPOSE_CACHE": str(place / "other")})
    assert undisturbed.returncode == 0, undisturbed.stderr
    whole = time.monotonic() - began
    chance = random.Random(how)
    for _ in range(3):
        process = start(*TUNE)
        time.sleep(chance.uniform(0.3, 1.0) * whole)
        process.send_signal(how)
        _, said = process.communicate(timeout=120)
        if how == signal.SIGINT and process.returncode:
            assert (process.returncode, said) == (130, "interrupted; the same command resumes\n")
    done = dreampose(*TUNE)
    assert (done.returncode, done.stdout) == (0, undisturbed.stdout), done.stderr
    id = done.stdout.strip()
    assert content(cache / "subjects" / id) == content(place / "other" / "subjects" / id)
    assert dreampose("cache", "verify", "-q").returncode == 0
    dreampose("cache", "prune", "--yes", "-q")
    assert not list((cache / "partial").glob("*")) and not list((cache / "locks").glob("*"))


def test_a_render_that_is_killed_leaves_nothing_half_written(place):
    whole = dreampose(*RENDER, "-o", "whole.mp4")
    assert whole.returncode == 0, whole.stderr
    for wait in (0.5, 2.5, 4.0):
        process = start(*RENDER, "-o", "out.mp4")
        time.sleep(wait)
        process.kill()
        process.communicate(timeout=60)
        if (place / "out.mp4").exists():  # it was quick enough
            assert (place / "out.mp4").stat().st_size == (place / "whole.mp4").stat().st_size
            (place / "out.mp4").unlink()
    assert dreampose(*RENDER, "-o", "out.mp4").returncode == 0
    assert (place / "out.mp4").read_bytes() == (place / "whole.mp4").read_bytes()
    left = {path.name for path in place.iterdir()} - {"photo.png", "dance.poses", "dance.mp4", "out.mp4", "whole.mp4"}
    assert not left


def test_a_killed_extraction_leaves_nothing_that_stays(place, cache):
    words = ["poses", "dance.mp4", "--estimator", "mini", "--device", "cpu", "-q"]
    undisturbed = dreampose(*words, "-o", "whole.poses", env={**os.environ, "DREAMPOSE_CACHE": str(place / "other")})
    assert undisturbed.returncode == 0, undisturbed.stderr
    for wait in (1, 2, 3, 4):
        process = start(*words, "-o", "dance-own.poses", "--overwrite")
        time.sleep(wait)
        process.kill()
        process.communicate(timeout=60)
    assert dreampose(*words, "-o", "dance-own.poses", "--overwrite").returncode == 0
    assert (place / "dance-own.poses").read_bytes() == (place / "whole.poses").read_bytes()
    for folder in ("partial", "locks", "tmp"):
        assert not list((cache / folder).glob("*")), folder
    assert {path.name for path in place.glob(".*")} == set()


def test_a_cache_that_is_removed_under_a_running_tune(place, cache):
    process = start(*TUNE)
    give_up = time.monotonic() + 120
    while not list(cache.glob("partial/*/checkpoints")) and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.02)
    shutil.rmtree(cache, ignore_errors=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode in (0, 1) and "Traceback" not in said and "unexpected" not in said, said
    if process.returncode:
        assert "run the same command again" in said
    assert dreampose(*TUNE).returncode == 0
    assert dreampose("cache", "verify", "-q").returncode == 0


# ---- two at once


def test_two_that_tune_the_same_photo_make_one_subject(place, cache):
    both = [start(*TUNE), start(*TUNE)]
    results = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert len(list((cache / "subjects").iterdir())) == 1
    assert dreampose("cache", "verify", "-q").returncode == 0


def test_two_that_write_the_same_video_leave_a_whole_one(place):
    both = [start(*RENDER, "-o", "out.mp4", "--overwrite") for _ in range(2)]
    results = [process.communicate(timeout=300) for process in both]
    assert 0 in [process.returncode for process in both], results
    assert all("Traceback" not in error for _, error in results)
    again = dreampose(*RENDER, "-o", "again.mp4")
    assert again.returncode == 0
    assert (place / "out.mp4").read_bytes() == (place / "again.mp4").read_bytes()


# ---- full disks


def on_small_disk(folder: Path, megabytes: int, *words, **options):
    """The command with a disk of a few MB at `folder`, which is only there while it runs; what is left on it, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder.parent / "left.txt"
    script = (
        f'mount -t tmpfs -o size={megabytes}m tmpfs "{folder}" || exit 77; "$@"; code=$?; '
        f'find "{folder}" -type f > "{listing}"; exit $code'
    )
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "dreampose_cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    left = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    listing.unlink(missing_ok=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount is allowed here")
    assert "Traceback" not in done.stderr, done.stderr
    return done, left


needs_mounts = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")


@needs_mounts
def test_a_full_cache_disk_is_named_as_the_caches(place, cache):
    done, left = on_small_disk(cache, 3, *TUNE)
    sentence_of(done, "the disk of the cache", str(cache), "is full")
    assert not [name for name in left if name.endswith("subject.json")]


@needs_mounts
def test_a_full_output_disk_is_named_as_the_outputs(place):
    done, left = on_small_disk(place / "videos", 1, *RENDER, "-o", "videos/frames/", "--end", "10")
    if done.returncode == 0:  # tiny frames
        (place / "big.png").write_bytes(b"")
        done, left = on_small_disk(place / "videos", 1, "synth", "videos/data", "--subjects", 6, "--png", "-q")
    sentence_of(done, "videos", "full")
    assert not [name for name in left if name.endswith(".mp4")]


# ---- limits of the system


def test_a_limit_for_files(place, cache):
    done = dreampose(*TUNE, limit="ulimit -f 100")
    sentence_of(done, "limit for files", "ulimit -f")
    assert not list(cache.glob("subjects/*"))
    assert dreampose(*TUNE).returncode == 0


@pytest.mark.parametrize("kilobytes", [300_000, 600_000, 1_000_000, 1_400_000])
def test_a_limit_for_memory(place, cache, kilobytes):
    done = dreampose(*TUNE, limit=f"ulimit -v {kilobytes}")
    if done.returncode:
        sentence_of(done, "out of memory")
    assert dreampose(*TUNE).returncode == 0


@pytest.mark.parametrize("count", [8, 16, 32])
def test_too_many_open_files(place, count):
    done = dreampose(*RENDER, "-o", "out.mp4", limit=f"ulimit -n {count}")
    if done.returncode:
        sentence_of(done, "too many files are open")
        assert not (place / "out.mp4").exists()


# ---- streams


def test_streams_that_are_gone(place, cache):
    id = dreampose(*TUNE).stdout.strip()
    assert id
    for redirect in (">&-", ">/dev/full"):
        done = dreampose_shell("tune photo.png --poses dance.poses --steps 12 --decoder-steps 4", redirect)
        sentence_of(done, "standard output", "send it elsewhere")
    for redirect in ("2>&-", "2>/dev/full", "<&-", "<&- 2>&-"):
        done = dreampose_shell("tune photo.png --poses dance.poses --steps 12 --decoder-steps 4 -q", redirect)
        assert (done.returncode, done.stdout.strip()) == (0, id)
    done = dreampose_shell(" ".join(RENDER) + " -o out.mp4", ">&-")
    sentence_of(done, "standard output")
    assert (place / "out.mp4").exists()  # the work is not lost with the word about it


def dreampose_shell(words, redirect):
    script = f'exec "{sys.executable}" -m dreampose_cli {words} {redirect}'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    return done
