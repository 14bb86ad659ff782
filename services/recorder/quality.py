"""What the model says of events: where they come from, how sure it is, and how right where the truth is known."""

from collections.abc import Sequence

from icestream.physics.directions import angles
from icestream.physics.events import EventKind
from services.recorder.metrics import RecorderMetrics
from services.recorder.reconstruction_rows import Row


def observe_estimates(metrics: RecorderMetrics, rows: Sequence[Row]) -> None:
    """Count some new rows of the table of reconstructions.

    Args:
        metrics: Where.
        rows: At least one.
    """
    azimuth_rad, zenith_rad = angles([(row["x"], row["y"], row["z"]) for row in rows])
    for row, azimuth, zenith in zip(rows, azimuth_rad.tolist(), zenith_rad.tolist(), strict=True):
        model = row["model"]
        metrics.azimuth_rad.labels(model).observe(azimuth)
        metrics.zenith_rad.labels(model).observe(zenith)
        metrics.kappa.labels(model).observe(row["kappa"])
        metrics.radius90_rad.labels(model).observe(row["radius90_rad"])
        if row["opening_angle_rad"] is not None:
            _observe_truth(metrics, row)


def _observe_truth(metrics: RecorderMetrics, row: Row) -> None:
    kind, model, angle_rad = EventKind(row["kind"]).name.lower(), row["model"], row["opening_angle_rad"]
    metrics.opening_angle_rad.labels(kind, model).observe(angle_rad)
    for radius in ("50", "90"):
        # Zero counts, too: without a series from the start nobody sees the first that is covered.
        metrics.covered.labels(kind, model, radius).inc(angle_rad <= row[f"radius{radius}_rad"])
