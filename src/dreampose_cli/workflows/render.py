"""`render`: from a subject and poses, as files, to videos, pictures or folders of frames."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .. import __version__, media
from ..device import keep_little, pick_device, pick_dtype, put_away, release, spares_memory
from ..errors import MediaError, UsageError
from ..inference.alignment import place
from ..inference.batch_plan import Portions, default_frames, plan
from ..inference.compilation import PAYS_FROM, compile_blocks, require_compiler
from ..inference.denoise import RenderSettings, render_frames
from ..inference.prefetch import ahead
from ..media.fitting import fit_pose
from ..names import ALIGNMENTS, check_choice
from ..networks.dreampose.conditioning import Photo, prepare_photo
from ..networks.dreampose.network import Base
from ..networks.model_cache import Shelf
from ..poses.extraction import poses_of
from ..poses.files import is_pose_source
from ..poses.sequence import PoseSequence, numbered_window, window_indices
from ..poses.visualize import colour
from ..sampling import branch_weights, check_steps
from ..subjects.loading import Sitter, load_photo, load_subject

Progress = Callable[[int, int | None, str], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class RenderResult:
    """What `render` wrote, one path for each pose source."""

    paths: list[Path]
    frames: int
    seconds: float
    settings: dict


def render(
    *,
    poses: list[Path],
    output: Path | str,
    subject: str | None = None,
    photo: Path | None = None,
    photo_pose: Path | None = None,
    base: str | None = None,
    condition: int = 1,
    image_guidance: float | None = None,
    pose_guidance: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    noise: str = "clip",
    batch_size: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    align: str = "auto",
    side_by_side: bool = False,
    audio: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    guidance_interval: tuple[float, float] | None = None,
    memory: str = "auto",
    compile: bool = False,
    overwrite: bool = False,
    shelf: Shelf | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> RenderResult:
    """Render one frame per pose. `poses` are whatever `poses` reads; several need a folder as `output`.

    `subject` (id, name or photo; None: tuned last) or `photo` (on the untuned base); `align` as `alignment.place`;
    `memory` as `memory.plan`; `compile` the network where it pays; the base is taken from `shelf`. Raises UsageError,
    SubjectError, BaseError, MediaError, PoseError, OutputError, OutOfMemoryError.
    """
    started = time.monotonic()
    if subject is not None and photo is not None:
        raise UsageError("--subject and --photo exclude each other: a tuned subject, or a photo on the untuned base.")
    if not poses:
        raise UsageError("render needs --poses: a driving video, a picture, a folder of frames, or a pose file.")
    if photo is not None and condition != 1:
        raise UsageError("--condition chooses among a subject's photos; leave it out where --photo names one.")
    check_choice("alignment", align, ALIGNMENTS)
    targets = _targets(poses, output, overwrite)
    heard = {source for source in poses if audio and _has_sound(Path(source))}
    if heard and media.output_kind(targets[0]) != "mp4":
        raise UsageError(f"{output}: only an .mp4 can carry sound; write an .mp4 or leave --audio out.")
    for source in poses if audio and note else []:
        if source not in heard:
            note(f"{source} has no sound to keep.")
    where = pick_device(device)
    number = pick_dtype(dtype, where)
    shelf = shelf or Shelf(lean=memory == "low")
    if spares_memory(where, memory):
        keep_little(where)
    if compile:
        require_compiler(where)
    if photo is not None:
        sitter = load_photo(photo, photo_pose, base, where, number, note, progress, shelf)
    else:
        sitter = load_subject(subject, base, condition, where, number, shelf)
    settings = RenderSettings.of(
        sitter.model,
        sampler=sampler,
        steps=steps,
        image_guidance=image_guidance,
        pose_guidance=pose_guidance,
        seed=seed,
        noise=noise,
        guidance_interval=guidance_interval,
    )
    check_steps(settings.steps, sitter.model.scheduler)
    prepared = prepare_photo(sitter.model, sitter.picture, sitter.pose)
    portions = make_room(sitter.model, settings, memory, batch_size)
    release(where)  # what loading and the photo took
    total = 0
    metadata = {
        "software": f"dreampose-cli {__version__}",
        "notice": "AI-generated",
        "who": sitter.label,
        "base": sitter.model.config.name,
        **asdict(settings),
    }
    windows = sitter.model.config.poses
    sequences = [
        poses_of(
            source,
            estimator=sitter.model.config.estimator,
            fps=fps,
            start=start,
            end=end,
            around=(windows.count // 2) / windows.training_fps if windows.training_fps else 0.0,
            at_least=windows.training_fps,
            device=device,
            progress=progress,
            note=note,
        )[0]
        for source in poses  # all of them before the first frame is rendered: a bad one is said at once
    ]
    if media.output_kind(targets[0]) == "png" and len(sequences[0]) > 1:
        raise UsageError(f"{output}: a .png holds one frame and there are more; use .mp4, .gif, .webp or a folder.")
    placed = [place(sequence, sitter, align, device, note) for sequence in sequences]
    alignments = [alignment and alignment.as_settings() for _, alignment in placed]
    crop = sitter.crop and asdict(sitter.crop)
    if len(poses) > 1:
        Path(output).mkdir(exist_ok=True)
    if compile:
        calls = sum(-(-len(sequence) // portions.frames) for sequence in sequences) * settings.steps
        if calls >= PAYS_FROM or shelf.keep:
            compile_blocks(sitter.model)
            portions = replace(portions, even=True)
        elif note:
            note(f"--compile is left out: it would take longer than it saves in {calls} network calls.")
    for source, (sequence, _), alignment, target in zip(poses, placed, alignments, targets, strict=True):
        make = functools.partial(render_sequence, sitter, prepared, sequence, settings, portions, side_by_side, note)
        label = f"frames of {Path(source).name}" if len(poses) > 1 else "frames"
        with contextlib.closing(ahead(make, 2 * portions.frames)) as frames:
            media.write_frames(
                target,
                counted(frames, len(sequence), label, progress),
                fps=sequence.fps,
                metadata={**metadata, "poses": Path(source).name, "align": align, "alignment": alignment, "crop": crop},
                audio_from=Path(source) if source in heard else None,
                audio_start=start or 0.0,
                overwrite=overwrite,
            )
        total += len(sequence)
    used = {**asdict(settings), "align": align, "alignments": alignments, "crop": crop}
    return RenderResult([Path(t) for t in targets], total, time.monotonic() - started, used)


def _has_sound(source: Path) -> bool:
    """Whether there is sound to keep. What is no video at all is refused where its pictures are read, if anywhere."""
    try:
        return source.is_file() and not is_pose_source(source) and media.probe_video(source).has_audio
    except MediaError:
        return False


def make_room(model: Base, settings: RenderSettings, memory: str, batch_size: int | None) -> Portions:
    """What to compute at once now that the photo is encoded; where memory is short, the encoders are put away first."""
    rows = sum(weight != 0.0 for weight in branch_weights(settings.image_guidance, settings.pose_guidance))
    portions = plan(model, rows, memory, batch_size)
    if memory == "low" or portions.frames < (batch_size or default_frames(model.device, memory)):
        put_away(model.image_encoder, model.vae.encoder, model.vae.quant_conv)
        portions = plan(model, rows, memory, batch_size)
    return portions


def render_sequence(
    sitter: Sitter,
    prepared: Photo,
    sequence: PoseSequence,
    settings: RenderSettings,
    portions: Portions,
    side_by_side: bool = False,
    note: Note | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[np.ndarray]:
    """The frames for a pose sequence, uint8 (h, w, 3): at the base's resolution, without the padding of the photo."""
    rows, columns = sitter.fit.box
    windows = pose_windows(sitter.model, sequence)
    made = render_frames(sitter.model, prepared, windows, settings, portions, on_step, note)
    config = sitter.model.config
    for i, frame in enumerate(made):
        frame = frame[rows, columns]
        if side_by_side:
            pose = fit_pose(sequence.frame(i), config.resolution, config.fit)[:, rows, columns]
            frame = np.concatenate([sitter.picture[rows, columns], colour(pose), frame], axis=1)
        yield frame


