"""`icestream records` against a real service on a file."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq
import pytest

from icestream.cli import records_export, records_service
from icestream.cli.app import main
from icestream.cli.records_options import Kind, filter_of
from icestream.errors import StoreUnavailable
from icestream.physics.events import EventKind
from icestream.runtime.endpoints import Endpoints, Stack
from services.recorder.dead_letter_rows import dead_letter_row
from services.recorder.questions import Questions
from services.recorder.reconstruction_rows import Row, columns_of
from services.recorder.requests import Page, PlaceInOrder
from services.recorder.scan_rows import scan_row
from services.recorder.schema import DEAD_LETTERS, SCANS
from services.recorder.selection import Selection
from tests.unit.recorder.recorder_cases import (
    RECORDED_UNIX_NS,
    START_UNIX_NS,
    make_ended,
    make_reconstruction,
    open_store,
    record,
    served_records,
)

N_EVENTS = 30
RECONSTRUCTIONS = [
    *(make_reconstruction(number) for number in range(1, N_EVENTS)),
    make_reconstruction(99, start_unix_ns=0, truth=None, detector="[toy]"),
]


class Command(Protocol):
    """The installed command: its status, and what it wrote to stdout and to stderr."""

    def __call__(self, *arguments: object) -> tuple[object, str, str]: ...


@pytest.fixture
def icestream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    # Tables are as wide as the terminal.
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["icestream", "records", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service in a thread of its own: commands bring their own event loop."""
    url = f"sqlite:///{tmp_path_factory.mktemp('records')}/records.sqlite"
    is_up, addresses, stop = threading.Event(), list[str](), list[asyncio.Event]()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        stop.append(asyncio.Event())
        async with open_store(url) as store:
            await record(store, RECONSTRUCTIONS)
            letter = dead_letter_row(
                "icestream.deadletter.router",
                {"Icestream-Reason": "invalid_event"},
                sequence=1,
                stored_unix_ns=START_UNIX_NS,
                recorded_unix_ns=RECORDED_UNIX_NS,
            )
            await store.insert(DEAD_LETTERS, columns_of([letter]))
            await store.insert(SCANS, columns_of([scan_row(make_ended(), RECORDED_UNIX_NS)]))
        async with served_records(url) as address:
            addresses.append(address)
            is_up.set()
            await stop[0].wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert is_up.wait(30)
    yield addresses[0]
    loop.call_soon_threadsafe(stop[0].set)
    thread.join(30)
    loop.close()


def test_a_list_shows_the_latest_first(icestream: Command, address: str) -> None:
    status, out, _ = icestream("list", "--address", address, "--limit", 2)
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 3
    assert "toy/1.29.0" in lines[1]
    for words in ("2026-01-01 00:00:29", "direction 2", "RA ", "14.32°", "toy/1.28.0"):
        assert words in out


def test_brackets_in_names_are_shown_as_they_are(icestream: Command, address: str) -> None:
    _, out, _ = icestream("list", "--address", address, "--detector", "[toy]")
    assert "[toy]/1.99.0" in out
    assert "az " in out


def test_a_list_as_json_is_the_messages(icestream: Command, address: str) -> None:
    flags = ["--after", "2026-01-01T00:00:10", "--before", "2026-01-01T00:00:12", "--kind", "cascade"]
    status, out, _ = icestream("list", "--address", address, "--json", *flags)
    assert status == 0
    found = [json.loads(line)["reconstruction"]["event_id"] for line in out.splitlines()]
    assert found == ["11", "10"]


def test_a_list_of_nothing_says_so(icestream: Command, address: str) -> None:
    assert icestream("list", "--address", address, "--run", 77)[:2] == (0, "no reconstructions\n")


