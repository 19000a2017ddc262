"""Twenty stick figures drawn from SVG path data with wobbly Beziers: a second hand, which shares no code with `synth`."""

from __future__ import annotations

import random
import re

import numpy as np
from PIL import Image, ImageDraw

# Each figure in a box of 100 x 100: head (x, y, radius), neck, where arms and legs begin, then elbow and hand of the arm on
# the left of the picture (the figure's right), of the other, knee and foot of the left, of the other. None: not drawn.
FIGURES = [
    ((50, 14, 9), (50, 25), (50, 32), (50, 58), (38, 42), (28, 52), (62, 42), (72, 52), (44, 75), (38, 94), (56, 75), (62, 94)),
    ((50, 14, 8), (50, 24), (50, 30), (50, 56), (36, 22), (28, 8), (64, 22), (72, 8), (43, 75), (36, 94), (57, 75), (64, 94)),
    ((50, 12, 8), (50, 22), (50, 30), (50, 55), (34, 30), (18, 30), (66, 30), (82, 30), (40, 74), (30, 93), (60, 74), (70, 93)),
    ((48, 15, 9), (49, 26), (49, 33), (50, 57), (37, 45), (46, 55), (61, 45), (53, 55), (46, 76), (45, 95), (55, 76), (56, 95)),
    ((50, 13, 8), (50, 23), (50, 30), (50, 55), (38, 42), (30, 54), (64, 26), (70, 10), (45, 75), (42, 94), (56, 75), (59, 94)),
    ((46, 14, 8), (48, 24), (48, 31), (52, 56), (34, 36), (24, 26), (62, 40), (72, 34), (40, 70), (30, 88), (66, 66), (70, 86)),
    ((52, 14, 9), (51, 25), (51, 31), (50, 56), (38, 40), (27, 36), (64, 40), (76, 46), (48, 76), (47, 95), (66, 60), (82, 62)),
    ((50, 16, 11), (50, 29), (50, 35), (50, 60), (40, 46), (32, 56), (60, 46), (68, 56), (46, 78), (42, 94), (54, 78), (58, 94)),
    ((50, 12, 7), (50, 20), (50, 27), (50, 54), (37, 27), (37, 12), (63, 27), (63, 12), (42, 73), (36, 93), (58, 73), (64, 93)),
    ((50, 12, 7), (50, 20), (50, 27), (50, 54), (36, 30), (34, 46), (64, 30), (66, 46), (44, 74), (40, 94), (56, 74), (60, 94)),
    ((42, 16, 8), (45, 26), (46, 32), (52, 56), (34, 44), (26, 54), (58, 40), (68, 30), (46, 76), (40, 95), (64, 70), (78, 84)),
    ((50, 20, 9), (50, 31), (50, 37), (50, 62), (36, 30), (26, 20), (64, 30), (74, 20), (34, 70), (24, 86), (66, 70), (76, 86)),
    ((50, 14, 9), (50, 25), (50, 31), (50, 56), (37, 42), (42, 54), (63, 42), (74, 50), (45, 76), (41, 95), (55, 76), (59, 95)),
    ((58, 14, 8), (55, 24), (54, 31), (48, 56), (42, 40), (32, 30), (66, 42), (76, 50), (38, 74), (28, 92), (54, 76), (58, 95)),
    ((50, 13, 8), (50, 23), (50, 29), (50, 55), None, None, (64, 36), (76, 42), (45, 75), (41, 94), (55, 75), (59, 94)),
    ((50, 13, 8), (50, 23), (50, 29), (50, 55), (38, 40), (30, 50), (62, 40), (70, 50), (42, 74), (35, 93), None, None),
    ((50, 12, 8), (50, 22), (50, 28), (50, 54), (40, 38), (31, 30), (60, 38), (69, 30), (40, 66), (46, 82), (57, 75), (61, 95)),
    ((50, 14, 9), (50, 25), (50, 31), (50, 57), (36, 38), (22, 44), (64, 24), (78, 18), (36, 68), (22, 78), (60, 76), (64, 95)),
    ((50, 15, 10), (50, 27), (50, 33), (50, 58), (40, 46), (38, 60), (60, 46), (62, 60), (47, 77), (46, 95), (53, 77), (54, 95)),
    ((50, 13, 8), (50, 23), (50, 30), (50, 56), (38, 22), (44, 6), (62, 22), (56, 6), (38, 72), (28, 92), (62, 72), (72, 92)),
]  # fmt: skip


