"""docs/first-hour.md: the screens that cost nothing are those of today, in a terminal of 80 columns."""

import re
import shlex
from pathlib import Path

import pytest

from dreampose_cli.__main__ import main

PAGE = (Path(__file__).parent.parent / "docs" / "first-hour.md").read_text(encoding="utf-8")
# ```console: looked at here, each command with its screen. ```text: as they were recorded, with the times of one machine.
SCREENS = [
    screen for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S) for screen in block.split("$ dreampose ")[1:]
]


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.partition("\n")[0])
def test_a_screen_is_that_of_today(screen, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # without the bar, which is gone when a command has ended
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    words, _, expected = screen.partition("\n")
    main(shlex.split(words))
    captured = capsys.readouterr()
    assert (captured.out + captured.err).rstrip("\n") == expected.rstrip("\n")


def test_every_screen_fits_a_terminal():
    blocks = re.findall(r"^```(?:console|text)\n(.*?)^```", PAGE, re.M | re.S)
    assert len(SCREENS) >= 10 and len(blocks) >= 8
    for block in blocks:
        for screen in block.split("$ dreampose ")[1:]:
            lines = screen.splitlines()[1:]
            assert len(lines) <= 23 and all(len(line) <= 80 for line in lines), screen
