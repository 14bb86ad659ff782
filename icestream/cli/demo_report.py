"""What a demo found, as a table and as JSON."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """Two numbers for many."""

    median: float
    mean: float

    @classmethod
    def of_degrees(cls, angles_rad: FloatArray) -> "Spread":
        """Median and mean of angles, in degrees; NaN of none."""
        if not len(angles_rad):
            return cls(float("nan"), float("nan"))
        degrees = np.degrees(angles_rad)
        return cls(float(np.median(degrees)), float(np.mean(degrees)))


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What came out of a demo."""

    n_published: int
    n_reconstructed: int
    """Different events among the reconstructions."""
    n_dead_letters: int
    n_dead_published: int
    """Dead letters of events that had been published; the others were unreadable at their source."""
    n_duplicates: int
    events_per_s: float
    """From the first event stored to the last reconstruction stored."""
    latency_p50_ms: float
    """From an event stored to its reconstruction stored."""
    latency_p99_ms: float
    opening_angle_deg: Spread
    linefit_opening_angle_deg: Spread
    """The robust line fit on the HLC pulses of the same events."""
    model: str
    trace_id: str | None
    """None where tracing is off."""
    trace_services: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every published event came back exactly once or is a dead letter."""
        accounted = self.n_reconstructed + self.n_dead_published
        return self.n_duplicates == 0 and self.n_published > 0 and accounted == self.n_published

    def as_json(self) -> dict[str, object]:
        """One object; the traces' part is there only when tracing is on."""
        content: dict[str, object] = {
            "events_published": self.n_published,
            "events_reconstructed": self.n_reconstructed,
            "dead_letters": self.n_dead_letters,
            "duplicates": self.n_duplicates,
            "events_per_s": round(self.events_per_s, 1),
            "latency_ms": {"p50": _or_null(self.latency_p50_ms), "p99": _or_null(self.latency_p99_ms)},
            "opening_angle_deg": _rounded(self.opening_angle_deg),
            "linefit_opening_angle_deg": _rounded(self.linefit_opening_angle_deg),
        }
        if self.trace_id is not None:
            content |= {"trace_id": self.trace_id, "trace_services": list(self.trace_services)}
        return content


def table_of(report: DemoReport) -> Table:
    """The report for people."""
    table = Table("IceStream demo", "", title_justify="left")
    table.add_row("events published", f"{report.n_published}")
    table.add_row("events reconstructed", f"{report.n_reconstructed} by {report.model}")
    table.add_row("dead letters", f"{report.n_dead_letters}")
    table.add_row("duplicates", f"{report.n_duplicates}")
    table.add_row("throughput", f"{report.events_per_s:.0f} events/s")
    table.add_row(
        "latency, event stored to result stored",
        f"median {report.latency_p50_ms:.1f} ms, 99 % within {report.latency_p99_ms:.1f} ms",
    )
    table.add_row("opening angle, model", _degrees(report.opening_angle_deg))
    table.add_row("opening angle, robust line fit", _degrees(report.linefit_opening_angle_deg))
    if report.trace_id is None:
        table.add_row("traces", "off: no jaeger found (`make tools` builds it)")
    else:
        table.add_row("a trace", f"{report.trace_id}\nthrough {', '.join(report.trace_services)}")
    return table


def _degrees(spread: Spread) -> str:
    if np.isnan(spread.mean):
        return "not known: the events carry no truth"
    return f"median {spread.median:.1f}°, mean {spread.mean:.1f}°"


def _rounded(spread: Spread) -> dict[str, float | None]:
    return {"median": _or_null(spread.median), "mean": _or_null(spread.mean)}


def _or_null(value: float) -> float | None:
    # JSON knows no NaN.
    return None if np.isnan(value) else round(value, 2)