def test_a_cone_is_given_in_degrees(icestream: Command, address: str) -> None:
    _, out, _ = icestream("list", "--address", address, "--json", "--limit", 1)
    place = json.loads(out)["equatorial"]
    ra, dec = np.degrees([place["ra_rad"], place["dec_rad"]])
    _, out, _ = icestream("list", "--address", address, "--json", "--cone", f"{ra},{dec},0.1")
    assert [json.loads(line)["reconstruction"]["event_id"] for line in out.splitlines()] == ["29"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--after", "yesterday"], "--after: 'yesterday' is no time; write 2026-11-21"),
        (["--cone", "1,2"], "--cone: '1,2' is no disc; write RA,DEC,RADIUS in degrees"),
        (["--cone", "1,2,-3"], "filter.cone.radius_rad: -0.05"),
        (["--after", "2026-01-02", "--before", "2026-01-01"], "filter.end_unix_ns: it is not after"),
        (["--before", "9999-12-31"], "--before: '9999-12-31' is no time of an event"),
        (["--after", "0001-01-01"], "--after: '0001-01-01' is no time of an event"),
        (["--after", "2026-01-01T00:00:00.0123456789"], "is finer than a nanosecond"),
        (["--run", 10**19], "--run: 10000000000000000000 is no run"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(
    icestream: Command, address: str, flags: list[str], problem: str
) -> None:
    status, out, err = icestream("list", "--address", address, *flags)
    assert (status, out) == (1, "")
    assert problem in err
    assert len(err.splitlines()) == 1


def test_show_tells_everything(icestream: Command, address: str) -> None:
    status, out, _ = icestream("show", "toy/1.5", "--address", address)
    assert status == 0
    for words in ("toy/1.5.0", "2026-01-01 00:00:05", "direction 2", "10 of 20", "cascade, 1e+03 GeV", "RA "):
        assert words in out


def test_show_of_an_event_without_time_and_truth(icestream: Command, address: str) -> None:
    status, out, _ = icestream("show", "[toy]/1.99.0", "--address", address)
    assert status == 0
    assert "not known: no direction in the sky" in out


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("toy/1.777", "no reconstruction of toy/1.777.0 is recorded"),
        ("1.5.0", "names no detector; write <detector>/<run>.<event>, for example icecube86/1.5.0"),
        ("toy/first", "'first' is not an event id"),
        ("toy/1.99999999999999999999", "'toy/1.99999999999999999999': Value out of range"),
        ("toy/1.1.3000000000", "'toy/1.1.3000000000': Value out of range"),
    ],
)
def test_an_event_that_is_not_there_is_one_clear_line(
    icestream: Command, address: str, name: str, problem: str
) -> None:
    status, _, err = icestream("show", name, "--address", address)
    assert status == 1
    assert problem in err


def test_stats_show_quality_dead_letters_and_scans(icestream: Command, address: str) -> None:
    status, out, _ = icestream("stats", "--address", address)
    assert status == 0
    assert f"{N_EVENTS} reconstructions" in out
    for words in ("cascade", "unknown", "invalid_event", "complete"):
        assert words in out
    status, out, _ = icestream("stats", "--address", address, "--json", "--detector", "toy")
    assert json.loads(out)["n_reconstructions"] == str(N_EVENTS - 1)


def test_an_export_holds_what_was_recorded(
    icestream: Command, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several pages.
    monkeypatch.setattr(records_service, "_PAGE", 7)
    status, out, _ = icestream("export", tmp_path / "a.parquet", "--address", address, "--json")
    assert status == 0
    assert json.loads(out)["n_reconstructions"] == N_EVENTS
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["event_id"] for row in table] == [*range(N_EVENTS - 1, 0, -1), 99]
    first, last = table[0], table[-1]
    assert first["start_unix_ns"] == START_UNIX_NS + 29 * 10**9
    assert first["kind"] == EventKind.CASCADE.name.lower()
    assert first["opening_angle_rad"] == pytest.approx(2 * np.arcsin(np.sin(1.0) * np.sin(0.05)))
    assert first["truth_energy_gev"] == 1000.0
    absent = {name for name, value in last.items() if value is None}
    assert absent == {
        *("start_unix_ns", "ra_rad", "dec_rad", "opening_angle_rad"),
        *("truth_azimuth_rad", "truth_zenith_rad", "truth_energy_gev"),
    }
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1


def test_an_export_has_few_row_groups_each_of_whole_pages(
    icestream: Command, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_service, "_PAGE", 7)
    monkeypatch.setattr(records_export, "_ROWS_IN_GROUP", 10)
    icestream("export", tmp_path / "a.parquet", "--address", address)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sizes == [14, 14, 2]


