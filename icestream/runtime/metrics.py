"""The metrics that every service has; docs/telemetry.md says what each means."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.tracing import Tracing


class ServiceMetrics:
    """What is known of any service: what it is, whether it lives and whether its broker does."""

    def __init__(self, registry: CollectorRegistry, service: str, instance: str) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        Info("icestream_build", "What is running here.", registry=registry).info(
            {
                "service": service,
                "instance": instance,
                "version": version("icestream"),
                "python": platform.python_version(),
            }
        )
        self._heartbeat = Gauge(
            "icestream_heartbeat_timestamp_seconds",
            "Unix time of the last heartbeat that was sent; its age is time() minus this.",
            registry=registry,
        )

    def heartbeat(self) -> None:
        """A heartbeat was sent."""
        self._heartbeat.set(time.time())

    def watch_connection(self, connection: Connection) -> None:
        """Expose the state of the connection to NATS."""
        self.measure("icestream_nats_connected", "1 while NATS is there.", lambda: connection.is_connected)
        self.count(
            "icestream_nats_reconnects",
            "Times that NATS was lost and found again.",
            lambda: connection.n_reconnects,
        )
        self.count(
            "icestream_nats_permission_violations",
            "Things that NATS forbade; a forbidden publish shows up nowhere else.",
            lambda: connection.n_permission_violations,
        )

    def watch_tracing(self, tracing: Tracing) -> None:
        """Expose what became of the spans."""
        self.count(
            "icestream_spans_dropped",
            "Spans lost because the queue was full or the trace backend was away.",
            tracing.dropped_spans,
        )

    def measure(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Expose a number that is read whenever somebody asks."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def count(self, name: str, text: str, total: Callable[[], float]) -> None:
        """Expose a number that only grows and that somebody else counts; read whenever somebody asks."""
        self.registry.register(_Counted(name, text, total))


def observe_all(histogram: Histogram, amounts: Sequence[float]) -> None:
    """What `histogram.observe` does for each amount, at a tenth of the cost.

    Args:
        histogram: Without labels, or with its labels given.
        amounts: To observe; NaN counts in the sum alone, as there.
    """
    if not len(amounts):
        return
    bounds = histogram._upper_bounds
    histogram._sum.inc(float(np.sum(amounts)))
    for bucket, n in zip(
        histogram._buckets, np.bincount(np.searchsorted(bounds, amounts), minlength=len(bounds)), strict=False
    ):
        if n:
            bucket.inc(int(n))


class _Counted(Collector):
    """A counter whose count is kept elsewhere."""

    def __init__(self, name: str, text: str, total: Callable[[], float]) -> None:
        self._name = name
        self._text = text
        self._total = total

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self._total())
