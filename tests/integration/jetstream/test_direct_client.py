import pytest
from nats.errors import ConnectionClosedError

from icestream.runtime.jetstream.connection import Connection, connect
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer


def publish_command(subject: str, payload: bytes) -> bytes:
    return b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)


class Listening:
    """A listener that keeps the payloads."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def __call__(self, _subject: bytes, _reply: bytes, _header: bytes, payload: bytes) -> None:
        if payload == b"bad":
            raise ValueError("a bad message")
        self.heard.append(payload)


async def test_what_was_sent_before_a_flush_is_back_when_it_ends(connection: Connection) -> None:
    listening = Listening()
    await connection.client.listen("a", listening)
    for i in range(100):
        assert connection.client.send(publish_command("a", b"%d" % i))
        # The broker answers the ping after the message, which is with us by then.
        await connection.client.flush()
        assert listening.heard[-1] == b"%d" % i
    assert len(listening.heard) == 100


async def test_messages_of_any_size_are_heard_in_order(connection: Connection) -> None:
    listening = Listening()
    await connection.client.listen("a", listening)
    payloads = [bytes([i]) * n for i, n in enumerate((0, 1, 100, 40_000, 1_000_000, 3, 700_000, 0, 65_536))]
    for payload in payloads:
        assert connection.client.send(publish_command("a", payload))
    await connection.client.flush()
    assert listening.heard == payloads


async def test_ordinary_subscriptions_go_on_beside(connection: Connection) -> None:
    listening = Listening()
    await connection.client.listen("a", listening)
    ordinary = await connection.client.subscribe("b")
    await connection.client.publish("b", b"ordinary", headers={"name": "value"})
    assert connection.client.send(publish_command("a", b"direct"))
    message = await ordinary.next_msg(5)
    assert (message.data, message.headers) == (b"ordinary", {"name": "value"})
    await eventually(lambda: listening.heard == [b"direct"])


async def test_a_drained_subscription_hears_nothing_more(connection: Connection) -> None:
    listening = Listening()
    subscription = await connection.client.listen("a", listening)
    for i in range(50):
        assert connection.client.send(publish_command("a", b"%d" % i))
    await subscription.drain()  # type: ignore[no-untyped-call]
    assert len(listening.heard) == 50
    assert connection.client.send(publish_command("a", b"late"))
    await connection.client.flush()
    assert len(listening.heard) == 50


async def test_a_listener_that_fails_is_reported_and_hears_the_next_message(connection: Connection) -> None:
    listening = Listening()
    await connection.client.listen("a", listening)
    for payload in (b"bad", b"good"):
        assert connection.client.send(publish_command("a", payload))
    await connection.client.flush()
    assert listening.heard == [b"good"]
    assert connection.n_errors == 1


async def test_listening_and_what_was_sent_survive_a_restart_of_the_broker(
    nats_server: NatsServer, connection: Connection
) -> None:
    listening = Listening()
    await connection.client.listen("a", listening)
    nats_server.kill()
    await eventually(lambda: not connection.is_connected)
    assert connection.client.send(publish_command("a", b"while it was away"))
    nats_server.start()
    await eventually(lambda: listening.heard == [b"while it was away"])


async def test_what_waits_for_a_broker_that_is_away_is_bounded(
    nats_server: NatsServer, connection: Connection
) -> None:
    nats_server.kill()
    await eventually(lambda: not connection.is_connected)
    n_taken = 0
    while connection.client.send(publish_command("a", bytes(100_000))):
        n_taken += 1
    assert n_taken == (2 << 20) // len(publish_command("a", bytes(100_000)))


async def test_what_waits_for_a_broker_that_does_not_read_is_bounded_and_arrives_later(
    nats_server: NatsServer, connection: Connection
) -> None:
    listening = Listening()
    await connection.client.listen("a", listening)
    await connection.client.flush()
    nats_server.freeze()
    n_taken, n_refused = 0, 0

    def send_until_refused() -> bool:
        nonlocal n_taken, n_refused
        while connection.client.send(publish_command("a", b"%d" % n_taken + b" " * 100_000)):
            n_taken += 1
        n_refused += 1
        # Each turn of the event loop makes room until the socket takes no more.
        return n_refused > 20

    await eventually(send_until_refused)
    assert connection.client.pending_data_size < (2 << 20) + 200_000
    nats_server.thaw()
    await eventually(lambda: len(listening.heard) == n_taken)
    assert [int(payload) for payload in listening.heard] == list(range(n_taken))


async def test_a_closed_connection_takes_nothing(nats_server: NatsServer) -> None:
    async with connect(nats_server.url, name="short") as connection:
        pass
    assert not connection.client.send(publish_command("a", b""))
    with pytest.raises(ConnectionClosedError):
        await connection.client.listen("a", Listening())
