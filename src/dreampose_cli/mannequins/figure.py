"""From bones to surfaces: the naked figure whose charts are the labels, and the dressed figure that the camera sees."""

from __future__ import annotations

import numpy as np

from .dance import Dance
from .geometry import Scene, SceneBuilder
from .skeleton import BONE, TRUNK_ASPECT, Body, Skeleton
from .skirt import SkirtMotion, swing
from .subject import Subject

# Materials: what a primitive of the dressed figure shows.
SKIN, TRUNK, HEAD, SLEEVE, TROUSER, SKIRT, HAIR, SHOE = range(8)

_UPPER_ARM = (0.034, 0.033, 0.0265)
_LOWER_ARM = (0.0275, 0.0265, 0.0185)
_UPPER_LEG = (0.058, 0.0525, 0.0405)
_LOWER_LEG = (0.0395, 0.0375, 0.0235)


def naked(body: Body, skeleton: Skeleton) -> Scene:
    """The bare figure; the surface of its primitives carries the labels."""
    builder = SceneBuilder(len(skeleton.origin))
    _trunk(builder, body, skeleton, 0.0, SKIN)
    _head(builder, body, skeleton)
    for side in "lr":
        _limbs(builder, body, skeleton, side, 0.0, 0.0)
    return builder.build()


def dressed(subject: Subject, skeleton: Skeleton, dance: Dance) -> tuple[Scene, SkirtMotion | None]:
    """The figure with clothes, shoes and hair, and how its skirt moves (None without one)."""
    body, outfit = subject.body, subject.outfit
    builder = SceneBuilder(len(skeleton.origin))
    _trunk(builder, body, skeleton, 0.0035, TRUNK, seat=outfit.skirt is None)
    _head(builder, body, skeleton)
    _face(builder, body, skeleton)
    for side in "lr":
        arm = 0.0025 if outfit.sleeve > 0 else 0.0
        _limbs(
            builder,
            body,
            skeleton,
            side,
            arm,
            outfit.leg if outfit.skirt is None else 0.0,
            dressed=True,
            sleeve=outfit.sleeve,
        )
        _garments(builder, subject, skeleton, side)
    motion = None
    if outfit.skirt is not None:
        top = skeleton.at("pelvis", 0.0, 0.052, 0.0)
        # Below the waist the skirt hugs the pelvis as far as `top`, then hangs on its spring.
        motion = swing(outfit.skirt, skeleton, dance.yaw, dance.fps, top, 0.9 * _UPPER_LEG[2] * body.girth)
        hip = body.hip_radius + 0.006
        middle = 0.5 * (hip + motion.hem) + outfit.skirt.belly
        pelvis = skeleton.bone("pelvis")[1]
        # From the pelvis' own axis at the top to the vertical: half of the hips' roll.
        down = pelvis[:, 1] * 0.5 + np.array([0.0, -0.5, 0.0])
        down /= np.linalg.norm(down, axis=1, keepdims=True)
        lateral = skeleton.heading[:, 0] - (skeleton.heading[:, 0] * down).sum(1, keepdims=True) * down
        lateral /= np.linalg.norm(lateral, axis=1, keepdims=True)
        axes = np.stack([lateral, down, -np.cross(lateral, down)], 1)
        builder.barrel(
            top, axes, motion.drop, (np.full_like(motion.hem, hip), middle, motion.hem), k=motion.aspect,
            shear=(motion.lateral, motion.front), two_sided=True, bone=BONE["pelvis"], material=SKIRT,
        )  # fmt: skip
    _hair(builder, subject, skeleton, dance)
    return builder.build(), motion


