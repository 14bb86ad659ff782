"""A scanner and its workers as processes of their own, at a real broker, and a client of the scanner."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from icestream.codec import event_to_message
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId, Pulses
from icestream.physics.simulation import simulate_event
from icestream.scan_codec import skymap_from_message
from icestream.scans.progression import Progression
from icestream.scans.recos.crash_dummy import PROBABILITY_VARIABLE, WAYS_VARIABLE, Way
from icestream.scans.recos.dummy import SLEEP_VARIABLE
from icestream.scans.skymap import Level, Skymap
from icestream.v1 import scan_pb2, scan_pb2_grpc
from tests.support.nats_server import NatsServer, free_port

FINAL = {
    scan_pb2.SCAN_STATE_COMPLETE,
    scan_pb2.SCAN_STATE_INCOMPLETE,
    scan_pb2.SCAN_STATE_CANCELLED,
}


def make_event(number: int = 1, *, start_unix_ns: int = 0, n_pulses: int = 5) -> Event:
    """An event of the built-in detector."""
    rows = np.arange(n_pulses)
    pulses = Pulses(
        rows.astype(np.uint16) * 60,
        rows.astype(np.float64),
        np.ones(n_pulses, np.float32),
        np.ones(n_pulses, np.uint8),
    )
    return Event(EventId(7, number), "icecube86", start_unix_ns, pulses)


@cache
def bright_track() -> Event:
    """A muon of 7 TeV that crosses the detector and lights 91 modules by HLC: easy to reconstruct."""
    return simulate_event(icecube86(), seed=930_005, index=240)


def pointing_at(event: Event, *, radius_deg: float) -> scan_pb2.Pointing:
    """A disc around the true direction."""
    truth = event.truth
    assert truth is not None
    centre = scan_pb2.Horizontal(azimuth_rad=truth.azimuth_rad, zenith_rad=truth.zenith_rad)
    return scan_pb2.Pointing(horizontal=centre, radius_rad=float(np.radians(radius_deg)))


def options(progression: str = "8:0", **others: Any) -> scan_pb2.ScanOptions:
    """Of a scan, by default with the dummy."""
    levels = [
        scan_pb2.ScanLevel(nside=nside, extension=extension)
        for nside, extension in Progression.parse(progression).levels
    ]
    return scan_pb2.ScanOptions(**({"reco": "dummy", "progression": levels} | others))


def assert_same_map(one: Skymap, other: Skymap) -> None:
    """Bit for bit."""
    assert [level.nside for level in one.levels] == [level.nside for level in other.levels]
    for level, level_of_other in zip(one.levels, other.levels, strict=True):
        assert _columns(level) == _columns(level_of_other)


def _columns(level: Level) -> list[bytes]:
    names = ("pixel", "llh", "position_m", "time_ns", "n_hits", "hypothesis", "rival_llh", "missing")
    return [np.ascontiguousarray(getattr(level, name)).tobytes() for name in names]


class ScanClient:
    """Calls of the ScanService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: Any = scan_pb2_grpc.ScanServiceStub(channel)  # type: ignore[no-untyped-call]

    async def start(
        self, event: Event | None = None, request_id: str = "", **of_options: Any
    ) -> scan_pb2.Scan:
        request = scan_pb2.StartScanRequest(
            event=event_to_message(event or make_event()),
            options=options(**of_options),
            request_id=request_id,
        )
        reply = await self.stub.StartScan(request, timeout=20.0)
        scan: scan_pb2.Scan = reply.scan
        return scan

    async def get(self, scan_id: str) -> scan_pb2.Scan:
        scan: scan_pb2.Scan = (
            await self.stub.GetScan(scan_pb2.GetScanRequest(scan_id=scan_id), timeout=5)
        ).scan
        return scan

    async def ended(self, scan_id: str, *, timeout_s: float = 60.0) -> scan_pb2.Scan:
        """The scan once it has ended; a scanner that is away meanwhile does not matter."""
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    if (scan := await self.get(scan_id)).state in FINAL:
                        return scan
                await asyncio.sleep(0.05)

    async def done(self, scan_id: str, n_fits: int, *, timeout_s: float = 30.0) -> scan_pb2.Scan:
        """The scan once so many fits came back; a scanner that is away meanwhile does not matter."""
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    if (scan := await self.get(scan_id)).progress.n_fits_done >= n_fits:
                        return scan
                await asyncio.sleep(0.01)

    async def skymap_message(self, scan_id: str) -> scan_pb2.Skymap:
        request = scan_pb2.GetSkymapRequest(scan_id=scan_id)
        skymap: scan_pb2.Skymap = (await self.stub.GetSkymap(request, timeout=20)).skymap
        return skymap

    async def skymap(self, scan_id: str) -> Skymap:
        return skymap_from_message(await self.skymap_message(scan_id))


