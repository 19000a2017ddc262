"""Quality against time: samplers, steps and guidance, fewer network rows, and low-rank subjects, on held-out mannequins.

    python benchmarks/frontier.py --output frontier/ [--subjects 4] [--processes 2] [--only samplers]

Each of `--subjects` mannequins (clips "test" of the dataset of `--seed`, with which nothing is trained) is tuned on frame
0 by the base's preset, and dances for `--frames` frames from frame 12 on, from the studio's exact poses, with one seed of
noise. Scored is RGB in [0, 1] at the base's resolution: SSIM, L1 on the figure, texture (`dreampose_cli.evaluation.figure`),
sharpness (gradient energy over the truth's) and flicker (frame-difference energy over the truth's), means over subjects, with
the standard deviation over subjects and each setting's distance from PNDM 100 in SSIM, subject by subject. Seconds are CPU
seconds (of all threads) of denoising and decoding: others may compute on the same machine.

The default by the rule, which is judged on the means: of the settings that are within .003 of the best in SSIM and within .01 of
the best in texture, and as sharp as PNDM 100 at the base's own guidance but for 2 %, the one with the fewest network rows; of
several the one with the higher SSIM. A blurred picture is good in SSIM, and in neither of the other two.

Sections: samplers (steps x samplers), guidance (image and pose weights, intervals), rows (null and image rows reused from
step to step: an approximation from the second step on), ranks (low-rank subjects). OUTPUT gets a file for each subject (a
run that was stopped continues with the next), results.json, table.md, frontier-N.jpg (samplers by steps, of each subject)
and strip.jpg (the truth, PNDM 100, the default that is, and that by the rule).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dreampose_cli.cache import user_cache

SECTIONS = ("samplers", "guidance", "rows", "ranks")
STEPS = "1,2,3,4,6,10"
REFERENCE = "pndm 100"
METRICS = ("ssim", "figure_l1", "texture", "sharpness", "flicker")
SSIM_LOSS, TEXTURE_LOSS, SHARPNESS_KEPT = 0.003, 0.01, 0.98
FIRST = 12  # frames after the photo


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", default="mini", help="name or folder (default: mini)")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--subjects", type=int, default=4, help="mannequins (default: 4)")
    add("--frames", type=int, default=8, help="frames of each (default: 8)")
    add("--seed", type=int, default=4711, help="seed of the dataset; neither trained nor tested on (default: 4711)")
    add("--only", action="append", choices=SECTIONS, help="this section; can be repeated (default: all)")
    add("--guidance", help="of the reference and of samplers, as 1.5,1.5 (default: the base's own)")
    add("--steps", default=STEPS, help=f"of each sampler (default: {STEPS})")
    add("--ranks", default="8,16", help="of low-rank subjects (default: 8,16)")
    add("--threads", type=int, help="threads to compute with (default: all, or 1 with several processes)")
    add("--processes", type=int, default=1, help="processes that share the mannequins (default: 1)")
    add("--share", type=int, help=argparse.SUPPRESS)  # the number of one of these processes
    add("--device", default="cpu")
    chosen = parser.parse_args(argv)
    chosen.steps, chosen.ranks = ([int(n) for n in text.split(",")] for text in (chosen.steps, chosen.ranks))
    chosen.guidance = [float(s) for s in chosen.guidance.split(",")] if chosen.guidance else None
    return chosen


def settings_of(base, sections: list[str], counts: list[int], guidance: list[float] | None) -> dict[str, dict]:
    """Every setting that is rendered, by its name: what of `RenderSettings` differs from the base's."""
    from dreampose_cli.names import SAMPLERS

    own = base.config.sampling
    weights = {"guidance": dict(zip(("image", "pose"), guidance, strict=True)) if guidance else own.guidance}
    found = {REFERENCE: {"sampler": "pndm", "steps": 100, **weights}}
    if "samplers" in sections:
        for steps in counts:
            found |= {f"{name} {steps}": {"sampler": name, "steps": steps, **weights} for name in SAMPLERS}
    usual = {"sampler": own.sampler, "steps": own.steps}
    if "guidance" in sections:
        for s1, s2 in ((1.0, 1.0), (1.2, 1.2), (1.4, 1.4), (2.0, 2.0), (1.4, 1.0), (1.0, 1.4)):
            found[f"guidance {s1:g} / {s2:g}"] = {**usual, "guidance": {"image": s1, "pose": s2}}
        found["pndm 100, guidance 1 / 1"] = {**found[REFERENCE], "guidance": {"image": 1.0, "pose": 1.0}}
        few = [("ddim", steps, s) for steps in (2, 3) for s in (1.2, 1.4)]
        intervals = [(*each, *where) for each in few for where in ((0.0, 0.5), (0.5, 1.0))]
        for name, steps, s, low, high in intervals:
            found[f"{name} {steps}, guidance {s:g} / {s:g} at {low:g} to {high:g}"] = {
                "sampler": name, "steps": steps, "guidance": {"image": s, "pose": s},
                "guidance_interval": (low, high),
            }  # fmt: skip
    if "rows" in sections:
        guided = {"sampler": "ddim", "steps": 10, "guidance": {"image": 2.0, "pose": 1.5}}
        for every in (1, 2, 3, 10):
            found[f"rows computed every {every}"] = {**guided, "every": every}
    return found