def pose_windows(model: Base, sequence: PoseSequence) -> Iterator[torch.Tensor]:
    """The pose window (n, 3, H, W) of every frame, neighbours at the base's training frame rate; memory stays flat.

    A base that knows no rate, such as an imported official one, takes the neighbours among the frames that are rendered.
    """
    config, settings = model.config, model.config.poses
    whole, shown = sequence.origin() if settings.training_fps else (sequence, range(len(sequence)))
    stride = whole.fps / settings.training_fps if settings.training_fps else 1.0
    numbers = whole.numbers if settings.window_rule == "current" and not settings.training_fps else None
    kept: dict[int, torch.Tensor] = {}
    for i in shown:
        if numbers:
            rows = numbered_window(i, numbers, settings.count)
        else:
            rows = window_indices(i, len(whole), n_poses=settings.count, stride=stride, rule=settings.window_rule)
        kept = {row: frame for row, frame in kept.items() if row >= min(rows)}
        for row in rows:
            if row not in kept:
                frame = fit_pose(whole.frame(row), config.resolution, config.fit, settings.resize)
                kept[row] = torch.from_numpy(np.ascontiguousarray(frame))
        yield torch.stack([kept[row] for row in rows])


def counted(frames: Iterator[np.ndarray], total: int, label: str, progress: Progress | None) -> Iterator[np.ndarray]:
    """The same frames, each reported as it passes."""
    for done, frame in enumerate(frames, start=1):
        if progress:
            progress(done, total, label)
        yield frame


def _targets(poses: list[Path], output: Path | str, overwrite: bool) -> list[Path | str]:
    """Where each result goes; every place is checked before anything is computed."""
    kind = media.output_kind(output)
    if len(poses) == 1:
        media.check_output(output, overwrite)
        return [output]
    if kind != "folder":
        raise UsageError(f"{len(poses)} pose sources need a folder; end -o with a slash.")
    folder = Path(output)
    names = [Path(source).stem or Path(source).name for source in poses]
    if len(set(names)) < len(names):
        raise UsageError("two pose sources have the same name; rename one, since results are named after them.")
    media.check_output(f"{folder}/", True, owned=None)  # videos are added to a folder, which is not replaced
    targets = [folder / f"{name}.mp4" for name in names]
    for target in targets if folder.exists() else []:
        media.check_output(target, overwrite)
    return targets
