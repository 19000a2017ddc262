"""What several photos bring (figure 12 of the paper): the front alone, and front, side and back.

    python benchmarks/several_photos.py --base mini --output several/

`--subjects` mannequins are drawn by `--seed`, with which nothing is trained. Their photos come from one dance: the frames in
which they stand nearest to the camera's front, side and back. Rendered are twelve frames of another dance, those nearest to
every 30 degrees, from exact poses; the photos' poses are estimated, as `tune` does it. A row is untuned or tuned by the base's own
settings, on one photo or three. Scored on the figure (`dreampose_cli.evaluation.figure`), and the frames that show front, side and
back apart: within 45 degrees of the camera, of its sides, and of its back.

OUTPUT gets results.json (a subject at a time; a run that was stopped continues), table.md and several.jpg: for the subject that
gains most, the middle one and the one that gains least the three photos, then a row of truth, one photo, three photos.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

from held_out import as_saved, inference, latents_of, open_results, to_frames, write_json
from poses_in_memory import PosesInMemory

from dreampose_cli.cache import user_cache

ROWS = {
    "one": "front, untuned",
    "three": "front, side and back, untuned",
    "one tuned": "front, tuned",
    "three tuned": "front, side and back, tuned",
}
METRICS = {"figure_l1": (4, False), "figure_ssim": (3, True), "texture": (2, True)}
PLACES = {"all": "all frames", "front": "front", "side": "side", "back": "back"}
ANGLES = (0, 90, 180)  # of the photos
SEEN = range(0, 360, 30)  # of the frames


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", default="mini", help="name or folder (default: mini)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of results")
    add("--subjects", type=int, default=24)
    add("--seed", type=int, default=2026, help="of a dataset that nothing was trained on")
    add("--untuned", action="store_true", help="leave the tuned rows out")
    chosen = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from dreampose_cli.bases.fingerprint import fingerprint
    from dreampose_cli.bases.registry import resolve_base

    base = resolve_base(user_cache(), chosen.base)
    settings = {"fingerprint": fingerprint(base), "seed": chosen.seed, "untuned": chosen.untuned}
    out = chosen.output
    (out / "subjects").mkdir(parents=True, exist_ok=True)
    results = open_results(out / "results.json", settings, False)
    for index in range(chosen.subjects):
        if str(index) not in results["subjects"]:
            results["subjects"][str(index)] = evaluate(chosen, base, index, out / "subjects" / f"{index:03d}.png")
            write_json(out / "results.json", results)
            print(f"{index + 1} of {chosen.subjects}", file=sys.stderr)
    finish(results["subjects"], out)
    return 0


def evaluate(chosen: argparse.Namespace, base: Path, index: int, file: Path) -> dict:
    """Scores of subject `index` by row, place and metric; its pictures in `file`."""
    import numpy as np
    from PIL import Image

    from dreampose_cli.inference.clip import pose_windows
    from dreampose_cli.inference.denoise import RenderSettings, prepare
    from dreampose_cli.mannequins.dance import draw_dance, facing
    from dreampose_cli.mannequins.studio import perform
    from dreampose_cli.mannequins.subject import draw_subject
    from dreampose_cli.networks.storage import load_base
    from dreampose_cli.poses.estimator import load_estimator
    from dreampose_cli.subjects.views import SubjectPhotos
    from dreampose_cli.training.tuning import fit_subject
    from dreampose_cli.workflows.synth import FPS, plan_clip

    network = load_base(base)
    subject = draw_subject(plan_clip(chosen.seed, "test", index).subject_seed)

    def dance_of(first: int, wanted, within: float) -> tuple[list, list[float], list[int]]:
        """The first dance from clip `first` on that turns to all the wanted angles: its frames, and which of them are nearest."""
        for clip in range(first, first + 10000, 100):
            dance = draw_dance(plan_clip(chosen.seed, "test", clip).dance_seed, 96, FPS)
            turned = facing(dance.yaw) % 360
            away = np.abs((turned[:, None] - np.array(wanted) + 180) % 360 - 180)
            if away.min(0).max() <= within:
                rows = away.argmin(0).tolist()
                return list(perform(subject, dance, network.config.resolution)), turned[rows].tolist(), rows
        raise ValueError(f"no dance turns to {wanted}")

    shots, _, taken = dance_of(100_000 + index, ANGLES, 15)
    frames, angles, rows = dance_of(index, SEEN, 15)
    pictures = np.stack([shots[row].picture for row in taken])
    poses = np.stack(load_estimator(user_cache(), network.config.estimator).estimate(list(pictures)))
    every = pose_windows(network, PosesInMemory([frame.pose for frame in frames], FPS))
    every = list(every)
    windows = [every[row] for row in rows]
    truth = np.stack([frames[row].picture for row in rows])
    parts = np.stack([frames[row].pose[0] for row in rows]).astype(np.uint8)
    how = SimpleNamespace(batch_size=6, gap=0)

    def rendered(count: int):
        photo = prepare(network, pictures[0], poses[0], *zip(pictures[1:count], poses[1:count], strict=True))
        with inference():
            latents = latents_of(network, photo, windows, RenderSettings.of(network), how)
            return np.concatenate([to_frames(network.decode(part)) for part in latents])

    answers = {"one": rendered(1), "three": rendered(3)}
    for name, count in () if chosen.untuned else (("one tuned", 1), ("three tuned", 3)):
        network = load_base(base)
        fit_subject(network, SubjectPhotos(pictures[:count], poses[:count], [None] * count), network.config.tuning, 0, None, None)
        as_saved(network.unet, network.adapter, network.vae.decoder)
        answers[name] = rendered(count)
    best = "three" if chosen.untuned else "three tuned"
    lines = [np.concatenate([*pictures, *([np.full_like(truth[0], 255)] * 3)], axis=1)]
    for line in (truth, answers[best.replace("three", "one")], answers[best]):
        lines.append(np.concatenate(list(line[::2]), axis=1))
    Image.fromarray(np.concatenate(lines)).save(file)
    return {name: score(answer, truth, parts, angles) for name, answer in answers.items()}


def score(answer, truth, parts, angles: list[float]) -> dict[str, dict[str, float]]:
    """Means over the frames of each place."""
    from dreampose_cli.evaluation import figure, metrics

    mask = figure.figure_mask(parts)
    values = {
        "figure_l1": metrics.figure_l1(answer, truth, mask),
        "figure_ssim": figure.figure_ssim(answer, truth, mask),
        "texture": figure.texture(answer, truth, parts),
    }
    of_place = {place: [i for i, angle in enumerate(angles) if place in ("all", place_of(angle))] for place in PLACES}
    found = {}
    for place, rows in of_place.items():
        known = {name: [value[i] for i in rows if value[i] is not None] for name, value in values.items()}
        found[place] = {name: statistics.fmean(map(float, value)) for name, value in known.items() if value}
    return found


def place_of(angle: float) -> str:
    away = abs((angle + 180) % 360 - 180)
    return "front" if away <= 45 else "back" if away >= 135 else "side"


def finish(subjects: dict[str, dict], out: Path) -> None:
    """table.md and several.jpg."""
    import numpy as np
    from PIL import Image

    rows = [name for name in ROWS if name in subjects["0"]]
    lines = [
        "| | " + " | ".join(f"{metric.replace('_', ' ')}, {PLACES[place]}" for metric in METRICS for place in PLACES) + " |",
        "|---" * (1 + len(METRICS) * len(PLACES)) + "|",
    ]
    for name in rows:
        cells = []
        for metric, (digits, _) in METRICS.items():
            for place in PLACES:
                values = [s[name][place][metric] for s in subjects.values() if metric in s[name].get(place, {})]
                cells.append(f"{statistics.fmean(values):.{digits}f}" if values else "-")
        lines.append(f"| {ROWS[name]} | " + " | ".join(cells) + " |")
    lines += [""]
    for other, name in (("one", "three"), ("one tuned", "three tuned"), ("one", "one tuned"), ("three", "three tuned")):
        if other in rows and name in rows:
            lines.append(f"- {ROWS[name]}, less {ROWS[other]}: " + "; ".join(differences(subjects, name, other)))
    text = "\n".join(lines) + "\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")
    gain = {i: s[rows[0]]["all"]["figure_l1"] - s[rows[-1]]["all"]["figure_l1"] for i, s in subjects.items()}
    order = sorted(gain, key=gain.__getitem__)
    sheet = [np.asarray(Image.open(out / "subjects" / f"{int(i):03d}.png")) for i in (order[-1], order[len(order) // 2], order[0])]
    Image.fromarray(np.concatenate(sheet)).save(out / "several.jpg", quality=88)


def differences(subjects: dict[str, dict], name: str, other: str) -> list[str]:
    """Paired differences over subjects, ± their standard deviation, and how many are better."""
    found = []
    for metric, (digits, higher) in METRICS.items():
        pairs = [(s[name]["all"].get(metric), s[other]["all"].get(metric)) for s in subjects.values()]
        values = [a - b for a, b in pairs if a is not None and b is not None]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        better = sum((value > 0) == higher and value != 0 for value in values)
        gain = f"{statistics.fmean(values):+.{digits}f} ± {spread:.{digits}f}"
        found.append(f"{metric.replace('_', ' ')} {gain}, better for {better} of {len(values)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
