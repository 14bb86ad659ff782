"""A real worker at a real broker; the recos need no model server."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId, Pulses
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.scan_topology import (
    Lane,
    LogEntry,
    ScanNames,
    scan_log_stream,
    scan_work_stream,
)
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import Names, reconcile_stream
from icestream.scan_codec import PixelResult, PixelWork, decode_result, encode_startup, encode_work
from icestream.scans.pixels import PixelBatch
from icestream.scans.recos.crash_dummy import PROBABILITY_VARIABLE, WAYS_VARIABLE
from icestream.scans.recos.dummy import SLEEP_VARIABLE
from services.scanner.worker.__main__ import serve
from services.scanner.worker.settings import ScanWorkerSettings
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer

NAMES = ScanNames(Names())
TOY = Detector("toy", np.random.default_rng(1).uniform(-500, 500, (60, 3)), np.ones(60))
EVENT = Event(
    EventId(1, 2),
    "toy",
    0,
    Pulses(np.arange(3, dtype=np.uint16), np.arange(3.0), np.ones(3, np.float32), np.ones(3, np.uint8)),
)


class Scan:
    """What a coordinator does: store the event, queue batches, read results."""

    def __init__(self, connection: Connection, publisher: WindowedPublisher, startup: str) -> None:
        self._connection = connection
        self._publisher = publisher
        self._startup = startup

    async def queue(
        self,
        scan_id: str,
        *,
        n_batches: int,
        n_rows: int = 4,
        reco: str = "dummy",
        lane: Lane = Lane.CATALOGUE,
    ) -> None:
        for number in range(n_batches):
            pixel = np.arange(n_rows) + n_rows * number
            batch = PixelBatch(
                number, 8, pixel, np.zeros(n_rows, int), np.ones((n_rows, 3)), np.ones((n_rows, 1, 4))
            )
            work = PixelWork(scan_id, reco, self._startup, batch)
            await self._publisher.publish(
                NAMES.work(lane, scan_id), encode_work(work), message_id=work.message_id
            )
        await self._publisher.flush()

    async def results(self) -> list[PixelResult]:
        """Of all scans, in the order in which they were stored."""
        log = stored_messages(self._connection, NAMES.logs(LogEntry.RESULT))
        return [decode_result(message.payload) async for message in log]

    async def pixels(self, scan_id: str) -> list[int]:
        """Those that have a result, as often as they have one."""
        results = [result for result in await self.results() if result.scan_id == scan_id]
        return sorted(pixel for result in results for pixel in result.rows.pixel.tolist())

    async def n_waiting(self) -> int:
        """Batches in the queue, those at workers included."""
        info = await self._connection.client.jetstream().stream_info(NAMES.work_stream)
        return info.state.messages


@pytest.fixture
async def scan(connection: Connection) -> AsyncIterator[Scan]:
    for stream in (scan_log_stream(NAMES), scan_work_stream(NAMES)):
        await reconcile_stream(connection, stream)
    objects = await PulseObjects.open(connection, NAMES.startup_bucket)
    async with WindowedPublisher(connection) as publisher:
        yield Scan(connection, publisher, await objects.put(encode_startup(EVENT, TOY)))


@asynccontextmanager
async def running_worker(server: NatsServer) -> AsyncIterator[None]:
    """A worker in this process; whoever leaves waits until it has answered for everything."""
    stop = asyncio.Event()
    settings = ScanWorkerSettings.load(["--nats-url", server.url], {})
    serving = asyncio.create_task(serve(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(serving, 10)


class Supervised:
    """A worker in a process of its own that is started again whenever it ends."""

    def __init__(self, server: NatsServer, **environment: str) -> None:
        self.n_ended = 0
        self._server = server
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def keep_alive(self) -> None:
        if self.is_alive:
            return
        self.n_ended += self._process is not None
        options = {"nats-url": self._server.url, "ack-wait-s": "1", "batch-timeout-s": "0.5"}
        options |= {"delivery-limit": "3", "quarantine-after": "1000"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.scanner.worker", *arguments],
            env=os.environ | self._environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def end(self) -> int:
        """Ask it to end, and wait."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(15)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLEEP_VARIABLE, "0.02")


