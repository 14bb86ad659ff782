"""What the recorder of the stack says after it was killed under load: by its commands, its service and its files."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

from icestream.codec import reconstruction_from_message
from icestream.physics.directions import opening_angles_rad
from icestream.physics.events import EventId, Reconstruction
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.scan_topology import ScanNames
from icestream.runtime.jetstream.topology import RECORDER_CONSUMER
from icestream.v1 import event_pb2, record_pb2, record_pb2_grpc, scan_pb2
from tests.support.eventually import eventually
from tests.support.scanner import ScanClient, make_event
from tests.support.stack import (
    ICESTREAM,
    NAMES,
    UpStack,
    assert_each_exactly_once,
    reconstructions_of,
    running,
)

# The first test waits for what a killed recorder held, which comes again after a minute.
pytestmark = pytest.mark.timeout(600)

SEED = 803
RATE = 150
N_KILLS = 2
N_BETWEEN_KILLS = 150
PAGE_SIZE = 100

Record = record_pb2.RecordedReconstruction


@dataclass(frozen=True)
class Recorded:
    """A run that was recorded while its recorder was killed again and again."""

    records: Sequence[Record]
    """Of this run, as pages gave them."""
    page_sizes: Sequence[int]
    reconstructions: Sequence[Reconstruction]
    """What the routers have published of it."""
    before: record_pb2.StatsResponse
    """Of everything, before the run began."""
    after: record_pb2.StatsResponse


@asynccontextmanager
async def recorder_of(stack: UpStack) -> AsyncIterator[Any]:
    """A client of the stack's record service."""
    quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    address = f"127.0.0.1:{stack.endpoints.recorder_grpc}"
    async with grpc.aio.insecure_channel(address, options=quick) as channel:
        yield record_pb2_grpc.RecordServiceStub(channel)  # type: ignore[no-untyped-call]


def of_run(**others: Any) -> record_pb2.ReconstructionFilter:
    return record_pb2.ReconstructionFilter(run_id=SEED, **others)


async def n_recorded(recorder: Any) -> int:
    """Of our run; none while the recorder is away."""
    try:
        reply = await recorder.Stats(record_pb2.StatsRequest(filter=of_run()), timeout=20)
    except grpc.aio.AioRpcError:
        return 0
    return int(reply.n_reconstructions)


async def pages_of(recorder: Any, wanted: record_pb2.ReconstructionFilter) -> list[list[Record]]:
    request = record_pb2.ListReconstructionsRequest(filter=wanted, page_size=PAGE_SIZE)
    pages = []
    while True:
        reply = await recorder.ListReconstructions(request, timeout=20)
        pages.append(list(reply.reconstructions))
        request.page_token = reply.next_page_token
        if not request.page_token:
            return pages


async def publish_garbage(stack: UpStack) -> None:
    async with (
        connect(stack.endpoints.nats_url, name="test") as connection,
        WindowedPublisher(connection) as publisher,
    ):
        subject = NAMES.events("icecube86", "records")
        await (await publisher.publish(subject, b"\xff", message_id=f"garbage-of-{SEED}"))


async def scan(stack: UpStack) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.scanner_grpc}") as channel:
        client = ScanClient(channel)
        started = await client.start(make_event(SEED), progression="1:0")
        assert (await client.ended(started.scan_id)).state == scan_pb2.SCAN_STATE_COMPLETE


async def everything_is_answered(stack: UpStack) -> bool:
    """Whether nothing waits for the recorder, or is at it."""
    async with connect(stack.endpoints.nats_url, name="test") as connection:
        js = connection.client.jetstream()
        streams = (NAMES.reconstructions_stream, NAMES.dead_letter_stream, ScanNames(NAMES).log_stream)
        infos = [await js.consumer_info(stream, RECORDER_CONSUMER) for stream in streams]
    return not any(info.num_pending or info.num_ack_pending for info in infos)


