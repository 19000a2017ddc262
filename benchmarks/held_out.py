"""The held-out evaluation of a base on mannequins: what diffusion, sampling and tuning do, row by row.

    python benchmarks/held_out.py --base mini --output quality/

Rows: the photo copied; one sampling step (a regression to the mean: what the base gains by sampling is measured against
it); the base's own sampler; PNDM with 100 steps as in the paper; tuned; tuned with the decoder phase; the VAE's ceiling.

Protocol. `--subjects` mannequins are drawn by `--seed` (clips "test" of the dataset of that seed, with which nothing is
trained), each dancing for `--frames` frames. The photo is frame 0, written to a file and read as `dreampose tune` reads
it, its pose by the base's estimator. Rendered are the frames at least `--gap` after the photo, from the exact poses of
the clip, in windows taken from the whole clip. Scored is RGB in [0, 1] at the base's own resolution: the mean over a
subject's frames, then mean and standard deviation over subjects.

OUTPUT gets results.json (grows by one subject at a time; a run that was stopped continues), table.md, worst.png and
median.png (the five worst and five median subjects by tuned SSIM: photo | truth over prediction), and subjects/.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreampose_cli.cache import user_cache

VARIANTS = {
    "copied": "the photo, copied",
    "one": "untuned, one step",
    "untuned": "untuned, default",
    "paper": "untuned, PNDM 100",
    "network": "tuned, network only",
    "tuned": "tuned, with decoder",
    "ceiling": "VAE ceiling",
}
METRICS = ("ssim", "figure_ssim", "l1", "figure_l1", "texture", "sharpness", "flicker")
HIGHER = ("ssim", "figure_ssim", "texture")
MUST = {"ssim": 0.90, "figure_l1": 0.075, "sharpness": 0.9, "better": 0.90}
PROTOCOL = 2  # raise it when what is measured changes


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", default="mini", help="name or folder (default: mini)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of results")
    add("--subjects", type=int, default=24, help="mannequins (default: 24)")
    add("--first", type=int, default=0, help="number of the first mannequin: parts may run side by side (default: 0)")
    add("--join", type=Path, action="append", default=[], metavar="DIR", help="take over what another --output has")
    add("--frames", type=int, default=24, help="frames of a clip (default: 24)")
    add("--gap", type=int, default=12, help="smallest distance of a rendered frame from the photo (default: 12)")
    add("--seed", type=int, default=2026, help="seed of the evaluation's dataset; never train on it (default: 2026)")
    add("--steps", type=int, help="sampling steps; this and what follows: the base's own unless given")
    add("--image-guidance", type=float)
    add("--pose-guidance", type=float)
    add("--sampler", choices=("pndm", "ddim", "dpm++", "dpm++-sde", "unipc"))
    add(
        "--without", action="append", default=[], choices=("paper",), help="leave a row out; PNDM 100 takes the longest"
    )
    add("--noise-seed", type=int, default=0, help="as `render --seed` (default: 0)")
    add("--tune-steps", type=int)
    add("--tune-rate", type=float)
    add("--tune-batch", type=int)
    add("--decoder-steps", type=int)
    add("--decoder-rate", type=float)
    add("--crop", type=float, help="smallest share of a side that a crop keeps while tuning")
    add("--estimator", help="name or folder, for the photo's pose")
    add("--true-photo-pose", action="store_true", help="the studio's pose of the photo instead of the estimator's")
    add("--estimated-poses", action="store_true", help="driving poses by the estimator too, not the studio's")
    add("--threads", type=int, help="threads to compute with")
    add("--device", default="auto")
    add("--batch-size", type=int, default=8, help="frames rendered together (default: 8)")
    add("--again", action="store_true", help="throw away results made with other settings")
    chosen = parser.parse_args(argv)
    if chosen.frames <= chosen.gap or chosen.gap < 1 or chosen.subjects < 1:
        parser.error("there must be subjects, and frames beyond the gap")
    return chosen


@dataclass
class Evaluated:
    """One subject's question and answers: frames are uint8 (N, H, W, 3)."""

    photo: object  # uint8 (H, W, 3)
    truth: object
    parts: object  # uint8 (N, H, W): the studio's labels of the body's parts
    rows: list[int]  # of the clip
    answers: dict[str, object]
    seconds: dict[str, float]
    about: dict


