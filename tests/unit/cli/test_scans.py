import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from icestream.cli.access import Access
from icestream.cli.scan_service import ScanService
from icestream.errors import Unavailable
from icestream.runtime.endpoints import Endpoints, Stack
from icestream.v1 import scan_pb2
from tests.unit.cli.conftest import Command
from tests.unit.cli.fake_scan_service import SCAN_ID, FakeScanService, make_scan, refusal


def test_a_list_shows_what_one_asks_for(icestream: Command, service: FakeScanService, address: str) -> None:
    flags = ["--state", "running", "--state", "queued", "--event", "1.2", "--classifier", "a=b"]
    status, out, _ = icestream("scans", "list", "--address", address, *flags)
    assert status == 0
    for words in (SCAN_ID, "running", "toy/1.2.0", "fake", "56 %", "RA 28.65° Dec -14.32°"):
        assert words in out
    [request] = service.of(scan_pb2.ListScansRequest)
    assert list(request.states) == [scan_pb2.SCAN_STATE_RUNNING, scan_pb2.SCAN_STATE_QUEUED]
    assert request.event_id == "1.2.0"
    assert dict(request.classifiers) == {"a": "b"}


@pytest.mark.parametrize(("limit", "page_sizes"), [(120, [50, 50, 20]), (50, [50]), (500, [50, 50, 50])])
def test_a_long_list_comes_page_by_page(
    icestream: Command, service: FakeScanService, address: str, limit: int, page_sizes: list[int]
) -> None:
    service.scans = [make_scan(revision=number) for number in range(130)]
    status, out, _ = icestream("scans", "list", "--address", address, "--limit", limit, "--json")
    assert status == 0
    assert len(out.splitlines()) == min(limit, 130)
    assert [request.page_size for request in service.of(scan_pb2.ListScansRequest)] == page_sizes


def test_an_empty_list_says_so(icestream: Command, service: FakeScanService, address: str) -> None:
    service.scans = []
    assert icestream("scans", "list", "--address", address)[:2] == (0, "no scans\n")


def test_a_list_by_a_wrong_event_is_refused(icestream: Command) -> None:
    status, _, err = icestream("scans", "list", "--event", "x")
    assert status == 1
    assert "--event: 'x' is not an event id" in err


def test_show_tells_everything(icestream: Command, address: str) -> None:
    status, out, _ = icestream("scans", "show", SCAN_ID, "--address", address)
    assert status == 0
    for words in (
        "2:0,4:12",
        "campaign=[spring]",
        "the whole sky",
        "RA 28.65° Dec -14.32°; az 57.30° zen 114.59°; -ln L 12.500; nside 4, pixel 17; track",
        "better than the next by 3.25",
        "54 of 96",
        "3 repeated",
        "2023-11-14 22:13:20",
        "not yet",
        "25",
    ):
        assert words in out


def test_show_as_json_is_the_message(icestream: Command, address: str) -> None:
    status, out, _ = icestream("scans", "show", SCAN_ID, "--address", address, "--json")
    assert status == 0
    assert json.loads(out)["scan_id"] == SCAN_ID


def test_show_of_a_scan_that_has_just_begun(
    icestream: Command, service: FakeScanService, address: str
) -> None:
    scan = make_scan(scan_pb2.SCAN_STATE_QUEUED)
    scan.ClearField("best")
    scan.ClearField("progress")
    scan.options.pointing.horizontal.zenith_rad = 1.0
    scan.options.pointing.radius_rad = 0.1
    service.scans = [scan]
    status, out, _ = icestream("scans", "show", SCAN_ID, "--address", address)
    assert status == 0
    assert "no result yet" in out
    assert "az 0.00° zen 57.30°, 5.72" in out


@pytest.mark.parametrize("command", ["show", "watch", "cancel"])
def test_an_unknown_scan_is_one_clear_line(
    icestream: Command, service: FakeScanService, address: str, command: str
) -> None:
    service.refusal = refusal(code_pb2.NOT_FOUND, "nothing")
    status, out, err = icestream("scans", command, "nope", "--address", address)
    assert (status, out) == (1, "")
    assert "there is no scan 'nope'; `icestream scans list` shows those that there are" in err


@pytest.mark.parametrize("command", [["list"], ["show", "x"], ["watch", "x"], ["cancel", "x"]])
def test_without_a_service_the_way_out_is_named(icestream: Command, command: list[str]) -> None:
    status, _, err = icestream("scans", *command, "--address", "127.0.0.1:1")
    assert status == 1
    assert "`icestream up`" in err


def test_watch_shows_the_result_and_writes_files_only_where_asked(
    icestream: Command, service: FakeScanService, address: str, no_plots: list[dict[str, Any]]
) -> None:
    status, out, _ = icestream("scans", "watch", SCAN_ID, "--address", address)
    assert status == 0
    assert "90 % region" in out
    assert no_plots == []
    service.changes = [[make_scan(scan_pb2.SCAN_STATE_COMPLETE)]]
    assert icestream("scans", "watch", SCAN_ID, "--address", address, "--out", "there")[0] == 0
    assert no_plots[0]["directory"] == Path("there")


def test_watching_a_scan_that_has_ended_shows_its_result_at_once(
    icestream: Command, service: FakeScanService, address: str
) -> None:
    service.scans = [make_scan(scan_pb2.SCAN_STATE_COMPLETE)]
    status, out, _ = icestream("scans", "watch", SCAN_ID, "--address", address, "--json")
    assert status == 0
    assert json.loads(out)["scan_id"] == SCAN_ID
    assert not service.of(scan_pb2.WatchScanRequest)


def test_ctrl_c_ends_the_watching_alone(icestream: Command, service: FakeScanService, address: str) -> None:
    service.changes = [[make_scan()]]
    service.on_watch = lambda: os.kill(os.getpid(), signal.SIGINT)
    status, _, err = icestream("scans", "watch", SCAN_ID, "--address", address)
    assert status == 130
    assert f"scan {SCAN_ID} goes on" in err


def test_cancel_says_what_became_of_the_scan(
    icestream: Command, service: FakeScanService, address: str
) -> None:
    status, out, _ = icestream("scans", "cancel", SCAN_ID, "--address", address)
    assert (status, out) == (0, f"scan {SCAN_ID} is cancelled\n")
    assert service.of(scan_pb2.CancelScanRequest)[0].scan_id == SCAN_ID


def test_recos_are_listed_with_what_they_need(icestream: Command, tmp_path: Path) -> None:
    status, out, _ = icestream("scans", "recos", "--dir", tmp_path)
    assert status == 0
    [line] = [line for line in out.splitlines() if " dummy " in line and "crash" not in line]
    assert "makes llh up" in line
    assert "needs none" in line


def test_the_local_stacks_service_is_found(icestream: Command, address: str, tmp_path: Path) -> None:
    port = int(address.rpartition(":")[2])
    Stack(os.getpid(), replace(Endpoints(), scanner_grpc=port), is_traced=False).write(tmp_path)
    status, out, _ = icestream("scans", "list", "--dir", tmp_path)
    assert status == 0
    assert SCAN_ID in out


async def test_a_service_that_stays_away_is_given_up(service: FakeScanService, address: str) -> None:
    service.changes = [[grpc.StatusCode.UNAVAILABLE]] * 100
    breaks: list[str] = []
    async with ScanService(address, Access()) as asked:
        with pytest.raises(Unavailable):
            async for _ in asked.watch(make_scan(), lambda: breaks.append("away"), patience_s=0.3):
                pass
    assert breaks == ["away"]
    assert 2 <= len(service.of(scan_pb2.WatchScanRequest)) < 10
