import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, BrokenBarrierError
from typing import Any

import grpc
import pytest

from benchmarks.grpc_load import Called, call
from benchmarks.load import sample_events
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc

RUN_ID, N_CALLS, CONCURRENCY = 7, 24, 4
PATIENCE_S = 10.0


class Service(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """Answers only when as many calls are in work as the barrier waits for."""

    def __init__(self, together: Barrier) -> None:
        self.asked = list[tuple[int, int]]()
        self._together = together

    def Reconstruct(  # noqa: N802 - the name of the rpc
        self, request: reconstruction_pb2.ReconstructRequest, context: grpc.ServicerContext
    ) -> Any:
        self.asked.append((request.event.run_id, request.event.event_id))
        try:
            self._together.wait()
        except BrokenBarrierError:
            context.abort(grpc.StatusCode.UNAVAILABLE, "others were expected")
        return reconstruction_pb2.ReconstructResponse()


@contextmanager
def served(service: Service) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2 * CONCURRENCY))
    add = reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server
    add(service, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


async def called(target: str, n_calls: int) -> Called:
    """As from a process of its own, which has no event loop yet."""
    return await asyncio.to_thread(call, target, sample_events(3), RUN_ID, n_calls, CONCURRENCY)


async def test_as_many_calls_as_callers_are_under_way_at_once() -> None:
    service = Service(Barrier(CONCURRENCY, timeout=PATIENCE_S))
    with served(service) as target:
        found = await called(target, N_CALLS)
    assert sorted(service.asked) == [(RUN_ID, number) for number in range(N_CALLS)]
    assert (found.n_calls, found.concurrency) == (N_CALLS, CONCURRENCY)
    assert 0 < found.p50_s <= found.p99_s <= found.p999_s <= found.seconds
    assert found.calls_per_s == pytest.approx(N_CALLS / found.seconds)


async def test_a_call_that_fails_ends_the_measurement() -> None:
    broken = Barrier(CONCURRENCY)
    broken.abort()
    with served(Service(broken)) as target, pytest.raises(RuntimeError, match="UNAVAILABLE: others were"):
        await called(target, N_CALLS)
