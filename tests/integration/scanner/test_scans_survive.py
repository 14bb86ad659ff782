"""Whatever is killed while a scan runs: the map is the one that an undisturbed run makes, bit for bit."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from icestream.runtime.deadletters import DeadLetterBox
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.scan_topology import ScanNames
from icestream.runtime.jetstream.topology import Names
from icestream.scan_codec import decode_work
from icestream.v1 import scan_pb2
from tests.support.nats_server import NatsServer
from tests.support.scanner import ScanStack, assert_same_map, make_event, running_scan_stack

NAMES = ScanNames(Names())
EVENT = make_event(start_unix_ns=1_700_000_000 * 10**9)
PROGRESSION = "8:0,32:12"
N_FITS = 768 + 12 * 16


async def kill_scanner(stack: ScanStack) -> None:
    stack.scanner.kill()


async def kill_worker(stack: ScanStack) -> None:
    stack.workers[0].kill()


async def restart_broker(stack: ScanStack) -> None:
    await stack.server.kill_and_restart(after_s=0.3)


async def kill_everything(stack: ScanStack) -> None:
    for part in stack.parts:
        part.kill()
    await stack.server.kill_and_restart(after_s=0.3)


@pytest.mark.parametrize("disturb", [kill_scanner, kill_worker, restart_broker, kill_everything])
async def test_the_map_is_that_of_an_undisturbed_run(
    nats_server: NatsServer, tmp_path: Path, disturb: Callable[[ScanStack], Awaitable[None]]
) -> None:
    async with (
        running_scan_stack(nats_server, tmp_path, n_workers=2, sleep_s=0.05) as stack,
        stack.client() as client,
    ):
        calm = await client.start(EVENT, progression=PROGRESSION)
        calm = await client.ended(calm.scan_id)
        scan = await client.start(EVENT, progression=PROGRESSION)
        await client.done(scan.scan_id, 300)
        await disturb(stack)
        ended = await client.ended(scan.scan_id, timeout_s=40)
        assert_same_map(await client.skymap(scan.scan_id), await client.skymap(calm.scan_id))
    assert ended.state == calm.state == scan_pb2.SCAN_STATE_COMPLETE
    assert ended.progress.n_fits_done == calm.progress.n_fits_done
    assert ended.best.pixel == calm.best.pixel


async def test_what_is_still_in_the_queue_after_a_restart_is_not_queued_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    # Twelve seconds of work: more than a busy machine needs to start a scanner.
    slow = running_scan_stack(nats_server, tmp_path, sleep_s=1.0, batch_timeout_s=10.0)
    async with slow as stack, stack.client() as client:
        scan = await client.start(EVENT, progression="8:0")
        await client.done(scan.scan_id, 32)
        stack.scanner.kill()
        ended = await client.ended(scan.scan_id)
        [(n_batches, n_in_queue)] = re.findall(r"n_batches=(\d+) n_in_queue=(\d+)", stack.scanner.log)
    assert int(n_batches) == 0
    assert int(n_in_queue) > 0
    assert ended.state == scan_pb2.SCAN_STATE_COMPLETE
    assert ended.progress.n_duplicates == 0


async def test_killing_the_scanner_again_and_again_changes_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        running_scan_stack(nats_server, tmp_path, n_workers=2, sleep_s=0.05) as stack,
        stack.client() as client,
    ):
        calm = await client.start(EVENT, progression=PROGRESSION)
        await client.ended(calm.scan_id)
        scan = await client.start(EVENT, progression=PROGRESSION)
        for _ in range(4):
            await asyncio.sleep(0.1)
            await stack.wait_until_up()
            stack.scanner.kill()
        await client.ended(scan.scan_id, timeout_s=40)
        assert_same_map(await client.skymap(scan.scan_id), await client.skymap(calm.scan_id))


async def test_two_scanners_at_one_broker_corrupt_nothing(nats_server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with (
        running_scan_stack(nats_server, tmp_path, n_workers=1, sleep_s=0.02) as stack,
        running_scan_stack(nats_server, tmp_path / "other", n_workers=1, sleep_s=0.02) as other,
        stack.client() as client,
        other.client() as client_of_other,
    ):
        scan = await client.start(EVENT, request_id="same", progression=PROGRESSION)
        same = await client_of_other.start(EVENT, request_id="same", progression=PROGRESSION)
        assert scan.scan_id == same.scan_id
        one, two = await client.ended(scan.scan_id), await client_of_other.ended(scan.scan_id)
        assert one == two
        assert_same_map(await client.skymap(scan.scan_id), await client_of_other.skymap(scan.scan_id))
        assert one.state == scan_pb2.SCAN_STATE_COMPLETE


async def test_a_reco_that_crashes_most_of_the_time_leaves_no_pixel_without_an_outcome(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        running_scan_stack(nats_server, tmp_path, n_workers=3, crash_probability=0.75) as stack,
        stack.client() as client,
    ):
        scan = await client.start(reco="crash_dummy", progression="1:0")
        ended = await client.ended(scan.scan_id, timeout_s=58)
        skymap = await client.skymap(scan.scan_id)
    [level] = skymap.levels
    assert sorted([*level.pixel.tolist(), *level.missing.tolist()]) == list(range(12))
    is_whole = len(level.missing) == 0
    assert ended.state == (scan_pb2.SCAN_STATE_COMPLETE if is_whole else scan_pb2.SCAN_STATE_INCOMPLETE)
    assert ended.progress.n_pixels_missing == len(level.missing)


async def test_every_pixel_of_a_scan_that_mostly_crashes_or_hangs_is_fitted_or_named_as_missing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        running_scan_stack(
            nats_server, tmp_path, n_workers=3, crash_probability=0.75, crash_ways="hang,raise"
        ) as stack,
        stack.client() as client,
    ):
        scan = await client.start(reco="crash_dummy", progression="8:0")
        ended = await client.ended(scan.scan_id, timeout_s=240)
        [level] = (await client.skymap(scan.scan_id)).levels
        async with connect(nats_server.url, name="test") as connection:
            letters = [stored.letter async for stored in DeadLetterBox(connection, NAMES.names).letters()]
        logs = "".join(worker.log for worker in stack.workers)
    assert sorted([*level.pixel.tolist(), *level.missing.tolist()]) == list(range(768))
    assert ended.progress.n_fits_done == 768
    assert ended.progress.n_pixels_missing == len(level.missing)
    is_whole = len(level.missing) == 0
    assert ended.state == (scan_pb2.SCAN_STATE_COMPLETE if is_whole else scan_pb2.SCAN_STATE_INCOMPLETE)
    given_up = [decode_work(letter.payload).batch.pixel.tolist() for letter in letters]
    assert sorted(given_up) == [[pixel] for pixel in level.missing.tolist()]
    assert {letter.reason for letter in letters} <= {"fit_timeout", "unexpected"}
    # It did both: nothing of this is won by luck.
    assert "reason=fit_timeout" in logs
    assert "reason=unexpected" in logs
    assert all(part.n_started == 1 for part in stack.parts)


async def test_an_alert_does_not_wait_for_a_hundred_scans(nats_server: NatsServer, tmp_path: Path) -> None:
    async with (
        running_scan_stack(nats_server, tmp_path, n_workers=1, sleep_s=0.05) as stack,
        stack.client() as client,
    ):
        alone = await client.start(EVENT, priority=100, progression="8:0")
        unloaded_s = (await client.ended(alone.scan_id)).progress.elapsed_s
        await asyncio.gather(*(client.start(make_event(n), progression="8:0,64:12") for n in range(100)))
        alert = await client.start(EVENT, priority=100, progression="8:0")
        loaded_s = (await client.ended(alert.scan_id)).progress.elapsed_s
        request = scan_pb2.ListScansRequest(
            states=[scan_pb2.SCAN_STATE_RUNNING, scan_pb2.SCAN_STATE_QUEUED], page_size=200
        )
        left = (await client.stub.ListScans(request, timeout=5)).scans
    assert len(left) >= 95
    assert sum(scan.state == scan_pb2.SCAN_STATE_RUNNING for scan in left) == 4
    assert loaded_s < 2 * unloaded_s
