"""Draws a map: the whole sky, and what is around the best fit.

Colours show 2 * delta llh on the scale of its root, where a parabola looks like a cone. Sky that was not looked at is
light grey, failed pixels are darker. Where llh of different levels do not compare, coarser levels are shifted for the
picture alone (`multiorder.comparable_levels`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.units import deg as degree
from astropy.visualization.wcsaxes import WCSAxes
from astropy.wcs import WCS
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from icestream.physics import healpix
from icestream.physics.directions import angles, opening_angles_rad, unit_vectors
from icestream.scans.request import Frame
from icestream.scans.skymap import Skymap
from icestream.skymaps import mollweide
from icestream.skymaps.multiorder import Cover, comparable_levels, cover
from icestream.skymaps.partial import partial_file
from icestream.skymaps.regions import Region, Regions
from icestream.skymaps.summary import MapSummary, summarise

FloatArray = NDArray[np.float64]

DPI = 160
COLOURS = "YlGnBu_r"
UNSEEN, FAILED = "0.93", "0.72"
INNER, OUTER, TRUTH = "#ff9d2e", "#e8384f", "#b51ad6"
"""Of the 50 % contour, the 90 % contour and the true direction."""
ZOOM_DEPTH = 12.0
"""2 * delta llh where the zoom's colours end, in units of the 90 % level."""
ZOOM_MARGIN = 1.9
"""Half width of the zoom in units of the 90 % region's reach."""
MAX_ZOOM_DEG = 75.0
ZOOM_PIXELS = 700
N_TICKS = 5
TICKS_DEG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0)
SKY_PIXELS = (1800, 900)
AXES = {
    Frame.EQUATORIAL: ("right ascension", "declination"),
    Frame.DETECTOR: ("azimuth", "90° − zenith"),
}
FEW_PIXELS = 10
"""Regions of fewer say so: their area is that of whole pixels."""
HALO = [withStroke(linewidth=3, foreground="white", alpha=0.85)]
RIM = [withStroke(linewidth=4, foreground="black")]


def draw_sky(skymap: Skymap, regions: Regions, truth: ArrayLike | None = None) -> Figure:
    """Draw the whole sky.

    Args:
        skymap: The map.
        regions: Its regions.
        truth: Unit vector of the true direction in the map's frame, if it is known; shape (3,).
    """
    figure, summary = _figure((10, 6.3)), summarise(skymap, regions)
    axes = figure.add_axes((0.03, 0.13, 0.94, 0.73))
    axes.set(xlim=(-2.12, 2.12), ylim=(-1.08, 1.06), aspect="equal")
    axes.set_axis_off()
    picture = _Picture.of(skymap)
    image = axes.imshow(
        picture.at(_sky_vectors()),
        extent=(-2, 2, -1, 1),
        origin="lower",
        cmap=_colours(),
        norm=PowerNorm(0.5, 0, picture.highest),
        interpolation="nearest",
    )
    border = Ellipse((0, 0), 4, 2, fc="none", ec="0.25", lw=1.2)
    image.set_clip_path(Ellipse((0, 0), 4, 2, transform=axes.transData))
    axes.add_patch(border)
    _graticule(axes)
    handles = _marks(axes, regions, truth, _on_sky) + picture.legend(image.get_array())
    _finish(figure, image, handles, summary, (0.30, 0.075, 0.40, 0.022), has_more=False)
    return figure


