"""Cloths: colours as a function of a place on a garment, so that a pattern moves with the surface."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from .geometry import Floats

Colour = tuple[float, float, float]


def as_colour(rgb: Floats) -> Colour:
    """Three numbers of an array as a tuple."""
    red, green, blue = (float(c) for c in rgb)
    return red, green, blue

PATTERNS: tuple[str, ...] = (
    "plain", "rings", "columns", "diagonal", "checks", "windowpane", "dots", "gradient", "blocks", "chevron",
    "diamonds", "print",
)  # fmt: skip
_PATTERN_WEIGHTS = {
    "rings": 3.0, "columns": 2.0, "diagonal": 1.6, "checks": 2.0, "windowpane": 1.2, "dots": 2.2, "gradient": 1.2,
    "blocks": 1.0,
    "chevron": 1.2, "diamonds": 1.0, "print": 1.6,
}  # fmt: skip

_PRINTS: dict[str, tuple[str, ...]] = {
    "heart": (".##.##.", "#######", "#######", ".#####.", "..###..", "...#..."),
    "star": ("...#...", "..###..", "#######", ".#####.", ".##.##.", ".#...#."),
    "letter": ("######.", "##...##", "##...##", "##...##", "##...##", "######."),
    "cross": ("..###..", "..###..", "#######", "#######", "..###..", "..###.."),
    "bolt": ("...###.", "..###..", ".#####.", "...###.", "..###..", ".##...."),
    "ring": ("..###..", ".##.##.", "##...##", "##...##", ".##.##.", "..###.."),
    "bars": ("#######", "#######", ".......", ".......", "#######", "#######"),
    "smile": (".##.##.", ".##.##.", ".......", "#.....#", "##...##", ".#####."),
}


@dataclass(frozen=True)
class Cloth:
    """A pattern in up to three colours (RGB 0..1); ``period`` in statures, ``duty`` the first colour's share of it."""

    pattern: str
    colours: tuple[Colour, Colour, Colour]
    period: float = 0.06
    duty: float = 0.5
    phase: float = 0.0
    slant: float = 1.0
    emblem: str = "heart"

    @property
    def patterned(self) -> bool:
        """Whether the cloth is more than one colour."""
        return self.pattern != "plain"


def colour_at(cloth: Cloth, around: Floats, along: Floats, circumference: float, span: tuple[float, float]) -> Floats:
    """Colours (3, N) of a cloth.

    ``around`` (N,) is the angle in turns, 0 at the middle of the front; ``along`` (N,) the distance down the garment
    in statures; ``circumference`` is in statures and ``span`` the garment's extent of ``along``. The pattern closes
    around the body.
    """
    first, second, third = (np.array(c, dtype=np.float32)[:, None] for c in cloth.colours)
    count = max(3, round(circumference / cloth.period))
    column = around * np.float32(count)
    row = (along / np.float32(cloth.period) + np.float32(cloth.phase)).astype(np.float32)

    def inside(x: Floats) -> Floats:
        return (np.mod(x, 1.0) < cloth.duty).astype(np.float32)

    def blend(mask: Floats) -> Floats:
        return first + (second - first) * mask

    match cloth.pattern:
        case "rings":
            return blend(inside(row))
        case "columns":
            return blend(inside(column + cloth.duty / 2))
        case "diagonal":
            return blend(inside(cloth.slant * column + row))
        case "chevron":
            return blend(inside(row + np.abs(np.mod(column, 1.0) - 0.5) * 1.3))
        case "checks":
            return blend(0.5 * (inside(column + cloth.duty / 2) + inside(row)))
        case "windowpane":
            line = np.maximum(np.mod(column + 0.14, 1.0) < 0.28, np.mod(row, 1.0) < 0.28)
            return blend(line.astype(np.float32))
        case "diamonds":
            return blend(
                inside(column + row) * inside(column - row) * 2.0 - inside(column + row) - inside(column - row) + 1.0
            )
        case "dots":
            shifted = column + 0.5 * np.mod(np.floor(row), 2.0)
            du, dv = np.mod(shifted + 0.5, 1.0) - 0.5, np.mod(row, 1.0) - 0.5
            stretch = circumference / (count * cloth.period)
            return blend(((du * stretch) ** 2 + dv**2 < 0.105).astype(np.float32))
        case "gradient":
            x = np.clip((along - span[0]) / max(span[1] - span[0], 1e-3), 0.0, 1.0)
            return blend((x * x * (3 - 2 * x)).astype(np.float32))
        case "blocks":
            x = (along - span[0]) / max(span[1] - span[0], 1e-3)
            out = np.where(x < 0.36 + 0.2 * cloth.phase, first, second)
            return np.where(np.abs(x - 0.36 - 0.2 * cloth.phase) < 0.06, third, out)
        case _:
            return np.broadcast_to(first, (3, len(around))).copy()


