"""The local stack as a person starts it, with `icestream up`, and what tests do to it."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from icestream.codec import decode_reconstruction
from icestream.physics.events import EventId, Reconstruction
from icestream.runtime.endpoints import Endpoints, Stack
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import ROUTER_CONSUMER, Names
from tests.support.eventually import eventually

ICESTREAM = str(Path(sys.executable).with_name("icestream"))
START_TIMEOUT_S = 90.0
NAMES = Names()


@dataclass(frozen=True)
class UpStack:
    """A stack that `icestream up` runs."""

    process: subprocess.Popen[bytes]
    directory: Path
    endpoints: Endpoints

    def part(self, name: str) -> psutil.Process:
        """The process of a part: nats-server, tritonserver, triton_python_backend_stub, services.router, jaeger."""
        if found := self.parts(name):
            return found[0]
        raise LookupError(f"no process {name!r} among the stack's")

    def parts(self, name: str) -> list[psutil.Process]:
        """All processes of a part: of services.scanner.worker there are several."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if any(name in word for word in _command_line(child)[:4])]

    @property
    def scan_worker_metrics(self) -> list[int]:
        """Ports of the metrics of every scan worker; the endpoints name that of the first alone."""
        return [metrics_port(worker) for worker in self.parts("services.scanner.worker")]

    def kill(self, name: str) -> None:
        """Kill -9 one part; the supervisor is to restart it."""
        self.part(name).send_signal(signal.SIGKILL)

    def command(self, *arguments: str) -> list[str]:
        """An `icestream` command about this stack."""
        return [ICESTREAM, arguments[0], "--dir", str(self.directory), *arguments[1:]]

    def log(self, name: str) -> str:
        """What a part has written."""
        return (self.directory / "logs" / f"{name}.log").read_text(errors="replace")


@contextmanager
def running_stack(directory: Path, *flags: str, offset: int | None = None) -> Iterator[UpStack]:
    """Start a stack, on ports that are free where none are named, and stop it as a person does, with SIGINT."""
    offset = _free_offset() if offset is None else offset
    output = directory / "up.log"
    directory.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as log:
        process = subprocess.Popen(
            [ICESTREAM, "up", "--dir", str(directory), "--port-offset", str(offset), *flags],
            stdout=log,
            stderr=log,
        )
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while (stack := Stack.read(directory)) is None:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the stack did not start:\n{output.read_text()}")
            time.sleep(0.05)
        yield UpStack(process, directory, stack.endpoints)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@contextmanager
def running(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the block lasts."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def metrics_port(service: psutil.Process) -> int:
    """Where a service of a stack shows its metrics."""
    words = service.cmdline()
    return int(words[words.index("--metrics-port") + 1])


def _command_line(process: psutil.Process) -> list[str]:
    """Empty of one that has ended and that nobody has waited for yet."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _free_offset() -> int:
    """A port offset at which every default port is free."""
    for offset in range(1000 + os.getpid() % 500 * 10, 12000, 300):
        try:
            Endpoints.shifted(offset).check_free()
        except Exception:
            continue
        return offset
    raise RuntimeError("no port offset is free")


async def published_events(stack: UpStack, run_id: int) -> list[EventId]:
    """Ids of a run's events in their stream, as often as they are there; whatever else is there is no matter."""
    async with connect(stack.endpoints.nats_url, name="test") as connection:
        messages = stored_messages(connection, NAMES.everything_in("events"), headers_only=True)
        message_ids = [message.headers[MESSAGE_ID_HEADER] async for message in messages]
    prefix = f"icecube86/{run_id}."
    return [EventId.parse(name.removeprefix("icecube86/")) for name in message_ids if name.startswith(prefix)]


async def reconstructions_of(stack: UpStack, run_id: int) -> list[Reconstruction]:
    """What is in the reconstructions' stream of a run, in the order of its storing."""
    async with connect(stack.endpoints.nats_url, name="test") as connection:
        messages = stored_messages(connection, NAMES.everything_in("reconstructions"))
        rows = [decode_reconstruction(message.payload) async for message in messages]
    return [row for row in rows if row.event_id.run_id == run_id]


async def reconstructed_events(stack: UpStack, run_id: int) -> list[EventId]:
    """Ids of a run's events in the reconstructions' stream, as often as they are there."""
    return [row.event_id for row in await reconstructions_of(stack, run_id)]


async def events_left(stack: UpStack) -> int:
    """Published events that no router has answered for."""
    async with connect(stack.endpoints.nats_url, name="test") as connection:
        info = await connection.client.jetstream().consumer_info(NAMES.events_stream, ROUTER_CONSUMER)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


def repeated(ids: Sequence[EventId]) -> list[EventId]:
    """The ids that occur more than once."""
    return [event_id for event_id, n in Counter(ids).items() if n > 1]


async def assert_each_exactly_once(
    stack: UpStack, run_id: int, n_events: int | None = None, *, timeout_s: float = 90.0
) -> None:
    """Wait until every published event is answered for, and compare both streams.

    Args:
        stack: Whose streams.
        run_id: Whose events.
        n_events: So many must have been published; any number without it.
        timeout_s: How long the answers may take.
    """

    async def all_answered() -> bool:
        return await events_left(stack) == 0

    await eventually(all_answered, timeout_s=timeout_s, poll_s=0.2)
    published = await published_events(stack, run_id)
    reconstructed = await reconstructed_events(stack, run_id)
    assert repeated(published) == []
    assert repeated(reconstructed) == []
    assert n_events is None or len(published) == n_events
    assert set(reconstructed) == set(published)


def metric(port: int, name: str) -> float:
    """Sum of a service's metrics whose line begins so; 0 while it is away."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.ConnectError:
        return 0.0
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
