"""Draw the Grafana dashboard as an SVG picture, from the answers of a Prometheus to its queries."""

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana" / "session-authority.json"

_COLUMN, _ROW, _GAP = 54, 27, 5  # pixels of a cell of Grafana's grid, and between two panels
_POINTS = 100
_COLOURS = ("73bf69", "f2cc0c", "5794f2", "ff9830", "f2495c", "b877d9", "8ab8ff", "ffa6b0")
_TEXT, _FAINT, _PANEL, _PAGE = "#ccccdc", "#8e8e9c", "#181b1f", "#0b0c0e"
_MARGIN_LEFT, _MARGIN_TOP, _MARGIN_BOTTOM = 58, 32, 42


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard.

    Attributes:
        kind: `row`, `stat` or `timeseries`.
        title: Its title.
        unit: The unit of its values, by Grafana's name.
        place: Its place in Grafana's grid: x, y, width and height.
        queries: Its queries in Prometheus' own language, each with the legend of its series.
    """

    kind: str
    title: str
    unit: str
    place: tuple[int, int, int, int]
    queries: Sequence[tuple[str, str]]


def panels(rate_interval: str) -> Sequence[Panel]:
    """Return the panels of the dashboard. `rate_interval` replaces Grafana's variable of this name."""
    return [
        Panel(
            each["type"],
            each["title"],
            each.get("fieldConfig", {}).get("defaults", {}).get("unit", ""),
            (*(each["gridPos"][side] for side in "xywh"),),
            [
                (
                    target["expr"]
                    .replace("$__rate_interval", rate_interval)
                    .replace("$instance", ".*"),
                    target["legendFormat"],
                )
                for target in each.get("targets", ())
            ],
        )
        for each in json.loads(DASHBOARD.read_text())["panels"]
    ]


@dataclass(frozen=True)
class Line:
    """A series: its name, and its values over time. A value may be NaN."""

    name: str
    points: Sequence[tuple[float, float]]


class Source:
    """The answers of a Prometheus for a span of time."""

    def __init__(self, url: str, start: float, end: float) -> None:
        self.start, self.end = start, end
        self._url = url

    def lines(self, query: str, legend: str) -> list[Line]:
        """Return the series of a query."""
        step = (self.end - self.start) / _POINTS
        parameters = {"query": query, "start": self.start, "end": self.end, "step": step}
        url = f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the caller's Prometheus
            found = json.load(answer)["data"]["result"]
        return [
            Line(
                _name(legend, each["metric"]), [(at, float(value)) for at, value in each["values"]]
            )
            for each in found
        ]


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def shown(value: float, unit: str) -> str:
    """Return a value as Grafana shows it in a unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        size = abs(value)
        for seconds, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
            if size >= seconds:
                return f"{value / seconds:.3g} {name}"
        return f"{value * 1e6:.0f} µs" if value else "0 s"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    end = " /s" if unit == "ops" else ""
    return f"{value / 1_000:.3g} k{end}" if abs(value) >= 10_000 else f"{value:.3g}{end}"


def picture(source: Source, rate_interval: str) -> str:
    """Return the dashboard as SVG."""
    drawn = panels(rate_interval)
    height = max(panel.place[1] + panel.place[3] for panel in drawn) * _ROW + 2 * _GAP
    parts = [part for panel in drawn for part in _panel(panel, source)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * _COLUMN} {height}" '
            'font-family="Inter, Helvetica, Arial, sans-serif" font-size="11">',
            f'<rect width="100%" height="100%" fill="{_PAGE}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, source: Source) -> Iterator[str]:
    x, y, width, height = (
        side * scale for side, scale in zip(panel.place, (_COLUMN, _ROW) * 2, strict=True)
    )
    yield f'<g transform="translate({x + _GAP} {y + _GAP})">'
    if panel.kind == "row":
        yield _text(4, 15, f"▾ {panel.title}", size=14)
    else:
        width, height = width - _GAP, height - _GAP
        yield f'<rect width="{width}" height="{height}" rx="3" fill="{_PANEL}"/>'
        yield _text(9, 18, panel.title, weight=600)
        lines = [line for query, legend in panel.queries for line in source.lines(query, legend)]
        lines = [line for line in lines if any(math.isfinite(value) for _, value in line.points)]
        if not lines:
            yield _text(width / 2, height / 2 + 8, "No data", anchor="middle", fill=_FAINT)
        elif panel.kind == "stat":
            last = [value for _, value in lines[0].points if math.isfinite(value)][-1]
            big = shown(last, panel.unit)
            yield _text(width / 2, height / 2 + 18, big, anchor="middle", size=24, fill="#73bf69")
        else:
            yield from _chart(lines, panel.unit, source, width, height)
    yield "</g>"


def _chart(
    lines: Sequence[Line], unit: str, source: Source, width: int, height: int
) -> Iterator[str]:
    values = [value for line in lines for _, value in line.points if math.isfinite(value)]
    low, high = min(0.0, *values), max(values)
    step = _nice_step((high - low) or 1.0)
    low, high = math.floor(low / step) * step, max(math.ceil(high / step), 1) * step
    left, right, top, bottom = _MARGIN_LEFT, width - 10, _MARGIN_TOP, height - _MARGIN_BOTTOM

    def x_of(at: float) -> float:
        return left + (at - source.start) / (source.end - source.start) * (right - left)

    def y_of(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    for number in range(round((high - low) / step) + 1):
        tick = low + number * step
        yield f'<path d="M{left} {y_of(tick):.1f}H{right}" stroke="#2c3235"/>'
        yield _text(left - 5, y_of(tick) + 4, shown(tick, unit), anchor="end", fill=_FAINT)
    for part in (0.0, 0.5, 1.0):
        at = source.start + part * (source.end - source.start)
        clock = datetime.fromtimestamp(at, UTC).strftime("%H:%M")
        anchor = ("start", "middle", "end")[round(part * 2)]
        yield _text(x_of(at), bottom + 15, clock, anchor=anchor, fill=_FAINT)
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(
            f"{x_of(at):.0f},{y_of(value):.1f}" for at, value in line.points if math.isfinite(value)
        )
        yield f'<polyline points="{path}" fill="none" stroke="#{colour}" stroke-width="1.4"/>'
    yield from _legend([line.name for line in lines], width, height)


def _legend(names: Sequence[str], width: int, height: int) -> Iterator[str]:
    x = 9.0
    for number, name in enumerate(names):
        long = 18 + 6.6 * len(name)
        if number and x + long > width:
            yield _text(x, height - 10, f"+ {len(names) - number}", fill=_FAINT)
            return
        colour = _COLOURS[number % len(_COLOURS)]
        yield f'<rect x="{x}" y="{height - 15}" width="9" height="3" fill="#{colour}"/>'
        yield _text(x + 13, height - 10, name, fill=_FAINT)
        x += long


def _nice_step(span: float) -> float:
    """Return a round number that divides a span into two to five steps."""
    power: float = 10.0 ** math.floor(math.log10(span))
    return next(power * each for each in (0.2, 0.5, 1, 2) if span / (power * each) <= 5)


def _text(x: float, y: float, text: str, **style: Any) -> str:
    names = {"size": "font-size", "weight": "font-weight", "anchor": "text-anchor"}
    given = {"fill": _TEXT, **style}
    attributes = "".join(f' {names.get(name, name)}="{value}"' for name, value in given.items())
    return f'<text x="{x:.0f}" y="{y:.0f}"{attributes}>{escape(text)}</text>'
