"""The Pole and the North: two servers as deploy/nats configures them, and a link that breaks."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from icestream.errors import BrokerUnavailable
from icestream.runtime.certificates import CertificateAuthority
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.heartbeats import Heartbeat, beating, listen
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER, WindowedPublisher
from icestream.runtime.jetstream.sourcing import kept_sourcing
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import (
    EVENTS_LIMITS,
    Names,
    events_stream,
    reconcile_source,
    reconcile_stream,
)
from icestream.runtime.nats_metrics import watch_broker
from icestream.runtime.nkey_pairs import new_seed
from icestream.runtime.tracing import TRACEPARENT
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer
from tests.support.pole_and_north import DOMAIN, PoleAndNorth, pole_and_north

NAMES = Names()
EVENTS = NAMES.events_stream
DETECTOR = NAMES.events("icecube86", "detector")
PAYLOAD = bytes(2000)
HEARTBEAT = NAMES.heartbeats("emitter", "pole")
CAUGHT_UP_S = 60.0
"""The acceptance: so long after the link is back the North has everything."""
LONG_OUTAGE_S = 100.0


@dataclass
class Site:
    """Both servers, a connection to each, and what was published at the Pole."""

    servers: PoleAndNorth
    pole: Connection
    north: Connection
    published: list[str] = field(default_factory=list)
    """Message ids that the Pole confirmed, in the order of their publishing."""

    async def publish(self, n: int) -> None:
        """Store so many more events at the Pole, as fast as it takes them."""
        ids = [str(len(self.published) + number) for number in range(n)]
        async with WindowedPublisher(self.pole) as publisher:
            acks = [await publisher.publish(DETECTOR, PAYLOAD, message_id=each) for each in ids]
            await asyncio.gather(*acks)
        self.published += ids

    async def arrived(self) -> list[str]:
        """Message ids of the Pole's events in the North, in the order of their storing."""
        messages = stored_messages(self.north, DETECTOR, headers_only=True)
        return [message.headers[MESSAGE_ID_HEADER] async for message in messages]

    async def n_stored(self, connection: Connection) -> int:
        """Events in one of the streams."""
        return (await connection.client.jetstream().stream_info(EVENTS)).state.messages

    async def caught_up(self) -> None:
        """Wait until the North has as many as the Pole, then compare."""

        async def has_as_many() -> bool:
            return await self.n_stored(self.north) >= len(self.published)

        await eventually(has_as_many, timeout_s=CAUGHT_UP_S, poll_s=0.1)
        assert await self.arrived() == self.published

    async def silence_s(self) -> float:
        """For how long the North's stream has not heard of the Pole's; infinite where it does not listen."""
        reply = await self.north.client.request(f"$JS.API.STREAM.INFO.{EVENTS}")
        [source] = json.loads(reply.data)["sources"]
        return source["active"] / 1e9 if source["active"] >= 0 else float("inf")

    async def silent_for(self, seconds: float) -> None:
        """Wait until the North has heard nothing for so long."""

        async def is_silent() -> bool:
            return await self.silence_s() > seconds

        await eventually(is_silent, timeout_s=seconds + 60, poll_s=0.2)

    async def heard_in_the_north(self, subject: str) -> list[str]:
        """Which of two messages at the Pole come to the North by themselves: one to the subject, and a heartbeat."""
        return await _heard(self.pole, self.servers.pole, self.north, subject, HEARTBEAT)

    async def heard_at_the_pole(self, subject: str, *, last: str) -> list[str]:
        """The same the other way round, with another second message."""
        return await _heard(self.north, self.servers.north, self.pole, subject, last)


async def _heard(
    sender: Connection, server: NatsServer, receiver: Connection, subject: str, last: str
) -> list[str]:
    heard: list[str] = []

    async def on_message(message: Msg) -> None:
        heard.append(message.subject)

    for each in (subject, last):
        await receiver.client.subscribe(each, cb=on_message)
    await known_to(server, last)
    for each in (subject, last):
        await sender.client.publish(each, b"x")
    # One link carries both in their order.
    await eventually(lambda: last in heard)
    return heard