def _trunk(
    builder: SceneBuilder, body: Body, skeleton: Skeleton, cloth: float, material: int, *, seat: bool = True
) -> None:
    """The torso, thicker by ``cloth``; a skirt covers the ``seat`` and needs none of its own."""
    k = TRUNK_ASPECT
    chest, pelvis = BONE["chest"], BONE["pelvis"]
    origin, axes, length = skeleton.bone("chest")
    c, w, h = body.chest_radius + cloth, body.waist_radius + cloth, body.hip_radius + cloth
    builder.barrel(origin, axes, length, (0.7 * c, 1.02 * c, w), k=k, clip=(0.06, 1.0), bone=chest, material=material)
    for sign in (1.0, -1.0):
        # Slopes from the neck to the shoulders.
        tilt = np.deg2rad(22.0)
        out, down = np.cos(tilt), np.sin(tilt)
        slope = np.stack([
            sign * (out * axes[:, 0] * sign + down * axes[:, 1]),
            down * axes[:, 0] * -sign + out * axes[:, 1],
            axes[:, 2],
        ], 1)  # fmt: skip
        centre = skeleton.at("chest", sign * body.shoulder * 0.52, 0.026, -0.004)
        builder.ellipsoid(
            centre, slope, (body.shoulder * 0.66, 0.03 + cloth, 0.038 + cloth), bone=chest, material=material
        )
        if body.bust:
            centre = skeleton.at("chest", sign * 0.04, 0.40 * length, 0.5 * c)
            size = 0.034 + 0.01 * body.bust + cloth
            builder.ellipsoid(centre, axes, (1.1 * size, 1.15 * size, size), bone=chest, material=material)
    origin, axes, length = skeleton.bone("pelvis")
    builder.ellipsoid(origin, axes, (k * w * 1.0, 0.05, w * 1.0), bone=pelvis, material=material)
    builder.barrel(origin, axes, length, (w, h, 0.86 * h), k=k, clip=(0.0, 0.86), bone=pelvis, material=material)
    builder.ellipsoid(
        skeleton.at("pelvis", 0.0, 0.8 * length, 0.0),
        axes,
        (0.9 * h * k, 0.04, 0.9 * h),
        bone=pelvis,
        material=material,
    )
    for sign in (1.0, -1.0) if seat else ():
        centre = skeleton.at("pelvis", sign * 0.042, 0.64 * length, -0.4 * h)
        builder.ellipsoid(centre, axes, (0.058, 0.06, 0.05 + cloth), bone=pelvis, material=material)


def _head(builder: SceneBuilder, body: Body, skeleton: Skeleton) -> None:
    head = BONE["head"]
    _, axes, length = skeleton.bone("head")
    size = body.head
    builder.ellipsoid(
        skeleton.at("head", 0, 0.46 * size, -0.004),
        axes,
        (0.365 * size, 0.46 * size, 0.44 * size),
        bone=head,
        material=HEAD,
    )
    builder.ellipsoid(
        skeleton.at("head", 0, 0.68 * size, 0.012),
        axes,
        (0.27 * size, 0.32 * size, 0.30 * size),
        bone=head,
        material=HEAD,
    )
    origin, chest, _ = skeleton.bone("chest")
    radius = 0.0265 * body.girth**0.5
    start = origin + 0.06 * -chest[:, 1] + 0.004 * chest[:, 2]
    builder.barrel(start, chest, 0.085, (radius, radius * 0.98, radius * 1.25), bone=head, material=HEAD)


def _face(builder: SceneBuilder, body: Body, skeleton: Skeleton) -> None:
    """Nose and ears: on the picture, too small for the charts."""
    head, size = BONE["head"], body.head
    _, axes, _ = skeleton.bone("head")
    builder.ellipsoid(
        skeleton.at("head", 0, 0.58 * size, 0.41 * size),
        axes,
        (0.05 * size, 0.1 * size, 0.075 * size),
        bone=head,
        material=SKIN,
    )
    for sign in (1.0, -1.0):
        centre = skeleton.at("head", sign * 0.36 * size, 0.53 * size, -0.01)
        builder.ellipsoid(centre, axes, (0.035 * size, 0.1 * size, 0.06 * size), bone=head, material=SKIN)


def _scaled(radii: tuple[float, float, float], factor: float, add: float = 0.0) -> tuple[float, ...]:
    return tuple(r * factor + add for r in radii)


