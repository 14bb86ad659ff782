"""Callers of `ReconstructionService` that ask again as soon as they have an answer."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import uvloop

from benchmarks.load import QUANTILES, repeated
from icestream.codec import event_to_message
from icestream.physics.events import Event
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Called:
    """Unary calls, each from its sending to its answer."""

    concurrency: int
    n_calls: int
    seconds: float
    p50_s: float
    p99_s: float
    p999_s: float

    @property
    def calls_per_s(self) -> float:
        """Rate of all callers together."""
        return self.n_calls / self.seconds


def call(target: str, sample: Sequence[Event], run_id: int, n_calls: int, concurrency: int) -> Called:
    """Ask for the reconstruction of events, one in each call.

    Args:
        target: `host:port` of the router.
        sample: What is repeated under new ids.
        run_id: Of the new ids.
        n_calls: Of all callers together.
        concurrency: Callers, each with one call at a time, on one connection.

    Raises:
        RuntimeError: A call failed.
    """
    # Before the first call: making requests is not what is measured.
    requests = [
        reconstruction_pb2.ReconstructRequest(event=event_to_message(event))
        for event in repeated(sample, run_id, n_calls)
    ]
    try:
        seconds, waits_s = uvloop.run(_call(target, requests, concurrency))
    except grpc.aio.AioRpcError as error:
        # It would not survive the way back from another process.
        raise RuntimeError(f"a call failed with {error.code().name}: {error.details()}") from None
    p50_s, p99_s, p999_s = np.quantile(waits_s, QUANTILES).tolist()
    return Called(concurrency, n_calls, seconds, p50_s, p99_s, p999_s)


async def _call(
    target: str, requests: Sequence[reconstruction_pb2.ReconstructRequest], concurrency: int
) -> tuple[float, list[float]]:
    """How long all calls took together, and each of them."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
        await asyncio.wait_for(channel.channel_ready(), _TIMEOUT_S)
        waits_s, left = list[float](), iter(requests)
        started_s = time.perf_counter()
        await asyncio.gather(*(_ask(stub, left, waits_s) for _ in range(concurrency)))
        return time.perf_counter() - started_s, waits_s


async def _ask(
    stub: reconstruction_pb2_grpc.ReconstructionServiceStub,
    requests: Iterator[reconstruction_pb2.ReconstructRequest],
    waits_s: list[float],
) -> None:
    """One caller, until no request is left."""
    for request in requests:
        sent_s = time.perf_counter()
        await stub.Reconstruct(request, timeout=_TIMEOUT_S)
        waits_s.append(time.perf_counter() - sent_s)