async def record_under_fire(stack: UpStack, log: Path) -> Recorded:
    """Publish until the recorder was killed so often, and wait until it has made up for it."""
    flags = ("--seed", str(SEED), "--source", "records", "--rate", str(RATE), "--trace-ratio", "0")
    async with recorder_of(stack) as recorder:
        before = await recorder.Stats(record_pb2.StatsRequest(), timeout=20)
        with running(stack.command("emit", *flags), log) as emitter:
            for number in range(1, N_KILLS + 2):

                async def enough_are_recorded(number: int = number) -> bool:
                    return await n_recorded(recorder) >= number * N_BETWEEN_KILLS

                await eventually(enough_are_recorded, timeout_s=90.0, poll_s=0.05)
                if number <= N_KILLS:
                    stack.kill("services.recorder")
            emitter.send_signal(signal.SIGTERM)
            assert emitter.wait(30) == 0, log.read_text()
        await publish_garbage(stack)
        await scan(stack)
        await assert_each_exactly_once(stack, SEED)
        # What a killed recorder held comes again after its --ack-wait-s, a minute.
        await eventually(lambda: everything_is_answered(stack), timeout_s=150.0, poll_s=0.2)
        pages = await pages_of(recorder, of_run())
        return Recorded(
            records=[record for page in pages for record in page],
            page_sizes=[len(page) for page in pages],
            reconstructions=await reconstructions_of(stack, SEED),
            before=before,
            after=await recorder.Stats(record_pb2.StatsRequest(), timeout=20),
        )


