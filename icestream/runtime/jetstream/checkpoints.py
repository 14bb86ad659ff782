"""The key-value bucket in which emitters keep how far they are."""

from nats import errors as nats_errors
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import APIError, BucketNotFoundError
from nats.js.kv import KeyValue

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.rights import rights_of
from icestream.runtime.jetstream.topology import Names, wait_for_stream

_TIMEOUT_S = 5.0


async def open_checkpoints(connection: Connection, names: Names) -> KeyValue:
    """Open the bucket, and make it where there is none; who may not make it waits for whoever may.

    Routers open it as well, because an emitter with no more rights than it needs makes no streams.

    Raises:
        BrokerUnavailable: The broker does not answer, or nobody makes the bucket.
    """
    js, name = connection.client.jetstream(timeout=_TIMEOUT_S), names.checkpoints_bucket
    try:
        try:
            await js.key_value(name)
        except BucketNotFoundError:
            if (await rights_of(connection)).may_create_stream(f"KV_{name}"):
                config = KeyValueConfig(bucket=name, history=1, storage=StorageType.FILE)
                await js.create_key_value(config)
            else:
                await wait_for_stream(connection, f"KV_{name}")
    except (nats_errors.Error, APIError) as error:
        raise BrokerUnavailable(f"the broker does not open the bucket {name}: {error!r}") from error
    # Not as the bucket says: one that NATS' own tools made offers direct gets, which emitters may not ask for.
    return KeyValue(name, stream=f"KV_{name}", pre=f"$KV.{name}.", js=js, direct=False)
