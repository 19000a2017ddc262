"""The figure's bones: proportions, forward kinematics of the arms and spine, inverse kinematics of the legs, and
surface charts.

A bone's axes are rows (lateral, along, front): lateral points to the figure's own side for limbs (so that left and
right are mirror images) and to the figure's left for the trunk and head; along points from the proximal to the distal
end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dance import Dance
from .geometry import Floats, rotation

BONES: tuple[str, ...] = (
    "chest", "pelvis", "head",
    "upper_arm_l", "lower_arm_l", "hand_l", "upper_leg_l", "lower_leg_l", "foot_l",
    "upper_arm_r", "lower_arm_r", "hand_r", "upper_leg_r", "lower_leg_r", "foot_r",
)  # fmt: skip
BONE: dict[str, int] = {name: index for index, name in enumerate(BONES)}

#: DensePose part numbers of each bone's surface as (front, back); hands and feet have one, the head (right, left).
PARTS: dict[str, tuple[int, int]] = {
    "chest": (2, 1), "pelvis": (2, 1), "head": (23, 24),
    "upper_arm_l": (15, 17), "lower_arm_l": (19, 21), "hand_l": (4, 4),
    "upper_leg_l": (10, 8), "lower_leg_l": (14, 12), "foot_l": (5, 5),
    "upper_arm_r": (16, 18), "lower_arm_r": (20, 22), "hand_r": (3, 3),
    "upper_leg_r": (9, 7), "lower_leg_r": (13, 11), "foot_r": (6, 6),
}  # fmt: skip

TRUNK_ASPECT = 1.42  # width over depth of the trunk, the same along it so that its sections are one quadric
HEAD_ASPECT = 0.86
REACH = 0.994  # how far a standing leg is stretched
_HANGING = np.array([10.0, 0.0, -10.0, 16.0])  # abduct, flex, twist and elbow of an arm at rest
CHEST_SHARE = 0.57  # share of the torso chart's V that lies above the waist


@dataclass(frozen=True)
class Body:
    """Proportions in statures; ``girth`` multiplies limb radii, ``fill`` is the share of the picture's height."""

    fill: float
    ankle: float
    shin: float
    thigh: float
    hip: float
    waist_height: float
    chest: float
    shoulder: float
    upper_arm: float
    lower_arm: float
    hand: float
    head: float
    girth: float
    chest_radius: float
    waist_radius: float
    hip_radius: float
    bust: float


@dataclass(frozen=True)
class Skeleton:
    """Bones over F frames: ``origin`` (F, B, 3), ``axes`` (F, B, 3, 3) unit rows, ``length`` (B,), trunk helpers."""

    origin: Floats
    axes: Floats
    length: Floats
    heading: Floats  # (F, 3, 3): rows left, up, front of the figure's yaw alone
    hips: Floats  # (F, 3): the middle of the hip joints

    def bone(self, name: str) -> tuple[Floats, Floats, float]:
        """(origin (F, 3), axes (F, 3, 3), length) of a bone."""
        index = BONE[name]
        return self.origin[:, index], self.axes[:, index], float(self.length[index])

    def at(self, name: str, lateral: float, along: float, front: float) -> Floats:
        """World points (F, 3) at a place given in a bone's own axes."""
        origin, axes, _ = self.bone(name)
        return origin + lateral * axes[:, 0] + along * axes[:, 1] + front * axes[:, 2]


