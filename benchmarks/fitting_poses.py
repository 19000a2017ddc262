"""The table of docs/fitting.md: what mini's estimator finds of figures of any size at any place.

    python benchmarks/fitting_poses.py [--mannequins 8]

Mannequins of no dataset that was trained on, three frames each, in larger frames whose wall continues from theirs. Prints
for each size the share of the body's pixels, the truth's and the found one's together, that get the right part.
"""

from __future__ import annotations

import argparse

import numpy as np

from dreampose_cli import media
from dreampose_cli.cache import user_cache
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.media.fitting import fit_pose
from dreampose_cli.poses.estimator import load_estimator
from dreampose_cli.workflows.synth import plan_clip

SEED = 4242
CASES = {  # frame and corner (top, left) of the mannequin's 160 x 128 in it, (height, width); then resized to
    "128x160, filled": ((160, 128), (0, 0), None),
    "512x640, filled": ((160, 128), (0, 0), (640, 512)),
    "180x180": ((180, 180), (10, 26), None),
    "320x180, 80 % of the height": ((180, 320), (10, 96), None),
    "427x240, 60 %, at the side": ((240, 427), (70, 20), None),
    "320x180, 60 %, at the side": ((240, 427), (70, 20), (180, 320)),
    "570x190, 76 %": ((190, 570), (30, 390), None),
    "160x320, 45 %": ((320, 160), (120, 16), None),
    "256x320, 45 %": ((320, 256), (120, 60), None),
    "384x480, 30 %": ((480, 384), (300, 60), None),
    "640x800, 18 %": ((800, 640), (400, 100), None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mannequins", type=int, default=8)
    asked = parser.parse_args()
    estimator = load_estimator(user_cache(), "mini")
    frames = []
    for number in range(asked.mannequins):
        plan = plan_clip(SEED, "test", number)
        clip = list(perform(draw_subject(plan.subject_seed), draw_dance(plan.dance_seed, 12, 12.0)))
        frames += clip[::4]
    for name, (size, corner, resized) in CASES.items():
        shares = []
        for frame in frames:
            picture, truth = place(frame, size, corner)
            if resized:
                picture, truth = media.resize(picture, resized), fit_pose(truth, resized, "stretch")
            (found,) = estimator.estimate([picture])
            body = (found[0] > 0) | (truth[0] > 0)
            shares.append((found[0] == truth[0])[body].mean())
        print(f"{name:30} mean {np.mean(shares):.3f}, worst {min(shares):.3f} of {len(shares)} frames", flush=True)


def place(frame, size: tuple[int, int], corner: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    height, width = frame.picture.shape[:2]
    around = tuple((at, side - at - own) for at, side, own in zip(corner, size, (height, width), strict=True))
    return np.pad(frame.picture, (*around, (0, 0)), mode="edge"), np.pad(frame.pose, ((0, 0), *around))


if __name__ == "__main__":
    main()