class Part:
    """A process that is started again whenever it was killed."""

    def __init__(self, module: str, flags: list[str], log: Path, **environment: str) -> None:
        self._command = [sys.executable, "-m", module, *flags]
        self._environment = os.environ | environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.n_started = 0

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if not self.is_alive:
            self.n_started += 1
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def end(self) -> int:
        """Ask it to end, and wait."""
        assert self._process is not None
        if self.is_alive:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


class ScanStack:
    """A scanner and workers at one broker.

    Attributes:
        scanner: The coordinator's process.
        workers: Those of the workers.
    """

    def __init__(
        self,
        server: NatsServer,
        directory: Path,
        *,
        n_workers: int,
        triton_url: str,
        batch_timeout_s: float,
        environment: dict[str, str],
    ) -> None:
        self.server = server
        self.grpc_port = free_port()
        flags = ["--nats-url", server.url, "--grpc-port", str(self.grpc_port)]
        self.scanner = Part("services.scanner.coordinator", flags, directory / "scanner.log", **environment)
        worker_flags = ["--nats-url", server.url, "--triton-url", triton_url, "--ack-wait-s", "2"]
        worker_flags += ["--batch-timeout-s", str(batch_timeout_s)]
        worker_flags += ["--delivery-limit", "3", "--quarantine-after", "1000"]
        self.workers = [
            Part("services.scanner.worker", worker_flags, directory / f"worker{n}.log", **environment)
            for n in range(n_workers)
        ]

    @property
    def parts(self) -> list[Part]:
        return [self.scanner, *self.workers]

    async def wait_until_up(self) -> None:
        async with asyncio.timeout(30), self.client() as client:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await client.stub.ListScans(scan_pb2.ListScansRequest(), timeout=2)
                    return
                assert self.scanner.is_alive, self.scanner.log
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ScanClient]:
        quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        address = f"127.0.0.1:{self.grpc_port}"
        async with grpc.aio.insecure_channel(address, options=quick) as channel:
            yield ScanClient(channel)

    async def keep_alive(self) -> None:
        """As the supervisor does, until cancelled."""
        while True:
            for part in self.parts:
                part.start()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running_scan_stack(
    server: NatsServer,
    directory: Path,
    *,
    n_workers: int = 1,
    sleep_s: float = 0.0,
    crash_probability: float = 0.0,
    crash_ways: str = ",".join(Way),
    triton_url: str = "127.0.0.1:8001",
    batch_timeout_s: float = 1.0,
) -> AsyncIterator[ScanStack]:
    """A scanner and workers for as long as the block lasts; what is killed is started again."""
    environment = {
        SLEEP_VARIABLE: str(sleep_s),
        PROBABILITY_VARIABLE: str(crash_probability),
        WAYS_VARIABLE: crash_ways,
    }
    stack = ScanStack(
        server,
        directory,
        n_workers=n_workers,
        triton_url=triton_url,
        batch_timeout_s=batch_timeout_s,
        environment=environment,
    )
    for part in stack.parts:
        part.start()
    alive = asyncio.create_task(stack.keep_alive())
    try:
        await stack.wait_until_up()
        yield stack
    finally:
        alive.cancel()
        for part in stack.parts:
            part.kill()
