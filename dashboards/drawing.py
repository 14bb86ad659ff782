"""The kinds of panels, drawn as Grafana draws them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from dashboards.answers import Exemplar, FloatArray, Series
from dashboards.axes import legend_columns, quiet, time_axis, value_axis
from dashboards.queries import PanelQuery, Span
from dashboards.units import format_value

Box = tuple[float, float, float, float]
"""Left, bottom, width and height, in shares of the figure."""

_COLOURS = {"green": "#3a9a52", "orange": "#e08a1e", "red": "#d6393b", "blue": "#3274d9"}
_LINES = (
    *("#3a9a52", "#d9a72b", "#3274d9", "#e0752d", "#bf3b4b", "#8f5bb5"),
    *("#4bb8c4", "#7a8b2f", "#b5568f", "#5a6b7b", "#a0522d", "#2f7f7f"),
)
_EXEMPLAR = "#d432d4"
_MAX_LEGENDS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A panel and what it shows."""

    panel: dict[str, Any]
    span: Span
    answers: Sequence[tuple[PanelQuery, Sequence[Series]]]
    exemplars: Sequence[Exemplar]

    @property
    def unit(self) -> str:
        """Of its values."""
        return str(self.panel["fieldConfig"]["defaults"]["unit"])

    @property
    def limits(self) -> list[tuple[float, str]]:
        """Where its colours begin, and the colours."""
        steps = self.panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
        return [(step["value"], _COLOURS[step["color"]]) for step in steps if step["value"] is not None]

    @property
    def named(self) -> list[tuple[str, Series]]:
        """All series with what they are called."""
        return [(_legend(query, one), one) for query, series in self.answers for one in series]


def draw(figure: Figure, box: Box, content: Content) -> None:
    """Fill a panel's place with its content."""
    if not content.named:
        left, bottom, width, height = box
        figure.text(left + width / 2, bottom + height / 2, "No data", ha="center", color="#8e8e8e", size=11)
        return
    _KINDS[content.panel["type"]](figure, box, content)


def bucket_contents(series: Sequence[Series]) -> tuple[list[float], FloatArray]:
    """What is in each bucket alone, of a histogram whose counts are of everything below a bound.

    Returns:
        Upper bounds in rising order, shape (n,), and contents, shape (n, times).
    """
    rising = sorted(series, key=lambda one: float(one.labels["le"]))
    own = np.diff(np.array([np.nan_to_num(one.value) for one in rising]), axis=0, prepend=0.0)
    # Scrapes of several instances are not of one moment, so that a difference may be just below zero.
    return [float(one.labels["le"]) for one in rising], np.maximum(own, 0.0)


def _lines(figure: Figure, box: Box, content: Content) -> None:
    axes = _axes(figure, box, content, has_legend=True)
    custom = content.panel["fieldConfig"]["defaults"]["custom"]
    named = content.named
    is_zero = not any(np.nanmax(series.value) > 0 for _, series in named)
    is_log = custom.get("scaleDistribution", {}).get("type") == "log" and not is_zero
    if custom.get("stacking", {}).get("mode") == "normal":
        colours = [_LINES[number % len(_LINES)] for number in range(len(named))]
        values = [np.nan_to_num(series.value) for _, series in named]
        axes.stackplot(
            named[0][1].time_s, values, labels=[name for name, _ in named], colors=colours, alpha=0.7
        )
    else:
        for number, (name, series) in enumerate(named):
            colour = _LINES[number % len(_LINES)]
            axes.plot(series.time_s, series.value, color=colour, label=name, linewidth=1.5)
            if not is_log:
                axes.fill_between(series.time_s, series.value, color=colour, alpha=0.08, linewidth=0)
    if is_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0, top=1 if is_zero else None)
    value_axis(axes, content.unit, is_log=is_log)
    top = axes.get_ylim()[1]
    for value, colour in content.limits:
        # Far above what is there it would only flatten the lines; Grafana leaves it out of sight as well.
        if value < 3 * top:
            axes.axhline(value, color=colour, linestyle="--", linewidth=1)
    _exemplar_dots(axes, content, [one.value for one in content.exemplars])
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        *(handles[:_MAX_LEGENDS], names[:_MAX_LEGENDS]),
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.12),
        ncols=legend_columns(names, box[2]),
        frameon=False,
        fontsize=8,
        handlelength=1.2,
        columnspacing=1.0,
        labelspacing=0.25,
    )


def _number(figure: Figure, box: Box, content: Content) -> None:
    left, bottom, width, height = box
    named = content.named
    for number, (name, series) in enumerate(named):
        value = series.value[np.isfinite(series.value)][-1]
        colour = _COLOURS["green"]
        for limit, its_colour in content.limits:
            colour = its_colour if value >= limit else colour
        x = left + width * (number + 0.5) / len(named)
        text = format_value(float(value), content.unit)
        figure.text(x, bottom + height * 0.62, text, size=21, color=colour, ha="center", va="center")
        share = width / len(named)
        spark = figure.add_axes(
            (left + number * share + 0.01, bottom + 0.08 * height, share - 0.02, 0.25 * height)
        )
        spark.plot(series.time_s, series.value, color=colour, linewidth=1)
        spark.fill_between(series.time_s, series.value, color=colour, alpha=0.15, linewidth=0)
        spark.set_ylim(bottom=min(0.0, float(np.nanmin(series.value))))
        spark.set_axis_off()
        if len(named) > 1:
            figure.text(x, bottom + height * 0.9, name, size=9, ha="center", va="center", color="#555555")


