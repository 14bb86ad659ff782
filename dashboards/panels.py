"""The kinds of panels that our dashboards are made of.

Every panel says what one looks for in it, and which alerts of docs/operations.md are about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BarGaugeValueMode,
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, FieldColorModeId, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.dashboard import ValueMap as ValueMapping
from grafana_foundation_sdk.models.dashboard import ValueMappingResult as MappedValue
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
JAEGER = DataSourceRef(type_val="jaeger", uid="jaeger")
"""The data sources of deploy/grafana/provisioning."""

WINDOW = "[$__rate_interval]"
"""Of rates: four scrapes, or more where a pixel is more."""

Panel = timeseries.Panel | stat.Panel | heatmap.Panel | bargauge.Panel | statetimeline.Panel
_Panel = TypeVar("_Panel", timeseries.Panel, stat.Panel, heatmap.Panel, bargauge.Panel, statetimeline.Panel)


@dataclass(frozen=True, slots=True)
class Query:
    """An expression of PromQL, and what its series are called."""

    expr: str
    legend: str = ""
    has_exemplars: bool = False
    """Whether points lead to traces."""


@dataclass(frozen=True, slots=True)
class About:
    """What a panel says of itself."""

    title: str
    look_for: str
    """What one looks for in it; where it is empty in health, that."""
    alerts: Sequence[str]
    """Those whose sections in docs/operations.md say what to do."""
    unit: str
    """As Grafana calls it."""
    width: int = 8
    """Of 24."""
    height: int = 7

    @property
    def description(self) -> str:
        """With the way to the runbook."""
        runbook = ", ".join(f"docs/operations.md#{alert.lower()}" for alert in self.alerts)
        return f"{self.look_for}\n\nWhat to do: {runbook}"


def or_none(expr: str, label: str) -> str:
    """The same with a zero called `none` where nothing of it has ever happened."""
    return f'{expr} or on () label_replace(vector(0), "{label}", "none", "", "")'


def growth(counter: str, window: str) -> str:
    """How much each of some counters grew within a window.

    One with labels is born with its first value, which increase() does not see: the first half does, as in the alert
    DeadLetters.

    Args:
        counter: The metric, with its selector behind it where it has one.
        window: As Prometheus writes it, for example `10m`.
    """
    # An instant would take a counter for new whose scrape failed just then.
    before = f"last_over_time({counter}[5m] offset {window})"
    return f"({counter} unless {before} or increase({counter}[{window}]))"


def number(about: About, *queries: Query, limits: Sequence[float] = ()) -> stat.Panel:
    """One number, or one for each query; green below its limits."""
    panel = stat.Panel().graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _finished(panel.thresholds(_thresholds(limits)), about, queries)


def lines(
    about: About,
    *queries: Query,
    limits: Sequence[float] = (),
    is_stacked: bool = False,
    is_log: bool = False,
) -> timeseries.Panel:
    """Series over time; dashed lines at the limits of alerts."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    panel = timeseries.Panel().legend(legend.show_legend(show_legend=True)).tooltip(tooltip)
    panel = panel.line_width(2).fill_opacity(40 if is_stacked else 10).show_points(VisibilityMode.NEVER)
    if is_stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if is_log:
        scale = common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10)
        panel = panel.scale_distribution(scale)
    else:
        panel = panel.min(0)
    if limits:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(limits)).thresholds_style(style)
    return _finished(panel, about, queries)


def heat_map(about: About, query: Query, *, y_unit: str) -> heatmap.Panel:
    """A histogram over time: buckets upwards, their rate as colour; its query is a sum by `le`."""
    colour = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Turbo").steps(64)
    colour = colour.scale(HeatmapColorScale.EXPONENTIAL).exponent(0.5)
    panel = heatmap.Panel().color(colour).cell_gap(0).cell_values(heatmap.CellValues().unit(about.unit))
    panel = panel.y_axis(heatmap.YAxisConfig().unit(y_unit))
    panel = panel.rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.LE))
    panel = panel.mode(TooltipDisplayMode.SINGLE).show_y_histogram()
    return _finished(panel, about, [query], PromQueryFormat.HEATMAP)


def distribution(about: About, histogram: str) -> bargauge.Panel:
    """A histogram over the time that the dashboard shows: a bar for each bucket, named by its upper bound.

    Args:
        about: What it is.
        histogram: The metric, with its selector behind it where it has one: `name_bucket{...}`.
    """
    panel = bargauge.Panel().orientation(VizOrientation.VERTICAL).display_mode(BarGaugeDisplayMode.BASIC)
    panel = (
        panel.value_mode(BarGaugeValueMode.HIDDEN).show_unfilled(show_unfilled=False).min(0).min_viz_width(0)
    )
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.color_scheme(FieldColor().mode(FieldColorModeId.FIXED).fixed_color("blue"))
    query = Query(f"sum by (le) (increase({histogram}[$__range]))", "{{le}}")
    return _finished(panel, about, [query], PromQueryFormat.HEATMAP, is_instant=True)


def states(about: About, query: Query, *, bad: str, good: str) -> statetimeline.Panel:
    """A line of 0 (bad) and 1 (good) for each series."""
    panel = statetimeline.Panel().show_value(VisibilityMode.NEVER).row_height(0.8)
    words = {"0": MappedValue(text=bad, color="red"), "1": MappedValue(text=good, color="green")}
    panel = panel.mappings([ValueMapping(options=words)])
    panel = panel.color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
    steps = [Threshold(color="red", value=None), Threshold(color="green", value=1.0)]
    panel = panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return _finished(panel, about, [query])


def _thresholds(limits: Sequence[float]) -> ThresholdsConfig:
    """Green, and from the last limit on red; of two limits the first is a warning."""
    colours = ("orange", "red")[-len(limits) :] if limits else ()
    steps = [Threshold(color="green", value=None)]
    steps += [Threshold(color=colour, value=value) for colour, value in zip(colours, limits, strict=True)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _finished(
    panel: _Panel,
    about: About,
    queries: Sequence[Query],
    layout: PromQueryFormat = PromQueryFormat.TIME_SERIES,
    *,
    is_instant: bool = False,
) -> _Panel:
    panel = panel.title(about.title).description(about.description).unit(about.unit)
    panel = panel.span(about.width).height(about.height).datasource(PROMETHEUS)
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).ref_id(letter).format(layout).datasource(PROMETHEUS)
        target = target.legend_format(query.legend or "__auto").exemplar(query.has_exemplars)
        panel = panel.with_target(target.instant() if is_instant else target.range())
    return panel
