"""A subject or an untuned photo, made ready to render: the base with its weights in place, and its photo."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from .. import media, store
from ..errors import BaseError, SubjectError, UsageError
from ..fitting import Fit, fit_picture
from ..model.base import Base, load_base
from ..model.bases import resolve_base
from ..model.revision import revision
from ..training.tuning import SUBJECT_FILE, SUBJECT_VERSION, Views, read_views


@dataclass
class Sitter:
    """Who is rendered: the base, tuned if a subject was asked for, and the photo that conditions.

    picture uint8 (H, W, 3) and pose (3, H, W) at the base's resolution; size is the photo's own (height, width); label
    says who it is in words.
    """

    model: Base
    picture: np.ndarray
    pose: np.ndarray
    size: tuple[int, int]
    label: str

    @property
    def fit(self) -> Fit:
        """Where the photo lies within the base's frame."""
        return Fit.of(self.size, self.model.config.resolution, self.model.config.fit)


def load_subject(
    token: str | None, base: str | None, condition: int, device: torch.device, dtype: torch.dtype
) -> Sitter:
    """The subject `token` (id, name or photo; None: the one tuned last), conditioned by its photo number `condition`.

    A subject carries its base: another `base` is a UsageError. Raises SubjectError, BaseError.
    """
    entry = store.find_subject(token)
    folder = entry.path
    try:
        about = json.loads((folder / SUBJECT_FILE).read_text(encoding="utf-8"))
        version, origin = about["version"], {key: about["base"][key] for key in ("name", "path", "revision")}
        photos = [tuple(int(side) for side in photo["size"]) for photo in about["photos"]]
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
    if base is not None and revision(resolve_base(base)) != origin["revision"]:
        raise UsageError(
            f"subject {entry.id} was tuned on the base {origin['name']}; leave --base out, or tune the photo on {base}."
        )
    if not 1 <= condition <= len(photos):
        raise UsageError(f"subject {entry.id} has {len(photos)} photo(s); --condition {condition} is not one of them.")
    model = load_base(home)
    try:
        for name in ("unet", "adapter"):
            getattr(model, name).load_state_dict(_weights(folder / f"{name}.safetensors"))
        model.vae.decoder.load_state_dict(_weights(folder / "decoder.safetensors"))
        with Image.open(folder / f"photo-{condition}.png") as photo:
            picture = np.asarray(photo.convert("RGB"))
        pose = np.load(folder / f"pose-{condition}.npy", allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes its library raise
        raise SubjectError(
            f"the subject in {folder} is damaged ({str(error).splitlines()[0]}); "
            f"`dreampose cache rm {entry.id}` removes it, then tune it again."
        ) from error
    store.touch("subject", entry.id)
    return Sitter(model.to(device, dtype), picture, pose, photos[condition - 1], f"subject {entry.id}")


def load_photo(
    photo: Path, pose: Path | None, base: str | None, device: torch.device, dtype: torch.dtype, note=None, progress=None
) -> Sitter:
    """An untuned photo on a base. Its pose comes from `pose`, else from the base's estimator where the base needs it."""
    picture = media.read_photo(photo)
    model = load_base(resolve_base(base, note, progress))
    config = model.config
    if pose is not None or config.photo.unet_channels == "surface":
        views = read_views(config, [photo], [picture], [pose] if pose else None, config.estimator, str(device), note)
    else:
        views = Views(
            fit_picture(picture, config.resolution, config.fit)[None], np.zeros((1, 3, *config.resolution), np.float32)
        )
    return Sitter(
        model.to(device, dtype), views.pictures[0], views.poses[0], picture.shape[:2], f"photo {Path(photo).name}"
    )


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


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(path).items()}
