"""From a picture of doodles to ink: strokes without paper, light and shadow, one crop for each figure on the sheet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import NoPersonError, PoseError

WORKING = 512  # the longest side a sheet is looked at; rows of figures get more
CROP = 96  # the side of a crop, in pixels
MARGIN = 0.14  # of the crop, free on each side of the figure
_CELLS = 160  # the grid on which strokes are grouped into figures
_STROKE = 0.42  # ink darker than this is a stroke
_MOST_INK = 0.24  # of a figure's box: more is no line drawing
_MOST_PARTS = 60  # separate strokes of a sheet
_JOIN = 0.10  # strokes nearer than this, in figure heights, are one figure


@dataclass(frozen=True)
class Figure:
    """One figure of a sheet: its crop, float32 (CROP, CROP), 0 paper to 1 ink, and where it lies.

    A pixel (x, y) of the crop is the pixel `corner + (x, y) * scale` of the picture. box: left, top, right, bottom of the
    strokes in the picture.
    """

    crop: np.ndarray
    corner: tuple[float, float]
    scale: float
    box: tuple[float, float, float, float]


def ink_of(picture: np.ndarray) -> np.ndarray:
    """The amount of ink, float32 (H, W) in [0, 1], of a picture uint8 (H, W) or (H, W, 3).

    Paper is the brightest within a wide neighbourhood, so that slopes of light and shadows vanish; full ink is the darkest
    of the sheet. Light strokes on a dark ground are turned round. A sheet without any contrast gives zeros.
    """
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float32)
    if np.median(grey) < 100 and np.mean(grey < np.median(grey) + 40) > 0.6:
        grey = 255 - grey
    paper = _paper(grey)
    contrast = np.clip(1 - grey / np.maximum(paper, 1), 0, 1)
    noise = float(np.median(contrast))
    contrast = np.clip(contrast - 1.5 * noise, 0, 1)
    strong = contrast[contrast > 0.12]
    if strong.size < 12:
        return np.zeros_like(grey)
    full = max(0.2, float(np.percentile(strong, 85)))
    return np.clip(contrast / full, 0, 1).astype(np.float32)


def figures_on(picture: np.ndarray, source: str) -> list[Figure]:
    """The figures of a sheet, in reading order: one, or a row of them.

    picture: uint8 (H, W, 3). source names it in errors. Raises NoPersonError for an empty sheet, PoseError for a picture
    that is no line drawing and for figures that stand in no row.
    """
    small, factor = _reduced(picture)
    ink = ink_of(small)
    groups = _groups(ink > _STROKE)
    if not groups:
        raise NoPersonError(f"{source} is an empty sheet: no dark strokes on light paper; draw a figure on it.")
    boxes = [_box(group) for group in groups]
    _require_drawing(small, ink, groups, source)
    if len(groups) > 1:
        order = _in_rows(boxes, source)
        groups, boxes = [groups[i] for i in order], [boxes[i] for i in order]
    return [_cut(ink, group, box, factor) for group, box in zip(groups, boxes, strict=True)]


def cut_known(picture: np.ndarray) -> Figure | None:
    """The one figure of a picture uint8 (H, W), whatever else is on it, or None where there is no ink: for training."""
    small, factor = _reduced(picture)
    ink = ink_of(small)
    mask = ink > _STROKE
    padded = np.pad(mask, 1).astype(np.int8)
    around = sum(padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3))
    ys, xs = np.nonzero(mask & (around >= 3))  # without specks of the paper
    if len(ys) < 12:
        return None
    group = np.stack([xs, ys], 1)
    return _cut(ink, group, _box(group), factor)


def _reduced(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture no larger than needed, and how many of its pixels one of the smaller is."""
    height, width = picture.shape[:2]
    wide = max(1.0, min(4.0, width / height))
    factor = max(1.0, max(height, width) / (WORKING * wide))
    if factor == 1.0:
        return picture, 1.0
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)), factor


