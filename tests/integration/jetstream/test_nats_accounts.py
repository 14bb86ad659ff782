"""What a user outside of our cluster reaches by naming where an answer goes: nothing, from an account of its own."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from icestream.runtime.jetstream.connection import Connection
from tests.integration.jetstream.test_nats_users import (
    ANSWER,
    EVENT,
    REPOSITORY,
    RESULT,
    STREAMS,
    WORK,
    consumer,
    make_everything,
)
from tests.support.eventually import eventually
from tests.support.secure_nats import SecureNats, running_secure_nats

OUTSIDERS = ("emitter", "scan-worker", "subscriber")
OUTSIDE_INBOX = "_INBOX_{user}.stolen"
MINE = {"name": "MINE", "subjects": ["mine.>"], "sources": [{"name": "EVENTS"}], "num_replicas": 1}

ALL_STREAMS = (*STREAMS, "KV_icestream-emitter", "OBJ_icestream-scan-startup")

REPLIES = (
    *(f"$JS.API.STREAM.DELETE.{stream}" for stream in ALL_STREAMS),
    *(f"$JS.API.STREAM.PURGE.{stream}" for stream in ALL_STREAMS),
    "$JS.API.CONSUMER.CREATE.EVENTS",
    "$JS.API.CONSUMER.DELETE.EVENTS.router",
    "$JS.API.STREAM.CREATE.MINE",
    "icestream.events.forged.x",
    "icestream.reconstructions.forged.x",
    "icestream.scans.log.forged.accepted",
    "icestream.deadletter.forged",
)
"""What would harm if the server answered there as itself."""

KEPT = {
    EVENT: "emitter",
    ANSWER: "router",
    "icestream.deadletter.router": "router",
    RESULT: "scan-worker",
    WORK: "scanner",
    "$O.icestream-pulses.M.kept": "emitter",
}
"""A subject of each stream, and who stores something there."""


@dataclass(frozen=True)
class Broker:
    """What must stay as it is."""

    streams: dict[str, Any]
    consumers: dict[str, Any]
    kept: dict[str, int]
    forged: set[str]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureNats]:
    with running_secure_nats(tmp_path_factory.mktemp("accounts")) as server:
        asyncio.run(make_everything(server))
        asyncio.run(fill(server))
        yield server


async def fill(server: SecureNats) -> None:
    """Something in each stream that could be lost."""
    for subject, user in KEPT.items():
        async with server.logged_in(user) as connection:
            for number in range(3):
                await connection.client.jetstream().publish(subject, b"message %d" % number)


async def broker(server: SecureNats) -> Broker:
    async with server.logged_in("operator") as operator:
        js = operator.client.jetstream()
        settings, kept, forged, consumers = dict[str, Any](), dict[str, int](), set[str](), dict[str, Any]()
        for stream in [str(info.config.name) for info in await js.streams_info()]:
            info = await js.stream_info(stream, subjects_filter=">")
            settings[stream] = info.config
            subjects = info.state.subjects or {}
            kept |= {subject: n for subject, n in subjects.items() if subject in KEPT}
            forged |= {subject for subject in subjects if "forged" in subject}
            for each in await js.consumers_info(stream):
                if each.config.durable_name:
                    consumers[f"{stream}/{each.name}"] = each.config
        return Broker(settings, consumers, kept, forged)


def permitted(user: str) -> list[str]:
    """What this user may publish, a subject for each line of its rights."""
    patterns = _quoted(
        _account(user).partition("publish:")[2].partition("subscribe:")[0].partition("deny:")[0]
    )
    return [re.sub(r"[*>]", "x", pattern) for pattern in patterns]


def _account(user: str) -> str:
    """What users.conf says of the account of one user, without comments."""
    text = re.sub(r"#.*", "", (REPOSITORY / "deploy/nats/users.conf").read_text())
    [account] = re.findall(rf"^  {user.upper().replace('-', '_')} {{\n(.*?)^  }}$", text, re.S | re.M)
    return str(account)


def _quoted(text: str) -> list[str]:
    return re.findall(r'"([^"]+)"', text)


def bodies(user: str) -> list[bytes]:
    config = {"deliver_subject": OUTSIDE_INBOX.format(user=user), "ack_policy": "none"}
    return [
        *(b"", b"{bad", b'{"seq":99999}', b'{"seq":1}', b'{"batch":1,"no_wait":true}'),
        json.dumps({"stream_name": "EVENTS", "config": config}).encode(),
        json.dumps(MINE).encode(),
    ]


async def settled(connection: Connection) -> None:
    await connection.client.request("$SYS.REQ.USER.INFO")
    await asyncio.sleep(0.5)


@pytest.mark.parametrize("user", OUTSIDERS)
async def test_an_answer_that_goes_elsewhere_changes_nothing(secure: SecureNats, user: str) -> None:
    before = await broker(secure)
    assert set(before.streams) == set(ALL_STREAMS)
    assert before.kept == dict.fromkeys(KEPT, 3)
    stolen = list[bytes]()

    async def on_message(message: Any) -> None:
        stolen.append(message.data)

    async with secure.logged_in(user) as connection:
        await connection.client.subscribe(OUTSIDE_INBOX.format(user=user), cb=on_message)
        if user == "subscriber":
            # The one that its pulls below are for.
            pulled = "icestream.reconstructions.>"
            config = consumer("RECONSTRUCTIONS", name="x", filter_subject=pulled, inactive_threshold=10**11)
            await connection.client.request(f"$JS.API.CONSUMER.CREATE.RECONSTRUCTIONS.x.{pulled}", config)
        # An emitter's objects hold the body of this round, which direct gets answer with.
        for body in bodies(user):
            for subject in permitted(user):
                for reply in REPLIES:
                    await connection.client.publish(subject, body, reply=reply)
            await connection.client.flush()
        await settled(connection)
        assert connection.n_permission_violations == 0

    assert await broker(secure) == before
    assert stolen == []


async def test_an_answer_cannot_acknowledge_what_others_work_on(secure: SecureNats) -> None:
    """The server refuses such a reply in any account; should it not, an empty answer would be an acknowledgement."""
    async with secure.logged_in("emitter") as connection:
        await connection.client.publish(EVENT, b"", reply="$JS.ACK.EVENTS.router.1.1.1.1.1")
        await eventually(lambda: connection.n_permission_violations == 1)


@pytest.mark.parametrize("user", OUTSIDERS)
def test_an_account_imports_what_its_user_may_and_nothing_else(user: str) -> None:
    rights, _, imports = _account(user).partition("imports:")
    published, _, heard = rights.partition("subscribe:")
    services, streams = (
        {
            subject
            for line in imports.splitlines()
            if f"{{ {kind}: {{ account: ICESTREAM" in line
            for subject in _quoted(line)
        }
        for kind in ("service", "stream")
    )

    # What the server itself answers, and what keeps it from answering everything itself.
    assert services == {*_quoted(published.partition("deny:")[0])} - {"$SYS.REQ.USER.INFO"} | {"$JS.API.INFO"}
    assert streams == ({*_quoted(heard)} if user == "subscriber" else set())
