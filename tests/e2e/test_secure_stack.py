"""Every service as its own user, TLS everywhere and tokens at gRPC: the work goes on as it does without."""

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from icestream.codec import decode_reconstruction
from icestream.runtime.endpoints import Endpoints, Stack
from icestream.runtime.jetstream.heartbeats import Heartbeat, listen
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import Names
from icestream.runtime.local_stack import CHECKOUT
from icestream.v1 import (
    reconstruction_pb2,
    reconstruction_pb2_grpc,
    record_pb2,
    record_pb2_grpc,
    scan_pb2,
    scan_pb2_grpc,
)
from tests.support.eventually import eventually
from tests.support.nats_server import free_port
from tests.support.scanner import ScanClient, options
from tests.support.secure_nats import SecureNats, running_secure_nats
from tests.support.stack import ICESTREAM, metric, running
from tests.support.triton_server import RunningTriton, running_triton

NAMES = Names()
MODULES = {
    "emitter": "services.emitter",
    "recorder": "services.recorder",
    "scan-worker": "services.scanner.worker",
    "scanner": "services.scanner.coordinator",
    "nats-exporter": "services.nats_exporter",
    "router": "services.router",
}
"""In the order of their start: those that may make no streams come before those that make them."""
GRPC = ("router", "scanner", "recorder")
START_S = 120.0
VIOLATIONS = "icestream_nats_permission_violations_total"


@dataclass(frozen=True)
class SecureStack:
    """All services, as processes of their own."""

    directory: Path
    nats: SecureNats
    processes: Mapping[str, int]
    metrics: Mapping[str, int]
    grpc_ports: Mapping[str, int]

    @property
    def token(self) -> str:
        return (self.nats.secrets / "grpc/operator.token").read_text().strip()

    def log(self, service: str) -> str:
        return (self.directory / f"{service}.log").read_text(errors="replace")

    def channel(self, service: str, token: str | None) -> grpc.aio.Channel:
        """To a service that shows its certificate, with or without a token."""
        credentials = grpc.ssl_channel_credentials(self.nats.ca.read_bytes())
        if token is not None:
            bearer = grpc.access_token_call_credentials(token)
            credentials = grpc.composite_channel_credentials(credentials, bearer)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.grpc_ports[service]}", credentials)


@pytest.fixture(scope="module")
def secure_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureStack]:
    directory = tmp_path_factory.mktemp("secure-stack")
    metrics = {service: free_port() for service in MODULES}
    ports = {service: free_port() for service in GRPC}
    with (
        running_secure_nats(directory / "nats") as nats,
        running_triton(CHECKOUT / "model_repository", directory / "triton") as triton,
        ExitStack() as stack,
    ):
        processes = {}
        for service, module in MODULES.items():
            flags = ["--metrics-port", str(metrics[service]), *_flags(service, directory, nats, triton)]
            environment = nats.environment(service)
            if service in GRPC:
                environment |= _grpc_environment(service, nats.secrets, ports[service])
            command = [sys.executable, "-m", module, *flags]
            log = directory / f"{service}.log"
            processes[service] = stack.enter_context(running(command, log, **environment)).pid
        running_stack = SecureStack(directory, nats, processes, metrics, ports)
        _wait_until_ready(running_stack)
        yield running_stack


def _wait_until_ready(stack: SecureStack) -> None:
    give_up_at_s = time.monotonic() + START_S
    while waiting := [service for service, port in stack.metrics.items() if not _is_ready(port)]:
        if time.monotonic() > give_up_at_s:
            logs = "\n".join(stack.log(service)[-2000:] for service in waiting)
            raise RuntimeError(f"{waiting} are not ready:\n{logs}")
        time.sleep(0.1)


