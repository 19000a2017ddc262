"""Charts as inline SVG: lines over frames, dots over clips, bars with their spread. Text in, text out; no dependencies.

Colours are CSS classes (`s0`, `s1`, ...) so that the page decides; every mark has a `<title>`, which browsers show on hover.
"""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 640, 190
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 26
POINTS = 600  # of a line at most: more are not to be seen


def lines(columns: dict[str, list[float | None]], label: str, digits: int = 3) -> str:
    """Values over the index of the frame, one line a name; gaps where there is none."""
    length = max((len(column) for column in columns.values()), default=0)
    known = [v for column in columns.values() for v in column if v is not None]
    if not known:
        return ""
    low, high = _range(known)
    parts = [_frame(low, high, digits), _across(length)]
    for k, (name, column) in enumerate(columns.items()):
        for run in _runs(_thinned(column)):
            points = " ".join(f"{_x(i, length):.1f},{_y(v, low, high):.1f}" for i, v in run)
            parts.append(f'<polyline class="line s{k % 6}" points="{points}"><title>{escape(name)}</title></polyline>')
            if len(run) == 1:
                parts.append(
                    f'<circle class="s{k % 6}" cx="{points.split(",")[0]}" cy="{points.split(",")[1]}" r="2.5"/>'
                )
    return _svg(parts, label)


def dots(names: list[str], values: list[float | None], label: str, digits: int = 3) -> str:
    """One dot a clip, in order of value, with a line at the mean."""
    ordered = sorted((v, name) for v, name in zip(values, names, strict=True) if v is not None)
    if not ordered:
        return ""
    low, high = _range([v for v, _ in ordered])
    mean = math.fsum(v for v, _ in ordered) / len(ordered)
    parts = [_frame(low, high, digits), _across(len(ordered), "clips, by value")]
    y = _y(mean, low, high)
    parts.append(f'<line class="mean" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for i, (value, name) in enumerate(ordered):
        parts.append(
            f'<circle class="s0" cx="{_x(i, len(ordered)):.1f}" cy="{_y(value, low, high):.1f}" r="3.5">'
            f"<title>{escape(name)}: {value:.{digits}f}</title></circle>"
        )
    return _svg(parts, label)


def bars(rows: list[tuple[str, float, float]], label: str, digits: int = 3) -> str:
    """Horizontal bars (name, mean, standard deviation), each with a whisker of one deviation either way."""
    if not rows:
        return ""
    gap, left, width = 24, 210, WIDTH
    height = gap * len(rows) + 14
    ends = [mean + (spread or 0) for _, mean, spread in rows] + [mean for _, mean, _ in rows]
    starts = [mean - (spread or 0) for _, mean, spread in rows]
    top = max(*ends, 1e-12)
    low = 0.0 if min(starts) < 0.5 * top else min(starts) - 0.25 * (top - min(starts))
    room = width - left - 90

    def across(value: float) -> float:
        return left + max(0.0, min(1.0, (value - low) / (top - low or 1))) * room

    parts = []
    for k, (name, mean, spread) in enumerate(rows):
        y = 8 + gap * k
        parts.append(f'<text class="end" x="{left - 8}" y="{y + 13}">{escape(name)}</text>')
        parts.append(
            f'<rect class="s0" x="{left}" y="{y}" width="{max(1.0, across(mean) - left):.1f}" height="16">'
            f"<title>{escape(name)}: {mean:.{digits}f} ± {spread or 0:.{digits}f}</title></rect>"
        )
        if spread:
            a, b, middle = across(mean - spread), across(mean + spread), y + 8
            parts.append(f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {y + 4}v8M{b:.1f} {y + 4}v8"/>')
        edge = max(across(mean), across(mean + (spread or 0)))
        parts.append(f'<text x="{edge + 6:.1f}" y="{y + 13}">{mean:.{digits}f}</text>')
    if low > 0:
        parts.append(f'<text class="faint" x="{left}" y="{height}">bars begin at {low:.{digits}f}</text>')
    return _svg(parts, label, height + 6)


def _svg(parts: list[str], label: str, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'


def _frame(low: float, high: float, digits: int) -> str:
    """Grid lines with their values."""
    parts = []
    for k in range(4):
        value = low + (high - low) * k / 3
        y = _y(value, low, high)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{value:.{digits}f}</text>')
    return "".join(parts)


def _across(length: int, words: str = "frame") -> str:
    y = HEIGHT - 8
    if words != "frame":
        return f'<text class="end" x="{WIDTH - RIGHT}" y="{y}">{words}</text>'
    ticks = [f'<text x="{LEFT}" y="{y}">frame 0</text>']
    if length > 2:
        ticks.append(f'<text class="mid" x="{_x((length - 1) // 2, length):.1f}" y="{y}">{(length - 1) // 2}</text>')
    if length > 1:
        ticks.append(f'<text class="end" x="{WIDTH - RIGHT}" y="{y}">{length - 1}</text>')
    return "".join(ticks)


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.01
    return low - margin, high + margin


def _x(i: float, length: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (i / (length - 1) if length > 1 else 0.5)


def _y(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)


def _thinned(column: list[float | None]) -> list[tuple[float, float | None]]:
    """(index, value), in groups with their mean where there are too many to draw."""
    step = -(-len(column) // POINTS)
    if step <= 1:
        return list(enumerate(column))
    found = []
    for first in range(0, len(column), step):
        group = [v for v in column[first : first + step] if v is not None]
        found.append((first + (step - 1) / 2, math.fsum(group) / len(group) if group else None))
    return found


def _runs(points: list[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Stretches without gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for index, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((index, value))
    return [run for run in runs if run]
