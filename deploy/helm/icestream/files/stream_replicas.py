"""Gives every stream and bucket of a deployment as many replicas as its NATS cluster is to keep.

Services make what is missing with one replica, and leave the replicas of what is there alone. So this makes what is
missing as they would, then raises whatever has too few; it never lowers.
"""

import asyncio
import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from nats.js.errors import APIError

from icestream.runtime.jetstream.checkpoints import open_checkpoints
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.login import logged_in, tls_to
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.refusals import refused_request
from icestream.runtime.jetstream.scan_topology import (
    STARTUP_MAX_AGE_S,
    ScanNames,
    scan_log_stream,
    scan_work_stream,
)
from icestream.runtime.jetstream.topology import (
    Names,
    dead_letter_stream,
    events_stream,
    reconcile_stream,
    reconstructions_stream,
)
from icestream.runtime.lifecycle import run_service

_USER = "stream-replicas"
_TIMEOUT_S = 30.0


async def raise_replicas(connection: Connection, names: Names, n_replicas: int) -> list[str]:
    """Make what is missing, and give all of the deployment's streams at least so many replicas.

    Returns:
        The streams that had fewer, buckets by the name of the stream below them.

    Raises:
        IceStreamError: JetStream does not answer, or has fewer servers, or less room, than that takes.
    """
    js = connection.client.jetstream(timeout=_TIMEOUT_S)
    raised = []
    for name in await _make_streams(connection, names):
        config = (await js.stream_info(name)).config
        if (config.num_replicas or 1) < n_replicas:
            try:
                await js.update_stream(config.evolve(num_replicas=n_replicas))
            except APIError as error:
                raise refused_request(error, what=f"{n_replicas} replicas of {name}") from error
            raised.append(name)
    return raised


async def _make_streams(connection: Connection, names: Names) -> list[str]:
    scans = ScanNames(names)
    streams = [
        events_stream(names),
        reconstructions_stream(names),
        dead_letter_stream(names),
        scan_log_stream(scans),
        scan_work_stream(scans),
    ]
    for stream in streams:
        await reconcile_stream(connection, stream)
    await PulseObjects.open(connection, names.pulses_bucket)
    await PulseObjects.open(connection, scans.startup_bucket, max_age_s=STARTUP_MAX_AGE_S)
    await open_checkpoints(connection, names)
    buckets = [names.pulses_stream, f"OBJ_{scans.startup_bucket}", f"KV_{names.checkpoints_bucket}"]
    return [str(stream.name) for stream in streams] + buckets


async def _run(_stop: asyncio.Event) -> None:
    n_replicas = int(sys.argv[1])
    names = Names(os.environ["ICESTREAM_STREAMS_PREFIX"])
    async with _connected() as connection:
        raised = await raise_replicas(connection, names, n_replicas)
    sys.stdout.write(f"raised to {n_replicas} replicas: {', '.join(raised) or 'none, all had them'}\n")


def _connected() -> AbstractAsyncContextManager[Connection]:
    seed_setting, ca_setting = "ICESTREAM_STREAMS_NATS_SEED", "ICESTREAM_STREAMS_NATS_CA"
    url = os.environ["ICESTREAM_STREAMS_NATS_URL"]
    seed, ca = os.environ.get(seed_setting), os.environ.get(ca_setting)
    return logged_in(
        url,
        name=_USER,
        user=_USER,
        seed=Path(seed) if seed else None,
        tls=tls_to(url, Path(ca) if ca else None, ca_setting),
        seed_setting=seed_setting,
        ca_setting=ca_setting,
        timeout_s=_TIMEOUT_S,
    )


if __name__ == "__main__":
    run_service(_run)
