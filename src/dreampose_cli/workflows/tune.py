"""`tune`: from photos of one subject to a subject (phase 2, paper section 4.4).

A subject is cached by what determines it: the photos' bytes, where their poses come from, the base's content and the
settings. What is cached is found without torch, numpy and Pillow.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..bases.config import BaseConfig, TuningSettings, read_config
from ..bases.fingerprint import fingerprint
from ..bases.registry import lasting_name, resolve_base, to_download
from ..cache import Cache, file_digest, key, read_json, user_cache
from ..errors import UsageError
from ..names import DTYPES, MEMORIES, check_choice, check_device
from ..poses.fingerprint import estimator_fingerprint, source_digest
from ..reporting import Note, Progress, no_note
from ..subjects.format import SUBJECT_FILE, SUBJECT_VERSION, is_whole, rename, write_subject
from ..version import __version__
from .options import TuneOptions

if TYPE_CHECKING:
    from ..networks.model_cache import ModelCache

LOW_RANK_RATE, LOW_RANK_DECODER_RATE = 10.0, 10.0  # learning rates of low-rank updates, times those of full tuning


@dataclass(frozen=True)
class TunedSubject:
    """A subject in the cache; `cached` says that nothing had to be computed."""

    id: str
    name: str | None
    base: str
    path: Path
    cached: bool
    seconds: float


def tune(
    options: TuneOptions,
    *,
    cache: Cache | None = None,
    model_cache: ModelCache | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> TunedSubject:
    """Tune a base on one or more photos of one subject; what is in `cache` (the user's) is returned at once. The base is taken from
    `model_cache`, which keeps it for what comes next.

    A run that was interrupted resumes from its last checkpoint. Raises MediaError, PoseError, NoPersonError, BaseError,
    UsageError, StoreError, OutOfMemoryError.
    """
    cache, note = cache or user_cache(), note or no_note
    started = time.monotonic()
    _check(options)
    if to_download(cache, options.base):
        _open_photos(options)
    folder = resolve_base(cache, options.base, note, progress, options.device)
    config = read_config(folder)
    estimator = options.estimator or config.estimator
    settings = resolve_settings(config.tuning, options)
    if config.network.tuned_in_low_rank and not settings.lora_rank:
        raise UsageError(f"--lora-rank 0: the base {config.name} is tuned in low rank only; give a rank of 1 or more.")
    identity = {
        "version": SUBJECT_VERSION,
        "base": fingerprint(folder),
        "photos": [file_digest(path) for path in options.photos],
        "poses": _origin_of_poses(cache, options, estimator, note, progress),
        "settings": asdict(settings),
        "seed": options.seed,
        "dtype": options.dtype,
    }
    id = key("subject", identity)
    entry = cache.path_of("subject", id)
    cached = is_whole(entry)
    with contextlib.nullcontext() if cached else cache.lock(f"subject-{id}", waiting=note, what=f"the subject {id}"):
        cached = cached or is_whole(entry)  # by the process that was waited for
        if not cached:
            _open_photos(options)
            if config.network.tuned_in_low_rank:
                note(
                    f"the base {config.name} renders a photo without tuning; this takes {settings.steps} + "
                    f"{settings.decoder_steps} steps, for a GPU to do."
                )
            partial = cache.partial_folder(id)
            if not (partial / SUBJECT_FILE).exists():  # else it was stopped after its last step, and is whole
                about = {
                    "id": id,
                    "name": options.name,
                    "dreampose": __version__,
                    "base": {
                        "name": lasting_name(folder),
                        "fingerprint": identity["base"],
                    },
                    **{name: identity[name] for name in ("settings", "seed")},
                }
                with cache.storing(within=partial):
                    _learn(
                        cache,
                        options,
                        folder,
                        config,
                        settings,
                        identity,
                        about,
                        partial,
                        started,
                        model_cache,
                        progress,
                        note,
                    )
            shutil.rmtree(partial / "checkpoints", ignore_errors=True)
            entry = cache.publish_partial(id, "subject")
        cache.note_place(id, folder)
        if options.name is not None:
            rename(entry, options.name)
    cache.touch("subject", id)
    cache.set_last_subject(id)
    name = options.name if options.name is not None else read_json(entry / SUBJECT_FILE).get("name")
    return TunedSubject(id, name, config.name, entry, cached, time.monotonic() - started)


def resolve_settings(preset: TuningSettings, options: TuneOptions) -> TuningSettings:
    """The base's preset, but for what was asked for. The preset's learning rates are those of full tuning."""
    if options.lora_rank if options.lora_rank is not None else preset.lora_rank:
        preset = replace(
            preset,
            learning_rate=LOW_RANK_RATE * preset.learning_rate,
            decoder_learning_rate=LOW_RANK_DECODER_RATE * preset.decoder_learning_rate,
        )
    asked: dict[str, Any] = {
        "steps": options.steps,
        "decoder_steps": options.decoder_steps,
        "learning_rate": options.learning_rate,
        "decoder_learning_rate": options.decoder_learning_rate,
        "batch_size": options.batch_size,
        "lora_rank": options.lora_rank,
    }
    return replace(preset, **{name: value for name, value in asked.items() if value is not None})


def _check(options: TuneOptions) -> None:
    """Refuse what can be refused without a base: options, and photos that are none."""
    if not options.photos:
        raise UsageError("tune needs at least one photo.")
    if options.poses and len(options.poses) != len(options.photos):
        raise UsageError(
            f"{len(options.photos)} photos but {len(options.poses)} --poses: give one for each photo, in the same order."
        )
    check_choice("memory", options.memory, MEMORIES)
    check_choice("dtype", options.dtype, DTYPES)
    check_device(options.device)
    for path in options.photos:
        media.require_file(path)
    for source in options.poses or []:
        if not Path(source).exists():
            media.require_file(source)


def _open_photos(options: TuneOptions) -> None:
    """Refuse photos that are none, before what takes time: a download, or tuning."""
    for path in options.photos:
        with media.open_picture(path):
            pass


def _origin_of_poses(cache: Cache, options: TuneOptions, estimator: str, note: Note, progress: Progress | None) -> Any:
    """The identity of the poses that the photos get: the digests of the pose sources, else of the estimator."""
    if options.poses:
        return {"sources": [source_digest(Path(source)) for source in options.poses], "estimator": None}
    found = estimator_fingerprint(estimator)
    if found is None:  # not on this machine yet, or unknown
        _open_photos(options)
        from ..poses.estimator import load_estimator

        load_estimator(cache, estimator, note=note, progress=progress)
        found = estimator_fingerprint(estimator)
    return {"sources": None, "estimator": found}


def _learn(
    cache: Cache,
    options: TuneOptions,
    folder: Path,
    config: BaseConfig,
    settings: TuningSettings,
    identity: dict[str, Any],
    about: dict[str, Any],
    partial: Path,
    started: float,
    model_cache: ModelCache | None,
    progress: Progress | None,
    note: Note,
) -> None:
    """Tune the base in `folder` and write the subject into `partial`, where its checkpoints are too."""
    pictures = [media.read_photo(path) for path in options.photos]
    if progress:
        progress(0, None, "loading the base")

    from ..device import autocast_of, pick_device, release, slow_format
    from ..inference.compilation import interpret_blocks
    from ..networks.model_cache import ModelCache
    from ..subjects.views import read_views
    from ..training.memory import MemoryPlan
    from ..training.tuning import fit_subject

    device = pick_device(options.device)
    autocast = autocast_of(options.dtype, device)
    if slow := slow_format(autocast, device):
        note(slow)
    plan = MemoryPlan.of(settings, device, options.memory, autocast)
    estimator = options.estimator or config.estimator
    views = read_views(cache, config, options.photos, pictures, options.poses, estimator, options.device, note)
    model_cache = model_cache or ModelCache(lean=options.memory == "low" and device.type == "cpu")
    model = model_cache.base(folder, device, plan.frozen)
    interpret_blocks(model)  # those that a render before has compiled
    release(device)  # what reading and loading took
    # Another device may compute in another format: its checkpoints are not these.
    how = f"{autocast or 'float32'}{'-8bit' if plan.eight_bit_adam else ''}"
    try:
        tuned = fit_subject(
            model, views, settings, options.seed, autocast, partial / "checkpoints" / how, progress, note, plan
        )
    except BaseException:
        model_cache.clear()  # the network is left in the midst of learning
        raise
    about["photos"] = [
        {"file": Path(path).name, "sha256": digest, "size": list(picture.shape[:2])}
        | ({"crop": asdict(crop)} if crop else {})
        for path, digest, picture, crop in zip(options.photos, identity["photos"], pictures, views.crops, strict=True)
    ]
    about["seconds"] = round(time.monotonic() - started, 1)
    write_subject(tuned, views, about, partial)
