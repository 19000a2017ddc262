"""How well an estimator of mannequins' poses sees: the right part, and U and V, on photos that nothing was trained on.

    python benchmarks/estimator.py                      # the one that ships
    python benchmarks/estimator.py mini my-estimator/   # next to one made by `dreampose train --preset estimator`

Of `--subjects` mannequins of dataset seed `--seed` the first frame, with the studio's own pose as truth. `parts`: the share of
the pixels in which truth or estimate sees a body that have the right part; `uv`: the mean error of U and V where the part is right.
Mean and the lowest over photos; milliseconds a photo, which are of this machine and this moment.
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import numpy as np
from held_out import draw

from dreampose_cli.cache import user_cache
from dreampose_cli.poses.estimator import load_estimator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("estimators", nargs="*", default=["mini"], help="names or folders (default: mini)")
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--seed", type=int, default=4711)
    chosen = parser.parse_args()
    how = SimpleNamespace(seed=chosen.seed, frames=2, gap=1)
    frames = [draw(how, index, (160, 128))[0][0] for index in range(chosen.subjects)]
    for name in chosen.estimators:
        estimator = load_estimator(user_cache(), name)
        started = time.perf_counter()
        found = [estimator.estimate([frame.picture])[0] for frame in frames]
        each = (time.perf_counter() - started) / len(frames)
        parts, errors = zip(*(score(frame.pose, pose) for frame, pose in zip(frames, found, strict=True)), strict=True)
        print(
            f"{name}: parts {np.mean(parts):.3f} (lowest {min(parts):.3f}), uv {np.mean(errors):.4f} (highest {max(errors):.4f}), "
            f"{1000 * each:.0f} ms"
        )


def score(truth: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """The share of right parts and the error of U and V of one pose (3, H, W)."""
    body = (truth[0] > 0) | (found[0] > 0)
    right = (truth[0] == found[0]) & body
    return float(right.sum() / body.sum()), float(np.abs(found[1:] - truth[1:])[:, right].mean())


if __name__ == "__main__":
    main()
