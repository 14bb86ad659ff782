"""Both databases keep the same promises."""

import asyncio
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import func, select, text

from icestream.errors import InvalidRecord, Misconfigured, StoreUnavailable
from services.recorder.database import database_url, open_writer
from services.recorder.dead_letter_rows import dead_letter_row
from services.recorder.reconstruction_rows import columns_of
from services.recorder.scan_rows import scan_row
from services.recorder.schema import DEAD_LETTERS, METADATA, RECONSTRUCTIONS, SCANS
from services.recorder.store import RecordStore
from tests.support.postgres import PostgresServer
from tests.unit.recorder.recorder_cases import (
    RECORDED_UNIX_NS,
    START_UNIX_NS,
    columns_of_events,
    connected,
    make_ended,
    make_reconstruction,
    make_truth,
    open_store,
    record,
    rows_in,
)

REST = "reconstructions_rest"


def n_rows(url: str, table: str = "reconstructions") -> int:
    with connected(url) as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


async def test_the_migrations_make_the_tables_that_the_code_knows(database: str) -> None:
    async with open_store(database):
        pass

    def is_ours(_: object, name: str | None, kind: str, *others: object) -> bool:
        return not (kind == "table" and name == REST)

    with connected(database) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": is_ours}
        )
        assert compare_metadata(context, METADATA) == []


async def test_recorders_that_start_at_once_migrate_once(database: str) -> None:
    stores = [RecordStore(open_writer(database_url(database))) for _ in range(6)]

    async def until_done(store: RecordStore) -> None:
        async with store:
            while True:
                try:
                    await store.migrate()
                except StoreUnavailable:
                    # SQLite may refuse to make one file from two sides; the recorder tries again, too.
                    await asyncio.sleep(0.01)
                else:
                    return

    await asyncio.gather(*map(until_done, stores))
    assert n_rows(database) == 0


async def test_tables_of_a_newer_version_are_left_alone(database: str) -> None:
    async with open_store(database) as store:
        with connected(database) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(Misconfigured, match="run the newest recorder"):
            await store.migrate()


async def test_a_row_is_written_once_and_the_first_one_wins(database: str) -> None:
    first, other = make_reconstruction(1, kappa=1.0), make_reconstruction(2)
    async with open_store(database) as store:
        assert await record(store, [first, other]) == [True, True]
        assert await record(store, [replace(first, n_pulses=99), make_reconstruction(3)]) == [False, True]
        with connected(database) as connection:
            query = select(RECONSTRUCTIONS.c.n_pulses).where(RECONSTRUCTIONS.c.event_id == 1)
            assert connection.execute(query).scalar_one() == first.n_pulses
    assert n_rows(database) == 3


async def test_the_same_row_twice_in_one_transaction_is_one_row(database: str) -> None:
    async with open_store(database) as store:
        assert await record(store, [make_reconstruction(1), make_reconstruction(1)]) == [True, False]


async def test_new_rows_are_told_from_old_ones_whatever_their_order(database: str) -> None:
    numbers = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    async with open_store(database) as store:
        await record(store, [make_reconstruction(number) for number in (1, 9)])
        found = await record(store, [make_reconstruction(number) for number in numbers])
        assert found == [True, False, True, False, True, False, True, True, False, False, False]
        assert await record(store, [make_reconstruction(number) for number in numbers]) == [False] * 11
    assert n_rows(database) == 7


async def test_columns_without_a_single_value_are_written(database: str) -> None:
    rows = [make_reconstruction(number, truth=None, start_unix_ns=0) for number in range(3)]
    async with open_store(database) as store:
        assert await record(store, rows) == [True] * 3
    query = select(RECONSTRUCTIONS.c.opening_angle_rad, RECONSTRUCTIONS.c.ra_rad)
    with connected(database) as connection:
        assert [tuple(row) for row in connection.execute(query)] == [(None, None)] * 3


async def test_dead_letters_and_scans_are_written_once_as_well(database: str) -> None:
    letters = [
        dead_letter_row(
            "icestream.deadletter.router",
            {"Nats-Msg-Id": name},
            sequence=1,
            stored_unix_ns=START_UNIX_NS,
            recorded_unix_ns=RECORDED_UNIX_NS,
        )
        for name in ("a", "b", "a")
    ]
    scans = [scan_row(make_ended(name), RECORDED_UNIX_NS) for name in ("s1", "s2", "s1")]
    async with open_store(database) as store:
        for table, rows in ((DEAD_LETTERS, letters), (SCANS, scans)):
            assert await store.insert(table, columns_of(rows)) == [True, True, False]
            assert await store.insert(table, columns_of(rows)) == [False, False, False]
            with connected(database) as connection:
                assert [row._asdict() for row in connection.execute(select(table))] == rows[:2]


async def test_each_part_of_the_name_makes_another_row(database: str) -> None:
    rows = [
        make_reconstruction(1),
        make_reconstruction(2),
        make_reconstruction(1, run_id=2),
        make_reconstruction(1, sub_event=1),
        make_reconstruction(1, detector="other"),
        make_reconstruction(1, model="other"),
        make_reconstruction(1, version="3"),
    ]
    async with open_store(database) as store:
        assert all(await record(store, rows))
        assert not any(await record(store, rows))
    assert n_rows(database) == len(rows)


