"""What `dreampose batch` costs: planning at scale, two workers over one, a batch over separate commands, Ray's own cost.

    python benchmarks/batch.py plan [--jobs 100000]
    python benchmarks/batch.py workers | commands | ray

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


def run(words: list[str], cache: Path) -> float:
    """Seconds of one command with a cache of its own."""
    environment = os.environ | {"DREAMPOSE_CACHE": str(cache), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    started = time.monotonic()
    subprocess.run([*PROGRAM, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def plan(folder: Path, jobs: int) -> dict:
    """Plan and skip so many finished jobs, as a fresh process would, first with nothing remembered and then again."""
    import numpy as np

    from dreampose_cli import media
    from dreampose_cli.workflows.batch.digests import Digests
    from dreampose_cli.workflows.batch.jobs import read_jobs
    from dreampose_cli.workflows.batch.plan import REQUEST, Planner

    base = make_base(folder)
    os.chdir(folder)
    (folder / "photos").mkdir()
    for i in range(jobs):
        (folder / "photos" / f"{i}.jpg").write_bytes(f"photo {i}".encode() * 50)
    (folder / "turn.poses").write_bytes(b"poses")
    rows = "".join(f"photos/{i}.jpg,turn.poses,{i // 1000}/{i}.mp4\n" for i in range(jobs))
    (folder / "jobs.csv").write_text("photo,poses,output\n" + rows, encoding="utf-8")
    planner = Planner(Digests())
    asked = read_jobs("jobs.csv", "out", {"base": str(base)})
    planner.digests.of_all(job.photos[0] for job in asked)
    # one real video, whose request is written anew for each job: the same length, so that the boxes stay whole
    request = planner._request(asked[0])
    media.write_frames(folder / "one.mp4", [np.zeros((16, 16, 3), np.uint8)], fps=5, metadata={REQUEST: request})
    raw = (folder / "one.mp4").read_bytes()
    for job in asked:
        other = planner._request(job)
        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
        made = raw.replace(request["subject"].encode(), other["subject"].encode())
        Path(job.output).write_bytes(made.replace(request["id"].encode(), other["id"].encode()))
    found = {}
    command = [sys.executable, __file__, "measure", "--folder", str(folder), "--base", str(base)]
    for name in ("first", "again"):
        measured = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(measured.stdout.splitlines()[-1])
    return {"jobs": jobs, **found}


def measure(folder: Path, base: str) -> dict:
    """One run of a batch of which everything is there: its seconds, and the most memory it took."""
    os.chdir(folder)
    from dreampose_cli.__main__ import main

    started = time.monotonic()
    code = main(["batch", "--jobs", "jobs.csv", "-o", "out", "--base", base, "-q"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = (folder / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    present = json.loads(lines[-1])["present"]
    return {"code": code, "seconds": time.monotonic() - started, "peak_bytes": peak, "present": present}


def workers(folder: Path) -> dict:
    """Videos a minute of two workers of one thread each over those of one, 12 people; with what starting them takes."""
    base, photos = make_base(folder), make_shop(folder, 12)
    seconds = {}
    for count in (1, 2):
        words = ["batch", *photos, "--poses", str(folder / "turn.poses"), "-o", str(folder / f"out-{count}")]
        seconds[count] = run(
            [*words, "--base", str(base), *OPTIONS, "--workers", str(count), "-q"], folder / f"c{count}"
        )
    return {"seconds": seconds, "ratio": seconds[1] / seconds[2]}


def commands(folder: Path) -> dict:
    """A batch of 12 videos over twelve times `tune` and `render`."""
    base, photos = make_base(folder), make_shop(folder, 12)
    words = ["batch", *photos, "--poses", str(folder / "turn.poses"), "-o", str(folder / "out"), "--base", str(base)]
    together = run([*words, *OPTIONS, "-q"], folder / "c1")
    apart = 0.0
    for i, photo in enumerate(photos):
        tune = ["tune", photo, "--base", str(base), "--steps", "8", "--decoder-steps", "4", "-q", "--name", f"p{i}"]
        render = ["render", "--subject", f"p{i}", "--poses", str(folder / "turn.poses"), "--steps", "4", "-q"]
        apart += run(tune, folder / "c2") + run([*render, "-o", str(folder / f"{i}.mp4")], folder / "c2")
    return {"batch": together, "commands": apart, "ratio": together / apart}


def ray(folder: Path) -> dict:
    """What a step costs on a local Ray of one worker beyond what the step itself says it took."""
    base, photos = make_base(folder), make_shop(folder, 6)
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
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--base", default="")
    asked = parser.parse_args()
    if asked.what == "measure":
        print(json.dumps(measure(asked.folder, asked.base)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = plan(folder, asked.jobs) if asked.what == "plan" else globals()[asked.what](folder)
    print(json.dumps({asked.what: found, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