def _paper(grey: np.ndarray) -> np.ndarray:
    """The paper's brightness under the strokes: the brightest around, smoothed; float32 as `grey`."""
    step = 4
    height, width = grey.shape
    padded = np.pad(grey, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    low = np.percentile(blocks, 75, axis=(1, 3)).astype(np.float32)
    reach = max(3, round(0.14 * max(low.shape)))
    for axis in (0, 1):
        low = _running_max(low, reach, axis)
    for axis in (0, 1):
        low = _running_max(low, reach, axis, smallest=True)
    picture = Image.fromarray(low).resize(padded.shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32)[:height, :width]


def _running_max(values: np.ndarray, reach: int, axis: int, *, smallest: bool = False) -> np.ndarray:
    """The largest (or smallest) within `reach` on both sides along an axis."""
    values = np.moveaxis(values, axis, 0)
    pad = ((reach, reach), *((0, 0),) * (values.ndim - 1))
    padded = np.pad(values, pad, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    return np.moveaxis(windows.min(-1) if smallest else windows.max(-1), 0, axis)


def _groups(mask: np.ndarray) -> list[np.ndarray]:
    """Strokes grouped into figures: pixels (N, 2) as x, y of each. Specks are left out."""
    ys, xs = np.nonzero(mask)
    if len(ys) < 12:
        return []
    cell = max(1.0, max(mask.shape) / _CELLS)
    rows, columns = (ys / cell).astype(int), (xs / cell).astype(int)
    cells = np.unique(np.stack([rows, columns], 1), axis=0)
    labels = _components({(int(r), int(c)) for r, c in cells})
    grid = np.full((rows.max() + 1, columns.max() + 1), -1)
    for (row, column), number in labels.items():
        grid[row, column] = number
    number = grid[cells[:, 0], cells[:, 1]]
    largest = np.bincount(number).argsort()[::-1][:_MOST_PARTS]  # the rest are specks of the paper
    owner = _joined({int(k): cells[number == k] for k in largest})
    names = np.full(number.max() + 1, -1)
    names[list(owner)] = list(owner.values())
    label = names[grid[rows, columns]]
    groups = [np.stack([xs[label == k], ys[label == k]], 1) for k in sorted(set(owner.values()))]
    tallest = max(_size(group) for group in groups)
    return [group for group in groups if _size(group) > 0.3 * tallest and len(group) >= 12]


def _components(cells: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Cells that touch, corners included, share a number."""
    labels: dict[tuple[int, int], int] = {}
    number = -1
    for start in sorted(cells):
        if start in labels:
            continue
        number, stack = number + 1, [start]
        labels[start] = number
        while stack:
            row, column = stack.pop()
            for near in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if near in cells and near not in labels:
                    labels[near] = number
                    stack.append(near)
    return labels


def _joined(parts: dict[int, np.ndarray]) -> dict[int, int]:
    """Which parts belong together: the nearest first, while their distance is small against the figures' height."""
    owner = {k: k for k in parts}
    alive = {k: cells.astype(float) for k, cells in parts.items()}
    distances = {(a, b): _distance(alive[a], alive[b]) for a in alive for b in alive if a < b}
    while distances:
        height = np.median(sorted((_size(c) for c in alive.values()), reverse=True)[: max(1, len(alive) // 3)])
        pair = min(distances, key=lambda p: distances[p] / _kinship(alive[p[0]], alive[p[1]]))
        a, b = pair
        if distances[pair] / _kinship(alive[a], alive[b]) > max(_JOIN * height, 2.0):
            break
        alive[a] = np.concatenate([alive[a], alive.pop(b)])
        owner = {k: a if o == b else o for k, o in owner.items()}
        gone = [p for p in distances if b in p]
        for p in gone:
            other = p[0] if p[1] == b else p[1]
            if other != a:
                key = (min(a, other), max(a, other))
                distances[key] = min(distances[key], distances[p])
            del distances[p]
    return owner


def _kinship(a: np.ndarray, b: np.ndarray) -> float:
    """Parts one above the other, as a head above a body, may lie further apart than parts next to each other."""
    left, right = max(a[:, 1].min(), b[:, 1].min()), min(a[:, 1].max(), b[:, 1].max())
    narrower = min(np.ptp(a[:, 1]), np.ptp(b[:, 1])) + 1
    smaller = min(_size(a), _size(b)) / max(_size(a), _size(b))
    within = (right - left + 1) / narrower > 0.5
    return 2.0 if within and smaller < 0.75 else 1.0


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two sets of cells (N, 2)."""
    a, b = (c if len(c) <= 400 else c[:: len(c) // 400 + 1] for c in (a, b))
    return float(np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1).min()))


def _size(points: np.ndarray) -> float:
    return float(np.ptp(points, axis=0).max()) + 1


def _box(group: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of pixels (N, 2)."""
    (left, top), (right, bottom) = group.min(0), group.max(0) + 1
    return float(left), float(top), float(right), float(bottom)


def _require_drawing(picture: np.ndarray, ink: np.ndarray, groups: list[np.ndarray], source: str) -> None:
    """Refuse what is no line drawing: colourful, or dark in areas and not in strokes."""
    mask = ink > _STROKE
    half = (ink > 0.15) & (ink < 0.6)
    inside = mask[2:-2, 2:-2]
    core = inside.copy()
    reach = max(2, round(0.012 * max(ink.shape)))
    for axis in (0, 1):
        core = -_running_max(-core.astype(np.int8), reach, axis)
    areas = float((core > 0).sum()) / max(1, int(mask.sum()))
    share = float(mask.mean())
    spread = np.ptp(picture.reshape(*picture.shape[:2], -1).astype(np.int16), axis=-1) if picture.ndim == 3 else None
    colourful = spread is not None and float(np.percentile(spread, 70)) > 70
    soft = float(half.mean()) / max(share, 1e-6)
    if share > _MOST_INK or (areas > 0.45 and share > 0.08) or colourful or (soft > 2.5 and share > 0.06):
        raise PoseError(
            f"{source} looks like a photo and not like a line drawing; read it with --estimator mini, r50 or dwpose, or "
            "give dark strokes on light paper."
        )
    if len(groups) > 24:
        raise PoseError(f"{source} holds more than 24 separate drawings; give a row of figures, or one a file.")


def _in_rows(boxes: list[tuple[float, float, float, float]], source: str) -> list[int]:
    """The order of several figures, row by row and from left to right. Raises PoseError where they stand in no rows."""
    heights = [bottom - top for _, top, _, bottom in boxes]
    rows: list[list[int]] = []
    for i in sorted(range(len(boxes)), key=lambda k: (boxes[k][1] + boxes[k][3]) / 2):
        middle = (boxes[i][1] + boxes[i][3]) / 2
        if rows and any(boxes[k][1] < middle < boxes[k][3] for k in rows[-1]):
            rows[-1].append(i)
        else:
            rows.append([i])
    rows = [sorted(row, key=lambda k: boxes[k][0]) for row in rows]
    crossing = any(
        boxes[a][2] > boxes[b][0] + 0.25 * heights[a] for row in rows for a, b in zip(row, row[1:], strict=False)
    )
    uneven = max(heights) > 2.5 * min(heights)
    if crossing or uneven or (len(rows) > 1 and max(len(row) for row in rows) == 1):
        raise PoseError(
            f"{source} shows {len(boxes)} figures that do not stand in a row; draw them side by side, about equally tall, "
            "or each on a sheet of its own."
        )
    return [i for row in rows for i in row]


def _cut(ink: np.ndarray, group: np.ndarray, box: tuple[float, float, float, float], factor: float) -> Figure:
    """The crop of one figure: its box in the middle of a square, other figures' strokes left out."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top) / (1 - 2 * MARGIN)
    corner = (left + right - side) / 2, (top + bottom - side) / 2
    own = _own_ink(ink, group, box)
    x, y = round(corner[0]), round(corner[1])
    size = max(8, round(side))
    canvas = np.zeros((size, size), np.float32)
    height, width = own.shape
    t, u, b, r = max(y, 0), max(x, 0), min(y + size, height), min(x + size, width)
    canvas[t - y : b - y, u - x : r - x] = own[t:b, u:r]
    how = Image.Resampling.BOX if size > CROP else Image.Resampling.BILINEAR
    crop = np.asarray(Image.fromarray(canvas).resize((CROP, CROP), how))
    thin = float(np.percentile(crop[crop > 0.05], 90)) if (crop > 0.05).any() else 1.0
    crop = np.clip(crop / max(thin, 0.15), 0, 1)  # fine strokes fade where the crop shrinks
    scale = size / CROP * factor
    left, top, right, bottom = (v * factor for v in box)
    return Figure(crop.astype(np.float32), (x * factor, y * factor), scale, (left, top, right, bottom))


def _own_ink(ink: np.ndarray, group: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The ink around a figure's own strokes."""
    near = np.zeros(ink.shape, bool)
    near[group[:, 1], group[:, 0]] = True
    reach = max(2, round(0.02 * (box[3] - box[1])))
    for axis in (0, 1):
        near = _running_max(near, reach, axis)
    return np.where(near, ink, 0)
