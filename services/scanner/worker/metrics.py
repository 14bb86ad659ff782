"""The scan worker's metrics; docs/telemetry.md says what each means."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ScanWorkerMetrics:
    """Counters, gauges and histograms of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.batches = Counter(
            "icestream_scan_worker_batches",
            "Batches, or parts of them, whose fits were handed in.",
            ["lane"],
            registry=registry,
        )
        self.fits = Counter("icestream_scan_worker_fits", "Fits handed in.", ["reco"], registry=registry)
        self.batch_s = Histogram(
            "icestream_scan_worker_batch_seconds",
            "Time of a batch from its start to its fits.",
            ["reco"],
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.wait_s = Histogram(
            "icestream_scan_worker_wait_seconds",
            "From the broker storing a batch to its start.",
            ["lane"],
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.infer_s = Histogram(
            "icestream_scan_worker_infer_seconds",
            "Time of one request to the model server that succeeded.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.failures = Counter(
            "icestream_scan_worker_failures", "Batches that failed, by reason.", ["reason"], registry=registry
        )
        self.splits = Counter("icestream_scan_worker_splits", "Batches that were halved.", registry=registry)
        self.dead_letters = Counter(
            "icestream_scan_worker_dead_letters",
            "Batches that were given up, by reason.",
            ["reason"],
            registry=registry,
        )
        self.postponed = Counter(
            "icestream_scan_worker_postponed", "Batches given back to the broker.", registry=registry
        )
        self.redelivered = Counter(
            "icestream_scan_worker_redelivered", "Batches that had been handed out before.", registry=registry
        )
        self.in_flight = Gauge(
            "icestream_scan_worker_in_flight", "Batches in work or waiting here.", registry=registry
        )
        self.is_quarantined = Gauge(
            "icestream_scan_worker_quarantined",
            "1 while nothing is taken because too many batches failed here.",
            registry=registry,
        )
