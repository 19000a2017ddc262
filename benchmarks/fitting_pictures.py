"""The pictures of docs/fitting.md: photos and driving videos of many sizes through `render --photo`, on mini, untuned.

    python benchmarks/fitting_pictures.py -o docs/images

Every scene is drawn by the mannequin studio, written to files and taken through the tool as a user's would be; poses are
estimated by mini. Prints what the tool notes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dreampose_cli import media
from dreampose_cli.bases.registry import bundled
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import NoPersonError
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.media.fitting import fit_picture
from dreampose_cli.poses.files import PoseWriter
from dreampose_cli.subjects.loading import load_photo
from dreampose_cli.workflows.options import RenderOptions
from dreampose_cli.workflows.render import render
from dreampose_cli.workflows.synth import plan_clip

SEED = 4242  # of no dataset that was trained on
SHOWN = (0, 8)  # of the driving frames
TALL = 160  # pixels, the height of a row
LARGEST = 150_000  # bytes of a picture
PAPER = (255, 255, 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="some of: crop, align, background, half, people")
    asked = parser.parse_args()
    scenes = {"crop": crops, "align": alignment, "background": backgrounds, "half": halves, "people": several}
    for name, scene in scenes.items():
        if asked.only and name not in asked.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DREAMPOSE_CACHE"] = f"{folder}/cache"
            picture = stacked(scene(Path(folder)))
        path = asked.output / f"fitting-{name}.jpg"
        for quality in (85, 75, 65):
            Image.fromarray(picture).save(path, quality=quality, optimize=True)
            if path.stat().st_size < LARGEST:
                break
        print(f"{path}: {picture.shape[1]}x{picture.shape[0]}, {path.stat().st_size / 1000:.0f} kB", flush=True)


# ---- scenes: each gives rows of (picture, caption)


def crops(folder: Path):
    """Photos of three aspects: the photo, what the base sees of it, the result."""
    portrait = clip(0, 1)[0]
    dance = place_in(clip(1, 9), (180, 320), (10, 96))
    for name, photo in (
        ("1:1", place_in([portrait], (180, 180), (16, 26))[0]),
        ("16:9", place_in([portrait], (170, 302), (6, 40))[0]),
        ("3:1", place_in([portrait], (190, 570), (30, 390))[0]),
        ("1:2", place_in([portrait], (320, 160), (120, 16))[0]),
    ):
        yield row(folder, f"photo, {name}", photo, dance)


def alignment(folder: Path):
    """A portrait and a smaller dancer at the side of a 16:9 video, with and without alignment."""
    portrait = clip(0, 1)[0]
    dance = shrink(place_in(clip(1, 9), (240, 427), (70, 20)), (180, 320))
    for mode in ("off", "auto"):
        yield row(folder, "photo", portrait, dance, align=mode, caption=f"--align {mode}")


def backgrounds(folder: Path):
    """The same mannequin before a plain wall and before busy ones, with its pose estimated and given."""
    dance = clip(1, 9)
    for name, photo in (
        ("plain wall", clip(0, 1)[0]),
        ("stripes", before(0, stripes())),
        ("confetti", before(0, confetti())),
    ):
        yield row(folder, name, photo, dance)
        if name != "plain wall":
            yield row(folder, f"{name}, --photo-pose", photo, dance, pose=pose_of(0))


def halves(folder: Path):
    """A half figure as photo, as driving video, and both."""
    portrait, dance = clip(0, 1)[0], clip(1, 9)
    half, bust = portrait[:84, 12:116], shrink([frame[:84, 12:116] for frame in dance], (210, 260))
    yield row(folder, "half figure", half, shrink(dance, (320, 256)), caption="whole dancer")
    yield row(folder, "whole figure", portrait, bust, caption="half dancer")
    yield row(folder, "half figure", half, bust, caption="half dancer")


def several(folder: Path):
    """Two people in one photo, which mini's estimator takes for one; and the photo cut to one of them by hand."""
    one, two = clip(0, 1)[0], clip(2, 1)[0]
    both = np.concatenate([one[:, 14:114], two[:, 14:114]], axis=1)
    dance = shrink(clip(1, 9), (200, 160))
    yield row(folder, "two people", both, dance)
    yield row(folder, "cut by hand", both[:, :100], dance)


# ---- how they are made


