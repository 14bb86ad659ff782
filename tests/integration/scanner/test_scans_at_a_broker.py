"""A real scanner and real workers at a real broker; the recos need no model server."""

import asyncio
from pathlib import Path

import grpc
import pytest

from icestream.codec import PulseReference, encode_detached_event, encode_event, encode_pulses
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames
from icestream.runtime.jetstream.stored import StoredMessage, stored_messages
from icestream.runtime.jetstream.topology import Names
from icestream.v1 import scan_pb2
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer
from tests.support.scanner import make_event, running_scan_stack

NAMES = ScanNames(Names())
UNIX_NS = 1_700_000_000 * 10**9


async def log_of(server: NatsServer, scan_id: str) -> list[StoredMessage]:
    async with connect(server.url, name="test") as connection:
        return [message async for message in stored_messages(connection, NAMES.log_of(scan_id))]


async def is_queue_empty(server: NatsServer) -> bool:
    async with connect(server.url, name="test") as connection:
        info = await connection.client.jetstream().stream_info(NAMES.work_stream)
        return info.state.messages == 0


async def test_a_scan_comes_to_its_end(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running_scan_stack(nats_server, tmp_path) as stack, stack.client() as client:
        scan = await client.start(make_event(start_unix_ns=UNIX_NS), progression="8:0,64:12")
        assert scan.state in (scan_pb2.SCAN_STATE_QUEUED, scan_pb2.SCAN_STATE_RUNNING)
        ended = await client.ended(scan.scan_id)
        skymap = await client.skymap(scan.scan_id)
    assert ended.state == scan_pb2.SCAN_STATE_COMPLETE
    assert [level.nside for level in ended.progress.levels] == [8, 64]
    assert ended.progress.n_fits_done == ended.progress.n_fits_sent == sum(map(len, skymap.levels))
    assert skymap.is_complete
    assert len(skymap.levels[0]) == 768
    best = min((float(level.llh.min()), level.nside) for level in skymap.levels)
    assert (ended.best.llh, ended.best.nside) == best
    kinds = [NAMES.parse_log(message.subject)[1] for message in await log_of(nats_server, scan.scan_id)]
    assert (kinds[0], kinds[-1]) == (LogEntry.ACCEPTED, LogEntry.ENDED)
    assert set(kinds[1:-1]) == {LogEntry.RESULT}
    assert ended.revision >= len(kinds)
    assert await is_queue_empty(nats_server)


@pytest.mark.parametrize("is_detached", [False, True])
async def test_an_event_of_the_stream_is_scanned_by_its_name(
    nats_server: NatsServer, tmp_path: Path, is_detached: bool
) -> None:
    event = make_event(5, n_pulses=40)
    async with running_scan_stack(nats_server, tmp_path) as stack, stack.client() as client:
        async with (
            connect(nats_server.url, name="test") as connection,
            WindowedPublisher(connection) as publisher,
        ):
            payload = encode_event(event)
            if is_detached:
                objects = await PulseObjects.open(connection, NAMES.names.pulses_bucket)
                stored = encode_pulses(event.pulses)
                reference = PulseReference(NAMES.names.pulses_bucket, await objects.put(stored), len(stored))
                payload = encode_detached_event(event, reference)
            for number in (3, 5):
                subject, message_id = NAMES.names.events("icecube86", "test"), f"icecube86/7.{number}.0"
                await publisher.publish(subject, payload, message_id=message_id)
            await publisher.flush()
        request = scan_pb2.StartScanRequest(
            event_name="icecube86/7.5", options=scan_pb2.ScanOptions(reco="dummy")
        )
        request.options.progression.add(nside=1)
        reply = await client.stub.StartScan(request, timeout=10)
        assert (await client.ended(reply.scan.scan_id)).event_id == 5
        request.event_name = "icecube86/7.6.0"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.stub.StartScan(request, timeout=10)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_cancelled_scan_ends_at_once_and_leaves_no_work(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running_scan_stack(nats_server, tmp_path, sleep_s=0.1) as stack, stack.client() as client:
        scan = await client.start(progression="16:0")
        await client.done(scan.scan_id, 64)
        reply = await client.stub.CancelScan(scan_pb2.CancelScanRequest(scan_id=scan.scan_id), timeout=10)
        assert reply.scan.state == scan_pb2.SCAN_STATE_CANCELLED
        assert 64 <= reply.scan.progress.n_fits_done < 3072
        await eventually(lambda: is_queue_empty(nats_server))
        skymap = await client.skymap(scan.scan_id)
        assert not skymap.is_complete
        assert len(skymap.levels[0]) == reply.scan.progress.n_fits_done
        again = await client.stub.CancelScan(scan_pb2.CancelScanRequest(scan_id=scan.scan_id), timeout=10)
        assert again.scan == reply.scan


async def test_the_same_request_starts_one_scan_even_at_once_and_after_a_restart(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running_scan_stack(nats_server, tmp_path) as stack:
        async with stack.client() as client:
            scans = await asyncio.gather(
                *(client.start(request_id="nightly", progression="1:0") for _ in range(8))
            )
        assert len({scan.scan_id for scan in scans}) == 1
        stack.scanner.kill()
        await asyncio.sleep(0.2)
        await stack.wait_until_up()
        async with stack.client() as client:
            assert (await client.start(request_id="nightly", progression="1:0")).scan_id == scans[0].scan_id
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.start(request_id="nightly", progression="2:0")
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "was used for another request" in (refused.value.details() or "")
            reply = await client.stub.ListScans(scan_pb2.ListScansRequest(), timeout=5)
            assert len(reply.scans) == 1


async def test_a_watcher_sees_the_scan_to_its_end_and_can_go_on(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running_scan_stack(nats_server, tmp_path, sleep_s=0.03) as stack, stack.client() as client:
        scan = await client.start(progression="8:0")
        seen = []
        async for update in client.stub.WatchScan(
            scan_pb2.WatchScanRequest(scan_id=scan.scan_id, with_skymap=True), timeout=30
        ):
            seen.append(update)
            if len(seen) == 3:
                break
        last = seen[-1].scan.revision
        assert [update.scan.revision for update in seen] == sorted({update.scan.revision for update in seen})
        assert (
            sum(len(level.pixel) // 8 for level in seen[-1].skymap.levels)
            == seen[-1].scan.progress.n_fits_done
        )
        request = scan_pb2.WatchScanRequest(scan_id=scan.scan_id, after_revision=last)
        rest = [update async for update in client.stub.WatchScan(request, timeout=30)]
        assert all(update.scan.revision > last for update in rest)
        assert rest[-1].scan.state == scan_pb2.SCAN_STATE_COMPLETE
        request.after_revision = rest[-1].scan.revision
        assert [update async for update in client.stub.WatchScan(request, timeout=30)] == []