def pose_skeleton(body: Body, dance: Dance) -> Skeleton:
    """Place the bones of ``body`` in every frame of ``dance``; the feet stand on the ground."""
    frames, get = len(dance), dance.channel
    turn = rotation("y", dance.yaw)
    pelvis = turn @ rotation("z", get("pelvis_roll"))
    spine = rotation("z", get("chest_roll")) @ rotation("y", get("chest_twist")) @ rotation("x", get("chest_bend"))
    chest = pelvis @ spine
    head = chest @ rotation("y", get("head_yaw")) @ rotation("x", get("head_pitch")) @ rotation("z", get("head_roll"))

    hips = np.zeros((frames, 3))
    hips += turn[:, :, 0] * get("shift")[:, None]
    hips[:, 0] += get("travel")
    ankles = {}
    height = np.full(frames, np.inf)
    reach = REACH * (body.thigh + body.shin)
    for side, sign in (("l", 1.0), ("r", -1.0)):
        joint = pelvis @ np.array([sign * body.hip, 0.0, 0.0])
        foot = turn @ np.array([sign * (body.hip + 0.004), 0.0, 0.0])
        foot += turn[:, :, 0] * (sign * get(f"foot_x_{side}"))[:, None] + turn[:, :, 2] * get(f"foot_z_{side}")[:, None]
        foot[:, 0] += get("travel")
        foot[:, 1] = body.ankle + get(f"foot_lift_{side}")
        ankles[side] = foot
        apart = foot - hips - joint
        flat = np.minimum(apart[:, 0] ** 2 + apart[:, 2] ** 2, 0.5 * reach**2)
        height = np.minimum(height, foot[:, 1] + np.sqrt(reach**2 - flat) - joint[:, 1])
    hips[:, 1] = height - get("dip")

    origin = np.zeros((frames, len(BONES), 3))
    axes = np.zeros((frames, len(BONES), 3, 3))
    length = np.ones(len(BONES))

    def place(name: str, start: Floats, turn_: Floats, size: float, sign: float = 1.0) -> Floats:
        index = BONE[name]
        origin[:, index], length[index] = start, size
        axes[:, index] = np.stack([sign * turn_[:, :, 0], -turn_[:, :, 1], turn_[:, :, 2]], 1)
        return start - size * turn_[:, :, 1]

    waist = hips + body.waist_height * pelvis[:, :, 1]
    neck = waist + body.chest * chest[:, :, 1]
    place("pelvis", waist, pelvis, body.waist_height + 0.032)
    place("chest", neck, chest, body.chest)
    pivot = neck + 0.022 * chest[:, :, 1] + 0.006 * chest[:, :, 2]
    crown = pivot + (body.head + 0.012) * head[:, :, 1]
    place("head", crown, head, body.head + 0.05)

    for side, sign in (("l", 1.0), ("r", -1.0)):
        shoulder = neck + chest @ np.array([sign * body.shoulder, -0.026, -0.004])
        upper, lower, hand = _arm(body, dance, side, sign, chest, shoulder)
        elbow = place(f"upper_arm_{side}", shoulder, upper, body.upper_arm, sign)
        wrist = place(f"lower_arm_{side}", elbow, lower, body.lower_arm, sign)
        place(f"hand_{side}", wrist, hand, body.hand, sign)

        hip = hips + pelvis @ np.array([sign * body.hip, 0.0, 0.0])
        knee = _knee(hip, ankles[side], turn, body)
        for name, start, end, size in (
            (f"upper_leg_{side}", hip, knee, body.thigh),
            (f"lower_leg_{side}", knee, ankles[side], body.shin),
        ):
            index = BONE[name]
            origin[:, index], length[index] = start, size
            axes[:, index] = _limb_axes(end - start, sign * turn[:, :, 0], sign)
        toe = turn @ rotation("y", np.full(frames, sign * 13.0)) @ rotation("x", get(f"foot_pitch_{side}"))
        index = BONE[f"foot_{side}"]
        length[index] = 0.125
        axes[:, index] = np.stack([sign * toe[:, :, 0], toe[:, :, 2], toe[:, :, 1]], 1)
        origin[:, index] = ankles[side] - 0.034 * toe[:, :, 2] - (body.ankle - 0.02) * toe[:, :, 1]
    return Skeleton(origin, axes, length, turn.transpose(0, 2, 1), hips)


def _arm(body: Body, dance: Dance, side: str, sign: float, chest: Floats, shoulder: Floats) -> tuple[Floats, ...]:
    """Rotations of upper arm, lower arm and hand; an arm that would leave the picture sinks to the body."""
    angles = np.stack([dance.channel(f"{name}_{side}") for name in ("arm_abduct", "arm_flex", "arm_twist", "elbow")])
    sunk = np.zeros(len(dance))
    limit = 0.4 / body.fill - 0.022
    for _ in range(8):
        abduct, flex, twist, bend = angles + sunk * (_HANGING[:, None] - angles)
        upper = chest @ rotation("z", sign * abduct) @ rotation("x", -flex) @ rotation("y", sign * twist)
        lower = upper @ rotation("x", -bend)
        hand = lower @ rotation("x", np.full(len(dance), -6.0))
        elbow = shoulder - body.upper_arm * upper[:, :, 1]
        wrist = elbow - body.lower_arm * lower[:, :, 1]
        tip = wrist - body.hand * hand[:, :, 1]
        over = np.max([np.abs(tip[:, 0]), np.abs(wrist[:, 0]) + 0.015, np.abs(elbow[:, 0]) + 0.025], 0) - limit
        if over.max() <= 0:
            break
        sunk = np.minimum(sunk + 2.5 * np.maximum(over, 0.0), 1.0)
    return upper, lower, hand


