"""The Pole and the North where neither trusts everybody: users and TLS at both ends of the link."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from icestream.runtime.jetstream.connection import Connection, Credentials, connect
from icestream.runtime.jetstream.login import tls_to
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.sourcing import kept_sourcing
from icestream.runtime.jetstream.topology import Names, events_stream, reconcile_stream
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer
from tests.support.pole_and_north import DOMAIN, pole_and_north

NAMES = Names()
N_EVENTS = 200


@asynccontextmanager
async def logged_in(server: NatsServer, secrets: Path, user: str) -> AsyncIterator[Connection]:
    async with connect(
        server.url,
        name=f"test-{user}",
        credentials=Credentials(nkey_seed_file=secrets / f"nats/{user}.seed"),
        tls=tls_to(server.url, secrets / "ca.crt", "ca"),
        inbox_prefix=f"_INBOX_{user}",
    ) as connection:
        yield connection


async def test_what_an_emitter_stores_at_the_pole_comes_to_the_router_in_the_north(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    async with pole_and_north(tmp_path / "servers", secrets=secrets) as servers, AsyncExitStack() as stack:
        administrator, emitter, router = [
            await stack.enter_async_context(logged_in(server, secrets, user))
            for server, user in (
                (servers.pole, "stream-replicas"),
                (servers.pole, "emitter"),
                (servers.north, "router"),
            )
        ]
        for owner in (administrator, router):
            await reconcile_stream(owner, events_stream(NAMES))
        await stack.enter_async_context(kept_sourcing(router, [NAMES.events_stream], DOMAIN))
        async with WindowedPublisher(emitter) as publisher:
            subject = NAMES.events("icecube86", "detector")
            acks = [
                await publisher.publish(subject, b"an event", message_id=str(number))
                for number in range(N_EVENTS)
            ]
            for ack in acks:
                await ack

        async def all_are_there() -> bool:
            info = await router.client.jetstream().stream_info(NAMES.events_stream)
            return info.state.messages == N_EVENTS

        await eventually(all_are_there, timeout_s=60.0, poll_s=0.1)
        violations = {each.n_permission_violations for each in (administrator, emitter, router)}
        assert violations == {0}, servers.north.log
