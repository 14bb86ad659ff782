from pathlib import Path

from rich.console import Console

from benchmarks.event_loops import ASYNCIO, UVLOOP
from benchmarks.grpc_load import Called
from benchmarks.latency_report import LoopRound, Round, draw, spread, tables
from benchmarks.load import Drained, Latencies


def drained(events_per_s: float, cpu_us: float) -> Drained:
    cpu_s = {"emitter": 100 * 40e-6, "router": 100 * cpu_us * 1e-6}
    return Drained(100, 100 / events_per_s, cpu_s, 3000.0, rest_s=0.5)


def called(concurrency: int, calls_per_s: float) -> Called:
    return Called(concurrency, 100, 100 / calls_per_s, 0.001, 0.002, 0.003)


def measured(full_rate: float, backlog_s: float = 0.0) -> Round:
    """A round whose ratios are round numbers."""
    return Round(
        loops={
            UVLOOP: LoopRound(drained(full_rate, 300.0), called(16, 900.0)),
            ASYNCIO: LoopRound(drained(full_rate / 1.25, 400.0), called(16, 600.0)),
        },
        latencies={0.5: Latencies(full_rate / 2, 0.004, 0.02, 0.05, backlog_s)},
        called=[called(64, 1000.0), called(1, 200.0)],
        traced={0.01: drained(full_rate * 0.98, 306.0), 1.0: drained(full_rate * 0.5, 900.0)},
    )


ROUNDS = [measured(2000.0), measured(1000.0, backlog_s=3.0), measured(1600.0)]


def rows(number: int) -> list[list[str]]:
    """Cells of one of the tables."""
    table = tables(ROUNDS)[number]
    return [list(cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]


def test_latencies_are_in_milliseconds_and_say_where_a_rate_is_not_sustained() -> None:
    [row] = rows(0)
    assert row[2:5] == ["4.0 / 4.0 / 4.0", "20.0 / 20.0 / 20.0", "50.0 / 50.0 / 50.0"]
    assert row[-1] == "2 of 3"


def test_calls_are_ordered_by_how_many_are_made_at_once() -> None:
    assert [(row[0], row[1]) for row in rows(1)] == [
        ("1", "200 / 200 / 200"),
        ("16", "900 / 900 / 900"),
        ("64", "1000 / 1000 / 1000"),
    ]


def test_loops_are_compared_within_each_round() -> None:
    uvloop, asyncio = rows(2)
    assert uvloop[:3] == ["uvloop", "1000 / 1600 / 2000", ""]
    assert asyncio[:3] == ["asyncio", "800 / 1280 / 1600", "1.25 / 1.25 / 1.25"]
    assert asyncio[4] == "1.50 / 1.50 / 1.50"


def test_what_traces_cost_is_relative_to_the_drain_without_them_in_the_same_round() -> None:
    assert [row[::2] for row in rows(3)] == [
        ["0%", ""],
        ["1%", "2.0 / 2.0 / 2.0"],
        ["100%", "50.0 / 50.0 / 50.0"],
    ]


def test_processor_time_is_that_of_one_event_and_the_emitter_does_not_count() -> None:
    assert rows(4) == [["0%", "40", "300", "300"], ["1%", "40", "306", "306"], ["100%", "40", "900", "900"]]


def test_a_spread_is_ordered() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0], 1) == "1.0 / 2.5 / 10.0"


def test_everything_is_shown_and_drawn(tmp_path: Path) -> None:
    console = Console(width=150, record=True)
    for table in tables(ROUNDS):
        console.print(table)
    assert "…" not in console.export_text()
    draw(ROUNDS, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
