"""Draws an event: its light in the detector, in space, from above and from the side.

Modules with light that the online cleaning keeps are coloured by the time of their first such pulse, red first and
blue last, and sized by their charge; all others with pulses are grey. Arrows fly as the particle did.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from numpy.typing import NDArray

from icestream.cli.event_facts import GIVEN, TRUTH, Direction, EventFacts, PulseCounts
from icestream.physics.detector import Detector
from icestream.physics.directions import opening_angles_rad
from icestream.skymaps.partial import partial_file

if TYPE_CHECKING:
    from matplotlib.artist import Artist

FloatArray = NDArray[np.float64]

SUFFIXES = (".png", ".pdf")
DPI = 110
COLOURS = colormaps["turbo_r"].resampled(256)
ONLINE, OTHERS, OURS, TRUE = "#111111", "0.55", "#c2169b", "#1a8f3c"
STRING, UNUSED = "0.80", "0.72"
LARGEST = 420.0
"""Area of the brightest module, in points squared; others in proportion to the square root of their charge."""
SMALLEST = 7.0
LATEST_QUANTILE = 0.95
"""Of the light's time; later modules have the last colour, so that a few late ones do not take all the others."""
SAME_RAD = np.radians(0.05)
"""Directions this near are drawn once: alerts repeat those of the frames with less digits."""
MARGIN_M = 60.0


def draw_event(facts: EventFacts, detector: Detector) -> Figure:
    """Draw the event with the directions of its message, its truth and the one that was given."""
    light = _Light.of(facts, detector)
    arrows = _arrows(facts, light, detector)
    figure = Figure(figsize=(13, 7.6))
    # Figures without pyplot need no global state, and may be drawn in any thread.
    FigureCanvasAgg(figure)
    side = _side_axis(arrows)
    space = figure.add_axes((0.0, 0.055, 0.56, 0.805), projection="3d")
    _draw_space(space, light, arrows, detector)
    above = figure.add_axes((0.62, 0.54, 0.28, 0.345))
    _draw_flat(above, light, arrows, detector, np.array([[1.0, 0, 0], [0, 1, 0]]))
    above.set(title="from above", xlabel="x (m)", ylabel="y (m)")
    beside = figure.add_axes((0.62, 0.105, 0.28, 0.345))
    _draw_flat(beside, light, arrows, detector, np.array([[*side, 0.0], [0, 0, 1]]))
    beside.set(title="from the side", xlabel=_side_label(side), ylabel="z (m)")
    for axes in (above, beside):
        axes.set_aspect("equal")
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(10)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    _add_scale(figure, light)
    _add_legends(figure, light, arrows)
    figure.text(0.02, 0.97, _heading(facts), fontsize=14, weight="bold", va="top")
    figure.text(0.02, 0.928, _subheading(facts), fontsize=10, va="top", color="0.25")
    return figure


def write_plot(figure: Figure, path: Path) -> None:
    """Write a figure as what the path's suffix says; the file appears whole or not at all."""
    kind = path.suffix[1:]
    # Neither the clock nor the software's version has a place in a file that may be compared.
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    with partial_file(path) as partial:
        figure.savefig(partial, format=kind, dpi=DPI, metadata=metadata)