def count_rows(base) -> None:
    """Let the base count the UNet rows that it computes, in `counted_rows`."""
    inner = base.unet.forward
    base.counted_rows = 0

    def forward(sample, *args, **kwargs):
        base.counted_rows += len(sample)
        return inner(sample, *args, **kwargs)

    base.unet.forward = forward


def rendered(base, photo, windows, setting: dict):
    """Frames uint8 (N, H, W, 3) by a setting, and the CPU seconds that they took."""
    import numpy as np

    from dreampose_cli.inference.batch_plan import BatchPlan
    from dreampose_cli.inference.denoise import RenderSettings, render_frames

    every = setting.get("every", 1)
    settings = RenderSettings.of(base, **{key: value for key, value in setting.items() if key != "every"})
    started = time.process_time()
    with Reused(base, every) if every > 1 else contextlib.nullcontext():
        frames = list(render_frames(base, photo, iter(windows), settings, BatchPlan(len(windows))))
    return np.stack(frames), time.process_time() - started


class Reused:
    """For a block: of three stacked rows (null, image, full) the first two are computed in every n-th step only."""

    def __init__(self, base, every: int):
        self.base, self.every = base, every

    def __enter__(self):
        import torch

        real, self.step, self.kept = self.base.predict, 0, None

        def predict(latents, t, condition, reference=None):
            share = len(latents) // 3
            full = slice(2 * share, None)
            if self.step % self.every == 0:
                found = real(latents, t, condition, reference)
                self.kept = found[: 2 * share]
            else:
                found = torch.cat([self.kept, real(latents[full], t, condition[full], reference)])
            self.step += 1
            return found

        self.base.predict = predict
        return self

    def __exit__(self, *_):
        del self.base.predict  # the method of the class is there again


def score(made, truth, parts) -> dict[str, float]:
    from dreampose_cli.evaluation import figure, metrics

    return {
        "ssim": metrics.mean(metrics.ssim(made, truth)),
        "figure_l1": metrics.mean(metrics.figure_l1(made, truth, figure.figure_mask(parts))),
        "texture": metrics.mean(figure.texture(made, truth, parts)),
        "sharpness": metrics.mean(metrics.sharpness(made, truth)),
        "flicker": metrics.flicker(made, truth),
    }


