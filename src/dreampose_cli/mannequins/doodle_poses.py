"""The poses of doodles: 18 joints of a mannequin that dances or bends its limbs anywhere, in a child's proportions."""

from __future__ import annotations

import numpy as np

from .dance import CHANNELS, Dance, draw_dance
from .geometry import Floats, rotation
from .skeleton import Body, pose_skeleton
from .subject import draw_subject

#: The 18 body points of OpenPose, in its order.
JOINTS: tuple[str, ...] = (
    "nose", "neck", "shoulder_r", "elbow_r", "wrist_r", "shoulder_l", "elbow_l", "wrist_l",
    "hip_r", "knee_r", "ankle_r", "hip_l", "knee_l", "ankle_l", "eye_r", "eye_l", "ear_r", "ear_l",
)  # fmt: skip
INDEX = {name: index for index, name in enumerate(JOINTS)}
_MIRRORED = [INDEX[n[:-1] + {"r": "l", "l": "r"}[n[-1]] if n[-2:] in ("_r", "_l") else n] for n in JOINTS]
HEAD = [INDEX[n] for n in ("nose", "eye_r", "eye_l", "ear_r", "ear_l")]


def mannequin_joints(body: Body, dance: Dance) -> Floats:
    """The 18 joints of every frame of a dance: (F, 18, 3), in statures, Y up."""
    skeleton = pose_skeleton(body, dance)
    size = body.head
    found = {
        "nose": skeleton.at("head", 0, 0.58 * size, 0.41 * size),
        "eye_r": skeleton.at("head", -0.16 * size, 0.47 * size, 0.38 * size),
        "eye_l": skeleton.at("head", 0.16 * size, 0.47 * size, 0.38 * size),
        "ear_r": skeleton.at("head", -0.36 * size, 0.53 * size, 0),
        "ear_l": skeleton.at("head", 0.36 * size, 0.53 * size, 0),
    }
    for side in "rl":
        for joint, bone in (("shoulder", "upper_arm"), ("elbow", "lower_arm"), ("wrist", "hand")):
            found[f"{joint}_{side}"] = skeleton.bone(f"{bone}_{side}")[0]
        for joint, bone in (("hip", "upper_leg"), ("knee", "lower_leg")):
            found[f"{joint}_{side}"] = skeleton.bone(f"{bone}_{side}")[0]
        origin, axes, length = skeleton.bone(f"lower_leg_{side}")
        found[f"ankle_{side}"] = origin + length * axes[:, 1]
    found["neck"] = (found["shoulder_r"] + found["shoulder_l"]) / 2
    return np.stack([found[name] for name in JOINTS], 1)


def dancer(rng: np.random.Generator) -> Floats:
    """A moment of a mannequin's dance: (18, 3)."""
    body = draw_subject(int(rng.integers(2**31))).body
    dance = draw_dance(int(rng.integers(2**31)), 24)
    moment = int(rng.integers(24))
    one = Dance(dance.seed, dance.channels[moment : moment + 1], dance.yaw[moment : moment + 1], dance.fps)
    return mannequin_joints(body, one)[0]


def acrobat(rng: np.random.Generator) -> Floats:
    """A mannequin whose limbs point anywhere that limbs can, mostly within the plane of the picture: (18, 3)."""
    body = draw_subject(int(rng.integers(2**31))).body
    rest = Dance(0, np.zeros((1, len(CHANNELS))), np.zeros(1), 12.0)
    joints = mannequin_joints(body, rest)[0]
    turn = rotation("y", rng.normal(0, 22)) @ rotation("z", rng.normal(0, 9))
    hips = (joints[INDEX["hip_r"]] + joints[INDEX["hip_l"]]) / 2
    joints = (joints - hips) @ turn.T + hips
    waist = (joints[INDEX["neck"]] + hips) / 2
    bend = rotation("z", rng.normal(0, 9)) @ rotation("x", rng.normal(0, 8))
    upper = [i for i, name in enumerate(JOINTS) if not name.startswith(("hip", "knee", "ankle"))]
    joints[upper] = (joints[upper] - waist) @ bend.T + waist
    neck = joints[INDEX["neck"]].copy()
    joints[HEAD] = (joints[HEAD] - neck) @ rotation("z", rng.normal(0, 10)).T + neck
    both_arms, both_legs = _arm_angles(rng), _leg_angles(rng)
    for side, sign in (("r", -1.0), ("l", 1.0)):
        arm = both_arms if rng.random() < 0.35 else _arm_angles(rng)
        leg = both_legs if rng.random() < 0.35 else _leg_angles(rng)
        for chain, (first, second, depth), lengths in (
            (("shoulder", "elbow", "wrist"), arm, (body.upper_arm, body.lower_arm)),
            (("hip", "knee", "ankle"), leg, (body.thigh, body.shin)),
        ):
            for a, b, angle, tilt, length in zip(
                chain, chain[1:], (first, first + second), (depth[0], depth[1]), lengths, strict=False
            ):
                out, down = np.sin(np.deg2rad(angle)), -np.cos(np.deg2rad(angle))
                flat = np.cos(np.deg2rad(tilt))
                step = length * np.array([sign * out * flat, down * flat, np.sin(np.deg2rad(tilt))])
                joints[INDEX[f"{b}_{side}"]] = joints[INDEX[f"{a}_{side}"]] + step
    return joints


