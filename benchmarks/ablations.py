"""The paper's findings put to the test on mannequins: train the bases that are compared, run the suites, write the tables.

    python benchmarks/ablations.py                      # everything; what is there already is kept
    python benchmarks/ablations.py --write docs/results.md

Bases that are compared are trained here, by `dreampose train`, from scratch but the autoencoder of `--base`: with equal
steps, seed and clips, in the paper's architecture (the photo reaches the UNet by its tokens alone), each with one option
changed (`VARIANTS`); the first is trained twice, with two seeds, to see how far apart two trainings are anyway. Two suites
follow (`dreampose eval --suite`), on mannequins of another seed than any training's: "mini", the ablations that need no
training, on `--base`; "bases", the bases above next to each other, untuned and tuned.

OUTPUT holds clips/ and suite-clips/, bases/NAME/ with a log each, and suite-mini/ and suite-bases/ with results.json and
report.html. The same command resumes where it was stopped, and with more `--subjects` it adds to what is there. `--write`
puts tables made from the two results.json between the marks in a Markdown file, and frames of one subject of each suite
into images/ next to it; it computes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

VARIANTS: dict[str, list[str]] = {  # options of `dreampose train`; the first is what the others are compared with
    "full": [],
    "clip-only": ["--clip-only"],
    "one-pose": ["--pose-window", "1"],
    "uv": ["--pose-channels", "uv"],
    "again": ["--seed", "1"],  # the first once more: what a difference between two trainings is worth
}
SUITES = ("mini", "bases")
TRAIN_SEED, TEST_SEED = 1, 2026
TRAIN_FRAMES, TEST_FRAMES = 16, 24
PRESET_SIZE = [160, 128]  # height, width
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
METRICS = ("l1", "ssim", "figure_l1", "texture", "psnr", "sharpness", "flicker", "warp")
LOWEST_SSIM = 0.8  # of a base, untuned: one below it dresses nobody, so that comparing it means nothing
SWAYING = ("dress", "skirt")
SWAY_METRICS = ("ssim", "texture", "flicker", "warp")

# What the paper says, which suite asks, the rows that answer (against their baselines) and by which metrics. The paper's
# figures are L1 / SSIM / VGG / LPIPS of its Table 2.
QUESTIONS: tuple[tuple[str, str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "tuning on the subject helps",
        "Table 1: .0256 / .885 / .235 / .068 tuned",
        "mini",
        ("full",),
        ("figure_l1", "ssim", "texture"),
    ),
    (
        "the decoder phase sharpens",
        ".019 / .900 / .207 / .056 with, .025 / .897 / .210 / .057 without",
        "mini",
        ("no-decoder",),
        ("figure_l1", "ssim", "texture", "sharpness"),
    ),
    (
        "five poses flicker less than one",
        ".019 / .900 / .207 / .056 with five, .019 / .899 / .208 / .056 with one",
        "bases",
        ("one-pose", "one-pose-untuned"),
        ("figure_l1", "ssim", "texture", "flicker", "warp"),
    ),
    (
        "(the same, five copies of one pose)",
        "not measured there",
        "mini",
        ("repeated-pose",),
        ("figure_l1", "ssim", "texture", "flicker", "warp"),
    ),
    (
        "CLIP and VAE tokens are better than CLIP's alone",
        ".019 / .900 / .207 / .056 with both, .025 / .882 / .247 / .070 with CLIP's",
        "bases",
        ("clip-only", "clip-only-untuned"),
        ("figure_l1", "ssim", "texture"),
    ),
    (
        "smoothing the output costs detail",
        ".767 / .758 / .502 / .202 smoothed",
        "mini",
        ("smoothed",),
        ("ssim", "texture", "sharpness", "flicker"),
    ),
    (
        "(the same base trained with another seed)",
        "not measured there",
        "bases",
        ("again", "again-untuned"),
        ("figure_l1", "ssim", "texture", "flicker", "warp"),
    ),
    ("UV alone cannot tell front from back", "not measured there", "bases", ("uv", "uv-untuned"), ("figure_l1", "ssim", "texture")),
    (
        "guidance to the photo",
        "figure 7, pictures",
        "mini",
        ("image-guidance-2", "image-guidance-4", "image-guidance-8"),
        ("ssim", "texture", "sharpness"),
    ),
    (
        "guidance to the pose",
        "figure 7, pictures",
        "mini",
        ("pose-guidance-2", "pose-guidance-4", "pose-guidance-8"),
        ("ssim", "texture", "sharpness"),
    ),
    ("more photos help", "figure 12, pictures", "mini", ("photos-3", "photos-5", "photos-7"), ("figure_l1", "ssim", "texture")),
)


# ---- running


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", "-o", type=Path, default=Path(".work/ablations"))
    parser.add_argument("--base", default="mini", help="whose autoencoder is taken, and what the suite mini runs on")
    parser.add_argument("--clips", type=int, default=500, help="mannequins to train on")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each base, of 16 samples")
    parser.add_argument("--size", help="WIDTHxHEIGHT of the bases, in place of the preset's")
    parser.add_argument("--subjects", type=int, default=8, help="held-out mannequins")
    parser.add_argument("--sampling-steps", type=int, default=10, help="denoising steps in the suite bases")
    parser.add_argument("--tune-steps", type=int, help="of both suites, in place of the base's")
    parser.add_argument("--decoder-steps", type=int, help="of both suites, in place of the base's")
    parser.add_argument("--only", choices=("train", *SUITES), action="append", help="these parts alone")
    parser.add_argument("--jobs", type=int, default=2, help="programs at once, which share the cores")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="of the trainings; bfloat16 is the fastest on CPUs that have it")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file, and do nothing else")
    chosen = parser.parse_args(argv)
    if chosen.write:
        write_tables(chosen.output, chosen.write)
        return 0
    parts = chosen.only or ["train", *SUITES]
    chosen.output.mkdir(parents=True, exist_ok=True)
    Jobs(chosen, 1).run([("clips", synth) for synth in drawings(chosen, parts)])
    if "train" in parts:
        Jobs(chosen).run([(name, training(chosen, name)) for name in VARIANTS])
    Jobs(chosen).run([(f"suite-{name}", suite(chosen, name)) for name in SUITES if name in parts])
    print(f"tables: python benchmarks/ablations.py -o {chosen.output} --write docs/results.md")
    return 0


def drawings(chosen: argparse.Namespace, parts: list[str]) -> Iterator[list[str]]:
    """Commands that draw what clips are missing. Clips depend on seed and number alone: more are added by drawing anew."""
    for folder, count, frames, seed, part in (
        (chosen.output / "clips", chosen.clips, TRAIN_FRAMES, TRAIN_SEED, "train"),
        (chosen.output / "suite-clips", chosen.subjects, TEST_FRAMES, TEST_SEED, "test"),
    ):
        there = len(list((folder / part).glob("*"))) if (folder / part).is_dir() else 0
        wanted = "train" in parts if part == "train" else set(parts) & set(SUITES)
        if wanted and there < count:
            tests = 8 if part == "train" else count
            numbers = ["--subjects", count + tests if part == "train" else count, "--test-subjects", tests]
            options = ["--frames", frames, "--seed", seed, "--png", "--workers", chosen.jobs, "--overwrite"]
            yield ["synth", folder, *numbers, *options]


def training(chosen: argparse.Namespace, name: str) -> list[Any]:
    """The command that trains a base; all of them differ in `VARIANTS` alone."""
    alike = ["--preset", "mini", "--vae", chosen.base, "--unet-image-input", "none", "--max-steps", chosen.steps]
    alike += ["--size", chosen.size] if chosen.size else []
    seed = [] if "--seed" in VARIANTS[name] else ["--seed", 0]
    run = ["--save-every", 250, "--device", chosen.device, "--dtype", chosen.dtype, "--resume"]
    where = ["train", chosen.output / "clips", "-o", chosen.output / "bases" / name]
    return [*where, *alike, *VARIANTS[name], *seed, *run]


def suite(chosen: argparse.Namespace, name: str) -> list[Any]:
    """The command of a suite, on the first `--subjects` clips."""
    folder = chosen.output / f"suite-{name}"
    if name == "mini":
        what = ["--base", chosen.base, "--ablations"]
    else:
        first, *others = VARIANTS
        bases = chosen.output / "bases"
        what = ["--base", bases / first, "--tune", "--steps", chosen.sampling_steps]
        what += [word for other in others for word in ("--compare", f"{other}={bases / other}")]
        what += ["--size", min(map(int, chosen.size.split("x")))] if chosen.size else []  # the bases' own, not the clips'
    for option in ("tune_steps", "decoder_steps"):
        if getattr(chosen, option) is not None:
            what += [f"--{option.replace('_', '-')}", getattr(chosen, option)]
    where = ["--clips", chosen.subjects, "--device", chosen.device, "-o", folder]
    return [
        "eval",
        "--suite",
        chosen.output / "suite-clips",
        *what,
        *where,
        "--report",
        folder / "report.html",
        "--overwrite",
    ]


class Jobs:
    """Several programs at once, each with its share of the cores and a log; the first that fails ends the script."""

    def __init__(self, chosen: argparse.Namespace, jobs: int | None = None) -> None:
        self.output, self.jobs = chosen.output, jobs or chosen.jobs
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // self.jobs)

    def run(self, commands: list[tuple[str, list[Any]]]) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            failed = [name for name, code in pool.map(self._one, commands) if code]
        if failed:
            sys.exit(f"failed: {', '.join(failed)}; see the end of {self.output / failed[0]}.log")

    def _one(self, job: tuple[str, list[Any]]) -> tuple[str, int]:
        name, words = job
        program = shutil.which("dreampose", path=str(Path(sys.executable).parent)) or "dreampose"
        command = [program, *map(str, words)]
        environment = os.environ | {
            "DREAMPOSE_CACHE": str((self.output / "cache").absolute()),
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        print(shlex.join(["dreampose", *command[1:]]), flush=True)
        began = time.monotonic()
        with (self.output / f"{name}.log").open("a") as log:
            code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
        print(
            f"{name}: {'done' if code == 0 else f'exit code {code}'} after {time.monotonic() - began:.0f} s", flush=True
        )
        return name, code


# ---- tables


def write_tables(output: Path, target: Path) -> None:
    """Put the tables between the marks in `target`."""
    text = target.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)
    if not found or not after[1]:
        sys.exit(f"{target} has no place for tables: put {BEGIN} and {END} on lines of their own.")
    tables = "\n".join(page(output))
    for name, document in results(output).items():
        picture(output / f"suite-{name}", document, target.parent / "images" / f"suite-{name}.jpg")
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after[2]}", encoding="utf-8")
    os.replace(partial, target)


def results(output: Path) -> dict[str, Any]:
    """The results.json of each suite that has run."""
    files = {name: output / f"suite-{name}" / "results.json" for name in SUITES}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def shown_rows(document: dict[str, Any]) -> list[str]:
    """The variants of a suite that its picture shows."""
    left = (
        "copied",
        "photos-3",
        "photos-5",
        "image-guidance-1",
        "pose-guidance-1",
        "image-guidance-8",
        "pose-guidance-8",
    )
    return [key for key in document["summary"]["variants"] if key not in left]


def picture(folder: Path, document: dict[str, Any], target: Path) -> None:
    """Frames of the subject that is in the middle by the SSIM of the main row, the truth on top, a row a variant."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    variants, rows = document["summary"]["variants"], ["reference", *shown_rows(document)]
    subjects = variants.get("full", variants["untuned"])["subjects"]
    clip = sorted(subjects, key=lambda name: subjects[name]["ssim"])[len(subjects) // 2]
    pictures = []
    for row in rows:
        files = sorted((folder / (row if row == "reference" else f"frames/{row}") / clip).glob("*.png"))
        frames = [
            np.asarray(Image.open(files[i]).convert("RGB")) for i in np.linspace(0, len(files) - 1, 6).astype(int)
        ]
        name = Image.new("RGB", (150, frames[0].shape[0]), "white")
        ImageDraw.Draw(name).text(
            (6, frames[0].shape[0] // 2 - 8), row, fill=(40, 40, 40), font=ImageFont.load_default(14)
        )
        pictures.append(np.concatenate([np.asarray(name), *frames], axis=1))
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(target, quality=88)


def page(output: Path) -> Iterator[str]:
    """The Markdown between the marks, line by line."""
    suites = results(output)
    if not suites:
        sys.exit(f"{output} holds no results yet; run python benchmarks/ablations.py -o {output} first.")
    yield from questions(suites)
    for name, document in suites.items():
        yield f"![the subject in the middle by SSIM, suite {name}: {', '.join(shown_rows(document))}](images/suite-{name}.jpg)"
        yield ""
    if "bases" in suites:
        yield from trainings(output)
    for name, document in suites.items():
        yield from one_suite(name, document)
        yield from backs(document)
        yield from swaying(document, output / "suite-clips" / "dataset.json")


def questions(suites: dict[str, Any]) -> Iterator[str]:
    """Each of the paper's findings with the differences measured here."""
    yield "### The paper's findings, and the differences here"
    yield ""
    yield "Each difference is the row's figure minus its baseline's, mean over subjects ± standard deviation over subjects."
    yield ""
    yield from head(
        "the paper's finding", "its figures (L1 / SSIM / VGG / LPIPS)", "compared here", "differences on mannequins"
    )
    for question, paper, name, rows, metrics in QUESTIONS:
        if name not in suites:
            continue
        summary = suites[name]["summary"]
        comparisons = summary["comparisons"]
        poor = next((why for row in rows if (why := undressed(summary["variants"], row))), None) if name == "bases" else None
        if poor:
            yield line(question, paper, rows[0], f"not compared: {poor}")
            continue
        back = summary["views"].get("back", {}).get("comparisons", []) if rows[0] == "uv" else []
        for which, compared in (("", comparisons), (", back views", back)):
            for row in rows:
                found = [c for key in metrics for c in compared if c["variant"] == row and c["metric"] == key]
                if found:
                    yield line(question + which, paper, found[0]["title"], "; ".join(map(difference, found)))
    yield ""


def undressed(variants: dict[str, Any], row: str) -> str | None:
    """Why a base cannot be compared: it, or the one it is compared with, is below `LOWEST_SSIM` before any tuning."""
    base = variants[row]["variant"]["base"] if row in variants else "base"
    for key in ("untuned", f"{base}-untuned"):
        ssim = variants[key]["metrics"]["ssim"] if key in variants else None
        if ssim is not None and ssim < LOWEST_SSIM:
            return f"the SSIM of {key} is {ssim:.4f}, under {LOWEST_SSIM:.2f}"
    return None


def difference(c: dict[str, Any]) -> str:
    digits = 3 if c["metric"] in ("texture", "sharpness", "flicker") else 2 if c["metric"] == "psnr" else 4
    return f"{title(c['metric'])} {c['difference']:+.{digits}f} ± {c['spread']:.{digits}f} ({c['verdict']})"


def trainings(output: Path) -> Iterator[str]:
    """How the bases that are compared were trained."""
    yield "### How the bases were trained"
    yield ""
    yield from head("base", "steps", "samples", "clips", "minutes", "SSIM / L1 of its validation strip", "command")
    for name in VARIANTS:
        file = output / "bases" / name / "base.json"
        if not file.exists():
            continue
        base = json.loads(file.read_text(encoding="utf-8"))
        about = base["provenance"]
        stage, seen = about["stages"]["network"], about.get("validation")
        scores = f"{seen['ssim']:.3f} / {seen['l1']:.4f}" if seen else "-"
        words = ["-o", f"bases/{name}", "--preset", "mini", "--vae", about["vae"]["from"], "--unet-image-input", "none"]
        height, width = base["resolution"]
        words += ["--size", f"{width}x{height}"] if [height, width] != PRESET_SIZE else []
        words += ["--max-steps", str(stage["steps"])]
        words += VARIANTS[name] if "--seed" in VARIANTS[name] else [*VARIANTS[name], "--seed", str(stage["seed"])]
        command = f"`dreampose train clips/ {' '.join(words)}`"
        yield line(
            name, stage["steps"], about["samples"], about["clips"], f"{about['seconds'] / 60:.1f}", scores, command
        )
    yield ""


def one_suite(name: str, document: dict[str, Any]) -> Iterator[str]:
    summary = document["summary"]
    base = document["bases"]["base"]
    yield f"### Suite {name}: base {base['name']} ({base['fingerprint']})"
    yield ""
    yield f"{document['statement']} Mean ± standard deviation over subjects."
    yield ""
    yield f"    {document['command']}"
    yield ""
    paper = document["published"]["ablation"]
    shown = [key for key in METRICS if any(row["metrics"].get(key) is not None for row in summary["variants"].values())]
    yield from head("", "subjects", *map(title, shown), "the paper's L1 / SSIM / VGG / LPIPS")
    for key, row in summary["variants"].items():
        cells = []
        for metric in shown:
            value, spread = row["metrics"][metric], row["spread"].get(metric)
            digits = 4 if metric in ("l1", "ssim", "figure_l1", "warp") else 1 if metric == "psnr" else 2
            cells.append(
                "-" if value is None else f"{value:.{digits}f}" + (f" ± {spread['std']:.{digits}f}" if spread else "")
            )
        theirs = " / ".join(f"{value:.3f}" for value in paper[key]) if key in paper else ""
        yield line(row["title"], row["clips"], *cells, theirs)
    yield ""


def backs(document: dict[str, Any]) -> Iterator[str]:
    """Frames that show a back next to those that show a front."""
    views, variants = document["summary"]["views"], document["summary"]["variants"]
    if not views:
        return
    counts = ", ".join(f"{found['frames']} frames of a {view}" for view, found in views.items())
    yield f"Backs and fronts ({counts}):"
    yield ""
    scored = next(iter(views.values()))["metrics"]["untuned"]
    shown = [key for key in ("figure_l1", "ssim", "texture", "sharpness") if key in scored]
    yield from head("", *(f"{title(key)}, {view}" for key in shown for view in views))
    for name, row in variants.items():
        values = [views[view]["metrics"][name][key] for key in shown for view in views]
        yield line(row["title"], *("-" if value is None else f"{value:.4f}" for value in values))
    yield ""


def swaying(document: dict[str, Any], dataset: Path) -> Iterator[str]:
    """Variants of the pose window on clothes that swing and on others: sway has to be told from the poses' movement."""
    if not dataset.exists():
        return
    clips = {
        clip["name"]: clip["outfit"]
        for clip in json.loads(dataset.read_text(encoding="utf-8"))["clips"]
        if clip["split"] == "test"
    }
    variants, rows = document["summary"]["variants"], []
    for key in ("one-pose", "one-pose-untuned", "repeated-pose"):
        if key not in variants:
            continue
        baseline = variants[key]["variant"]["baseline"]
        ours, theirs = variants[key]["subjects"], variants[baseline]["subjects"]
        for words, inside in (("dresses and skirts", True), ("trousers and shorts", False)):
            names = [n for n in ours if n in theirs and (clips.get(n) in SWAYING) == inside]
            cells = []
            for metric in SWAY_METRICS:
                pairs = [(ours[n].get(metric), theirs[n].get(metric)) for n in names]
                values = [a - b for a, b in pairs if a is not None and b is not None]
                spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):+.4f}{spread}" if values else "-")
            rows.append(line(f"{variants[key]['title']} - {variants[baseline]['title']}", words, len(names), *cells))
    if rows:
        yield "Clothes that sway and clothes that do not:"
        yield ""
        yield from head("", "subjects who wear", "how many", *map(title, SWAY_METRICS))
        yield from rows
        yield ""


def head(*cells: str) -> Iterator[str]:
    yield line(*cells)
    yield "|" + "---|" * len(cells)


def line(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def title(metric: str) -> str:
    return {"figure_l1": "figure L1"}.get(metric, metric.upper() if metric in ("l1", "ssim", "psnr") else metric)


if __name__ == "__main__":
    sys.exit(main())
