"""What a terminal shows at any width, what stays when streams are closed or full, and errors as JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from dreampose_cli.__main__ import main
from dreampose_cli.cli.bar import bar
from dreampose_cli.cli.output import Output, stacked, table
from dreampose_cli.errors import MediaError, OutOfMemoryError, OutputError, PoseError, document, printable, sentence
from dreampose_cli.reporting import Caution

NOTE = "decoder, loss 0.1234, rate 5e-05, 12.3 samples/s, data wait 3 %, a note that goes on and on"


def screen(width, steps, label="tuning", **options):
    """The lines that a terminal of `width` columns shows after the last of `steps`, (done, total, note) each."""
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=True, color_system=None)
    with bar(None, label, console=console, **options) as (shown, report):
        for step in steps:
            report(*step)
            time.sleep(0.02)
        shown.stop()  # so that what follows is drawn once
        console.file = io.StringIO()
        console.print(shown.get_renderable())
        return console.file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_count_bar_and_time_are_there_at_any_width(width):
    (line,) = screen(width, [(step, 500, NOTE) for step in range(246, 251)])
    assert len(line) <= width
    assert "250/500" in line
    assert "━" in line or "╺" in line
    assert " left" in line
    assert "loss" not in line and "rate 5e-05" not in line and "data" not in line
    assert ("decoder" in line) == (width >= 60)  # the note is what is cut
    if width == 80:
        assert line.endswith("…")


def test_loss_and_learning_rate_are_for_verbose():
    (line,) = screen(140, [(step, 500, NOTE) for step in range(1, 4)], details=True)
    assert "loss 0.1234, rate 5e-05" in line


def test_of_an_unknown_number_only_the_count_is_shown():
    for steps in ([(0, None, "")], [(0, None, "loading"), (7, None, "frames")]):
        (line,) = screen(80, steps)
        assert "?" not in line and "/" not in line
    for steps in ([(0, None, "loading the base")], [(36, 36, "poses"), (0, None, "loading the base")]):
        (line,) = screen(40, steps)
        assert line.endswith("loading the base") and not any(letter.isdigit() for letter in line)
    assert screen(80, [(3, 10, ""), (1, 4, "")])[0].count("1/4") == 1


def test_a_terminal_without_a_cursor_gets_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    clock = iter(range(0, 1000, 11))
    monkeypatch.setattr("dreampose_cli.cli.output.time.monotonic", lambda: float(next(clock)))
    with Output().progress(10, "tuning") as report:
        report(1, 10, NOTE)
        report(2, 10, NOTE)
        report(0, None, "loading the base")
    shown = capsys.readouterr().err
    assert "tuning: 2/10, about" in shown
    assert "\ntuning, loading the base\n" in shown
    assert "\x1b" not in shown and "loss" not in shown


def test_a_caution_survives_quiet(capsys):
    Output(quiet=True).note(Caution("mini knows mannequins only."))
    Output(quiet=True).note("nothing much")
    assert capsys.readouterr().err == "warning: mini knows mannequins only.\n"


def test_control_characters_never_reach_the_terminal(tmp_path, capsys):
    name = "a\x1b[2Jb\x07\u202egnp.mp4"
    assert main(["poses", str(tmp_path / name), "-o", str(tmp_path / "x.poses"), "--estimator", "mini"]) == 1
    error = capsys.readouterr().err
    assert r"a\x1b[2Jb\x07\u202egnp.mp4" in error
    assert "\x1b" not in error and "\u202e" not in error
    assert printable("tänzerin 中\n\tok") == "tänzerin 中\n\tok"


def test_long_sentences_end_their_lines_between_words_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    name = f"{tmp_path}/{'long' * 12}.jpg"
    assert main(["tune", "--name", "../x", name]) == 2
    assert max(map(len, capsys.readouterr().err.splitlines())) <= 40
    assert main(["cache", "rm", name]) == 1
    assert name in capsys.readouterr().err  # what can be copied stays whole
    out = Output()
    out.note(Caution("mini, which ships with the package, knows mannequins only, at 128x160"))
    out.note(f"  dreampose tune {name}")
    said = capsys.readouterr().err
    assert said.startswith("warning: mini, which ships with the\npackage, knows") and f"\n  dreampose tune {name}\n" in said


# ---- errors as JSON


def run(*words, capsys):
    code = main(list(words))
    captured = capsys.readouterr()
    return code, json.loads(captured.out)["error"], captured.err


def test_errors_as_json(tmp_path, capsys):
    missing = str(tmp_path / "my dance.mp4")
    code, error, said = run("poses", missing, "-o", str(tmp_path / "x.poses"), "--json", capsys=capsys)
    assert code == 1
    assert error["code"] == "media_error"
    assert error["message"] in said
    assert error["file"] == missing
    assert error["hint"] == "check the path."
    for words in (["render", "--json"], ["tune", "--json", "--steps", "x", "photo.jpg"], ["cache", "rm", "--json"]):
        code, error, said = run(*words, capsys=capsys)
        assert (code, error["code"]) == (2, "usage_error")
        assert set(error) == {"code", "message", "hint", "file"}
        assert error["message"]
        assert "Traceback" not in said


def test_one_document_only(cache, capsys):
    from dreampose_cli import cache as store

    with store.user_cache().publish_folder("subject", "0" * 16) as folder:
        (folder / "weights.bin").write_bytes(b"w")
        (folder / store.SUBJECT_JSON).write_text(json.dumps({"name": "anna"}), encoding="utf-8")
    (cache / "subjects" / ("0" * 16) / "weights.bin").write_bytes(b"x")
    assert main(["cache", "verify", "--json", "-q"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["faults"] == {f"subject/{'0' * 16}": "weights.bin is not what was written"}
    assert "error: 1 entry is not as made" in captured.err
    assert main(["cache", "repair"]) == 0


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12582912 bytes"), "out of memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_a_limit_broke_is_not_called_damaged(cause, words):
    error = MediaError("photo.png cannot be read: the picture is damaged or cut short; save it again.")
    error.__cause__ = cause
    assert sentence(error).startswith(words)
    assert sentence(cause).startswith(words)
    error.__cause__ = ValueError("bad checksum")
    assert sentence(error) == str(error)
    error = PoseError("a.npy cannot be read: it is damaged.")
    error.__cause__ = MemoryError("of a head that claims more than there is")
    assert sentence(error) == str(error)
    error = OutOfMemoryError("too little memory even for one frame; give a smaller --size.")
    error.__cause__ = cause
    assert sentence(error) == str(error)  # who raised it knows better


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_ffmpeg_that_cannot_be_started_is_not_missing(monkeypatch):
    from dreampose_cli.media import ffmpeg

    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(MediaError, match="was not found"):
        ffmpeg.Ffmpeg("-version")
    monkeypatch.setattr(ffmpeg.os, "open", full)
    with pytest.raises(OSError, match="Too many open files"):
        ffmpeg.Ffmpeg("-version")


def test_the_systems_limits_have_words():
    assert "ulimit -n" in sentence(OSError(errno.EMFILE, "Too many open files"))
    assert "ulimit -f" in sentence(OSError(errno.EFBIG, "File too large"))
    assert "ulimit -f" in sentence(RuntimeError("Error while serializing: I/O error: File too large (os error 27)"))
    found = document(OSError(errno.EACCES, "Permission denied", "/a/b"), [])
    assert found["error"] | {"message": ""} == {"code": "system_error", "message": "", "hint": None, "file": "/a/b"}
    assert document(RuntimeError("x"), [])["error"]["code"] == "unexpected_error"
    error = OutputError("/in/a b.mp4 is an input; choose another -o.")
    assert document(error, ["-o", "/in/a b.mp4", "/in"])["error"]["file"] == "/in/a b.mp4"
    assert document(MediaError("base/base.json cannot be used: x."), ["base"])["error"]["file"] == "base/base.json"


# ---- streams


def shell(command, **options):
    script = f'exec "{sys.executable}" -m dreampose_cli {command}'
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, **options)


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
def test_closed_and_full_streams(cache):
    closed = shell("cache dir >&-")
    assert closed.returncode == 1
    assert "the result cannot be written to standard output" in closed.stderr
    silent = shell("cache dir 2>&-")
    assert (silent.returncode, silent.stdout) == (0, f"{cache}\n")
    broken = shell("cache rm nothing-like-it 2>&-")
    assert (broken.returncode, broken.stdout) == (1, "")  # the sentence does not land among results
    assert shell("cache rm nothing-like-it <&- >&- 2>&-").returncode == 1
    noted = shell("cache prune --yes 2>/dev/full")
    assert noted.returncode == 0
    if os.path.exists("/dev/full"):
        full = shell("cache dir >/dev/full")
        assert full.returncode == 1
        assert "standard output (No space left on device); send it elsewhere" in full.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("tune", "interrupted; the same command resumes\n"),
        ("render", "interrupted; the same command resumes\n"),
        ("base pull", "interrupted; the same command resumes\n"),
        ("train", "interrupted; the same command with --resume resumes\n"),
        ("base import", "interrupted\n"),
        ("synth", "interrupted\n"),
    ],
)
def test_interrupted_says_what_resumes(command, words, monkeypatch, capsys):
    from dreampose_cli.cli import app as application

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(application, "command_tree", stop)
    assert main([*command.split(), "photo.jpg"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == words


def test_a_wide_table_is_stacked_on_a_terminal(monkeypatch):
    header = ["", *(f"METRIC {i}" for i in range(8))]
    rows = [[name, *(f"0.{i}234 ± 0.0123" for i in range(8))] for name in ("untuned", "tuned, full")]
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert stacked(header, rows, {1}) == table(header, rows, {1})  # a program gets one table
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = stacked(header, rows, {1})
    assert max(map(len, lines)) <= 60 and lines.count("") == 3
    blocks = [block.split("\n") for block in "\n".join(lines).split("\n\n")]
    assert [line[1].split()[0] for line in blocks] == ["untuned"] * 4
    assert [word for block in blocks for word in block[0].split() if word != "METRIC"] == [str(i) for i in range(8)]
    monkeypatch.setenv("COLUMNS", "20")  # not even one column fits: each is a table of its own
    assert stacked(header, rows).count("") == 7
