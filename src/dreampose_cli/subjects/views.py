"""From photos of a subject to views: pictures and poses at a base's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bases.config import BaseConfig
from ..cache import Cache
from ..errors import NoPersonError, PoseError
from ..media.fitting import Crop, fit_picture, fit_pose
from ..poses.extraction import load_poses
from ..poses.photo import estimate_photo
from ..poses.skeleton_picture import draw_skeleton
from ..reporting import Note

WIDENINGS = 4  # of a photo's region, before the whole is taken


@dataclass(frozen=True)
class SubjectPhotos:
    """A subject's photos at the base's resolution: pictures uint8 (N, H, W, 3), poses float32 (N, 3, H, W).

    crops: of each photo the region that was used, None for the whole.
    """

    pictures: np.ndarray
    poses: np.ndarray
    crops: list[Crop | None]


def read_views(
    cache: Cache,
    config: BaseConfig,
    photos: Sequence[Path],
    pictures: Sequence[np.ndarray],
    poses: Sequence[Path] | None,
    estimator: str,
    device: str,
    note: Note | None = None,
) -> SubjectPhotos:
    """Photos and their poses at the base's resolution; the poses from the given files, else from the estimator.

    For a base that follows keypoints poses are their drawings, (N, 3, H, W) in [0, 1], and photos are used whole.
    """
    if config.poses.kind == "keypoints":
        return _drawn_views(cache, config, photos, pictures, poses, estimator, device, note)
    fitted, frames, crops = [], [], []
    for i, (path, picture) in enumerate(zip(photos, pictures, strict=True)):
        if poses:
            sequence, _, _ = load_poses(cache, poses[i], estimator=estimator, device=device, note=note)
            frame = sequence.frame(0)
            if not (frame[1:] > 0).any():
                raise PoseError(f"{poses[i]} shows nobody; give the pose of {path}, or leave it to the estimator.")
            if abs(frame.shape[1] / frame.shape[2] * picture.shape[1] / picture.shape[0] - 1) > 0.03:
                raise PoseError(
                    f"the pose in {poses[i]} is {frame.shape[2]}x{frame.shape[1]} and {path} is "
                    f"{picture.shape[1]}x{picture.shape[0]}: give the pose of this very photo, or leave it to the estimator."
                )
        else:
            frame = estimate_photo(cache, picture, path, estimator, device, note)
        size = picture.shape[:2]
        crop = Crop.around(frame, size, config.resolution, config.fit)
        if crop and not poses:
            crop, frame = crop_to_person(cache, crop, picture, frame, path, config, estimator, device)
        elif crop:
            frame = crop.of_pose(frame, size)
        if crop:
            picture = crop.of_picture(picture)
            if note:
                note(f"{path} is cropped to {crop.width}x{crop.height} around the person, who would be small in the whole.")
        fitted.append(fit_picture(picture, config.resolution, config.fit))
        frames.append(fit_pose(frame, config.resolution, config.fit, config.poses.resize))
        crops.append(crop)
    return SubjectPhotos(np.stack(fitted), np.stack(frames), crops)


def _drawn_views(
    cache: Cache,
    config: BaseConfig,
    photos: Sequence[Path],
    pictures: Sequence[np.ndarray],
    poses: Sequence[Path] | None,
    estimator: str,
    device: str,
    note: Note | None,
) -> SubjectPhotos:
    fitted, drawn = [], []
    for i, (path, picture) in enumerate(zip(photos, pictures, strict=True)):
        source = poses[i] if poses else path
        found, _, _ = load_poses(cache, source, estimator=estimator, kind="keypoints", device=device, note=note)
        skeleton = draw_skeleton(found.frame(0), found.size)
        if not skeleton.any():
            raise NoPersonError(f"no person is visible in {source}.")
        fitted.append(fit_picture(picture, config.resolution, config.fit))
        skeleton = fit_picture(skeleton, config.resolution, config.fit)
        drawn.append(np.ascontiguousarray(skeleton.transpose(2, 0, 1), np.float32) / 255)
    return SubjectPhotos(np.stack(fitted), np.stack(drawn), [None] * len(fitted))


def crop_to_person(
    cache: Cache,
    crop: Crop,
    picture: np.ndarray,
    frame: np.ndarray,
    path: Path | str,
    config: BaseConfig,
    estimator: str,
    device: str,
) -> tuple[Crop | None, np.ndarray]:
    """The region of a photo with room for all of the person, and the pose there: nearer, the estimator sees more.

    A region that cuts what is seen of the person is widened; where that does not help, None, for the whole photo, and
    its pose `frame`.
    """
    size, aspect = picture.shape[:2], config.resolution[1] / config.resolution[0]
    for _ in range(WIDENINGS):
        try:
            near = estimate_photo(cache, crop.of_picture(picture), path, estimator, device)
        except NoPersonError:
            return crop, crop.of_pose(frame, size)
        cuts = crop.cuts(near, size)
        if not any(cuts):
            return crop, near
        crop = crop.wider(cuts, size, aspect)
        if crop.is_nearly_all(size):
            break
    return None, frame
