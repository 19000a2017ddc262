"""What the doodle reader that ships understands, and the picture of docs/poses.md: six doodles become a dance of mini.

    python benchmarks/doodles.py
    python benchmarks/doodles.py --picture docs/images/doodles.jpg

The first reads two sets of drawings as `--estimator doodle` does, from the sheet to the joints, and prints how many of the
drawn joints lie within a tenth of the figure's height: held-out doodles of `dreampose synth --doodles` (a seed that the reader
was not trained on), and twenty by a program that shares no code with it (tests/svg_doodles.py). A drawing that is refused has
found none of its joints. The second writes a sheet of six and a photo of a mannequin that mini has never seen, and runs the
command of the page on them: doodles above, what was understood in the middle, and below the frames that fall on the doodles.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import svg_doodles
from dreampose_cli import media
from dreampose_cli.__main__ import main as dreampose
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import PoseError
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.doodle_dataset import doodle_seed
from dreampose_cli.mannequins.doodles import draw_doodle
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.poses.doodle import load_doodle_reader
from dreampose_cli.poses.doodle_ink import figures_on
from dreampose_cli.poses.extraction import load_poses
from dreampose_cli.poses.visualize import colorize_iuv
from dreampose_cli.workflows.synth import plan_clip

SEED = 77  # of the drawn doodles
SIX = (0, 4, 8, 2, 11, 17)  # of the second hand: a dance
BETWEEN = 4  # frames
MANNEQUIN = (4242, 13)  # the photo's seed and number, of no dataset that was trained on
ROOM = ((24, 8), (13, 13), (0, 0))  # pixels around the mannequin of the photo, for hands above its head
Drawing = tuple[np.ndarray, np.ndarray, np.ndarray]  # picture (H, W, 3), joints (18, 2) in its pixels, which are drawn (18,)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doodles", type=int, default=200, help="how many of `synth --doodles` are read")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="make the picture, and measure nothing")
    chosen = parser.parse_args()
    if chosen.picture:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DREAMPOSE_CACHE"] = f"{folder}/cache"
            Image.fromarray(dance(Path(folder))).save(chosen.picture, quality=88, optimize=True)
        print(chosen.picture)
        return 0
    for name, drawings in (("of synth --doodles, held out", drawn(chosen.doodles)), ("by the second hand", by_second_hand())):
        count, joints, good, refused = found(drawings)
        print(f"{count} doodles {name}: {good} of {joints} joints ({good / joints:.1%}), {refused} refused")
    return 0


def drawn(count: int) -> Iterator[Drawing]:
    """Doodles as `synth --doodles` draws them."""
    for i in range(count):
        doodle = draw_doodle(doodle_seed(SEED, "test", i))
        yield np.repeat(doodle.picture[..., None], 3, axis=2), np.asarray(doodle.joints), doodle.visible


def by_second_hand(side: int = 320) -> Iterator[Drawing]:
    """The twenty of tests/svg_doodles.py."""
    for i in range(len(svg_doodles.FIGURES)):
        joints, visible = np.zeros((18, 2)), np.zeros(18, bool)
        for joint, place in svg_doodles.joints_of(i).items():
            joints[joint], visible[joint] = np.asarray(place) * side / 100, True
        yield svg_doodles.doodle(i, side), joints, visible


def found(drawings: Iterator[Drawing]) -> tuple[int, int, int, int]:
    """Drawings, drawn joints, those of them within a tenth of the figure's height, and drawings that were refused."""
    reader = load_doodle_reader()
    count = total = good = refused = 0
    for picture, joints, visible in drawings:
        count, total = count + 1, total + int(visible.sum())
        try:
            figures = figures_on(picture, str(count))
            read = [reader.joints(figure, str(count)) for figure in figures]
        except PoseError:
            refused += 1
            continue
        if len(read) != 1:
            refused += 1
            continue
        apart = np.hypot(*(read[0][:, :2] - joints).T)
        good += int((apart[visible] <= 0.1 * np.ptp(joints[visible, 1])).sum())
    return count, total, good, refused


def dance(folder: Path) -> np.ndarray:
    """The command of docs/poses.md, and what goes into it and comes out as a picture (H, W, 3)."""
    Image.fromarray(svg_doodles.sheet(list(SIX))).save(folder / "doodles.png")
    clip = plan_clip(MANNEQUIN[0], "test", MANNEQUIN[1])
    photo = next(iter(perform(draw_subject(clip.subject_seed), draw_dance(clip.dance_seed, 1), (160, 128))))
    media.write_frames(folder / "me.png", [np.pad(photo.picture, ROOM, mode="edge")], fps=12)
    before = os.getcwd()
    os.chdir(folder)
    try:
        words = shlex.split(
            f"render --photo me.png --poses doodles.png --estimator doodle --interpolate {BETWEEN} -o dance.mp4"
        )
        if code := dreampose(words):
            sys.exit(code)
    finally:
        os.chdir(before)
    with media.open_frames(folder / "dance.mp4") as source:
        frames = list(source)[:: BETWEEN + 1]
    poses = load_poses(user_cache(), folder / "doodles.png", estimator="doodle")[0]
    understood = [colorize_iuv(poses.frame(i)) for i in range(len(SIX))]
    drawings = np.split(np.asarray(Image.open(folder / "doodles.png").convert("RGB")), len(SIX), axis=1)
    return np.concatenate([row(pictures) for pictures in (drawings, understood, frames)])


def row(pictures: list[np.ndarray], width: int = 150) -> np.ndarray:
    """Pictures next to each other, each `width` pixels wide."""
    height, before = pictures[0].shape[:2]
    return np.concatenate([media.resize(p, (round(height * width / before), width)) for p in pictures], axis=1)


if __name__ == "__main__":
    sys.exit(main())
