"""Dances: joint angles over time, drawn from a seed.

A dance starts facing the camera and then turns; arms move between key poses, the feet step and the hips sway with the
beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_SIDED = ("arm_abduct", "arm_flex", "arm_twist", "elbow", "foot_x", "foot_z", "foot_lift", "foot_pitch")
_CENTRAL = (
    "travel", "shift", "dip", "pelvis_roll", "chest_roll", "chest_twist", "chest_bend", "head_yaw", "head_pitch",
    "head_roll",
)  # fmt: skip
#: Channel names: angles in degrees; travel, shift, dip and foot_* (except foot_pitch) in statures. `_l` / `_r`: the
#: figure's side.
CHANNELS: tuple[str, ...] = _CENTRAL + tuple(f"{name}_{side}" for side in "lr" for name in _SIDED)

# One arm as (abduct, flex, twist, elbow) in degrees, chosen so that hands stay within the frame from every side.
_ARMS: dict[str, tuple[float, float, float, float]] = {
    "rest": (10, 2, -10, 16),
    "away": (22, -4, 0, 14),
    "hip": (44, -14, -78, 98),
    "low": (40, 4, 0, 12),
    "goalpost": (62, 0, 86, 100),
    "lifted": (82, 8, 84, 118),
    "crown": (122, -4, 88, 138),
    "nape": (116, -10, 86, 148),
    "forward": (16, 46, -12, 50),
    "front": (72, 14, 10, 92),
    "belly": (16, 20, -64, 92),
    "chin": (12, 42, -34, 128),
    "back": (20, -34, -12, 36),
    "swing": (12, 30, -8, 40),
}
_ARM_WEIGHTS = {
    "rest": 1.6, "away": 1.0, "hip": 2.0, "low": 1.3, "goalpost": 1.1, "lifted": 1.2, "crown": 0.7, "nape": 0.7,
    "forward": 0.7, "front": 0.7, "belly": 0.6, "chin": 0.5, "back": 0.6, "swing": 0.8,
}  # fmt: skip


@dataclass(frozen=True)
class Dance:
    """F frames of motion: ``channels`` (F, len(CHANNELS)), ``yaw`` (F,) in degrees: 0 faces the camera, not wrapped."""

    seed: int
    channels: Floats
    yaw: Floats
    fps: float

    def __len__(self) -> int:
        return len(self.yaw)

    def channel(self, name: str) -> Floats:
        """One channel over time, (F,)."""
        return self.channels[:, CHANNELS.index(name)]


def facing(yaw: Floats) -> Floats:
    """Yaw angles wrapped to -180..180 degrees."""
    return (np.asarray(yaw) + 180.0) % 360.0 - 180.0


def draw_dance(seed: int, frames: int, fps: float = 12.0) -> Dance:
    """Draw a dance of ``frames`` frames, always the same for a seed; ValueError unless frames and fps are > 0."""
    if frames < 1 or not fps > 0:
        raise ValueError("a dance needs at least one frame and a positive frame rate")
    rng = np.random.Generator(np.random.PCG64(seed))
    time = np.arange(frames) * (12.0 / fps)  # in twelfths of a second, the unit of every duration below
    span = frames * 12.0 / fps
    moves: dict[str, Floats] = dict.fromkeys(CHANNELS, np.zeros(frames))
    yaw = _turns(rng, time, span)
    _arms(rng, time, span, moves)
    _steps(rng, time, moves)
    channels = np.stack([np.broadcast_to(moves[name], (frames,)) for name in CHANNELS], 1)
    return Dance(seed, channels.astype(np.float64), yaw.astype(np.float64), float(fps))


def _ease(x: Floats) -> Floats:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _turns(rng: np.random.Generator, time: Floats, span: float) -> Floats:
    """Yaw in degrees: turns and holds, quick enough that short clips show the back too."""
    pace = float(np.clip(span / 24.0, 0.6, 1.0))
    direction = rng.choice([-1.0, 1.0])
    start = rng.uniform(-8.0, 8.0)
    style = rng.choice(["spin", "stops", "swing"], p=[0.3, 0.44, 0.26])
    yaw = np.full(len(time), start)
    clock, angle = rng.uniform(1.5, 6.0) * pace, 0.0
    per_degree = rng.uniform(20.0, 35.0) / 360.0 * pace
    while clock < span:
        if style == "spin":
            step, hold = 360.0, rng.uniform(0.0, 5.0)
        elif style == "stops":
            step, hold = rng.choice([90.0, 135.0, 180.0, 225.0]), rng.uniform(1.0, 6.0)
        else:
            # Side to side through the front, or over the back.
            target = rng.uniform(75.0, 170.0) * (-1.0 if angle * direction > 0 else 1.0)
            step, hold = target - angle * direction, rng.uniform(0.0, 4.0)
        turn = abs(step) * per_degree * (1.1 if style == "spin" else 0.95)
        if style == "spin":
            x = np.clip((time - clock) / turn, 0.0, 1.0)
            yaw = yaw + direction * step * (0.65 * x + 0.35 * _ease(x))
        else:
            yaw = yaw + direction * step * _ease((time - clock) / turn)
        angle += direction * step
        clock += turn + hold * pace
        if style != "swing" and rng.random() < 0.15:
            direction = -direction
    return yaw + rng.uniform(0.0, 4.0) * np.sin(2 * np.pi * time / rng.uniform(10.0, 18.0)) * np.clip(time / 6.0, 0, 1)


def _arms(rng: np.random.Generator, time: Floats, span: float, moves: dict[str, Floats]) -> None:
    """Key poses of the arms, held and eased between, with a little beat in the elbows."""
    names = list(_ARMS)
    weights = np.array([_ARM_WEIGHTS[n] for n in names])
    weights = weights / weights.sum()
    first_weights = weights * np.array([2.5 if n in ("rest", "away", "hip", "low") else 0.6 for n in names])

    def draw(p: Floats) -> tuple[Floats, Floats]:
        left = np.array(_ARMS[rng.choice(names, p=p)])
        right = left.copy() if rng.random() < 0.45 else np.array(_ARMS[rng.choice(names, p=p)])
        jitter = rng.normal(0.0, [3.0, 4.0, 5.0, 5.0], (2, 4))
        return left + jitter[0], right + jitter[1]

    left, right = draw(first_weights / first_weights.sum())
    tracks = [np.broadcast_to(left, (len(time), 4)), np.broadcast_to(right, (len(time), 4))]
    clock = rng.uniform(1.0, 7.0)
    while clock < span:
        duration = rng.uniform(4.5, 9.0)
        weight = _ease((time - clock) / duration)[:, None]
        targets = draw(weights)
        tracks = [track + weight * (target - track) for track, target in zip(tracks, targets, strict=True)]
        clock += duration + rng.uniform(0.5, 6.0)
    beat = 2 * np.pi * time / rng.uniform(9.0, 16.0)
    swing, pump = rng.uniform(0.0, 9.0), rng.uniform(0.0, 8.0)
    for side, track, sign in (("l", tracks[0], 1.0), ("r", tracks[1], -1.0)):
        wave = np.sin(beat) * sign
        moves[f"arm_abduct_{side}"] = track[:, 0] + 2.0 * np.sin(beat)
        moves[f"arm_flex_{side}"] = track[:, 1] + swing * wave
        moves[f"arm_twist_{side}"] = track[:, 2]
        moves[f"elbow_{side}"] = np.clip(track[:, 3] + pump * wave, 4.0, 150.0)


def _steps(rng: np.random.Generator, time: Floats, moves: dict[str, Floats]) -> None:
    """Feet, hips, spine and head on one beat."""
    period = rng.uniform(9.0, 17.0)
    phase = 2 * np.pi * time / period + rng.uniform(0.0, 2 * np.pi)
    beat = np.sin(phase)
    swell = 0.75 + 0.25 * np.sin(2 * np.pi * time / rng.uniform(20.0, 40.0) + rng.uniform(0.0, 6.3))
    style = rng.choice(["march", "sway", "sidestep", "walk"], p=[0.25, 0.3, 0.2, 0.25])
    lift = {"march": 0.07, "sway": 0.008, "sidestep": 0.03, "walk": 0.03}[style] * rng.uniform(0.6, 1.2)
    stride = {"march": 0.0, "sway": 0.01, "sidestep": 0.01, "walk": 0.075}[style] * rng.uniform(0.6, 1.2)
    stance = {"march": 0.0, "sway": 0.03, "sidestep": 0.03, "walk": -0.015}[style] + rng.uniform(-0.005, 0.015)
    sway = {"march": 0.014, "sway": 0.034, "sidestep": 0.026, "walk": 0.018}[style] * rng.uniform(0.6, 1.2)
    for side, sign in (("l", 1.0), ("r", -1.0)):
        up = np.maximum(beat * sign, 0.0) * swell
        moves[f"foot_lift_{side}"] = lift * up
        moves[f"foot_pitch_{side}"] = (lift * 500.0 + 4.0) * up
        moves[f"foot_z_{side}"] = stride * np.cos(phase) * sign + (0.05 * up if style == "march" else 0.0)
        spread = 0.5 + 0.5 * beat * sign if style == "sidestep" else 0.0
        moves[f"foot_x_{side}"] = np.asarray(stance + 0.035 * spread)
    moves["shift"] = -sway * beat * swell
    moves["travel"] = rng.uniform(0.0, 0.012) * np.sin(2 * np.pi * time / (2 * period))
    moves["dip"] = rng.uniform(0.001, 0.008) * (0.5 + 0.5 * np.cos(2 * phase))
    roll = rng.uniform(3.0, 8.0) * (1.3 if style == "sway" else 0.8)
    moves["pelvis_roll"] = -roll * beat * swell
    moves["chest_roll"] = roll * rng.uniform(0.6, 1.3) * beat * swell
    moves["chest_twist"] = rng.uniform(2.0, 12.0) * np.cos(phase + rng.uniform(-0.5, 0.5))
    moves["chest_bend"] = rng.uniform(-3.0, 6.0) + rng.uniform(0.0, 3.0) * np.cos(phase)
    calm = np.clip(time / 8.0, 0.0, 1.0)
    moves["head_yaw"] = (
        calm * rng.uniform(0.0, 20.0) * np.sin(2 * np.pi * time / rng.uniform(18.0, 36.0) + rng.uniform(0.0, 6.3))
    )
    moves["head_pitch"] = rng.uniform(-3.0, 5.0) + calm * rng.uniform(0.0, 6.0) * np.sin(phase + 1.0)
    moves["head_roll"] = rng.uniform(0.0, 6.0) * beat