def svg_path(number: int) -> str:
    """The path data of a figure: M, Q, C and Z, the only commands that are read below."""
    rng = random.Random(1000 + number)
    head, neck, arms, hip, *limbs = FIGURES[number]
    wobble = rng.choice([0.3, 0.8, 1.3])

    def near(point, much=wobble):
        return f"{point[0] + rng.uniform(-much, much):.2f} {point[1] + rng.uniform(-much, much):.2f}"

    def line(a, b):
        third = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for t in (1 / 3, 2 / 3)]
        return f"M {near(a)} C {near(third[0], 1.6 * wobble)} {near(third[1], 1.6 * wobble)} {near(b)}"

    x, y, r = head
    k = 0.5523 * r
    ring = [
        ((x, y - r), (x + k, y - r), (x + r, y - k), (x + r, y)),
        ((x + r, y), (x + r, y + k), (x + k, y + r), (x, y + r)),
    ]
    ring += [
        ((x, y + r), (x - k, y + r), (x - r, y + k), (x - r, y)),
        ((x - r, y), (x - r, y - k), (x - k, y - r), (x, y - r)),
    ]
    parts = [f"M {near(a)} C {near(b)} {near(c)} {near(d)}" for a, b, c, d in ring[: 3 if number % 7 == 3 else 4]]
    parts.append(line((x, y + r), hip) if number % 3 else line(neck, hip))
    for start, first, second in ((arms, *limbs[:2]), (arms, *limbs[2:4]), (hip, *limbs[4:6]), (hip, *limbs[6:8])):
        if first is None:
            continue
        if number % 4 == 1:  # one round stroke
            control = (2 * first[0] - (start[0] + second[0]) / 2, 2 * first[1] - (start[1] + second[1]) / 2)
            parts.append(f"M {near(start)} Q {near(control)} {near(second)}")
        else:
            parts += [line(start, first), line(first, second)]
        if start is hip and number % 2:
            side = -5 if second[0] < hip[0] else 5
            parts.append(line(second, (second[0] + side, second[1] + 0.5)))
    if number % 5 == 2:
        parts += [f"M {x - 3:.1f} {y - 1:.1f} Q {x - 3:.1f} {y:.1f} {x - 2:.1f} {y - 1:.1f}"]
        parts += [f"M {x + 2:.1f} {y - 1:.1f} Q {x + 3:.1f} {y:.1f} {x + 3:.1f} {y - 1:.1f}"]
        parts += [f"M {x - 3:.1f} {y + 3:.1f} Q {x:.1f} {y + 6:.1f} {x + 3:.1f} {y + 3:.1f}"]
    return " ".join(parts)


def joints_of(number: int) -> dict[int, tuple[float, float]]:
    """The drawn joints of a figure, by their numbers in OpenPose's order, in the box of 100 x 100."""
    head, neck, arms, hip, *limbs = FIGURES[number]
    known = {0: head[:2], 1: neck}
    for start, first, numbers in (
        (arms, 0, (2, 3, 4)),
        (arms, 2, (5, 6, 7)),
        (hip, 4, (8, 9, 10)),
        (hip, 6, (11, 12, 13)),
    ):
        if limbs[first] is not None:
            known |= dict(zip(numbers, (start, limbs[first], limbs[first + 1]), strict=True))
    return known


def rasterise(path: str, side: int, width: float, *, photo: bool, seed: int) -> np.ndarray:
    """Path data in a box of 100 x 100 as a picture, uint8 (side, side, 3): black on white, or as a camera sees it."""
    fine = 3
    picture = Image.new("L", (side * fine, side * fine), 255)
    pen = ImageDraw.Draw(picture)
    for command, numbers in re.findall(r"([MQC])([^MQC]*)", path):
        values = [float(v) / 100 * side * fine for v in numbers.split()]
        points = np.array(values).reshape(-1, 2)
        if command == "M":
            at = points[0]
            continue
        ends = np.vstack([at, points])
        t = np.linspace(0, 1, 40)[:, None]
        while len(ends) > 1 and not isinstance(ends, list):  # de Casteljau on all parameters at once
            ends = [np.broadcast_to(p, (40, 2)) for p in ends]
        while len(ends) > 1:
            ends = [a * (1 - t) + b * t for a, b in zip(ends, ends[1:], strict=False)]
        curve = ends[0]
        half = width * side * fine / 200
        pen.line([tuple(p) for p in curve], fill=0, width=max(1, round(2 * half)))
        for px, py in (curve[0], curve[-1]):
            pen.ellipse([px - half, py - half, px + half, py + half], fill=0)
        at = points[-1]
    grey = np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS), np.float64)
    if photo:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
        paper = 205 - 60 * x * y + 12 * np.sin(5 * x + 2 * y)
        grey = paper * (0.25 + 0.75 * grey / 255) + rng.normal(0, 4, grey.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def doodle(number: int, side: int = 320) -> np.ndarray:
    """Doodle number 0 to 19, uint8 (side, side, 3)."""
    width = (1.2, 2.0, 3.2)[number % 3]
    return rasterise(svg_path(number), side, width, photo=number % 2 == 1, seed=number)


def sheet(numbers: list[int], side: int = 260) -> np.ndarray:
    """Several doodles in a row on one sheet, uint8 (side, side * n, 3)."""
    return np.concatenate([rasterise(svg_path(n), side, 2.0, photo=False, seed=n) for n in numbers], axis=1)
