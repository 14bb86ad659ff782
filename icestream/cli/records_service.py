"""Asks the record service, and says what its statuses mean to somebody at a terminal."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import grpc
import typer
from grpc_status import rpc_status

from icestream.cli.access import Access
from icestream.cli.target import endpoints_in
from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    InvalidInput,
    Misconfigured,
    TooManyRequests,
    Unavailable,
)
from icestream.runtime.endpoints import LOOPBACK
from icestream.v1 import record_pb2, record_pb2_grpc

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="host:port of a record service's gRPC; by default the local stack's.",
        show_default=False,
    ),
]

PATIENCE_S = 30.0
"""For so long a page is asked for again and again."""

_CALL_TIMEOUT_S = 60.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_PAGE = 2000
_CHANNEL_OPTIONS = [
    # Pages of 2000 take half a megabyte; a longer one is no reason to fail.
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def recorder_address(directory: Path, given: str | None) -> str:
    """The address that was given, or the local stack's."""
    return given or f"{LOOPBACK}:{endpoints_in(directory).recorder_grpc}"


class RecordService:
    """A record service; an async context manager that owns the connection.

    All calls raise what the status means: `InvalidInput` for what can never work, `Unavailable`, `TooManyRequests` or
    `DeadlineExceeded` for what may work later.
    """

    def __init__(self, address: str, access: Access) -> None:
        self._address = address
        self._access = access

    async def __aenter__(self) -> Self:
        self._channel = self._access.channel(self._address, _CHANNEL_OPTIONS)
        self._stub = record_pb2_grpc.RecordServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

    async def get(
        self, request: record_pb2.GetReconstructionRequest
    ) -> list[record_pb2.RecordedReconstruction]:
        """What is recorded of one event."""
        try:
            response = await self._stub.GetReconstruction(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        return list(response.reconstructions)

    async def stats(self, request: record_pb2.StatsRequest) -> record_pb2.StatsResponse:
        """Counts and qualities."""
        try:
            response: record_pb2.StatsResponse = await self._stub.Stats(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        return response

    async def pages(
        self,
        wanted: record_pb2.ReconstructionFilter,
        limit: int | None,
        on_break: Callable[[IceStreamError], object],
    ) -> AsyncGenerator[list[record_pb2.RecordedReconstruction], None]:
        """What a filter chooses, the latest events first, page by page: one at a time is in memory.

        Goes on after a failure that passes, unless it hits the very first page.

        Args:
            wanted: The filter.
            limit: At most so many; all without it.
            on_break: Told what keeps a page away for now, once for each page.
        """
        request = record_pb2.ListReconstructionsRequest(filter=wanted)
        n_left = limit
        while n_left is None or n_left > 0:
            request.page_size = _PAGE if n_left is None else min(_PAGE, n_left)
            response = await self._page(request, on_break)
            yield list(response.reconstructions)
            request.page_token = response.next_page_token
            if not request.page_token:
                return
            n_left = None if n_left is None else n_left - len(response.reconstructions)

    async def _page(
        self,
        request: record_pb2.ListReconstructionsRequest,
        on_break: Callable[[IceStreamError], object],
    ) -> record_pb2.ListReconstructionsResponse:
        give_up_at_s, pause_s = 0.0, _FIRST_PAUSE_S
        while True:
            try:
                response: record_pb2.ListReconstructionsResponse = await self._stub.ListReconstructions(
                    request, timeout=_CALL_TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                failure = self._translated(error)
                if not (failure.retryable and request.page_token):
                    raise failure from error
                if not give_up_at_s:
                    give_up_at_s = time.monotonic() + PATIENCE_S
                    on_break(failure)
                elif time.monotonic() > give_up_at_s:
                    raise failure from error
            else:
                return response
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _translated(self, error: grpc.aio.AioRpcError) -> IceStreamError:
        code, problem = error.code(), error.details() or error.code().name
        if (refusal := self._access.refusal(error, self._address)) is not None:
            return refusal
        if code is grpc.StatusCode.UNAVAILABLE and rpc_status.from_call(error) is None:  # type: ignore[arg-type]
            # The service itself gives the reason, and when to try again.
            return Unavailable(
                f"no record service answers at {self._address} ({problem}); start one with `icestream up`"
            )
        make = _MEANINGS.get(code)
        return make(problem) if make else Unavailable(f"the record service failed: {code.name}: {problem}")


_MEANINGS: Mapping[grpc.StatusCode, Callable[[str], IceStreamError]] = {
    grpc.StatusCode.NOT_FOUND: InvalidInput,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.UNIMPLEMENTED: lambda problem: Misconfigured(f"that is no record service: {problem}"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: lambda problem: TooManyRequests(
        f"the record service is busy: {problem}"
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: lambda problem: DeadlineExceeded(
        f"the record service did not answer in time: {problem}"
    ),
    grpc.StatusCode.UNAVAILABLE: lambda problem: Unavailable(f"the record service is not ready: {problem}"),
}
"""All others are failures of the service that may pass."""
