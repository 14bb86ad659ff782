import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from benchmarks.scan_report import cost_table, draw, speed_table, ways
from benchmarks.scan_runs import HERE, Scanned, Turn, cpu_per_fit_s, has_first_map, n_scan_workers
from benchmarks.scan_speed import events_of
from icestream.v1.scan_pb2 import LevelProgress

COARSE, FINE = "track_spe", "track_mpe"


def scanned(seconds: float, cpu_s: dict[str, float], n_fits: int = 1000) -> Scanned:
    return Scanned(n_fits, seconds, seconds / 4, cpu_s)


def turn(
    service_s: float, one_s: float, *, n_workers: int = 1, n_modules: int = 20, reco: str = FINE
) -> Turn:
    in_process = {n: scanned(one_s / n, {HERE: one_s}) for n in (1, 2)}
    return Turn(reco, n_modules, n_workers, 0, in_process, scanned(service_s, {"scanner": 0.1, HERE: 0.2}))


def cells(table: Table) -> Iterator[list[str]]:
    return (list(row) for row in zip(*(column.cells for column in table.columns), strict=True))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([], False),
        ([(0, 0)], False),
        ([(768, 767)], False),
        ([(768, 768)], True),
        ([(768, 768), (640, 3)], True),
        ([(768, 767), (640, 640)], False),
    ],
)
def test_the_first_map_is_there_once_the_first_level_lacks_nothing(
    levels: list[tuple[int, int]], expected: bool
) -> None:
    messages = [LevelProgress(n_pixels_planned=planned, n_pixels_done=done) for planned, done in levels]
    assert has_first_map(messages) is expected


def test_processor_time_for_a_fit_weighs_scans_by_their_fits() -> None:
    scans = [scanned(1.0, {"a": 3.0, "b": 0.0}, 3000), scanned(1.0, {"a": 0.0, "b": 2.0}, 1000)]
    assert cpu_per_fit_s(scans) == {"a": pytest.approx(3 / 4000), "b": pytest.approx(2 / 4000)}


def test_ways_keep_recos_events_and_stacks_apart() -> None:
    turns = [
        turn(1.0, 1.0, n_workers=n_workers, n_modules=n_modules, reco=reco)
        for n_workers in (2, 1)
        for reco in (COARSE, FINE)
        for n_modules in (20, 200)
    ]
    found = [(way.reco, way.n_modules, way.name, len(way.scans)) for way in ways(turns)]
    of_an_event = [
        ("in process, 1 thread", 2),
        ("in process, 2 threads", 2),
        ("service, 1 worker", 1),
        ("service, 2 workers", 1),
    ]
    assert found == [
        (reco, n_modules, *way) for reco in (COARSE, FINE) for n_modules in (20, 200) for way in of_an_event
    ]


def test_the_ratio_is_taken_in_each_turn() -> None:
    # In the second turn the machine was half as fast, for everybody.
    turns = [turn(2.0, 1.0), turn(4.0, 2.0)]
    way = next(way for way in ways(turns) if way.turns)
    assert way.rate_ratios(1) == [pytest.approx(0.5), pytest.approx(0.5)]
    assert way.rate_ratios(2) == [pytest.approx(0.25), pytest.approx(0.25)]


def test_the_table_shows_the_spread_over_turns() -> None:
    turns = [turn(2.0, 1.0), turn(4.0, 1.0), turn(5.0, 1.0)]
    in_process, _, service = cells(speed_table(turns))
    assert in_process[2:] == [
        "in process, 1 thread",
        "1000",
        *["1000-1000-1000", "1.00-1.00-1.00"],
        "0.25-0.25-0.25",
        "",
        "",
    ]
    assert service[2:5] == ["service, 1 worker", "1000", "200-250-500"]
    assert service[5:] == ["2.00-4.00-5.00", "0.50-1.00-1.25", "0.20-0.25-0.50", "0.10-0.12-0.25"]


def test_the_costs_of_parts_are_in_microseconds_for_a_fit() -> None:
    in_process, _, service = cells(cost_table([turn(2.0, 1.0)]))
    assert service[3:] == ["100", "200", "300"]
    assert in_process[3:] == ["", "1000", "1000"]


def test_a_plot_is_drawn_for_several_recos(tmp_path: Path) -> None:
    turns = [turn(2.0, 1.0, n_modules=n, reco=reco) for n in (20, 200) for reco in (COARSE, FINE)]
    draw(turns, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n_modules", [20, 100])
def test_events_are_the_same_each_time_and_as_bright_as_asked_for(n_modules: int) -> None:
    first, again = (list(islice(events_of(n_modules), 2)) for _ in range(2))
    assert [event.id for event in first] == [event.id for event in again]
    for event in first:
        n_hit = len(np.unique(event.pulses.sensor_id[event.pulses.is_hlc]))
        assert n_hit == pytest.approx(n_modules, rel=0.05)
        assert event.truth is None


def test_a_scan_without_workers_is_refused_before_it_waits_for_ever() -> None:
    assert n_scan_workers("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match="at least one"):
        n_scan_workers("0")