@dataclass(frozen=True, slots=True, eq=False)
class _Light:
    """Modules with pulses; those that the cleaning keeps in columns of length (n,), the faintest last."""

    position_m: FloatArray
    charge_pe: FloatArray
    time_ns: FloatArray
    """Of the first pulse that is kept, after the event's first."""
    unused_m: FloatArray
    """Where the other modules are; shape (m, 3)."""

    @classmethod
    def of(cls, facts: EventFacts, detector: Detector) -> "_Light":
        pulses, is_kept = facts.event.pulses, facts.is_cleaned
        if not is_kept.any():
            is_kept = np.ones(len(pulses), np.bool_)
        modules, row = np.unique(pulses.sensor_id[is_kept], return_inverse=True)
        charge_pe = np.zeros(len(modules))
        np.add.at(charge_pe, row, pulses.charge_pe[is_kept])
        first_ns = np.full(len(modules), np.inf)
        np.minimum.at(first_ns, row, pulses.time_ns[is_kept])
        order = np.argsort(-charge_pe, kind="stable")
        unused = np.setdiff1d(pulses.sensor_id, modules)
        return cls(
            detector.positions_m[modules[order]],
            charge_pe[order],
            (first_ns - first_ns.min())[order],
            detector.positions_m[unused],
        )

    @property
    def sizes(self) -> FloatArray:
        """Areas of the dots."""
        return self.sizes_of(self.charge_pe)

    def sizes_of(self, charge_pe: FloatArray) -> FloatArray:
        """Areas of dots of these charges."""
        brightest = max(float(self.charge_pe.max()), 1e-9)
        return np.maximum(LARGEST * np.sqrt(np.maximum(charge_pe, 0) / brightest), SMALLEST)

    @property
    def latest_ns(self) -> float:
        """Where the colours end."""
        return max(float(np.quantile(self.time_ns, LATEST_QUANTILE)), 1.0)

    @property
    def centre_m(self) -> FloatArray:
        """Mean position, weighted by the root of the charge: one bright module shall not be all."""
        weights = np.sqrt(np.maximum(self.charge_pe, 1e-9))
        return np.average(self.position_m, axis=0, weights=weights)


@dataclass(frozen=True, slots=True, eq=False)
class _Arrow:
    """A direction as it is drawn."""

    label: str
    colour: str
    width: float
    style: str
    start_m: FloatArray
    end_m: FloatArray

    @property
    def is_main(self) -> bool:
        return self.width > 1.5


def _arrows(facts: EventFacts, light: _Light, detector: Detector) -> list[_Arrow]:
    arrows: list[_Arrow] = []
    drawn: list[FloatArray] = []
    # The best first, so that repetitions of it are left out.
    for each in sorted(facts.directions, key=_rank):
        vector = each.vector
        is_own = each.name in (GIVEN, TRUTH)
        is_fit = each.stored is None or each.stored.fit_status in ("", "OK")
        is_new = all(opening_angles_rad(vector, other) > SAME_RAD for other in drawn)
        if np.isfinite(vector).all() and is_fit and (is_own or is_new):
            drawn.append(vector)
            arrows.append(_arrow(each, vector, light.centre_m, detector))
    return arrows


def _rank(direction: Direction) -> int:
    return 0 if direction.is_online_track else 1 if direction.stored is not None else 2


def _arrow(direction: Direction, vector: FloatArray, centre_m: FloatArray, detector: Detector) -> _Arrow:
    label, colour, width, style = direction.name, OTHERS, 1.0, "--"
    if direction.is_online_track:
        label, colour, width, style = f"{label} (online)", ONLINE, 1.8, "-"
    elif direction.name == GIVEN:
        label, colour, width, style = "given direction", OURS, 2.2, "-"
    elif direction.name == TRUTH:
        label, colour, width, style = "true direction", TRUE, 2.2, "-"
    point = centre_m
    if direction.stored is not None and direction.stored.position_m is not None:
        position = np.array(direction.stored.position_m)
        if np.isfinite(position).all():
            # The track's point next to the light; where a cascade was is its own.
            is_track = direction.stored.shape != "Cascade"
            point = position + (((centre_m - position) @ vector) * vector if is_track else 0.0)
    before_m, after_m = _reach_m(point, vector, detector)
    return _Arrow(label, colour, width, style, point + before_m * vector, point - after_m * vector)


def _reach_m(point: FloatArray, vector: FloatArray, detector: Detector) -> tuple[float, float]:
    """How far a line goes along and against the vector until it leaves the detector's surroundings."""
    low = detector.positions_m.min(axis=0) - MARGIN_M
    high = detector.positions_m.max(axis=0) + MARGIN_M
    with np.errstate(divide="ignore", invalid="ignore"):
        along = np.where(vector > 0, high - point, low - point) / vector
        against = np.where(vector > 0, point - low, point - high) / vector
    # A point outside, as of a fit that went astray, still shows its direction.
    return max(float(np.nanmin(along)), MARGIN_M), max(float(np.nanmin(against)), MARGIN_M)


