"""Draws an evaluation: how far each method is off, on what, and whether the error radii can be trusted."""

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from export.dataset import LabelledEvents
from export.evaluation.sample import LINE_FITS, ROBUST
from export.evaluation.scores import MIN_GROUP, MODEL, Mask, Scores, classes_of, groups_of, zeniths_deg

DPI = 90
"""Keeps each file below 150 kB."""
COLOURS = dict(zip((MODEL, *reversed(LINE_FITS)), ("C0", "C3", "C1", "0.6"), strict=True))
LEVELS = (0.5, 0.9)
ENERGY_EDGES_GEV = np.logspace(2, 7, 11)
ZENITH_EDGES_DEG = np.arange(0, 181, 15)
N_KAPPA_GROUPS = 12
ANGLE_LABEL = "opening angle (deg)"

FloatArray = NDArray[np.float64]


def draw(events: LabelledEvents, scores: Scores) -> dict[str, bytes]:
    """Draw what the truth allows: png files by the name of the plot."""
    plots = {
        "cumulative": cumulative_plot,
        "energy": energy_plot,
        "zenith": zenith_plot,
        "coverage": coverage_plot,
        "kappa": kappa_plot,
    }
    if not np.isfinite(events.energies_gev).any():
        del plots["energy"]
    return {name: _png(plot(events, scores)) for name, plot in plots.items()}


def cumulative_plot(events: LabelledEvents, scores: Scores) -> Any:
    """Share of events below each angle, one panel per class."""
    classes = _chosen(events, ("all", "tracks", "tracks > 1 TeV", "cascades"))
    figure, axes = _panels(list(classes))
    for axis, mask in zip(axes, classes.values(), strict=True):
        shares = np.linspace(0, 1, mask.sum())
        for method, radians in scores.angles_rad.items():
            axis.plot(np.degrees(np.sort(radians[mask])), shares, color=COLOURS[method], label=method)
        axis.set(xscale="log", xlim=(0.3, 180), xlabel=ANGLE_LABEL)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="share of events below", ylim=(0, 1))
    axes[0].legend(fontsize=8)
    return figure


def energy_plot(events: LabelledEvents, scores: Scores) -> Any:
    """Median angle and 68 % band by energy."""
    figure = _banded_plot(events, scores, events.energies_gev, ENERGY_EDGES_GEV)
    for axis in figure.axes:
        # Limits first: where no bin is full enough, a logarithmic axis finds none.
        axis.set(xlim=(1e2, 1e7), xscale="log", xlabel="energy (GeV)")
    return figure


def zenith_plot(events: LabelledEvents, scores: Scores) -> Any:
    """Median angle and 68 % band by zenith angle."""
    figure = _banded_plot(events, scores, zeniths_deg(events), ZENITH_EDGES_DEG)
    for axis in figure.axes:
        axis.set(xlabel="zenith (deg), 0 from above", xlim=(0, 180), xticks=range(0, 181, 30))
    return figure


def coverage_plot(events: LabelledEvents, scores: Scores) -> Any:
    """Share of true directions within both radii: by group, and by what radius the model stated."""
    figure, (by_group, by_radius) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    groups = groups_of(events)
    rows = np.arange(len(groups))[::-1]
    radii_deg = np.degrees(scores.radii_rad[:, 0])
    equal_parts = np.array_split(np.argsort(radii_deg), N_KAPPA_GROUPS)
    medians = [np.median(radii_deg[part]) for part in equal_parts if len(part)]
    for i, level in enumerate(LEVELS):
        inside = scores.is_inside[:, i]
        style = {"fmt": "o", "ms": 4, "color": f"C{i}", "label": f"{level:.0%} radius"}
        shares, errors = _shares([inside[mask] for mask in groups.values()])
        by_group.errorbar(shares, rows, xerr=errors, **style)
        shares, errors = _shares([inside[part] for part in equal_parts if len(part)])
        by_radius.errorbar(medians, shares, yerr=errors, **style)
        by_group.axvline(level, color=f"C{i}", lw=1, ls="--")
        by_radius.axhline(level, color=f"C{i}", lw=1, ls="--")
    by_group.set(
        yticks=rows, yticklabels=list(groups), xlim=(0.2, 1), xlabel="share of true directions inside"
    )
    by_radius.set(xscale="log", ylim=(0.2, 1), xlabel="stated 50 % radius (deg), twelfths of all events")
    by_group.legend(loc="center left", fontsize=8)
    return figure