async def known_to(server: NatsServer, subject: str) -> None:
    """Wait until a server knows that the one behind the link wants a subject."""

    def is_known() -> bool:
        [link] = page(server, "leafz?subs=1")["leafs"]
        return subject in link["subscriptions_list"]

    await eventually(is_known, timeout_s=CAUGHT_UP_S)


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[PoleAndNorth]:
    async with pole_and_north(tmp_path / "servers") as both:
        yield both


@pytest.fixture
async def site(servers: PoleAndNorth) -> AsyncIterator[Site]:
    """Both servers with an events stream, of which the North's takes from the Pole's as a router has it."""
    async with AsyncExitStack() as stack:
        pole = await stack.enter_async_context(connect(servers.pole.url, name="emitter"))
        north = await stack.enter_async_context(connect(servers.north.url, name="router"))
        for connection in (pole, north):
            await reconcile_stream(connection, events_stream(NAMES))
        await stack.enter_async_context(kept_sourcing(north, [EVENTS], DOMAIN))
        yield Site(servers, pole, north)


def page(server: NatsServer, name: str) -> dict[str, Any]:
    """A page of a server's monitoring."""
    with urlopen(f"http://127.0.0.1:{server.monitoring_port}/{name}", timeout=5) as reply:
        content: dict[str, Any] = json.load(reply)
        return content


class TestWhatCrosses:
    async def test_events_arrive_with_their_headers(self, site: Site) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {MESSAGE_ID_HEADER: "icecube86/1.2.0", TRACEPARENT: trace}
        await site.pole.client.jetstream().publish(DETECTOR, b"event", headers=headers)

        async def has_it() -> bool:
            return await site.n_stored(site.north) == 1

        await eventually(has_it, timeout_s=CAUGHT_UP_S)
        [message] = [message async for message in stored_messages(site.north, DETECTOR)]
        assert message.payload == b"event"
        assert headers.items() <= message.headers.items()
        assert "Nats-Stream-Source" in message.headers

    async def test_the_norths_own_events_stay_beside_the_poles(self, site: Site) -> None:
        own = NAMES.events("icecube86", "simulation")
        stored = await site.north.client.jetstream().publish(own, b"north")
        assert stored.stream == EVENTS
        await site.publish(10)
        await site.caught_up()
        assert await site.n_stored(site.north) == 11
        assert await site.n_stored(site.pole) == 10

    @pytest.mark.parametrize("group", ["events", "reconstructions", "deadletter", "scans"])
    async def test_only_heartbeats_go_north_by_themselves(self, site: Site, group: str) -> None:
        assert await site.heard_in_the_north(f"icestream.{group}.a.b") == [HEARTBEAT]

    @pytest.mark.parametrize("subject", ["$O.icestream-pulses.M.a", "$KV.icestream-emitter.a", "$SYS.a"])
    async def test_no_bucket_and_no_question_about_a_server_goes_north(
        self, site: Site, subject: str
    ) -> None:
        assert await site.heard_in_the_north(subject) == [HEARTBEAT]

    @pytest.mark.parametrize("group", ["events", "reconstructions", "deadletter", "scans"])
    async def test_nothing_of_the_north_goes_to_the_pole(self, site: Site, group: str) -> None:
        assert await site.heard_at_the_pole(f"icestream.{group}.a.b", last="marker") == ["marker"]

    async def test_the_pole_answers_no_question_that_the_north_asks_itself(self, site: Site) -> None:
        client = site.north.client
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        for question in ("$SYS.REQ.USER.INFO", "$JS.API.INFO"):
            await client.publish(question, reply=inbox)
        # What the Pole has to say to the questions before is here before its answer to this one.
        await client.request(f"$JS.{DOMAIN}.API.INFO", timeout=5)
        assert answers.pending_msgs == 2

    async def test_heartbeats_of_the_pole_are_heard_in_the_north(self, site: Site) -> None:
        heard: list[Heartbeat] = []
        async with listen(site.north, NAMES, heard.append):
            await known_to(site.servers.pole, NAMES.everything_in("heartbeats"))
            async with beating(
                site.pole,
                NAMES,
                service="emitter",
                instance="pole",
                version="1",
                state=lambda: "running",
                interval_s=0.1,
            ):
                await eventually(lambda: len(heard) > 2, timeout_s=CAUGHT_UP_S)
        assert {(beat.service, beat.instance) for beat in heard} == {("emitter", "pole")}


