"""What training is to reach, measured: tables on stdout, and the same as JSON with --json FILE.

    python benchmarks/training.py loader      the loader alone against mini's training step      at least 5
    python benchmarks/training.py processes   two processes of one thread against one            at least 1.6
    python benchmarks/training.py memory      resident memory over 2,000 steps, end over begin   at most 1.02
    python benchmarks/training.py attention   mini's attention in blocks against all at once     at least 1.1
    python benchmarks/training.py muon        Muon's directions by products and by squares       at least 1.5
    python benchmarks/training.py kill        kill -9 at random moments, then --resume           equal weights, 10 of 10

Everything is a ratio within one run, measured by turns. The clips are mannequins drawn for it, in a cache of its own, all
in a temporary folder. Nothing else should compute meanwhile: `load` in the JSON is the machine's load average at the start.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dreampose_cli.cache import user_cache

TINY = (48, 32)
LIMITS = {"loader": 5.0, "processes": 1.6, "memory": 1.02, "attention": 1.1, "muon": 1.5}


def loader(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Samples a second: of mini's step alone, its samples being there already, and of the loader alone, by turns."""
    import torch

    from dreampose_cli.prefetch import Prefetcher
    from dreampose_cli.training.loop import SampleRng

    torch.set_num_threads(args.threads)
    task, settings = mini_task(draw_clips(work, args.clips, (160, 128)))
    optimizer = torch.optim.AdamW([p for m in task.modules.values() for p in m.parameters() if p.requires_grad])
    batch = settings.batch_size

    def load(step: int) -> Any:
        return task.load([SampleRng.of(0, step * batch + i) for i in range(batch)])

    def train(loaded: Any) -> None:
        task.loss(loaded, 0, settings).backward()
        optimizer.step()
        optimizer.zero_grad()

    ahead = load(0)
    train(ahead)  # warm
    rounds = []
    for round in range(args.rounds):
        began = time.perf_counter()
        for _ in range(args.steps):
            train(ahead)
        trained = time.perf_counter() - began
        # as many samples as the limit asks for in that time
        count = max(1, round_up(args.steps * LIMITS["loader"]))
        jobs = ((lambda n=n: load(n)) for n in range(1 + round * count, 1 + (round + 1) * count))
        began = time.perf_counter()
        with Prefetcher(jobs, args.prefetch_threads) as feed:
            for _ in feed:
                pass
        loaded = time.perf_counter() - began
        rounds.append((batch * args.steps / trained, batch * count / loaded))
    return table(
        "loader",
        ("step, samples/s", "loader, samples/s"),
        rounds,
        {"batch": batch, "threads": args.threads, "prefetch threads": args.prefetch_threads},
    )


