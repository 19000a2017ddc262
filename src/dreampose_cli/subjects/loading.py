"""A subject or an untuned photo, made ready to render: the base with its weights in place, and its photo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import media
from ..bases.config import read_config
from ..bases.fingerprint import fingerprint
from ..bases.registry import resolve_base
from ..cache import Cache
from ..errors import BaseError, DreamposeError, SubjectError, UsageError
from ..media.fitting import Crop, Fit, fit_picture
from ..reporting import Note
from .format import SubjectRecord, damaged, read_subject
from .views import SubjectPhotos, read_views

if TYPE_CHECKING:
    import torch

    from ..networks.model_cache import ModelCache
    from ..networks.network import Network


@dataclass
class LoadedSubject:
    """Who is rendered: the base, tuned if a subject was asked for, and the photo that conditions.

    picture uint8 (H, W, 3) and pose (3, H, W) at the base's resolution, the pose all zero where nothing has needed it
    yet; size is the photo's own (height, width); crop is the region of it that is used, None for the whole; label says
    who it is in words. more: further photos of the subject, with their poses, that condition as well.
    """

    model: Network
    picture: np.ndarray
    pose: np.ndarray
    size: tuple[int, int]
    label: str
    crop: Crop | None = None
    more: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def fit(self) -> Fit:
        """The box of the photo, or of the region of it that is used, within the base's frame."""
        return Fit.of(self.crop.size if self.crop else self.size, self.model.config.resolution, self.model.config.fit)


def find_subject(cache: Cache, token: str | None, base: str | None, photo_index: int | None = None) -> tuple[SubjectRecord, Path]:
    """The subject `token` (id, name or photo; None: the one tuned last) and the folder of its base; needs no torch.

    Of several with one name or photo the newest on `base` is taken, and where there is none on it, that is a UsageError.
    Raises SubjectError, BaseError, and UsageError where it has no photo number `photo_index`.
    """
    asked = None if base is None else fingerprint(resolve_base(cache, base))
    record = read_subject(cache.find_subject(token, asked).path)
    home = _base_of(cache, record)
    if asked is not None and asked != record.base["fingerprint"]:
        raise UsageError(
            f"subject {record.id} was tuned on the base {record.base['name']}; leave --base out, or tune the photo on "
            f"{base}."
        )
    count = len(record.sizes)
    if photo_index is not None and not 1 <= photo_index <= count:
        raise UsageError(f"subject {record.id} has {count} photo(s); --photo-index {photo_index} is not one of them.")
    return record, home


def load_subject(
    cache: Cache,
    record: SubjectRecord,
    home: Path,
    photo_index: int | None,
    device: torch.device,
    dtype: torch.dtype,
    model_cache: ModelCache | None = None,
) -> LoadedSubject:
    """The subject on its base, whose folder is `home` and which comes from the `model_cache`, conditioned by one of its photos, or
    where none is named by all, if the base sees several.

    Full and low-rank subjects end up the same, as weights of the network. Raises SubjectError, BaseError.
    """
    from safetensors.torch import load_file

    from ..networks.lora import merge
    from ..networks.model_cache import ModelCache

    model = (model_cache or ModelCache()).base(home, device, dtype)
    try:
        for name, module in model.tuned.items():
            merge(module, load_file(record.weight_file(name)))
        picture, pose = record.view(photo_index or 1)
        several = photo_index is None and model.config.network.sees_several_photos
        more = [record.view(i) for i in range(2, len(record.sizes) + 1)] if several else []
    except Exception as error:  # whatever a damaged file makes its library raise
        raise damaged(record.folder, error) from error
    cache.touch("subject", record.id)
    at = (photo_index or 1) - 1
    return LoadedSubject(model, picture, pose, record.sizes[at], f"subject {record.id}", record.crops[at], more)


def load_photo(
    cache: Cache,
    photo: Path,
    pose: Path | None,
    home: Path,
    device: torch.device,
    dtype: torch.dtype,
    note: Note | None = None,
    model_cache: ModelCache | None = None,
) -> LoadedSubject:
    """An untuned photo on the base in `home`. Its pose comes from `pose`, else from the base's estimator where needed.

    A network that does not look at it needs it only to find a small person in a photo of another aspect than the base's;
    where that fails, the whole photo is used.
    """
    from ..networks.model_cache import ModelCache

    picture, config = media.read_photo(photo), read_config(home)
    size = picture.shape[:2]
    views = None
    must = pose is not None or config.network.needs_photo_pose
    fit = Fit.of(size, config.resolution, config.fit)
    if must or (fit.height, fit.width) != tuple(config.resolution):
        try:
            given = [pose] if pose else None
            views = read_views(cache, config, [photo], [picture], given, config.estimator, str(device), note)
        except DreamposeError as error:
            if must:
                raise
            if note:
                note(f"{photo} is used whole: {error}")
    if views is None:
        views = SubjectPhotos(
            fit_picture(picture, config.resolution, config.fit)[None],
            np.zeros((1, 3, *config.resolution), np.float32),
            [None],
        )
    model = (model_cache or ModelCache()).base(home, device, dtype)
    label = f"photo {Path(photo).name}"
    return LoadedSubject(model, views.pictures[0], views.poses[0], size, label, views.crops[0])


def _base_of(cache: Cache, record: SubjectRecord) -> Path:
    """The folder of the base a subject was tuned on, unchanged since."""
    origin = record.base
    for candidate in filter(None, (cache.place_of(record.id), origin["name"])):
        try:
            folder = resolve_base(cache, candidate)
        except BaseError:
            continue
        if fingerprint(folder) == origin["fingerprint"]:
            return folder
    raise SubjectError(
        f"subject {record.id} was tuned on the base {origin['name']} (fingerprint {origin['fingerprint']}), which has changed or "
        "gone since; tune the photo again."
    )
