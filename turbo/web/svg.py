"""Charts as SVG, drawn here: stacked bars, lines and meters. Colours are classes of charts.css, so that light and dark both work.

A chart is an image with a title and a description; the table that the page puts behind it has every figure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 6, 8, 22
STEPS = 4
LABELS = 6
"""Under the bars; the others have none."""

Shown = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """`look`: a class of charts.css. A value None: nothing is known."""

    name: str
    look: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """`labels`: of the intervals, in their order, as many as each series has values."""

    name: str
    title: str
    description: str
    labels: Sequence[str]
    series: Sequence[Series]
    shown: Shown
    lines: bool = False

    @property
    def empty(self) -> bool:
        return not any(value for one in self.series for value in one.values)

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """The table."""
        return [
            (label, ["" if (value := one.values[place]) is None else self.shown(value) for one in self.series])
            for place, label in enumerate(self.labels)
        ]

    @property
    def svg(self) -> Markup:
        return _drawn(self)


def _drawn(chart: Chart) -> Markup:
    top = _scale(_highest(chart))
    parts = [_grid(top, chart.shown), _labels(chart.labels)]
    parts.append(_lines(chart, top) if chart.lines else _bars(chart, top))
    title, description = f"{chart.name}-title", f"{chart.name}-desc"
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{} {}"><title id="{}">{}</title><desc id="{}">{}</desc>{}</svg>'
    ).format(
        WIDTH, HEIGHT, title, description, title, chart.title, description, chart.description, Markup("").join(parts)
    )


def _highest(chart: Chart) -> float:
    columns = zip(*(one.values for one in chart.series), strict=True)
    heights = max if chart.lines else sum
    return max((heights([value or 0.0 for value in column]) for column in columns), default=0.0)


def _scale(highest: float) -> float:
    """The top of the axis: 1, 2 or 5 of a power of ten for each step."""
    if highest <= 0 or not math.isfinite(highest):
        return float(STEPS)
    step = highest / STEPS
    power = 10.0 ** math.floor(math.log10(step))
    return STEPS * power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _x(place: float, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * place / max(1, count)


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(1.0, value / top))


def _grid(top: float, shown: Shown) -> Markup:
    lines = []
    for step in range(STEPS + 1):
        value = top * step / STEPS
        y = _y(value, top)
        text = Markup('<text class="axis y" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, y + 4, shown(value))
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, y, y)
        lines.append(line + text)
    return Markup("").join(lines)


def _labels(labels: Sequence[str]) -> Markup:
    every = max(1, math.ceil(len(labels) / LABELS))
    return Markup("").join(
        Markup('<text class="axis" x="{:.1f}" y="{}">{}</text>').format(_x(place + 0.5, len(labels)), HEIGHT - 6, label)
        for place, label in enumerate(labels)
        if (len(labels) - 1 - place) % every == 0
    )


def _bars(chart: Chart, top: float) -> Markup:
    count = len(chart.labels)
    width = (WIDTH - LEFT - RIGHT) / max(1, count)
    bars = []
    for place, label in enumerate(chart.labels):
        base = 0.0
        for one in chart.series:
            value = one.values[place] or 0.0
            if value <= 0:
                continue
            upper, lower = _y(base + value, top), _y(base, top)
            bars.append(
                Markup(
                    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
                ).format(
                    one.look,
                    _x(place, count) + width * 0.12,
                    upper,
                    width * 0.76,
                    max(0.8, lower - upper),
                    f"{label}: {chart.shown(value)} {one.name}",
                )
            )
            base += value
    return Markup("").join(bars)


def _lines(chart: Chart, top: float) -> Markup:
    count = len(chart.labels)
    drawn = []
    for one in chart.series:
        piece: list[str] = []
        pieces = [piece]
        for place, value in enumerate(one.values):
            if value is None:
                piece = []
                pieces.append(piece)
                continue
            x, y = _x(place + 0.5, count), _y(value, top)
            piece.append(f"{x:.1f},{y:.1f}")
            drawn.append(
                Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.4"><title>{}</title></circle>').format(
                    one.look, x, y, f"{chart.labels[place]}: {chart.shown(value)} {one.name}"
                )
            )
        drawn += [
            Markup('<polyline class="line {}" points="{}"/>').format(one.look, " ".join(piece))
            for piece in pieces
            if len(piece) > 1
        ]
    return Markup("").join(drawn)


def meter(share: float | None, look: str) -> Markup:
    """A bar from 0 to 1, for a row of a table that says the figure. None: not known."""
    width = 0.0 if share is None else max(0.0, min(1.0, share)) * 100
    return Markup(
        '<svg class="meter-bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="meter-ground" width="100" height="8"/><rect class="{}" width="{:.1f}" height="8"/></svg>'
    ).format(escape(look), width)
