import asyncio
import hashlib

import pytest

from icestream.errors import BrokerUnavailable, StreamFull, UndecodableMessage
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.topology import Names
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer

LARGE = bytes(range(256)) * 12_000


@pytest.fixture
async def objects(connection: Connection) -> PulseObjects:
    return await PulseObjects.open(connection, Names().pulses_bucket)


async def bucket_bytes(connection: Connection) -> int:
    info = await connection.client.jetstream().stream_info(f"OBJ_{Names().pulses_bucket}")
    return info.state.bytes


@pytest.mark.parametrize("payload", [b"", b"small", LARGE], ids=["empty", "one chunk", "many chunks"])
async def test_what_is_put_can_be_got_by_its_digest(objects: PulseObjects, payload: bytes) -> None:
    name = await objects.put(payload)
    assert name == hashlib.sha256(payload).hexdigest()
    assert await objects.get(name) == payload


async def test_the_client_library_reads_what_is_put(connection: Connection, objects: PulseObjects) -> None:
    name = await objects.put(LARGE)
    store = await connection.client.jetstream().object_store(Names().pulses_bucket)
    assert (await store.get(name)).data == LARGE


async def test_putting_the_same_bytes_again_stores_nothing(
    connection: Connection, objects: PulseObjects
) -> None:
    await objects.put(LARGE)
    n_bytes = await bucket_bytes(connection)
    other = await PulseObjects.open(connection, Names().pulses_bucket)
    await other.put(LARGE)
    assert await bucket_bytes(connection) == n_bytes


async def test_putting_the_same_bytes_at_the_same_time_is_harmless(objects: PulseObjects) -> None:
    first, second = await asyncio.gather(objects.put(LARGE), objects.put(LARGE))
    assert first == second
    assert await objects.get(first) == LARGE


async def test_an_old_object_is_put_again_before_it_expires(connection: Connection) -> None:
    short_lived = await PulseObjects.open(connection, Names().pulses_bucket, max_age_s=0.4)
    name = await short_lived.put(LARGE)
    await asyncio.sleep(0.25)
    await short_lived.put(LARGE)
    await asyncio.sleep(0.25)
    assert await short_lived.get(name) == LARGE


async def test_a_missing_object_is_bad_input(objects: PulseObjects) -> None:
    with pytest.raises(UndecodableMessage, match="there is no object"):
        await objects.get("0" * 64)


async def test_an_object_with_missing_chunks_is_bad_input(
    connection: Connection, objects: PulseObjects
) -> None:
    name = await objects.put(LARGE)
    js, bucket = connection.client.jetstream(), Names().pulses_bucket
    await js.purge_stream(f"OBJ_{bucket}", subject=f"$O.{bucket}.C.>")
    with pytest.raises(UndecodableMessage, match="there is no object"):
        await objects.get(name)


async def test_an_object_under_a_wrong_name_is_bad_input(
    connection: Connection, objects: PulseObjects
) -> None:
    store = await connection.client.jetstream().object_store(Names().pulses_bucket)
    await store.put("0" * 64, b"not what the name says")
    with pytest.raises(UndecodableMessage, match="damaged"):
        await objects.get("0" * 64)


async def test_a_full_bucket_is_full(connection: Connection) -> None:
    small = await PulseObjects.open(connection, Names().pulses_bucket, max_bytes=1 << 20)
    with pytest.raises(StreamFull):
        await small.put(LARGE)


async def test_a_broker_that_is_away_is_unavailable(
    nats_server: NatsServer, connection: Connection, objects: PulseObjects
) -> None:
    name = await objects.put(LARGE)
    nats_server.kill()
    await eventually(lambda: not connection.is_connected)
    with pytest.raises(BrokerUnavailable):
        await objects.get(name)
