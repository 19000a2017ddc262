"""A neutral mannequin takes the pose of body keypoints and is drawn as DensePose labels.

Points in a picture say how limbs run within it. A limb that is shorter than it should be reaches out of the picture's
plane: arms and thighs to the figure's front, shins to its back. Where the shoulders are narrower than they should be the
figure is turned, towards the side of its nose; where the left one is left of the right one it shows its back.
"""

from __future__ import annotations

import numpy as np

from .figure import naked
from .geometry import Camera, Floats, RayCaster, rotation
from .skeleton import BONE, BONES, REACH, Body, Skeleton, bone_coordinates, chart

NEUTRAL = Body(
    fill=0.92, ankle=0.045, shin=0.222, thigh=0.232, hip=0.052, waist_height=0.105,
    chest=1.0 - (0.045 + REACH * 0.454 + 0.105 + 0.15 + 0.034), shoulder=0.102, upper_arm=0.165, lower_arm=0.142,
    hand=0.083, head=0.15, girth=1.05, chest_radius=0.066, waist_radius=0.056, hip_radius=0.07, bust=0.4,
)  # fmt: skip
TORSO = NEUTRAL.waist_height + NEUTRAL.chest  # hips to neck, in statures
SHOULDER_DROP = 0.026  # of the shoulder joints under the neck
_FULL = 0.85  # a limb of this share of its length lies within the plane: keypoints are no exact measures
_CHAINS = {"arm": (2, 3, 4), "leg": (8, 9, 10)}  # of the right side; the left's are three further
_NOSE, _NECK, _HIPS, _HEAD = 0, 1, (8, 11), (0, 14, 15, 16, 17)


def stature_of(frames: Floats, least: float) -> float:
    """The number of pixels of a stature in keypoints (F, 18, 3): from the longest torsos, which are seen unshortened."""
    ratios = []
    for body in frames:
        hips = [body[i, :2] for i in _HIPS if body[i, 2] >= least]
        if hips and body[_NECK, 2] >= least:
            ratios.append(np.linalg.norm(np.mean(hips, axis=0) - body[_NECK, :2]) / TORSO)
    if ratios:
        return float(np.percentile(ratios, 80))
    spans = [np.ptp(body[body[:, 2] >= least, 1]) for body in frames if (body[:, 2] >= least).sum() > 1]
    return float(max(spans, default=1.0))


def draw_labels(body: Floats, size: tuple[int, int], stature: float, least: float = 0.3) -> Floats:
    """The labels of the neutral mannequin in a pose, float32 (3, H, W): I, U and V, zero off the figure.

    body: 18 points of OpenPose (18, 3) as x, y in pixels and score; those under `least` are not followed: a limb hangs.
    size: (height, width). stature: pixels a stature (`stature_of`).
    """
    height, width = size
    points = body[:, :2].astype(np.float64)
    world = np.stack([(points[:, 0] - width / 2) / stature, (height - points[:, 1]) / stature], 1)
    skeleton = skeleton_in(world, body[:, 2] >= least)
    camera = Camera(size, stature, float(height))
    caster = RayCaster(naked(NEUTRAL, skeleton), camera)
    owner, depth = caster.cast(0)
    rows, columns = np.nonzero(owner >= 0)
    labels = np.zeros((3, height, width), np.float32)
    if len(rows):
        place = np.stack([camera.columns()[columns], camera.rows()[rows], depth[rows, columns]])
        bone = caster.scene.bone[owner[rows, columns]]
        labels[:, rows, columns] = chart(bone, bone_coordinates(skeleton, 0, bone, place))
    return labels


