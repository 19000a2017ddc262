"""What is given away names nobody: no folder of this machine, no user, in any byte of any file that is made to be shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dreampose_cli import cache as store
from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.workflows.suite import portable

NAME = "quixotic"  # of the user, and of their home folder


@pytest.fixture
def home(tmp_path, monkeypatch, clip, clips, tiny_base):
    """A home folder of that name with a photo, a dance, a dataset and a base in it; everything is called by absolute paths."""
    home = tmp_path / "home" / NAME
    home.mkdir(parents=True)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(home))
    for variable in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(variable, NAME)
    monkeypatch.setenv("DREAMPOSE_CACHE", str(home / "cache"))
    shutil.copy(clip / "frames" / "00000.png", home / "photo.png")
    shutil.copy(clip / "video.poses", home / "dance.poses")
    shutil.copy(clip / "video.mp4", home / "dance.mp4")
    shutil.copytree(clips, home / "clips")
    shutil.copytree(tiny_base, home / "tiny")
    monkeypatch.chdir(home)
    return home


def dreampose(*words):
    assert main([str(word) for word in words]) == 0


def names_nobody(*places: Path):
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert files
    for file in files:
        raw = file.read_bytes()
        for text in (NAME, NAME.capitalize()):
            for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
                assert text.encode(encoding) not in raw, file


def tuned(home):
    words = ["--base", home / "tiny", "--poses", home / "dance.poses", "--steps", 1, "--decoder-steps", 1]
    dreampose("tune", home / "photo.png", "--name", "anna", *words, "-q")
    return store.user_cache().find_subject("anna").path


def test_subjects_and_results_name_nobody(home):
    names_nobody(tuned(home))
    dreampose("subject", "export", home / "photo.png", "-o", home / "given", "-q")
    names_nobody(home / "given")
    for output in ("out.mp4", "out.webp", "out.gif", "out.png"):
        dreampose("render", "--poses", home / "dance.poses", "--end", 0.01, "--steps", 1, "-o", home / output, "-q")
        names_nobody(home / output)
        assert media.read_metadata(home / output)
    dreampose("cache", "export", "anna", "-o", home / "anna.dreampose", "-q")
    names_nobody(home / "anna.dreampose")
    words = ["--report", home / "r.html", "--per-frame", home / "f.json", "--metrics", "l1", "-q"]
    dreampose("eval", home / "dance.mp4", home / "dance.mp4", *words)
    names_nobody(home / "r.html", home / "f.json")


def test_a_subject_that_is_given_away_holds_what_rendering_needs_and_no_more(home, capsys):
    folder = tuned(home)
    out = home / "given"
    capsys.readouterr()
    dreampose("subject", "export", "anna", "-o", out)
    assert capsys.readouterr().out == f"{out}\n"
    description = json.loads((out / "subject.json").read_text(encoding="utf-8"))
    assert set(description) == {"version", "base", "weights", "photos"}
    assert all(set(photo) <= {"size", "crop"} for photo in description["photos"])
    assert {path.name for path in out.iterdir()} < {path.name for path in folder.iterdir()} | {"subject.json"} or {
        path.name for path in out.iterdir()
    } == {path.name for path in folder.iterdir()}
    words = ["--poses", home / "dance.poses", "--end", 0.01, "--steps", 1, "-q"]
    dreampose("render", *words, "-o", home / "before.png")
    id = folder.name
    shutil.rmtree(folder)
    shutil.copytree(out, folder)
    dreampose("render", *words, "-o", home / "after.png", "--subject", id)
    one, other = media.read_photo(home / "before.png"), media.read_photo(home / "after.png")
    assert (one == other).all()
    assert main(["subject", "export", id, "-o", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    dreampose("subject", "export", id, "-o", out, "--overwrite")
    (out / "thesis.txt").touch()
    assert main(["subject", "export", id, "-o", str(out), "--overwrite"]) == 1  # files of somebody else
    assert (out / "thesis.txt").exists()
    assert main(["subject", "export", id, "-o", str(folder), "--overwrite"]) == 1
    (folder / "photo-1.png").unlink()
    assert main(["subject", "export", id, "-o", str(home / "other")]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert not (home / "other").exists()


@pytest.mark.slow
def test_bases_and_suites_name_nobody(home):
    out = home / "mine"
    words = ["--preset", "mini", "--base", home / "tiny", "--batch-size", 2, "--max-steps", 2, "--device", "cpu"]
    dreampose("train", home / "clips", "-o", out, *words, "-q")
    names_nobody(*(path for path in out.iterdir() if path.name not in ("checkpoints", "partial")))
    words = ["--base", home / "tiny", "--clips", 1, "--steps", 1, "--frames", 2, "--compare", f"other={out}"]
    dreampose("eval", "--suite", home / "clips", *words, "-o", home / "run", "--report", home / "r.html", "-q")
    names_nobody(home / "r.html", *(path for path in (home / "run").iterdir() if path.name != "suite.json"))
    names_nobody(home / "run")


def test_a_command_that_is_kept_names_no_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    words = [
        "eval",
        "--suite",
        "/home/anna/clips/",
        "-o=/tmp/x",
        "--base",
        "owner/name",
        "--compare",
        "uv=../anna/uv",
        "~/b",
    ]
    assert portable(words) == "dreampose eval --suite clips -o=x --base owner/name --compare uv=uv b"
    assert portable(["eval", "my clips", "C:\\Users\\anna\\clips"]) == "dreampose eval 'my clips' clips"
