"""The recorder's metrics; docs/telemetry.md says what each means."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.recorder.schema import METADATA

_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# Half a degree is a good track, 90 degrees a guess.
_ANGLE_BUCKETS_RAD = tuple(
    round(math.radians(degrees), 6) for degrees in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180)
)
# Rounded up, so that the last bound holds pi and 2 pi themselves; three digits are what a dashboard can show.
_ZENITH_BUCKETS_RAD = tuple(math.ceil(math.acos(1 - step / 10) * 1000) / 1000 for step in range(1, 21))
_AZIMUTH_BUCKETS_RAD = tuple(math.ceil(math.radians(15 * step) * 1000) / 1000 for step in range(1, 25))
_KAPPA_BUCKETS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


class RecorderMetrics:
    """Counters, gauges and histograms of one recorder."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("icestream_recorder_rows", "Rows written.", ["table"], registry=registry)
        self.duplicates = Counter(
            "icestream_recorder_duplicates", "Rows that were there already.", ["table"], registry=registry
        )
        self.redelivered = Counter(
            "icestream_recorder_redelivered",
            "Messages that had been handed out before.",
            ["table"],
            registry=registry,
        )
        self.postponed = Counter(
            "icestream_recorder_postponed",
            "Messages given back to the broker for later.",
            ["table"],
            registry=registry,
        )
        # Prometheus' increase() misses what a counter is born with, so that all of them are born here, at zero.
        for counter in (self.rows, self.duplicates, self.redelivered, self.postponed):
            for table in METADATA.tables:
                counter.labels(table)
        self.failures = Counter(
            "icestream_recorder_failures",
            "Messages that were not recorded, for now or for good.",
            ["table", "reason"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "icestream_recorder_dead_letters",
            "Messages dead-lettered, by reason.",
            ["table", "reason"],
            registry=registry,
        )
        self.commit_s = Histogram(
            "icestream_recorder_commit_seconds",
            "One transaction, from its beginning to its rows being on disk.",
            ["table"],
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "icestream_recorder_batch_rows",
            "Rows in one transaction.",
            ["table"],
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.delay_s = Histogram(
            "icestream_recorder_delay_seconds",
            "From the broker storing a message to its row being on disk.",
            ["table"],
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.opening_angle_rad = Histogram(
            "icestream_recorder_opening_angle_rad",
            "Angle between reconstructed and true direction.",
            ["kind", "model"],
            buckets=_ANGLE_BUCKETS_RAD,
            registry=registry,
        )
        self.covered = Counter(
            "icestream_recorder_covered",
            "Reconstructions whose radius of 50 or 90 % holds the true direction.",
            ["kind", "model", "radius"],
            registry=registry,
        )
        self.zenith_rad = Histogram(
            "icestream_recorder_zenith_rad",
            "Zenith of the reconstructed directions, in bands of equal solid angle.",
            ["model"],
            buckets=_ZENITH_BUCKETS_RAD,
            registry=registry,
        )
        self.azimuth_rad = Histogram(
            "icestream_recorder_azimuth_rad",
            "Azimuth of the reconstructed directions, in sectors of 15 degrees.",
            ["model"],
            buckets=_AZIMUTH_BUCKETS_RAD,
            registry=registry,
        )
        self.kappa = Histogram(
            "icestream_recorder_kappa",
            "Concentration that the model states.",
            ["model"],
            buckets=_KAPPA_BUCKETS,
            registry=registry,
        )
        self.radius90_rad = Histogram(
            "icestream_recorder_radius90_rad",
            "Radius that is to hold the true direction in 9 of 10 cases.",
            ["model"],
            buckets=_ANGLE_BUCKETS_RAD,
            registry=registry,
        )
        self.in_flight = Gauge(
            "icestream_recorder_in_flight", "Messages held right now.", ["table"], registry=registry
        )
        self.is_paused = Gauge(
            "icestream_recorder_intake_paused",
            "1 while the database takes no rows, at the start too.",
            registry=registry,
        )
        self.request_s = Histogram(
            "icestream_recorder_request_seconds",
            "Calls that were answered.",
            ["rpc"],
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.request_failures = Counter(
            "icestream_recorder_request_failures",
            "Calls that failed, by reason.",
            ["rpc", "reason"],
            registry=registry,
        )
