"""The colours of the dressed figure: skin, face, hair, garments, and the light on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import figure
from .geometry import Floats, Scene, locate
from .skeleton import BONE, BONES, Skeleton, bone_coordinates
from .skirt import SkirtMotion
from .subject import Subject
from .textures import Cloth, colour_at, emblem_mask

_TAU = np.float32(2 * np.pi)
_ARM_START = 0.02  # the sleeves' patterns begin at the height of the shoulders


class Painter:
    """Paints surface points of one subject in one dance."""

    def __init__(self, subject: Subject, scene: Scene, skeleton: Skeleton, motion: SkirtMotion | None) -> None:
        self.subject, self.scene, self.skeleton, self.motion = subject, scene, skeleton, motion
        body, outfit = subject.body, subject.outfit
        chest, pelvis = skeleton.length[BONE["chest"]], skeleton.length[BONE["pelvis"]]
        found = np.flatnonzero(scene.material == figure.SKIRT)
        self._skirt = int(found[0]) if len(found) else None
        self._waist = float(chest)
        self._hem_line = float(chest + outfit.top_hem * pelvis)
        self._leg_start = float(chest + body.waist_height)
        trunk = 2 * np.pi * 1.22 * 0.5 * (body.chest_radius + body.waist_radius)
        self._trunk_round = float(trunk)
        if outfit.skirt is not None:
            self._skirt_round = float(max(trunk, 2 * np.pi * 0.5 * (outfit.skirt.hem + body.hip_radius) * 1.15))
            end = chest + 0.052 + outfit.skirt.drop
            self._bottom_span = (0.0 if outfit.kind == "dress" else float(chest), float(end))
        else:
            self._skirt_round = self._trunk_round
            legs = min(outfit.leg, 1.0) * body.thigh + max(outfit.leg - 1.0, 0.0) * body.shin
            self._bottom_span = (float(chest), self._leg_start + legs)
        self._top_span = self._bottom_span if outfit.kind == "dress" else (0.0, self._hem_line)

    def paint(self, frame: int, owner: NDArray[np.integer], points: Floats) -> tuple[Floats, Floats]:
        """Unlit colours (3, N), RGB 0..1, and light (N,) of surface points (3, N) on primitives ``owner`` (N,)."""
        bone = self.scene.bone[owner]
        local, normal = locate(self.scene, frame, owner, points)
        place = bone_coordinates(self.skeleton, frame, bone, points)
        colour = np.empty((3, len(owner)), dtype=np.float32)
        group = (self.scene.material * len(BONES) + self.scene.bone)[owner]
        fold = np.ones(len(owner), dtype=np.float32)
        order = np.argsort(group, kind="stable")
        edges = np.flatnonzero(np.diff(group[order], prepend=-1, append=-1))
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            pick = order[start:stop]
            material, index = divmod(int(group[pick[0]]), len(BONES))
            colour[:, pick] = self._colour(material, BONES[index], place[:, pick], local[:, pick], frame)
            if self._skirt is not None and "leg" in BONES[index] and material != figure.SKIRT:
                self._drape(colour, pick, points[:, pick], frame)
            if material == figure.SKIRT:
                fold[pick] = self._folds(local[:, pick], normal, pick)
        return colour, self._light(normal) * fold

    def _light(self, normal: Floats) -> Floats:
        light = np.array(self.subject.light, dtype=np.float32)
        facing = np.abs(normal[2])
        direct = np.maximum(light[0] * normal[0] + light[1] * normal[1] + light[2] * normal[2], 0.0)
        return (0.56 + 0.5 * direct) * (0.80 + 0.20 * np.sqrt(facing))

    def _folds(self, local: Floats, normal: Floats, pick: NDArray[np.integer]) -> Floats:
        """Folds darken and brighten a skirt towards its hem; its inside is in shadow."""
        skirt = self.subject.outfit.skirt
        assert skirt is not None
        around = np.arctan2(local[0], local[2])
        wave = np.cos(around * skirt.folds + 1.0) if skirt.folds else 0.0
        shade = 1.0 + skirt.fold_depth * 0.5 * np.clip(local[1], 0, 1) * wave
        return np.where(normal[2, pick] < 0, 0.62, shade)

    def _colour(self, material: int, bone: str, place: Floats, local: Floats, frame: int) -> Floats:
        outfit = self.subject.outfit
        match material:
            case figure.TRUNK:
                return self._trunk(bone, place)
            case figure.HEAD:
                return self._face(place)
            case figure.SLEEVE | figure.TROUSER:
                return self._limb(bone, place, outfit.top if material == figure.SLEEVE else outfit.bottom)
            case figure.SKIRT:
                return self._skirt_cloth(local, frame)
            case figure.HAIR:
                return self._hair(place)
            case figure.SHOE:
                return self._flat(outfit.shoes, place)
            case _:
                return self._flat(self.subject.skin, place)

    def _skirt_cloth(self, local: Floats, frame: int) -> Floats:
        outfit = self.subject.outfit
        assert outfit.skirt is not None and self.motion is not None
        twist = np.float32(self.motion.twist[frame])
        around = np.arctan2(local[0], local[2]) / _TAU - twist * local[1]
        along = self._waist + 0.052 + local[1] * outfit.skirt.drop
        colour = colour_at(outfit.bottom, around, along, self._skirt_round, self._bottom_span)
        if outfit.trim is not None:
            colour[:, local[1] > 0.93] = np.array(outfit.trim, dtype=np.float32)[:, None]
        return colour

    def _drape(self, colour: Floats, pick: NDArray[np.integer], points: Floats, frame: int) -> None:
        """Draw the cloth that lies on the leg where a knee pushes through the skirt's cone."""
        local = self.scene.frame[frame, self._skirt] @ (points - self.scene.origin[frame, self._skirt][:, None])
        under = local[1] < 1.0
        if under.any():
            colour[:, pick[under]] = self._skirt_cloth(local[:, under].astype(np.float32), frame)

    @staticmethod
    def _flat(colour: tuple[float, float, float], place: Floats) -> Floats:
        return np.repeat(np.array(colour, dtype=np.float32)[:, None], place.shape[1], axis=1)

    def _hair(self, place: Floats) -> Floats:
        x, t, z = place
        strand = np.sin(np.arctan2(x, z) * 19.0 + 6.0 * t)
        return self._flat(self.subject.hair.colour, place) * (1.08 + 0.14 * strand)

    def _limb(self, bone: str, place: Floats, cloth: Cloth) -> Floats:
        body = self.subject.body
        x, t, z = place
        start, length, radius = {
            "upper_arm": (_ARM_START, body.upper_arm, 0.032),
            "lower_arm": (_ARM_START + body.upper_arm, body.lower_arm, 0.026),
            "upper_leg": (self._leg_start, body.thigh, 0.052),
            "lower_leg": (self._leg_start + body.thigh, body.shin, 0.04),
        }[bone[:-2]]
        span = self._top_span if "arm" in bone else self._bottom_span
        around = np.arctan2(x, z) / _TAU
        return colour_at(cloth, around, start + t * length, float(2 * np.pi * radius * body.girth), span)

    def _trunk(self, bone: str, place: Floats) -> Floats:
        """Torso: top, belt, bottom; the neckline leaves skin."""
        outfit = self.subject.outfit
        x, t, z = place
        around = np.arctan2(x, z) / _TAU
        length = float(self.skeleton.length[BONE[bone]])
        along = t * length + (self._waist if bone == "pelvis" else 0.0)
        colour = colour_at(outfit.top, around, along, self._trunk_round, self._top_span)
        across = x * 1.42
        if outfit.top.pattern == "print":
            half = 0.052
            mask = emblem_mask(outfit.top, across / half, (along - 0.105) / half) & (z > 0)
            colour[:, mask] = np.array(outfit.top.colours[1], dtype=np.float32)[:, None]
        if outfit.placket and outfit.kind != "dress" and outfit.trim is not None:
            colour[:, (np.abs(across) < 0.006) & (z > 0)] = np.array(outfit.trim, dtype=np.float32)[:, None]
        if bone == "pelvis":
            low = along > (0.0 if outfit.kind == "dress" else self._hem_line)
            if low.any():
                around_skirt = self._skirt_round if outfit.skirt is not None else self._trunk_round
                colour[:, low] = colour_at(outfit.bottom, around[low], along[low], around_skirt, self._bottom_span)
        if outfit.belt is not None and (outfit.kind == "dress" or outfit.top_hem == 0.0):
            colour[:, np.abs(along - self._waist) < 0.011] = np.array(outfit.belt, dtype=np.float32)[:, None]
        if bone == "chest":
            bare, edge = self._neckline(across, along, z)
            if outfit.trim is not None:
                colour[:, edge] = np.array(outfit.trim, dtype=np.float32)[:, None]
            colour[:, bare] = np.array(self.subject.skin, dtype=np.float32)[:, None]
        return colour

    def _neckline(self, across: Floats, along: Floats, z: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which places above the neckline are bare, and which are its hem."""
        outfit, wide = self.subject.outfit, self.subject.body.shoulder
        side, front, deep = np.abs(across), z > 0, outfit.neck_depth
        match outfit.neckline:
            case "v":
                drop = (0.075 + 0.06 * deep) - side * (1.5 + 1.2 * deep)
            case "scoop":
                drop = (0.07 + 0.035 * deep) * np.sqrt(np.maximum(1 - (side / 0.062) ** 2, 0))
            case "square":
                drop = np.where(side < 0.052, 0.07 + 0.025 * deep, 0.0)
            case "boat":
                drop = np.where(side < 0.085, 0.03, 0.0)
            case "high":
                drop = np.zeros_like(side)
            case "strapless":
                drop = np.full_like(side, 0.075)
            case "tank":
                drop = np.where(side < 0.045, 0.06 + 0.03 * deep, np.where(side < 0.068, -1.0, 0.07))
            case _:
                drop = (0.042 + 0.015 * deep) * np.sqrt(np.maximum(1 - (side / 0.055) ** 2, 0))
        if outfit.neckline not in ("strapless", "tank"):
            drop = np.where(front, drop, 0.5 * drop)
            if outfit.sleeve == 0.0:  # a sleeveless top leaves the ends of the shoulders bare
                drop = np.where(side > 0.86 * wide, 0.08, drop)
        bare = along < drop
        return bare, (along < drop + 0.012) & ~bare & (drop > 0)

    def _face(self, place: Floats) -> Floats:
        """Eyes, brows, mouth and cheeks on the front of the head, and the hair that grows on its surface."""
        subject, size = self.subject, self.subject.body.head
        length = float(self.skeleton.length[BONE["head"]])
        x, t, z = place[0] * 0.86 / size, place[1] * length / size, place[2] / size
        colour = self._flat(subject.skin, place)
        if subject.outfit.neckline == "high":
            neck = (t > 1.0) & (np.hypot(place[0], place[2]) < 0.06)
            cloth = colour_at(subject.outfit.top, np.zeros(1), np.zeros(1), 1.0, self._top_span)
            colour[:, neck] = cloth
        side, front = np.abs(x), z > 0.05

        def spot(dx: float, y: float, half_x: float, half_y: float) -> NDArray[np.bool_]:
            return front & (((side - dx) / half_x) ** 2 + ((t - y) / half_y) ** 2 < 1)

        skin = np.array(subject.skin, dtype=np.float32)
        paint = (
            (spot(0.2, 0.65, 0.075, 0.05), skin * 0.93 + np.array([0.07, 0.0, 0.01])),
            (spot(0.155, 0.395, 0.085, 0.024), np.array(subject.hair.colour) * 0.6 + skin * 0.25),
            (spot(0.15, 0.505, 0.082, 0.052), np.array([0.97, 0.97, 0.96])),
            (spot(0.15, 0.507, 0.046, 0.05), np.array(subject.eyes)),
            (
                front & (side < 0.13) & (np.abs(t - 0.815 + 2.2 * side * side) < 0.034 - 0.12 * side),
                np.array(subject.lips),
            ),
        )
        for mask, value in paint:
            colour[:, mask] = np.asarray(value, dtype=np.float32)[:, None]
        if subject.hair.style != "bald":
            turn = np.abs(np.arctan2(x, z)) / np.pi  # 0 at the face, 1 at the back
            edge = np.interp(turn, [0.0, 0.2, 0.3, 0.42, 0.6, 1.0], [0.2, 0.25, 0.4, 0.5, 0.78, 0.85])
            if subject.hair.style == "fringe":
                edge = np.where(turn < 0.25, 0.34, edge)
            hair = t < edge
            colour[:, hair] = self._hair(place[:, hair])
        return colour
