"""The emitter's metrics; docs/telemetry.md says what each means."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class EmitterMetrics:
    """Counters and histograms of one emitter."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter("icestream_emitter_events", "Events that the broker stored.", registry=registry)
        self.bytes = Counter("icestream_emitter_bytes", "Bytes of those events.", registry=registry)
        self.duplicates = Counter(
            "icestream_emitter_duplicates", "Events that the broker had already.", registry=registry
        )
        self.detached = Counter(
            "icestream_emitter_detached_events",
            "Events whose pulses went to the object store because of their size.",
            registry=registry,
        )
        self.unreadable = Counter(
            "icestream_emitter_unreadable_events", "Events that went to the dead letters.", registry=registry
        )
        self.stream_full = Counter(
            "icestream_emitter_stream_full", "Times that the stream was full.", registry=registry
        )
        self.publish_s = Histogram(
            "icestream_emitter_publish_seconds",
            "From handing an event over to the broker having stored it.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "icestream_emitter_in_flight", "Events handed over and not yet stored.", registry=registry
        )
        self.position = Gauge(
            "icestream_emitter_position", "Events of the source that are stored.", registry=registry
        )
