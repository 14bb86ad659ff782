"""What is recorded, from which stream into which table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nats.js.api import ConsumerConfig, StreamConfig
from sqlalchemy import Table

from icestream.codec import parse_reconstruction
from icestream.errors import InvalidRecord
from icestream.runtime.jetstream.puller import Delivery
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames, scan_log_stream
from icestream.runtime.jetstream.topology import (
    RECORDER_CONSUMER,
    Names,
    dead_letter_stream,
    reconstructions_stream,
    shared_consumer,
)
from icestream.v1 import reconstruction_pb2, scan_pb2
from services.recorder.dead_letter_rows import dead_letter_row
from services.recorder.reconstruction_rows import (
    Columns,
    columns_of,
    reconstruction_columns,
    unsound_reconstructions,
)
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
    """Decodes one message; raises an `InvalidInput` where it can never be recorded."""
    columns: Callable[[Sequence[Record], int], Columns]
    """The rows of what was read, recorded at this Unix time in ns."""
    unsound: Callable[[Sequence[Record]], Mapping[int, InvalidRecord]] = lambda _: {}
    """What of at least one message can never be recorded all the same, by its place, and why."""
    has_dead_letters: bool = True
    """Whether what cannot be recorded becomes a dead letter."""

    @property
    def name(self) -> str:
        """For metrics and logs."""
        return self.table.name


def reconstructions_topic(
    names: Names, *, ack_wait_s: float, max_ack_pending: int
) -> Topic[reconstruction_pb2.Reconstruction]:
    """Everything that routers answered."""
    return Topic(
        RECONSTRUCTIONS,
        reconstructions_stream(names),
        shared_consumer(RECORDER_CONSUMER, ack_wait_s=ack_wait_s, max_ack_pending=max_ack_pending),
        lambda delivery: parse_reconstruction(delivery.payload),
        reconstruction_columns,
        unsound_reconstructions,
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
        _dead_letter_columns,
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
        lambda scans, recorded_unix_ns: columns_of([scan_row(scan, recorded_unix_ns) for scan in scans]),
    )


def _dead_letter_columns(deliveries: Sequence[Delivery], recorded_unix_ns: int) -> Columns:
    rows = [
        dead_letter_row(
            delivery.subject,
            delivery.headers or {},
            sequence=delivery.stream_sequence,
            stored_unix_ns=delivery.published_unix_ns,
            recorded_unix_ns=recorded_unix_ns,
        )
        for delivery in deliveries
    ]
    return columns_of(rows)
