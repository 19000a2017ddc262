"""An input is never the output, whatever the command and --overwrite say."""

from __future__ import annotations

import shutil

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
        "train {0} -o {0}/base",
        "train {0}/frames -o {0}/base --photos {0}",
        "eval {0}/frames {0}/frames --report {0}/frames/report.html",
    ],
)
def test_an_input_is_never_the_output(given, words, capsys):
    assert main([*words.format(given).split(), "--overwrite", "-q"]) in (1, 2)
    error = capsys.readouterr().err
    assert "is an input" in error or "which would be replaced" in error, error