def processes(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Samples a second of mini's training: one process of one thread, and two that average their gradients, by turns."""
    clips = draw_clips(work, args.clips, (160, 128))
    rounds = [tuple(launched(clips, work, count, args) for count in (1, 2)) for _ in range(args.rounds)]
    return table("processes", ("one, samples/s", "two, samples/s"), rounds, {"batch of each": args.batch_size})


def launched(clips: Path, work: Path, count: int, args: argparse.Namespace) -> float:
    """Samples a second of so many processes of one thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "worker", str(clips), str(args.steps), str(args.batch_size)]
    children = []
    for rank in range(count):
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "DREAMPOSE_CACHE": str(work / "cache"),
        }
        if count > 1:
            env |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        children.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a process failed")
    return float(outputs[0].split()[-1])


def worker(clips: str, steps: str, batch: str) -> None:
    """One of the processes: train, and print how many samples a second all of them took, without the first steps."""
    import torch

    from dreampose_cli.training.distributed import init_distributed
    from dreampose_cli.training.loop import run

    torch.set_num_threads(1)
    processes, _ = init_distributed("cpu")
    task, settings = mini_task(Path(clips))
    warm, steps = 3, int(steps)
    settings = dataclasses.replace(settings, steps=warm + steps, batch_size=int(batch) * processes.count, save_every=0)
    times = {}
    seen = lambda done, *_: times.setdefault(done, time.perf_counter())  # noqa: E731
    run(task, settings, processes=processes, prefetch_threads=2, progress=seen)
    print(settings.batch_size * steps / (times[warm + steps] - times[warm]))
    processes.end()


def attention(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """CPU seconds of mini's attention, forward and backward in bfloat16 on one thread: in blocks, all weights at once, and by
    torch's fused kernel, by turns."""
    import torch
    from torch.nn import functional as F

    from dreampose_cli.networks.dreampose.surface_code import attend_in_blocks

    torch.set_num_threads(1)
    ways = {
        "blocks": attend_in_blocks,
        "at once": lambda q, k, v: attend_in_blocks(q, k, v, block=2**62),
        "fused": F.scaled_dot_product_attention,
    }
    # frames, heads, positions, tokens, width: cross-attention, where both frames of a photo ask it, and self-attention
    sizes = [(8, 1, 2560, 1330, 32), (8, 4, 640, 370, 16), (8, 4, 160, 130, 32), (16, 2, 1280, 320, 16), (16, 4, 320, 320, 16)]
    measured = []
    for frames, heads, positions, tokens, width in sizes:
        shapes = [(frames, heads, n, width) for n in (positions, tokens, tokens)]
        planes = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(1 + args.rounds):
            for name, way in ways.items():
                began = time.process_time()
                way(*planes).sum().backward()
                seconds[name].append(time.process_time() - began)
        best = {name: min(values[1:]) for name, values in seconds.items()}
        print(f"{tuple(shapes[0])} x {tokens}: " + ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in best.items()))
        measured.append({"shape": shapes[0], "tokens": tokens, **best})
    ratio = sum(found["at once"] for found in measured) / sum(found["blocks"] for found in measured)
    print(f"at once / blocks, of all together: {ratio:.2f}")
    return {"sizes": measured, "ratio": ratio, "reached": ratio >= LIMITS["attention"]}


def muon(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """CPU seconds of what Muon makes of all of mini's weights in float32, one thread: by products of the matrices themselves, and
    by squares where that is used; and how far each is from the same in float64."""
    import torch

    from dreampose_cli.networks.dreampose.presets import build_mini
    from dreampose_cli.training import optimizers

    torch.set_num_threads(1)
    network, limit = build_mini(0), optimizers.LONG
    shapes: dict[tuple[int, int], int] = {}
    for module in (network.modules[name] for name in ("unet", "adapter", "image_encoder")):
        for parameter in filter(optimizers.is_matrix, module.parameters()):
            shape = (len(parameter), parameter[0].numel())
            shapes[shape] = shapes.get(shape, 0) + 1
    matrices = [torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)) for shape, count in shapes.items()]
    seconds: dict[str, list[float]] = {"products": [], "squares": []}
    apart = dict.fromkeys(seconds, 0.0)
    exact = [optimizers.orthogonal(each.double()) for each in matrices]
    for _ in range(1 + args.rounds):
        for name, long in (("products", 10**9), ("squares", limit)):
            optimizers.LONG = long
            began = time.process_time()
            found = [optimizers.orthogonal(each) for each in matrices]
            seconds[name].append(time.process_time() - began)
            apart[name] = max(float((a - b).abs().max()) for a, b in zip(found, exact, strict=True))
    best = {name: min(values[1:]) for name, values in seconds.items()}
    ratio = best["products"] / best["squares"]
    print(", ".join(f"{name} {value * 1e3:.0f} ms, off by {apart[name]:.1e}" for name, value in best.items()) + f": {ratio:.2f}")
    return {"seconds": best, "apart": apart, "ratio": ratio, "reached": ratio >= LIMITS["muon"]}


