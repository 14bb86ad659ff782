"""Which subjects, streams and consumers sky scans have.

A scan's log holds everything that ever happened to it, so that a coordinator can start again from it; its
work is in a queue of its own, from which a finished batch vanishes.
"""

from dataclasses import dataclass
from enum import StrEnum

from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StreamConfig

from icestream.runtime.jetstream.topology import (
    DAY_S,
    GIB,
    Names,
    StreamLimits,
    shared_consumer,
    stream_config,
    subject_token,
)


class LogEntry(StrEnum):
    """What an entry of a scan's log says: the last token of its subject."""

    ACCEPTED = "accepted"
    """The first entry, a `ScanAccepted`."""
    RESULT = "result"
    """A `PixelResult`, from a worker."""
    CANCELLED = "cancelled"
    """A client wants no more of it; without a payload."""
    ENDED = "ended"
    """The last entry, a `ScanEnded`."""


class Lane(StrEnum):
    """Which queue a scan's work waits in; a worker begins nothing of the second while the first has any."""

    ALERT = "alert"
    CATALOGUE = "catalogue"


@dataclass(frozen=True, slots=True)
class ScanNames:
    """How subjects, streams, consumers and buckets of scans are called in one deployment."""

    names: Names

    @property
    def log_stream(self) -> str:
        """The stream with the logs of all scans."""
        return self.names.stream("SCANS")

    @property
    def work_stream(self) -> str:
        """The queue of batches that wait for a worker, or are at one."""
        return self.names.stream("SCANWORK")

    @property
    def startup_bucket(self) -> str:
        """The object store's bucket for events and detectors under their checksum."""
        return f"{self.names.prefix}-scan-startup"

    def log(self, scan_id: str, entry: LogEntry) -> str:
        """The subject of one kind of entry of a scan's log."""
        return f"{self.names.prefix}.scans.log.{subject_token(scan_id)}.{entry}"

    def log_of(self, scan_id: str) -> str:
        """All subjects of a scan's log."""
        return f"{self.names.prefix}.scans.log.{subject_token(scan_id)}.>"

    def parse_log(self, subject: str) -> tuple[str, LogEntry]:
        """The scan and the kind of entry that a subject of a log names.

        Raises:
            ValueError: It is another subject.
        """
        *_, scan_id, entry = subject.split(".")
        return scan_id, LogEntry(entry)

    @property
    def all_logs(self) -> str:
        """The subjects of everything in the logs of all scans."""
        return self.names.everything_in("scans.log")

    def logs(self, entry: LogEntry) -> str:
        """The subjects of one kind of entry in the logs of all scans."""
        return f"{self.names.prefix}.scans.log.*.{entry}"

    def work(self, lane: Lane, scan_id: str) -> str:
        """The subject of a scan's batches."""
        return f"{self.names.prefix}.scans.work.{lane}.{subject_token(scan_id)}"

    def work_in(self, lane: Lane) -> str:
        """The subjects of one lane."""
        return f"{self.names.prefix}.scans.work.{lane}.>"


SCAN_LOG_LIMITS = StreamLimits(
    # 81 bytes a fit: 3 MB for a large scan of 32 000 fits, some 700 of these.
    max_bytes=2 * GIB,
    max_age_s=7 * DAY_S,
    # A worker that was frozen may publish a result that another one has published long before.
    duplicate_window_s=600.0,
)
SCAN_WORK_LIMITS = StreamLimits(
    # 76 bytes a fit; a coordinator that plans faster than workers work has to wait.
    max_bytes=GIB,
    # No longer than the log: without it nobody wants the result.
    max_age_s=7 * DAY_S,
    duplicate_window_s=120.0,
)
STARTUP_MAX_AGE_S = 14 * DAY_S
"""Twice as long as the work that refers to it; see `PulseObjects.open`."""


def scan_log_stream(names: ScanNames, limits: StreamLimits = SCAN_LOG_LIMITS) -> StreamConfig:
    """Drops the oldest when it is full: new scans go before the maps of last week."""
    subjects = names.names.everything_in("scans.log")
    return stream_config(names.log_stream, subjects, DiscardPolicy.OLD, limits)


def scan_work_stream(names: ScanNames, limits: StreamLimits = SCAN_WORK_LIMITS) -> StreamConfig:
    """A work queue: what is acknowledged is deleted. Refuses when it is full, and so loses nothing."""
    subjects = names.names.everything_in("scans.work")
    return stream_config(
        names.work_stream, subjects, DiscardPolicy.NEW, limits, retention=RetentionPolicy.WORK_QUEUE
    )


def scan_worker_consumer(
    names: ScanNames, lane: Lane, *, ack_wait_s: float = 30.0, max_ack_pending: int = 4096
) -> ConsumerConfig:
    """The durable pull consumer of one lane that all workers share."""
    return shared_consumer(
        consumer_name(lane),
        subjects=[names.work_in(lane)],
        ack_wait_s=ack_wait_s,
        max_ack_pending=max_ack_pending,
    )


def consumer_name(lane: Lane) -> str:
    """What the consumer of a lane is called."""
    return f"scan-worker-{lane}"