class TestACutLink:
    async def test_what_was_published_meanwhile_arrives_once_and_in_order(self, site: Site) -> None:
        await site.publish(1000)
        await site.servers.link.cut()
        # All of it is confirmed while there is no link: the Pole waits for nobody.
        await site.publish(20_000)
        assert await site.n_stored(site.pole) == 21_000
        await site.servers.link.restore()
        await site.publish(1000)
        await site.caught_up()

    async def test_a_long_outage_is_caught_up_with_as_fast(self, site: Site) -> None:
        """The broker alone tries ever more rarely: after this outage it took 68 s to notice that it was over."""
        await site.publish(1000)
        await site.servers.link.cut()
        await site.publish(5000)
        await asyncio.sleep(LONG_OUTAGE_S)
        await site.servers.link.restore()
        await site.caught_up()

    async def test_a_link_that_breaks_again_and_again_loses_nothing(self, site: Site) -> None:
        for _ in range(4):
            await site.publish(1000)
            site.servers.link.hang_up()
        await site.caught_up()

    async def test_a_link_that_swallows_everything_loses_nothing(self, site: Site) -> None:
        await site.publish(1000)
        site.servers.link.freeze()
        await site.publish(5000)
        await site.silent_for(5)
        site.servers.link.thaw()
        await site.caught_up()

    async def test_a_silent_link_that_is_gone_loses_nothing(self, site: Site) -> None:
        await site.publish(1000)
        site.servers.link.freeze()
        await site.publish(5000)
        # Both servers have given up a connection that answered no pings, and made others in vain.
        await eventually(lambda: page(site.servers.pole, "varz")["leafnodes"] == 0, timeout_s=90)
        site.servers.link.hang_up()
        site.servers.link.thaw()
        await site.caught_up()


class TestAServerThatDies:
    async def test_the_north_comes_back_and_takes_what_it_missed(self, site: Site) -> None:
        await site.publish(1000)
        await site.caught_up()
        site.servers.north.kill()
        await site.publish(5000)
        await asyncio.to_thread(site.servers.north.start)
        await site.caught_up()

    async def test_the_pole_comes_back_with_its_store(self, site: Site) -> None:
        publishing = asyncio.create_task(site.publish(10_000))
        await eventually(lambda: _is_at_least(site.n_stored(site.north), 500), timeout_s=CAUGHT_UP_S)
        await site.servers.pole.kill_and_restart()
        await publishing
        await site.caught_up()

    async def test_a_full_stream_in_the_north_makes_the_pole_wait(self, servers: PoleAndNorth) -> None:
        """Rather than losing what has no room."""
        async with connect(servers.pole.url, name="p") as pole, connect(servers.north.url, name="n") as north:
            small = replace(EVENTS_LIMITS, max_bytes=1 << 20)
            await reconcile_stream(pole, events_stream(NAMES))
            await reconcile_stream(north, events_stream(NAMES, small))
            async with kept_sourcing(north, [EVENTS], DOMAIN):
                site = Site(servers, pole, north)
                await site.publish(2000)
                await eventually(lambda: _is_at_least(site.n_stored(north), 400), timeout_s=CAUGHT_UP_S)
                js = north.client.jetstream()
                config = (await js.stream_info(EVENTS)).config
                await js.update_stream(config.evolve(max_bytes=1 << 30))
                await site.caught_up()


class TestLargeEvents:
    async def test_pulses_come_north_with_their_event(self, site: Site) -> None:
        pulses = bytes(range(256)) * 12_000
        at_the_pole = await PulseObjects.open(site.pole, NAMES.pulses_bucket)
        in_the_north = await PulseObjects.open(site.north, NAMES.pulses_bucket, from_domain=DOMAIN)
        async with kept_sourcing(site.north, [NAMES.pulses_stream], DOMAIN):
            await site.servers.link.cut()
            name = await at_the_pole.put(pulses)
            with pytest.raises(BrokerUnavailable, match="on its way"):
                await in_the_north.get(name)
            await site.servers.link.restore()

            async def is_there() -> bool:
                try:
                    return await in_the_north.get(name) == pulses
                except BrokerUnavailable:
                    return False

            await eventually(is_there, timeout_s=CAUGHT_UP_S, poll_s=0.1)


