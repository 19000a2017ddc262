"""PoseMaster Fusion's claims put to the test on mannequins: train the bases that are compared, render, measure, write tables.

    python benchmarks/fusion_findings.py                      # everything; what is there already is kept
    python benchmarks/fusion_findings.py --write docs/results.md

Two claims. That an appearance module carries the garment: bases with it (`full`), without it (`without`), and with one global
token a layer in place of a token for each place, as IP-Adapter has it (`global`; the same modules and weights, so the same size).
That a pose control tuned with the appearance module frozen disentangles pose from appearance: `full` is tuned so, `apart` has a
control that was trained without the photo, as ControlNets are, and stands next to the same appearance module. `again` is `full`
with another seed: what two trainings differ by anyway.

All are trained by `dreampose train --preset fusion` on the same clips, with equal steps and samples, from scratch but the
autoencoder of `--base`, and each differs in one option (`VARIANTS`). Then each of them draws every one of `--subjects` held-out
mannequins in the poses of `--poses` dances, from one photo, with the base's own sampler; poses are the mannequin's own, so
that the truth of every picture is there. Measured is

- how much of the garment is there: mean difference and SSIM on the figure, and texture (`dreampose_cli.evaluation.figure`);
- same pose, several subjects: the share of the subjects' true variance of colour, at the same points of torso, arms and legs,
  that the pictures explain: 1 is the truth, 0 an average person, below 0 worse than that;
- same subject, several poses: the standard deviation of the colour of a point over the poses, next to the truth's own (light).

OUTPUT holds clips/, bases/NAME/ with a log each, pictures/NAME/SUBJECT/ and results.json. The same command resumes where it was
stopped, also within a training. `--write` puts the tables between the marks in a Markdown file, and the pictures of three
subjects into images/ next to it; it computes nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablations import TEST_SEED, Jobs, drawings, head, line

VARIANTS: dict[str, list[str]] = {  # options of `dreampose train`; the first is what the others are compared with
    "full": [],
    "again": ["--seed", "1"],
    "without": ["--reference", "none"],
    "global": ["--reference", "global"],
    "apart": ["--control-alone"],
}
TITLES = {
    "photo": "the photo, copied",
    "full": "appearance module, control tuned next to it",
    "again": "the same, another seed",
    "without": "no appearance module",
    "global": "global tokens alone",
    "apart": "appearance module, control trained without it",
}
SHARED = {"apart": "full"}  # whose first stage is the same to the bit: it is trained once
GARMENT = (1, 2, *range(7, 23))  # parts of the body: torso, legs, arms
METRICS: dict[str, tuple[str, bool | None, int]] = {  # title, whether higher is better (None: the truth's own is best), decimals
    "figure_l1": ("L1, figure", False, 4),
    "figure_ssim": ("SSIM, figure", True, 3),
    "texture": ("texture", True, 3),
    "explained": ("same pose: variance explained", True, 3),
    "drift": ("same subject: drift of colours", None, 4),
}
FRAMES = 13  # of a dance: the last is the pose, by then a skirt swings as it will
BEGIN, END = "<!-- fusion: begin -->", "<!-- fusion: end -->"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", "-o", type=Path, default=Path(".work/fusion"))
    add("--base", default="mini", help="whose autoencoder is taken")
    add("--clips", type=int, default=500, help="mannequins to train on")
    add("--steps", type=int, default=3750, help="training steps of each of the two stages, of 8 samples")
    add("--size", help="WIDTHxHEIGHT of the bases, in place of the preset's: half the sides take a quarter of the time")
    add("--batch-size", type=int, help="samples a step, in place of 8")
    add("--save-every", type=int, default=250, help="steps from one checkpoint to the next")
    add("--subjects", type=int, default=8, help="held-out mannequins")
    add("--poses", type=int, default=8, help="poses, each of another dance")
    add("--sampling-steps", type=int, help="denoising steps, in place of the base's")
    add("--only", choices=tuple(VARIANTS), action="append", help="these bases alone")
    add("--jobs", type=int, default=1, help="trainings at once, which share the cores")
    add("--device", default="auto")
    add("--dtype", default="auto", help="of the trainings; bfloat16 is the fastest on many CPUs")
    add("--write", type=Path, metavar="FILE", help="put the tables into this file, and do nothing else")
    chosen = parser.parse_args(argv)
    if chosen.write:
        write_tables(chosen.output, chosen.write)
        return 0
    names = [name for name in VARIANTS if name in (chosen.only or VARIANTS)]
    chosen.output.mkdir(parents=True, exist_ok=True)
    Jobs(chosen, 1).run([("clips", words) for words in drawings(chosen, ["train"])])
    shared = {SHARED[name] for name in names if name in SHARED}
    Jobs(chosen).run([(name, training(chosen, name, ["--stage", "appearance"])) for name in sorted(shared)])
    for name in names:
        if name in SHARED:
            take_over(chosen.output / "bases", SHARED[name], name)
    Jobs(chosen).run([(name, training(chosen, name)) for name in names])
    measure(chosen, names)
    print(f"tables: python benchmarks/fusion_findings.py -o {chosen.output} --write docs/results.md")
    return 0


def training(chosen: argparse.Namespace, name: str, stage: list[str] | None = None) -> list[Any]:
    """The command that trains a base; all of them differ in `VARIANTS` alone."""
    alike = ["--preset", "fusion", "--vae", chosen.base, "--max-steps", chosen.steps]
    alike += ["--batch-size", chosen.batch_size] if chosen.batch_size else []
    alike += ["--size", chosen.size] if chosen.size else []
    seed = [] if "--seed" in VARIANTS[name] else ["--seed", 0]
    run = ["--save-every", chosen.save_every, "--device", chosen.device, "--dtype", chosen.dtype, "--resume"]
    where = ["train", chosen.output / "clips", "-o", chosen.output / "bases" / name]
    return [*where, *alike, *VARIANTS[name], *seed, *run, *(stage or [])]


def take_over(bases: Path, source: str, name: str) -> None:
    """The finished stage `appearance` of one base as another's, whole or not at all."""
    there, target = (bases / each / "checkpoints" / "appearance" for each in (source, name))
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(".appearance.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(there, partial)
    os.replace(partial, target)


# ---- what is measured


def measure(chosen: argparse.Namespace, names: list[str]) -> None:
    """Render what is missing, and write results.json anew from all pictures."""
    import numpy as np

    from dreampose_cli import media
    from dreampose_cli.bases.config import read_config
    from dreampose_cli.bases.fingerprint import fingerprint
    from dreampose_cli.networks.model_cache import ModelCache

    bases = {name: chosen.output / "bases" / name for name in names}
    size = read_config(bases[names[0]]).resolution
    truth = [Subject.draw(i, chosen.poses, size) for i in range(chosen.subjects)]
    models = ModelCache(keep=True)
    answers: dict[str, list[Any]] = {"photo": [np.stack([s.photo] * chosen.poses) for s in truth]}
    about: dict[str, Any] = {}
    for name, base in bases.items():
        mark = fingerprint(base)
        folder = chosen.output / "pictures" / f"{name}-{mark}-{chosen.sampling_steps or 'own'}-{chosen.poses}"
        answers[name] = []
        for i, subject in enumerate(truth):
            if not (folder / f"{i:03d}").is_dir():
                subject.render(chosen, base, folder / f"{i:03d}", models)
                print(f"{name}: subject {i + 1} of {chosen.subjects}", file=sys.stderr)
            answers[name].append(np.stack(list(media.open_frames(folder / f"{i:03d}"))))
        about[name] = {"fingerprint": mark, "losses": losses(base), **read_config(base).provenance}
    scores = {name: score(truth, pictures) for name, pictures in answers.items()}
    scores["truth"] = score(truth, [s.pictures for s in truth])
    config = read_config(bases[names[0]])
    document = {
        "settings": {
            "subjects": chosen.subjects,
            "poses": chosen.poses,
            "size": list(size),
            "sampler": config.sampling.sampler,
            "steps": chosen.sampling_steps or config.sampling.steps,
            "guidance": dict(config.sampling.guidance),
            "clips": chosen.clips,
        },
        "bases": about,
        "scores": scores,
    }
    partial = chosen.output / "results.partial"
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, chosen.output / "results.json")
    picture(truth, answers, chosen.output / "fusion.jpg")


