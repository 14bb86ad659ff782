"""Reconstructions to record, and a RecordService on a file."""

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import grpc
import numpy as np
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection

from icestream.codec import reconstruction_to_message, reconstructions_to_messages
from icestream.physics.directions import unit_vectors
from icestream.physics.events import (
    Estimate,
    EventId,
    EventKind,
    ModelVersion,
    Reconstruction,
    Timings,
    Truth,
)
from icestream.runtime.grpc_server import serve_grpc
from icestream.v1 import record_pb2, record_pb2_grpc, scan_pb2
from services.recorder.api import RecordService
from services.recorder.database import database_url, open_reader, open_writer
from services.recorder.metrics import RecorderMetrics
from services.recorder.questions import Questions
from services.recorder.reconstruction_rows import Columns, Row, reconstruction_columns
from services.recorder.schema import RECONSTRUCTIONS
from services.recorder.store import RecordStore

START_UNIX_NS = 1_767_225_600 * 10**9
"""2026-01-01 UTC."""
RECORDED_UNIX_NS = 1_795_000_000 * 10**9


def make_reconstruction(event_id: int = 1, **others: Any) -> Reconstruction:
    """A reconstruction; what is not given is harmless, and differs from event to event.

    Args:
        event_id: Number of the event.
        others: `detector`, `run_id`, `sub_event`, `start_unix_ns`, `azimuth_rad`, `zenith_rad`, `kappa`,
            `radius90_rad`, `model`, `version`, `truth`, `trace_id`.
    """
    azimuth_rad = others.pop("azimuth_rad", 0.1 * event_id % (2 * math.pi))
    zenith_rad = others.pop("zenith_rad", 1.0)
    x, y, z = np.asarray(unit_vectors(azimuth_rad, zenith_rad)).tolist()
    made = Reconstruction(
        event_id=EventId(others.pop("run_id", 1), event_id, others.pop("sub_event", 0)),
        detector=others.pop("detector", "toy"),
        start_unix_ns=others.pop("start_unix_ns", START_UNIX_NS + event_id * 10**9),
        n_pulses=20,
        truth=others.pop("truth", make_truth(azimuth_rad + 0.1)),
        # Numbers that single precision holds: that is how they travel.
        estimate=Estimate((x, y, z), others.pop("kappa", 4.0), 0.125, others.pop("radius90_rad", 0.25), 10),
        model=ModelVersion(others.pop("model", "direction"), others.pop("version", "2")),
        timings=Timings(1_000, 2_000, 3_000),
        trace_id=others.pop("trace_id", ""),
    )
    assert not others, f"no such parts: {others}"
    return made


def make_truth(
    azimuth_rad: float = 0.0, zenith_rad: float = 1.0, kind: EventKind = EventKind.CASCADE
) -> Truth:
    """What a simulation knows."""
    return Truth(azimuth_rad, zenith_rad, 1000.0, kind)


def payload_of(reconstruction: Reconstruction) -> bytes:
    """As routers publish it."""
    return reconstruction_to_message(reconstruction).SerializeToString()


def columns_of_events(
    reconstructions: Sequence[Reconstruction], recorded_unix_ns: int = RECORDED_UNIX_NS
) -> Columns:
    """As they are recorded after their way through the broker."""
    return reconstruction_columns(reconstructions_to_messages(reconstructions), recorded_unix_ns)


def rows_in(columns: Columns) -> list[Row]:
    """Columns row by row."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def make_ended(scan_id: str = "s1", **others: Any) -> scan_pb2.ScanEnded:
    """The last entry of a scan's log."""
    facts: dict[str, Any] = {
        "detector": "toy",
        "run_id": 1,
        "event_id": 2,
        "state": scan_pb2.SCAN_STATE_COMPLETE,
        "created_unix_ns": START_UNIX_NS,
        "ended_unix_ns": START_UNIX_NS + 5 * 10**9,
        "options": scan_pb2.ScanOptions(reco="dummy"),
    }
    return scan_pb2.ScanEnded(scan=scan_pb2.Scan(scan_id=scan_id, **(facts | others)))


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[RecordStore]:
    """The tables at an URL, made where they are missing."""
    async with RecordStore(open_writer(database_url(url))) as store:
        await store.migrate()
        yield store


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A transaction past the code under test."""
    engine = open_writer(database_url(url))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


async def record(
    store: RecordStore, reconstructions: Sequence[Reconstruction], recorded_unix_ns: int = RECORDED_UNIX_NS
) -> list[bool]:
    """Write reconstructions; of each, whether it is new."""
    return await store.insert(RECONSTRUCTIONS, columns_of_events(reconstructions, recorded_unix_ns))


@asynccontextmanager
async def open_questions(url: str, *, n_calls: int = 32, timeout_s: float = 20.0) -> AsyncIterator[Questions]:
    """The tables at an URL, for reading."""
    reader = open_reader(database_url(url), n_connections=2, timeout_s=timeout_s)
    async with Questions(reader, n_threads=2, n_calls=n_calls) as questions:
        yield questions


@asynccontextmanager
async def served_records(
    url: str, registry: CollectorRegistry | None = None, *, n_calls: int = 32
) -> AsyncIterator[str]:
    """A RecordService over the tables at an URL; its address."""
    async with open_questions(url, n_calls=n_calls) as questions:
        metrics = RecorderMetrics(registry or CollectorRegistry())
        service = RecordService(questions, metrics, NoOpTracer())
        async with serve_grpc(
            record_pb2.DESCRIPTOR.services_by_name["RecordService"],
            partial(record_pb2_grpc.add_RecordServiceServicer_to_server, service),
            host="127.0.0.1",
            port=0,
            max_message_bytes=1 << 20,
            grace_s=0.0,
        ) as port:
            yield f"127.0.0.1:{port}"


@asynccontextmanager
async def asked(address: str) -> AsyncIterator[Any]:
    """A client of the service."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield record_pb2_grpc.RecordServiceStub(channel)  # type: ignore[no-untyped-call]


def event_ids(records: Sequence[record_pb2.RecordedReconstruction]) -> list[int]:
    """Numbers of the events, in the order of the answer."""
    return [record.reconstruction.event_id for record in records]
