"""A recorder as a process of its own, at a real broker and a real database."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from nats.js.api import ConsumerInfo
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from icestream.physics.events import Reconstruction
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.topology import RECORDER_CONSUMER, Names
from services.recorder.database import database_url
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer, free_port
from tests.support.scanner import Part
from tests.unit.recorder.recorder_cases import payload_of

NAMES = Names()


class RecorderStack:
    """Recorders at one broker and one database.

    Attributes:
        recorders: Their processes.
    """

    def __init__(
        self, server: NatsServer, database: str, directory: Path, *, n_recorders: int, ack_wait_s: float = 2.0
    ) -> None:
        self.server = server
        self.database = database
        self.grpc_ports = [free_port() for _ in range(n_recorders)]
        self.metrics_ports = [free_port() for _ in range(n_recorders)]
        flags = [
            "--nats-url",
            server.url,
            "--database-url",
            database,
            "--ack-wait-s",
            str(ack_wait_s),
            "--batch-rows",
            "50",
        ]
        self.recorders = [
            Part(
                "services.recorder",
                [*flags, "--grpc-port", str(grpc_port), "--metrics-port", str(metrics_port)],
                directory / f"recorder{metrics_port}.log",
            )
            for grpc_port, metrics_port in zip(self.grpc_ports, self.metrics_ports, strict=True)
        ]

    async def publish(self, reconstructions: Iterable[Reconstruction]) -> None:
        """As routers do; returns once the broker has all of them."""
        async with (
            connect(self.server.url, name="test") as connection,
            WindowedPublisher(connection) as publisher,
        ):
            for row in reconstructions:
                await publisher.publish(
                    NAMES.reconstructions(row.detector, row.model.name),
                    payload_of(row),
                    message_id=f"{row.detector}/{row.event_id}/{row.model.name}",
                )
            await publisher.flush()

    async def consumer(self, stream: str = NAMES.reconstructions_stream) -> ConsumerInfo:
        async with connect(self.server.url, name="test") as connection:
            info: ConsumerInfo = await connection.client.jetstream().consumer_info(stream, RECORDER_CONSUMER)
            return info

    async def all_answered(self, stream: str = NAMES.reconstructions_stream) -> None:
        """Return once every message of a stream is answered for."""

        async def is_answered() -> bool:
            info = await self.consumer(stream)
            return not info.num_pending and not info.num_ack_pending

        await eventually(is_answered, timeout_s=60, poll_s=0.1)

    def recorded(self) -> list[int]:
        """Numbers of the recorded events, as often as they are there."""
        return sorted(number for (number,) in self.query("SELECT event_id FROM reconstructions"))

    async def has_recorded(self, n_events: int) -> None:
        """Return once so many events are there."""
        await eventually(lambda: len(self.recorded()) >= n_events, timeout_s=60)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database past the recorder; nothing while it is away."""
        engine = create_engine(database_url(self.database))
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(statement))]
        except SQLAlchemyError:
            return []
        finally:
            engine.dispose()

    def readiness(self, number: int = 0) -> tuple[int, dict[str, str]]:
        """Status and content of /readyz; 0 where nobody answers."""
        try:
            reply = httpx.get(f"http://127.0.0.1:{self.metrics_ports[number]}/readyz")
        except httpx.TransportError:
            return 0, {}
        return reply.status_code, reply.json()

    def metric(self, name: str, number: int = 0) -> float:
        """Sum of a recorder's metrics whose line begins so."""
        reply = httpx.get(f"http://127.0.0.1:{self.metrics_ports[number]}/metrics")
        return sum(
            float(line.rpartition(" ")[2])
            for line in reply.text.splitlines()
            if line.startswith(f"icestream_recorder_{name}")
        )

    async def is_up(self) -> None:
        """Return once every recorder is ready."""
        numbers = range(len(self.recorders))
        await eventually(lambda: all(self.readiness(n)[0] == 200 for n in numbers), timeout_s=30)

    async def keep_alive(self) -> None:
        """As the supervisor does, until cancelled."""
        while True:
            for recorder in self.recorders:
                recorder.start()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running_recorders(
    server: NatsServer, database: str, directory: Path, *, n_recorders: int = 1
) -> AsyncIterator[RecorderStack]:
    """Recorders for as long as the block lasts; what is killed is started again."""
    stack = RecorderStack(server, database, directory, n_recorders=n_recorders)
    for recorder in stack.recorders:
        recorder.start()
    alive = asyncio.create_task(stack.keep_alive())
    try:
        yield stack
    finally:
        alive.cancel()
        for recorder in stack.recorders:
            recorder.kill()
