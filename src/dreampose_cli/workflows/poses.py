"""`poses`: from a driving video, or anything that holds poses, to a pose sequence."""

from __future__ import annotations

import os
from pathlib import Path

from ..bases.registry import default_estimator
from ..cache import Cache, user_cache
from ..errors import BaseError
from ..poses.extraction import ExtractionResult, extract
from ..poses.files import is_pose_source
from ..reporting import Note, Progress, no_note
from .options import PosesOptions


def poses(
    options: PosesOptions,
    *,
    cache: Cache | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> ExtractionResult:
    """Write the poses of a source. Memory does not grow with the clip.

    Raises MediaError, PoseError, NoPersonError, UsageError, OutputError.
    """
    cache, note = cache or user_cache(), note or no_note
    return extract(
        cache,
        options.source,
        options.output,
        estimator=options.estimator or _estimator_of_base(cache, options.source, progress, note),
        estimator_size=options.estimator_size,
        person=options.person,
        size=options.size,
        format=options.format,
        fps=options.fps,
        start=options.start,
        end=options.end,
        device=options.device,
        dtype=options.dtype,
        overwrite=options.overwrite,
        preview=options.preview,
        facing=options.facing,
        interpolate=options.interpolate,
        progress=progress,
        note=note,
    )


def _estimator_of_base(cache: Cache, source: Path, progress: Progress | None, note: Note) -> str:
    """The estimator of the base that `render` would take; mini where there are several to choose from.

    Where the source holds poses no estimator is needed, and no base is looked for.
    """
    if is_pose_source(source):
        return "mini"
    try:
        return default_estimator(cache, note, progress)
    except BaseError as error:
        if os.environ.get("DREAMPOSE_BASE"):
            raise
        note(f"{error} The estimator is mini, which knows mannequins only, unless --estimator says otherwise.")
        return "mini"
