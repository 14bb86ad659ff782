"""Axes and legends of the pictures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dashboards.queries import Span
from dashboards.units import format_value


def legend_columns(names: Sequence[str], width: float) -> int:
    """As many as have room in a panel of this width, of up to three."""
    n_characters = int(190 * width) // (max(map(len, names)) + 6)
    return max(1, min(3, n_characters))


def value_axis(axes: Axes, unit: str, *, is_log: bool) -> None:
    """Ticks and their labels, upwards."""
    low, high = axes.get_ylim()
    if is_log:
        # Within two decades their beginnings alone would be too few ticks.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=unit == "short" and high > 2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))


def time_axis(axes: Axes, span: Span) -> None:
    """Ticks at full minutes, UTC, as many as have room."""
    n_ticks = max(2.0, 20 * axes.get_position().width)
    steps_s = (60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400)
    every_s = next((step for step in steps_s if span.end_s - span.start_s <= n_ticks * step), steps_s[-1])
    first_s = span.start_s - span.start_s % every_s + every_s
    ticks = np.arange(first_s, span.end_s, every_s)
    axes.set_xlim(span.start_s, span.end_s)
    axes.set_xticks(ticks, [f"{tick // 3600 % 24:02.0f}:{tick // 60 % 60:02.0f}" for tick in ticks])


def quiet(axes: Axes) -> None:
    """Nothing that draws the eye away from the data."""
    axes.tick_params(labelsize=8, length=0, colors="#555555")
    axes.grid(color="#ececec", linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