def draw_zoom(skymap: Skymap, regions: Regions, truth: ArrayLike | None = None) -> Figure:
    """Draw what is around the best fit; see `draw_sky`."""
    figure, summary = _figure((8, 8.6)), summarise(skymap, regions)
    plane = _plane(regions)
    axes = WCSAxes(figure, (0.13, 0.15, 0.80, 0.744), wcs=plane)
    figure.add_axes(axes)
    columns, rows = np.meshgrid(np.arange(ZOOM_PIXELS), np.arange(ZOOM_PIXELS))
    longitude, latitude = plane.pixel_to_world_values(columns, rows)
    picture = _Picture.of(skymap)
    values = picture.at(unit_vectors(np.radians(longitude), np.radians(90 - np.asarray(latitude))))
    deepest = ZOOM_DEPTH * regions.levels.two_delta_llh_90
    image = axes.imshow(
        values, origin="lower", cmap=_colours(), norm=PowerNorm(0.5, 0, deepest), interpolation="nearest"
    )
    axes.set(xlim=(-0.5, ZOOM_PIXELS - 0.5), ylim=(-0.5, ZOOM_PIXELS - 0.5))
    for coordinate, label, side in zip(axes.coords, AXES[skymap.frame], "bl", strict=True):
        # Left to itself it moves labels to the top, onto the heading, where meridians are oblique.
        coordinate.set_ticklabel_position(side)
        coordinate.set_axislabel_position(side)
        coordinate.set_axislabel(f"{label} (deg)", fontsize=11)
        coordinate.set_major_formatter(_tick_format(plane))
        coordinate.set_ticks(spacing=_tick_spacing_deg(plane, is_longitude=side == "b") * degree)
        coordinate.set_ticklabel(size=10, exclude_overlapping=True)
        coordinate.grid(color="0.35", alpha=0.35, linestyle=":", linewidth=0.8)
    handles = _marks(axes, regions, truth, lambda vectors: _on_plane(plane, vectors))
    handles += picture.legend(values)
    _finish(figure, image, handles, summary, (0.13, 0.056, 0.80, 0.018), has_more=True)
    return figure


def write_plot(figure: Figure, path: Path) -> Path:
    """Write a figure as what the path's suffix says, png or pdf; the file appears whole or not at all."""
    kind = path.suffix[1:]
    # Neither the clock nor the software's version has a place in a file that may be compared.
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    with partial_file(path) as partial:
        figure.savefig(partial, format=kind, dpi=DPI, metadata=metadata)
    return path


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """2 * delta llh of all levels at once."""

    tiles: Cover
    values: FloatArray
    """NaN where no fit succeeded, -1 where none was made; shape (n,)."""

    @classmethod
    def of(cls, skymap: Skymap) -> "_Picture":
        tiles = cover(comparable_levels(skymap))
        return cls(tiles, np.where(tiles.is_scanned, 2 * (tiles.llh - np.nanmin(tiles.llh)), -1.0))

    @property
    def highest(self) -> float:
        """Where the colours of the whole sky end."""
        return max(float(np.nanquantile(self.values, 0.98)), 1.0)

    def at(self, vectors: FloatArray) -> Any:
        """Values at directions of shape (..., 3), masked where those are NaN."""
        is_there = np.isfinite(vectors).all(axis=-1)
        values = np.full(vectors.shape[:-1], np.nan)
        values[is_there] = self.values[self.tiles.rows_at(vectors[is_there])]
        return np.ma.masked_invalid(values)

    def legend(self, shown: Any) -> list[Artist]:
        """What the greys among the shown values mean."""
        greys = {"not scanned": (UNSEEN, (shown.filled(0) < 0).any())}
        greys["fit failed"] = FAILED, (~np.isfinite(self.values)).any()
        return [
            Patch(fc=grey, ec="0.6", lw=0.5, label=label)
            for label, (grey, is_shown) in greys.items()
            if is_shown
        ]


def _figure(inches: tuple[float, float]) -> Figure:
    figure = Figure(figsize=inches)
    # Figures without pyplot need no global state, and may be drawn in any thread.
    FigureCanvasAgg(figure)
    return figure


def _colours() -> Colormap:
    return colormaps[COLOURS].with_extremes(bad=FAILED, under=UNSEEN)


def _sky_vectors() -> FloatArray:
    width, height = SKY_PIXELS
    x = (np.arange(width) + 0.5) / width * 4 - 2
    y = (np.arange(height) + 0.5) / height * 2 - 1
    longitude, latitude = mollweide.unproject(*np.meshgrid(x, y))
    return unit_vectors(np.radians(longitude), np.radians(90 - latitude))