class TestWhoMayComeIn:
    async def test_a_server_with_another_key_is_refused(self, servers: PoleAndNorth) -> None:
        stranger = servers.another_pole(
            "stranger", seed=new_seed(), authority=servers.certificate_of_authority
        )
        await self.assert_stays_out(servers, stranger, servers.north, "authentication error")

    async def test_the_pole_does_not_trust_another_north(self, servers: PoleAndNorth) -> None:
        authority = servers.directory / "other.crt"
        authority.write_bytes(CertificateAuthority.create().certificate_pem)
        doubting = servers.another_pole("doubting", seed=servers.seed, authority=authority)
        await self.assert_stays_out(servers, doubting, doubting, "certificate signed by unknown authority")

    async def assert_stays_out(
        self, servers: PoleAndNorth, other: NatsServer, witness: NatsServer, problem: str
    ) -> None:
        await eventually(lambda: page(servers.north, "varz")["leafnodes"] == 1, timeout_s=CAUGHT_UP_S)
        other.start()
        try:
            # Twice: it came again, and was not let in meanwhile.
            await eventually(lambda: witness.log.lower().count(problem) >= 2, timeout_s=CAUGHT_UP_S)
            assert page(servers.north, "leafz")["leafnodes"] == 1
            assert page(other, "varz")["leafnodes"] == 0
        finally:
            other.kill()


class TestTheSource:
    async def test_it_is_made_once_and_stays_when_others_reconcile(self, site: Site) -> None:
        assert await reconcile_source(site.north, EVENTS, DOMAIN) == ()
        js = site.north.client.jetstream()
        config = (await js.stream_info(EVENTS)).config
        await js.update_stream(config.evolve(allow_direct=False))
        # As an emitter in the North does it, who knows of no Pole.
        [drift] = await reconcile_stream(site.north, events_stream(NAMES))
        assert drift.field == "allow_direct"
        await site.publish(10)
        await site.caught_up()

    async def test_it_is_given_back_where_somebody_took_it(self, site: Site) -> None:
        js = site.north.client.jetstream()
        config = (await js.stream_info(EVENTS)).config
        await js.update_stream(config.evolve(sources=None))
        await site.publish(10)
        await site.caught_up()

    async def test_a_pole_that_has_no_stream_yet_is_waited_for(self, servers: PoleAndNorth) -> None:
        async with connect(servers.pole.url, name="p") as pole, connect(servers.north.url, name="n") as north:
            await reconcile_stream(north, events_stream(NAMES))
            async with kept_sourcing(north, [EVENTS], DOMAIN):
                site = Site(servers, pole, north)
                await site.silent_for(0)
                await reconcile_stream(pole, events_stream(NAMES))
                await site.publish(10)
                await site.caught_up()


class TestMetrics:
    async def test_link_and_source_are_shown(self, site: Site) -> None:
        registry = CollectorRegistry()
        registry.register(watch_broker(site.servers.north.monitor_url, site.north))

        async def value(name: str, **labels: str) -> float | None:
            return await asyncio.to_thread(registry.get_sample_value, name, labels)

        source = {"stream": EVENTS, "source": EVENTS, "domain": DOMAIN}
        await site.publish(10)
        await site.caught_up()
        north = "icestream-north"
        assert await value("icestream_broker_leaf_connections", server=north) == 1
        rtt_s = await value("icestream_broker_leaf_rtt_seconds", server=north, peer="icestream-pole")
        assert rtt_s is not None
        assert 0 < rtt_s < 60
        assert await value("icestream_stream_source_lag", **source) == 0
        await site.servers.link.cut()
        await site.silent_for(3)
        assert await value("icestream_broker_leaf_connections", server=north) == 0
        silence_s = await value("icestream_stream_source_silence_seconds", **source)
        assert silence_s is not None
        assert silence_s > 3


async def _is_at_least(count: Awaitable[int], least: int) -> bool:
    return await count >= least
