"""The demo: a photo of a mannequin that no base was trained on, and a dance of another one, through `tune` and `render`.

Everything is generated from a seed and goes the way a user's files go: a photo as PNG, a driving video as mp4, poses by
the estimator. The dancer has a build of its own, which its poses show; a network follows poses, so what it makes of the
photo has that build. The studio can draw the photographed mannequin so, and in its own build too: two truths to compare with.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import media
from ..cache import Cache
from ..mannequins.dance import draw_dance
from ..mannequins.studio import perform
from ..mannequins.subject import draw_subject
from ..media.metadata import NOTICE
from ..poses.extraction import extract
from ..poses.files import open_poses
from ..poses.visualize import colorize_iuv
from ..reporting import Note, Progress, no_note
from .options import DemoOptions, RenderOptions, TuneOptions
from .render import render
from .synth import plan_clip
from .tune import tune

DATASET_SEED = 77_777_777  # of no dataset that was trained on
FRAMES = 36
FPS = 12.0
ENLARGE = 3
OWN = ("photo.png", "dance.mp4", "dance.poses", "result.mp4", "out.mp4", "samples.png", "metrics.json")


def demo(options: DemoOptions, *, progress: Progress | None = None, note: Note | None = None) -> dict:
    """Run the demo, replacing an earlier one in its folder; returns what metrics.json holds.

    metrics.json: "untuned" and "tuned", each l1, ssim, psnr against the truth in the dancer's build (RGB in [0, 1], the
    base's resolution, means over frames), "own_build": the same of both against the subject's own build, and "seconds" for
    tune and render. Raises OutputError for a folder that holds other files.
    """
    note = note or no_note
    output, seed = Path(options.output), options.seed
    how: dict[str, Any] = {"device": options.device, "dtype": options.dtype}
    media.check_output(f"{output}/", True, owned=OWN.__contains__)
    with (
        media.atomic_folder(output, overwrite=True, owned=OWN.__contains__) as folder,
        tempfile.TemporaryDirectory(prefix="dreampose-demo-") as private,
    ):
        if progress:
            progress(0, None, "drawing a mannequin and a dance")
        cache = Cache(private)  # the user's subjects, and which was tuned last, stay as they are
        photo, truth, own = _studio(folder, seed)
        poses = extract(
            cache,
            folder / "dance.mp4",
            folder / "dance.poses",
            estimator="mini",
            device=options.device,
            progress=progress,
        )
        note(f"dreampose tune photo.png    # a mannequin no base has seen; {poses.frames} frames of dance")
        started = time.monotonic()
        subject = tune(TuneOptions([photo], base="mini", **how), cache=cache, progress=progress)
        tuned_in = time.monotonic() - started
        note("dreampose render --poses dance.mp4 -o result.mp4")
        shots = {}
        people: dict[str, dict[str, Any]] = {
            "untuned": {"photo": photo, "base": "mini"},
            "tuned": {"subject": subject.id},
        }
        for name, who in people.items():
            wanted = RenderOptions([folder / "dance.poses"], f"{folder / name}/", **how, **who)
            result = render(wanted, cache=cache, progress=progress)
            shots[name] = (list(media.open_frames(folder / name)), result.seconds)
            shutil.rmtree(folder / name)
        media.write_frames(folder / "result.mp4", shots["tuned"][0], fps=FPS, metadata={"notice": NOTICE})
        _pictures(folder, truth, own, shots["untuned"][0], shots["tuned"][0])
        figures = {
            **{name: compare(frames, truth) for name, (frames, _) in shots.items()},
            "own_build": {name: compare(frames, own) for name, (frames, _) in shots.items()},
            "seconds": {"tune": round(tuned_in, 1), "render": round(shots["tuned"][1], 1)},
            "frames": len(truth),
            "seed": seed,
        }
        (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def compare(frames: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, float]:
    """Means over frames of L1, SSIM and PSNR, pictures uint8 scored in [0, 1]."""
    from ..evaluation.metrics import l1, psnr, ssim

    a, b = np.stack(frames), np.stack(truth)
    scores: dict[str, list] = {"l1": l1(a, b), "ssim": ssim(a, b), "psnr": psnr(a, b)}
    return {name: round(float(np.mean([v for v in values if v is not None])), 4) for name, values in scores.items()}


def _studio(folder: Path, seed: int) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    """Draw the subject's photo, the dancer's video, and the truth: the subject dancing, in the dancer's build and in its own."""
    subject = draw_subject(plan_clip(DATASET_SEED, "test", 2 * seed).subject_seed)
    plan = plan_clip(DATASET_SEED, "test", 2 * seed + 1)
    dancer = draw_subject(plan.subject_seed)
    dance = draw_dance(plan.dance_seed, FRAMES, FPS)
    truth = [frame.picture for frame in perform(dataclasses.replace(subject, body=dancer.body), dance)]
    own = [frame.picture for frame in perform(subject, dance)]
    standing = draw_dance(plan_clip(DATASET_SEED, "test", 2 * seed).dance_seed, 12, FPS)
    picture = next(iter(perform(subject, standing))).picture
    Image.fromarray(picture).save(folder / "photo.png")
    media.write_frames(folder / "dance.mp4", (frame.picture for frame in perform(dancer, dance)), fps=FPS)
    return folder / "photo.png", truth, own


def _pictures(folder: Path, truth, own, untuned, tuned) -> None:
    """out.mp4: photo | driving video | pose | result; samples.png: seven moments of each, with both truths below."""
    photo = media.read_photo(folder / "photo.png")
    dance = list(media.open_frames(folder / "dance.mp4"))
    poses = [colorize_iuv(frame) for frame in open_poses(folder / "dance.poses")]
    names = ("photo", "driving video", "pose", "result")
    frames = (_side_by_side([photo, dance[i], poses[i], tuned[i]], names) for i in range(len(tuned)))
    media.write_frames(folder / "out.mp4", frames, fps=FPS, metadata={"notice": NOTICE})
    chosen = np.linspace(0, len(tuned) - 1, 7).round().astype(int)
    rows = {
        "driving video": dance, "pose": poses, "untuned": untuned, "tuned": tuned,
        "truth, dancer's build": truth, "truth, own build": own,
    }  # fmt: skip
    columns = [
        _captioned(
            np.concatenate([photo] + [np.full_like(photo, 255)] * (len(rows) - 1)), "photo, and right of it the driving video", 2
        )
    ]
    for i in chosen:
        columns.append(_captioned(np.concatenate([row[i] for row in rows.values()]), f"frame {i}", 2))
    picture = Image.fromarray(np.concatenate(columns, axis=1))
    draw = ImageDraw.Draw(picture)
    height = photo.shape[0] * 2
    for k, name in enumerate(rows):
        if k:
            draw.text((12, 24 + height * k + height // 2), name, fill=(60, 60, 60), font=ImageFont.load_default(20))
    picture.save(folder / "samples.png")


def _side_by_side(pictures: list[np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    return np.concatenate([_captioned(p, name, ENLARGE) for p, name in zip(pictures, names, strict=True)], axis=1)


def _captioned(picture: np.ndarray, text: str, enlarge: int) -> np.ndarray:
    """The picture enlarged for viewing, under a line that says what it is."""
    size = (picture.shape[1] * enlarge, picture.shape[0] * enlarge)
    canvas = Image.new("RGB", (size[0], size[1] + 24), (255, 255, 255))
    canvas.paste(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), (0, 24))
    ImageDraw.Draw(canvas).text((8, 3), text, fill=(60, 60, 60), font=ImageFont.load_default(15))
    return np.asarray(canvas)
