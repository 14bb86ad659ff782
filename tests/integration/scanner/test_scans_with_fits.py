"""Scans with the real fits of track_mpe: a real Triton serves the shipped models to real workers.

All tests share one stack, which outlives what they do to it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.scan_topology import LogEntry
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.local_stack import CHECKOUT
from icestream.scans.recos.track import TRACK_MPE
from icestream.scans.skymap import Skymap
from icestream.v1 import scan_pb2
from tests.integration.scanner.test_scans_survive import (
    NAMES,
    kill_scanner,
    kill_worker,
    restart_broker,
)
from tests.support.eventually import eventually
from tests.support.nats_server import running_nats_server
from tests.support.scanner import (
    ScanClient,
    ScanStack,
    assert_same_map,
    bright_track,
    pointing_at,
    running_scan_stack,
)
from tests.support.triton_server import RunningTriton, running_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

N_WORKERS = 2
N_CATALOGUE = 100
MAX_RUNNING = 4
"""Catalogue scans at a time, by default."""
N_HELD = 3
"""Batches that a worker of default settings holds: two in work and one that waits for its place."""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    with running_triton(CHECKOUT / "model_repository", tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(triton: RunningTriton, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScanStack]:
    directory = tmp_path_factory.mktemp("stack")
    with running_nats_server(directory / "nats") as server:
        async with running_scan_stack(
            server,
            directory,
            n_workers=N_WORKERS,
            triton_url=triton.target,
            # A busy machine is no failure: halves of a batch may differ from the whole in the last bit.
            batch_timeout_s=60.0,
        ) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(stack: ScanStack) -> AsyncIterator[ScanClient]:
    async with stack.client() as client:
        yield client


async def start(client: ScanClient, progression: str, **options: Any) -> scan_pb2.Scan:
    return await client.start(bright_track(), reco="track_mpe", progression=progression, **options)


async def finished(
    client: ScanClient, scan: scan_pb2.Scan, *, n_variations: int = 1
) -> tuple[scan_pb2.Scan, Skymap]:
    """A scan that must end complete, with every pixel once, and its map."""
    ended = await client.ended(scan.scan_id, timeout_s=120.0)
    skymap = await client.skymap(scan.scan_id)
    assert ended.state == scan_pb2.SCAN_STATE_COMPLETE
    assert skymap.is_complete
    for level, progress in zip(skymap.levels, ended.progress.levels, strict=True):
        assert len(np.unique(level.pixel)) == len(level) == progress.n_pixels_planned
        assert np.isfinite(level.llh).all()
    n_fits = n_variations * sum(map(len, skymap.levels))
    assert ended.progress.n_fits_done == ended.progress.n_fits_sent == n_fits
    return ended, skymap


async def test_a_scan_waits_for_a_triton_that_was_killed(
    stack: ScanStack, client: ScanClient, triton: RunningTriton
) -> None:
    calm, calm_map = await finished(client, await start(client, "16:0,64:12"))
    scan = await start(client, "16:0,64:12")
    await client.done(scan.scan_id, TRACK_MPE.batch_size)
    triton.kill()
    try:
        # Both have asked the one that is away.
        await eventually(lambda: all("reason=model_unavailable" in worker.log for worker in stack.workers))
        waiting = await client.get(scan.scan_id)
    finally:
        await asyncio.to_thread(triton.start_again)
    assert 0 < waiting.progress.n_fits_done < len(calm_map.levels[0])
    ended, skymap = await finished(client, scan)
    assert_same_map(skymap, calm_map)
    assert ended.best == calm.best
    assert ended.progress.n_pixels_missing == 0


async def test_real_fits_survive_the_loss_of_every_other_part_in_turn(
    stack: ScanStack, client: ScanClient
) -> None:
    calm, calm_map = await finished(client, await start(client, "32:0,64:12"))
    scan = await start(client, "32:0,64:12")
    # The scanner last: while it is away, workers do all that is in the queue.
    for number, disturb in enumerate((kill_worker, restart_broker, kill_scanner), 1):
        seen = await client.done(scan.scan_id, 2000 * number)
        assert seen.state == scan_pb2.SCAN_STATE_RUNNING
        await disturb(stack)
    ended, skymap = await finished(client, scan)
    assert_same_map(skymap, calm_map)
    assert ended.best == calm.best


async def test_position_variations_are_all_fitted_and_the_best_counts(client: ScanClient) -> None:
    disc = pointing_at(bright_track(), radius_deg=15.0)
    one, map_of_one = await finished(client, await start(client, "16:0,64:6", pointing=disc))
    variations = [scan_pb2.Position(x_m=x_m) for x_m in (0.0, 60.0, -60.0)]
    scan = await start(client, "16:0,64:6", pointing=disc, position_variations=variations)
    best_of_three, map_of_three = await finished(client, scan, n_variations=3)
    # The level begins with the same guesses, so that what a pixel gains from two more is never negative.
    gain = map_of_one.levels[0].llh - map_of_three.levels[0].llh
    assert (gain > -0.01).all()
    assert (gain > 0).any()
    assert best_of_three.best.nside == one.best.nside
    assert best_of_three.best.llh < one.best.llh + 0.01


async def test_a_scan_that_looks_ahead_finds_the_same_direction(client: ScanClient) -> None:
    patient, map_of_patient = await finished(client, await start(client, "16:0,64:12,256:12"))
    scan = await start(client, "16:0,64:12,256:12", predictive_threshold=0.5)
    hasty, map_of_hasty = await finished(client, scan)
    assert hasty.options.predictive_threshold == 0.5
    assert hasty.best.nside == patient.best.nside
    assert hasty.best.pixel == patient.best.pixel or hasty.best.llh < patient.best.llh
    assert map_of_hasty.levels[0].llh.tobytes() == map_of_patient.levels[0].llh.tobytes()
    # It began around what was best when half of the sky was there, which was not yet the best of all.
    assert len(map_of_hasty.levels[1]) > len(map_of_patient.levels[1])


async def test_an_alert_overtakes_a_hundred_scans(stack: ScanStack, client: ScanClient) -> None:
    first = await start(client, "32:0")
    scans = [first, *await asyncio.gather(*(start(client, "32:0") for _ in range(N_CATALOGUE - 1)))]
    await client.done(first.scan_id, TRACK_MPE.batch_size)
    alert, _ = await finished(client, await start(client, "8:0,64:12", priority=100))
    async with connect(stack.server.url, name="test") as connection:
        log = [
            NAMES.parse_log(message.subject) async for message in stored_messages(connection, NAMES.all_logs)
        ]
    for scan in scans:
        await client.stub.CancelScan(scan_pb2.CancelScanRequest(scan_id=scan.scan_id), timeout=10)
    arrival, end = (log.index((alert.scan_id, entry)) for entry in (LogEntry.ACCEPTED, LogEntry.ENDED))
    catalogue = {scan.scan_id for scan in scans}
    results = [entry is LogEntry.RESULT and scan_id in catalogue for scan_id, entry in log]
    n_queued = MAX_RUNNING * 12 * 32**2 // TRACK_MPE.batch_size - sum(results[:arrival])
    # What workers hold when the alert comes, and as much again for a scanner that is slow to plan its next level.
    n_overtaking = sum(results[arrival:end])
    assert n_overtaking <= 2 * N_WORKERS * N_HELD < n_queued / 10