def _knee(hip: Floats, ankle: Floats, turn: Floats, body: Body) -> Floats:
    """The knee between hip and ankle, bent towards the figure's front."""
    apart = ankle - hip
    distance = np.linalg.norm(apart, axis=1, keepdims=True)
    along = apart / distance
    distance = np.minimum(distance, 0.9995 * (body.thigh + body.shin))
    share = (distance**2 + body.thigh**2 - body.shin**2) / (2 * distance)
    out = np.sqrt(np.maximum(body.thigh**2 - share**2, 0.0))
    forward = turn[:, :, 2]
    forward = forward - (forward * along).sum(1, keepdims=True) * along
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    return hip + share * along + out * forward


def _limb_axes(apart: Floats, lateral: Floats, sign: float) -> Floats:
    along = apart / np.linalg.norm(apart, axis=1, keepdims=True)
    lateral = lateral - (lateral * along).sum(1, keepdims=True) * along
    lateral = lateral / np.linalg.norm(lateral, axis=1, keepdims=True)
    return np.stack([lateral, along, -sign * np.cross(lateral, along)], 1)


_ASPECT = np.array([TRUNK_ASPECT if n in ("chest", "pelvis") else HEAD_ASPECT if n == "head" else 1.0 for n in BONES])
_V_START = np.array([CHEST_SHARE if n == "pelvis" else 0.0 for n in BONES], dtype=np.float32)
_V_SPAN = np.array([{"chest": CHEST_SHARE, "pelvis": 1 - CHEST_SHARE}.get(n, 1.0) for n in BONES], dtype=np.float32)
_FRONT = np.array([PARTS[n][0] for n in BONES], dtype=np.float32)
_BACK = np.array([PARTS[n][1] for n in BONES], dtype=np.float32)
_AROUND = np.array([n.startswith(("hand", "foot")) for n in BONES])
_HEAD = np.array([n == "head" for n in BONES])


def bone_coordinates(skeleton: Skeleton, frame: int, bone: NDArray[np.integer], points: Floats) -> Floats:
    """World points (3, N) in their bones' axes (3, N): lateral / aspect and front in statures, along as 0..1."""
    axes = skeleton.axes[frame] / np.stack([_ASPECT, skeleton.length, np.ones(len(BONES))], 1)[:, :, None]
    rows = axes.astype(np.float32).reshape(-1, 9).T[:, bone].reshape(3, 3, -1)
    rel = points - skeleton.origin[frame].astype(np.float32).T[:, bone]
    return np.stack([rows[i, 0] * rel[0] + rows[i, 1] * rel[1] + rows[i, 2] * rel[2] for i in range(3)])


def chart(bone: NDArray[np.integer], place: Floats) -> Floats:
    """Part number, U and V (3, N) of places from `bone_coordinates`.

    Front and back charts share U (0 at the body's midline side of a limb, 1 at its outer side; torso 0 right, 1 left)
    and V (0 at the proximal end). Hands and feet: U the angle around. Head: U from the face (0) to the back (1), V
    from crown to neck.
    """
    x, t, z = place
    around = np.arctan2(z, x) / np.float32(2 * np.pi)  # -0.5..0.5 from lateral
    u = 1.0 - 2.0 * np.abs(around)
    single, head = _AROUND[bone], _HEAD[bone]
    u[single] = np.mod(around[single], 1.0)
    u[head] = np.abs(np.arctan2(x[head], z[head])) / np.float32(np.pi)
    v = _V_START[bone] + _V_SPAN[bone] * np.clip(t, 0.0, 1.0)
    first = np.where(head, x < 0, z > 0)
    part = np.where(first, _FRONT[bone], _BACK[bone])
    return np.stack([part, np.clip(u, 0.005, 1.0), np.clip(v, 0.005, 1.0)]).astype(np.float32)