def evaluate(chosen: argparse.Namespace, base: Path, preset, sampling: dict, index: int, work: Path) -> Evaluated:
    """Draw subject `index`, tune it once, and render it before, between and after the phases."""
    import numpy as np
    from poses_in_memory import PosesInMemory

    from dreampose_cli import media
    from dreampose_cli.device import pick_device
    from dreampose_cli.inference.clip import pose_windows
    from dreampose_cli.inference.denoise import RenderSettings, prepare
    from dreampose_cli.networks.network import pictures_to_tensor
    from dreampose_cli.networks.storage import load_base
    from dreampose_cli.poses.estimator import load_estimator
    from dreampose_cli.poses.files import PoseWriter
    from dreampose_cli.subjects.views import read_views
    from dreampose_cli.training.tuning import fit_subject

    model = load_base(base, device=pick_device(chosen.device))
    estimator = chosen.estimator or model.config.estimator
    frames, about, fps = draw(chosen, index, model.config.resolution)
    rows = [i for i in range(chosen.frames) if i >= chosen.gap]

    # The photo, as `tune` gets it: a file, and its pose by the estimator or from a pose file.
    path, given = work / "photo.png", None
    path.unlink(missing_ok=True)
    media.write_frames(path, [frames[0].picture], fps=fps)
    if chosen.true_photo_pose:
        given = work / "photo.poses"
        with PoseWriter(given, frames[0].pose.shape[1:], fps) as writer:
            writer.append(frames[0].pose)
    views = read_views(user_cache(), model.config, [path], [media.read_photo(path)], given and [given], estimator, chosen.device)
    poses = [frame.pose for frame in frames]
    if chosen.estimated_poses:
        poses = load_estimator(user_cache(), estimator, pick_device(chosen.device)).estimate([frame.picture for frame in frames])
    windows = [w for i, w in enumerate(pose_windows(model, PosesInMemory(poses, fps))) if i in rows]
    truth = np.stack([frames[i].picture for i in rows])
    settings = RenderSettings.of(model, **sampling)
    plain = dict.fromkeys(settings.guidance, 1.0)
    seed = chosen.noise_seed
    how = {
        "one": RenderSettings.of(model, guidance=plain, sampler="ddim", steps=1, seed=seed),
        "paper": RenderSettings.of(model, guidance=plain, sampler="pndm", steps=100, seed=seed),
    }

    def denoised(settings=settings) -> list:
        return latents_of(model, prepare(model, views.pictures[0], views.poses[0]), windows, settings, chosen)

    def decoded(latents: list):
        return np.concatenate([to_frames(model.decode(part)) for part in latents])

    answers = {"copied": np.broadcast_to(views.pictures[0], truth.shape)}
    with inference():
        answers["ceiling"] = np.concatenate(
            [
                to_frames(
                    model.decode(model.encode(pictures_to_tensor(part, model.config.target_range).to(model.device)))
                )
                for part in np.array_split(truth, -(-len(truth) // chosen.batch_size))
            ]
        )
        answers["untuned"] = decoded(denoised())
        answers |= {name: decoded(denoised(way)) for name, way in how.items() if name not in chosen.without}
    seconds = {}
    with timed(seconds, "network"):
        fit_subject(model, views, dataclasses.replace(preset, decoder_steps=0), 0, None, None)
    as_saved(model.unet, model.adapter)
    with inference(), timed(seconds, "denoise"):
        latents = denoised()
    with inference():
        answers["network"] = decoded(latents)
    with timed(seconds, "decoder"):
        fit_subject(model, views, dataclasses.replace(preset, steps=0), 0, None, None)
    as_saved(model.vae.decoder)
    with inference(), timed(seconds, "decode"):
        answers["tuned"] = decoded(latents)  # the decoder phase leaves the latents as they are
    seconds["tune"] = seconds["network"] + seconds["decoder"]
    seconds["frame"] = (seconds.pop("denoise") + seconds.pop("decode")) / len(rows)
    parts = np.stack([frames[i].pose[0] for i in rows]).astype(np.uint8)
    return Evaluated(views.pictures[0], truth, parts, rows, answers, seconds, about)


def draw(chosen: argparse.Namespace, index: int, size: tuple[int, int]) -> tuple[list, dict, float]:
    """The frames of subject `index` by the studio, what they show in words and numbers, and their rate."""
    from dreampose_cli.mannequins.dance import draw_dance, facing
    from dreampose_cli.mannequins.studio import perform
    from dreampose_cli.mannequins.subject import draw_subject
    from dreampose_cli.workflows.synth import FPS, plan_clip

    clip = plan_clip(chosen.seed, "test", index)
    subject = draw_subject(clip.subject_seed)
    dance = draw_dance(clip.dance_seed, chosen.frames, FPS)
    yaw = dance.yaw[chosen.gap :]
    about = {
        "subject_seed": clip.subject_seed,
        "dance_seed": clip.dance_seed,
        "outfit": subject.outfit.kind,
        "patterns": [subject.outfit.top.pattern, subject.outfit.bottom.pattern],
        "patterned": bool(subject.patterned),
        "rotation": [round(abs(float(angle)), 1) for angle in facing(yaw - dance.yaw[0])],  # from the photo, degrees
        "facing": [round(float(angle), 1) for angle in facing(yaw)],  # 0 is the camera
    }
    return list(perform(subject, dance, size)), about, FPS


def latents_of(model, photo, windows: list, settings, chosen: argparse.Namespace) -> list:
    """The denoised latents of all windows, in batches."""
    import torch

    from dreampose_cli.inference.denoise import render_latents

    size = chosen.batch_size
    return [
        render_latents(model, photo, torch.stack(windows[i : i + size]), settings, chosen.gap + i)
        for i in range(0, len(windows), size)
    ]


def to_frames(pictures):
    """Pictures (B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3), as `render` writes them."""
    import torch

    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def as_saved(*modules) -> None:
    """Round the weights to float16 and back: a subject is kept so."""
    import torch

    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.copy_(parameter.half())


def inference():
    import torch

    return torch.inference_mode()


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def score(found: Evaluated) -> dict[str, dict[str, float | None]]:
    """The metrics of every variant: means over the subject's frames; flicker is of the clip."""
    from dreampose_cli.evaluation import figure, metrics

    mask, table = figure.figure_mask(found.parts), {}
    for name, answer in found.answers.items():
        pair = answer, found.truth
        row = {
            "ssim": metrics.mean(metrics.ssim(*pair)),
            "figure_ssim": metrics.mean(figure.figure_ssim(*pair, mask)),
            "l1": metrics.mean(metrics.l1(*pair)),
            "figure_l1": metrics.mean(metrics.figure_l1(*pair, mask)),
            "texture": metrics.mean(figure.texture(*pair, found.parts)),
            "sharpness": metrics.mean(metrics.sharpness(*pair)),
            "flicker": metrics.flicker(*pair),
        }
        table[name] = {key: value if value is None else round(value, 6) for key, value in row.items()}
    return table


def summarize(subjects: list[dict]) -> dict:
    """Mean and spread over subjects, who wins, what the decoder phase does, and how hard the evaluation was."""
    rows = [name for name in VARIANTS if name in subjects[0]["scores"]]
    variants = {
        name: {metric: spread([s["scores"][name][metric] for s in subjects]) for metric in METRICS} for name in rows
    }

    def average(name: str, metric: str) -> float:
        return variants[name][metric]["mean"]

    def better(metric: str, name: str, other: str) -> float:
        """The share of subjects for which one variant beats another."""
        pairs = [(s["scores"][name][metric], s["scores"][other][metric]) for s in subjects]
        return sum((a > b) == (metric in HIGHER) and a != b for a, b in pairs) / len(pairs)

    wins = {metric: better(metric, "tuned", "untuned") for metric in ("ssim", "figure_l1", "texture")}
    sampling = {metric: average("untuned", metric) - average("one", metric) for metric in METRICS[:-1]}
    decoder = {metric: average("tuned", metric) - average("network", metric) for metric in METRICS[:-1]}
    turned = [abs(angle) > 60 for s in subjects for angle in s["about"]["facing"]]
    share = average("untuned", "sharpness") / average("ceiling", "sharpness")
    checks = {
        f"untuned SSIM >= {MUST['ssim']}": average("untuned", "ssim") >= MUST["ssim"],
        f"untuned L1 on the figure <= {MUST['figure_l1']}": average("untuned", "figure_l1") <= MUST["figure_l1"],
        f"untuned sharpness >= {MUST['sharpness']} of the VAE's own ({share:.2f})": share >= MUST["sharpness"],
        "the default is better than one step in texture and sharpness": min(sampling["texture"], sampling["sharpness"])
        > 0,
        f"tuned better than untuned in L1 on the figure and texture for >= {MUST['better']:.0%} of the subjects": min(
            wins["figure_l1"], wins["texture"]
        )
        >= MUST["better"],
        "VAE ceiling: SSIM >= .98 and sharpness >= .85": average("ceiling", "ssim") >= 0.98
        and average("ceiling", "sharpness") >= 0.85,
        "at least 24 subjects": len(subjects) >= 24,
        "copied photo SSIM <= 0.75": average("copied", "ssim") <= 0.75,
    }
    return {
        "subjects": len(subjects),
        "variants": variants,
        "tuned_better_than_untuned": wins,
        "default_less_one_step": sampling,
        "decoder_phase": decoder,
        "seconds": {key: spread([s["seconds"][key] for s in subjects]) for key in subjects[0]["seconds"]},
        "difficulty": {
            "patterned": sum(bool(s["about"]["patterned"]) for s in subjects) / len(subjects),
            "side_or_back": sum(turned) / len(turned),
            "median_rotation": statistics.median(angle for s in subjects for angle in s["about"]["rotation"]),
        },
        "checks": checks,
    }


def spread(values: list[float | None]) -> dict[str, float | None]:
    """Mean, standard deviation over subjects, smallest and largest."""
    values = [value for value in values if value is not None]
    if not values:
        return {"mean": None, "std": None, "min": None, "max": None}
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "min": min(values), "max": max(values)}


def table(results: dict) -> str:
    """The results as Markdown."""
    summary, settings = results["summary"], results["settings"]
    height, width = settings["resolution"]
    titles = ("SSIM", "SSIM, figure", "L1", "L1, figure", "texture", "sharpness", "flicker")
    digits = (3, 3, 4, 4, 2, 2, 2)
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, variant in summary["variants"].items():
        cells = [
            "-" if variant[m]["mean"] is None else f"{variant[m]['mean']:.{d}f} ± {variant[m]['std']:.{d}f}"
            for m, d in zip(METRICS, digits, strict=True)
        ]
        lines.append(f"| {VARIANTS[name]} | " + " | ".join(cells) + " |")
    wins, sampling, decoder = (
        summary[k] for k in ("tuned_better_than_untuned", "default_less_one_step", "decoder_phase")
    )
    seconds, hard, effective = summary["seconds"], summary["difficulty"], settings["sampling"]
    photo_pose = "exact" if settings["true_photo_pose"] else "estimated"
    driving = "estimated" if settings["estimated_poses"] else "exact"
    guidance = ", ".join(f"{name} {weight:g}" for name, weight in effective["guidance"].items())
    lines += [
        "",
        f"Mean ± standard deviation over {summary['subjects']} held-out mannequins (seed {settings['seed']}), "
        f"{settings['frames'] - settings['gap']} frames each, {settings['gap']} or more after the photo; "
        f"RGB in [0, 1] at {width}x{height}; base {settings['base']} ({settings['fingerprint']}); default {effective['sampler']}, "
        f"{effective['steps']} steps, guidance {guidance}; photo pose {photo_pose}, driving poses {driving}.",
        "",
        "- tuned better than untuned: "
        + ", ".join(f"{share:.0%} of the subjects in {name.replace('_', ' ')}" for name, share in wins.items()),
        "- the default less one step: " + ", ".join(f"{k.replace('_', ' ')} {v:+.4f}" for k, v in sampling.items()),
        "- decoder phase: " + ", ".join(f"{k.replace('_', ' ')} {v:+.4f}" for k, v in decoder.items()),
        f"- seconds: tuning {seconds['tune']['mean']:.1f} (network {seconds['network']['mean']:.1f}, "
        f"decoder {seconds['decoder']['mean']:.1f}), rendering {seconds['frame']['mean']:.3f} a frame",
        f"- {hard['patterned']:.0%} of the mannequins are patterned, {hard['side_or_back']:.0%} of the frames turned by more "
        f"than 60 degrees, median rotation from the photo {hard['median_rotation']:.0f} degrees",
        "",
        *(f"- {'reached' if reached else 'MISSED'}: {check}" for check, reached in summary["checks"].items()),
    ]
    return "\n".join(lines) + "\n"


def strip(found: Evaluated, count: int = 6):
    """photo | truth over tuned prediction, for `count` frames: uint8 (2 H, (count + 1) W, 3)."""
    import numpy as np

    chosen = [round(k * (len(found.rows) - 1) / max(1, count - 1)) for k in range(min(count, len(found.rows)))]
    columns = [np.concatenate([found.photo, np.full_like(found.photo, 255)])]
    columns += [np.concatenate([found.truth[k], found.answers["tuned"][k]]) for k in chosen]
    return np.concatenate(columns, axis=1)


def write_sheet(path: Path, strips: list[Path], enlarge: int = 2) -> None:
    """Strips below one another, enlarged."""
    from PIL import Image

    pictures = []
    for file in strips:
        with Image.open(file) as picture:
            pictures.append(picture.convert("RGB"))
    gap = 4
    width = max(p.width for p in pictures)
    sheet = Image.new("RGB", (width, sum(p.height + gap for p in pictures) - gap), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    sheet.resize((sheet.width * enlarge, sheet.height * enlarge), Image.Resampling.BICUBIC).save(path)


def write_json(path: Path, document: dict) -> None:
    """Whole or not at all, so that a run that is killed can continue."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def open_results(path: Path, settings: dict, again: bool) -> dict:
    """The results so far, of the same settings."""
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["settings"] == settings:
            return results
        differing = [k for k in settings if results["settings"].get(k) != settings[k]]
        if not again:
            sys.exit(
                f"{path} was made with other settings ({', '.join(differing)}); choose another --output, or --again."
            )
    return {"settings": settings, "subjects": {}, "summary": None}


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory(prefix="dreampose-quality-") as home:
        work = Path(home)
        from dreampose_cli.bases.registry import resolve_base

        base = resolve_base(user_cache(), chosen.base)  # in the user's own cache, before a cache of our own is taken
        os.environ["DREAMPOSE_CACHE"] = str(work / "cache")
        return take(chosen, base, work)


def take(chosen: argparse.Namespace, base: Path, work: Path) -> int:
    import torch
    from PIL import Image

    from dreampose_cli.bases.config import read_config
    from dreampose_cli.bases.fingerprint import fingerprint
    from dreampose_cli.workflows.options import TuneOptions
    from dreampose_cli.workflows.tune import resolve_settings

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    config = read_config(base)
    preset = resolve_settings(
        config.tuning,
        TuneOptions(
            [],
            steps=chosen.tune_steps,
            decoder_steps=chosen.decoder_steps,
            learning_rate=chosen.tune_rate,
            decoder_learning_rate=chosen.decoder_rate,
            batch_size=chosen.tune_batch,
        ),
    )
    if chosen.crop is not None:
        preset = dataclasses.replace(preset, crop=chosen.crop)
    guidance = {"image": chosen.image_guidance, "pose": chosen.pose_guidance}
    sampling = {"sampler": chosen.sampler, "steps": chosen.steps, "seed": chosen.noise_seed, "guidance": guidance}
    effective = {
        "sampler": chosen.sampler or config.sampling.sampler,
        "steps": chosen.steps or config.sampling.steps,
        "seed": chosen.noise_seed,
        "guidance": config.sampling.guidance | {k: v for k, v in guidance.items() if v is not None},
        "without": chosen.without,
    }
    settings = {
        "protocol": PROTOCOL,
        "base": config.name,
        "fingerprint": fingerprint(base),
        "resolution": list(config.resolution),
        "sampling": effective,
        "tuning": dataclasses.asdict(preset),
        "estimator": chosen.estimator or config.estimator,
        **{key: getattr(chosen, key) for key in ("frames", "gap", "seed", "true_photo_pose", "estimated_poses")},
    }
    out = chosen.output
    (out / "subjects").mkdir(parents=True, exist_ok=True)
    results = open_results(out / "results.json", settings, chosen.again)
    results["machine"] = {"threads": torch.get_num_threads(), "device": chosen.device, "torch": torch.__version__}
    done = results["subjects"]
    for other in chosen.join:
        done |= open_results(other / "results.json", settings, False)["subjects"]
        for file in (other / "subjects").glob("*.png"):
            shutil.copy(file, out / "subjects")
    for index in range(chosen.first, chosen.first + chosen.subjects):
        file = out / "subjects" / f"{index:03d}.png"
        if str(index) in done and file.exists():
            continue
        found = evaluate(chosen, base, preset, sampling, index, work)
        Image.fromarray(strip(found)).save(file)
        seconds = {key: round(value, 3) for key, value in found.seconds.items()}
        done[str(index)] = {"about": found.about, "scores": score(found), "seconds": seconds}
        write_json(out / "results.json", results)
        say(index, chosen.subjects, done[str(index)])
    finish(results, out, range(chosen.first, chosen.first + chosen.subjects))
    return 0


def say(index: int, total: int, record: dict) -> None:
    """One line on stderr."""
    ssim = "  ".join(f"{name} {record['scores'][name]['ssim']:.3f}" for name in record["scores"])
    seconds = record["seconds"]
    print(
        f"{index + 1}/{total}  SSIM: {ssim}  tune {seconds['tune']:.0f} s, {seconds['frame']:.2f} s a frame",
        file=sys.stderr,
    )


def finish(results: dict, out: Path, chosen: range) -> None:
    """The summary over the chosen subjects, its table, and the pictures of the worst and the median ones."""
    subjects = [results["subjects"][str(i)] for i in chosen]
    order = sorted(chosen, key=lambda i: results["subjects"][str(i)]["scores"]["tuned"]["ssim"])
    middle = max(0, (len(chosen) - 5) // 2)
    results["summary"] = {**summarize(subjects), "worst": order[:5], "median": order[middle : middle + 5]}
    write_json(out / "results.json", results)
    for name in ("worst", "median"):
        write_sheet(out / f"{name}.png", [out / "subjects" / f"{i:03d}.png" for i in results["summary"][name]])
    text = table(results)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