@pytest.fixture(scope="module")
def recorded(stack: UpStack, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return asyncio.run(record_under_fire(stack, tmp_path_factory.mktemp("records") / "emitter.log"))


def name_of(record: Record) -> tuple[EventId, str, str]:
    """What there may be one row of."""
    message = record.reconstruction
    event_id = EventId(message.run_id, message.event_id, message.sub_event)
    return event_id, message.model, message.model_version


def sky_vector(centre: scan_pb2.Equatorial) -> np.ndarray[Any, np.dtype[np.float64]]:
    across = np.cos(centre.dec_rad)
    return np.array([across * np.cos(centre.ra_rad), across * np.sin(centre.ra_rad), np.sin(centre.dec_rad)])


def asked(stack: UpStack, *arguments: str) -> str:
    """What `icestream records` prints."""
    command = [ICESTREAM, "records", arguments[0], "--dir", str(stack.directory), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_event_has_one_row_that_says_what_was_published(recorded: Recorded) -> None:
    published = {(row.event_id, row.model.name, row.model.version): row for row in recorded.reconstructions}
    names = [name_of(record) for record in recorded.records]
    assert len(names) >= N_KILLS * N_BETWEEN_KILLS
    assert sorted(names) == sorted(published)
    for record in recorded.records:
        assert reconstruction_from_message(record.reconstruction) == published[name_of(record)]


def test_pages_are_full_and_begin_with_the_latest(recorded: Recorded) -> None:
    assert set(recorded.page_sizes[:-1]) == {PAGE_SIZE}
    times = [record.reconstruction.start_unix_ns for record in recorded.records]
    assert times == sorted(times, reverse=True)


async def test_an_event_is_found_by_its_name(stack: UpStack, recorded: Recorded) -> None:
    wanted = recorded.records[len(recorded.records) // 2]
    request = record_pb2.GetReconstructionRequest(
        detector="icecube86", run_id=SEED, event_id=wanted.reconstruction.event_id
    )
    async with recorder_of(stack) as recorder:
        reply = await recorder.GetReconstruction(request, timeout=20)
    assert list(reply.reconstructions) == [wanted]


@pytest.mark.parametrize("radius_deg", [1.0, 20.0, 90.0])
async def test_a_cone_holds_what_is_close_in_the_sky(
    stack: UpStack, recorded: Recorded, radius_deg: float
) -> None:
    centre = recorded.records[0].equatorial
    sky = np.array([sky_vector(record.equatorial) for record in recorded.records])
    is_close = opening_angles_rad(sky, sky_vector(centre)) <= np.radians(radius_deg)
    cone = record_pb2.Cone(centre=centre, radius_rad=np.radians(radius_deg))
    async with recorder_of(stack) as recorder:
        found = [record for page in await pages_of(recorder, of_run(cone=cone)) for record in page]
    assert found == [recorded.records[row] for row in np.flatnonzero(is_close).tolist()]


async def test_statistics_know_each_kind_of_event(stack: UpStack, recorded: Recorded) -> None:
    async with recorder_of(stack) as recorder:
        stats = await recorder.Stats(record_pb2.StatsRequest(filter=of_run()), timeout=20)
    assert stats.n_reconstructions == len(recorded.records)
    assert {quality.kind for quality in stats.models} == {
        event_pb2.EVENT_KIND_THROUGH_GOING_TRACK,
        event_pb2.EVENT_KIND_STARTING_TRACK,
        event_pb2.EVENT_KIND_CASCADE,
    }
    for quality in stats.models:
        angles_rad = [
            record.opening_angle_rad
            for record in recorded.records
            if record.reconstruction.truth.kind == quality.kind
        ]
        assert quality.model == "direction"
        assert quality.n_reconstructions == quality.n_with_truth == len(angles_rad)
        assert quality.median_opening_angle_rad == pytest.approx(np.median(angles_rad))


def test_a_dead_letter_and_a_scan_are_counted_once(recorded: Recorded) -> None:
    def n_letters(stats: record_pb2.StatsResponse) -> int:
        wanted = ("router", "undecodable_message")
        return sum(one.n_letters for one in stats.dead_letters if (one.service, one.reason) == wanted)

    def n_scans(stats: record_pb2.StatsResponse) -> int:
        wanted = ("dummy", scan_pb2.SCAN_STATE_COMPLETE)
        return sum(one.n_scans for one in stats.scans if (one.reco, one.state) == wanted)

    assert n_letters(recorded.after) == n_letters(recorded.before) + 1
    assert n_scans(recorded.after) == n_scans(recorded.before) + 1


def test_commands_list_show_and_count_the_same(stack: UpStack, recorded: Recorded) -> None:
    listed = asked(stack, "list", "--run", str(SEED), "--limit", "100000", "--json").splitlines()
    assert [json_format.Parse(line, Record()) for line in listed] == list(recorded.records)
    event_id, *_ = name_of(recorded.records[0])
    [shown] = asked(stack, "show", f"icecube86/{event_id}", "--json").splitlines()
    assert json_format.Parse(shown, Record()) == recorded.records[0]
    counted = json.loads(asked(stack, "stats", "--run", str(SEED), "--json"))
    assert int(counted["n_reconstructions"]) == len(recorded.records)
    assert f"{len(recorded.records)} reconstructions" in asked(stack, "stats", "--run", str(SEED))


def test_an_exported_file_has_the_same_rows(stack: UpStack, recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    said = json.loads(asked(stack, "export", str(path), "--run", str(SEED), "--json"))
    assert said == {"file": str(path), "n_reconstructions": len(recorded.records)}
    columns = pq.read_table(path).to_pydict()
    rows = [record.reconstruction for record in recorded.records]
    assert columns["run_id"] == [SEED] * len(rows)
    assert columns["event_id"] == [row.event_id for row in rows]
    assert columns["model_version"] == [row.model_version for row in rows]
    assert columns["azimuth_rad"] == [row.direction.azimuth_rad for row in rows]
    assert columns["kappa"] == [row.kappa for row in rows]
    assert columns["truth_zenith_rad"] == [row.truth.zenith_rad for row in rows]
    assert columns["opening_angle_rad"] == [record.opening_angle_rad for record in recorded.records]
    assert columns["ra_rad"] == [record.equatorial.ra_rad for record in recorded.records]
    assert columns["recorded_unix_ns"] == [record.recorded_unix_ns for record in recorded.records]