def _side_axis(arrows: list[_Arrow]) -> FloatArray:
    """Horizontal unit vector along the first arrow: a picture along it and z shows its true inclination."""
    if arrows:
        along = (arrows[0].end_m - arrows[0].start_m)[:2]
        if (length := np.linalg.norm(along)) > 1e-6 * np.linalg.norm(arrows[0].end_m - arrows[0].start_m):
            return np.asarray(along / length, np.float64)
    return np.array([1.0, 0.0])


def _side_label(side: FloatArray) -> str:
    angle_deg = float(np.degrees(np.arctan2(side[1], side[0])))
    return "x (m)" if angle_deg == 0 else "horizontally along the flight (m)"


def _strings(detector: Detector) -> list[FloatArray]:
    """Bottom and top of each string: modules that hang below each other; shape (2, 3) each."""
    positions = detector.positions_m
    _, row = np.unique(positions[:, :2].round(), axis=0, return_inverse=True)
    ends = []
    for string in range(int(row.max()) + 1):
        own = positions[row.ravel() == string]
        ends.append(own[[own[:, 2].argmin(), own[:, 2].argmax()]])
    return ends


def _draw_space(axes: Any, light: _Light, arrows: list[_Arrow], detector: Detector) -> None:
    strings = _strings(detector)
    axes.computed_zorder = False
    axes.add_collection3d(Line3DCollection(strings, colors=STRING, linewidths=0.6, zorder=1))
    tops = np.array([string[1] for string in strings])
    axes.scatter(*tops.T, s=5, c="0.6", depthshade=False, linewidths=0, zorder=1)
    axes.scatter(*light.unused_m.T, s=SMALLEST, c=UNUSED, depthshade=False, linewidths=0, zorder=2)
    axes.scatter(*light.position_m.T, **_dots(light), depthshade=False, zorder=4)
    for arrow in arrows:
        line = arrow.end_m - arrow.start_m
        axes.quiver(
            *arrow.start_m,
            *line,
            color=arrow.colour,
            lw=arrow.width,
            ls=arrow.style,
            arrow_length_ratio=0.05 if arrow.is_main else 0.0,
            zorder=_zorder(arrow),
        )
    low, high = detector.positions_m.min(axis=0), detector.positions_m.max(axis=0)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_box_aspect(high - low, zoom=1.13)
    axes.view_init(elev=14, azim=_view_azimuth_deg(arrows))
    for name in "xyz":
        axis = getattr(axes, f"{name}axis")
        axis.set_pane_color((1, 1, 1, 0))
        axis.set_tick_params(labelsize=8)
        axis.line.set_color("0.7")
        getattr(axes, f"set_{name}label")(f"{name} (m)", fontsize=9)
    axes.grid(visible=False)


def _zorder(arrow: _Arrow) -> float:
    """The online track on top, which is thinner than what it may cover."""
    return 7 if arrow.colour == ONLINE else 6 if arrow.is_main else 5


def _view_azimuth_deg(arrows: list[_Arrow]) -> float:
    """Look at the track from its side, a little turned, so that it has its length and some depth."""
    side = _side_axis(arrows)
    return float(np.degrees(np.arctan2(side[1], side[0]))) - 70.0


