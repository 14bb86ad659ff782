"""What is recorded, from which stream into which table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nats.js.api import ConsumerConfig, StreamConfig
from sqlalchemy import Table

from icestream.codec import decode_reconstruction
from icestream.physics.events import Reconstruction
from icestream.runtime.jetstream.puller import Delivery
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames, scan_log_stream
from icestream.runtime.jetstream.topology import (
    RECORDER_CONSUMER,
    Names,
    dead_letter_stream,
    reconstructions_stream,
    shared_consumer,
)
from icestream.v1 import scan_pb2
from services.recorder.dead_letter_rows import dead_letter_row
from services.recorder.reconstruction_rows import Row, check_reconstruction, reconstruction_rows
from services.recorder.scan_rows import decode_ended, scan_row
from services.recorder.schema import DEAD_LETTERS, RECONSTRUCTIONS, SCANS

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Topic(Generic[Record]):
    """One kind of record."""

    table: Table
    stream: StreamConfig
    consumer: ConsumerConfig
    read: Callable[[Delivery], Record]
    """Decodes and checks one message; raises an `InvalidInput` where it can never be recorded."""
    rows: Callable[[Sequence[Record], int], list[Row]]
    """The rows of what was read, recorded at this Unix time in ns."""
    has_dead_letters: bool = True
    """Whether what cannot be recorded becomes a dead letter."""

    @property
    def name(self) -> str:
        """For metrics and logs."""
        return self.table.name


def reconstructions_topic(names: Names, *, ack_wait_s: float, max_ack_pending: int) -> Topic[Reconstruction]:
    """Everything that routers answered."""
    return Topic(
        RECONSTRUCTIONS,
        reconstructions_stream(names),
        shared_consumer(RECORDER_CONSUMER, ack_wait_s=ack_wait_s, max_ack_pending=max_ack_pending),
        _read_reconstruction,
        reconstruction_rows,
    )


def dead_letters_topic(names: Names, *, ack_wait_s: float, max_ack_pending: int) -> Topic[Delivery]:
    """Everything that was given up on."""
    consumer = shared_consumer(RECORDER_CONSUMER, ack_wait_s=ack_wait_s, max_ack_pending=max_ack_pending)
    return Topic(
        DEAD_LETTERS,
        dead_letter_stream(names),
        # Payloads may be a megabyte each, and stay in the stream.
        consumer.evolve(headers_only=True),
        lambda delivery: delivery,
        _dead_letter_rows,
        # A dead letter of a dead letter would come back here, and so on for ever.
        has_dead_letters=False,
    )


def scans_topic(names: Names, *, ack_wait_s: float, max_ack_pending: int) -> Topic[scan_pb2.ScanEnded]:
    """Scans that ended."""
    scan_names = ScanNames(names)
    return Topic(
        SCANS,
        scan_log_stream(scan_names),
        shared_consumer(
            RECORDER_CONSUMER,
            subjects=[scan_names.logs(LogEntry.ENDED)],
            ack_wait_s=ack_wait_s,
            max_ack_pending=max_ack_pending,
        ),
        lambda delivery: decode_ended(delivery.payload),
        lambda scans, recorded_unix_ns: [scan_row(scan, recorded_unix_ns) for scan in scans],
    )


def _read_reconstruction(delivery: Delivery) -> Reconstruction:
    reconstruction = decode_reconstruction(delivery.payload)
    check_reconstruction(reconstruction)
    return reconstruction


def _dead_letter_rows(deliveries: Sequence[Delivery], recorded_unix_ns: int) -> list[Row]:
    return [
        dead_letter_row(
            delivery.subject,
            delivery.headers or {},
            sequence=delivery.stream_sequence,
            stored_unix_ns=delivery.published_unix_ns,
            recorded_unix_ns=recorded_unix_ns,
        )
        for delivery in deliveries
    ]
