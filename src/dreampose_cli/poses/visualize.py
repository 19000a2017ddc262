"""Pictures of pose frames, for human eyes."""

from __future__ import annotations

import colorsys

import numpy as np

BACKGROUND = (244, 243, 240)

# hue in degrees, saturation, brightness of each part: warm on the person's right, cool on the left, the back darker
_TORSO, _HEAD = (48, 0.42), {"right": (96, 0.40), "left": (140, 0.36)}
_ARM, _LEG = {"right": (4, 0.58), "left": (206, 0.56)}, {"right": (28, 0.64), "left": (262, 0.42)}
_END = {"right": (338, 0.52), "left": (182, 0.56)}  # hands and feet
_PARTS = [
    (*_TORSO, 0.72), (*_TORSO, 0.98),
    (*_END["right"], 0.95), (*_END["left"], 0.90), (*_END["left"], 0.70), (*_END["right"], 0.75),
    (*_LEG["right"], 0.70), (*_LEG["left"], 0.66), (*_LEG["right"], 0.94), (*_LEG["left"], 0.90),
    (*_LEG["right"], 0.60), (*_LEG["left"], 0.56), (*_LEG["right"], 0.84), (*_LEG["left"], 0.80),
    (*_ARM["left"], 0.92), (*_ARM["right"], 0.95), (*_ARM["left"], 0.68), (*_ARM["right"], 0.72),
    (*_ARM["left"], 0.82), (*_ARM["right"], 0.85), (*_ARM["left"], 0.58), (*_ARM["right"], 0.62),
    (*_HEAD["right"], 0.88), (*_HEAD["left"], 0.84),
]  # fmt: skip
_COLOURS = np.array(
    [BACKGROUND] + [[255 * c for c in colorsys.hsv_to_rgb(h / 360, s, v)] for h, s, v in _PARTS], np.float32
)


def colorize_iuv(frame: np.ndarray) -> np.ndarray:
    """A pose frame, float (3, H, W), as a picture, uint8 (H, W, 3): a hue for each part, shaded by U and V, on white.

    Frames without part numbers (plane 0 all zero) show U as hue and V as brightness.
    """
    part, u, v = np.rint(frame[0]).astype(np.intp), frame[1], frame[2]
    if not part.any():
        return _colour_without_parts(u, v)
    body = part > 0
    light = np.where(body, 0.80 + 0.14 * u + 0.14 * v, 1.0)  # two slow gradients show the surface's direction
    light = np.where(body & _on_contour(u, v, lines=8 if max(part.shape) >= 256 else 4), light * 0.90, light)
    light = np.where(body & _on_border(part), light * 0.72, light)
    return np.rint(np.clip(_COLOURS[part] * light[..., None], 0, 255)).astype(np.uint8)


def _on_contour(u: np.ndarray, v: np.ndarray, lines: int) -> np.ndarray:
    """Pixels where U or V passes a multiple of 1 / lines: the drawn net of coordinates."""
    return _on_border(np.floor(u * lines)) | _on_border(np.floor(v * lines))


def _on_border(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another label."""
    border = np.zeros(labels.shape, bool)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    return border


def _colour_without_parts(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    body = (u > 0) | (v > 0)
    turn = 0.8 * u[..., None] + np.array([0, 1 / 3, 2 / 3], np.float32)  # not the whole circle: both ends of U differ
    hue = 0.5 + 0.5 * np.cos(2 * np.pi * turn)
    rgb = 255 * (0.35 + 0.45 * hue + 0.20 * v[..., None])
    return np.rint(np.where(body[..., None], np.clip(rgb, 0, 255), np.array(BACKGROUND, np.float32))).astype(np.uint8)
