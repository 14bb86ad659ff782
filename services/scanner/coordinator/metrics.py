"""The scanner's metrics; docs/telemetry.md says what each means."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SCAN_BUCKETS_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400)


class ScannerMetrics:
    """Counters, gauges and histograms of one scanner."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.scans = Gauge("icestream_scanner_scans", "Scans that wait or run.", ["state"], registry=registry)
        self.started = Counter(
            "icestream_scanner_scans_accepted", "Scans accepted.", ["lane"], registry=registry
        )
        self.ended = Counter(
            "icestream_scanner_scans_ended", "Scans ended, by how.", ["state"], registry=registry
        )
        self.scan_s = Histogram(
            "icestream_scanner_scan_seconds",
            "From the acceptance of a scan to its last result.",
            ["reco", "lane"],
            buckets=_SCAN_BUCKETS_S,
            registry=registry,
        )
        self.fits = Counter(
            "icestream_scanner_fits", "Fits that came back.", ["reco", "lane"], registry=registry
        )
        self.dropped = Counter(
            "icestream_scanner_dropped_results", "Fits dropped, by reason.", ["reason"], registry=registry
        )
        self.batches = Gauge(
            "icestream_scanner_batches",
            "Batches without an answer: queued for workers, or held back here.",
            ["lane", "place"],
            registry=registry,
        )
        self.requeued = Counter(
            "icestream_scanner_requeued", "Batches queued anew after a restart or a stall.", registry=registry
        )
        self.log_lag = Gauge(
            "icestream_scanner_log_lag", "Entries of the log that were not read yet.", registry=registry
        )
        self.failures = Counter(
            "icestream_scanner_failures",
            "Calls that failed, by reason.",
            ["rpc", "reason"],
            registry=registry,
        )
