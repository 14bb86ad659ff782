from pathlib import Path

import pytest

from icestream.errors import BrokerUnavailable, Misconfigured
from icestream.runtime.jetstream.connection import Connection, Credentials, connect, without_password
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer, free_port, running_nats_server

ONE_LIMITED_USER = """
authorization { users: [
    { user: emitter, password: secret, permissions: {
        publish: ["icestream.events.>"], subscribe: ["_INBOX_emitter.>"] } }
] }
"""


async def test_a_missing_broker_is_reported_with_its_url_and_what_to_do() -> None:
    url = f"nats://user:secret@127.0.0.1:{free_port()}"
    with pytest.raises(BrokerUnavailable, match=r"no NATS server.*127\.0\.0\.1.*icestream up") as failure:
        async with connect(url, name="test", timeout_s=0.5):
            pass
    assert "secret" not in str(failure.value)


async def test_an_impossible_url_is_misconfigured() -> None:
    with pytest.raises(Misconfigured, match="cannot connect"):
        async with connect("nats://:4222", name="test", timeout_s=0.5):
            pass


async def test_the_connection_comes_back_and_everyone_hears_of_it(
    nats_server: NatsServer, connection: Connection
) -> None:
    heard: list[str] = []
    connection.on_reconnect(lambda: heard.append("first"))
    forget = connection.on_reconnect(lambda: heard.append("forgotten"))
    connection.on_reconnect(lambda: heard.append("second"))
    forget()

    await nats_server.kill_and_restart(after_s=0.1)
    await eventually(lambda: heard == ["first", "second"])

    assert connection.is_connected
    assert connection.n_reconnects == 1


async def test_losing_the_broker_shows_in_the_state(nats_server: NatsServer, connection: Connection) -> None:
    assert connection.is_connected
    nats_server.kill()
    await eventually(lambda: not connection.is_connected)
    assert not connection.is_closed


async def test_what_the_broker_forbids_is_counted(tmp_path: Path) -> None:
    credentials = Credentials(user="emitter", password="secret")
    with running_nats_server(tmp_path / "nats", extra_config=ONE_LIMITED_USER) as server:
        async with connect(
            server.url, name="test", credentials=credentials, inbox_prefix="_INBOX_emitter"
        ) as connection:
            await connection.client.publish("icestream.reconstructions.ic86.direction", b"")
            await eventually(lambda: connection.n_permission_violations == 1)
            assert connection.is_connected


async def test_wrong_credentials_are_reported_as_such(tmp_path: Path) -> None:
    credentials = Credentials(user="emitter", password="wrong")
    with (
        running_nats_server(tmp_path / "nats", extra_config=ONE_LIMITED_USER) as server,
        pytest.raises(BrokerUnavailable, match="Authorization Violation"),
    ):
        async with connect(server.url, name="test", credentials=credentials, timeout_s=1.0):
            pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://a:b@one:4222,tls://two:4223", "nats://one:4222,tls://two:4223"),
        ("a:b@one:4222,two:4223,token@three", "one:4222,two:4223,three"),
        ("nats://a:p@ss/w?rd#@one:4222", "nats://one:4222"),
    ],
)
def test_messages_name_every_server_without_who_logs_in(url: str, shown: str) -> None:
    assert without_password(url) == shown
