"""Ray casting of quadric primitives with an orthographic camera.

World axes, in units of one stature: X to the right of the picture, Y up from the ground, Z towards the camera.

Every primitive is the surface ``x'^2 + z'^2 = c0 + c1 t + c2 t^2`` clipped to ``t_low <= t <= t_high``, where
``(x', t, z') = A (p - o)`` is linear in the world point ``p``: barrels, cones (also sheared and elliptic) and
ellipsoids are all of this form, so a ray meets each of them in a quadratic whose discriminant is a polynomial of the
pixel's position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_SAMPLES = np.linspace(0.0, 1.0, 9)


def rotation(axis: str, degrees: Floats | float) -> Floats:
    """Rotation matrices (..., 3, 3) about "x", "y" or "z" by angles (...) in degrees, right-handed."""
    angle = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    c, s = np.cos(angle), np.sin(angle)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    out = np.zeros(angle.shape + (3, 3))
    out[..., 0, 0] = out[..., 1, 1] = out[..., 2, 2] = 1.0
    out[..., i, i] = out[..., j, j] = c
    out[..., i, j], out[..., j, i] = -s, s
    return out


@dataclass(frozen=True)
class Camera:
    """An orthographic camera: ``scale`` pixels a unit, ``size`` (height, width), the ground at row ``ground``."""

    size: tuple[int, int]
    scale: float
    ground: float

    def columns(self) -> Floats:
        """World X of the pixel centres, (W,)."""
        width = self.size[1]
        return ((np.arange(width) + 0.5 - width / 2) / self.scale).astype(np.float32)

    def rows(self) -> Floats:
        """World Y of the pixel centres, (H,)."""
        return ((self.ground - np.arange(self.size[0]) - 0.5) / self.scale).astype(np.float32)

    def enlarged(self, factor: int) -> Camera:
        """The same view on a grid ``factor`` times as fine."""
        height, width = self.size
        return Camera((height * factor, width * factor), self.scale * factor, self.ground * factor)


@dataclass(frozen=True)
class Scene:
    """P primitives over F frames. ``bone`` and ``material`` (P,) are tags that ray casting does not read."""

    origin: Floats  # (F, P, 3)
    frame: Floats  # (F, P, 3, 3): A
    profile: Floats  # (F, P, 3): c0, c1, c2
    clip: Floats  # (P, 2)
    two_sided: NDArray[np.bool_]  # (P,)
    bone: NDArray[np.intp]
    material: NDArray[np.intp]


class SceneBuilder:
    """Collects primitives whose positions are given for all F frames at once."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._rows: list[tuple] = []

    def _add(self, origin, frame, profile, clip, two_sided, bone, material) -> None:
        shape = (self.frames, 3)
        values = np.stack([np.broadcast_to(np.asarray(c, dtype=np.float64), (self.frames,)) for c in profile], -1)
        self._rows.append((np.broadcast_to(origin, shape), frame, values, clip, two_sided, bone, material))

    def barrel(
        self, origin, axes, length, radii, *, bone, material, k=1.0, clip=(0.0, 1.0), shear=(0.0, 0.0), two_sided=False
    ) -> None:
        """A barrel from ``origin`` along ``axes[:, 1]``: depth radii at start, middle and end; width is ``k`` times
        depth.

        ``axes`` (F, 3, 3) has rows lateral, axis, front. ``shear`` moves the far end by (lateral, front) units.
        Scalars may be given per frame.
        """
        per_frame = [
            np.broadcast_to(np.asarray(v, dtype=np.float64), (self.frames,))[:, None] for v in (length, *shear, k)
        ]
        length, shear_x, shear_z, k = per_frame
        along = axes[:, 1] / length
        frame = np.stack([(axes[:, 0] - shear_x * along) / k, along, axes[:, 2] - shear_z * along], 1)
        first, middle, last = (np.asarray(r, dtype=np.float64) ** 2 for r in radii)
        profile = (first, 4 * middle - 3 * first - last, 2 * first + 2 * last - 4 * middle)
        self._add(origin, frame, profile, clip, two_sided, bone, material)

    def ellipsoid(self, centre, axes, half, *, bone, material) -> None:
        """An ellipsoid with half-axes ``half`` = (lateral, along, front) in the frame ``axes`` (F, 3, 3)."""
        across, along, front = (float(h) for h in half)
        frame = np.stack([axes[:, 0] * (front / across), axes[:, 1] / along, axes[:, 2]], 1)
        self._add(centre, frame, (front**2, 0.0, -(front**2)), (-1.0, 1.0), False, bone, material)

    def build(self) -> Scene:
        """The finished scene."""
        origin, frame, profile, clip, two_sided, bone, material = zip(*self._rows, strict=True)
        return Scene(
            np.stack(origin, 1),
            np.stack(frame, 1),
            np.stack(profile, 1),
            np.array(clip, dtype=np.float64),
            np.array(two_sided, dtype=bool),
            np.array(bone),
            np.array(material),
        )


