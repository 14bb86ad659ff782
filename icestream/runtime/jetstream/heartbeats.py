"""Signs of life on core NATS: who runs, and in which state."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass

import structlog
from nats import errors as nats_errors
from nats.aio.msg import Msg

from icestream.errors import UndecodableMessage
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.topology import Names

INTERVAL_S = 5.0
END_TIMEOUT_S = 1.0
STOPPING = "stopping"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One sign of life."""

    service: str
    instance: str
    unix_ns: int
    version: str
    state: str
    """What the service says of itself, for example `running`; `stopping` is the last one."""

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, payload: bytes) -> "Heartbeat":
        """From JSON; fields that a newer version added are ignored.

        Raises:
            UndecodableMessage: This is no heartbeat.
        """
        try:
            fields = json.loads(payload)
            texts = (fields[name] for name in ("service", "instance", "version", "state"))
            service, instance, version, state = map(str, texts)
            return cls(service, instance, int(fields["unix_ns"]), version, state)
        except (ValueError, KeyError, TypeError) as error:
            raise UndecodableMessage(f"not a heartbeat: {error!r}") from error


@asynccontextmanager
async def beating(
    connection: Connection,
    names: Names,
    *,
    service: str,
    instance: str,
    version: str,
    state: Callable[[], str],
    interval_s: float = INTERVAL_S,
    now_ns: Callable[[], int] = time.time_ns,
) -> AsyncIterator[None]:
    """Send a heartbeat at once, then every `interval_s`, and a last one that says `stopping`."""
    subject = names.heartbeats(service, instance)

    async def beat(current: str) -> None:
        # What waits for a broker to come back is no sign of life any more.
        if connection.is_connected:
            heartbeat = Heartbeat(service, instance, now_ns(), version, current)
            with suppress(nats_errors.Error):
                await connection.client.publish(subject, heartbeat.encode())

    async def beat_until_end() -> None:
        while not ended.is_set():
            await beat(state())
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), interval_s)
        await beat(STOPPING)

    ended = asyncio.Event()
    task = asyncio.create_task(beat_until_end(), name="heartbeats")
    try:
        yield
    finally:
        ended.set()
        # A broker that does not read must not keep the process from ending.
        await asyncio.wait({task}, timeout=END_TIMEOUT_S)
        task.cancel()


@asynccontextmanager
async def listen(
    connection: Connection, names: Names, on_heartbeat: Callable[[Heartbeat], None]
) -> AsyncIterator[None]:
    """Hear every heartbeat of the deployment for as long as the context lasts."""

    async def on_message(message: Msg) -> None:
        try:
            heartbeat = Heartbeat.decode(message.data)
        except UndecodableMessage as error:
            _log.warning("heartbeat_refused", subject=message.subject, reason=str(error))
        else:
            on_heartbeat(heartbeat)

    subscription = await connection.client.subscribe(names.everything_in("heartbeats"), cb=on_message)
    try:
        # Without the round trip a heartbeat right after this line could come before the subscription.
        await connection.client.flush()
        yield
    finally:
        with suppress(nats_errors.Error):
            await subscription.unsubscribe()
