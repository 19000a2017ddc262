"""Mannequins: who stands in the studio, drawn from a seed."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from .skeleton import REACH, Body
from .textures import Cloth, Colour, as_colour, draw_cloth, draw_colour, draw_contrast

NECKLINES = ("round", "scoop", "v", "boat", "square", "high", "tank", "strapless")
HAIR_STYLES = ("bald", "short", "crop", "bob", "long", "bun", "ponytail", "afro", "fringe")


@dataclass(frozen=True)
class Skirt:
    """A skirt: ``drop`` below the hips and ``hem`` radius in statures, folds, the spring's rate in 1/s and damping."""

    drop: float
    hem: float
    belly: float
    folds: int
    fold_depth: float
    spring: float
    damping: float


@dataclass(frozen=True)
class Outfit:
    """The clothes. ``sleeve`` and ``leg`` run 0..2 along upper and lower limb; trousers have no ``skirt``."""

    kind: str  # dress, skirt, trousers, shorts
    top: Cloth
    bottom: Cloth
    neckline: str
    neck_depth: float
    sleeve: float
    sleeve_loose: float
    leg: float
    leg_loose: float
    flare: float
    top_hem: float
    skirt: Skirt | None
    belt: Colour | None
    trim: Colour | None
    placket: bool
    shoes: Colour
    boots: float


@dataclass(frozen=True)
class Hair:
    """Hair style, colour, and length or volume in 0..1."""

    style: str
    colour: Colour
    amount: float


@dataclass(frozen=True)
class Subject:
    """One mannequin with everything that pictures of it depend on besides the dance."""

    seed: int
    body: Body
    skin: Colour
    lips: Colour
    eyes: Colour
    hair: Hair
    outfit: Outfit
    backdrop: tuple[Colour, Colour]
    shadow: float
    light: tuple[float, float, float]

    @property
    def patterned(self) -> bool:
        """Whether any garment has a pattern."""
        return self.outfit.top.patterned or self.outfit.bottom.patterned


def draw_subject(seed: int) -> Subject:
    """Draw a mannequin; the same seed always gives the same one."""
    rng = np.random.Generator(np.random.PCG64(seed))
    feminine = rng.random() < 0.76
    skin = _skin(rng)
    outfit = _outfit(rng, feminine, skin)
    top, bottom = _backdrop(rng)
    light = np.array([rng.uniform(-0.5, 0.5), rng.uniform(0.4, 0.7), 0.8])
    return Subject(
        seed=seed,
        body=_body(rng, feminine),
        skin=skin,
        lips=as_colour(
            np.array(skin) * (0.3 if feminine else 0.55)
            + np.array([0.78, 0.14, 0.2]) * (0.7 if feminine else 0.38)
        ),
        eyes=(0.16, 0.11, 0.08) if rng.random() < 0.7 else (0.15, 0.28, 0.42),
        hair=_hair(rng, feminine),
        outfit=outfit,
        backdrop=(top, bottom),
        shadow=float(rng.uniform(0.1, 0.3)) if rng.random() < 0.85 else 0.0,
        light=as_colour(light / np.linalg.norm(light)),
    )


def _body(rng: np.random.Generator, feminine: bool) -> Body:
    leg = rng.uniform(0.95, 1.045)
    head = rng.uniform(0.142, 0.16)
    ankle, shin, thigh = 0.045, 0.222 * leg, 0.232 * leg
    waist_height = rng.uniform(0.098, 0.112)
    chest = 1.0 - (ankle + REACH * (shin + thigh) + waist_height + head + 0.034)
    girth = rng.uniform(0.9, 1.22)
    build = girth**0.6
    return Body(
        fill=float(rng.uniform(0.905, 0.935)),
        ankle=ankle,
        shin=shin,
        thigh=thigh,
        hip=float(rng.uniform(0.048, 0.058) if feminine else rng.uniform(0.046, 0.053)),
        waist_height=float(waist_height),
        chest=float(chest),
        shoulder=float(rng.uniform(0.092, 0.105) if feminine else rng.uniform(0.105, 0.122)),
        upper_arm=float(rng.uniform(0.158, 0.172)),
        lower_arm=float(rng.uniform(0.135, 0.148)),
        hand=float(rng.uniform(0.078, 0.088)),
        head=float(head),
        girth=float(girth),
        chest_radius=float((rng.uniform(0.06, 0.068) if feminine else rng.uniform(0.067, 0.076)) * build),
        waist_radius=float((rng.uniform(0.047, 0.056) if feminine else rng.uniform(0.056, 0.064)) * build),
        hip_radius=float((rng.uniform(0.067, 0.078) if feminine else rng.uniform(0.062, 0.068)) * build),
        bust=float(rng.uniform(0.5, 1.0)) if feminine else 0.0,
    )


def _skin(rng: np.random.Generator) -> Colour:
    tones = np.array(
        [
            [0.97, 0.83, 0.74],
            [0.93, 0.76, 0.63],
            [0.86, 0.66, 0.51],
            [0.74, 0.53, 0.38],
            [0.58, 0.39, 0.27],
            [0.4, 0.26, 0.19],
        ]
    )
    position = rng.uniform(0, len(tones) - 1)
    low = int(min(position, len(tones) - 2))
    return as_colour(tones[low] + (tones[low + 1] - tones[low]) * (position - low))


