"""`render`: from a subject and poses, as files, to videos, pictures or folders of frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .. import __version__, media
from ..device import pick_device, pick_dtype
from ..errors import MediaError, UsageError
from ..fitting import fit_pose
from ..model.base import Base
from ..model.conditioning import Photo, prepare_photo
from ..poses.extraction import poses_of
from ..poses.files import is_pose_source
from ..poses.preview import colour
from ..poses.sequence import PoseSequence, window_indices
from ..sampling import check_steps
from .batches import RenderSettings, render_frames
from .subjects import Sitter, load_photo, load_subject

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
    side_by_side: bool = False,
    audio: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> RenderResult:
    """Render one frame per pose. `poses` are whatever `poses` reads; several need a folder as `output`.

    `subject` (id, name or photo; None: tuned last) or `photo` (on the untuned base). Raises UsageError, SubjectError,
    BaseError, MediaError, PoseError, OutputError.
    """
    started = time.monotonic()
    if subject is not None and photo is not None:
        raise UsageError("--subject and --photo exclude each other: a tuned subject, or a photo on the untuned base.")
    if not poses:
        raise UsageError("render needs --poses: a driving video, a picture, a folder of frames, or a pose file.")
    if photo is not None and condition != 1:
        raise UsageError("--condition chooses among a subject's photos; leave it out where --photo names one.")
    targets = _targets(poses, output, overwrite)
    heard = {source for source in poses if audio and _has_sound(Path(source))}
    if heard and media.output_kind(targets[0]) != "mp4":
        raise UsageError(f"{output}: only an .mp4 can carry sound; write an .mp4 or leave --audio out.")
    for source in poses if audio and note else []:
        if source not in heard:
            note(f"{source} has no sound to keep.")
    where = pick_device(device)
    number = pick_dtype(dtype, where)
    if photo is not None:
        sitter = load_photo(photo, photo_pose, base, where, number, note, progress)
    else:
        sitter = load_subject(subject, base, condition, where, number)
    settings = RenderSettings.of(
        sitter.model,
        sampler=sampler,
        steps=steps,
        image_guidance=image_guidance,
        pose_guidance=pose_guidance,
        seed=seed,
        noise=noise,
    )
    check_steps(settings.steps, sitter.model.scheduler)
    prepared = prepare_photo(sitter.model, sitter.picture, sitter.pose)
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
    if len(poses) > 1:
        Path(output).mkdir(exist_ok=True)
    for source, sequence, target in zip(poses, sequences, targets, strict=True):
        frames = counted(
            render_sequence(sitter, prepared, sequence, settings, batch_size or default_batch(where), side_by_side),
            len(sequence),
            f"frames of {Path(source).name}" if len(poses) > 1 else "frames",
            progress,
        )
        media.write_frames(
            target,
            frames,
            fps=sequence.fps,
            metadata={**metadata, "poses": Path(source).name},
            audio_from=Path(source) if source in heard else None,
            audio_start=start or 0.0,
            overwrite=overwrite,
        )
        total += len(sequence)
    return RenderResult([Path(t) for t in targets], total, time.monotonic() - started, asdict(settings))


def _has_sound(source: Path) -> bool:
    """Whether there is sound to keep. What is no video at all is refused where its pictures are read, if anywhere."""
    try:
        return source.is_file() and not is_pose_source(source) and media.probe_video(source).has_audio
    except MediaError:
        return False


def default_batch(device: torch.device) -> int:
    """Frames rendered together where nothing else was asked for."""
    return 16 if device.type == "cuda" else 8


def render_sequence(
    sitter: Sitter,
    prepared: Photo,
    sequence: PoseSequence,
    settings: RenderSettings,
    batch_size: int,
    side_by_side: bool = False,
) -> Iterator[np.ndarray]:
    """The frames for a pose sequence, uint8 (h, w, 3): at the base's resolution, without the padding of the photo."""
    rows, columns = sitter.fit.box
    made = render_frames(sitter.model, prepared, pose_windows(sitter.model, sequence), settings, batch_size)
    config = sitter.model.config
    for i, frame in enumerate(made):
        frame = frame[rows, columns]
        if side_by_side:
            pose = fit_pose(sequence.frame(i), config.resolution, config.fit)[:, rows, columns]
            frame = np.concatenate([sitter.picture[rows, columns], colour(pose), frame], axis=1)
        yield frame


def pose_windows(model: Base, sequence: PoseSequence) -> Iterator[torch.Tensor]:
    """The pose window (n, 3, H, W) of every frame, neighbours at the base's training frame rate; memory stays flat."""
    config, settings = model.config, model.config.poses
    whole, shown = sequence.origin()
    stride = whole.fps / settings.training_fps if settings.training_fps else 1.0
    kept: dict[int, torch.Tensor] = {}
    for i in shown:
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
