"""The studio: a subject performs a dance in front of the camera, and every frame comes with its exact labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dance import Dance, draw_dance
from .figure import dressed, naked
from .geometry import Camera, Floats, RayCaster
from .painter import Painter
from .skeleton import Skeleton, bone_coordinates, chart, pose_skeleton
from .subject import Subject, draw_subject

__all__ = ["SIZE", "Frame", "draw_dance", "draw_subject", "perform"]

SIZE = (160, 128)
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Frame:
    """A picture, uint8 (H, W, 3), and its labels, float32 (3, H, W): part 0..24, U and V in 0..1 (0 off the body)."""

    picture: NDArray[np.uint8]
    pose: NDArray[np.float32]


def perform(subject: Subject, dance: Dance, size: tuple[int, int] = SIZE) -> Iterator[Frame]:
    """Yield the frames of ``subject`` doing ``dance`` at ``size`` (height, width).

    Labels are those of the figure without skirt and hair: legs are labelled as if the skirt were transparent.
    """
    skeleton = pose_skeleton(subject.body, dance)
    camera = _camera(subject, size)
    fine = camera.enlarged(_SUPERSAMPLING)
    scene, motion = dressed(subject, skeleton, dance)
    painter = Painter(subject, scene, skeleton, motion)
    pictures = RayCaster(scene, fine)
    body = naked(subject.body, skeleton)
    labels = RayCaster(body, camera)
    backdrop = _backdrop(subject, fine)
    for frame in range(len(dance)):
        picture = _shadow(subject, skeleton, frame, fine, backdrop)
        owner, depth = pictures.cast(frame)
        rows, columns = np.nonzero(owner >= 0)
        colour, light = painter.paint(frame, owner[rows, columns], _points(fine, depth, rows, columns))
        picture[:, rows, columns] = np.clip(colour * _soften(light, rows, columns), 0.0, 1.0)
        yield Frame(_shrink(picture), _label(labels, skeleton, camera, frame))


def _camera(subject: Subject, size: tuple[int, int]) -> Camera:
    height, width = size
    scale = subject.body.fill * min(height, width * 1.25)
    return Camera(size, scale, height / 2 + scale / 2 + 0.008 * height)


def _points(camera: Camera, depth: Floats, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> Floats:
    return np.stack([camera.columns()[columns], camera.rows()[rows], depth[rows, columns]])


def _label(caster: RayCaster, skeleton: Skeleton, camera: Camera, frame: int) -> NDArray[np.float32]:
    owner, depth = caster.cast(frame)
    rows, columns = np.nonzero(owner >= 0)
    bone = caster.scene.bone[owner[rows, columns]]
    place = bone_coordinates(skeleton, frame, bone, _points(camera, depth, rows, columns))
    pose = np.zeros((3, *camera.size), dtype=np.float32)
    pose[:, rows, columns] = chart(bone, place)
    return pose


def _backdrop(subject: Subject, camera: Camera) -> Floats:
    top, bottom = (np.array(c, dtype=np.float32)[:, None, None] for c in subject.backdrop)
    height, width = camera.size
    ramp = np.linspace(0.0, 1.0, height, dtype=np.float32)[None, :, None]
    return np.broadcast_to(top + (bottom - top) * ramp, (3, height, width))


def _shadow(subject: Subject, skeleton: Skeleton, frame: int, camera: Camera, backdrop: Floats) -> Floats:
    """The backdrop with a soft shadow under the feet."""
    picture = backdrop.copy()
    if not subject.shadow:
        return picture
    top = max(int(camera.ground - 0.06 * camera.scale), 0)
    x, y = camera.columns()[None, :], camera.rows()[top:, None]
    dark = 0.0
    for side in "lr":
        foot = skeleton.at(f"foot_{side}", 0.0, 0.06, 0.0)[frame]
        lifted = max(float(foot[1]) - 0.03, 0.0)
        dark = dark + np.exp(-(((x - foot[0]) / 0.075) ** 2) - ((y - 0.004) / 0.014) ** 2) / (1.0 + 25.0 * lifted)
    picture[:, top:] *= 1.0 - subject.shadow * np.minimum(dark, 1.2)
    return picture


def _soften(light: Floats, rows: NDArray[np.integer], columns: NDArray[np.integer], reach: int = 2) -> Floats:
    """Light (N,) averaged over the figure's own neighbouring pixels, so that primitives meet without seams."""
    top, left = int(rows.min()), int(columns.min())
    n = 2 * reach + 1
    grid = np.zeros((2, int(rows.max()) - top + 2 * n, int(columns.max()) - left + 2 * n), dtype=np.float32)
    y, x = rows - top + n, columns - left + n
    grid[0, y, x], grid[1, y, x] = light, 1.0
    for axis in (1, 2):
        total = np.cumsum(grid, axis)
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(n, None), slice(None, -n)
        grid = np.zeros_like(grid)
        middle = [slice(None)] * 3
        middle[axis] = slice(n - reach, grid.shape[axis] - reach)
        grid[tuple(middle)] = total[tuple(ahead)] - total[tuple(behind)]
    return grid[0, y, x] / grid[1, y, x]


def _shrink(picture: Floats) -> NDArray[np.uint8]:
    n = _SUPERSAMPLING
    channels, height, width = picture.shape
    mean = picture.reshape(channels, height // n, n, width // n, n).mean((2, 4))
    return np.ascontiguousarray((mean * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0))
