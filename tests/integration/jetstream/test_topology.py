from dataclasses import replace
from pathlib import Path

import pytest
from nats.js.api import DiscardPolicy

from icestream.errors import BrokerUnavailable, InvalidInput, Misconfigured
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.topology import (
    EVENTS_LIMITS,
    Drift,
    Names,
    dead_letter_stream,
    events_stream,
    reconcile_consumer,
    reconcile_stream,
    reconstructions_stream,
    router_consumer,
    subject_token,
)


def test_the_default_names_are_the_documented_ones() -> None:
    names = Names()
    assert names.events("ic86", "simulation") == "icestream.events.ic86.simulation"
    assert names.reconstructions("ic86", "direction") == "icestream.reconstructions.ic86.direction"
    assert names.dead_letters("router") == "icestream.deadletter.router"
    assert names.heartbeats("router", "a1") == "icestream.heartbeats.router.a1"
    streams = (names.events_stream, names.reconstructions_stream, names.dead_letter_stream)
    assert streams == ("EVENTS", "RECONSTRUCTIONS", "DEADLETTER")
    assert names.pulses_bucket == "icestream-pulses"


@pytest.mark.parametrize("prefix", ["", "two.tokens", "with space", "all.>", "*"])
def test_a_prefix_that_is_not_one_word_is_refused(prefix: str) -> None:
    with pytest.raises(Misconfigured, match="prefix"):
        Names(prefix)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("ic86", "ic86"),
        ("IceCube 86.v2", "IceCube-86-v2"),
        ("a>*\r\nPUB", "a-PUB"),
        ("host.local", "host-local"),
    ],
)
def test_a_subject_token_cannot_break_the_subject(text: str, token: str) -> None:
    assert subject_token(text) == token


@pytest.mark.parametrize("text", ["", ".", ">"])
def test_a_subject_token_needs_something_to_say(text: str) -> None:
    with pytest.raises(InvalidInput):
        subject_token(text)


async def test_all_streams_and_the_consumer_are_made_and_then_left_alone(connection: Connection) -> None:
    names = Names()
    for _ in range(2):
        for stream in (events_stream(names), reconstructions_stream(names), dead_letter_stream(names)):
            assert await reconcile_stream(connection, stream) == ()
        assert await reconcile_consumer(connection, names.events_stream, router_consumer()) == ()

    js = connection.client.jetstream()
    events = (await js.stream_info("EVENTS")).config
    assert (events.discard, events.retention, events.storage) == ("new", "limits", "file")
    assert events.duplicate_window == 120.0
    router = (await js.consumer_info("EVENTS", "router")).config
    assert (router.ack_wait, router.max_deliver, router.max_ack_pending) == (30.0, -1, 4096)


async def test_drift_of_a_stream_is_corrected_and_reported(connection: Connection) -> None:
    names, js = Names(), connection.client.jetstream()
    await js.add_stream(events_stream(names).evolve(discard=DiscardPolicy.OLD, allow_direct=False))

    drifts = await reconcile_stream(connection, events_stream(names))

    assert drifts == (
        Drift("stream EVENTS", "discard", was="old", now="new"),
        Drift("stream EVENTS", "allow_direct", was=None, now=True),
    )
    assert await reconcile_stream(connection, events_stream(names)) == ()


async def test_limits_that_the_operator_chose_stay(connection: Connection) -> None:
    names, js = Names(), connection.client.jetstream()
    await js.add_stream(events_stream(names).evolve(description="mine", max_bytes=1 << 30))

    assert await reconcile_stream(connection, events_stream(names)) == ()

    config = (await js.stream_info("EVENTS")).config
    assert (config.description, config.max_bytes) == ("mine", 1 << 30)


async def test_drift_of_a_consumer_is_corrected_and_reported(connection: Connection) -> None:
    names = Names()
    await reconcile_stream(connection, events_stream(names))
    await reconcile_consumer(connection, names.events_stream, router_consumer(ack_wait_s=5.0))

    drifts = await reconcile_consumer(connection, names.events_stream, router_consumer(max_ack_pending=100))

    assert drifts == (
        Drift("consumer EVENTS/router", "ack_wait", was=5.0, now=30.0),
        Drift("consumer EVENTS/router", "max_ack_pending", was=4096, now=100),
    )


async def test_a_setting_that_cannot_change_is_misconfigured(connection: Connection) -> None:
    names = Names()
    await connection.client.jetstream().add_stream(
        events_stream(names).evolve(storage="memory", max_bytes=1000)
    )
    with pytest.raises(Misconfigured, match=r"stream EVENTS.*storage"):
        await reconcile_stream(connection, events_stream(names))


async def test_more_bytes_than_the_broker_has_is_misconfigured(connection: Connection) -> None:
    limits = replace(EVENTS_LIMITS, max_bytes=1 << 40)
    with pytest.raises(Misconfigured, match="lower max_bytes"):
        await reconcile_stream(connection, events_stream(Names(), limits))


async def test_a_broker_without_jetstream_is_reported(tmp_path: Path) -> None:
    # The fixture server always has JetStream: a prefix that nobody serves looks the same to a client.
    names = Names()
    from icestream.runtime.jetstream.connection import connect
    from tests.support.nats_server import running_nats_server

    config = """
        accounts { PLAIN { users: [{ user: plain, password: plain }] } }
        no_auth_user: plain
    """
    with running_nats_server(tmp_path / "nats", extra_config=config) as server:
        async with connect(server.url, name="test") as connection:
            with pytest.raises(BrokerUnavailable, match="stream EVENTS"):
                await reconcile_stream(connection, events_stream(names), patience_s=0.5)


async def test_two_deployments_share_a_server(connection: Connection) -> None:
    north, south = Names(), Names("south")
    for names in (north, south):
        await reconcile_stream(connection, events_stream(names))
        await reconcile_consumer(connection, names.events_stream, router_consumer())
    async with WindowedPublisher(connection) as publisher:
        ack = await (await publisher.publish(south.events("ic86", "test"), b"", message_id="1"))
    assert ack.stream == south.events_stream == "south_EVENTS"
    js = connection.client.jetstream()
    assert (await js.stream_info(north.events_stream)).state.messages == 0
