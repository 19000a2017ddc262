"""The files of a render, read before any weights: poses that are there already, who is rendered on which base,
whose sound is kept. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import media
from ..bases.config import BaseConfig, read_config
from ..bases.fingerprint import fingerprint
from ..bases.published import PUBLISHED
from ..bases.registry import default_base, is_here, resolve_base
from ..bases.schedule import check_steps, read_schedule
from ..cache import Cache, file_digest
from ..errors import MediaError, SubjectError, UsageError
from ..media.credentials import SigningKey, read_signing_key
from ..poses.extraction import load_poses
from ..poses.files import is_pose_source
from ..poses.fingerprint import source_digest
from ..poses.sequence import PoseSequence
from ..reporting import Note, Progress
from ..subjects.format import SubjectRecord
from ..subjects.loading import LoadedSubject, find_subject, load_photo, load_subject
from .options import RenderOptions

if TYPE_CHECKING:
    from ..networks.model_cache import ModelCache


@dataclass(frozen=True)
class Request:
    """A render that was checked: where each result goes, which sources are heard, who is rendered on which base, what
    signs the results, and the pose sequences that are there without an estimator."""

    targets: list[Path | str]
    heard: set[Path]
    record: SubjectRecord | None
    home: Path
    config: BaseConfig
    signing_key: SigningKey | None
    sequences: dict[Path, PoseSequence] = field(default_factory=dict)


def read_request(
    cache: Cache, options: RenderOptions, targets: list[Path | str], progress: Progress | None, note: Note
) -> Request:
    """Refuse what can be refused without weights; what was opened on the way is kept.

    Raises UsageError, SubjectError, BaseError, MediaError, PoseError.
    """
    signing_key = None if options.c2pa_key is None else read_signing_key(options.c2pa_key)
    heard = {source for source in options.poses if options.audio and _has_sound(Path(source))}
    if heard and media.output_kind(targets[0]) != "mp4":
        raise UsageError(f"{options.output}: only an .mp4 can carry sound; write an .mp4 or leave --audio out.")
    for source in options.poses if options.audio else []:
        if source not in heard:
            note(f"{source} has no sound to keep.")
    record = None
    if options.photo is not None:
        with media.open_picture(options.photo):
            pass
        home = resolve_base(cache, options.base, note, progress, options.device)
    else:
        record, home = _subject(cache, options)
    config = read_config(home)
    _check_family(options, config)
    check_steps(options.steps or config.sampling.steps, read_schedule(home))
    request = Request(targets, heard, record, home, config, signing_key)
    for source in options.poses if not config.network.joint else ():
        if is_pose_source(source):
            request.sequences[source] = poses_from(cache, source, options, config, progress, note)
        else:
            media.open_frames(source, fps=options.fps, start=options.start, end=options.end).close()
    if request.sequences and len(request.sequences) == len(options.poses):
        check_lengths(options, request, list(request.sequences.values()))
    return request


def _subject(cache: Cache, options: RenderOptions) -> tuple[SubjectRecord, Path]:
    """The subject, and its base; where there is none and none was named, a base that needs no tuning asks for a photo."""
    try:
        return find_subject(cache, options.subject, options.base, options.photo_index)
    except SubjectError as error:
        name = options.base or default_base(cache, options.device).name
        published = None if is_here(cache, name) else PUBLISHED.get(name)
        if options.subject is not None or (published is None and not is_here(cache, name)):
            raise
        if published.tuning if published else read_config(resolve_base(cache, name)).network.needs_tuning:
            raise
        raise UsageError(
            f"who is to be rendered? The base {name} needs no tuning: name a photo with --photo (a subject that was tuned on "
            "it is named with --subject)."
        ) from error


def _check_family(options: RenderOptions, config: BaseConfig) -> None:
    """UsageError for options that mean nothing on a base of this kind."""
    joint = config.network.joint
    given = {
        "--size": options.size is not None and not joint,
        "--window": options.window is not None and not joint,
        "--start-noise": options.start_noise is not None and not joint,
        "--pose-pictures": options.pose_pictures and not joint,
        "--appearance-once": options.appearance_once and not joint,
        "--pose-guidance": options.pose_guidance is not None and joint,
        "--photo-pose": options.photo_pose is not None and joint,
        "--batch-size": options.batch_size is not None and joint,
        "--compile": options.compile and joint,
        "--align on": options.align == "on" and joint,
    }
    for option in (option for option, wrong in given.items() if wrong):
        how = "denoises its frames together" if joint else "denoises frame by frame"
        raise UsageError(f"{option} means nothing on the base {config.name}, which {how}; leave it out.")


def content(options: RenderOptions, request: Request, source: Path) -> list:
    """The contents that the frames of a source depend on besides the settings: contents, not names."""
    photos = [file_digest(path) for path in (options.photo, options.photo_pose) if path and Path(path).is_file()]
    who = request.record.id if request.record is not None else photos
    span = [options.fps, options.start, options.end, options.photo_index, options.side_by_side, options.compile]
    return [who, fingerprint(request.home), source_digest(Path(source)), span]


def check_lengths(options: RenderOptions, request: Request, sequences: list[PoseSequence]) -> None:
    """UsageError where a picture is asked for and there are more frames."""
    if media.output_kind(request.targets[0]) == "png" and len(sequences[0]) > 1:
        raise UsageError(
            f"{options.output}: a .png holds one frame and there are more; use .mp4, .gif, .webp or a folder."
        )


def load(
    cache: Cache, options: RenderOptions, request: Request, device, dtype, model_cache: ModelCache, note: Note
) -> LoadedSubject:
    """Who is rendered, on the base, ready to render."""
    if request.record is not None:
        return load_subject(cache, request.record, request.home, options.photo_index, device, dtype, model_cache)
    assert options.photo is not None  # without a subject there is one
    return load_photo(cache, options.photo, options.photo_pose, request.home, device, dtype, note, model_cache)


def poses_from(
    cache: Cache, source: Path, options: RenderOptions, config: BaseConfig, progress: Progress | None, note: Note
) -> PoseSequence:
    """The poses of one source, with what pose windows see around the part that is rendered."""
    windows = config.poses
    return load_poses(
        cache,
        source,
        estimator=options.estimator or config.estimator,
        kind=getattr(windows, "kind", "densepose"),
        facing=options.facing,
        interpolate=options.interpolate,
        fps=options.fps,
        start=options.start,
        end=options.end,
        around=(windows.count // 2) / windows.training_fps if windows.training_fps else 0.0,
        at_least=windows.training_fps,
        device=options.device,
        progress=progress,
        note=note,
    )[0]


def _has_sound(source: Path) -> bool:
    """Whether there is sound to keep. What is no video at all is refused where its pictures are read, if anywhere."""
    try:
        return source.is_file() and not is_pose_source(source) and media.probe_video(source).has_audio
    except MediaError:
        return False