def memory(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Resident memory of the whole command's work on a tiny base: loaders, checkpoints and looks at the test clips."""
    import psutil

    from dreampose_cli.workflows import train as phase1
    from dreampose_cli.workflows.options import TrainOptions

    clips, base = draw_clips(work, 8, TINY), tiny_base(work)
    process, seen = psutil.Process(), []

    def watch(done: int, total: int | None, text: str = "") -> None:
        if text.startswith("network") and done % 10 == 0:
            seen.append((done, process.memory_info().rss / 1e6))

    steps = args.steps
    phase1.train(
        TrainOptions(
            clips,
            work / "out",
            preset="mini",
            base=str(base),
            max_steps=steps,
            batch_size=2,
            device="cpu",
            save_every=steps // 8,
        ),
        progress=watch,
    )
    parts = 10
    means = [
        statistics.fmean(mb for step, mb in seen if part * steps < step * parts <= (part + 1) * steps)
        for part in range(parts)
    ]
    print("| steps to | resident, MB |\n|---|---|")
    for part, mean in enumerate(means):
        print(f"| {(part + 1) * steps // parts} | {mean:.1f} |")
    ratio = means[-1] / means[1]
    print(f"\nthe last tenth over the second: {ratio:.4f} (limit {LIMITS['memory']})")
    return {
        "steps": steps,
        "megabytes": means,
        "ratio": ratio,
        "limit": LIMITS["memory"],
        "reached": ratio <= LIMITS["memory"],
    }


def kill(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Each trial begins with an empty cache, is killed at random moments, and then continues until it is finished."""
    import dreampose_cli.workflows.train  # noqa: F401  the commands are forks of this process, which need not import it

    in_a_fork(draw_clips, work, 4, TINY).join()
    in_a_fork(tiny_base, work).join()
    words = (
        f"train {work}/clips --preset mini --base {work}/tiny --max-steps {args.steps} --batch-size 2 --device cpu -q"
    )

    def start(name: str):
        cache = {"DREAMPOSE_CACHE": str(work / f"{name}-cache")}
        command = [*words.split(), "--save-every", str(args.save_every), "--resume", "-o", str(work / name)]
        return in_a_fork(run_command, command, cache)

    began = time.perf_counter()
    whole = start("whole")
    whole.join()
    if whole.exitcode:
        raise SystemExit("the run that was not killed failed")
    length = time.perf_counter() - began
    rng, trials = random.Random(args.seed), []
    print(f"a run that is not killed takes {length:.1f} s\n\n| trial | killed after, s | found then | equal |")
    print("|---|---|---|---|", flush=True)
    for trial in range(args.trials):
        name, moments, found = f"trial-{trial}", [], []
        for _ in range(args.kills):
            child, moment = start(name), rng.uniform(0, length)
            child.join(moment)
            if child.exitcode is not None:
                break  # it was faster
            child.kill()  # SIGKILL
            child.join()
            moments.append(round(moment, 1))
            left = sorted(p.name for p in (work / name).glob("checkpoints/network/step-*"))
            found.append(f"step {int(left[-1].removeprefix('step-'))}" if left else "no checkpoint")
        last = start(name)
        last.join()
        equal = last.exitcode == 0 and same_folders(work / "whole", work / name)
        trials.append({"killed_after": moments, "found": found, "equal": equal})
        row = (trial + 1, ", ".join(map(str, moments)) or "not in time", ", ".join(found), "yes" if equal else "no")
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        for left in (name, f"{name}-cache"):
            shutil.rmtree(work / left, ignore_errors=True)
    equal = sum(trial["equal"] for trial in trials)
    print(f"\n{equal} of {len(trials)} with equal final weights")
    return {"steps": args.steps, "seconds": length, "trials": trials, "equal": equal, "reached": equal == len(trials)}


def in_a_fork(function, *values: Any):
    process = multiprocessing.get_context("fork").Process(target=function, args=values)
    process.start()
    return process


def run_command(words: list[str], environment: dict[str, str]) -> None:
    """One `dreampose` command line, as the console script runs it."""
    from dreampose_cli.__main__ import main

    os.environ.update(environment)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.exit(main(words))


def same_folders(one: Path, other: Path) -> bool:
    """Whether the weights of two trainings are equal, byte by byte: the last checkpoint's and the base's."""
    names = sorted(p.relative_to(one) for p in one.rglob("*.safetensors"))
    theirs = sorted(p.relative_to(other) for p in other.rglob("*.safetensors"))
    return bool(names) and names == theirs and all((one / n).read_bytes() == (other / n).read_bytes() for n in names)


# ---- what they share


def draw_clips(work: Path, count: int, size: tuple[int, int]) -> Path:
    from dreampose_cli.workflows.synth import write_dataset

    folder = work / "clips"
    write_dataset(folder, subjects=count, test_subjects=2, frames=16, seed=3, png=True, size=size)
    return folder


def tiny_base(work: Path) -> Path:
    from dreampose_cli.networks.dreampose.presets import MINI, build_mini
    from dreampose_cli.networks.storage import save_base

    (work / "tiny").mkdir()
    return save_base(build_mini(0, dataclasses.replace(MINI, name="tiny", resolution=TINY)), work / "tiny")


def mini_task(clips: Path):
    """Mini's network at random initialisation on these clips, and its settings."""
    from dreampose_cli.networks.dreampose.presets import build_mini
    from dreampose_cli.training.denoising import DenoisingTask, Dropout
    from dreampose_cli.training.frames import prepare_frames
    from dreampose_cli.training.recipes import PRESETS
    from dreampose_cli.training.sources import PairSource, encode_frames

    preset = PRESETS["mini"]
    base = build_mini(0)
    frames = prepare_frames(user_cache(), clips, base.config.resolution)
    latents = encode_frames(user_cache(), base, frames, base.config.target_range)
    stage = next(stage for stage in base.stages if stage.name == "network")
    source = PairSource(base, frames, frames.split("train"), latents, each=preset.pairing.targets_per_photo)
    learns = (*stage.modules, *preset.also_learns["network"])
    task = DenoisingTask(base, source, learns, Dropout(*stage.dropout), preset.pairing)
    return task, preset.stages["network"]


def table(
    name: str, columns: tuple[str, str], rounds: list[tuple[float, float]], about: dict[str, Any]
) -> dict[str, Any]:
    """Print rounds of two speeds with their ratio; returns them with the median ratio and what it is to reach."""
    print(f"| round | {columns[0]} | {columns[1]} | ratio |\n|---|---|---|---|")
    for i, (a, b) in enumerate(rounds):
        print(f"| {i + 1} | {a:.2f} | {b:.2f} | {b / a:.2f} |")
    ratio = statistics.median(b / a for a, b in rounds)
    print(f"\nmedian ratio {ratio:.2f} (at least {LIMITS[name]})")
    return {**about, "rounds": rounds, "ratio": ratio, "limit": LIMITS[name], "reached": ratio >= LIMITS[name]}


def round_up(value: float) -> int:
    return int(-(-value // 1))


def main() -> int:
    if sys.argv[1:2] == ["worker"]:
        worker(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("loader")
    one.add_argument("--threads", type=int, default=2, help="of the step (default: 2)")
    one.add_argument("--prefetch-threads", type=int, default=2, help="threads that load (default: 2)")
    one.add_argument("--steps", type=int, default=4, help="in a round (default: 4)")
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--clips", type=int, default=48)
    two = kinds.add_parser("processes")
    two.add_argument("--batch-size", type=int, default=8, help="of each process (default: 8)")
    two.add_argument("--steps", type=int, default=12, help="that are timed (default: 12)")
    two.add_argument("--rounds", type=int, default=3)
    two.add_argument("--clips", type=int, default=12)
    three = kinds.add_parser("memory")
    three.add_argument("--steps", type=int, default=2000)
    four = kinds.add_parser("kill")
    four.add_argument("--trials", type=int, default=10)
    four.add_argument("--kills", type=int, default=1, help="in a trial (default: 1)")
    four.add_argument("--steps", type=int, default=120)
    four.add_argument("--save-every", type=int, default=5)
    four.add_argument("--seed", type=int, default=0, help="of the moments")
    five = kinds.add_parser("attention")
    five.add_argument("--rounds", type=int, default=5)
    six = kinds.add_parser("muon")
    six.add_argument("--rounds", type=int, default=5)
    for kind in (one, two, three, four, five, six):
        kind.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="dreampose-training-") as folder:
        work = Path(folder)
        os.environ["DREAMPOSE_CACHE"] = str(work / "cache")
        kinds_of = {"loader": loader, "processes": processes, "memory": memory, "kill": kill, "attention": attention, "muon": muon}
        run = kinds_of[args.kind]
        figures = {"benchmark": args.kind, "load": load, "cores": os.cpu_count(), **run(args, work)}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if figures["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