def _arm_angles(rng: np.random.Generator) -> tuple[float, float, Floats]:
    """Upper arm from hanging (0) outwards to overhead (180), the forearm's turn against it, and depths, in degrees."""
    kind = rng.random()
    if kind < 0.2:  # hanging
        first, second = rng.normal(14, 8), rng.normal(0, 12)
    elif kind < 0.4:  # straight, anywhere
        first, second = rng.uniform(10, 175), rng.normal(0, 8)
    elif kind < 0.55:  # hand on the hip
        first, second = rng.normal(45, 10), -rng.normal(95, 18)
    else:  # bent, up or down
        first, second = rng.uniform(-10, 165), rng.uniform(-140, 140)
    return first, second, rng.normal(0, 14, 2)


def _leg_angles(rng: np.random.Generator) -> tuple[float, float, Floats]:
    kind = rng.random()
    if kind < 0.45:  # standing
        first, second = rng.normal(9, 8), rng.normal(-2, 6)
    elif kind < 0.65:  # wide, or a kick
        first, second = rng.uniform(15, 95), rng.normal(0, 8)
    elif kind < 0.85:  # a step or a jump: the knee out, the shin back
        first, second = rng.uniform(10, 80), -rng.uniform(15, 125)
    else:
        first, second = rng.uniform(-15, 40), rng.uniform(-80, 60)
    return first, second, rng.normal(0, 14, 2)


def upright_view(joints: Floats) -> Floats:
    """World joints (18, 3) as a picture (18, 2), Y down, with the figure's right shoulder on the left."""
    flat = joints[:, :2] * [1, -1]
    across = flat[INDEX["shoulder_l"], 0] + flat[INDEX["hip_l"], 0] - flat[INDEX["shoulder_r"], 0] - flat[INDEX["hip_r"], 0]
    return flat[_MIRRORED] if across < 0 else flat


def childlike(joints: Floats, rng: np.random.Generator) -> Floats:
    """Other proportions: limbs too long or short, a head too large, shoulders and hips drawn to one point."""
    out = joints.copy()
    hips = (joints[INDEX["hip_r"]] + joints[INDEX["hip_l"]]) / 2
    neck = joints[INDEX["neck"]]
    torso = rng.uniform(0.65, 1.25)
    narrow = rng.random() < 0.6
    shoulder = rng.uniform(0.1, 0.4) if narrow else rng.uniform(0.6, 1.3)
    hip = rng.uniform(0.1, 0.5) if rng.random() < 0.75 else rng.uniform(0.7, 1.4)
    new_neck = hips + (neck - hips) * torso
    drop = (new_neck - hips) * -rng.uniform(0.0, 0.25) if narrow else 0.0  # arms often begin below the neck
    arm_span, leg_span = rng.uniform(0.6, 1.25), rng.uniform(0.6, 1.25)
    for side in "rl":
        for chain, base, centre, start, span in (
            (("shoulder", "elbow", "wrist"), neck, new_neck + drop, shoulder, arm_span),
            (("hip", "knee", "ankle"), hips, hips, hip, leg_span),
        ):
            place = centre + (joints[INDEX[f"{chain[0]}_{side}"]] - base) * start
            out[INDEX[f"{chain[0]}_{side}"]] = place
            for a, b in zip(chain, chain[1:], strict=False):
                step = joints[INDEX[f"{b}_{side}"]] - joints[INDEX[f"{a}_{side}"]]
                place = place + step * span * rng.uniform(0.85, 1.15)
                out[INDEX[f"{b}_{side}"]] = place
    out[INDEX["neck"]] = new_neck
    grow = rng.uniform(0.8, 2.1)
    lift = rng.uniform(0.75, 1.25) * max(1.0, 0.5 + grow / 2)
    middle = joints[HEAD].mean(0)
    out[HEAD] = new_neck + (middle - neck) * lift + (joints[HEAD] - middle) * grow
    return out
