"""What it costs to answer without computing: `--help`, a cache hit of `tune`, and a result of `render` that exists. As JSON.

    python benchmarks/startup.py [--runs 11] [--command poses]

`--help`: wall-clock time next to that of `python -c pass`, the median of several runs of each, by turns; the limit is 0.3 s
where `python -c pass` takes 0.02 s, a ratio of 15. The other two: CPU seconds (user and system), median and least; the
limit is 0.6.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATIO = 15.0
CPU_SECONDS = 0.6


def run(command: list[str], environment: dict[str, str] | None = None, code: int = 0) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one run, which must end with this exit code."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def help_page(program: list[str], command: str | None, runs: int) -> dict:
    """`--help` next to `python -c pass`."""
    helped, plain = [*program, *([command] if command else []), "--help"], [sys.executable, "-c", "pass"]
    for each in (plain, helped):  # the first run writes byte code and fills the disk cache
        run(each)
    times = [(run(plain)[0], run(helped)[0]) for _ in range(runs)]
    python, dreampose = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "python_seconds": round(python, 4),
        "dreampose_seconds": round(dreampose, 4),
        "ratio": round(dreampose / python, 2),
        "limit": RATIO,
        "reached": dreampose / python <= RATIO,
    }


def answers(program: list[str], runs: int) -> dict:
    """A cache hit of `tune` and "exists already" of `render`, in a cache of their own."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = os.environ | {"DREAMPOSE_CACHE": str(work / "cache")}
        drawn = ["synth", str(work / "data"), "--subjects", "2", "--test-subjects", "1", "--frames", "2", "--png", "-q"]
        run([*program, *drawn], environment)
        clip = next((work / "data" / "train").iterdir())
        photo, there = clip / "frames" / "00000.png", work / "there.mp4"
        there.write_bytes(b"a result")
        tuned = [*program, "tune", str(photo), "--base", "mini", "--steps", "1", "--decoder-steps", "0", "-q"]
        rendered = [*program, "render", "--poses", str(clip / "video.poses"), "-o", str(there), "-q"]
        run(tuned, environment)
        found = {}
        for name, command, code in (("tune, cached", tuned, 0), ("render, exists already", rendered, 1)):
            run(command, environment, code)
            times = [run(command, environment, code)[1] for _ in range(runs)]
            found[name] = {
                "cpu_seconds": round(statistics.median(times), 3),
                "least": round(min(times), 3),
                "limit": CPU_SECONDS,
                "reached": statistics.median(times) <= CPU_SECONDS,
            }
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="runs of each (default: 11)")
    parser.add_argument("--command", help="the help of this command instead of the whole")
    chosen = parser.parse_args()
    script = shutil.which("dreampose", path=str(Path(sys.executable).parent))
    program = [script] if script else [sys.executable, "-m", "dreampose_cli"]
    result = {
        "runs": chosen.runs,
        "help": help_page(program, chosen.command, chosen.runs),
        **answers(program, chosen.runs),
    }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
