"""Skirts: a damped spring that follows the hips, the legs and the turning of the figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import Floats
from .skeleton import TRUNK_ASPECT, Skeleton
from .subject import Skirt

_SUBSTEPS = 8


@dataclass(frozen=True)
class SkirtMotion:
    """Per frame (F,): the hem's offset and radius in statures, hanging length, aspect, the hem's twist in turns."""

    lateral: Floats
    front: Floats
    hem: Floats
    drop: Floats
    aspect: Floats
    twist: Floats


def swing(skirt: Skirt, skeleton: Skeleton, yaw: Floats, fps: float, top: Floats, leg_radius: float) -> SkirtMotion:
    """Let a skirt that hangs from ``top`` (F, 3) swing along the motion; it is settled in the first frame's pose."""
    frames = len(yaw)
    centre, spread = _legs(skeleton, top, skirt.drop, leg_radius)
    heading = skeleton.heading
    goal = top + centre[:, :1] * heading[:, 0] + centre[:, 1:] * heading[:, 2]
    goal = goal[:, [0, 2]]
    turned = np.deg2rad(yaw)
    place, speed = goal[0].copy(), np.zeros(2)
    angle, spin = turned[0], 0.0
    step = 1.0 / (fps * _SUBSTEPS)
    rate, damping = skirt.spring, skirt.damping
    out = np.zeros((frames, 4))
    for frame in range(frames):
        before = max(frame - 1, 0)
        for sub in range(1, _SUBSTEPS + 1) if frame else ():
            share = sub / _SUBSTEPS
            target = goal[before] + (goal[frame] - goal[before]) * share
            target_angle = turned[before] + (turned[frame] - turned[before]) * share
            speed += step * (rate * rate * (target - place) - 2 * damping * rate * speed)
            place = place + step * speed
            spin += step * ((1.5 * rate) ** 2 * (target_angle - angle) - 2 * 0.35 * 1.5 * rate * spin)
            angle += step * spin
        out[frame] = (*(place - top[frame, [0, 2]]), angle - turned[frame], spin)
    offset = np.stack([out[:, :1] * heading[:, 0, [0]] + out[:, 1:2] * heading[:, 0, [2]],
                       out[:, :1] * heading[:, 2, [0]] + out[:, 1:2] * heading[:, 2, [2]]], 1)[:, :, 0]  # fmt: skip
    limit = 0.28 * skirt.drop + 0.02
    excess = np.maximum(np.linalg.norm(offset - centre, axis=1, keepdims=True) / limit, 1.0)
    offset = centre + (offset - centre) / excess
    fullness = np.clip((skirt.hem - 0.078) / 0.08, 0.15, 1.0)
    flare = 1.0 + 0.38 * fullness * (1.0 - np.exp(-((out[:, 3] / 6.0) ** 2)))
    aspect = np.full(frames, TRUNK_ASPECT - 0.3 * fullness)
    hem = np.maximum(skirt.hem * flare / np.sqrt(aspect / TRUNK_ASPECT), 0.85 * spread / np.sqrt(aspect))
    lifted = 1.0 - 0.1 * fullness * (flare - 1.0) / 0.38
    return SkirtMotion(
        offset[:, 0], offset[:, 1], hem, skirt.drop * lifted, aspect, np.clip(out[:, 2] / (2 * np.pi), -0.13, 0.13)
    )


def _legs(skeleton: Skeleton, top: Floats, drop: float, radius: float) -> tuple[Floats, Floats]:
    """The legs at the hem: their centre (F, 2) in heading axes from ``top``, the radius (F,) that holds both."""
    places = []
    for side in "lr":
        knee, _, _ = skeleton.bone(f"lower_leg_{side}")
        hip, _, _ = skeleton.bone(f"upper_leg_{side}")
        ankle, _, _ = skeleton.bone(f"foot_{side}")
        level = top[:, 1] - drop
        low = level < knee[:, 1]
        start, end = np.where(low[:, None], knee, hip), np.where(low[:, None], ankle, knee)
        share = np.clip((start[:, 1] - level) / np.maximum(start[:, 1] - end[:, 1], 1e-3), 0, 1)[:, None]
        at = start + (end - start) * share
        knee_share = np.clip((top[:, 1] - knee[:, 1]) / drop, 0.3, 1.0)[:, None]
        at_knee = top + (knee - top) / knee_share
        forward = ((at_knee - at) * skeleton.heading[:, 2]).sum(1) > 0
        at = np.where((low & forward)[:, None], at + 0.5 * (at_knee - at), at)
        rel = at - top
        places.append(np.stack([(rel * skeleton.heading[:, 0]).sum(1), (rel * skeleton.heading[:, 2]).sum(1)], 1))
    left, right = places
    half = (left - right) / 2
    return (left + right) / 2, np.hypot(half[:, 0], TRUNK_ASPECT * half[:, 1]) + radius
