"""What `dreampose batch` costs: planning at scale, two workers over one, a batch over separate commands, Ray's own cost.

    python benchmarks/batch.py plan [--jobs 100000]
    python benchmarks/batch.py workers | commands | ray [--people 12]

Everything is made up or of mannequins at 32 x 48; figures are ratios within one run. `plan` needs 1 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dreampose_cli.cache import user_cache

PROGRAM = [sys.executable, "-m", "dreampose_cli"]
OPTIONS = ["--tune-steps", "8", "--decoder-steps", "4", "--steps", "4"]


def make_base(folder: Path) -> Path:
    """A base of mini's architecture at 32 wide x 48 high with random weights."""
    import dataclasses

    from dreampose_cli.networks.dreampose.presets import MINI, build_mini
    from dreampose_cli.networks.storage import save_base

    return save_base(build_mini(0, dataclasses.replace(MINI, name="tiny", resolution=(48, 32))), folder / "tiny")


def make_shop(folder: Path, people: int) -> list[str]:
    """Photos in folder/photos and one dance's poses in folder/turn.poses."""
    from dreampose_cli.workflows.synth import write_dataset

    write_dataset(folder / "data", subjects=people + 1, test_subjects=1, frames=24, seed=5, png=True, size=(48, 32))
    (folder / "photos").mkdir()
    for i, clip in enumerate(sorted((folder / "data" / "train").iterdir())):
        shutil.copy(clip / "frames" / "00000.png", folder / "photos" / f"{i:02}.png")
    (clip,) = (folder / "data" / "test").iterdir()
    shutil.copy(clip / "video.poses", folder / "turn.poses")
    return [str(path) for path in sorted((folder / "photos").iterdir())]