def emblem_mask(cloth: Cloth, x: Floats, y: Floats) -> Floats:
    """Whether a print covers the place (x, y), each within -1..1 of its box, as a boolean (N,)."""
    bitmap = np.array([[c == "#" for c in line] for line in _PRINTS[cloth.emblem]])
    rows, columns = bitmap.shape
    row = np.clip(((y + 1) / 2 * rows).astype(int), 0, rows - 1)
    column = np.clip(((x + 1) / 2 * columns).astype(int), 0, columns - 1)
    return bitmap[row, column] & (np.abs(x) < 1) & (np.abs(y) < 1)


def draw_colour(rng: np.random.Generator) -> Colour:
    """A garment colour: usually a clear hue, sometimes black, white, grey, navy or beige."""
    if rng.random() < 0.24:
        neutral = [
            (0.13, 0.13, 0.15),
            (0.95, 0.94, 0.92),
            (0.5, 0.5, 0.52),
            (0.12, 0.17, 0.36),
            (0.83, 0.74, 0.6),
            (0.42, 0.28, 0.19),
        ]
        colour = np.array(neutral[rng.integers(len(neutral))]) + rng.normal(0, 0.02, 3)
        return as_colour(np.clip(colour, 0.05, 0.97))
    hue, saturation, value = rng.random(), rng.uniform(0.45, 0.92), rng.uniform(0.45, 0.95)
    return colorsys.hsv_to_rgb(hue, saturation, value)


def draw_contrast(rng: np.random.Generator, other: Colour) -> Colour:
    """A garment colour that stands out from ``other``."""
    best, best_score = other, -1.0
    for _ in range(12):
        colour = draw_colour(rng) if rng.random() < 0.87 else (0.96, 0.95, 0.92)
        apart = np.array(colour) - np.array(other)
        score = abs(float(apart @ [0.3, 0.59, 0.11])) + 0.35 * float(np.linalg.norm(apart))
        if score > 0.45:
            return colour
        if score > best_score:
            best, best_score = colour, score
    return best


def draw_cloth(rng: np.random.Generator, *, patterned: bool, base: Colour | None = None, prints: bool = True) -> Cloth:
    """A cloth; a patterned one has features of at least about five pixels in a picture 160 pixels high."""
    first = base if base is not None else draw_colour(rng)
    second = draw_contrast(rng, first)
    third = draw_contrast(rng, second)
    names = [n for n in _PATTERN_WEIGHTS if prints or n != "print"]
    weights = np.array([_PATTERN_WEIGHTS[n] for n in names])
    pattern = str(rng.choice(names, p=weights / weights.sum())) if patterned else "plain"
    low, high = {
        "dots": (0.05, 0.085),
        "checks": (0.05, 0.1),
        "windowpane": (0.055, 0.1),
        "diamonds": (0.07, 0.11),
    }.get(pattern, (0.042, 0.1))
    return Cloth(
        pattern,
        (first, second, third),
        period=float(rng.uniform(low, high)),
        duty=0.5 if pattern in ("checks", "diamonds") else float(rng.uniform(0.36, 0.62)),
        phase=float(rng.random()),
        slant=float(rng.choice([-1.0, 1.0])),
        emblem=str(rng.choice(list(_PRINTS))),
    )
