"""docs/people.md line by line, as typed, against a Hub on loopback: killed and resumed on the way."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_hub as tiny
from dreampose_cli import media
from dreampose_cli.poses.fingerprint import FILES, REPOSITORY
from dreampose_cli.poses.torchvision_ops import ensure_torchvision_operators
from test_densepose import People, picture, red

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]
MAGIC, CKPT = "zcxu-eric/MagicAnimate", "temporal_attention/temporal_attention.ckpt"
DOCUMENT = Path(__file__).parent.parent / "docs" / "people.md"


def lines() -> list[str]:
    """The commands of the document's first block."""
    block = re.search(r"^```\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return block[1].strip().splitlines()


@pytest.fixture
def street(tiny_hub, tmp_path):
    """A folder with a photo and a dance, and the Hub with a scripted DensePose next to the weights."""
    ensure_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(People()), tmp_path / "people.torchscript")
    tiny_hub.add(REPOSITORY, {FILES["r50"]: tmp_path / "people.torchscript"})
    folder = tmp_path / "street"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)).save(folder / "me.jpg")
    dance = [picture(red(10 + 4 * i), size=(64, 80)) for i in range(5)]
    media.write_frames(folder / "dance.mp4", dance, fps=25.0)
    return folder


def start(command: str, street: Path, hub) -> subprocess.Popen:
    words = shlex.split(command)
    assert words[0] == "dreampose"
    more = {"DREAMPOSE_CACHE": str(street.parent / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "dreampose_cli", *words[1:]],
        cwd=street,
        env=hub.environment(street.parent / "hf", **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out, err


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_from_nothing_to_a_video(street, tiny_hub):
    install, pull, render = lines()
    assert install == "pipx install dreampose-cli"
    assert pull == "dreampose base pull magicanimate"
    assert render == "dreampose render --photo me.jpg --poses dance.mp4 -o out.mp4"

    tiny_hub.break_file(CKPT, how="stall")
    pulling = start(pull, street, tiny_hub)
    assert tiny_hub.stalled.wait(120), pulling.poll()
    kill(pulling)
    tiny_hub.mend()
    before = tiny_hub.downloads()
    finish(start(pull, street, tiny_hub))
    again = tiny_hub.downloads()[len(before) :]
    assert f"{MAGIC}/{CKPT}" in again and f"{MAGIC}/appearance_encoder/config.json" not in again

    rendering = start(render, street, tiny_hub)
    kept = street.parent / "cache" / "partial"
    deadline = time.monotonic() + 240
    while not list(kept.glob("*/latents.pt")):
        assert rendering.poll() is None and time.monotonic() < deadline, rendering.communicate()
        time.sleep(0.02)
    kill(rendering)
    assert not (street / "out.mp4").exists()
    out, err = finish(start(render, street, tiny_hub))
    assert out == "out.mp4\n"
    assert re.search(r"the render resumes in step \d+ of 25", err)
    with media.open_frames(street / "out.mp4") as video:
        frames = list(video)
    assert len(frames) == 5 and video.fps == 25.0
    assert frames[0].shape == (64, 50, 3)  # the photo's aspect, at the size of the base
    assert not list(kept.glob("*/latents.pt"))
    assert tiny.COMMITS[MAGIC]  # what was pulled is pinned
