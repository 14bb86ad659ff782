"""Sky scans on the stack of `icestream up`: with the dummy reco where that is enough, else with real fits."""

import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from icestream.physics.detector import icecube86
from icestream.readers.kaggle import KaggleWriter
from icestream.runtime.local_stack import find_jaeger
from icestream.skymaps.skyreader_reader import read_skymap
from icestream.v1 import scan_pb2
from tests.e2e.test_traces import trace_with
from tests.support.eventually import eventually
from tests.support.scanner import ScanClient, assert_same_map, bright_track, make_event
from tests.support.stack import UpStack

START = "icestream-scanner: icestream.v1.ScanService/StartScan"
BATCH = "icestream-scan-worker: scan.batch"
INFER = "icestream-scan-worker: infer pixel_fit_track"
TRITON = "triton: triton pixel_fit_track"
SCAN = "icestream-scanner: scan"
RECORD = "icestream-recorder: record scans"
RESULT_FILES = {
    ".json",
    ".npz",
    ".multiorder.fits",
    ".flat.fits.gz",
    ".contours.ecsv",
    ".contours.wilks.ecsv",
    ".sky.png",
    ".sky.pdf",
    ".zoom.png",
    ".zoom.pdf",
}


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
        (START, SCAN),
        (START, RECORD),
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


async def test_a_scan_with_real_fits_waits_for_a_triton_that_was_killed(
    stack: UpStack, client: ScanClient
) -> None:
    event = bright_track()
    calm = await client.start(event, reco="track_mpe", progression="16:0,64:12")
    assert (await client.ended(calm.scan_id)).state == scan_pb2.SCAN_STATE_COMPLETE
    scan = await client.start(event, reco="track_mpe", progression="16:0,64:12")
    await client.done(scan.scan_id, 192)
    pid = stack.part("tritonserver").pid
    stack.kill("tritonserver")
    killed = await client.get(scan.scan_id)
    ended = await client.ended(scan.scan_id, timeout_s=120.0)
    assert killed.state == scan_pb2.SCAN_STATE_RUNNING
    assert ended.state == scan_pb2.SCAN_STATE_COMPLETE
    assert_same_map(await client.skymap(scan.scan_id), await client.skymap(calm.scan_id))
    assert stack.part("tritonserver").pid != pid


@pytest.fixture(scope="module")
def report(stack: UpStack, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What `icestream scan` printed about a bright track in a data set, scanned as an alert."""
    directory = tmp_path_factory.mktemp("scan")
    with KaggleWriter(directory / "set", detector=icecube86()) as writer:
        writer.write(bright_track())
    command = stack.command(
        "scan", str(directory / "set"), "--priority", "100", "--json", "--out", str(directory / "results")
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    content: Mapping[str, Any] = json.loads(done.stdout)
    return content


def test_a_bright_track_is_found_by_the_command_line(report: Mapping[str, Any]) -> None:
    assert report["complete"]
    assert report["state"] == "complete"
    assert (report["reco"], report["nsides"]) == ("track_mpe", "8:0,64:12,512:24")
    # The data set's batch is the run there.
    assert report["event"]["id"] == f"1.{bright_track().id.event_id}.0"
    assert report["best"]["nside"] == 512
    assert report["off_truth_deg"] < 2.0
    assert report["fits"] == sum(level["n_pixels"] for level in report["levels"])


def test_every_result_file_of_a_scan_is_there_and_says_the_same(report: Mapping[str, Any]) -> None:
    files = [Path(name) for name in report["files"]]
    assert {path.name.removeprefix(files[0].stem) for path in files} == RESULT_FILES
    assert set(files[0].parent.iterdir()) == set(files)
    assert all(path.stat().st_size for path in files)
    for path in files[:2]:
        finest = read_skymap(path).levels[-1]
        assert finest.nside == report["best"]["nside"]
        assert finest.pixel[np.argmin(finest.llh)] == report["best"]["pixel"]


@pytest.mark.skipif(find_jaeger() is None, reason="no jaeger program; `make tools` builds it")
async def test_one_trace_follows_a_scan_from_the_command_line_through_triton_to_its_map(
    stack: UpStack, report: Mapping[str, Any]
) -> None:
    wanted = {
        ("", START),
        (START, BATCH),
        (BATCH, INFER),
        (INFER, TRITON),
        (TRITON, "triton: queue"),
        (TRITON, "triton: batch"),
        (TRITON, "triton: compute"),
        (BATCH, "icestream-scan-worker: scan.result"),
        (START, SCAN),
        (START, RECORD),
    }
    assert await trace_with(stack, report["trace_id"], wanted) == wanted

    def spans(operation: str) -> list[Mapping[str, Any]]:
        reply = httpx.get(f"{stack.endpoints.jaeger_url}/api/traces/{report['trace_id']}").json()
        [trace] = reply["data"]
        return [span for span in trace["spans"] if span["operationName"] == operation]

    def all_batches_are_there() -> None:
        fits = [
            tag["value"]
            for span in spans("infer pixel_fit_track")
            for tag in span["tags"]
            if tag["key"] == "icestream.batch.fits"
        ]
        assert sum(fits) == report["fits"]
        assert len(spans("triton pixel_fit_track")) == len(fits)
        [scan] = spans("scan")
        for result in spans("scan.result"):
            assert scan["startTime"] <= result["startTime"] <= scan["startTime"] + scan["duration"]

    await eventually(all_batches_are_there, timeout_s=20.0, poll_s=0.2)