def _heat_map(figure: Figure, box: Box, content: Content) -> None:
    axes = _axes(figure, box, content, has_legend=False)
    bounds, cells = bucket_contents([series for _, series in content.named])
    rows = np.flatnonzero(cells.sum(axis=1) > 0)
    first, last = (max(int(rows[0]) - 1, 0), int(rows[-1]) + 1) if len(rows) else (0, len(bounds))
    times = content.named[0][1].time_s
    shown = np.ma.masked_less_equal(cells[first:last], 1e-9)
    # The root shows what is rare beside what is common; as in the dashboards.
    mesh = axes.pcolormesh(
        np.append(times, times[-1] + content.span.step_s),
        np.arange(last - first + 1),
        np.ma.sqrt(shown),
        cmap="turbo",
        vmin=0,
    )
    mesh.set_rasterized(True)
    unit = content.panel["options"]["yAxis"]["unit"]
    labels = [format_value(bound, unit) for bound in bounds[first:last]]
    every = max(1, len(labels) // 8)
    # A bound is the upper edge of its row.
    axes.yaxis.set_major_locator(FixedLocator(list(range(every, len(labels) + 1, every))))
    axes.set_yticklabels(labels[every - 1 :: every])
    inner = [one for one in content.exemplars if np.searchsorted(bounds, one.value) < last]
    places = [_place_in_rows(one.value, bounds) - first for one in inner]
    _exemplar_dots(axes, content, places, inner)
    _colour_bar(figure, box, content, float(cells.max()))


def _bars(figure: Figure, box: Box, content: Content) -> None:
    left, bottom, width, height = box
    bounds, cells = bucket_contents([series for _, series in content.named])
    counts = cells[:, -1]
    axes = figure.add_axes((left + 0.045, bottom + height * 0.23, width - 0.06, height * 0.73))
    axes.bar(range(len(bounds)), counts, color=_COLOURS["blue"], width=0.85)
    axes.set_xticks(
        range(len(bounds)),
        [_bound(bound) for bound in bounds],
        rotation=60,
        fontsize=7.5,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_xlim(-0.6, len(bounds) - 0.4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, content.unit)))
    quiet(axes)


def _states(figure: Figure, box: Box, content: Content) -> None:
    left, bottom, width, height = box
    named = sorted(content.named, key=lambda item: item[0], reverse=True)
    axes = figure.add_axes((left + 0.13, bottom + height * 0.13, width - 0.14, height * 0.84))
    times = named[0][1].time_s
    cells = np.array([series.value for _, series in named])
    axes.pcolormesh(
        np.append(times, times[-1] + content.span.step_s),
        np.arange(len(named) + 1),
        np.ma.masked_invalid(cells),
        cmap=ListedColormap([_COLOURS["red"], _COLOURS["green"]]),
        vmin=0,
        vmax=1,
    )
    for row in range(1, len(named)):
        axes.axhline(row, color="white", linewidth=3)
    axes.set_yticks(np.arange(len(named)) + 0.5, [name for name, _ in named])
    time_axis(axes, content.span)
    quiet(axes)


def _axes(figure: Figure, box: Box, content: Content, *, has_legend: bool) -> Axes:
    left, bottom, width, height = box
    foot = 0.1
    if has_legend:
        names = [name for name, _ in content.named][:_MAX_LEGENDS]
        foot = 0.16 + 0.068 * -(-len(names) // legend_columns(names, width))
    # Radians have the longest numbers.
    margin = 0.046 if "radian" in str(content.panel) else 0.035
    axes = figure.add_axes(
        (left + margin, bottom + height * foot, width - margin - 0.01, height * (0.96 - foot))
    )
    time_axis(axes, content.span)
    quiet(axes)
    return axes


def _colour_bar(figure: Figure, box: Box, content: Content, highest: float) -> None:
    """From none to the most that there is, in the line of the title."""
    left, bottom, width, height = box
    text = f"to {format_value(highest, content.unit)}"
    figure.text(left + width - 0.006, bottom + height * 1.075, text, size=8, ha="right", va="center")
    axes = figure.add_axes((left + width - 0.082, bottom + height * 1.05, 0.03, height * 0.05))
    axes.imshow(np.linspace(0, 1, 64)[None, :], aspect="auto", cmap="turbo")
    axes.set_axis_off()


def _exemplar_dots(
    axes: Axes, content: Content, places: Sequence[float], exemplars: Sequence[Exemplar] | None = None
) -> None:
    times = [one.time_s for one in (content.exemplars if exemplars is None else exemplars)]
    if times:
        axes.scatter(
            times, places, s=14, marker="D", color=_EXEMPLAR, edgecolors="white", linewidths=0.4, zorder=5
        )


def _place_in_rows(value: float, bounds: Sequence[float]) -> float:
    """Where a value stands on an axis that gives every bucket the same height."""
    row = int(np.searchsorted(bounds, value))
    below = bounds[row - 1] if row else 0.0
    return row + (value - below) / (bounds[row] - below)


def _bound(bound: float) -> str:
    return "more" if np.isinf(bound) else f"{bound:.3g}" if bound < 1000 else f"{bound / 1000:g} k"


def _legend(query: PanelQuery, series: Series) -> str:
    """As Grafana fills in labels; what is not there is left out."""
    if query.legend == "__auto":
        return query.panel
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: series.labels.get(found[1], ""), query.legend)
    return " ".join(filled.split()).strip(" ,") or query.panel


_KINDS: dict[str, Callable[[Figure, Box, Content], None]] = {
    "timeseries": _lines,
    "stat": _number,
    "heatmap": _heat_map,
    "bargauge": _bars,
    "state-timeline": _states,
}