def row(
    folder: Path,
    name: str,
    photo: np.ndarray,
    dance: list[np.ndarray],
    align: str = "auto",
    caption: str = "",
    pose: np.ndarray | None = None,
):
    """Photo, what of it is used, and driving frames each with its pose and result; or that the photo is refused.

    pose (3, H, W) is the photo's, in place of the estimator's.
    """
    place = folder / f"{len(list(folder.iterdir())):03d}"
    frames = place / "dance"
    frames.mkdir(parents=True)
    Image.fromarray(photo).save(place / "photo.png")
    for i, picture in enumerate(dance):
        Image.fromarray(picture).save(frames / f"{i:05d}.png")
    given = None
    if pose is not None:
        given = place / "photo.poses"
        with PoseWriter(given, photo.shape[:2], 12.0) as writer:
            writer.append(pose)
    yield photo, name
    try:
        loaded = load_photo(user_cache(), place / "photo.png", given, bundled(), torch.device("cpu"), torch.float32)
    except NoPersonError as error:
        print(f"  {name}: {error}", flush=True)
        yield np.full((40, 160, 3), 255, np.uint8), "refused: nobody is found"
        return
    seen = loaded.crop.of_picture(photo) if loaded.crop else photo
    made = render(
        RenderOptions(
            [frames], f"{place / 'out'}/", photo=place / "photo.png", photo_pose=given, base="mini", fps=12.0,
            align=align, side_by_side=True, device="cpu",
        ),
        note=lambda text: print(f"  {name}: {text}", flush=True),
    )  # fmt: skip
    assert made.frames == len(dance)
    shown = list(media.open_frames(place / "out"))
    third = shown[0].shape[1] // 3
    yield fit_picture(np.ascontiguousarray(seen), loaded.model.config.resolution, "contain"), "what is used"
    for i in SHOWN:
        yield dance[i], caption or "driving video"
        yield shown[i][:, third : 2 * third], "pose"
        yield shown[i][:, 2 * third :], "result"


def clip(number: int, frames: int) -> list[np.ndarray]:
    plan = plan_clip(SEED, "test", number)
    return [
        frame.picture for frame in perform(draw_subject(plan.subject_seed), draw_dance(plan.dance_seed, frames, 12.0))
    ]


def pose_of(number: int) -> np.ndarray:
    """The exact pose of a clip's first frame."""
    plan = plan_clip(SEED, "test", number)
    return next(iter(perform(draw_subject(plan.subject_seed), draw_dance(plan.dance_seed, 1, 12.0)))).pose


def before(number: int, wall: np.ndarray) -> np.ndarray:
    """A mannequin before another wall, cut out exactly: drawn before black and before white, it shows its outline."""
    plan = plan_clip(SEED, "test", number)
    dance = draw_dance(plan.dance_seed, 1, 12.0)
    subject = dataclasses.replace(draw_subject(plan.subject_seed), shadow=0.0)
    dark, light = (
        next(iter(perform(dataclasses.replace(subject, backdrop=((c,) * 3,) * 2), dance))).picture.astype(float)
        for c in (0.0, 1.0)
    )
    through = ((light - dark).mean(-1, keepdims=True) / 255).clip(0, 1)
    return np.rint(dark + through * wall).clip(0, 255).astype(np.uint8)


def stripes() -> np.ndarray:
    rows, columns = np.mgrid[:160, :128]
    band = ((rows + columns) // 9 % 2)[..., None]
    return np.where(band, (214, 92, 64), (52, 96, 150)).astype(float)


def confetti() -> np.ndarray:
    rng = np.random.default_rng(0)
    picture = Image.new("RGB", (128, 160), (230, 224, 210))
    draw = ImageDraw.Draw(picture)
    for _ in range(260):
        x, y, r = rng.uniform(0, 128), rng.uniform(0, 160), rng.uniform(2, 9)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(c) for c in rng.integers(20, 240, 3)))
    return np.asarray(picture).astype(float)


def place_in(pictures: list[np.ndarray], size: tuple[int, int], corner: tuple[int, int]) -> list[np.ndarray]:
    """Pictures inside a larger frame whose wall continues from their edges."""
    top, left = corner
    height, width = pictures[0].shape[:2]
    around = ((top, size[0] - top - height), (left, size[1] - left - width), (0, 0))
    return [np.pad(picture, around, mode="edge") for picture in pictures]


def shrink(pictures: list[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    return [media.resize(np.ascontiguousarray(picture), size) for picture in pictures]


def stacked(rows) -> np.ndarray:
    """Rows of (picture, caption) as one picture on white."""
    drawn = [[captioned(picture, text) for picture, text in cells] for cells in rows]
    lines = [np.concatenate(cells, axis=1) for cells in drawn]
    width = max(line.shape[1] for line in lines)
    return np.concatenate(
        [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    )


def captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture in a cell `TALL` high, scaled to fit (at most 256 wide), under its caption."""
    scale = min(TALL / picture.shape[0], 256 / picture.shape[1])
    size = max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
    cell = Image.new("RGB", (max(size[1], 8 * len(text)) + 6, TALL + 22), PAPER)
    cell.paste(Image.fromarray(media.resize(np.ascontiguousarray(picture), size)), (3, 20 + (TALL - size[0]) // 2))
    ImageDraw.Draw(cell).text((4, 3), text, fill=(60, 60, 60), font=ImageFont.load_default(12))
    return np.asarray(cell)


if __name__ == "__main__":
    main()