class Subject:
    """A held-out mannequin: photo uint8 (H, W, 3) and its pose (3, H, W); pictures (P, H, W, 3) and poses (P, 3, H, W) of the
    same mannequin in each of the dances."""

    def __init__(self, photo, photo_pose, pictures, poses) -> None:
        self.photo, self.photo_pose, self.pictures, self.poses = photo, photo_pose, pictures, poses

    @classmethod
    def draw(cls, index: int, count: int, size: tuple[int, int]) -> Subject:
        import numpy as np

        from dreampose_cli.mannequins.dance import draw_dance
        from dreampose_cli.mannequins.studio import perform
        from dreampose_cli.mannequins.subject import draw_subject
        from dreampose_cli.workflows.synth import FPS, plan_clip

        subject = draw_subject(plan_clip(TEST_SEED, "test", index).subject_seed)
        own = draw_dance(plan_clip(TEST_SEED, "test", index).dance_seed, FRAMES, FPS)
        photo = next(iter(perform(subject, own, size)))
        frames = []
        for other in range(count):  # dances of other clips than any subject's own
            dance = draw_dance(plan_clip(TEST_SEED, "test", 1000 + other).dance_seed, FRAMES, FPS)
            frames.append(list(perform(subject, dance, size))[-1])
        return cls(photo.picture, photo.pose, np.stack([f.picture for f in frames]), np.stack([f.pose for f in frames]))

    def render(self, chosen: argparse.Namespace, base: Path, target: Path, models) -> None:
        """The base's pictures of this subject in its poses, whole or not at all."""
        from dreampose_cli import media
        from dreampose_cli.cache import Cache
        from dreampose_cli.poses.files import PoseWriter
        from dreampose_cli.workflows.options import RenderOptions
        from dreampose_cli.workflows.render import render
        from dreampose_cli.workflows.synth import FPS

        work = chosen.output / f".rendering-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        media.write_frames(work / "photo.png", [self.photo], fps=FPS)
        with PoseWriter(work / "dance.poses", self.poses.shape[2:], FPS, source="a mannequin") as writer:
            for pose in self.poses:
                writer.append(pose)
        options = RenderOptions(
            [work / "dance.poses"],
            f"{work}/frames/",
            photo=work / "photo.png",
            base=str(base),
            steps=chosen.sampling_steps,
            fps=FPS,
            align="off",
            device=chosen.device,
        )
        render(options, cache=Cache(chosen.output / "cache"), model_cache=models)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(work / "frames", target)
        shutil.rmtree(work)