async def test_recorders_that_write_the_same_at_once_write_it_once(database: str) -> None:
    rows = [make_reconstruction(number) for number in range(300)]
    async with open_store(database) as one, open_store(database) as two:
        found = await asyncio.gather(*(record(store, rows) for store in (one, two) for _ in range(3)))
    assert sum(map(sum, found)) == 300
    assert n_rows(database) == 300


async def test_every_value_comes_back_as_it_was(database: str) -> None:
    reconstructions = [
        make_reconstruction(-(2**63), run_id=2**63 - 1, start_unix_ns=-(2**63), trace_id="ab"),
        make_reconstruction(2, truth=None, start_unix_ns=0, model="δ-'%(x)s :y", radius90_rad=1e-300),
        make_reconstruction(3, truth=replace(make_truth(), energy_gev=None)),
    ]
    columns = columns_of_events(reconstructions)
    async with open_store(database) as store:
        assert all(await store.insert(RECONSTRUCTIONS, columns))
    with connected(database) as connection:
        query = select(RECONSTRUCTIONS).order_by(RECONSTRUCTIONS.c.event_id)
        assert [row._asdict() for row in connection.execute(query)] == rows_in(columns)


async def refuses(database: str, wrong: dict[str, Any]) -> None:
    """A row with this in it is to blame, alone, and another one is written afterwards."""
    good, bad = rows_in(columns_of_events([make_reconstruction(1), make_reconstruction(2)]))
    async with open_store(database) as store:
        with pytest.raises(InvalidRecord):
            await store.insert(RECONSTRUCTIONS, columns_of([good, bad | wrong]))
        assert n_rows(database) == 0
        assert await store.insert(RECONSTRUCTIONS, columns_of([good])) == [True]


@pytest.mark.parametrize("wrong", [{"detector": None}, {"event_id": 2**63}, {"event_day": "today"}])
async def test_a_value_that_is_to_blame_is_told_from_a_database_that_is_away(
    database: str, wrong: dict[str, Any]
) -> None:
    await refuses(database, wrong)


class TestPostgreSQL:
    async def test_a_password_that_is_wrong_is_no_crash(self, postgres: PostgresServer) -> None:
        async with RecordStore(open_writer(database_url(postgres.url("nobody_made_this")))) as store:
            with pytest.raises(StoreUnavailable, match="does not exist"):
                await store.migrate()

    @pytest.mark.parametrize("wrong", [{"kappa": "many"}, {"sub_event": 2**40}, {"detector": "a\0b"}])
    async def test_values_have_types(self, postgres: PostgresServer, wrong: dict[str, Any]) -> None:
        await refuses(postgres.create_database(), wrong)

    async def test_a_lock_that_is_not_given_may_pass(
        self, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.recorder.database._LOCK_TIMEOUT_S", 0.1)
        url = postgres.create_database()
        async with open_store(url) as store:
            with connected(url) as connection:
                connection.execute(text("LOCK TABLE reconstructions"))
                with pytest.raises(StoreUnavailable, match="lock timeout"):
                    await record(store, [make_reconstruction(1)])
            assert await record(store, [make_reconstruction(1)]) == [True]

    async def test_a_database_that_only_reads_fails_its_probe(self, postgres: PostgresServer) -> None:
        async with open_store(postgres.create_database()) as store:
            await store.probe()
            postgres.set("default_transaction_read_only", "on")
            try:
                with pytest.raises(StoreUnavailable, match="read-only transaction"):
                    await store.probe()
            finally:
                postgres.set("default_transaction_read_only", "off")

    async def test_rows_without_a_partition_wait_for_their_operator(self, postgres: PostgresServer) -> None:
        url = postgres.create_database()
        async with open_store(url) as store:
            with connected(url) as connection:
                connection.execute(text(f"DROP TABLE {REST}"))
            with pytest.raises(StoreUnavailable, match="no partition"):
                await record(store, [make_reconstruction(1)])

    async def test_a_month_of_its_own_takes_its_rows_and_keeps_them_single(
        self, postgres: PostgresServer
    ) -> None:
        """As docs/operations.md tells operators to make one."""
        url = postgres.create_database()
        new_year, february = (
            make_reconstruction(1),
            make_reconstruction(2, start_unix_ns=1_770_000_000 * 10**9),
        )
        async with open_store(url) as store:
            with connected(url) as connection:
                connection.execute(
                    text(
                        "CREATE TABLE reconstructions_2026_01 PARTITION OF reconstructions "
                        "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')"
                    )
                )
            assert await record(store, [new_year, february]) == [True, True]
            assert await record(store, [new_year, february]) == [False, False]
        assert (n_rows(url, "reconstructions_2026_01"), n_rows(url, REST)) == (1, 1)

    async def test_rows_are_found_again_by_day_without_looking_into_other_months(
        self, postgres: PostgresServer
    ) -> None:
        url = postgres.create_database()
        async with open_store(url) as store:
            await record(store, [make_reconstruction(1)])
        day = date(2026, 1, 1)
        with connected(url) as connection:
            query = select(func.count()).where(RECONSTRUCTIONS.c.event_day == day)
            assert connection.execute(query).scalar_one() == 1


class TestSQLite:
    async def test_a_full_disk_is_a_database_that_is_away(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/records.sqlite"
        async with open_store(url) as store:
            engine = store._engine
            with engine.begin() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
            rows = [make_reconstruction(number) for number in range(2000)]
            with pytest.raises(StoreUnavailable, match="full"):
                await record(store, rows)
            with engine.begin() as connection:
                connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
            assert all(await record(store, rows))
