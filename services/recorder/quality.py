"""What the model says of events: where they come from, how sure it is, and how right where the truth is known."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from icestream.physics.directions import angles
from icestream.physics.events import EventKind
from icestream.runtime.metrics import observe_all
from services.recorder.metrics import RecorderMetrics
from services.recorder.reconstruction_rows import Columns


def observe_estimates(metrics: RecorderMetrics, columns: Columns, is_new: Sequence[bool]) -> None:
    """Count the new ones among some rows of the table of reconstructions.

    Args:
        metrics: Where.
        columns: The rows.
        is_new: Of each, whether it was not there before.
    """
    azimuth_rad, zenith_rad = angles(np.array([columns[axis] for axis in ("x", "y", "z")]).T)
    observed = {
        metrics.azimuth_rad: azimuth_rad,
        metrics.zenith_rad: zenith_rad,
        metrics.kappa: np.array(columns["kappa"]),
        metrics.radius90_rad: np.array(columns["radius90_rad"]),
    }
    new = [place for place, is_one in enumerate(is_new) if is_one]
    for (model,), places in _groups(columns, ["model"], new).items():
        for histogram, values in observed.items():
            observe_all(histogram.labels(model), values[places].tolist())
    with_truth = [place for place in new if columns["opening_angle_rad"][place] is not None]
    for (kind, model), places in _groups(columns, ["kind", "model"], with_truth).items():
        _observe_truths(metrics, columns, places, labels=(EventKind(kind).name.lower(), model))


def _groups(
    columns: Columns, names: Sequence[str], places: Iterable[int]
) -> dict[tuple[Any, ...], list[int]]:
    """The different values of some columns, and the rows that have them."""
    found = defaultdict[tuple[Any, ...], list[int]](list)
    for place in places:
        found[tuple(columns[name][place] for name in names)].append(place)
    return found


def _observe_truths(
    metrics: RecorderMetrics, columns: Columns, places: Sequence[int], *, labels: tuple[str, str]
) -> None:
    angle_rad = [columns["opening_angle_rad"][place] for place in places]
    observe_all(metrics.opening_angle_rad.labels(*labels), angle_rad)
    for radius in ("50", "90"):
        radius_rad = [columns[f"radius{radius}_rad"][place] for place in places]
        # Zero counts, too: without a series from the start nobody sees the first that is covered.
        metrics.covered.labels(*labels, radius).inc(int(np.less_equal(angle_rad, radius_rad).sum()))