def score(truth: list[Subject], answers: list[Any]) -> dict[str, list[float | None]]:
    """Each metric of each subject's pictures (P, H, W, 3)."""
    import numpy as np

    from dreampose_cli.evaluation import figure, metrics

    found: dict[str, list[float | None]] = {key: [] for key in METRICS}
    for subject, pictures in zip(truth, answers, strict=True):
        parts = subject.poses[:, 0].round().astype(np.uint8)
        mask = figure.figure_mask(parts)
        found["figure_l1"].append(metrics.mean(metrics.figure_l1(pictures, subject.pictures, mask)))
        found["figure_ssim"].append(metrics.mean(figure.figure_ssim(pictures, subject.pictures, mask)))
        found["texture"].append(metrics.mean(figure.texture(pictures, subject.pictures, parts)))
        found["drift"].append(drift(subject, pictures))
    found["explained"] = explained(truth, answers)
    return found


def colours(pictures, poses, reference):
    """The colours at the points of the garment that `reference` (3, H, W) shows, in pictures (N, H, W, 3) with their poses:
    float (N, points, 3) in [0, 1], and which of them each picture shows (N, points)."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from dreampose_cli.evaluation.warping import correspondences

    after = torch.as_tensor(reference, dtype=torch.float32)
    garment = torch.isin(after[0].round().long(), torch.tensor(GARMENT))
    values, shown = [], []
    for shot, pose in zip(pictures, poses, strict=True):
        where, seen = correspondences(torch.as_tensor(pose, dtype=torch.float32), after)
        plane = torch.as_tensor(shot.copy()).permute(2, 0, 1)[None].float() / 255
        looked_up = F.grid_sample(plane, where[None], padding_mode="border", align_corners=False)[0]
        values.append(looked_up[:, garment].T.double().numpy())
        shown.append(seen[garment].numpy())
    return np.stack(values), np.stack(shown)


def explained(truth: list[Subject], answers: list[Any]) -> list[float | None]:
    """Of each subject, the share of how its colours differ from the mean over all subjects in the same pose that its pictures
    have: 1 - sum (picture - truth)^2 / sum (mean of the truths - truth)^2, over points that all subjects show, all poses."""
    import numpy as np

    count = len(truth)
    missed, whole = np.zeros(count), np.zeros(count)
    for pose in range(len(truth[0].poses)):
        poses, reference = [s.poses[pose] for s in truth], truth[0].poses[pose]
        true, shown = colours([s.pictures[pose] for s in truth], poses, reference)
        ours, _ = colours([pictures[pose] for pictures in answers], poses, reference)
        everywhere = shown.all(0)
        true, ours = true[:, everywhere], ours[:, everywhere]
        missed += ((ours - true) ** 2).sum((1, 2))
        whole += ((true.mean(0) - true) ** 2).sum((1, 2))
    return [float(1 - m / w) if w > 0 else None for m, w in zip(missed, whole, strict=True)]


def drift(subject: Subject, pictures) -> float | None:
    """The standard deviation over the poses of the colour of a point that the photo shows, root mean square over the points that
    at least half of the poses show, and over channels."""
    import numpy as np

    values, shown = colours(pictures, subject.poses, subject.photo_pose)
    often = shown.sum(0) >= max(2, len(pictures) / 2)
    if not often.any():
        return None
    weight = shown[:, often, None].astype(float)
    total = weight.sum(0)
    mean = (values[:, often] * weight).sum(0) / total
    variance = (weight * (values[:, often] - mean) ** 2).sum(0) / (total - 1)
    return float(np.sqrt(variance.mean()))


def losses(base: Path) -> dict[str, list[float]]:
    """Of each stage the mean loss of the last fifth of the steps, and of the fifth before: alike where the curve is flat."""
    found = {}
    for file in sorted((base / "checkpoints").glob("*/losses.csv")):
        with file.open(newline="", encoding="utf-8") as table:
            values = [float(row["loss"]) for row in csv.DictReader(table)]
        fifth = len(values) // 5
        if fifth:
            found[file.parent.name] = [statistics.fmean(values[-2 * fifth : -fifth]), statistics.fmean(values[-fifth:])]
    return found


def picture(truth: list[Subject], answers: dict[str, list[Any]], target: Path, shown: int = 3) -> None:
    """The best, the middle and the worst subject by `full`'s texture side by side: photo and truth on top, a row a base."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    ranks = score(truth, answers[next(name for name in answers if name != "photo")])["texture"]
    order = sorted(range(len(truth)), key=lambda i: ranks[i] or 0.0)
    chosen = sorted({order[-1], order[len(order) // 2], order[0]}, key=order.index, reverse=True)
    rows = [name for name in answers if name != "photo"]
    enlarge = max(1, 128 // truth[0].photo.shape[1])

    def row(title: str, cells: list[Any]):
        cells = [each.repeat(enlarge, 0).repeat(enlarge, 1) for each in cells]
        name = Image.new("RGB", (110, cells[0].shape[0]), "white")
        ImageDraw.Draw(name).text((6, cells[0].shape[0] // 2 - 8), title, fill=(40, 40, 40), font=ImageFont.load_default(14))
        return np.concatenate([np.asarray(name), *cells], axis=1)

    blank = np.full_like(truth[0].photo, 255)
    lines = [row("photo, truth", [each for i in chosen for each in (truth[i].photo, *truth[i].pictures[:shown])])]
    lines += [row(name, [each for i in chosen for each in (blank, *answers[name][i][:shown])]) for name in rows]
    Image.fromarray(np.concatenate(lines)).save(target, quality=88)


# ---- tables


def write_tables(output: Path, target: Path) -> None:
    """Put the tables between the marks in `target`, and the pictures next to it."""
    file = output / "results.json"
    if not file.exists():
        sys.exit(f"{output} holds no results yet; run python benchmarks/fusion_findings.py -o {output} first.")
    text = target.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)
    if not found or not after[1]:
        sys.exit(f"{target} has no place for tables: put {BEGIN} and {END} on lines of their own.")
    tables = "\n".join(page(json.loads(file.read_text(encoding="utf-8"))))
    (target.parent / "images").mkdir(exist_ok=True)
    shutil.copyfile(output / "fusion.jpg", target.parent / "images" / "fusion.jpg")
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after[2]}", encoding="utf-8")
    os.replace(partial, target)


def page(document: dict[str, Any]) -> Iterator[str]:
    """The Markdown between the marks, line by line."""
    settings, scores = document["settings"], document["scores"]
    rows = [name for name in TITLES if name in scores]
    height, width = settings["size"]
    guidance = ", ".join(f"{name} {value:g}" for name, value in settings["guidance"].items())
    yield (
        f"{settings['subjects']} held-out mannequins (dataset seed {TEST_SEED}), each in {settings['poses']} poses of dances that "
        f"are no subject's own, from one photo, at {width}x{height}; {settings['sampler']}, {settings['steps']} steps, guidance "
        f"{guidance}. Mean ± standard deviation over subjects."
    )
    yield ""
    yield from head("", *(title for title, *_ in METRICS.values()))
    for name in [*rows, "truth"]:
        yield line(TITLES.get(name, "the truth itself"), *(cell(scores[name][key], METRICS[key][2]) for key in METRICS))
    yield ""
    if "full" in scores:
        yield (
            "Differences from `full`, paired over subjects ± their standard deviation. One that is no larger than its spread, or "
            "than that of two seeds, is none (=)."
        )
        yield ""
        yield from head("", *(title for title, *_ in METRICS.values()))
        for name in rows:
            if name not in ("full", "photo"):
                yield line(TITLES[name], *(difference(scores, name, key) for key in METRICS))
        yield ""
    shown = ", ".join(document["bases"])
    yield f"![Three mannequins: the best, the middle and the worst by texture; photo and truth, then {shown}](images/fusion.jpg)"
    yield ""
    yield from head("base", "samples", "clips", "minutes", "loss of the last fifth, and of the one before", "options")
    for name, about in document["bases"].items():
        curve = "; ".join(f"{stage} {last:.4f}, {earlier:.4f}" for stage, (earlier, last) in about["losses"].items())
        options = f"`{' '.join(VARIANTS[name])}`" if VARIANTS[name] else ""
        yield line(name, about["samples"], about["clips"], f"{about['seconds'] / 60:.0f}", curve or "-", options)
    yield ""


def cell(values: list[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.{digits}f}{spread}"


def difference(scores: dict[str, Any], name: str, key: str) -> str:
    """A base's paired difference from `full`, and what it is called."""
    _, higher, digits = METRICS[key]
    mean, spread = paired(scores, name, key)
    if mean is None or spread is None:
        return "-"
    seeds = paired(scores, "again", key)[0] if "again" in scores and name != "again" else 0.0
    if abs(mean) <= max(spread, abs(seeds or 0.0)):
        verdict = "="
    elif higher is None:
        verdict = "higher" if mean > 0 else "lower"
    else:
        verdict = "better" if (mean > 0) == higher else "worse"
    return f"{mean:+.{digits}f} ± {spread:.{digits}f} {verdict}"


def paired(scores: dict[str, Any], name: str, key: str) -> tuple[float | None, float | None]:
    """Mean and standard deviation over subjects of (a base - `full`)."""
    pairs = zip(scores[name][key], scores["full"][key], strict=True)
    values = [a - b for a, b in pairs if a is not None and b is not None]
    return (statistics.fmean(values), statistics.stdev(values)) if len(values) > 1 else (None, None)


if __name__ == "__main__":
    sys.exit(main())
