"""Doodles: stick figures that an unsteady hand draws from poses of `doodle_poses.py`, with the places of their 18 joints.

A doodle shows a front view unless its caller says otherwise: of two arms the one on the left of the picture is the
figure's right arm. Where a mannequin shows its back, left and right are exchanged, since a drawing without a face cannot
tell them apart.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .doodle_poses import HEAD, INDEX, acrobat, childlike, dancer, upright_view
from .geometry import Floats

_CANVAS = (192, 420)  # sides of the picture are drawn from this range


@dataclass(frozen=True)
class Doodle:
    """A picture, uint8 (H, W) grey, its joints (18, 2) as x, y in pixels, and which of them are drawn, bool (18,)."""

    picture: NDArray[np.uint8]
    joints: Floats
    visible: NDArray[np.bool_]


def draw_doodle(seed: int) -> Doodle:
    """Draw a doodle; the same seed always gives the same one."""
    rng = np.random.Generator(np.random.PCG64(seed))
    joints = upright_view(dancer(rng) if rng.random() < 0.35 else acrobat(rng))
    joints = childlike(joints, rng)
    return _Hand(rng).draw(joints)


class _Hand:
    """One drawing hand: how it holds the pen, what it leaves out, and the paper it draws on."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.side = float(rng.uniform(*_CANVAS))
        self.figure = self.side * rng.uniform(0.5, 0.86)  # its height in pixels
        self.width = max(1.2, self.figure * float(np.exp(rng.uniform(np.log(0.006), np.log(0.045)))))
        self.wobble = rng.uniform(0.0, 0.028) * rng.choice([0.3, 1.0])
        self.loose = rng.uniform(0.0, 0.03)  # how far ends of strokes miss the joint, in figure heights
        self.style = str(rng.choice(["stick", "tube", "sausage"], p=[0.76, 0.12, 0.12]))
        self.broken = rng.random() < 0.25
        self.strokes: list[tuple[Floats, float]] = []

    def draw(self, joints: Floats) -> Doodle:
        """The doodle of joints (18, 2) in any unit, Y down."""
        rng = self.rng
        low, high = joints.min(0), joints.max(0)
        scale = self.figure / max(high[1] - low[1], 0.75 * (high[0] - low[0]), 1e-6)
        spin = np.deg2rad(rng.normal(0, 7) if rng.random() < 0.8 else rng.uniform(-25, 25))
        turn = np.array([[np.cos(spin), -np.sin(spin)], [np.sin(spin), np.cos(spin)]])
        points = (joints - (low + high) / 2) * scale @ turn.T
        spread = points.max(0) - points.min(0)
        width, height = (int(max(self.side * rng.uniform(0.8, 1.0), s * 1.25 + 12)) for s in spread)
        free = (np.array([width, height]) - spread) / 2
        points += [width / 2, height / 2] - (points.max(0) + points.min(0)) / 2 + rng.uniform(-0.55, 0.55, 2) * free
        visible = self._figure(points)
        picture = self._on_paper(width, height)
        return Doodle(picture, points, visible)

    # The figure

    def _figure(self, p: Floats) -> NDArray[np.bool_]:
        """Collect the strokes of the figure; which joints they show."""
        rng = self.rng
        visible = np.ones(18, bool)
        gone = [limb for limb in ("arm_r", "arm_l", "leg_r", "leg_l") if rng.random() < 0.045]
        if len(gone) > 2:
            gone = gone[:1]
        hips = (p[INDEX["hip_r"]] + p[INDEX["hip_l"]]) / 2
        neck = p[INDEX["neck"]]
        arms = (p[INDEX["shoulder_r"]] + p[INDEX["shoulder_l"]]) / 2
        self._head(p, visible)
        body = rng.random()
        if body < 0.68 or self.style == "stick" and body < 0.8:
            self._limb(neck, hips)
        elif body < 0.86:
            self._closed(self._hull([p[INDEX["shoulder_r"]], p[INDEX["shoulder_l"]], p[INDEX["hip_l"]], p[INDEX["hip_r"]]]))
        else:  # a bean
            self._closed(
                self._oval((neck + hips) / 2, float(np.linalg.norm(hips - neck)) / 2, hips - neck, rng.uniform(0.3, 0.6))
            )
        wide = np.linalg.norm(p[INDEX["shoulder_r"]] - p[INDEX["shoulder_l"]]) > 0.07 * self.figure
        if wide and rng.random() < 0.75:
            self._stroke(self._bent(p[INDEX["shoulder_r"]], arms, p[INDEX["shoulder_l"]]))
        if np.linalg.norm(p[INDEX["hip_r"]] - p[INDEX["hip_l"]]) > 0.06 * self.figure and rng.random() < 0.75:
            self._stroke(self._bent(p[INDEX["hip_r"]], hips, p[INDEX["hip_l"]]))
        for side in "rl":
            for limb, chain in (("arm", ("shoulder", "elbow", "wrist")), ("leg", ("hip", "knee", "ankle"))):
                a, b, c = (p[INDEX[f"{name}_{side}"]] for name in chain)
                if f"{limb}_{side}" in gone:
                    for name in chain:
                        visible[INDEX[f"{name}_{side}"]] = False
                    continue
                if self.style == "stick" and rng.random() < 0.6:
                    self._stroke(self._curve(a, b, c) if rng.random() < 0.35 else self._bent(a, b, c))
                else:
                    self._limb(a, b)
                    self._limb(b, c)
                self._end(limb, side, b, c)
        if rng.random() < 0.1:  # a skirt over the thighs
            drop = (p[INDEX["knee_r"]] + p[INDEX["knee_l"]]) / 2
            drop = hips + (drop - hips) * rng.uniform(0.5, 0.9)
            out = np.array([0.09 * self.figure, 0.0])
            waist = hips + (neck - hips) * 0.15
            self._closed(np.array([waist - out * 0.2, waist + out * 0.2, drop + out, drop - out]))
        return visible

    def _head(self, p: Floats, visible: NDArray[np.bool_]) -> None:
        rng = self.rng
        neck, face = p[INDEX["neck"]], p[HEAD].mean(0)
        reach = float(np.linalg.norm(face - neck))
        radius = max(float(np.linalg.norm(p[INDEX["ear_r"]] - p[INDEX["ear_l"]])) * 0.62, 0.35 * reach)
        radius = min(radius, 0.95 * reach)
        kind = rng.random()
        towards = (neck - face) / max(np.linalg.norm(neck - face), 1e-6)
        chin = face + towards * radius
        if kind < 0.06:  # no head at all
            visible[HEAD] = False
            return
        if kind < 0.14:  # a line in place of a head
            self._stroke(self._bent(neck, (neck + face) / 2, face - towards * radius))
            return
        ring = self._oval(face, radius * rng.uniform(0.95, 1.15), towards, rng.uniform(0.75, 1.1))
        if kind < 0.26:  # a blob
            self.strokes.append((ring, -1.0))
        else:
            extent = rng.uniform(0.75, 0.97) if rng.random() < 0.25 else rng.uniform(1.0, 1.2)
            start = int(rng.integers(len(ring)))
            turns = np.take(ring, np.arange(start, start + int(extent * len(ring))), axis=0, mode="wrap")
            if kind < 0.34:  # a spiral
                turns = np.concatenate([turns, face + (turns - face) * np.linspace(1, 0.6, len(turns))[:, None]])
            self._stroke(turns)
        if rng.random() < 0.75:
            self._limb(chin, neck) if self.style != "stick" and rng.random() < 0.3 else self._stroke(
                self._bent(chin, (chin + neck) / 2, neck)
            )
        if kind >= 0.34 and rng.random() < 0.4:  # a face: eyes, a mouth
            dot = max(1.0, 0.5 * self.width)
            for eye in ("eye_r", "eye_l"):
                place = face + (p[INDEX[eye]] - face) * 0.8
                self.strokes.append((self._oval(place, dot, towards, 1.0), -1.0))
            if rng.random() < 0.8:
                bow = np.linspace(-1, 1, 7)[:, None]
                across = np.array([-towards[1], towards[0]])
                smile = (
                    face + towards * radius * (0.45 - rng.uniform(-0.2, 0.25) * bow**2) + across * radius * 0.4 * bow
                )
                self._stroke(smile, 0.6)
        if rng.random() < 0.12:  # hair
            for angle in np.linspace(-1.1, 1.1, int(rng.integers(3, 10))):
                c, s = np.cos(angle), np.sin(angle)
                out = np.array([[c, -s], [s, c]]) @ -towards
                self._stroke(
                    self._bent(face + out * radius, face + out * radius * 1.15, face + out * radius * 1.35), 0.7
                )

    def _end(self, limb: str, side: str, before: Floats, end: Floats) -> None:
        """A hand or a foot, or none."""
        rng, size = self.rng, 0.035 * self.figure
        along = (end - before) / max(float(np.linalg.norm(end - before)), 1e-6)
        across = np.array([-along[1], along[0]])
        kind = rng.random()
        if limb == "leg":
            if kind < 0.45:
                out = np.array([-1.0 if side == "r" else 1.0, 0.25])
                self._stroke(self._bent(end, end + out * size, end + out * 2 * size))
            elif kind < 0.55:
                self._closed(self._oval(end + along * size, size * 1.2, across, 0.6))
        elif kind < 0.18:
            self._closed(self._oval(end + along * size * 0.8, size * rng.uniform(0.6, 1.1), along, 1.0))
        elif kind < 0.34:
            for spread in np.linspace(-0.8, 0.8, int(rng.integers(3, 6))):
                tip = end + (along + across * spread) * size * 1.3
                self._stroke(self._bent(end, (end + tip) / 2, tip), 0.8)

    # Strokes

    def _limb(self, a: Floats, b: Floats) -> None:
        """A limb from a to b: a line, two lines, or a closed outline, by the hand's style."""
        length = float(np.linalg.norm(b - a))
        if self.style == "stick" or length < 0.03 * self.figure:
            self._stroke(self._bent(a, (a + b) / 2, b))
            return
        across = np.array([-(b - a)[1], (b - a)[0]]) / max(length, 1e-6) * self.figure * 0.022
        if self.style == "sausage":
            self._closed(self._oval((a + b) / 2, length * 0.54, b - a, 0.09 * self.figure / length * 0.5 + 0.08))
        else:
            for sign in (1, -1):
                self._stroke(self._bent(a + sign * across, (a + b) / 2 + sign * across, b + sign * across))

    def _bent(self, *points: Floats) -> Floats:
        """A path along straight lines, resampled."""
        corners = np.array(points)
        steps = max(4, int(np.linalg.norm(np.diff(corners, axis=0), axis=1).sum() / (0.02 * self.figure)))
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1) + 1e-6)])
        at = np.linspace(0, along[-1], steps)
        return np.stack([np.interp(at, along, corners[:, k]) for k in (0, 1)], 1)

    def _curve(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """A round stroke through b: what a quick hand makes of a knee."""
        control = 2 * b - (a + c) / 2
        t = np.linspace(0, 1, 14)[:, None]
        return (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * c

    def _oval(self, centre: Floats, radius: float, axis: Floats, aspect: float) -> Floats:
        axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
        across = np.array([-axis[1], axis[0]])
        t = np.linspace(0, 2 * np.pi, 28, endpoint=False)[:, None]
        return centre + radius * (np.cos(t) * axis + np.sin(t) * aspect * across)

    @staticmethod
    def _hull(points: list[Floats]) -> Floats:
        corners = np.array(points)
        middle = corners.mean(0)
        return middle + (corners - middle) * 1.08

    def _closed(self, ring: Floats) -> None:
        """A closed outline, or one that does not quite close."""
        path = self._bent(*ring, ring[0])
        if self.rng.random() < 0.3:
            path = path[: max(3, int(len(path) * self.rng.uniform(0.82, 0.97)))]
        self._stroke(path)

    def _stroke(self, path: Floats, weight: float = 1.0) -> None:
        """Put a path on the paper, unsteadily; sometimes in pieces, sometimes twice."""
        rng = self.rng
        for _ in range(2 if rng.random() < 0.06 else 1):
            moved = path + rng.normal(0, self.loose * self.figure * 0.4, 2)
            count = len(moved)
            if self.wobble and count > 3:
                knots = rng.normal(0, self.wobble * self.figure * 0.6, (max(2, count // 6) + 1, 2))
                at = np.linspace(0, len(knots) - 1, count)
                moved = moved + np.stack([np.interp(at, range(len(knots)), knots[:, k]) for k in (0, 1)], 1)
            if self.broken and count > 6 and rng.random() < 0.5:
                gap, hole = int(rng.integers(2, count - 3)), int(rng.integers(1, 3))
                self.strokes += [(moved[:gap], weight), (moved[gap + hole :], weight)]
            else:
                self.strokes.append((moved, weight))

    # The paper

    def _on_paper(self, width: int, height: int) -> NDArray[np.uint8]:
        """The strokes in ink on paper, as a drawing program or a camera shows it: uint8 (height, width)."""
        rng, fine = self.rng, 2
        ink = Image.new("L", (width * fine, height * fine))
        pen = ImageDraw.Draw(ink)
        uneven = rng.uniform(0, 0.35)
        for path, weight in self.strokes:
            points = path * fine
            if len(points) < 2:
                continue
            if weight < 0:
                pen.polygon([tuple(point) for point in points], fill=255)
                continue
            size = self.width * fine * weight
            sizes = size * np.clip(1 + uneven * np.cumsum(rng.normal(0, 0.4, len(points))), 0.5, 1.6)
            for a, b, thick in zip(points, points[1:], sizes, strict=False):
                pen.line([*a, *b], fill=255, width=max(1, round(thick)))
                if thick > 3:
                    r = thick / 2
                    pen.ellipse([b[0] - r, b[1] - r, b[0] + r, b[1] + r], fill=255)
        cover = np.asarray(ink.reduce(fine), np.float32) / 255
        program = rng.random() < 0.3
        paper = np.full((height, width), 255 if program else rng.uniform(150, 255), np.float32)
        dark = rng.uniform(0, 60) if program else rng.uniform(5, 120)
        dark = min(dark, paper[0, 0] - 75)
        if not program:
            paper *= self._light(height, width)
            if rng.random() < 0.35:
                paper *= self._rules(height, width)
            grain = rng.uniform(0, 0.5)
            cover = cover * (1 - grain * rng.random(cover.shape, np.float32) ** 2)  # chalk and pencil leave paper bare
        picture = paper * (1 - cover) + cover * dark * (1 if program else paper / 255)
        if not program:
            picture += rng.normal(0, rng.uniform(0, 7), picture.shape)
            if rng.random() < 0.4:
                blurred = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
                picture = np.asarray(blurred.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2))), np.float32)
        done = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        if not program:
            buffer = io.BytesIO()
            done.save(buffer, "JPEG", quality=int(rng.integers(45, 95)))
            done = Image.open(buffer)
        return np.array(done)

    def _light(self, height: int, width: int) -> Floats:
        """Uneven light: a slope, and at times the shadow of a hand."""
        rng = self.rng
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        light = 1 - rng.uniform(0, 0.3) * (0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y))
        if rng.random() < 0.25:
            cx, cy, r = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.4, 1.0)
            edge = np.clip((r - np.hypot(x - cx, (y - cy) * rng.uniform(0.6, 1.4))) / rng.uniform(0.1, 0.5), 0, 1)
            light = light * (1 - rng.uniform(0.1, 0.4) * edge)
        return light

    def _rules(self, height: int, width: int) -> Floats:
        """Ruled or squared paper: lines much fainter than ink."""
        rng = self.rng
        paper = np.ones((height, width), np.float32)
        pitch, faint = int(rng.integers(14, 40)), 1 - rng.uniform(0.04, 0.22)
        paper[int(rng.integers(pitch)) :: pitch] *= faint
        if rng.random() < 0.6:
            paper[:, int(rng.integers(pitch)) :: pitch] *= faint
        return paper