def fail_after_the_first_page(monkeypatch: pytest.MonkeyPatch, *, n_failures: int) -> None:
    """Let the service lose its database for so many questions."""
    page_of, failures = Questions.page, iter(range(n_failures))

    async def page(
        self: Questions, selection: Selection, page: Page
    ) -> tuple[list[Row], PlaceInOrder | None]:
        if page.after is not None and next(failures, None) is not None:
            raise StoreUnavailable("the database is gone")
        return await page_of(self, selection, page)

    monkeypatch.setattr(Questions, "page", page)
    monkeypatch.setattr(records_service, "_PAGE", 7)


def test_an_export_goes_on_after_a_failure_that_passes(
    icestream: Command, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after_the_first_page(monkeypatch, n_failures=3)
    status, _, err = icestream("export", tmp_path / "a.parquet", "--address", address)
    assert status == 0
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["event_id"] for row in table] == [*range(N_EVENTS - 1, 0, -1), 99]
    [line] = [line for line in err.splitlines() if "the database is gone" in line]
    assert line == "the record service is not ready: the database is gone; trying again for 30 s"


def test_an_export_gives_up_where_a_failure_lasts(
    icestream: Command, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after_the_first_page(monkeypatch, n_failures=10**6)
    monkeypatch.setattr(records_service, "PATIENCE_S", 0.3)
    status, _, err = icestream("export", tmp_path / "a.parquet", "--address", address)
    assert status == 1
    assert err.splitlines()[-1] == "icestream: the record service is not ready: the database is gone"
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_the_latest_few(icestream: Command, address: str, tmp_path: Path) -> None:
    status, out, _ = icestream("export", tmp_path / "a.parquet", "--address", address, "--limit", 3)
    assert (status, out) == (0, f"3 reconstructions are in {tmp_path}/a.parquet\n")
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 3


def test_an_export_of_nothing_is_an_empty_table(icestream: Command, address: str, tmp_path: Path) -> None:
    assert icestream("export", tmp_path / "a.parquet", "--address", address, "--run", 77)[0] == 0
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 0


def test_an_export_that_fails_leaves_nothing(icestream: Command, address: str, tmp_path: Path) -> None:
    status, _, err = icestream("export", tmp_path / "no/a.parquet", "--address", address)
    assert status == 1
    assert "cannot be written" in err
    status, _, _ = icestream("export", tmp_path / "a.parquet", "--address", address, "--cone", "0,0,-1")
    assert status == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["list"], ["show", "toy/1.1"], ["stats"], ["export", "a.parquet"]])
def test_without_a_service_the_way_out_is_named(
    icestream: Command, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = icestream(*command, "--address", "127.0.0.1:1")
    assert status == 1
    assert "no record service answers at 127.0.0.1:1" in err
    assert "`icestream up`" in err
    assert "trying again" not in err


def test_the_local_stacks_service_is_found(icestream: Command, address: str, tmp_path: Path) -> None:
    port = int(address.rpartition(":")[2])
    Stack(os.getpid(), replace(Endpoints(), recorder_grpc=port), is_traced=False).write(tmp_path)
    status, out, _ = icestream("list", "--dir", tmp_path, "--limit", 1)
    assert status == 0
    assert "toy/1.29.0" in out


@pytest.mark.parametrize(
    ("text", "fraction_ns"),
    [
        ("2026-01-01", 0),
        ("2026-01-01T00:00:00.5", 500_000_000),
        ("2026-01-01T00:00:00.1234567", 123_456_700),
        ("2026-01-01T01:00:00,000000001+01:00", 1),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, fraction_ns: int) -> None:
    nothing = dict.fromkeys(("run", "before", "cone", "max_radius90", "min_kappa", "kind"))
    wanted = filter_of(detector="", model="", model_version="", after=text, **nothing)
    assert wanted.start_unix_ns == START_UNIX_NS + fraction_ns


def test_kinds_have_the_names_of_the_protocol() -> None:
    assert {kind.message for kind in Kind} == {kind.value for kind in EventKind}