def _hair(rng: np.random.Generator, feminine: bool) -> Hair:
    colours = [(0.09, 0.07, 0.07), (0.2, 0.12, 0.08), (0.36, 0.21, 0.12), (0.55, 0.33, 0.16), (0.85, 0.68, 0.4),
    (0.62, 0.24, 0.12),
               (0.72, 0.71, 0.7), (0.75, 0.35, 0.5)]  # fmt: skip
    colour = colours[rng.choice(len(colours), p=[0.22, 0.2, 0.17, 0.12, 0.13, 0.08, 0.05, 0.03])]
    women = {"long": 3, "bob": 2.2, "ponytail": 2, "bun": 1.6, "afro": 0.8, "fringe": 2, "short": 0.8}
    men = {"short": 3, "crop": 2.2, "bald": 0.8, "afro": 0.7, "bun": 0.4, "fringe": 0.8}
    styles = women if feminine else men
    weights = np.array(list(styles.values()))
    return Hair(str(rng.choice(list(styles), p=weights / weights.sum())), colour, float(rng.random()))


def _outfit(rng: np.random.Generator, feminine: bool, skin: Colour) -> Outfit:
    kind = str(
        rng.choice(
            ["dress", "skirt", "trousers", "shorts"], p=[0.44, 0.26, 0.2, 0.1] if feminine else [0.0, 0.0, 0.72, 0.28]
        )
    )
    patterned = rng.random() < 0.82
    base = draw_colour(rng)
    while np.linalg.norm(np.array(base) - np.array(skin)) < 0.3:  # cloth must not pass for skin
        base = draw_colour(rng)
    if kind == "dress":
        top = draw_cloth(rng, patterned=patterned, base=base)
        bottom = top
        if patterned and rng.random() < 0.12:  # a patterned skirt under a plain bodice
            top = draw_cloth(rng, patterned=False, base=top.colours[int(rng.integers(2))])
    else:
        which = rng.choice(["top", "bottom", "both"], p=[0.62, 0.28, 0.1])
        top = draw_cloth(rng, patterned=patterned and which != "bottom", base=base)
        base = draw_contrast(rng, top.colours[0])
        bottom = draw_cloth(rng, patterned=patterned and which != "top", base=base, prints=False)
    skirt = _skirt(rng, kind) if kind in ("dress", "skirt") else None
    sleeve = float(
        rng.choice(
            [0.0, rng.uniform(0.35, 0.6), rng.uniform(0.8, 1.2), rng.uniform(1.4, 1.65), 2.0],
            p=[0.26, 0.3, 0.1, 0.1, 0.24],
        )
    )
    neckline = str(rng.choice(NECKLINES, p=[0.2, 0.15, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05]))
    if neckline in ("tank", "strapless"):
        sleeve = 0.0
        neckline = neckline if feminine or neckline == "tank" else "round"
    leg = 2.0 if rng.random() < 0.8 else float(rng.uniform(1.5, 1.8))
    if kind == "shorts":
        leg = float(rng.uniform(0.3, 0.95))
    boots = float(rng.choice([0.0, rng.uniform(0.3, 0.75)], p=[0.75, 0.25])) if kind != "trousers" else 0.0
    return Outfit(
        kind=kind,
        top=top,
        bottom=bottom,
        neckline=neckline,
        neck_depth=float(rng.uniform(0.3, 1.0)),
        sleeve=sleeve,
        sleeve_loose=float(
            rng.choice([0.002, rng.uniform(0.004, 0.012), rng.uniform(0.012, 0.022)], p=[0.45, 0.4, 0.15])
        ),
        leg=leg,
        leg_loose=float(rng.uniform(0.003, 0.012)),
        flare=float(rng.choice([0.0, rng.uniform(0.006, 0.014), rng.uniform(0.018, 0.034)], p=[0.45, 0.35, 0.2])),
        top_hem=0.0 if rng.random() < 0.5 else float(rng.uniform(0.2, 0.6)),
        skirt=skirt,
        belt=draw_contrast(rng, bottom.colours[0]) if rng.random() < 0.3 else None,
        trim=draw_contrast(rng, top.colours[0]) if rng.random() < 0.25 else None,
        placket=bool(rng.random() < 0.15),
        shoes=draw_colour(rng)
        if rng.random() < 0.5
        else ((0.1, 0.1, 0.11) if rng.random() < 0.6 else (0.92, 0.91, 0.9)),
        boots=boots,
    )


def _skirt(rng: np.random.Generator, kind: str) -> Skirt:
    drop = float(
        rng.choice([rng.uniform(0.16, 0.22), rng.uniform(0.22, 0.32), rng.uniform(0.32, 0.46)], p=[0.3, 0.42, 0.28])
    )
    shape = rng.choice(["straight", "line", "full"], p=[0.2, 0.45, 0.35])
    widen = {"straight": rng.uniform(0.0, 0.012), "line": rng.uniform(0.03, 0.065), "full": rng.uniform(0.075, 0.12)}[
        shape
    ]
    folds = int(rng.integers(6, 12)) if shape != "straight" else 0
    return Skirt(
        drop=drop,
        hem=float(0.078 + widen * min(1.0, drop / 0.26)),
        belly=float(rng.uniform(0.0, 0.012)) if shape != "straight" else 0.0,
        folds=folds,
        fold_depth=float(rng.uniform(0.12, 0.4)) if folds else 0.0,
        spring=float(2 * np.pi * rng.uniform(1.0, 1.6)),
        damping=float(rng.uniform(0.25, 0.45)),
    )


def _backdrop(rng: np.random.Generator) -> tuple[Colour, Colour]:
    hue, tint, value = rng.random(), rng.uniform(0.0, 0.1), rng.uniform(0.86, 0.97)
    top = np.array(colorsys.hsv_to_rgb(hue, tint, value))
    bottom = top * rng.uniform(0.91, 1.0)
    return as_colour(top), as_colour(np.clip(bottom, 0, 1))