class RayCaster:
    """Casts one ray a pixel at a scene seen by a camera; the polynomials of all frames are prepared at once."""

    def __init__(self, scene: Scene, camera: Camera) -> None:
        self.scene, self.camera = scene, camera
        self._boxes = _boxes(scene, camera)
        a, c = scene.frame, scene.profile
        c0, c1, c2 = c[..., 0], c[..., 1], c[..., 2]
        x, t, z = a[..., 0, :], a[..., 1, :], a[..., 2, :]

        def product(i: int, j: int) -> Floats:
            return x[..., i] * x[..., j] + z[..., i] * z[..., j] - c2 * t[..., i] * t[..., j]

        square = product(2, 2)
        square = np.where(np.abs(square) < 1e-5, 1e-5, square)
        b0, bx, by = -c1 * t[..., 2] / 2, product(0, 2), product(1, 2)
        # Discriminant: the square of the half linear term minus square times constant term, collected by powers of
        # (X, Y).
        d0 = b0 * b0 + square * c0
        dx, dy = 2 * b0 * bx + square * c1 * t[..., 0], 2 * b0 * by + square * c1 * t[..., 1]
        dxx, dyy = bx * bx - square * product(0, 0), by * by - square * product(1, 1)
        dxy = 2 * bx * by - 2 * square * product(0, 1)
        self._terms = np.stack(
            [
                d0,
                dx,
                dy,
                dxx,
                dyy,
                dxy,
                b0 / square,
                bx / square,
                by / square,
                1 / np.abs(square),
                t[..., 0],
                t[..., 1],
                t[..., 2],
            ],
            -1,
        )
        self._far_root = scene.two_sided[None] | (square < 0)

    def cast(self, frame: int) -> tuple[NDArray[np.int16], Floats]:
        """(owner, depth), each (H, W): the nearest primitive's index or -1, and the world Z where the ray meets it."""
        height, width = self.camera.size
        columns, rows = self.camera.columns(), self.camera.rows()
        owner = np.full((height, width), -1, dtype=np.int16)
        depth = np.full((height, width), -1e3, dtype=np.float32)
        origins, boxes, terms = (
            self.scene.origin[frame].tolist(),
            self._boxes[frame].tolist(),
            self._terms[frame].tolist(),
        )
        for index, (left, right, top, bottom) in enumerate(boxes):
            if left >= right or top >= bottom:
                continue
            ox, oy, oz = origins[index]
            low, high = self.scene.clip[index].tolist()
            d0, dx, dy, dxx, dyy, dxy, b0, bx, by, inverse, tx, ty, tz = terms[index]
            gx = columns[left:right] - np.float32(ox)
            gy = rows[top:bottom, None] - np.float32(oy)
            value = gy * (dxy * gx)
            value += (dxx * gx + dx) * gx + d0
            value += (dyy * gy + dy) * gy
            hit = value > 0
            root = np.sqrt(np.where(hit, value, 0))
            root *= inverse
            middle = (-bx * gx - b0) - by * gy
            along = tx * gx + ty * gy
            box = (slice(top, bottom), slice(left, right))
            for sign in (1, -1) if self._far_root[frame, index] else (1,):
                z = middle + root if sign > 0 else middle - root
                t = along + tz * z
                z += oz
                nearer = hit & (t >= low) & (t <= high) & (z > depth[box])
                np.copyto(depth[box], z, where=nearer)
                np.copyto(owner[box], index, where=nearer)
        return owner, depth


def _boxes(scene: Scene, camera: Camera) -> NDArray[np.int32]:
    """Pixel boxes (F, P, 4) left, right, top, bottom that contain each primitive."""
    back = np.linalg.inv(scene.frame)
    t = scene.clip[:, :1] + (scene.clip[:, 1:] - scene.clip[:, :1]) * _SAMPLES  # (P, T)
    c = scene.profile[..., None, :]
    radius = np.sqrt(np.maximum(c[..., 0] + c[..., 1] * t + c[..., 2] * t * t, 0)) * 1.02  # (F, P, T)
    bounds = []
    for axis in (0, 1):
        centre = scene.origin[..., axis, None] + back[..., axis, 1, None] * t
        reach = radius * np.hypot(back[..., axis, 0], back[..., axis, 2])[..., None]
        bounds.append(((centre - reach).min(-1), (centre + reach).max(-1)))
    (left, right), (low, high) = bounds
    height, width = camera.size
    box = np.stack(
        [
            left * camera.scale + width / 2 - 1,
            right * camera.scale + width / 2 + 2,
            camera.ground - high * camera.scale - 1,
            camera.ground - low * camera.scale + 2,
        ],
        -1,
    )
    return np.clip(np.floor(box), 0, [width, width, height, height]).astype(np.int32)


def locate(scene: Scene, frame: int, owner: NDArray[np.integer], points: Floats) -> tuple[Floats, Floats]:
    """Local coordinates (3, N) of surface points (3, N) on primitives ``owner`` (N,) and the outward unit normals (3,
    N)."""
    a = scene.frame[frame].astype(np.float32)
    origin = scene.origin[frame].astype(np.float32)
    rel = points - origin.T[:, owner]
    rows = a.reshape(-1, 9).T[:, owner].reshape(3, 3, -1)
    local = np.stack([rows[i, 0] * rel[0] + rows[i, 1] * rel[1] + rows[i, 2] * rel[2] for i in range(3)])
    c = scene.profile[frame].astype(np.float32)
    slope = -0.5 * c[owner, 1] - c[owner, 2] * local[1]
    normal = rows[0] * local[0] + rows[1] * slope + rows[2] * local[2]
    normal *= 1 / np.sqrt(np.maximum((normal * normal).sum(0), 1e-12))
    return local, normal