def _is_ready(metrics_port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{metrics_port}/readyz").is_success
    except httpx.TransportError:
        return False


def _flags(service: str, directory: Path, nats: SecureNats, triton: RunningTriton) -> list[str]:
    flags = {
        "emitter": ["--rate", "20"],
        "router": ["--triton-url", triton.target],
        "scan-worker": ["--triton-url", triton.target],
        "recorder": ["--database-url", f"sqlite:///{directory}/records.sqlite"],
        "nats-exporter": ["--monitor-urls", nats.monitor_url],
    }
    return flags.get(service, [])


def _grpc_environment(service: str, secrets: Path, port: int) -> dict[str, str]:
    prefix = f"ICESTREAM_{service.upper()}_GRPC"
    return {
        f"{prefix}_PORT": str(port),
        f"{prefix}_TLS_CERTIFICATE": str(secrets / "grpc/server.crt"),
        f"{prefix}_TLS_KEY": str(secrets / "grpc/server.key"),
        f"{prefix}_TOKENS": str(secrets / "grpc/tokens"),
    }


@pytest.fixture
async def scans(secure_stack: SecureStack) -> AsyncIterator[ScanClient]:
    async with secure_stack.channel("scanner", secure_stack.token) as channel:
        yield ScanClient(channel)


async def test_events_are_reconstructed_and_recorded(secure_stack: SecureStack) -> None:
    def recorded() -> None:
        assert _rows(secure_stack, "reconstructions") >= 20, secure_stack.log("router")[-2000:]

    await eventually(recorded, timeout_s=START_S, poll_s=0.2)


async def test_a_subscriber_reads_reconstructions(secure_stack: SecureStack) -> None:
    async with secure_stack.nats.logged_in("subscriber") as connection:
        stored = stored_messages(connection, NAMES.everything_in("reconstructions"))
        rows = [decode_reconstruction(message.payload) async for message in stored]
        assert rows
        assert connection.n_permission_violations == 0


async def test_an_event_of_the_stream_is_scanned_and_the_scan_recorded(
    secure_stack: SecureStack, scans: ScanClient
) -> None:
    async with secure_stack.nats.logged_in("operator") as connection:
        stored = stored_messages(connection, NAMES.everything_in("reconstructions"))
        row = [decode_reconstruction(message.payload) async for message in stored][-1]
    request = scan_pb2.StartScanRequest(event_name=f"{row.detector}/{row.event_id}", options=options("2:0"))
    reply = await scans.stub.StartScan(request, timeout=60.0)
    ended = await scans.ended(reply.scan.scan_id)

    assert ended.state == scan_pb2.SCAN_STATE_COMPLETE
    assert len((await scans.skymap(reply.scan.scan_id)).levels[0]) == 48
    await eventually(lambda: _rows(secure_stack, "scans") == 1)


async def test_a_cancelled_scan_leaves_the_queue(secure_stack: SecureStack, scans: ScanClient) -> None:
    scan = await scans.start(progression="64:0")
    await scans.stub.CancelScan(scan_pb2.CancelScanRequest(scan_id=scan.scan_id), timeout=20.0)

    assert (await scans.ended(scan.scan_id)).state == scan_pb2.SCAN_STATE_CANCELLED


async def test_an_emitter_that_crashes_and_cannot_look_back_repeats_nothing(
    secure_stack: SecureStack, tmp_path: Path
) -> None:
    """Within the stream's duplicate window, which outlasts any restart by a supervisor."""
    nats, log = secure_stack.nats, tmp_path / "emitter.log"
    command = [
        sys.executable,
        "-m",
        "services.emitter",
        "--seed",
        "77",
        "--source",
        "crash",
        "--events",
        "300",
    ]
    async with nats.logged_in("operator") as connection:

        async def stored() -> list[str]:
            messages = stored_messages(connection, NAMES.events("icecube86", "crash"), headers_only=True)
            return [message.headers[MESSAGE_ID_HEADER] async for message in messages]

        async def some_are_stored() -> bool:
            return len(await stored()) >= 50

        with running([*command, "--rate", "100"], log, **nats.environment("emitter")) as emitter:
            await eventually(some_are_stored, timeout_s=START_S)
            emitter.kill()
            emitter.wait(10)
        with running(command, log, **nats.environment("emitter")) as emitter:
            await eventually(lambda: emitter.poll() is not None, timeout_s=START_S)
        assert emitter.returncode == 0, log.read_text()
        assert "resuming where the last emitter stopped" in log.read_text()
        assert "broker_forbids" not in log.read_text()
        ids = await stored()
        assert (len(ids), len(set(ids))) == (300, 300)


async def test_the_exporter_shows_the_broker(secure_stack: SecureStack) -> None:
    port = secure_stack.metrics["nats-exporter"]

    def shows() -> None:
        assert metric(port, "icestream_broker_up") == 1
        assert metric(port, 'icestream_stream_messages{stream="EVENTS"}') > 0
        assert metric(port, 'icestream_consumer_pending{consumer="router"') >= 0

    await eventually(shows)


async def test_every_service_says_that_it_is_alive(secure_stack: SecureStack) -> None:
    heard = dict[str, str]()

    def on_heartbeat(heartbeat: Heartbeat) -> None:
        heard[heartbeat.service] = heartbeat.state

    async with (
        secure_stack.nats.logged_in("operator") as connection,
        listen(connection, NAMES, on_heartbeat),
    ):
        await eventually(lambda: heard == dict.fromkeys(MODULES, "running"), timeout_s=30.0)


def test_the_operators_status_shows_every_service(secure_stack: SecureStack, tmp_path: Path) -> None:
    nats, ports = secure_stack.nats, secure_stack.grpc_ports
    endpoints = Endpoints(
        nats=nats.port,
        router_grpc=ports["router"],
        scanner_grpc=ports["scanner"],
        recorder_grpc=ports["recorder"],
    )
    Stack(os.getpid(), endpoints, is_traced=False).write(tmp_path)
    credentials = (
        *("--ca-file", str(nats.ca), "--nats-seed-file", str(nats.seed("operator"))),
        *("--token-file", str(nats.secrets / "grpc/operator.token")),
    )
    command = [ICESTREAM, *credentials, "status", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    for service in MODULES:
        assert re.search(rf"{service} .*running.*s ago", done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize("service", GRPC)
@pytest.mark.parametrize("token", [None, "wrong"])
async def test_whoever_has_no_token_may_not_call(
    secure_stack: SecureStack, service: str, token: str | None
) -> None:
    async with secure_stack.channel(service, token) as channel:
        assert await _code(service, channel) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("service", GRPC)
async def test_whoever_has_a_token_may_call(secure_stack: SecureStack, service: str) -> None:
    async with secure_stack.channel(service, secure_stack.token) as channel:
        # The router lets the call in and misses the event in it.
        wanted = grpc.StatusCode.INVALID_ARGUMENT if service == "router" else grpc.StatusCode.OK
        assert await _code(service, channel) is wanted


@pytest.mark.parametrize("service", GRPC)
async def test_health_needs_no_token(secure_stack: SecureStack, service: str) -> None:
    async with secure_stack.channel(service, None) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20.0)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", GRPC)
async def test_whoever_speaks_no_tls_hears_nothing(secure_stack: SecureStack, service: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{secure_stack.grpc_ports[service]}") as channel:
        assert await _code(service, channel) is grpc.StatusCode.UNAVAILABLE


def test_no_service_was_refused_anything_in_all_of_this(secure_stack: SecureStack) -> None:
    for service, port in secure_stack.metrics.items():
        assert metric(port, "icestream_nats_connected") == 1, secure_stack.log(service)[-2000:]
        assert metric(port, VIOLATIONS) == 0, secure_stack.log(service)
        assert "broker_forbids" not in secure_stack.log(service)
    assert "Violation" not in secure_stack.nats.log


def test_no_secret_is_in_a_log_or_on_a_command_line(secure_stack: SecureStack) -> None:
    secrets = _secret_texts(secure_stack.nats.secrets)
    assert len(secrets) > 10
    told = {service: secure_stack.log(service) for service in MODULES}
    told |= {
        f"{service}'s command": " ".join(psutil.Process(pid).cmdline())
        for service, pid in secure_stack.processes.items()
    }
    told["nats"] = secure_stack.nats.log
    for where, text in told.items():
        assert text or where == "nats"
        assert [path for path, secret in secrets if secret in text] == [], where


def _rows(stack: SecureStack, table: str) -> int:
    try:
        with sqlite3.connect(f"file:{stack.directory}/records.sqlite?mode=ro", uri=True) as database:
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.OperationalError:
        # Not made yet.
        return 0


async def _code(service: str, channel: grpc.aio.Channel) -> grpc.StatusCode:
    """What a call of the service, which changes nothing, ends with."""
    stub: Any
    call: Any
    match service:
        case "router":
            stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Reconstruct(reconstruction_pb2.ReconstructRequest(), timeout=20.0)
        case "scanner":
            stub = scan_pb2_grpc.ScanServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.ListScans(scan_pb2.ListScansRequest(), timeout=20.0)
        case _:
            stub = record_pb2_grpc.RecordServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.ListReconstructions(record_pb2.ListReconstructionsRequest(), timeout=20.0)
    code: grpc.StatusCode = await call.code()
    return code


def _secret_texts(directory: Path) -> list[tuple[str, str]]:
    """Every line that must be in no log: seeds, tokens and the bodies of private keys."""
    files = [*directory.rglob("*.seed"), *directory.rglob("*.token"), *directory.rglob("*.key")]
    return [
        (str(path.relative_to(directory)), line)
        for path in files
        for line in path.read_text().splitlines()
        if not line.startswith("-----")
    ]
