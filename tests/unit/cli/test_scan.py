import json
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from icestream.v1 import scan_pb2
from tests.unit.cli.conftest import N_EVENTS, Command
from tests.unit.cli.fake_scan_service import SCAN_ID, FakeScanService, make_scan, make_skymap, refusal
from tests.unit.scans.scan_cases import TARGET, failing, giving_up, towards

COMPLETE = make_scan(scan_pb2.SCAN_STATE_COMPLETE, revision=9, n_done=48)


def test_the_first_event_of_a_data_set_is_scanned_and_reported(
    icestream: Command, service: FakeScanService, address: str, dataset: Path, no_plots: list[dict[str, Any]]
) -> None:
    service.changes = [[make_scan(revision=2), COMPLETE]]
    status, out, err = icestream("scan", dataset, "--address", address)
    assert status == 0
    assert f"scanning icecube86/1.0.0, the first of {N_EVENTS} events" in err
    assert f"scan {SCAN_ID}" in err
    for words in ("best direction", "50 % region", "90 % region", "off truth", f"scans/{SCAN_ID}/a.fits"):
        assert words in out
    [request] = service.of(scan_pb2.StartScanRequest)
    assert request.event.event_id == 0
    assert len(request.event.pulses.time_ns) > 0
    # The service then makes an id that sorts by time.
    assert request.request_id == ""
    assert no_plots[0]["directory"] == Path("scans") / SCAN_ID
    assert no_plots[0]["truth"].shape == (3,)


def test_every_flag_reaches_the_service(
    icestream: Command, service: FakeScanService, address: str, dataset: Path, no_plots: object
) -> None:
    flags = ["--nsides", "4:0,16:3", "--reco", "r", "--priority", "120", "--predictive-threshold", "0.5"]
    flags += ["--classifier", "a=b=c", "--classifier", "d=", "--request-id", "mine"]
    flags += ["--pointing", "-90,45,10", "--event-index", "2"]
    status, _, err = icestream("scan", dataset, "--address", address, *flags)
    assert status == 0
    assert "the first of" not in err
    [request] = service.of(scan_pb2.StartScanRequest)
    options = request.options
    assert [(level.nside, level.extension) for level in options.progression] == [(4, 0), (16, 3)]
    assert (options.reco, options.priority, options.predictive_threshold) == ("r", 120, 0.5)
    assert dict(options.classifiers) == {"a": "b=c", "d": ""}
    assert (request.request_id, request.event.event_id) == ("mine", 2)
    assert options.pointing.equatorial.ra_rad == pytest.approx(-1.5708, abs=1e-4)
    assert options.pointing.radius_rad == pytest.approx(0.174533)


def test_a_published_event_is_scanned_by_its_name(
    icestream: Command, service: FakeScanService, address: str, no_plots: list[dict[str, Any]]
) -> None:
    status, out, _ = icestream(
        "scan", "icecube86/12.34", "--address", address, "--pointing-detector", "10,20"
    )
    assert status == 0
    [request] = service.of(scan_pb2.StartScanRequest)
    assert request.event_name == "icecube86/12.34.0"
    assert not request.HasField("event")
    assert request.options.pointing.HasField("horizontal")
    assert no_plots[0]["truth"] is None
    assert "off truth" not in out


def test_json_is_one_object_and_nothing_else(
    icestream: Command, service: FakeScanService, address: str, dataset: Path, no_plots: object
) -> None:
    service.changes = [[COMPLETE]]
    status, out, _ = icestream("scan", dataset, "--address", address, "--json", "--out", "results")
    assert status == 0
    content = json.loads(out)
    assert (content["scan_id"], content["state"], content["complete"]) == (SCAN_ID, "complete", True)
    assert content["files"] == ["results/a.fits"]
    assert content["regions"]["90"]["area_deg2"] > content["regions"]["50"]["area_deg2"] > 0
    assert content["best"]["evidence"] is None
    assert content["best"]["hits"] == 5
    assert content["best"]["ra_deg"] is None
    assert content["fits"] == 96


def test_all_files_are_written_in_the_end(
    icestream: Command, address: str, dataset: Path, tmp_path: Path
) -> None:
    status, out, _ = icestream("scan", dataset, "--address", address, "--json", "--out", tmp_path / "out")
    assert status == 0
    files = json.loads(out)["files"]
    assert sorted(Path(file) for file in files) == sorted((tmp_path / "out").iterdir())
    assert {"fits", "gz", "ecsv", "png", "pdf"} == {file.rpartition(".")[2] for file in files}


@pytest.mark.parametrize("state", [scan_pb2.SCAN_STATE_INCOMPLETE, scan_pb2.SCAN_STATE_CANCELLED])
def test_a_map_with_holes_is_status_3(
    icestream: Command,
    service: FakeScanService,
    address: str,
    dataset: Path,
    no_plots: object,
    state: scan_pb2.ScanState,
) -> None:
    fits = towards(TARGET)
    service.skymap = make_skymap(lambda batch: None if batch.number == 0 else fits(batch))
    service.changes = [[make_scan(state, revision=2)]]
    status, out, _ = icestream("scan", dataset, "--address", address)
    assert status == 3
    assert "no: the scan is" in out


@pytest.mark.parametrize("fit", [failing, giving_up])
def test_a_map_without_any_fit_is_an_error(
    icestream: Command, service: FakeScanService, address: str, dataset: Path, no_plots: object, fit: Any
) -> None:
    service.skymap = make_skymap(fit)
    status, out, err = icestream("scan", dataset, "--address", address, "--json")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("icestream: ")


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED]
)
def test_watching_goes_on_where_it_broke_off(
    icestream: Command,
    service: FakeScanService,
    address: str,
    dataset: Path,
    no_plots: object,
    code: grpc.StatusCode,
) -> None:
    service.changes = [[make_scan(revision=4), code], [code], [], [make_scan(revision=6), COMPLETE]]
    status, _, err = icestream("scan", dataset, "--address", address)
    assert status == 0
    watched = service.of(scan_pb2.WatchScanRequest)
    assert [request.after_revision for request in watched] == [1, 4, 4, 4]
    assert err.count("the scan service is away") == 1