def _limbs(
    builder: SceneBuilder,
    body: Body,
    skeleton: Skeleton,
    side: str,
    arm: float,
    leg: float,
    *,
    dressed: bool = False,
    sleeve: float = 0.0,
) -> None:
    """Arms and legs. Dressed: joints inside sleeves (0..2) or trouser legs (0..2) are thickened by cloth."""
    girth = body.girth

    def bone(name: str) -> int:
        return BONE[f"{name}_{side}"]

    def joint(name: str, radius: float, material: int) -> None:
        origin, axes, _ = skeleton.bone(f"{name}_{side}")
        owner = {"lower_arm": "upper_arm", "lower_leg": "upper_leg", "hand": "lower_arm", "foot": "lower_leg"}.get(
            name, name
        )
        builder.ellipsoid(origin, axes, (radius,) * 3, bone=bone(owner), material=material)

    origin, axes, length = skeleton.bone(f"upper_arm_{side}")
    builder.barrel(origin, axes, length, _scaled(_UPPER_ARM, girth), bone=bone("upper_arm"), material=SKIN)
    joint("upper_arm", _UPPER_ARM[0] * girth * 1.06 + arm, SLEEVE if sleeve > 0 else SKIN)
    origin, axes, length = skeleton.bone(f"lower_arm_{side}")
    builder.barrel(origin, axes, length, _scaled(_LOWER_ARM, girth), bone=bone("lower_arm"), material=SKIN)
    covered = dressed and sleeve >= 1.0
    joint("lower_arm", _LOWER_ARM[0] * girth + (arm if covered else 0.0), SLEEVE if covered else SKIN)
    origin, axes, length = skeleton.bone(f"hand_{side}")
    centre = skeleton.at(f"hand_{side}", 0.0, 0.44 * length, 0.0)
    builder.ellipsoid(centre, axes, (0.0145, 0.56 * length, 0.0225), bone=bone("hand"), material=SKIN)

    origin, axes, length = skeleton.bone(f"upper_leg_{side}")
    builder.barrel(origin, axes, length, _scaled(_UPPER_LEG, girth), bone=bone("upper_leg"), material=SKIN)
    joint("upper_leg", _UPPER_LEG[0] * girth * 0.99, TROUSER if leg > 0 else SKIN)
    origin, axes, length = skeleton.bone(f"lower_leg_{side}")
    builder.barrel(origin, axes, length, _scaled(_LOWER_LEG, girth), bone=bone("lower_leg"), material=SKIN)
    covered = dressed and leg >= 1.0
    joint("lower_leg", _UPPER_LEG[2] * girth + (0.004 if covered else 0.0), TROUSER if covered else SKIN)
    start = origin + axes[:, 1] * length
    builder.ellipsoid(start, axes, (_LOWER_LEG[2] * girth,) * 3, bone=bone("lower_leg"), material=SKIN)
    origin, axes, length = skeleton.bone(f"foot_{side}")
    grow = 0.0025 if dressed else 0.0
    shoe = SHOE if dressed else SKIN
    builder.ellipsoid(
        skeleton.at(f"foot_{side}", 0.0, 0.5 * length, 0.001), axes, (0.027 + grow, 0.5 * length + grow, 0.02 + grow),
        bone=bone("foot"), material=shoe,
    )  # fmt: skip
    builder.ellipsoid(
        skeleton.at(f"foot_{side}", 0.0, 0.3 * length, 0.01), axes, (0.0235 + grow, 0.25 * length + grow, 0.028 + grow),
        bone=bone("foot"), material=shoe,
    )  # fmt: skip


