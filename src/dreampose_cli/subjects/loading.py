"""A subject or an untuned photo, made ready to render: the base with its weights in place, and its photo."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from .. import cache, media
from ..bases.fingerprint import revision
from ..bases.registry import resolve_base
from ..errors import BaseError, DreamposeError, SubjectError, UsageError
from ..media.fitting import Crop, Fit, fit_picture
from ..networks.dreampose.network import Base
from ..networks.lora import put_on
from ..networks.model_cache import Shelf, tuned_modules
from ..workflows.tune import SUBJECT_FILE, SUBJECT_VERSION, Views, read_views


@dataclass
class Sitter:
    """Who is rendered: the base, tuned if a subject was asked for, and the photo that conditions.

    picture uint8 (H, W, 3) and pose (3, H, W) at the base's resolution, the pose all zero where nothing has needed it
    yet; size is the photo's own (height, width); crop is the region of it that is used, None for the whole; label says
    who it is in words.
    """

    model: Base
    picture: np.ndarray
    pose: np.ndarray
    size: tuple[int, int]
    label: str
    crop: Crop | None = None

    @property
    def fit(self) -> Fit:
        """Where the photo, or the region of it that is used, lies within the base's frame."""
        return Fit.of(self.crop.size if self.crop else self.size, self.model.config.resolution, self.model.config.fit)


def load_subject(
    token: str | None,
    base: str | None,
    condition: int,
    device: torch.device,
    dtype: torch.dtype,
    shelf: Shelf | None = None,
) -> Sitter:
    """The subject `token` (id, name or photo; None: the one tuned last), conditioned by its photo number `condition`.

    A subject carries its base, which comes from the `shelf`; of several with one name or photo the newest on `base` is
    taken, and where there is none on it, that is a UsageError. Full and low-rank subjects end up the same, as weights of
    the network. Raises SubjectError, BaseError.
    """
    asked = None if base is None else revision(resolve_base(base))
    entry = cache.find_subject(token, asked)
    folder = entry.path
    try:
        about = json.loads((folder / SUBJECT_FILE).read_text(encoding="utf-8"))
        version, origin = about["version"], {key: about["base"][key] for key in ("name", "path", "revision")}
        photos = [tuple(int(side) for side in photo["size"]) for photo in about["photos"]]
        crops = [Crop(**photo["crop"]) if "crop" in photo else None for photo in about["photos"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SubjectError(
            f"the subject in {folder} is damaged ({error}); `dreampose cache rm {entry.id}` removes it."
        ) from error
    if version != SUBJECT_VERSION:
        raise SubjectError(
            f"subject {entry.id} was made by another version of dreampose (format {version}, this one reads "
            f"{SUBJECT_VERSION}); tune it again."
        )
    home = _base_of(origin, entry.id)
    if asked is not None and asked != origin["revision"]:
        raise UsageError(
            f"subject {entry.id} was tuned on the base {origin['name']}; leave --base out, or tune the photo on {base}."
        )
    if not 1 <= condition <= len(photos):
        raise UsageError(f"subject {entry.id} has {len(photos)} photo(s); --condition {condition} is not one of them.")
    model = (shelf or Shelf()).base(home, device, dtype)
    try:
        for name, module in tuned_modules(model).items():
            put_on(module, load_file(folder / f"{name}.safetensors"))
        with Image.open(folder / f"photo-{condition}.png") as photo:
            picture = np.asarray(photo.convert("RGB"))
        pose = np.load(folder / f"pose-{condition}.npy", allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes its library raise
        raise SubjectError(
            f"the subject in {folder} is damaged ({str(error).splitlines()[0]}); "
            f"`dreampose cache rm {entry.id}` removes it, then tune it again."
        ) from error
    cache.touch("subject", entry.id)
    return Sitter(model, picture, pose, photos[condition - 1], f"subject {entry.id}", crops[condition - 1])


def load_photo(
    photo: Path,
    pose: Path | None,
    base: str | None,
    device: torch.device,
    dtype: torch.dtype,
    note=None,
    progress=None,
    shelf: Shelf | None = None,
) -> Sitter:
    """An untuned photo on a base. Its pose comes from `pose`, else from the base's estimator where it is needed.

    A base that knows no surface needs it only to find a small person in a photo of another aspect than the base's;
    where that fails, the whole photo is used.
    """
    picture = media.read_photo(photo)
    model = (shelf or Shelf()).base(resolve_base(base, note, progress), device, dtype)
    config = model.config
    size = picture.shape[:2]
    views = None
    must = pose is not None or config.photo.unet_channels == "surface"
    fit = Fit.of(size, config.resolution, config.fit)
    if must or (fit.height, fit.width) != tuple(config.resolution):
        try:
            given = [pose] if pose else None
            views = read_views(config, [photo], [picture], given, config.estimator, str(device), note)
        except DreamposeError as error:
            if must:
                raise
            if note:
                note(f"{photo} is used whole: {error}")
    if views is None:
        views = Views(
            fit_picture(picture, config.resolution, config.fit)[None],
            np.zeros((1, 3, *config.resolution), np.float32),
            [None],
        )
    label = f"photo {Path(photo).name}"
    return Sitter(model, views.pictures[0], views.poses[0], size, label, views.crops[0])


def _base_of(origin: dict, subject: str) -> Path:
    """The folder of the base a subject was tuned on, unchanged since."""
    for candidate in (origin["path"], origin["name"]):
        try:
            folder = resolve_base(candidate)
        except BaseError:
            continue
        if revision(folder) == origin["revision"]:
            return folder
    raise SubjectError(
        f"subject {subject} was tuned on the base {origin['name']} (revision {origin['revision']}), which has changed or "
        "gone since; tune the photo again."
    )