def kappa_plot(_events: LabelledEvents, scores: Scores) -> Any:
    """Where the angles lie for each kappa, the calibrated radii, and what kappa itself would promise."""
    figure, axis = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    kappas, angles_deg = np.maximum(scores.kappas, 1e-9), np.degrees(scores.angles_rad[MODEL])
    cells = axis.hexbin(
        kappas, np.maximum(angles_deg, 1e-2), xscale="log", yscale="log", gridsize=45, mincnt=1, cmap="Greys"
    )
    order = np.argsort(kappas)
    for i, (level, radii_deg) in enumerate(zip(LEVELS, np.degrees(scores.radii_rad[order]).T, strict=True)):
        axis.plot(kappas[order], radii_deg, color=f"C{i}", label=f"calibrated {level:.0%} radius")
        promised_deg = np.degrees(vmf_radius_rad(kappas[order], level))
        axis.plot(
            kappas[order], promised_deg, color=f"C{i}", ls="--", lw=1, label=f"{level:.0%} by kappa alone"
        )
    axis.set(xlabel="kappa", ylabel=ANGLE_LABEL, ylim=(0.1, 180))
    axis.legend(fontsize=8, loc="lower left")
    figure.colorbar(cells, label="events")
    return figure


def vmf_radius_rad(kappa: FloatArray, level: float) -> FloatArray:
    """Angle within which a von Mises-Fisher law has this share of all directions; shape of `kappa`.

    Source: the law's density, kappa exp(kappa cos a) sin a / (2 sinh kappa), integrated from 0.
    """
    # log1p and expm1 keep what 1 - share loses where kappa is small.
    cosines = 1 + np.log1p(level * np.expm1(-2 * kappa)) / kappa
    return np.arccos(np.clip(cosines, -1, 1))


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    # The version of matplotlib has no place in a file that is compared between commits.
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return file.getvalue()


def _banded_plot(events: LabelledEvents, scores: Scores, values: FloatArray, edges: NDArray[Any]) -> Any:
    """Angles of every method over a true quantity, one panel per class; bands for the two best methods."""
    classes = _chosen(events, ("tracks", "cascades")) or _chosen(events, ("all",))
    figure, axes = _panels(list(classes))
    for axis, mask in zip(axes, classes.values(), strict=True):
        for method, radians in scores.angles_rad.items():
            centres, quantiles = _quantiles_deg(values[mask], radians[mask], edges)
            axis.plot(centres, quantiles[:, 1], "o-", ms=3, color=COLOURS[method], label=method)
            if method in (MODEL, ROBUST):
                axis.fill_between(
                    centres, quantiles[:, 0], quantiles[:, 2], color=COLOURS[method], alpha=0.15, lw=0
                )
        axis.set(yscale="log", ylim=(0.5, 180))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=f"{ANGLE_LABEL}: median, 68 % band")
    axes[0].legend(fontsize=8)
    return figure


def _quantiles_deg(
    values: FloatArray, angles_rad: FloatArray, edges: NDArray[Any]
) -> tuple[FloatArray, FloatArray]:
    """Median value of each bin that is full enough (k,), and the 16, 50 and 84 % angles there (k, 3)."""
    bins = np.digitize(values, edges)
    full = [bins == i for i in range(1, len(edges)) if (bins == i).sum() >= MIN_GROUP]
    centres = np.array([np.median(values[mask]) for mask in full])
    quantiles = [np.quantile(angles_rad[mask], (0.16, 0.5, 0.84)) for mask in full]
    return centres, np.degrees(np.array(quantiles).reshape(-1, 3))


def _shares(parts: list[Mask]) -> tuple[FloatArray, FloatArray]:
    """Shares of true values and their binomial errors; shape (number of parts,)."""
    shares = np.array([part.mean() for part in parts])
    return shares, np.sqrt(shares * (1 - shares) / [len(part) for part in parts])


def _chosen(events: LabelledEvents, names: tuple[str, ...]) -> dict[str, Mask]:
    return {name: mask for name, mask in classes_of(events).items() if name in names}


def _panels(titles: list[str]) -> tuple[Any, list[Any]]:
    figure, axes = plt.subplots(
        1,
        len(titles),
        figsize=(max(8.5, 3.6 * len(titles)), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set(title=title)
    return figure, list(axes[0])
