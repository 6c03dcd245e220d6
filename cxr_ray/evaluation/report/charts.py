"""Charts of the report as inline SVG: curves, points with intervals, forests.

Plain numbers in, markup out; whatever is text is escaped. Lines differ by dash as well as by colour, which the style
sheet gives by class, so that a grey print still tells them apart. What has no value is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Point = tuple[float, float]
NUM_STYLES = 8  # line styles in report.css; from there on they repeat
_WIDTH, _HEIGHT, _LEFT, _TOP = 240.0, 180.0, 52.0, 8.0  # of the plot; the labels lie around it
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MARGIN, _ROW, _SPAN = 150.0, 20.0, 300.0  # of a forest: names, height of a row, width of the axis


@dataclass(frozen=True, slots=True)
class Line:
    """A curve through points (x, y), with the name that the legend gives it."""

    label: str
    points: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with an interval of y, which may be missing, and what it says when pointed at."""

    x: float
    y: float
    low: float | None
    high: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a forest: its name and the interval {"value", "low", "high"}, of which any may be None."""

    label: str
    interval: Mapping[str, Any]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    axes: tuple[str, str],
    marks: Sequence[Mark] = (),
    top: float = 1.0,
    diagonal: bool = False,
) -> Markup:
    """Curves and marks over 0..1 (x) and 0..`top` (y); `title` is what a screen reader says of them."""
    body = [_frame(axes, top)]
    if diagonal:
        body.append(Markup('<path class="chance" d="{}"/>').format(_path([(0.0, 0.0), (1.0, top)], top)))
    for index, line in enumerate(lines):
        if line.points:
            path = _path([(point[0], point[1]) for point in line.points], top)
            form = Markup('<path class="line s{}" d="{}"><title>{}</title></path>')
            body.append(form.format(index % NUM_STYLES, path, line.label))
    body += [_mark(mark, top) for mark in marks]
    return _svg("chart", _LEFT + _WIDTH + 12, _TOP + _HEIGHT + 36, title, body)


def forest(
    bars: Sequence[Bar], *, title: str, low: float = 0.0, high: float = 1.0, reference: float | None = None
) -> Markup:
    """Intervals under each other on one axis from `low` to `high`, with a line at the value they compare with."""
    bottom = 6 + _ROW * len(bars)

    def across(value: float) -> float:
        return round(_MARGIN + _SPAN * (min(max(value, low), high) - low) / (high - low), 1)

    form = Markup('<path class="grid" d="M{0} 4V{1}"/><text x="{0}" y="{2}" text-anchor="middle">{3:.3g}</text>')
    ticks = [low + share * (high - low) for share in _TICKS]
    body = [form.format(across(tick), bottom, bottom + 14, tick) for tick in ticks]
    if reference is not None:
        body.append(Markup('<path class="chance" d="M{0} 4V{1}"/>').format(across(reference), bottom))
    for index, bar in enumerate(bars):
        y = 6 + _ROW * (index + 0.5)
        body.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_MARGIN - 8, y + 3.5, bar.label))
        value, below, above = (bar.interval[name] for name in ("value", "low", "high"))
        if value is None:
            body.append(Markup('<text class="none" x="{}" y="{}">not defined</text>').format(_MARGIN + 4, y + 3.5))
            continue
        if below is not None and above is not None:
            body.append(Markup('<path class="whisker" d="M{} {}H{}"/>').format(across(below), y, across(above)))
        body.append(Markup('<circle class="dot" cx="{}" cy="{}" r="3.5"/>').format(across(value), y))
        body.append(Markup('<text x="{}" y="{}">{:.3f}</text>').format(_MARGIN + _SPAN + 8, y + 3.5, value))
    return _svg("forest", _MARGIN + _SPAN + 48, bottom + 20, title, body)


def ceiling(values: Sequence[float | None], *, least: float = 0.05) -> float:
    """A round upper end for an axis that starts at zero: 1, 2 or 5 times a power of ten, at most 1."""
    most = max([least, *(value for value in values if value is not None)])
    return next((step for step in (0.05, 0.1, 0.2, 0.5) if most <= step), 1.0)


def _svg(kind: str, width: float, height: float, title: str, body: Sequence[Markup]) -> Markup:
    """The picture around its parts; Markup joins what it is given without escaping it again."""
    form = Markup('<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>')
    return form.format(kind, width, height, title, Markup("").join(body))


def _frame(axes: tuple[str, str], top: float) -> Markup:
    """Grid, numbers and names of both axes."""
    parts = []
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    for share in _TICKS:
        x, y = _at((share, share * top), top)
        parts.append(Markup('<path class="grid" d="M{} {}V{}M{} {}H{}"/>').format(x, _TOP, bottom, _LEFT, y, right))
        across = Markup('<text x="{}" y="{}" text-anchor="middle">{:g}</text>')
        parts.append(across.format(x, bottom + 13, share))
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{:.3g}</text>').format(_LEFT - 5, y + 3, share * top)
        )
    name = Markup('<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>')
    parts.append(name.format(_LEFT + _WIDTH / 2, bottom + 29, axes[0]))
    turned = Markup('<text class="name" transform="translate(10 {}) rotate(-90)" text-anchor="middle">{}</text>')
    parts.append(turned.format(_TOP + _HEIGHT / 2, axes[1]))
    return Markup("").join(parts)


def _mark(mark: Mark, top: float) -> Markup:
    """A dot, with a whisker where there is an interval."""
    x, y = _at((mark.x, mark.y), top)
    whisker = Markup("")
    if mark.low is not None and mark.high is not None:
        ends = (_at((mark.x, end), top)[1] for end in (mark.low, mark.high))
        whisker = Markup('<path class="whisker" d="M{} {}V{}"/>').format(x, *ends)
    dot = Markup('<circle class="dot" cx="{}" cy="{}" r="3"><title>{}</title></circle>')
    return whisker + dot.format(x, y, mark.note)


def _path(points: Sequence[Point], top: float) -> str:
    """The points as an SVG path."""
    return "M" + "L".join("{:g} {:g}".format(*_at(point, top)) for point in points)


def _at(point: Point, top: float) -> Point:
    """Where a point lies in the picture; what is beyond the axes lies at their ends."""
    x, y = (min(max(value, 0.0), end) for value, end in zip(point, (1.0, top), strict=True))
    return round(_LEFT + _WIDTH * x, 1), round(_TOP + _HEIGHT * (1.0 - y / top), 1)
