"""How long `dreampose --help` takes beside `python -c pass`: the median of several runs of each, by turns, as JSON.

    python benchmarks/startup.py [--runs 11] [--command poses]

The limit is 0.3 s where `python -c pass` takes 0.02 s: a ratio of 15.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 15.0


def seconds(command: list[str]) -> float:
    """Wall-clock time of one run, which must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="runs of each (default: 11)")
    parser.add_argument("--command", help="the help of this command instead of the whole")
    chosen = parser.parse_args()
    script = shutil.which("dreampose", path=str(Path(sys.executable).parent))
    program = [script] if script else [sys.executable, "-m", "dreampose_cli"]
    helped = [*program, *([chosen.command] if chosen.command else []), "--help"]
    plain = [sys.executable, "-c", "pass"]
    for command in (plain, helped):  # the first run writes byte code and fills the disk cache
        seconds(command)
    times = [(seconds(plain), seconds(helped)) for _ in range(chosen.runs)]
    python, dreampose = (statistics.median(column) for column in zip(*times, strict=True))
    result = {
        "command": " ".join(["dreampose" if script else "python -m dreampose_cli", *helped[len(program) :]]),
        "runs": chosen.runs,
        "python_seconds": round(python, 4),
        "dreampose_seconds": round(dreampose, 4),
        "ratio": round(dreampose / python, 2),
        "limit": LIMIT,
        "reached": dreampose / python <= LIMIT,
    }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