def _plane(regions: Regions) -> WCS:
    """An equal-area picture of the sky's part around the best direction."""
    best = regions.best.centre
    reach = [np.degrees(opening_angles_rad(line, best).max()) for line in regions.outer.outlines]
    pixel_deg = np.degrees(np.sqrt(healpix.pixel_area_sr(regions.best.nside)))
    half_width_deg = min(max(ZOOM_MARGIN * max(reach, default=180.0), 4 * pixel_deg), MAX_ZOOM_DEG)
    longitude, colatitude = np.degrees(angles(best))
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
    plane.wcs.crval = [float(longitude), 90 - float(colatitude)]
    plane.wcs.crpix = [(ZOOM_PIXELS + 1) / 2] * 2
    # Half a turn is two units of the projection's radius, a chord.
    half_width = np.degrees(2 * np.sin(np.radians(half_width_deg) / 2))
    plane.wcs.cdelt = [-2 * half_width / ZOOM_PIXELS, 2 * half_width / ZOOM_PIXELS]
    plane.wcs.set()
    return plane


def _tick_format(plane: WCS) -> str:
    width_deg = abs(plane.wcs.cdelt[0]) * ZOOM_PIXELS
    return "d" if width_deg > 12 else "d.d" if width_deg > 1.2 else "d.dd"


def _tick_spacing_deg(plane: WCS, *, is_longitude: bool) -> float:
    wanted = abs(plane.wcs.cdelt[0]) * ZOOM_PIXELS / N_TICKS
    if is_longitude:
        wanted /= max(np.cos(np.radians(plane.wcs.crval[1])), 0.05)
    return min(TICKS_DEG, key=lambda spacing: abs(np.log(spacing / wanted)))


