"""Sky scans on the stack of `icestream up`; the dummy reco is all that they need."""

from collections.abc import AsyncIterator

import grpc
import pytest

from icestream.runtime.local_stack import find_jaeger
from icestream.v1 import scan_pb2
from tests.e2e.test_traces import trace_with
from tests.support.scanner import ScanClient, make_event
from tests.support.stack import UpStack

START = "icestream-scanner: icestream.v1.ScanService/StartScan"
BATCH = "icestream-scan-worker: scan.batch"


@pytest.fixture
async def client(stack: UpStack) -> AsyncIterator[ScanClient]:
    quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    address = f"127.0.0.1:{stack.endpoints.scanner_grpc}"
    async with grpc.aio.insecure_channel(address, options=quick) as channel:
        yield ScanClient(channel)


@pytest.mark.skipif(find_jaeger() is None, reason="no jaeger program; `make tools` builds it")
async def test_an_alert_is_traced_from_the_call_to_its_end(stack: UpStack, client: ScanClient) -> None:
    scan = await client.start(make_event(1), priority=100, progression="2:0")
    ended = await client.ended(scan.scan_id)
    assert ended.state == scan_pb2.SCAN_STATE_COMPLETE
    assert ended.trace_id
    wanted = {
        ("", START),
        (START, BATCH),
        (BATCH, "icestream-scan-worker: scan.result"),
        (START, "icestream-scanner: scan"),
    }
    assert await trace_with(stack, ended.trace_id, wanted) == wanted


async def test_a_catalogue_scan_is_not_traced_without_a_share(client: ScanClient) -> None:
    scan = await client.start(make_event(2), progression="1:0")
    assert (await client.ended(scan.scan_id)).trace_id == ""


@pytest.mark.parametrize("part", ["services.scanner.coordinator", "services.scanner.worker", "nats-server"])
async def test_a_scan_outlives_the_parts_that_work_on_it(
    stack: UpStack, client: ScanClient, part: str
) -> None:
    scan = await client.start(make_event(3), progression="16:0")
    await client.done(scan.scan_id, 500)
    stack.kill(part)
    ended = await client.ended(scan.scan_id)
    assert ended.state == scan_pb2.SCAN_STATE_COMPLETE
    assert len((await client.skymap(scan.scan_id)).levels[0]) == 3072
