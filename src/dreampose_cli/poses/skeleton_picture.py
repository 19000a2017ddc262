"""Keypoints as the skeleton picture that pose-controlled networks were trained on: DWPose's drawing on black.

Each of 17 limbs is an ellipse of half width 4 in a colour of its own, dimmed to 0.6; over them the 18 points of the body
as discs of radius 4, then the hands with lines of width 2 and blue discs, then the face as white discs of radius 3.
Against OpenCV's drawing about one pixel in fifty differs, all of them at the edges of limbs and fingers.
Places are cut, not rounded, to whole pixels; a line or a point that is not surely seen is left out.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

from .keypoints import FACE, LEFT_HAND, RIGHT_HAND, seen

#: The limbs in drawing order: pairs of body points.
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
#: Colours of the limbs (the first 17) and of the points.
COLORS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
FINGERS = tuple((0 if k % 4 == 0 else k, k + 1) for k in range(20))
STICK = 4
DIMMED = 0.6
# A disc of OpenCV by its rows: half widths from the middle row outwards.
_DISCS = {3: (3, 2, 2, 0), 4: (4, 3, 3, 2, 0)}


def draw_skeleton(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A keypoint frame (130, 3) as its skeleton picture, uint8 (H, W, 3) RGB, on black. size: (height, width)."""
    height, width = size
    picture = np.zeros((height, width, 3), np.uint8)
    sure, points = seen(frame), frame[:, :2]
    for (a, b), color in zip(LIMBS, COLORS, strict=False):
        if sure[a] and sure[b]:
            _fill_convex(picture, _ellipse(points[a], points[b]), color)
    picture = (picture * DIMMED).astype(np.uint8)
    for i, color in enumerate(COLORS):
        if sure[i]:
            _disc(picture, points[i], 4, color)
    for part in (LEFT_HAND, RIGHT_HAND):
        _draw_hand(picture, points[part], sure[part])
    for place in points[FACE][sure[FACE]]:
        if (place.astype(int) > 0).all():
            _disc(picture, place, 3, (255, 255, 255))
    return picture


def _ellipse(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """The outline of a limb from a to b, one point a degree, in whole pixels."""
    (ax, ay), (bx, by) = (map(float, p) for p in (a, b))
    centre = int((ax + bx) / 2), int((ay + by) / 2)
    half = int(math.hypot(ax - bx, ay - by) / 2)
    angle = math.radians(int(math.degrees(math.atan2(ay - by, ax - bx))) % 360)
    turn = np.radians(np.arange(361))
    x, y = half * np.cos(turn), STICK * np.sin(turn)
    px = np.rint(centre[0] + x * math.cos(angle) - y * math.sin(angle)).astype(int)
    py = np.rint(centre[1] + x * math.sin(angle) + y * math.cos(angle)).astype(int)
    outline = list(dict.fromkeys(zip(px.tolist(), py.tolist(), strict=True)))
    return outline if len(outline) > 1 else outline * 2


def _fill_convex(picture: np.ndarray, outline: list[tuple[int, int]], color: tuple[int, int, int]) -> None:
    """Fill a convex outline row by row, from the leftmost to the rightmost pixel of its lines, as OpenCV does."""
    (left, top), (right, bottom) = np.min(outline, axis=0), np.max(outline, axis=0)
    height, width = picture.shape[:2]
    if right < 0 or bottom < 0 or left >= width or top >= height:
        return
    lines = Image.new("L", (int(right - left) + 1, int(bottom - top) + 1))
    path = [(int(x - left), int(y - top)) for x, y in [*outline, outline[0]]]
    ImageDraw.Draw(lines).line(path, fill=255)
    drawn = np.asarray(lines) > 0
    inside = np.logical_or.accumulate(drawn, 1) & np.logical_or.accumulate(drawn[:, ::-1], 1)[:, ::-1]
    t, u, b, v = max(top, 0), max(left, 0), min(bottom + 1, height), min(right + 1, width)
    picture[t:b, u:v][inside[t - top : b - top, u - left : v - left]] = color


def _disc(picture: np.ndarray, place: np.ndarray, radius: int, color: tuple[int, int, int]) -> None:
    x, y = int(place[0]), int(place[1])
    height, width = picture.shape[:2]
    for row, half in enumerate(_DISCS[radius]):
        for line in {y - row, y + row}:
            if 0 <= line < height and x + half >= 0 and x - half < width:
                picture[line, max(x - half, 0) : x + half + 1] = color


def _draw_hand(picture: np.ndarray, points: np.ndarray, sure: np.ndarray) -> None:
    whole = points.astype(int)
    inside = sure & (whole > 0).all(1)
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for k, (a, b) in enumerate(FINGERS):
        if inside[a] and inside[b]:
            color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(k / len(FINGERS), 1, 1))
            pen.line([*whole[a].tolist(), *whole[b].tolist()], fill=color, width=3)
    picture[:] = np.asarray(canvas)
    for place in whole[inside]:
        _disc(picture, place, 4, (0, 0, 255))
