"""`render`: from a subject and poses, as files, to videos, pictures or folders of frames.

What the options and the places of the results decide is said before numpy is imported, what the files decide
(`render_request`) before torch is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..cache import Cache, user_cache
from ..cache import key as cache_key
from ..errors import UsageError
from ..names import ALIGNMENTS, DTYPES, MEMORIES, NOISES, SAMPLERS, check_choice, check_device
from ..reporting import Note, Progress, no_note
from ..version import __version__
from .options import EditOptions, RenderOptions

if TYPE_CHECKING:
    from ..networks.model_cache import ModelCache


@dataclass(frozen=True)
class RenderResult:
    """The result of `render`: one path for each pose source."""

    paths: list[Path]
    frames: int
    seconds: float
    settings: dict


def render(
    options: RenderOptions,
    *,
    cache: Cache | None = None,
    model_cache: ModelCache | None = None,
    extra_metadata: dict[str, Any] | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> RenderResult:
    """Render one frame per pose. The base is taken from `model_cache`, which keeps it for the next render.
    `extra_metadata` joins what the result says of itself.

    Raises UsageError, SubjectError, BaseError, MediaError, PoseError, OutputError, OutOfMemoryError.
    """
    started = time.monotonic()
    cache, note = cache or user_cache(), note or no_note
    targets = _check(options)

    from .render_request import check_lengths, content, load, poses_from, read_request

    request = read_request(cache, options, targets, progress, note)
    options, edited = _with_edit(cache, options, progress, note)
    extra_metadata = {**(extra_metadata or {}), **edited}
    config = request.config
    if progress:
        progress(0, None, "loading the base")
    if config.network.joint:
        from .render_clip import render_clips

        frames, used = render_clips(cache, options, request, model_cache, extra_metadata, progress, note)
        return RenderResult([Path(t) for t in request.targets], frames, time.monotonic() - started, used)

    from ..device import pick_device, pick_dtype, release, slow_format
    from ..inference.alignment import place
    from ..inference.clip import counted, make_room, render_sequence
    from ..inference.compilation import PAYS_FROM, compile_blocks, require_compiler
    from ..inference.denoise import RenderSettings, prepare
    from ..inference.kept_frames import kept_frames
    from ..media.metadata import NOTICE
    from ..networks.model_cache import ModelCache
    from ..prefetch import prefetch

    device = pick_device(options.device)
    if options.compile:
        require_compiler(device)
    if slow := slow_format(options.dtype, device):
        note(slow)
    model_cache = model_cache or ModelCache(lean=options.memory == "low")
    subject = load(cache, options, request, device, pick_dtype(options.dtype, device), model_cache, note)
    settings = RenderSettings.of(
        subject.model,
        sampler=options.sampler,
        steps=options.steps,
        guidance={"image": options.image_guidance, "pose": options.pose_guidance},
        seed=options.seed,
        noise=options.noise,
        guidance_interval=options.guidance_interval,
    )
    prepared = prepare(subject.model, subject.picture, subject.pose, *subject.more)
    batch_plan = make_room(subject.model, settings, options.memory, options.batch_size)
    release(device)  # what loading and the photo took
    # All of them before the first frame is rendered: a bad one is said at once.
    sequences = [
        request.sequences[source]
        if source in request.sequences
        else poses_from(cache, source, options, config, progress, note)
        for source in options.poses
    ]
    check_lengths(options, request, sequences)
    placed = [place(cache, sequence, subject, options.align, options.device, note) for sequence in sequences]
    alignments = [alignment and alignment.as_settings() for _, alignment in placed]
    crop = subject.crop and asdict(subject.crop)
    metadata = {
        "software": f"dreampose-cli {__version__}",
        "notice": NOTICE,
        "who": subject.label,
        "base": config.name,
        **asdict(settings),
        **({"photos": 1 + len(subject.more)} if subject.more else {}),
        **extra_metadata,
    }
    if len(options.poses) > 1:
        Path(options.output).mkdir(parents=True, exist_ok=True)
    if options.compile:
        calls = sum(-(-len(sequence) // batch_plan.frames) for sequence in sequences) * settings.steps
        if calls >= PAYS_FROM or model_cache.keep:
            compile_blocks(subject.model)
            batch_plan = replace(batch_plan, even=True)
        else:
            note(f"--compile is left out: it would take longer than it saves in {calls} network calls.")
    for source, (sequence, _), alignment, target in zip(
        options.poses, placed, alignments, request.targets, strict=True
    ):
        label = f"frames of {Path(source).name}" if len(options.poses) > 1 else "frames"
        about = {"poses": Path(source).name, "align": options.align, "alignment": alignment, "crop": crop}
        depends = [metadata, about, content(options, request, source), options.dtype, str(device)]
        with contextlib.ExitStack() as stack:
            # Frames that attend to their neighbours are computed with them, from the beginning.
            alone = subject.model.context.size == 1
            key = cache_key("frames", depends, os.path.realpath(target)) if alone else None
            kept = stack.enter_context(kept_frames(cache, key, batch_plan.frames, note))
            make = functools.partial(
                render_sequence, subject, prepared, sequence, settings, batch_plan, options.side_by_side, note,
                first=kept.count,
            )  # fmt: skip
            fresh = stack.enter_context(contextlib.closing(prefetch(make, 2 * batch_plan.frames)))
            media.write_frames(
                target,
                counted(kept.then(fresh), len(sequence), label, progress),
                fps=sequence.fps,
                metadata={**metadata, **about},
                audio_from=Path(source) if source in request.heard else None,
                audio_start=options.start or 0.0,
                overwrite=options.overwrite,
                signing_key=request.signing_key,
            )
    total = sum(len(sequence) for sequence in sequences)
    used = {**asdict(settings), "align": options.align, "alignments": alignments, "crop": crop}
    return RenderResult([Path(t) for t in request.targets], total, time.monotonic() - started, used)


def _check(options: RenderOptions) -> list[Path | str]:
    """Refuse what the options and the places of the results alone decide; where each result goes.

    Raises UsageError, OutputError, OutputExistsError.
    """
    if options.subject is not None and options.photo is not None:
        raise UsageError("--subject and --photo exclude each other: a tuned subject, or a photo on the untuned base.")
    if not options.poses:
        raise UsageError("render needs --poses: a driving video, a picture, a folder of frames, or a pose file.")
    if options.edit is None and options.edit_where is not None:
        raise UsageError("--edit-where needs --edit: what is to change there.")
    if options.edit is not None and options.photo is None:
        raise UsageError(
            "--edit needs --photo: a subject was tuned on its photos as they are; edit one and tune it anew."
        )
    if options.photo is not None and options.photo_index is not None:
        raise UsageError("--photo-index chooses among a subject's photos; leave it out where --photo names one.")
    check_choice("alignment", options.align, ALIGNMENTS)
    check_choice("noise", options.noise, NOISES)
    check_choice("memory", options.memory, MEMORIES)
    check_choice("dtype", options.dtype, DTYPES)
    check_device(options.device)
    if options.sampler is not None:
        check_choice("sampler", options.sampler, SAMPLERS)
    targets = output_paths(options)
    for target in targets:
        media.require_apart(target, [*options.poses, options.photo, options.photo_pose])
    return targets


def _with_edit(
    cache: Cache, options: RenderOptions, progress: Progress | None, note: Note
) -> tuple[RenderOptions, dict[str, Any]]:
    """The options with the edited photo in the photo's place, and what a result says of the edit; without --edit, nothing.

    Every frame is made from the one edited photo, so that the edit is the same in all of them.
    """
    if options.edit is None:
        return options, {}
    from .edit import edited_file

    assert options.photo is not None  # `_check` refuses an edit without a photo
    asked = EditOptions(
        options.photo,
        options.edit,
        where=options.edit_where,
        photo_pose=options.photo_pose,
        seed=options.seed,
        device=options.device,
        dtype=options.dtype,
    )
    file, settings = edited_file(cache, asked, progress=progress, note=note)
    return replace(options, photo=file), {"who": f"photo {Path(options.photo).name}, edited", "edit": settings}


def output_paths(options: RenderOptions) -> list[Path | str]:
    """The place of each result; every place is checked before anything is computed.

    Raises UsageError, OutputError, OutputExistsError.
    """
    output, overwrite = options.output, options.overwrite
    kind = media.output_kind(output)
    if len(options.poses) == 1:
        media.check_output(output, overwrite)
        return [output]
    if kind != "folder":
        raise UsageError(f"{len(options.poses)} pose sources need a folder; end -o with a slash.")
    folder = Path(output)
    names = [Path(source).stem or Path(source).name for source in options.poses]
    if len(set(names)) < len(names):
        raise UsageError("two pose sources have the same name; rename one, since results are named after them.")
    media.check_output(f"{folder}/", True, owned=None)  # videos are added to a folder, which is not replaced
    targets: list[Path | str] = [folder / f"{name}.mp4" for name in names]
    for target in targets if folder.exists() else []:
        media.check_output(target, overwrite)
    return targets