def _garments(builder: SceneBuilder, subject: Subject, skeleton: Skeleton, side: str) -> None:
    """Sleeves, trouser legs and boots: barrels around the limbs that end at a hem."""
    outfit, girth = subject.outfit, subject.body.girth

    def cover(
        name: str, radii: tuple[float, float, float], share: float, start: float, end: float, material: int
    ) -> None:
        """A barrel around the first ``share`` of a limb, ``start`` to ``end`` thicker than it."""
        if share <= 0:
            return
        origin, axes, length = skeleton.bone(f"{name}_{side}")
        share = min(share, 1.0)
        r0, rm, r1 = (r * girth for r in radii)
        at_end = r0 + (4 * rm - 3 * r0 - r1) * share + (2 * r0 + 2 * r1 - 4 * rm) * share * share
        middle = share / 2
        at_middle = r0 + (4 * rm - 3 * r0 - r1) * middle + (2 * r0 + 2 * r1 - 4 * rm) * middle * middle
        builder.barrel(
            origin, axes, length * share, (r0 + start, at_middle + (start + end) / 2, at_end + end), two_sided=True,
            bone=BONE[f"{name}_{side}"], material=material,
        )  # fmt: skip

    loose = 0.003 + outfit.sleeve_loose
    cover("upper_arm", _UPPER_ARM, outfit.sleeve, 0.003, 0.003 if outfit.sleeve >= 1 else loose, SLEEVE)
    cover("lower_arm", _LOWER_ARM, outfit.sleeve - 1.0, 0.003, loose, SLEEVE)
    if outfit.skirt is None:
        cover(
            "upper_leg", _UPPER_LEG, outfit.leg, 0.003, 0.004 if outfit.leg >= 1 else 0.004 + outfit.leg_loose, TROUSER
        )
        cover("lower_leg", _LOWER_LEG, outfit.leg - 1.0, 0.004, 0.006 + outfit.leg_loose + outfit.flare, TROUSER)
    else:
        cover("upper_leg", _UPPER_LEG, 0.35, 0.002, 0.001, TROUSER)
    if outfit.boots:
        origin, axes, length = skeleton.bone(f"lower_leg_{side}")
        end = origin + axes[:, 1] * length
        flipped = np.stack([axes[:, 0], -axes[:, 1], axes[:, 2]], 1)
        low, high = (
            _LOWER_LEG[2] * girth + 0.004,
            (_LOWER_LEG[2] + (_LOWER_LEG[1] - _LOWER_LEG[2]) * 2 * outfit.boots) * girth + 0.005,
        )
        high = min(high, _LOWER_LEG[0] * girth + 0.005)
        builder.barrel(
            end,
            flipped,
            length * outfit.boots,
            (low, (low + high) / 2, high),
            two_sided=True,
            bone=BONE[f"lower_leg_{side}"],
            material=SHOE,
        )
        builder.ellipsoid(end, axes, (low, low, low), bone=BONE[f"lower_leg_{side}"], material=SHOE)


def _hair(builder: SceneBuilder, subject: Subject, skeleton: Skeleton, dance: Dance) -> None:
    style, amount, size = subject.hair.style, subject.hair.amount, subject.body.head
    head = BONE["head"]
    _, axes, _ = skeleton.bone("head")
    tags = {"bone": head, "material": HAIR}

    def puff(y: float, z: float, half: tuple[float, float, float]) -> None:
        builder.ellipsoid(skeleton.at("head", 0, y * size, z * size), axes, tuple(h * size for h in half), **tags)

    if style in ("bald", "crop"):
        return
    if style == "afro":
        grow = 0.06 + 0.12 * amount
        puff(0.34 - 0.5 * grow, -0.2 - 0.9 * grow, (0.42 + grow, 0.44 + grow, 0.42 + grow))
        return
    puff(0.42, -0.1, (0.395, 0.455, 0.44))
    swirl = -np.gradient(dance.yaw) * 0.0006 if len(dance) > 1 else np.zeros(1)
    swirl = np.clip(np.convolve(np.pad(swirl, 2, mode="edge"), np.ones(3) / 3, mode="same")[1:-3], -0.03, 0.03)
    if style == "bob":
        puff(0.62, -0.14, (0.43, 0.42 + 0.1 * amount, 0.36))
    elif style == "fringe":
        puff(0.52, -0.16, (0.42, 0.42, 0.36))
    elif style == "bun":
        puff(0.12 + 0.2 * amount, -0.42 + 0.25 * (1 - amount), (0.19, 0.18, 0.19))
    elif style == "ponytail":
        origin = skeleton.at("head", 0, 0.28 * size, -0.46 * size)
        down = np.stack([axes[:, 0], axes[:, 1], axes[:, 2]], 1)
        builder.barrel(
            origin,
            down,
            (0.9 + 0.7 * amount) * size,
            (0.1 * size, 0.15 * size, 0.03 * size),
            shear=(swirl, -0.14 * size - np.abs(swirl)),
            **tags,
        )
        puff(0.28, -0.46, (0.12, 0.12, 0.12))
    elif style == "long":
        origin = skeleton.at("head", 0, 0.4 * size, -0.17 * size)
        length = (1.0 + 0.9 * amount) * size
        builder.barrel(
            origin,
            axes,
            length,
            (0.28 * size, 0.27 * size, 0.2 * size),
            k=1.5,
            shear=(swirl, -0.12 * size - np.abs(swirl)),
            **tags,
        )
        builder.ellipsoid(
            origin + axes[:, 1] * length + axes[:, 0] * swirl[:, None] - axes[:, 2] * (0.12 * size + np.abs(swirl))[:,
            None],
            axes, (0.3 * size, 0.12 * size, 0.2 * size), **tags,
        )  # fmt: skip
