# SPDX-License-Identifier: Apache-2.0
"""Line charts as inline SVG: sharp at any size, and they follow light and dark."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MAX_POINTS = 240

Series = Mapping[str, tuple[Sequence[float], Sequence[float | None]]]
"""`{label: (steps, values)}`; None is a gap."""


def line_chart(title: str, series: Series, *, log: bool) -> str:
    """One chart with its legend, or "" if there is nothing to draw.

    Args:
      title: above the chart.
      series: curves, at most 5.
      log: logarithmic vertical axis; values <= 0 are gaps.
    """
    curves = {}
    for label, (steps, values) in series.items():
        pieces = _clean(steps, values, log)
        if sum(map(len, pieces)) > 1:
            curves[label] = pieces
    if not curves:
        return ""
    everything = np.concatenate([p for pieces in curves.values() for p in pieces])
    x_range = everything[:, 0].min(), everything[:, 0].max()
    y_range = _padded(everything[:, 1])
    parts = [_grid(x_range, y_range, log)]
    legend = []
    for number, (label, pieces) in enumerate(curves.items()):
        path = "".join(_path(points, x_range, y_range) for points in pieces)
        parts.append(
            f'<path class="curve c{number}" d="{path}"><title>{html.escape(label)}'
            "</title></path>"
        )
        legend.append(
            f'<span style="--swatch: var(--c{number})">{html.escape(label)}</span>'
        )
    shown = "".join(legend) if len(curves) > 1 else ""
    name = html.escape(title)
    return (
        f'<figure class="card"><h3>{name}</h3>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f'{"".join(parts)}</svg><div class="legend">{shown}</div></figure>'
    )


def _clean(steps: Sequence[float], values: Sequence[float | None], log: bool):
    """Pieces between gaps, [P, 2] each, averaged so that few enough points are left."""
    numbers = [np.nan if v is None or (log and v <= 0) else v for v in values]
    points = np.stack([np.asarray(steps, float), np.asarray(numbers, float)], axis=1)
    if log:
        points[:, 1] = np.log10(points[:, 1])
    shown = np.isfinite(points[:, 1])
    edges = np.flatnonzero(np.diff(shown)) + 1
    pieces = [p for p in np.split(points, edges) if len(p) and np.isfinite(p[0, 1])]
    share = min(1.0, MAX_POINTS / max(shown.sum(), 1))
    return [
        np.array([g.mean(0) for g in np.array_split(p, math.ceil(share * len(p)))])
        for p in pieces
    ]


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return low - pad, high + pad


def _x(step: float, bounds: tuple[float, float]) -> float:
    span = bounds[1] - bounds[0] or 1
    return LEFT + (step - bounds[0]) / span * (WIDTH - LEFT - RIGHT)


def _y(value: float, bounds: tuple[float, float]) -> float:
    return TOP + (bounds[1] - value) / (bounds[1] - bounds[0]) * (HEIGHT - TOP - BOTTOM)


def _path(points: np.ndarray, x_range, y_range) -> str:
    places = [f"{_x(s, x_range):.1f} {_y(v, y_range):.1f}" for s, v in points]
    return "M" + "L".join(places) + "h0" * (len(places) == 1)  # alone: a dot


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) in the range."""
    rough = (high - low) / wanted or 1
    scale = 10 ** math.floor(math.log10(rough))
    unit = next(unit * scale for unit in (1, 2, 5, 10) if unit * scale >= rough)
    first = math.ceil(low / unit)
    return [n * unit for n in range(first, math.floor(high / unit) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """log10 of round numbers in the range: decades, or 1, 2 and 5 of each."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    units = (1,) if high - low > 2.5 else (1, 2, 5)
    ticks = [decade + math.log10(unit) for decade in decades for unit in units]
    return [tick for tick in ticks if low <= tick <= high] or _ticks(low, high, 4)


def _grid(x_range, y_range, log: bool) -> str:
    parts = []
    ticks = _log_ticks(*y_range) if log else _ticks(*y_range, 4)
    apart = min(np.diff(ticks), default=1.0)
    digits = max(0, -math.floor(math.log10(apart) + 1e-9))  # that tell ticks apart
    for value in ticks:
        y = _y(value, y_range)
        label = f"{10**value:.3g}" if log else f"{value:.{digits}f}"
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}"'
            f' y2="{y:.1f}"/><text x="{LEFT - 7}" y="{y + 4:.1f}"'
            f' text-anchor="end">{label}</text>'
        )
    for step in _ticks(*x_range, 5):
        x = _x(step, x_range)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{step:g}</text>'
        )
    return "".join(parts)
