"""`edit`: a photo and an instruction become an edited photo; `render --edit` animates the result.

What the model makes of a photo is kept in the cache by content, so that another region or strength costs nothing. All
that can be refused without weights is refused before torch is imported.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import media
from ..bases.pipelines import INSTRUCT_PIX2PIX, pipeline_folder
from ..bases.registry import default_estimator
from ..cache import Cache, key, user_cache
from ..errors import MediaError, NoPersonError, UsageError
from ..media.compositing import composite, feather, read_mask
from ..media.metadata import NOTICE
from ..names import DTYPES, EDIT_REGIONS, STEPS_RANGE, check_choice, check_device, check_range
from ..reporting import Note, Progress, no_note
from ..version import __version__
from .options import EditOptions

PICTURE = "edited.png"  # in an entry of the cache
EDIT_VERSION = 1  # of what is computed: a change makes what is cached void
MOST_WORDS = 100  # beyond, no tokenizer need be asked
FEATHER = 0.01  # of the photo's longer side


@dataclass(frozen=True)
class EditResult:
    """The result of `edit`; changed is the share of the photo's pixels that are not as they were."""

    path: Path
    size: dict[str, int]
    changed: float
    seconds: float
    settings: dict[str, Any]


def edit(
    options: EditOptions,
    *,
    cache: Cache | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> EditResult:
    """Write the photo as the instruction asks. Raises UsageError, MediaError, PoseError, BaseError, OutputError."""
    started = time.monotonic()
    if Path(options.output).suffix.lower() != ".png":
        raise UsageError(f"{options.output}: an edited photo is a .png, which keeps the rest of it exactly.")
    media.check_output(options.output, options.overwrite)
    media.require_apart(options.output, [options.photo, options.photo_pose, options.where])
    picture, edited, settings = edited_photo(cache or user_cache(), options, progress=progress, note=note)
    metadata = {"software": f"dreampose-cli {__version__}", "notice": NOTICE, "photo": Path(options.photo).name}
    media.write_frames(
        options.output, [edited], fps=1, metadata={**metadata, "edit": settings}, overwrite=options.overwrite
    )
    height, width = edited.shape[:2]
    changed = float((picture != edited).any(axis=2).mean())
    size = {"width": width, "height": height}
    return EditResult(Path(options.output), size, changed, time.monotonic() - started, settings)


def edited_photo(
    cache: Cache, options: EditOptions, *, progress: Progress | None = None, note: Note | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The photo and the edited photo, both uint8 (H, W, 3) of one size, and what made it, for a result's metadata."""
    note = note or no_note
    _check(options)
    picture = media.read_photo(options.photo)
    mask = _mask(cache, options, picture, note)  # before gigabytes are loaded
    folder, model = pipeline_folder(INSTRUCT_PIX2PIX, options.model, progress=progress, note=note)
    whole = _from_model(cache, options, picture, folder, model, progress, note)
    opacity = np.ones(picture.shape[:2], np.float32)
    if mask is not None:
        opacity = feather(mask, round(FEATHER * max(picture.shape[:2])))
    made = composite(picture, whole, opacity * options.strength)
    settings = {
        "instruction": options.instruction,
        "model": model if options.model is None or not Path(options.model).is_dir() else Path(model).name,
        "where": options.where if options.where in (None, *EDIT_REGIONS) else Path(str(options.where)).name,
        "face": options.face,
        "guidance": options.guidance,
        "image_guidance": options.image_guidance,
        "steps": options.steps,
        "strength": options.strength,
        "seed": options.seed,
    }
    return picture, made, settings


def edited_file(
    cache: Cache, options: EditOptions, *, progress: Progress | None = None, note: Note | None = None
) -> tuple[Path, dict[str, Any]]:
    """The edited photo as a file of the cache, made once, and what made it."""
    _, made, settings = edited_photo(cache, options, progress=progress, note=note)
    id = key(EDIT_VERSION, made.tobytes(), list(made.shape))
    with cache.lock(f"edit-{id}", waiting=note, what="this edit"):
        entry = cache.get("edit", id)
        if entry is None:
            with cache.publish_folder("edit", id) as part:
                Image.fromarray(made).save(part / PICTURE)
        cache.touch("edit", id)
    return cache.path_of("edit", id) / PICTURE, settings


def _check(options: EditOptions) -> None:
    words = options.instruction.split()
    if not words:
        raise UsageError("the instruction is empty; say what to change, such as: make the dress red.")
    if len(words) > MOST_WORDS:
        raise UsageError(f"the instruction has {len(words)} words and the model reads about 50; shorten it.")
    for name, value, limits in (
        ("--guidance", options.guidance, (1.0, 30.0)),
        ("--image-guidance", options.image_guidance, (1.0, 30.0)),
        ("--steps", options.steps, STEPS_RANGE),
        ("--strength", options.strength, (0.0, 1.0)),
    ):
        check_range(name, value, limits)
    check_choice("dtype", options.dtype, DTYPES)
    check_device(options.device)
    if options.where is not None and options.where not in EDIT_REGIONS and not Path(options.where).is_file():
        raise UsageError(
            f"--where is {options.where!r}, but must be {', '.join(EDIT_REGIONS)}, or a mask as a picture."
        )


def _mask(cache: Cache, options: EditOptions, picture: np.ndarray, note: Note) -> np.ndarray | None:
    """The region in which the photo may change, bool (H, W); None for everywhere. A mask from a file is taken as it is."""
    size = picture.shape[:2]
    if options.where is not None and options.where not in EDIT_REGIONS:
        return read_mask(Path(options.where), size)
    if options.where is None and options.face:
        return None
    from ..poses.regions import face_mask, region_mask

    try:
        pose = _pose(cache, options, picture, note)
    except NoPersonError as problem:
        if options.where is not None:
            raise
        note(f"no face is kept: {problem}")
        return None
    mask = np.ones(size, bool) if options.where is None else region_mask(pose, options.where, size)
    if not options.face:
        mask &= ~face_mask(pose, size)
    if not mask.any():
        raise MediaError(f"{options.photo} shows nothing but a face there; with --face the face is edited too.")
    return mask


def _pose(cache: Cache, options: EditOptions, picture: np.ndarray, note: Note) -> np.ndarray:
    from ..poses.extraction import load_poses
    from ..poses.photo import estimate_photo

    if options.photo_pose is not None:
        return load_poses(cache, options.photo_pose, device=options.device, note=note)[0].frame(0)
    estimator = options.estimator or default_estimator(cache)
    return estimate_photo(cache, picture, options.photo, estimator, options.device, note)


def _from_model(
    cache: Cache,
    options: EditOptions,
    picture: np.ndarray,
    folder: Path,
    model: str,
    progress: Progress | None,
    note: Note,
) -> np.ndarray:
    """The model's edit of the whole photo, from the cache where it was made before."""
    from ..poses.fingerprint import file_fingerprint

    name = model if "@" in model else file_fingerprint(folder / "unet" / "diffusion_pytorch_model.safetensors")
    settings = [options.instruction, options.guidance, options.image_guidance, options.steps, options.seed]
    number = [options.device, options.dtype]
    id = key(EDIT_VERSION, picture.tobytes(), list(picture.shape), name, settings, number)
    with cache.lock(f"edit-{id}", waiting=note, what="this edit"):
        entry = cache.get("edit", id)
        if entry is None:
            from ..device import pick_device, pick_dtype
            from ..networks.instruct_pix2pix import edit_picture, require_short

            require_short(options.instruction, folder)
            device = pick_device(options.device)
            made = edit_picture(
                folder,
                picture,
                options.instruction,
                guidance=options.guidance,
                image_guidance=options.image_guidance,
                steps=options.steps,
                seed=options.seed,
                device=device,
                dtype=pick_dtype(options.dtype, device),
                progress=progress,
            )
            with cache.publish_folder("edit", id) as part:
                Image.fromarray(made).save(part / PICTURE)
                about = {"instruction": options.instruction, "model": name}
                (part / "edit.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        else:
            made = media.read_photo(entry.path / PICTURE)
        cache.touch("edit", id)
    return made
