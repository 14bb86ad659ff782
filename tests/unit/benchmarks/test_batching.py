import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.batching import (
    MODELS,
    Candidate,
    Closed,
    Measured,
    Open,
    Turn,
    candidates,
    closed_table,
    cut_table,
    draw,
    name_of,
    open_table,
    shipped_candidate,
    tables,
)
from benchmarks.load import Latencies
from benchmarks.router_batches import CUTS, ROUTER_WINDOW, Cut, CutCost
from benchmarks.triton_load import Answered, Arrived
from benchmarks.triton_runs import Executed, ServerSetting

SHIPPED = Candidate(ServerSetting(8, 100, 2, 1, has_queue_policy=False), 8)
EXECUTED = Executed(batch=2.5, queue_ms=1.25, compute_ms=7.5)


def column(table: object, number: int) -> list[str]:
    return list(table.columns[number].cells)  # type: ignore[attr-defined]


def opened(*, p99_s: float, n_failed: int = 0, backlog_s: float = 0.0) -> Open:
    return Open(Arrived(Latencies(100.0, 0.005, p99_s, p99_s, backlog_s), 100, n_failed), EXECUTED)


def turn(candidate: Candidate, n_events: int, one: Open) -> Turn:
    closed = Closed(Answered(100, n_events, 1, 2.0), EXECUTED)
    return Turn(candidate, closed, closed, [one, one])


def measured() -> Measured:
    slow = replace(SHIPPED, server=replace(SHIPPED.server, n_instances=1))
    turns = [
        one
        for n_more in (0, 200, 100)
        for one in (
            turn(SHIPPED, 1000 + n_more, opened(p99_s=0.02 + n_more / 1e4)),
            turn(slow, 500, opened(p99_s=0.5, backlog_s=n_more / 50)),
        )
    ]
    costs = [CutCost(cut, 0.125, 100.0 * cut.batch) for _ in range(3) for cut in CUTS]
    return Measured(SHIPPED, 8, [40.0, 80.0], turns, costs)


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_candidate_comes_first_and_once_and_fills_its_batches(model: str) -> None:
    shipped = shipped_candidate(model)
    found = candidates(shipped)
    assert found[0] == shipped
    assert len({*found}) == len(found)
    assert shipped.batch == shipped.server.max_batch_size
    assert all(one.batch <= one.server.max_batch_size for one in found)


def test_a_candidate_is_named_by_what_differs() -> None:
    names = [name_of(one, SHIPPED) for one in candidates(SHIPPED)]
    assert names[:4] == ["as shipped", "delay 0 us", "delay 2000 us", "delay 10000 us"]
    assert {"2 x 2 threads", "1 x 1 threads", "queue policy", "max batch 32, requests of 32"} <= {*names}


def test_a_delay_that_is_shipped_is_not_measured_twice() -> None:
    at_once = replace(SHIPPED, server=replace(SHIPPED.server, max_queue_delay_us=0))
    assert len(candidates(at_once)) == len(candidates(SHIPPED)) - 1


def test_the_shipped_row_is_marked_and_others_are_compared_with_it() -> None:
    table = closed_table(measured(), "bulk", lambda one: one.bulk)
    assert column(table, 0) == ["as shipped", "1 x 1 threads"]
    assert (
        table.caption
        == "as shipped: max batch 8, delay 100 us, 2 x 1 threads, no queue policy, requests of 8"
    )
    assert [row.style for row in table.rows] == ["bold", None]
    assert [column(table, number)[0] for number in range(1, 6)] == ["500", "550", "600", "1.00", "3"]
    assert column(table, 4)[1] == "0.45"
    assert [column(table, number)[0] for number in range(6, 9)] == ["2.5", "1.25", "7.50"]


def test_a_rate_with_a_backlog_or_failures_is_not_sustained() -> None:
    table = open_table(measured(), "single", 1)
    assert column(table, 3) == ["30.0", "500.0"]
    assert column(table, 5) == ["3 of 3", "1 of 3"]
    assert not opened(p99_s=0.1, n_failed=1).is_sustained


def test_the_routers_cut_is_marked() -> None:
    table = cut_table(measured())
    [marked] = [number for number, row in enumerate(table.rows) if row.style == "bold"]
    cells = [column(table, number)[marked] for number in range(8)]
    assert cells == [
        *(str(ROUTER_WINDOW), "1", "8", "12.5%"),
        *("800", "800", "800", "1.00"),
    ]
    assert len(table.rows) == len(CUTS)
    assert Cut(ROUTER_WINDOW, 8) in CUTS


def test_everything_is_tabled_drawn_and_can_be_written(tmp_path: Path) -> None:
    assert len(tables(measured())) == 5
    draw(measured(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert json.loads(json.dumps(asdict(measured())))["shipped"]["batch"] == 8
