"""How the databases find what is asked for: whether by an index, and whether they sort the whole table for a page."""

import math
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from services.recorder.database import database_url, open_reader
from services.recorder.questions import Questions
from services.recorder.requests import Page, PlaceInOrder
from services.recorder.selection import Cone, Selection
from tests.support.postgres import PostgresServer
from tests.unit.recorder.recorder_cases import START_UNIX_NS, make_reconstruction, open_store, record

AFTER: PlaceInOrder = (START_UNIX_NS + 5 * 10**9, "toy", 1, 5, 0, "direction", "2")
NARROW = Cone(1.0, 0.2, 0.02)
WIDE = Cone(1.0, 0.2, 0.2)
EVERYWHERE = Cone(1.0, -1.5, math.pi)
OF_A_RUN = Selection(detector="toy", run_id=1)


@pytest.fixture
async def sqlite(tmp_path: Path) -> str:
    """A file with a few rows."""
    url = f"sqlite:///{tmp_path}/records.sqlite"
    async with open_store(url) as store:
        await record(store, [make_reconstruction(number) for number in range(10)])
    return url


def reader(url: str) -> tuple[Engine, list[tuple[str, Any]]]:
    """For reading, and the statements that it was asked, as they are filled."""
    engine, asked = open_reader(database_url(url), n_connections=1, timeout_s=20.0), list[tuple[str, Any]]()

    @event.listens_for(engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.lstrip().startswith("SELECT reconstructions"):
            asked.append((statement, parameters))

    return engine, asked


async def plan_of_page(url: str, selection: Selection, after: PlaceInOrder | None = None) -> str:
    engine, asked = reader(url)
    async with Questions(engine, n_threads=1, n_calls=1) as questions:
        await questions.page(selection, Page(2000, after))
        [(statement, parameters)] = asked
        with engine.begin() as connection:
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return "\n".join(step.detail for step in steps)


@pytest.mark.parametrize("after", [None, AFTER])
@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(detector="toy"),
        Selection(detector="toy", model="direction", start_unix_ns=START_UNIX_NS),
        Selection(detector="toy", start_unix_ns=START_UNIX_NS, end_unix_ns=START_UNIX_NS + 10**12),
        Selection(cone=WIDE),
        Selection(detector="toy", cone=EVERYWHERE),
        Selection(run_id=1),
    ],
)
async def test_sqlite_reads_a_page_in_its_order_and_sorts_nothing(
    sqlite: str, selection: Selection, after: PlaceInOrder | None
) -> None:
    plan = await plan_of_page(sqlite, selection, after)
    assert "USING INDEX reconstructions_by_time" in plan
    # At most rows of the same moment, which are the "right part".
    assert "TEMP B-TREE FOR ORDER BY" not in plan


async def test_sqlite_finds_few_rows_by_the_index_that_leads_to_them(sqlite: str) -> None:
    assert "reconstructions_by_declination" in await plan_of_page(sqlite, Selection(cone=NARROW))
    assert "(detector=? AND run_id=?)" in await plan_of_page(sqlite, OF_A_RUN)


async def test_sqlite_finds_an_event_by_its_key(sqlite: str) -> None:
    engine, asked = reader(sqlite)
    async with Questions(engine, n_threads=1, n_calls=1) as questions:
        assert len(await questions.get(OF_A_RUN, 5, 0)) == 1
        [(statement, parameters)] = asked
        with engine.begin() as connection:
            [step, *_] = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    assert "(detector=? AND run_id=? AND event_id=? AND sub_event=?)" in step.detail


async def test_postgresql_may_use_the_key_for_a_detector_that_is_rare(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    rare = make_reconstruction(1, detector="rare", start_unix_ns=START_UNIX_NS)
    async with open_store(url) as store:
        await record(store, [rare, *(make_reconstruction(number) for number in range(3000))])
    engine, asked = reader(url)
    async with Questions(engine, n_threads=1, n_calls=1) as questions:
        rows, _ = await questions.page(Selection(detector="rare"), Page(50, None))
        assert [row["detector"] for row in rows] == ["rare"]
        [(statement, parameters)] = asked
        with engine.begin() as connection:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            connection.execute(text("ANALYZE reconstructions"))
            steps = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            plan = "\n".join(line for (line,) in steps)
    assert "Index Cond: (detector = 'rare'" in plan
