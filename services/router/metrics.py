"""The router's metrics; docs/telemetry.md says what each means."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FACES = ("nats", "grpc")


class RouterMetrics:
    """Counters and histograms with their labels resolved once: 0.4 us instead of 1.2 us each time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        events = Counter("icestream_router_events", "Events taken in.", ["face"], registry=registry)
        received_bytes = Counter(
            "icestream_router_received_bytes", "Bytes of events taken in.", ["face"], registry=registry
        )
        reconstructed = Counter(
            "icestream_router_reconstructions", "Reconstructions handed out.", ["face"], registry=registry
        )
        stage = Histogram(
            "icestream_router_stage_seconds",
            "Time that events spend in a stage.",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.events = {face: events.labels(face) for face in _FACES}
        self.received_bytes = {face: received_bytes.labels(face) for face in _FACES}
        self.reconstructions = {face: reconstructed.labels(face) for face in _FACES}
        self.wait_s = stage.labels("wait")
        self.infer_s = stage.labels("infer")
        self.publish_s = stage.labels("publish")
        self.request_s = stage.labels("request")
        self.end_to_end_s = Histogram(
            "icestream_router_end_to_end_seconds",
            "From the broker storing an event to the broker storing its reconstruction.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.batch_events = Histogram(
            "icestream_router_batch_events",
            "Events in one request to the model server.",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.failures = Counter(
            "icestream_router_failures",
            "Events that failed, by face and reason.",
            ["face", "reason"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "icestream_router_dead_letters", "Events dead-lettered, by reason.", ["reason"], registry=registry
        )
        self.postponed = Counter(
            "icestream_router_postponed", "Events given back to the broker for later.", registry=registry
        )
        self.redelivered = Counter(
            "icestream_router_redelivered", "Events that had been handed out before.", registry=registry
        )
        self.in_flight = Gauge(
            "icestream_router_in_flight", "Events held right now.", ["face"], registry=registry
        )
        self.is_paused = Gauge(
            "icestream_router_intake_paused",
            "1 while no events are taken because the model is away.",
            registry=registry,
        )
