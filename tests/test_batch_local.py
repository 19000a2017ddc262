"""Batches on real workers of this machine: the same results as separate commands, and nothing lost to kills."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.cache import Cache, user_cache
from dreampose_cli.workflows.batch.manifest import read_lines
from dreampose_cli.workflows.options import RenderOptions, TuneOptions
from dreampose_cli.workflows.render import render
from dreampose_cli.workflows.tune import tune

OPTIONS = ["--tune-steps", "2", "--decoder-steps", "1", "--steps", "2"]


@pytest.fixture
def shop(clips, tmp_path, monkeypatch):
    """A working directory with photos/0.png.. of three people, the dances walk.mp4 and turn.poses."""
    monkeypatch.chdir(tmp_path)
    folders = sorted(path for part in ("train", "test") for path in (clips / part).iterdir() if path.is_dir())
    (tmp_path / "photos").mkdir()
    for i, folder in enumerate(folders[:3]):
        shutil.copy(folder / "frames" / "00000.png", tmp_path / "photos" / f"{i}.png")
    shutil.copy(folders[0] / "video.mp4", tmp_path / "walk.mp4")
    shutil.copy(folders[1] / "video.poses", tmp_path / "turn.poses")
    return tmp_path


def words(base, *more, photos=("photos",), dances=("walk.mp4", "turn.poses"), output="videos"):
    poses = [word for dance in dances for word in ("--poses", dance)]
    return ["batch", *photos, *poses, "-o", output, "--base", str(base), *OPTIONS, *more]


def start(*arguments, **options):
    """A batch in a process group of its own, which Ctrl-C reaches however the tests themselves were started."""
    if os.name != "nt":
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in background jobs
    return subprocess.Popen(
        [sys.executable, "-m", "dreampose_cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def events(folder="videos", kind=None):
    return [line for line in read_lines(Path(folder)) if kind in (None, line.get("kind"))]


def pictures(path):
    return b"".join(frame.tobytes() for frame in media.open_frames(path))


def family(process):
    """A process and its workers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def test_a_batch_makes_what_the_commands_make_and_is_done_once(shop, tiny_base, capsys):
    """And a bad photo does not stop the others."""
    (shop / "photos" / "2.png").write_bytes(b"no picture")
    rows = [{"photo": f"photos/{i}.png", "poses": dance} for i in (0, 1) for dance in ("walk.mp4", "turn.poses")]
    rows += [{"photo": f"photos/{i}.png", "poses": "turn.poses", "output": f"{i}.gif", "tune": False} for i in (1, 2)]
    (shop / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    jobs = ["batch", "--jobs", "jobs.jsonl", "-o", "videos/", "--base", str(tiny_base), *OPTIONS]
    assert main(jobs) == 1
    said = capsys.readouterr()
    assert said.out == "" and "1 of 6 videos is missing" in said.err and "2.png" in said.err
    assert "correct or leave out what is named" in said.err
    (failed,) = [line for line in events() if line["event"] == "failed"]
    assert (failed["reason"], failed["again"]) == ("input", False) and "2.png" in failed["error"]
    # the second subject was tuned on a base that the first, and a render, had used before
    second = max((line for line in events(kind="subject") if line["event"] == "done"), key=lambda line: line["time"])
    who = int(second["what"].removeprefix("subject of ")[0])
    options = TuneOptions([Path(f"photos/{who}.png")], base=str(tiny_base), steps=2, decoder_steps=1)
    made = tune(options)
    assert made.cached  # the batch has tuned the very same
    alone = tune(options, cache=Cache(shop / "another"))
    assert alone.id == made.id == second["result"]["subject"] and not alone.cached
    for file in made.path.glob("*.safetensors"):
        assert file.read_bytes() == (alone.path / file.name).read_bytes(), file.name
    for dance in ("walk.mp4", "turn.poses"):
        render(RenderOptions([Path(dance)], "one.mp4", subject=made.id, steps=2, overwrite=True))
        assert pictures("one.mp4") == pictures(f"videos/{who}-{Path(dance).stem}.mp4"), dance
    photo = Path("photos/1.png")
    render(RenderOptions([Path("turn.poses")], "one.gif", photo=photo, base=str(tiny_base), steps=2))
    assert pictures("one.gif") == pictures("videos/1.gif")
    # photos and dances in place of the file ask for the same, and it is there
    photos = ["photos/0.png", "photos/1.png"]
    before = {path: path.stat().st_mtime_ns for path in (shop / "videos").glob("*.mp4")}
    steps = len(events())
    assert main(words(tiny_base, "--json", photos=photos)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["begin", "end"] and lines[1]["present"] == 4
    assert len(events()) == steps + 2
    assert main(words(tiny_base, "-q", photos=photos, output="videos/")) == 0
    assert capsys.readouterr().out.strip() == str(shop / "videos")
    assert before == {path: path.stat().st_mtime_ns for path in (shop / "videos").glob("*.mp4")}
    # what is known by now tells what the third photo will take
    assert main(words(tiny_base, "--dry-run", "--json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["present"], plan["missing"]) == (4, 2) and plan["seconds"] > 0 and plan["disk"] > 0
    assert [step["kind"] for step in plan["steps"]].count("subject") == 1
    assert main(words(tiny_base, "-q", "--seed", "1", photos=photos)) == 1
    assert "was made by another request: seed (None, now 1) differs" in capsys.readouterr().err


def test_an_input_that_vanishes_or_changes_after_planning_fails(shop, tiny_base):
    """Without a worker process: the steps of a plan, run here."""
    from dreampose_cli.workflows.batch.digests import Digests
    from dreampose_cli.workflows.batch.jobs import jobs_of
    from dreampose_cli.workflows.batch.plan import Planner
    from dreampose_cli.workflows.batch.steps import StepRunner

    jobs = jobs_of(["photos/0.png", "photos/1.png"], ["turn.poses"], "videos", {"base": str(tiny_base)})
    plan = Planner(user_cache(), Digests()).plan(jobs, Path("videos"))
    first, second = [step for step in plan.steps.values() if step.kind == "subject"]
    (shop / "photos" / "0.png").unlink()
    (shop / "photos" / "1.png").write_bytes(b"another")
    runner, nobody = StepRunner(user_cache(), "cpu"), lambda *_: None
    for step, words in ((first, "has vanished since the batch was planned"), (second, "has changed since the batch")):
        kind, data = runner.run({**step.task, "id": step.id}, None, nobody, nobody)
        assert kind == "failed" and data["reason"] == "input" and words in data["sentence"]


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)]
)
def test_ctrl_c_and_kill_leave_what_is_done_and_no_process(shop, tiny_base, how, code):
    arguments = words(tiny_base, photos=["photos/0.png"], dances=["turn.poses"])
    process = start(*arguments)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if Path("videos").exists() and any(line["event"] == "start" for line in events()):
            break
        time.sleep(0.05)
    members = family(process)
    process.send_signal(how)
    said = process.communicate(timeout=60)
    assert process.returncode == code, said
    _, alive = psutil.wait_procs(members[1:], timeout=30)
    assert not alive
    if how == signal.SIGINT:
        assert "interrupted" in said[1] and "missing" in said[1]
    assert main([*arguments, "-q"]) == 0
    assert sorted(path.name for path in (shop / "videos").glob("*.mp4")) == ["0-turn.mp4"]


@pytest.mark.slow
def test_thirty_kills_lose_nothing(shop, tiny_base, tmp_path_factory, monkeypatch):
    """Kill -9 at random moments, of the driver, of its worker or of both: the end is as if nothing had happened."""
    arguments = words(tiny_base, "--workers", "1", "-q")
    rng, kills = random.Random(7), 0
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path_factory.mktemp("kills") / "cache"))
    rounds = 0
    while kills < 30:
        rounds += 1
        shutil.rmtree("videos", ignore_errors=True)
        shutil.rmtree(os.environ["DREAMPOSE_CACHE"], ignore_errors=True)
        while kills < 30:
            process = start(*arguments)
            until = time.monotonic() + rng.uniform(3.0, 16.0)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if process.poll() is not None:
                assert process.returncode == 0, process.communicate()
                process.communicate()
                break  # it was done before it could be killed: from the beginning
            members = family(process)
            which = rng.choice([members[:1], members[1:2], members])
            for member in which:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            kills += 1
            if which == members[1:2]:
                process.send_signal(signal.SIGKILL)  # the driver had the time to see it only now and then
            process.communicate(timeout=60)
            _, alive = psutil.wait_procs(members, timeout=30)
            assert not alive
            for path in Path("videos").glob("*.mp4"):
                assert len(list(media.open_frames(path))) == 8, path
    done = subprocess.run(
        [sys.executable, "-m", "dreampose_cli", *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_bytes() for path in Path("videos").glob("*.mp4")}
    assert len(made) == 6 and not list(Path("videos").glob(".*.tmp*"))
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path_factory.mktemp("whole") / "cache"))
    assert main([*words(tiny_base, "-q", output="whole")]) == 0
    assert made == {path.name: path.read_bytes() for path in Path("whole").glob("*.mp4")}
    subjects = [line for line in events() if line["event"] == "done" and line["kind"] == "subject"]
    assert len({line["step"] for line in subjects}) == len([line for line in subjects if not line["result"]["cached"]])
