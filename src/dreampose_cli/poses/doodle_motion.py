"""From the joints of doodles to a moving figure: every drawing's angles on a body of human proportions.

Hands draw arms too long and heads too large. What a doodle says is how the limbs run, so only angles are taken from it;
frames between two doodles are angles between theirs, eased, with the lowest foot on the ground.
"""

from __future__ import annotations

import numpy as np

from .keypoints import SEEN, body_frame, mirrored

CANVAS = (640, 512)  # height and width of the keypoints' picture
_SCALE = 0.76 * CANVAS[0]  # pixels a stature: arms fit above the head
_GROUND = 0.95 * CANVAS[0]
# In statures, the proportions of the neutral mannequin that is posed by them.
_TORSO, _SHOULDER, _DROP, _HIP, _SOLE = 0.325, 0.102, 0.026, 0.052, 0.045
_ARM, _LEG, _FACE = (0.165, 0.142), (0.232, 0.222), 0.095
_LIMBS = (
    ("arm", -1, 2),
    ("arm", 1, 5),
    ("leg", -1, 8),
    ("leg", 1, 11),
)  # which, its side in the picture, its first joint
_AT_REST = {"arm": (12.0, 0.0), "leg": (4.0, 0.0)}


def angles_of(joints: np.ndarray) -> np.ndarray:
    """Joints (18, 3), x, y and score, -> 10 angles in degrees: torso, head, then two for each limb.

    Torso and head lean to the right of the picture. The first of a limb opens outwards from hanging (0) to overhead (180),
    the second is the turn of its second half against its first. A limb that is not drawn hangs.
    """
    points, known = joints[:, :2].astype(np.float64), joints[:, 2] >= SEEN
    hips, neck = (points[8] + points[11]) / 2, points[1]
    torso = np.degrees(np.arctan2(neck[0] - hips[0], hips[1] - neck[1])) if known[1] else 0.0
    face = points[[0, 14, 15]].mean(0)
    head = np.degrees(np.arctan2(face[0] - neck[0], neck[1] - face[1])) if known[0] and known[1] else torso
    angles = [torso, torso + np.clip(_wrapped(head - torso), -35, 35)]
    for limb, side, first in _LIMBS:
        a, b, c = points[first : first + 3]
        if not known[first : first + 3].all():
            angles += _AT_REST[limb]
            continue
        upper, lower = (np.degrees(np.arctan2(side * d[0], d[1])) for d in (b - a, c - b))
        low = -100.0 if limb == "arm" else -180.0  # arms open past overhead, they do not pass through the body
        upper = (upper - low) % 360 + low
        angles += [upper, _wrapped(lower - upper)]
    return np.array(angles)


def figure_of(angles: np.ndarray, known: np.ndarray, facing: str = "front") -> np.ndarray:
    """A keypoint frame (130, 3) on the canvas: the body with these angles, the lowest foot on the ground.

    known: bool (4,), which limbs (right arm, left arm, right leg, left leg) were drawn; the others have the score 0.
    facing: "front", or "back": then left and right are exchanged.
    """
    joints = np.zeros((18, 2))
    up = _up(angles[0])
    right = np.array([-up[1], up[0]])  # of the picture, along the shoulders
    neck = up * _TORSO
    joints[1] = neck
    face = neck + _up(angles[1]) * _FACE
    across = np.array([-_up(angles[1])[1], _up(angles[1])[0]])
    for joint, x, y in ((0, 0, 0), (14, -0.024, 0.022), (15, 0.024, 0.022), (16, -0.054, 0.01), (17, 0.054, 0.01)):
        joints[joint] = face + across * x + _up(angles[1]) * y
    scores = np.ones(18)
    for k, (limb, side, first) in enumerate(_LIMBS):
        start = neck - up * _DROP + right * side * _SHOULDER if limb == "arm" else right * side * _HIP
        upper = angles[2 + 2 * k]
        joints[first] = start
        for j, (angle, length) in enumerate(
            zip((upper, upper + angles[3 + 2 * k]), _ARM if limb == "arm" else _LEG, strict=True)
        ):
            turn = np.deg2rad(angle)
            start = start + length * np.array([side * np.sin(turn), np.cos(turn)])
            joints[first + j + 1] = start
        if not known[k]:
            scores[first : first + 3] = 0
    joints *= _SCALE
    joints[:, 0] += CANVAS[1] / 2
    feet = [8, 9, 10, 11, 12, 13]
    joints[:, 1] += _GROUND - _SOLE * _SCALE - joints[feet, 1].max()
    frame = body_frame(np.concatenate([joints, scores[:, None]], 1))
    if facing == "front":
        return frame
    frame = mirrored(frame)
    frame[[0, 14, 15], 2] = 0  # from behind no face is seen
    return frame


def sequence_of(doodles: list[np.ndarray], facing: str = "front", between: int = 0) -> np.ndarray:
    """Joints of doodles, each (18, 3), -> keypoint frames (F, 130, 3), `between` of them from each doodle to the next."""
    angles = [angles_of(joints) for joints in doodles]
    known = [np.array([(joints[first : first + 3, 2] >= SEEN).all() for _, _, first in _LIMBS]) for joints in doodles]
    frames = [figure_of(angles[0], known[0], facing)]
    for a, b, seen_a, seen_b in zip(angles, angles[1:], known, known[1:], strict=False):
        for k in range(1, between + 2):
            t = k / (between + 1)
            t = t * t * (3 - 2 * t)
            frames.append(figure_of(a + (b - a) * t, seen_b if k > between else seen_a | seen_b, facing))
    return np.stack(frames).astype(np.float32)


def _up(lean: float) -> np.ndarray:
    """The unit vector upwards, Y down, that leans to the right by an angle in degrees."""
    return np.array([np.sin(np.deg2rad(lean)), -np.cos(np.deg2rad(lean))])


def _wrapped(angle: float) -> float:
    return (angle + 180) % 360 - 180
