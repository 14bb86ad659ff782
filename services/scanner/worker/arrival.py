"""A batch in work."""

from dataclasses import dataclass

from opentelemetry.trace import Span

from icestream.runtime.jetstream.puller import Delivery
from icestream.runtime.jetstream.scan_topology import Lane
from icestream.runtime.tracing import TRACEPARENT, traceparent_of
from icestream.scan_codec import PixelWork
from services.scanner.worker.fitting import Stopwatch


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A batch in work, and the message that it came in."""

    lane: Lane
    delivery: Delivery
    work: PixelWork
    stopwatch: Stopwatch
    span: Span | None

    @property
    def batch_name(self) -> str:
        """Of the whole batch that this is, or is a part of."""
        return f"{self.work.scan_id}/{self.work.batch.number}"

    @property
    def trace_headers(self) -> dict[str, str]:
        """What makes other messages about this batch part of its trace."""
        return {} if self.span is None else {TRACEPARENT: traceparent_of(self.span)}

    def __str__(self) -> str:
        batch = self.work.batch
        if len(batch) == 1:
            rows = f"pixel {batch.pixel[0]}, variation {batch.variation[0]}"
        else:
            rows = f"{len(batch)} fits of batch {batch.number}"
        return f"scan {self.work.scan_id}, reco {self.work.reco}, nside {batch.nside}, {rows}"