def test_a_watch_that_can_never_go_on_is_an_error(
    icestream: Command, service: FakeScanService, address: str, dataset: Path
) -> None:
    service.changes = [[grpc.StatusCode.NOT_FOUND]]
    status, _, err = icestream("scan", dataset, "--address", address)
    assert status == 1
    assert f"there is no scan '{SCAN_ID}'" in err


def test_ctrl_c_leaves_the_scan_running_and_says_how_to_come_back(
    icestream: Command, service: FakeScanService, address: str, dataset: Path
) -> None:
    service.changes = [[make_scan(revision=2)]]
    service.on_watch = lambda: os.kill(os.getpid(), signal.SIGINT)
    status, out, err = icestream("scan", dataset, "--address", address)
    assert (status, out) == (130, "")
    assert f"scan {SCAN_ID} goes on" in err
    assert f"icestream scans watch {SCAN_ID} --address {address} --out scans/{SCAN_ID}" in err
    assert f"icestream scans cancel {SCAN_ID} --address {address}" in err
    assert not service.of(scan_pb2.CancelScanRequest)


def test_a_timeout_leaves_the_scan_running_as_well(
    icestream: Command, service: FakeScanService, address: str, dataset: Path
) -> None:
    service.changes = [[make_scan(revision=2)]]
    service.on_watch = lambda: None
    status, _, err = icestream("scan", dataset, "--address", address, "--timeout", "0.5")
    assert status == 1
    assert f"scan {SCAN_ID} goes on" in err


def test_a_known_request_shows_its_scan(
    icestream: Command, service: FakeScanService, address: str, dataset: Path, no_plots: object
) -> None:
    service.is_new = False
    status, _, err = icestream("scan", dataset, "--address", address, "--request-id", "again")
    assert status == 0
    assert "which this request started before" in err


def test_without_a_service_the_ways_out_are_named(icestream: Command, dataset: Path) -> None:
    status, out, err = icestream("scan", dataset, "--address", "127.0.0.1:1")
    assert (status, out) == (1, "")
    assert "`icestream up`" in err
    assert "--local" in err


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (code_pb2.INVALID_ARGUMENT, "bad options", "options.reco: there is no reco 'x'"),
        (code_pb2.NOT_FOUND, "no event a/1.2.0", "no event a/1.2.0"),
        (code_pb2.RESOURCE_EXHAUSTED, "too many", "the scan service is busy: too many"),
        (code_pb2.UNAVAILABLE, "NATS is away", "the scan service is not ready: NATS is away"),
        (code_pb2.INTERNAL, "oops", "the scan service failed: INTERNAL: oops"),
        (code_pb2.UNIMPLEMENTED, "unknown", "that is no scan service"),
        (code_pb2.DEADLINE_EXCEEDED, "late", "did not answer in time"),
    ],
)
def test_a_refusal_is_one_clear_line(
    icestream: Command,
    service: FakeScanService,
    address: str,
    dataset: Path,
    code: int,
    text: str,
    words: str,
) -> None:
    service.refusal = refusal(code, text, {"options.reco": "there is no reco 'x'"})
    status, out, err = icestream("scan", dataset, "--address", address, "--event-index", "0")
    assert (status, out) == (1, "")
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nsides", "8:0,9:3"], "nside 9 is not a power of two"),
        (["--nsides", "nonsense"], "'nonsense' is not a level"),
        (["--nsides", "8:0,4096:300"], "at most 4000000"),
        (["--predictive-threshold", "0"], "the predictive threshold is 0"),
        (["--pointing", "1"], "not RA,DEC[,RADIUS]"),
        (["--pointing", "1,2,3,4"], "not RA,DEC[,RADIUS]"),
        (["--pointing", "1,91"], "[-90, 90]"),
        (["--pointing", "nan,1"], "no part of the sky"),
        (["--pointing", "1,1,0"], "no part of the sky"),
        (["--pointing-detector", "1,-1"], "[0, 180]"),
        (["--pointing", "1,1", "--pointing-detector", "1,1"], "one place"),
        (["--classifier", "x"], "<key>=<value>"),
        (["--classifier", "=x"], "<key>=<value>"),
        (["--event-index", "3"], "no event at index 3 of 3"),
        (["--event-index", "0", "--event-id", "1"], "say which event once"),
        (["--event-id", "1.2.3"], "not <event> or <run>.<event>"),
        (["--event-id", "9.1"], "column batch_id has no 9"),
        (["--event-id", "77"], "column event_id has no 77"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(
    icestream: Command, dataset: Path, flags: list[str], words: str
) -> None:
    status, out, err = icestream("scan", dataset, "--address", "127.0.0.1:1", *flags)
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert words in line


def test_a_published_event_needs_no_choice(icestream: Command) -> None:
    status, _, err = icestream("scan", "icecube86/1.2.0", "--event-index", "0")
    assert status == 1
    assert "is one event already" in err


def test_an_event_is_chosen_by_run_and_number(
    icestream: Command, service: FakeScanService, address: str, dataset: Path, no_plots: object
) -> None:
    for number, text in ((1, "1.1"), (2, "2")):
        service.changes = [[COMPLETE]]
        status, _, err = icestream("scan", dataset, "--address", address, "--event-id", text)
        assert status == 0
        assert "the first of" not in err
        assert service.of(scan_pb2.StartScanRequest)[-1].event.event_id == number
