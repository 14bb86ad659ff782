"""Taking in the streams of a server that is linked as a leaf node: the Pole's, in the North.

The broker does the work: a stream with a source takes everything that the other one holds, and goes on where it
was after an outage. It tries again ever more rarely, however, so that after minutes without a link it may
take another 150 s to notice that the link is back (nats-server 2.15: 30 s for the answer that does not come and up
to 120 s of patience). That is what this module shortens.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from nats import errors as nats_errors
from nats.js.errors import APIError

from icestream.errors import IceStreamError
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.topology import reconcile_source, source_api

CHECK_EVERY_S = 5.0
# A source that is well is heard of every second.
_SILENCE_S = 5.0
_REQUEST_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def kept_sourcing(connection: Connection, streams: Sequence[str], domain: str) -> AsyncIterator[None]:
    """Let streams take from those of the same names in another JetStream domain, and see to it that they do.

    Args:
        connection: To the server whose streams take.
        streams: Their names; they exist.
        domain: Of the other server.

    Raises:
        BrokerUnavailable: JetStream is not ready.
        Misconfigured: There is no such stream here, or the broker refuses the source.
    """
    for stream in streams:
        await reconcile_source(connection, stream, domain)
    ended = asyncio.Event()
    keepers = [asyncio.create_task(_Keeper(connection, one, domain).run(ended)) for one in streams]
    try:
        yield
    finally:
        ended.set()
        # A question that a dead link swallowed must not keep the process from ending.
        await asyncio.wait(keepers, timeout=_END_TIMEOUT_S)
        for keeper in keepers:
            keeper.cancel()


class _Keeper:
    """Watches one source, and starts it anew where it stays silent though the other server answers."""

    def __init__(self, connection: Connection, stream: str, domain: str) -> None:
        self._connection = connection
        self._js = connection.client.jetstream(timeout=_REQUEST_TIMEOUT_S)
        self._stream = stream
        self._domain = domain
        self._n_silent = 0

    async def run(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), CHECK_EVERY_S)
            except TimeoutError:
                await self._check()

    async def _check(self) -> None:
        try:
            here = await self._info("$JS.API")
            if _is_heard(here, source_api(self._domain)):
                self._n_silent = 0
                return
            self._n_silent += 1
            # Twice: a source that was started anew needs a while, too.
            if self._n_silent >= 2 and "config" in await self._info(source_api(self._domain)):
                self._n_silent = 0
                await self._start_anew()
        except (nats_errors.Error, TimeoutError, APIError, IceStreamError) as error:
            # No answer, from here or from there: then there is nothing to do, or it is done the next time.
            _log.debug("source not checked", stream=self._stream, problem=repr(error))

    async def _info(self, api: str) -> dict[str, Any]:
        request = f"{api}.STREAM.INFO.{self._stream}"
        reply = await self._connection.client.request(request, timeout=_REQUEST_TIMEOUT_S)
        info: dict[str, Any] = json.loads(reply.data)
        return info

    async def _start_anew(self) -> None:
        """Take the source away and give it back: the stream knows where it was."""
        config = (await self._js.stream_info(self._stream)).config
        api = source_api(self._domain)
        others = [one for one in config.sources or () if one.external is None or one.external.api != api]
        if len(others) < len(config.sources or ()):
            _log.info("source started anew", stream=self._stream, domain=self._domain)
            await self._js.update_stream(config.evolve(sources=others))
            await self._js.update_stream(config)
        else:
            # Somebody was stopped between the two lines above.
            await reconcile_source(self._connection, self._stream, self._domain)


def _is_heard(info: dict[str, Any], api: str) -> bool:
    silences_ns = [
        source["active"] for source in info.get("sources", ()) if source.get("external", {}).get("api") == api
    ]
    return any(0 <= silence_ns < _SILENCE_S * 1e9 for silence_ns in silences_ns)