def examine(chosen: argparse.Namespace, folder: Path, index: int, sections: list[str]) -> tuple[dict, dict]:
    """One subject: for each setting scores, rows and seconds a frame; and a picture of each for the sheet."""
    import numpy as np
    import torch
    from poses_in_memory import PosesInMemory

    from dreampose_cli.device import pick_device
    from dreampose_cli.inference.clip import pose_windows
    from dreampose_cli.inference.denoise import prepare
    from dreampose_cli.mannequins.dance import draw_dance
    from dreampose_cli.mannequins.studio import perform
    from dreampose_cli.mannequins.subject import draw_subject
    from dreampose_cli.media.fitting import fit_pose
    from dreampose_cli.networks.storage import load_base
    from dreampose_cli.subjects.views import SubjectPhotos
    from dreampose_cli.training.tuning import fit_subject
    from dreampose_cli.workflows.options import TuneOptions
    from dreampose_cli.workflows.synth import FPS, plan_clip
    from dreampose_cli.workflows.tune import resolve_settings

    device = pick_device(chosen.device)
    base = load_base(folder, device=device)
    config = base.config
    clip = plan_clip(chosen.seed, "test", index)
    dance = draw_dance(clip.dance_seed, FIRST + chosen.frames, FPS)
    shown = list(perform(draw_subject(clip.subject_seed), dance, config.resolution))
    truth = np.stack([frame.picture for frame in shown[FIRST:]])
    parts = np.stack([frame.pose[0] for frame in shown[FIRST:]]).astype(np.uint8)
    pose = fit_pose(shown[0].pose, config.resolution, config.fit, config.poses.resize)
    views = SubjectPhotos(shown[0].picture[None], pose[None], [None])
    windows = list(pose_windows(base, PosesInMemory([frame.pose for frame in shown], FPS)))[FIRST:]
    results, pictures = {}, {"truth": truth[len(truth) // 2]}

    def tuned(rank: int):
        model = load_base(folder, device=device)
        preset = resolve_settings(config.tuning, TuneOptions([], lora_rank=rank))
        started = time.process_time()
        found = fit_subject(model, views, preset, 0, None, None)
        seconds = time.process_time() - started
        size = sum(2 * tensor.numel() for part in found.values() for tensor in part.values())
        with torch.no_grad():  # a full subject is kept as float16
            for module in (model.unet, model.adapter, model.vae.decoder) if not rank else ():
                for parameter in module.parameters():
                    parameter.copy_(parameter.half())
        return model, prepare(model, views.pictures[0], views.poses[0]), seconds, size

    def take(name: str, model, photo, setting: dict, **more) -> None:
        model.counted_rows = 0
        made, seconds = rendered(model, photo, windows, setting)
        pictures[name] = made[len(made) // 2]
        results[name] = {
            **score(made, truth, parts), "rows": model.counted_rows / len(windows), "seconds": seconds / len(windows), **more,
        }  # fmt: skip

    base, photo, tuning_seconds, size = tuned(0)
    count_rows(base)
    rendered(base, photo, windows[:2], {"steps": 1})  # warms up
    for name, setting in settings_of(base, sections, chosen.steps, chosen.guidance).items():
        take(name, base, photo, setting)
    if "ranks" in sections:
        take("full", base, photo, {}, tuning_seconds=tuning_seconds, bytes=size)
        for rank in chosen.ranks:
            model, photo, tuning_seconds, size = tuned(rank)
            count_rows(model)
            take(f"rank {rank}", model, photo, {}, tuning_seconds=tuning_seconds, bytes=size)
        model = load_base(folder, device=device)
        count_rows(model)
        take("untuned", model, prepare(model, views.pictures[0], views.poses[0]), {})
    return results, pictures


def summarise(subjects: list[dict]) -> dict[str, dict]:
    """Means over subjects, and what the rule says."""
    names = subjects[0]
    means = {
        name: {key: statistics.fmean(each[name][key] for each in subjects) for key in names[name]} for name in names
    }
    most = {key: max(row[key] for row in means.values()) for key in ("ssim", "texture")}
    sharp = means[REFERENCE]["sharpness"]
    for name, row in means.items():
        gaps = [each[name]["ssim"] - each[REFERENCE]["ssim"] for each in subjects]
        row["gap"], row["gap_from"], row["gap_to"] = statistics.fmean(gaps), min(gaps), max(gaps)
        row["deviation"] = {
            key: statistics.stdev(each[name][key] for each in subjects) if len(subjects) > 1 else 0.0 for key in METRICS
        }
        row["within"] = (
            row["ssim"] >= most["ssim"] - SSIM_LOSS
            and row["texture"] >= most["texture"] - TEXTURE_LOSS
            and row["sharpness"] >= SHARPNESS_KEPT * sharp
        )
    return means


def choose(means: dict[str, dict]) -> str | None:
    """The setting with the fewest rows among samplers, steps and guidance that are within the rule; None where none is."""
    from dreampose_cli.names import SAMPLERS

    allowed = [name for name, row in means.items() if row["within"] and name.startswith((*SAMPLERS, "guidance"))]
    return min(allowed, key=lambda name: (round(means[name]["rows"], 3), -means[name]["ssim"]), default=None)


def table(means: dict[str, dict], chosen_name: str | None) -> str:
    lines = [
        "| setting | rows | CPU seconds a frame | SSIM | less PNDM 100 (least to most) | L1, figure | texture | sharpness | "
        "flicker | within |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def cell(row: dict, key: str, digits: int) -> str:
        return f"{row[key]:.{digits}f} ± {row['deviation'][key]:.{digits}f}"

    for name, row in means.items():
        mark = "**default by the rule**" if name == chosen_name else "yes" if row["within"] else ""
        gap = f"{row['gap']:+.4f} ({row['gap_from']:+.4f} to {row['gap_to']:+.4f})"
        cells = [name, f"{row['rows']:.1f}", f"{row['seconds']:.3f}", cell(row, "ssim", 4), gap]
        cells += [cell(row, key, 4 if key == "figure_l1" else 3) for key in METRICS[1:]]
        lines.append("| " + " | ".join([*cells, mark]) + " |")
    ranks = {name: row for name, row in means.items() if "tuning_seconds" in row}
    if ranks:
        lines += ["", "| subject | SSIM, less full | CPU seconds of tuning | size |", "|---|---|---|---|"]
        for name, row in ranks.items():
            gain = row["ssim"] - ranks["full"]["ssim"]
            lines.append(f"| {name} | {gain:+.4f} | {row['tuning_seconds']:.1f} | {row['bytes'] / 1e6:.2f} MB |")
    return "\n".join(lines) + "\n"


def sheet(pictures: dict, counts: list[int], path: Path) -> None:
    """The middle frame by sampler (down) and steps (across), the truth and the reference first."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from dreampose_cli.names import SAMPLERS

    height, width = pictures["truth"].shape[:2]
    font, bar, steps = ImageFont.load_default(11), 16, counts
    rows = [["truth", REFERENCE]] + [[f"{name} {n}" for n in steps] for name in SAMPLERS]
    across = max(map(len, rows))
    canvas = Image.new("RGB", (across * (width + 4), len(rows) * (height + bar)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        for k, name in enumerate(row):
            left, top = k * (width + 4), i * (height + bar)
            canvas.paste(Image.fromarray(np.asarray(pictures[name])), (left, top + bar))
            draw.text((left + 2, top + 1), name, fill=(60, 60, 60), font=font)
    canvas.save(path, quality=88)


def strip(pictures: list[dict], names: list[str], path: Path) -> None:
    """A row for each subject: its middle frame by each of the settings."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    height, width = pictures[0]["truth"].shape[:2]
    font, bar = ImageFont.load_default(11), 16
    canvas = Image.new("RGB", (len(names) * (width + 4), bar + len(pictures) * (height + 4)), "white")
    draw = ImageDraw.Draw(canvas)
    for k, name in enumerate(names):
        draw.text((k * (width + 4) + 2, 1), name, fill=(60, 60, 60), font=font)
        for i, each in enumerate(pictures):
            canvas.paste(Image.fromarray(np.asarray(each[name])), (k * (width + 4), bar + i * (height + 4)))
    canvas.save(path, quality=90)


def examine_share(chosen: argparse.Namespace, folder: Path, sections: list[str], settings: dict) -> None:
    """The subjects that fall to this process, each into files of its own; what is there already is left."""
    import numpy as np

    for index in range(chosen.share or 0, chosen.subjects, chosen.processes):
        file = chosen.output / f"subject-{index}.json"
        if file.exists():
            continue
        found, pictures = examine(chosen, folder, index, sections)
        np.savez(file.with_suffix(".npz"), **pictures)
        if "samplers" in sections:
            sheet(pictures, chosen.steps, chosen.output / f"frontier-{index}.jpg")
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"settings": settings, "found": found}, indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
        print(f"mannequin {index}: PNDM 100 {found[REFERENCE]['ssim']:.4f}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import numpy as np
    import torch

    from dreampose_cli.bases.config import read_config
    from dreampose_cli.bases.fingerprint import fingerprint
    from dreampose_cli.bases.registry import resolve_base

    threads = chosen.threads or (1 if chosen.processes > 1 else None)
    if threads:
        torch.set_num_threads(threads)
    folder = resolve_base(user_cache(), chosen.base)
    sections = chosen.only or list(SECTIONS)
    out = chosen.output
    out.mkdir(parents=True, exist_ok=True)
    settings = {"base": fingerprint(folder), "seed": chosen.seed, "frames": chosen.frames, "sections": sorted(sections)}
    settings |= {"steps": chosen.steps, "ranks": chosen.ranks, "guidance": chosen.guidance}
    files = [out / f"subject-{index}.json" for index in range(chosen.subjects)]
    for file in files:
        if file.exists() and json.loads(file.read_text(encoding="utf-8"))["settings"] != settings:
            sys.exit(f"{file} was made with other settings; choose another --output.")
    if chosen.share is not None or chosen.processes == 1:
        examine_share(chosen, folder, sections, settings)
        if chosen.share is not None:
            return 0
    else:
        words = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
        running = [subprocess.Popen([*words, "--share", str(i)]) for i in range(chosen.processes)]
        codes = [process.wait() for process in running]
        if any(codes):
            sys.exit("a process failed; the same command continues with what is left.")
    subjects = [json.loads(file.read_text(encoding="utf-8"))["found"] for file in files]
    means = summarise(subjects)
    best = choose(means)
    text = table(means, best)
    results = {"settings": settings, "subjects": subjects, "means": means, "default by the rule": best}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(text, encoding="utf-8")
    own = read_config(folder).sampling
    pictures = [dict(np.load(file.with_suffix(".npz"))) for file in files]
    names = dict.fromkeys(["truth", REFERENCE, f"{own.sampler} {own.steps}", *([best] if best else [])])
    strip(pictures, [name for name in names if all(name in each for each in pictures)], out / "strip.jpg")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
