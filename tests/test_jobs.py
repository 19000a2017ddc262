"""Many renders in one process: job files, several subjects, the base that stays, and what fails without stopping the rest."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.errors import OutputError, UsageError
from dreampose_cli.networks import model_cache as shelf
from dreampose_cli.workflows.options import RenderOptions, TuneOptions
from dreampose_cli.workflows.render import render
from dreampose_cli.workflows.render_jobs import Job, jobs_of, read_jobs, render_jobs
from dreampose_cli.workflows.tune import tune


@pytest.fixture
def poses(clip):
    return clip / "video.poses"


@pytest.fixture
def subjects(tiny_base, clip, poses):
    """One full and one low-rank subject of two photos."""
    options = {"base": str(tiny_base), "poses": [poses], "steps": 1, "decoder_steps": 1}
    tune(TuneOptions([clip / "frames" / "00000.png"], name="anna", **options))
    tune(TuneOptions([clip / "frames" / "00005.png"], name="ben", lora_rank=2, **options))
    return ["anna", "ben"]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_job_files_are_csv_or_json_lines(tmp_path):
    expected = [Job("anna", read_path("a.mp4"), "1.mp4"), Job(None, read_path("b.mp4"), "2/")]
    csv = write(tmp_path / "jobs.csv", "subject,poses,output\nanna,a.mp4,1.mp4\n,b.mp4,2/\n")
    assert read_jobs(csv) == expected
    lines = [{"subject": "anna", "poses": "a.mp4", "output": "1.mp4"}, {"poses": "b.mp4", "output": "2/"}]
    assert read_jobs(write(tmp_path / "jobs.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")) == expected


def read_path(name):
    from pathlib import Path

    return Path(name)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "subject,poses,output\n", "holds no jobs"),
        ("a.csv", "poses,output,color\na,b,c\n", "line 2 has the unknown field color"),
        ("a.csv", "poses,output\na\n", "line 2 does not say its output"),
        ("a.csv", "poses,output\na,b,c\n", "line 2 has the unknown field None"),
        ("a.jsonl", "", "holds no jobs"),
        ("a.jsonl", '{"poses": "a", "output": "b"}\n{"poses"', "line 2 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is no object"),
        ("a.jsonl", '{"poses": 3, "output": "b"}', "line 1: poses is 3, but must be text"),
        ("a.jsonl", '{"output": "b"}', "line 1 does not say its poses"),
    ],
)
def test_bad_job_files_name_the_line(tmp_path, name, text, words):
    with pytest.raises(UsageError, match=words):
        read_jobs(write(tmp_path / name, text))


def test_job_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.csv cannot be read"):
        read_jobs(tmp_path / "nothing.csv")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        read_jobs(tmp_path / "b.jsonl")


def test_every_subject_dances_every_dance(tmp_path, clip, poses):
    jobs = jobs_of(["anna.v2", str(clip / "frames" / "00000.png")], [poses], f"{tmp_path / 'out'}/")
    assert [job.output for job in jobs] == [
        str(tmp_path / "out" / name) for name in ("anna.v2-video.mp4", "00000-video.mp4")
    ]
    with pytest.raises(UsageError, match="2 subjects need a folder"):
        jobs_of(["a", "b"], [poses], str(tmp_path / "out.mp4"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        jobs_of(["a", "b"], [poses], f"{tmp_path / 'file' / 'out'}/")


def test_the_base_is_loaded_once_and_each_subject_is_itself(subjects, poses, tmp_path, monkeypatch):
    loads = []
    real = shelf.load_base
    monkeypatch.setattr(shelf, "load_base", lambda *args, **options: loads.append(args) or real(*args, **options))
    order = ["anna", "ben", "anna"]
    jobs = [Job(who, poses, f"{tmp_path / f'many-{i}'}/") for i, who in enumerate(order)]
    results = render_jobs(jobs, RenderOptions([], "", steps=2))
    assert len(loads) == 1
    assert [result.result.frames for result in results] == [8, 8, 8]

    def frames(name):
        return np.stack(list(media.open_frames(tmp_path / name)))

    for who in subjects:
        render(RenderOptions(poses=[poses], output=f"{tmp_path / who}/", subject=who, steps=2))
    for i, who in enumerate(order):
        assert np.array_equal(frames(f"many-{i}"), frames(who)), (i, who)
    assert not np.array_equal(frames("anna"), frames("ben"))


def test_a_job_that_fails_does_not_stop_the_others(subjects, poses, tmp_path):
    jobs = [
        Job("nobody", poses, str(tmp_path / "a.gif")),
        Job("anna", tmp_path / "missing.mp4", str(tmp_path / "b.gif")),
        Job("ben", poses, str(tmp_path / "c.gif")),
    ]
    warnings = []
    results = render_jobs(jobs, RenderOptions([], "", steps=1), warn=warnings.append)
    assert [result.error is None for result in results] == [False, False, True]
    assert "nobody" in warnings[0] and "job 2 of 3 (anna in missing.mp4) failed" in warnings[1]
    assert [p.name for p in tmp_path.glob("*.gif")] == ["c.gif"]


def test_two_jobs_may_not_write_to_one_place(tmp_path):
    jobs = [Job("a", tmp_path / "p", str(tmp_path / "o.mp4")), Job("b", tmp_path / "p", f"{tmp_path}/x/../o.mp4")]
    with pytest.raises(UsageError, match="two jobs write to"):
        render_jobs(jobs, RenderOptions([], ""))


def test_many_renders_on_the_command_line(subjects, poses, tmp_path, capsys):
    words = ["render", "--poses", str(poses), "-o", f"{tmp_path / 'out'}/", "--steps", "1", "-q"]
    assert main([*words, "--subject", "anna", "--subject", "ben"]) == 0
    made = [str(tmp_path / "out" / f"{who}-video.mp4") for who in subjects]
    assert capsys.readouterr().out.splitlines() == made
    shutil.rmtree(tmp_path / "out")
    rows = f"subject,poses,output\nanna,{poses},{tmp_path / 'a.gif'}\nnobody,{poses},{tmp_path / 'b.gif'}\n"
    file = write(tmp_path / "jobs.csv", rows)
    done = subprocess.run(
        [sys.executable, "-m", "dreampose_cli", "render", "--jobs", str(file), "--steps", "1", "--json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: 1 of 2 renders failed; the others are done." in done.stderr
    found = json.loads(done.stdout)["jobs"]
    assert found[0]["result"]["paths"] == [str(tmp_path / "a.gif")] and found[0]["error"] is None
    assert found[1]["result"] is None and "nobody" in found[1]["error"]


def test_an_input_is_never_the_output(tiny_base, clip, poses, tmp_path, capsys):
    dance = tmp_path / "dance.mp4"
    shutil.copy(clip / "video.mp4", dance)
    frames = shutil.copytree(clip / "frames", tmp_path / "frames")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    photo = str(frames / "00000.png")
    jobs = write(tmp_path.parent / "jobs.csv", f"poses,output\n{dance},{dance}\n")
    for words in (
        ["render", "--poses", str(dance), "-o", str(dance), "--photo", photo],
        ["render", "--poses", str(dance), "-o", photo, "--photo", photo],
        ["render", "--poses", str(frames), "-o", f"{frames}/out.mp4", "--photo", photo],
        ["render", "--poses", str(dance), "-o", f"{frames}/", "--photo", photo],
        ["render", "--jobs", str(jobs)],
        ["poses", str(frames), "-o", f"{frames}/dance.poses"],
        ["poses", str(dance), "-o", f"{tmp_path}/new.poses", "--preview", str(dance)],
        ["train", str(tmp_path), "-o", f"{tmp_path}/base"],
        ["train", str(tmp_path / "frames"), "-o", f"{tmp_path}/base", "--photos", str(tmp_path)],
    ):
        assert main([*words, "--overwrite", "-q"]) == 1, words
        error = capsys.readouterr().err
        assert "is an input" in error or "which would be replaced" in error, error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
