"""Asks the record service, and says what its statuses mean to somebody at a terminal."""

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

_CALL_TIMEOUT_S = 60.0
_PAGE = 2000
# Pages of 2000 take half a megabyte; a longer one is no reason to fail.
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", 64 << 20)]


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
        self, wanted: record_pb2.ReconstructionFilter, limit: int | None = None
    ) -> AsyncGenerator[list[record_pb2.RecordedReconstruction], None]:
        """What a filter chooses, the latest events first, page by page: one at a time is in memory.

        Args:
            wanted: The filter.
            limit: At most so many; all without it.
        """
        request = record_pb2.ListReconstructionsRequest(filter=wanted)
        n_left = limit
        while n_left is None or n_left > 0:
            request.page_size = _PAGE if n_left is None else min(_PAGE, n_left)
            try:
                response = await self._stub.ListReconstructions(request, timeout=_CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise self._translated(error) from error
            yield list(response.reconstructions)
            request.page_token = response.next_page_token
            if not request.page_token:
                return
            n_left = None if n_left is None else n_left - len(response.reconstructions)

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