def run(words: list[str], cache: Path) -> tuple[float, float]:
    """Seconds of one command with a cache of its own, and of the CPU in it and the workers it started."""
    environment = os.environ | {"DREAMPOSE_CACHE": str(cache), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*PROGRAM, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, taken


def plan(folder: Path, jobs: int) -> dict:
    """Plan and skip so many finished jobs, as a fresh process would, first with nothing remembered and then again."""
    import numpy as np

    from dreampose_cli import media
    from dreampose_cli.workflows.batch.digests import Digests
    from dreampose_cli.workflows.batch.existing import REQUEST
    from dreampose_cli.workflows.batch.jobs import read_jobs
    from dreampose_cli.workflows.batch.plan import Planner

    base = make_base(folder)
    os.chdir(folder)
    (folder / "photos").mkdir()
    for i in range(jobs):
        (folder / "photos" / f"{i}.jpg").write_bytes(f"photo {i}".encode() * 50)
    (folder / "turn.poses").write_bytes(b"poses")
    rows = "".join(f"photos/{i}.jpg,turn.poses,{i // 1000}/{i}.mp4\n" for i in range(jobs))
    (folder / "jobs.csv").write_text("photo,poses,output\n" + rows, encoding="utf-8")
    planner = Planner(user_cache(), Digests())
    asked = read_jobs("jobs.csv", "out", {"base": str(base)})
    # one real video, whose request is written anew for each job: the same length, so that the boxes stay whole
    request = planner._request(asked[0])
    media.write_frames(folder / "one.mp4", [np.zeros((16, 16, 3), np.uint8)], fps=5, metadata={REQUEST: request})
    raw = (folder / "one.mp4").read_bytes()
    lines = []
    for job in asked:
        other = planner._request(job)
        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
        made = raw.replace(request["subject"].encode(), other["subject"].encode())
        Path(job.output).write_bytes(made.replace(request["id"].encode(), other["id"].encode()))
        for kind, step in (("subject", other["subject"]), ("video", other["id"])):
            lines += finished(kind, step, job)
    (folder / "out" / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = {}
    command = [sys.executable, __file__, "measure", "--folder", str(folder), "--base", str(base)]
    for name in ("first", "again"):
        measured = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(measured.stdout.splitlines()[-1])
    return {"jobs": jobs, **found}


def finished(kind: str, step: str, job) -> list[dict]:
    """The two lines of a manifest about a step that was done."""
    about = {"step": step, "kind": kind, "what": f"{kind} of {job.label}", "worker": "1", "host": "shop", "attempt": 1}
    result = {"subject": step} if kind == "subject" else {"frames": 100, "poses": "0" * 64}
    done = {"seconds": 2.881, "peak_memory": 601513984, "result": result | {"bytes": 11565337}}
    return [{"time": 1795540159.9, "event": "start", **about}, {"time": 1795540162.9, "event": "done", **about, **done}]


def measure(folder: Path, base: str) -> dict:
    """One run of a batch of which everything is there: its seconds, those of the CPU, and the most memory it took."""
    os.chdir(folder)
    started = time.monotonic()
    from dreampose_cli.__main__ import main

    code = main(["batch", "--jobs", "jobs.csv", "-o", "out", "--base", base, "-q"])
    *_, last = (folder / "out" / "manifest.jsonl").open(encoding="utf-8")
    return {
        "code": code,
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time(),
        "peak_bytes": peak_bytes(),
        "present": json.loads(last)["present"],
    }


def peak_bytes() -> int:
    """The most memory that this process took, which on Linux `getrusage` would mix up with that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (text for text in status.read_text(encoding="ascii").splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def workers(folder: Path, people: int) -> dict:
    """Videos a minute of two workers of one thread each over those of one: from the moment that the first worker is ready, and
    with what starting them takes."""
    base, photos = make_base(folder), make_shop(folder, people)
    found: dict = {"seconds": {}, "cpu_seconds": {}, "working": {}}
    for count in (1, 2):
        out = folder / f"out-{count}"
        words = ["batch", *photos, "--poses", str(folder / "turn.poses"), "-o", str(out), "--base", str(base), *OPTIONS]
        taken = run([*words, "--workers", str(count), "-q"], folder / f"c{count}")
        found["seconds"][count], found["cpu_seconds"][count] = taken
        times = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        first = min(line["time"] for line in times if line["event"] == "start")
        found["working"][count] = max(line["time"] for line in times if line["event"] == "done") - first
    ratios = {name: found[name][1] / found[name][2] for name in ("seconds", "working")}
    return {**found, "ratio": ratios["working"], "ratio_with_start": ratios["seconds"]}


def commands(folder: Path, people: int) -> dict:
    """A batch of a video each over as many times `tune` and `render`, and of untuned ones over as many times `render`: seconds,
    and those of the CPU, which say the same on a busy machine."""
    base, photos = make_base(folder), make_shop(folder, people)
    dance = ["--poses", str(folder / "turn.poses")]
    found = {}
    for name, untuned in (("tuned", False), ("untuned", True)):
        words = ["batch", *photos, *dance, "-o", str(folder / name), "--base", str(base), *OPTIONS, "-q"]
        together = run([*words, "--untuned"] if untuned else words, folder / f"{name}-c1")
        apart = []
        for i, photo in enumerate(photos):
            who = ["--photo", photo, "--base", str(base)] if untuned else ["--subject", f"p{i}"]
            if not untuned:
                tune = ["tune", photo, "--base", str(base), "--steps", "8", "--decoder-steps", "4", "--name", f"p{i}", "-q"]
                apart.append(run(tune, folder / f"{name}-c2"))
            render = ["render", *who, *dance, "--steps", "4", "-q", "-o", str(folder / f"{name}-{i}.mp4")]
            apart.append(run(render, folder / f"{name}-c2"))
        seconds, cpu = (sum(parts) for parts in zip(*apart, strict=True))
        found[name] = {"batch": together, "commands": (seconds, cpu), "ratio": together[0] / seconds}
        found[name]["cpu_ratio"] = together[1] / cpu
    return found


def ray(folder: Path, people: int) -> dict:
    """What a step costs on a local Ray of one worker beyond what the step itself says it took."""
    base, photos = make_base(folder), make_shop(folder, people)
    words = ["batch", *photos, "--poses", str(folder / "turn.poses"), "-o", str(folder / "out"), "--base", str(base)]
    run([*words, *OPTIONS, "--engine", "ray", "--workers", "1", "-q"], folder / "c")
    lines = [json.loads(line) for line in (folder / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    started = {line["step"]: line["time"] for line in lines if line["event"] == "start"}
    costs = [line["time"] - started[line["step"]] - line["seconds"] for line in lines if line["event"] == "done"]
    return {"steps": len(costs), "mean": sum(costs) / len(costs), "most": max(costs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["plan", "workers", "commands", "ray", "measure"])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--base", default="")
    asked = parser.parse_args()
    if asked.what == "measure":
        print(json.dumps(measure(asked.folder, asked.base)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = plan(folder, asked.jobs) if asked.what == "plan" else globals()[asked.what](folder, asked.people)
    print(json.dumps({asked.what: found, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