@pytest.mark.usefixtures("_quick")
async def test_every_batch_becomes_one_result_and_leaves_the_queue(
    nats_server: NatsServer, scan: Scan
) -> None:
    await scan.queue("s1", n_batches=20)
    async with running_worker(nats_server):
        await eventually(lambda: _equals(scan.n_waiting(), 0))
    assert await scan.pixels("s1") == list(range(80))


@pytest.mark.usefixtures("_quick")
async def test_an_alert_overtakes_a_catalogue_at_once(nats_server: NatsServer, scan: Scan) -> None:
    await scan.queue("slow", n_batches=60)
    async with running_worker(nats_server):
        await eventually(lambda: _at_least(scan.results(), 6))
        await scan.queue("urgent", n_batches=10, lane=Lane.ALERT)
        n_before = len(await scan.results())
        await eventually(lambda: _equals(scan.n_waiting(), 0))
    order = [result.scan_id for result in await scan.results()][n_before:]
    # What had begun before is finished; from then on there is nothing but the alert.
    last_alert = len(order) - order[::-1].index("urgent")
    assert order[:last_alert].count("slow") <= 4
    assert await scan.pixels("slow") == list(range(240))
    assert await scan.pixels("urgent") == list(range(40))


@pytest.mark.usefixtures("_quick")
async def test_nothing_is_lost_or_doubled_when_the_broker_restarts(
    nats_server: NatsServer, scan: Scan
) -> None:
    await scan.queue("s1", n_batches=40)
    async with running_worker(nats_server):
        await eventually(lambda: _at_least(scan.results(), 3))
        await nats_server.kill_and_restart(after_s=0.3)
        await eventually(lambda: _equals(scan.n_waiting(), 0), timeout_s=30)
    assert await scan.pixels("s1") == list(range(160))


async def test_a_reco_that_ends_every_process_ends_the_scan_incomplete_and_not_the_workers(
    nats_server: NatsServer, scan: Scan
) -> None:
    always = {PROBABILITY_VARIABLE: "1", WAYS_VARIABLE: "exit", SLEEP_VARIABLE: "0.01"}
    await scan.queue("fatal", n_batches=1, n_rows=2, reco="crash_dummy")
    await scan.queue("sound", n_batches=10)
    worker = Supervised(nats_server, **always)

    try:
        async with asyncio.timeout(100):
            while await scan.n_waiting() or not await scan.results():
                worker.keep_alive()
                await asyncio.sleep(0.1)
    finally:
        assert worker.end() == 0
    failures = {
        result.rows.pixel[0]: result.rows.failure for result in await scan.results() if result.rows.failure
    }
    assert failures.keys() == {0, 1}
    assert all(failure.startswith("too_many_deliveries") for failure in failures.values())
    assert await scan.pixels("sound") == list(range(40))
    assert worker.n_ended >= 3


async def test_every_pixel_has_an_outcome_whatever_happens_to_the_workers(
    nats_server: NatsServer, scan: Scan
) -> None:
    often = {PROBABILITY_VARIABLE: "0.4", SLEEP_VARIABLE: "0.01"}
    await scan.queue("chaos", n_batches=4, reco="crash_dummy")
    workers = [Supervised(nats_server, **often) for _ in range(2)]
    try:
        async with asyncio.timeout(120):
            while await scan.n_waiting() or not await scan.results():
                for worker in workers:
                    worker.keep_alive()
                await asyncio.sleep(0.1)
    finally:
        # One that has just begun may not know the signal yet.
        statuses = {worker.end() for worker in workers if worker.is_alive}
        assert statuses <= {0, -signal.SIGTERM}
    assert set(await scan.pixels("chaos")) == set(range(16))


async def _equals(value: Awaitable[int], wanted: int) -> bool:
    return await value == wanted


async def _at_least(values: Awaitable[Sequence[object]], n: int) -> bool:
    return len(await values) >= n
