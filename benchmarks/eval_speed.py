"""How fast `dreampose eval` scores: L1, PSNR, SSIM and flicker of two videos, decode included, next to scikit-image.

    python benchmarks/eval_speed.py --frames 100 --width 512 --height 640

Two videos are drawn into a temporary folder. Both ways read the same files by the same decoder, bring the shorter side to
256 pixels, and compute the same figures, which are compared. scikit-image's way is the plain one: frame by frame, resized
by Pillow, `structural_similarity` (Gaussian window) and `peak_signal_noise_ratio` on float64 in [0, 1], L1 and frame
differences by numpy. The best of `--repeat` turns counts, the two ways taking turns, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

WANTED = ("l1", "psnr", "ssim", "flicker")


def draw(folder: Path, frames: int, width: int, height: int) -> tuple[Path, Path]:
    """Two videos: a moving pattern on white, and the same a little off, shifted and blotched, as a rendering is."""
    import numpy as np

    from dreampose_cli import media

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    figure = ((x / width - 0.5) ** 2 * 6 + (y / height - 0.5) ** 2 * 3 < 0.5)[..., None]

    def clip(late: float, blotches: float):
        for t in range(frames):
            wave = 128 + 70 * np.sin((x + 4 * t - late) / 23 + np.cos(y / 17))[..., None] * [1, 0.6, 0.3]
            coarse = rng.normal(0, blotches, (height // 32, width // 32, 3)).clip(-60, 60) + 128
            noise = media.resize(coarse.astype(np.uint8), (height, width)).astype(float) - 128
            yield np.where(figure, wave + noise, 255).clip(0, 255).astype(np.uint8)

    return tuple(
        media.write_frames(folder / name, clip(late, blotches), fps=30)
        for name, late, blotches in (("predicted.mp4", 1.5, 6.0), ("reference.mp4", 0.0, 0.0))
    )


def by_dreampose(predicted: Path, reference: Path, size: int | None) -> dict[str, float]:
    from dreampose_cli.evaluation.scoring import evaluate

    found = evaluate(predicted, reference, size=size, metrics=WANTED)
    return {key: found.metrics[key] for key in WANTED}


def by_scikit_image(predicted: Path, reference: Path, size: int | None) -> dict[str, float]:
    import numpy as np
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    from dreampose_cli import media
    from dreampose_cli.evaluation.frame_pairs import scored_size

    values: dict[str, list[float]] = {"l1": [], "psnr": [], "ssim": []}
    moved, before = [0.0, 0.0], None
    for pair in zip(media.read_video(predicted), media.read_video(reference), strict=True):
        a, b = (media.resize(frame, scored_size(frame.shape[:2], size)) / 255 for frame in pair)
        values["l1"].append(float(np.abs(a - b).mean()))
        values["psnr"].append(float(peak_signal_noise_ratio(b, a, data_range=1.0)))
        values["ssim"].append(
            float(
                structural_similarity(
                    a,
                    b,
                    channel_axis=-1,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                    data_range=1.0,
                )
            )
        )
        if before is not None:
            moved = [total + float(((x - y) ** 2).sum()) for total, x, y in zip(moved, (a, b), before, strict=True)]
        before = a, b
    return {**{key: float(np.mean(column)) for key, column in values.items()}, "flicker": moved[0] / moved[1]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--size", type=int, default=256, help="shorter side at which is scored")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ways = {"dreampose eval": by_dreampose, "scikit-image": by_scikit_image}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    figures = {}
    with tempfile.TemporaryDirectory(prefix="dreampose-speed-") as home:
        predicted, reference = draw(Path(home), chosen.frames, chosen.width, chosen.height)
        for _ in range(chosen.repeat):
            for name, way in ways.items():
                started = time.perf_counter()
                figures[name] = way(predicted, reference, chosen.size)
                seconds[name].append(time.perf_counter() - started)
    best = {name: min(times) for name, times in seconds.items()}
    apart = max(abs(figures["dreampose eval"][key] - figures["scikit-image"][key]) for key in WANTED)
    document = {
        "frames": chosen.frames,
        "source": f"{chosen.width}x{chosen.height}",
        "size": chosen.size,
        "cores": os.cpu_count(),
        "frames_per_second": {name: round(chosen.frames / value, 1) for name, value in best.items()},
        "times_as_fast": round(best["scikit-image"] / best["dreampose eval"], 2),
        "largest_difference": apart,
        "figures": figures,
    }
    if chosen.json:
        print(json.dumps(document, indent=1))
        return 0
    for name, value in best.items():
        print(f"{name:15s} {chosen.frames / value:7.1f} frames a second")
    print(f"{document['times_as_fast']} times as fast; figures differ by at most {apart:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