def _on_sky(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Places in the ellipse, interrupted where a line leaves it at one side and comes back at the other."""
    longitude, colatitude = np.degrees(angles(vectors))
    x, y = mollweide.project(longitude, 90 - colatitude)
    jumps = np.flatnonzero(np.abs(np.diff(x)) > 1) + 1
    return np.insert(x, jumps, np.nan), np.insert(y, jumps, np.nan)


def _on_plane(plane: WCS, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    longitude, colatitude = np.degrees(angles(vectors))
    x, y = plane.world_to_pixel_values(longitude, 90 - colatitude)
    return np.asarray(x), np.asarray(y)


def _graticule(axes: Any) -> None:
    latitudes, longitudes = np.linspace(-90, 90, 181), np.linspace(0, 360, 361)
    style = {"color": "0.35", "lw": 0.6, "alpha": 0.45}
    label = {"fontsize": 9, "color": "0.2"}
    for longitude in range(30, 360, 30):
        axes.plot(*mollweide.project(np.full(181, float(longitude)), latitudes), **style)
    for latitude in range(-60, 61, 30):
        # Just short of the edges, which are the same longitude.
        axes.plot(
            *mollweide.project(np.clip(longitudes, 0.001, 359.999), np.full(361, float(latitude))), **style
        )
        x, y = mollweide.project(np.array([359.999]), np.array([float(latitude)]))
        axes.text(
            x[0] - 0.03,
            y[0],
            f"{latitude:+d}°".replace("+0", "0").replace("-", "−"),
            ha="right",
            va="center",
            **label,
        )
    for longitude in range(60, 360, 60):
        x, y = mollweide.project(np.array([float(longitude)]), np.array([0.0]))
        axes.text(x[0], y[0] - 0.015, f"{longitude}°", ha="center", va="top", path_effects=HALO, **label)


def _marks(axes: Any, regions: Regions, truth: ArrayLike | None, place: Any) -> list[Artist]:
    """Draw contours, the best fit and the truth; what the legend shows of them."""
    handles = list[Artist]()
    for region, colour in ((regions.inner, INNER), (regions.outer, OUTER)):
        for line in region.outlines:
            axes.plot(*place(line), color=colour, lw=1.6, path_effects=HALO, zorder=4)
        handles.append(Line2D([], [], color=colour, lw=2, label=_region_label(region)))
    best: dict[str, Any] = {"marker": "+", "ms": 13, "mew": 1.8, "ls": "none"}
    axes.plot(*place(regions.best.centre[None]), **best, color="w", path_effects=RIM, zorder=5)
    handles.append(Line2D([], [], **best, color="k", label="best fit"))
    if truth is not None:
        mark: dict[str, Any] = {
            "marker": "*",
            "ms": 13,
            "mec": "white",
            "mew": 0.9,
            "color": TRUTH,
            "ls": "none",
        }
        axes.plot(*place(np.asarray(truth, np.float64)[None]), **mark, zorder=6)
        handles.append(Line2D([], [], **mark, label="truth"))
    return handles


def _region_label(region: Region) -> str:
    area = f"{region.area_deg2:.2g}" if region.area_deg2 < 10 else f"{region.area_deg2:.0f}"
    pixels = f" ({region.n_pixels} pixel{'s' if region.n_pixels > 1 else ''})"
    return f"{region.share:.0%}: {'> ' if region.is_open else ''}{area} deg²" + (
        pixels if region.n_pixels < FEW_PIXELS else ""
    )


def _finish(
    figure: Figure,
    image: Any,
    handles: list[Artist],
    summary: MapSummary,
    bar: tuple[float, float, float, float],
    *,
    has_more: bool,
) -> None:
    """Add the colour bar, the legend and the heading."""
    scale = figure.colorbar(
        image, cax=figure.add_axes(bar), orientation="horizontal", extend="max" if has_more else "neither"
    )
    scale.set_label(r"$2\,\Delta$llh, " + f"contours by {summary.method}", fontsize=10)
    scale.set_ticks(_round_ticks(image.norm.vmax))
    scale.ax.tick_params(labelsize=9)
    scale.ax.minorticks_off()
    inch = 1 / figure.get_size_inches()[1]
    figure.text(0.03, 1 - 0.15 * inch, _heading(summary), fontsize=13, weight="bold", va="top")
    lines = "\n".join(_lines(summary))
    figure.text(0.03, 1 - 0.45 * inch, lines, fontsize=10, va="top", color="0.2", linespacing=1.4)
    figure.axes[0].legend(handles=handles, loc="upper right", fontsize=9, framealpha=0.92, edgecolor="0.8")


def _round_ticks(highest: float) -> list[float]:
    """Round numbers at about equal distances on the scale of the root."""
    wanted = highest * np.linspace(0, 1, 7) ** 2
    digits = 10.0 ** np.floor(np.log10(np.maximum(wanted, 1e-9)))
    return sorted({float(v) for v in np.round(wanted / digits) * digits if v <= highest})


def _heading(summary: MapSummary) -> str:
    event = summary.event_id
    parts = [f"Run {event.run_id}, event {event.event_id}"]
    if summary.event_type not in ("", "none"):
        parts.append(summary.event_type)
    if summary.start_unix_ns:
        moment = np.datetime64(summary.start_unix_ns, "ns").astype("datetime64[s]")
        parts.append(str(moment).replace("T", " ") + " UTC")
    return "  ·  ".join(parts)


def _lines(summary: MapSummary) -> Iterable[str]:
    """Best direction with its 90 % reach, and how it was found."""
    reach = summary.outer.rectangle
    plus_minus = f"(+{reach.longitude_plus_deg:.2f} −{reach.longitude_minus_deg:.2f})"
    vertical = f"(+{reach.latitude_plus_deg:.2f} −{reach.latitude_minus_deg:.2f})"
    if summary.frame is Frame.EQUATORIAL:
        first = f"RA {summary.right_ascension_deg:.2f}°", f"Dec {summary.declination_deg:+.2f}°"
    else:
        # A larger zenith angle is a smaller latitude.
        first = f"azimuth {summary.azimuth_deg:.2f}°", f"zenith {summary.zenith_deg:.2f}°"
        vertical = f"(+{reach.latitude_minus_deg:.2f} −{reach.latitude_plus_deg:.2f})"
    yield f"{first[0]} {plus_minus}   {first[1]} {vertical}  at 90 %"
    details = [summary.reco, f"nside {', '.join(str(level.nside) for level in summary.levels)}"]
    if summary.hypothesis:
        details.append(f"as {summary.hypothesis}")
    if not summary.is_complete:
        details.append("PARTIAL MAP")
    if summary.outer.is_open:
        details.append("the regions reach what was not scanned")
    yield "  ·  ".join(filter(None, details))