def _draw_flat(axes: Any, light: _Light, arrows: list[_Arrow], detector: Detector, plane: FloatArray) -> None:
    """Draw what two unit vectors of shape (2, 3) span."""
    for string in _strings(detector):
        ends = string @ plane.T
        axes.plot(*ends.T, color=STRING, lw=0.6, marker=".", ms=2.0, mec="0.6", zorder=1)
    axes.scatter(*(light.unused_m @ plane.T).T, s=SMALLEST * 0.6, c=UNUSED, linewidths=0, zorder=2)
    dots = _dots(light)
    axes.scatter(*(light.position_m @ plane.T).T, **(dots | {"s": dots["s"] * 0.45}), zorder=3)
    for arrow in arrows:
        start, end = plane @ arrow.start_m, plane @ arrow.end_m
        head = "-|>" if arrow.is_main else "-"
        style = {"arrowstyle": head, "color": arrow.colour, "lw": arrow.width * 0.8, "ls": arrow.style}
        style |= {"shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=style, zorder=_zorder(arrow), annotation_clip=False)
    flat = detector.positions_m @ plane.T
    low, high = flat.min(axis=0) - MARGIN_M, flat.max(axis=0) + MARGIN_M
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def _dots(light: _Light) -> dict[str, Any]:
    return {
        "s": light.sizes,
        "c": np.minimum(light.time_ns, light.latest_ns),
        "cmap": COLOURS,
        "vmin": 0.0,
        "vmax": light.latest_ns,
        "edgecolors": "0.15",
        "linewidths": 0.35,
        "alpha": 0.9,
    }


def _add_scale(figure: Figure, light: _Light) -> None:
    scale = figure.colorbar(
        ScalarMappable(Normalize(0, light.latest_ns), COLOURS),
        cax=figure.add_axes((0.935, 0.105, 0.014, 0.345)),
        extend="max",
    )
    scale.set_label("first pulse of the module (ns after the first)", fontsize=9)
    scale.ax.tick_params(labelsize=8)


def _add_legends(figure: Figure, light: _Light, arrows: list[_Arrow]) -> None:
    mains = [arrow for arrow in arrows if arrow.is_main]
    others = [arrow for arrow in arrows if not arrow.is_main]
    lines: list[Artist] = [
        Line2D([], [], color=a.colour, lw=a.width, ls=a.style, label=a.label) for a in mains
    ]
    if others:
        names = ", ".join(arrow.label for arrow in others)
        lines.append(Line2D([], [], color=OTHERS, lw=1, ls="--", label=names))
    if lines:
        figure.legend(
            handles=lines,
            loc="upper left",
            bbox_to_anchor=(0.012, 0.89),
            ncols=len(lines),
            fontsize=9,
            frameon=False,
        )
    dots: list[Artist] = []
    for charge_pe in _round_charges(float(light.charge_pe.max())):
        diameter = float(np.sqrt(light.sizes_of(np.array([charge_pe]))[0]))
        dots.append(_dot(diameter, "w", "0.15", f"{charge_pe:g} p.e."))
    dots.append(_dot(float(np.sqrt(SMALLEST)), UNUSED, UNUSED, "left out by cleaning"))
    figure.legend(
        handles=dots,
        loc="lower left",
        bbox_to_anchor=(0.012, 0.0),
        ncols=len(dots),
        fontsize=9,
        frameon=False,
    )


def _dot(diameter: float, face: str, edge: str, label: str) -> Line2D:
    return Line2D([], [], marker="o", ls="none", ms=diameter, mfc=face, mec=edge, mew=0.6, label=label)


def _round_charges(largest_pe: float) -> list[float]:
    """Up to three powers of ten below the largest charge."""
    highest = int(np.floor(np.log10(max(largest_pe, 1e-3))))
    return [10.0**power for power in range(highest - 2, highest + 1)]


def _heading(facts: EventFacts) -> str:
    event = facts.event
    parts = [f"Run {event.id.run_id}, event {event.id.event_id}"]
    if event.alert_type:
        parts.append(event.alert_type)
    if event.start_unix_ns:
        parts.append(
            str(np.datetime64(event.start_unix_ns, "ns").astype("datetime64[s]")).replace("T", " ") + " UTC"
        )
    return "  ·  ".join(parts)


def _subheading(facts: EventFacts) -> str:
    text = f"{_counts(facts.counts)}; after cleaning {_counts(facts.cleaned)}"
    online = next((each for each in facts.directions if each.is_online_track), None)
    if online is None:
        return text
    line = f"{online.name}: zenith {np.degrees(online.zenith_rad):.2f}°, azimuth {np.degrees(online.azimuth_rad):.2f}°"
    if online.right_ascension_rad is not None and online.declination_rad is not None:
        line += f"; RA {np.degrees(online.right_ascension_rad):.2f}°, Dec {np.degrees(online.declination_rad):+.2f}°"
    return f"{text}\n{line}"


def _counts(counts: PulseCounts) -> str:
    return f"{counts.n_modules} modules, {counts.n_pulses} pulses, {counts.charge_pe:.0f} p.e."
