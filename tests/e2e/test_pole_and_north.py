"""An emitter at the Pole, router and model in the North, and a link that is cut while events are sent."""

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from icestream.codec import PulseReference, decode_reconstruction, encode_detached_event, encode_pulses
from icestream.physics.events import Event, EventId, Pulses
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import Names, events_stream, reconcile_stream
from tests.support.eventually import eventually
from tests.support.models import add_model, mean_direction_model
from tests.support.pole_and_north import DOMAIN, PoleAndNorth, pole_and_north
from tests.support.stack import running
from tests.support.triton_server import running_triton

NAMES = Names()
SEED = 41
N_EVENTS = 1500
RATE = 150
N_PULSES = 200_000
START_S = 90.0
CAUGHT_UP_S = 60.0
"""The acceptance: so long after the link is back everything is reconstructed."""


@dataclass(frozen=True)
class Site:
    """Both servers and a connection to each; the services run."""

    servers: PoleAndNorth
    pole: Connection
    north: Connection

    async def sent(self) -> list[str]:
        """Message ids of the events at the Pole."""
        if not await _has_stream(self.pole, NAMES.events_stream):
            return []
        messages = stored_messages(self.pole, NAMES.everything_in("events"), headers_only=True)
        return [message.headers[MESSAGE_ID_HEADER] async for message in messages]

    async def reconstructed(self) -> list[str]:
        """Events with an answer in the North, as message ids of events, as often as they have one."""
        messages = stored_messages(self.north, NAMES.everything_in("reconstructions"))
        rows = [decode_reconstruction(message.payload) async for message in messages]
        return [f"{row.detector}/{row.event_id}" for row in rows]

    async def n_reconstructed(self) -> int:
        return len(await self.reconstructed())

    async def n_dead_letters(self) -> int:
        return (await self.north.client.jetstream().stream_info(NAMES.dead_letter_stream)).state.messages


async def _has_stream(connection: Connection, name: str) -> bool:
    return name in [info.config.name for info in await connection.client.jetstream().streams_info()]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    add_model(tmp_path / "models", "direction", mean_direction_model())
    async with AsyncExitStack() as stack:
        triton = stack.enter_context(running_triton(tmp_path / "models", tmp_path / "triton"))
        servers = await stack.enter_async_context(pole_and_north(tmp_path / "nats"))
        router = [sys.executable, "-m", "services.router", "--nats-url", servers.north.url]
        router += ["--triton-url", triton.target, "--grpc-port", "0", "--events-from-domain", DOMAIN]
        stack.enter_context(running(router, tmp_path / "router.log"))
        pole = await stack.enter_async_context(connect(servers.pole.url, name="pole"))
        north = await stack.enter_async_context(connect(servers.north.url, name="north"))

        async def router_is_up() -> bool:
            return await _has_stream(north, NAMES.pulses_stream)

        await eventually(router_is_up, timeout_s=START_S, poll_s=0.1)
        yield Site(servers, pole, north)


async def test_a_cut_link_costs_no_event(site: Site, tmp_path: Path) -> None:
    emitter = [sys.executable, "-m", "services.emitter", "--nats-url", site.servers.pole.url]
    emitter += ["--seed", str(SEED), "--events", str(N_EVENTS), "--rate", str(RATE)]
    with running(emitter, tmp_path / "emitter.log") as process:
        await eventually(lambda: _is_at_least(site, 100), timeout_s=START_S, poll_s=0.2)
        await site.servers.link.cut()
        # The emitter reaches its end without a link.
        await eventually(lambda: process.poll() is not None, timeout_s=START_S)
        assert process.returncode == 0
    sent = await site.sent()
    assert len(sent) == N_EVENTS
    assert await site.n_reconstructed() < N_EVENTS

    await site.servers.link.restore()

    await eventually(lambda: _is_at_least(site, N_EVENTS), timeout_s=CAUGHT_UP_S, poll_s=0.2)
    assert Counter(await site.reconstructed()) == Counter(sent)
    assert await site.n_dead_letters() == 0


async def test_an_event_too_large_for_a_message_is_reconstructed(site: Site) -> None:
    rows = np.arange(N_PULSES)
    pulses = Pulses(
        (rows % 5160).astype(np.uint16),
        np.asarray(rows * 0.1, np.float64),
        np.ones(N_PULSES, np.float32),
        np.ones(N_PULSES, np.uint8),
    )
    event = Event(EventId(1, 7), "icecube86", 1_000, pulses, None)
    payload = encode_pulses(pulses)
    assert len(payload) > site.pole.client.max_payload
    await reconcile_stream(site.pole, events_stream(NAMES))
    objects = await PulseObjects.open(site.pole, NAMES.pulses_bucket)
    reference = PulseReference(NAMES.pulses_bucket, await objects.put(payload), len(payload))
    await site.pole.client.jetstream().publish(
        NAMES.events("icecube86", "detector"), encode_detached_event(event, reference)
    )
    await eventually(lambda: _is_at_least(site, 1), timeout_s=CAUGHT_UP_S, poll_s=0.2)
    assert await site.reconstructed() == ["icecube86/1.7.0"]
    assert await site.n_dead_letters() == 0


async def _is_at_least(site: Site, n_reconstructed: int) -> bool:
    return await site.n_reconstructed() >= n_reconstructed