def skeleton_in(points: Floats, seen: np.ndarray) -> Skeleton:
    """The neutral mannequin's skeleton, one frame, in points (18, 2) in statures, Y up, of which some are seen."""
    body = NEUTRAL
    hips = np.mean([points[i] for i in _HIPS if seen[i]], axis=0) if seen[list(_HIPS)].any() else None
    neck = points[_NECK] if seen[_NECK] else None
    if hips is None:
        hips = (neck if neck is not None else points[seen].mean(0)) - [0, TORSO]
    up = (neck if neck is not None else hips + [0, TORSO]) - hips
    lean = np.degrees(np.arctan2(-up[0], up[1]))
    yaw = _yaw(points, seen, hips)
    trunk = rotation("z", lean) @ rotation("y", yaw)
    front = 1.0 if abs(yaw) <= 90 else -1.0

    origin, axes, length = np.zeros((len(BONES), 3)), np.zeros((len(BONES), 3, 3)), np.ones(len(BONES))

    def place(name: str, start: Floats, turn: Floats, size: float, sign: float = 1.0) -> Floats:
        index = BONE[name]
        origin[index], length[index] = start, size
        axes[index] = np.stack([sign * turn[:, 0], -turn[:, 1], turn[:, 2]])
        return start - size * turn[:, 1]

    middle = np.array([*hips, 0.0])
    waist = middle + body.waist_height * trunk[:, 1]
    top = waist + body.chest * trunk[:, 1]
    place("pelvis", waist, trunk, body.waist_height + 0.032)
    place("chest", top, trunk, body.chest)
    head = _head_turn(points, seen, top, lean) @ trunk
    pivot = top + 0.022 * trunk[:, 1] + 0.006 * trunk[:, 2]
    place("head", pivot + (body.head + 0.012) * head[:, 1], head, body.head + 0.05)
    for side, sign, further in (("r", -1.0, 0), ("l", 1.0, 3)):
        shoulder = top + trunk @ np.array([sign * body.shoulder, -SHOULDER_DROP, -0.004])
        arm = [i + further for i in _CHAINS["arm"]]
        upper, lower = _limb(points, seen, arm, trunk, sign, (body.upper_arm, body.lower_arm), (front, front), 12.0)
        elbow = place(f"upper_arm_{side}", shoulder, upper, body.upper_arm, sign)
        wrist = place(f"lower_arm_{side}", elbow, lower, body.lower_arm, sign)
        place(f"hand_{side}", wrist, lower, body.hand, sign)
        hip = middle + trunk @ np.array([sign * body.hip, 0.0, 0.0])
        leg = [i + further for i in _CHAINS["leg"]]
        upper, lower = _limb(points, seen, leg, trunk, sign, (body.thigh, body.shin), (front, -front), 4.0)
        knee = place(f"upper_leg_{side}", hip, upper, body.thigh, sign)
        ankle = place(f"lower_leg_{side}", knee, lower, body.shin, sign)
        toe = lower @ rotation("y", sign * 13.0)
        index = BONE[f"foot_{side}"]
        length[index] = 0.125
        axes[index] = np.stack([sign * toe[:, 0], toe[:, 2], toe[:, 1]])
        origin[index] = ankle - 0.034 * toe[:, 2] - (body.ankle - 0.02) * toe[:, 1]
    heading = rotation("y", yaw).T
    return Skeleton(origin[None], axes[None], length, heading[None], middle[None])


def _yaw(points: Floats, seen: Floats, hips: Floats) -> float:
    """The turn of the figure, in degrees: 0 faces the camera, positive to the right of the picture."""
    if not (seen[2] and seen[5]):
        return 0.0
    across = (points[5, 0] - points[2, 0]) / (2 * NEUTRAL.shoulder * _FULL)
    angle = float(np.degrees(np.arccos(np.clip(across, -1, 1))))
    if angle in (0.0, 180.0):
        return angle
    middle = (points[2] + points[5]) / 2
    # Without a nose an ear alone is the one that faces us.
    towards = points[_NOSE, 0] - middle[0] if seen[_NOSE] else float(seen[16]) - float(seen[17])
    return angle if towards >= 0 else -angle


def _head_turn(points: Floats, seen: Floats, top: Floats, lean: float) -> Floats:
    """The lean of the head against the trunk, a rotation (3, 3) in the picture's plane."""
    face = [points[i] for i in _HEAD if seen[i]]
    if not face:
        return np.eye(3)
    apart = np.mean(face, axis=0) - (points[_NECK] if seen[_NECK] else top[:2])
    angle = np.degrees(np.arctan2(-apart[0], apart[1])) - lean
    return rotation("z", float(np.clip((angle + 180) % 360 - 180, -35, 35)))


def _limb(
    points: Floats,
    seen: Floats,
    chain: list[int],
    trunk: Floats,
    sign: float,
    lengths: tuple[float, float],
    depths: tuple[float, float],
    hanging: float,
) -> tuple[Floats, Floats]:
    """The rotations of a limb's two bones. depths: the side, towards the camera or away, that a short bone reaches to."""
    first, second, third = chain
    rest = trunk @ rotation("z", sign * hanging)
    out = sign * trunk[0, 0]
    if seen[first] and seen[second]:
        upper = _turned(trunk, _direction(points[second] - points[first], lengths[0], depths[0], out))
    elif seen[first] and seen[third]:
        upper = _turned(trunk, _direction(points[third] - points[first], sum(lengths), depths[0], out))
    else:
        return rest, rest
    if seen[second] and seen[third]:
        return upper, _turned(upper, _direction(points[third] - points[second], lengths[1], depths[1], out))
    return upper, upper


def _direction(apart: Floats, length: float, depth: float, out: float) -> Floats:
    """The unit direction (3,) of a bone of `length` that is seen as `apart` (2,)."""
    seen_length = float(np.linalg.norm(apart))
    share = min(1.0, seen_length / (length * _FULL))
    flat = apart / max(seen_length, 1e-9) * share
    direction = np.array([flat[0] + 1e-3 * np.sign(out), flat[1], depth * np.sqrt(max(0.0, 1 - share**2))])
    return direction / np.linalg.norm(direction)


def _turned(turn: Floats, direction: Floats) -> Floats:
    """The rotation nearest to `turn` whose bone, its second axis downwards, runs along `direction`."""
    before = -turn[:, 1]
    axis, cosine = np.cross(before, direction), float(before @ direction)
    if cosine < -0.9999:
        axis, cosine = turn[:, 2], -1.0
        return (2 * np.outer(axis, axis) - np.eye(3)) @ turn
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return (np.eye(3) + cross + cross @ cross / (1 + cosine)) @ turn
