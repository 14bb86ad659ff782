import asyncio
import os
import resource
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import select

from icestream.errors import IceStreamError, Misconfigured, StoreUnavailable
from services.recorder.database import database_url, open_reader, open_writer, translated_failures
from tests.support.eventually import eventually
from tests.unit.recorder.recorder_cases import connected, make_reconstruction, open_store, record


@pytest.mark.parametrize("text", ["postgresql://a@b/c", "postgresql+psycopg://a@b/c"])
def test_postgresql_is_spoken_to_by_psycopg(text: str) -> None:
    assert database_url(text).drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "cannot be read"),
        ("records.sqlite", "cannot be read"),
        ("mysql://a@b/c", "of kind 'mysql'"),
        ("postgresql+asyncpg://a@b/c", "of kind 'postgresql"),
        ("sqlite://", "need a file"),
        ("sqlite:///:memory:", "need a file"),
    ],
)
def test_other_databases_are_refused_with_what_would_be_right(text: str, problem: str) -> None:
    with pytest.raises(Misconfigured, match=problem) as refused:
        database_url(text)
    assert "write sqlite:///FILE, or postgresql://" in str(refused.value)


def test_the_end_of_the_line_of_a_file_is_no_part_of_a_url() -> None:
    assert database_url("postgresql://a@b/c?sslmode=verify-full\n").query == {"sslmode": "verify-full"}
    assert database_url("sqlite:///records.sqlite\n").database == "records.sqlite"


def test_a_password_is_not_in_the_refusal() -> None:
    with pytest.raises(Misconfigured) as refused:
        database_url("postgresql://me:secret@host:port/name")
    assert "secret" not in str(refused.value)


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    file = tmp_path / "a/b/records.sqlite"
    with connected(f"sqlite:///{file}"):
        assert file.exists()


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="cannot be made"):
        open_writer(database_url(f"sqlite:///{tmp_path}/file/b/records.sqlite"))


def test_commits_outlive_a_power_cut_and_readers_go_on(tmp_path: Path) -> None:
    with connected(f"sqlite:///{tmp_path}/records.sqlite") as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_a_query_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    url = database_url(f"sqlite:///{tmp_path}/records.sqlite")
    engine = open_reader(url, n_connections=1, timeout_s=0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    for _ in range(2):
        with (
            pytest.raises(IceStreamError, match="takes too long") as late,
            translated_failures(),
            engine.begin() as connection,
        ):
            connection.exec_driver_sql(endless)
        assert late.value.reason == "deadline_exceeded"
    # The next one has a time of its own.
    with engine.begin() as connection:
        assert connection.execute(select(1)).scalar_one() == 1
    engine.dispose()


def test_a_file_that_is_no_database_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "records.sqlite").write_bytes(os.urandom(8192))
    engine = open_writer(database_url(f"sqlite:///{tmp_path}/records.sqlite"))
    with pytest.raises(StoreUnavailable) as failure, translated_failures(), engine.begin():
        pass
    assert "file is not a database" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_lock_that_is_not_given_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.recorder.database._LOCK_TIMEOUT_S", 0.05)
    engine = open_writer(database_url(f"sqlite:///{tmp_path}/records.sqlite"))
    with engine.begin():
        pass
    other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(StoreUnavailable, match="database is locked"),
        translated_failures(),
        engine.begin(),
    ):
        pass
    other.close()
    engine.dispose()


async def test_a_probe_of_a_full_disk_fails(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/records.sqlite") as store:
        await store.probe()
        sizes = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, ((tmp_path / "records.sqlite-wal").stat().st_size, sizes[1])
        )
        try:
            with pytest.raises(StoreUnavailable, match="disk"):
                await store.probe()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
        await store.probe()


async def test_a_write_that_hangs_is_a_problem_while_it_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.recorder.store._SLOW_S", 0.05)
    url = f"sqlite:///{tmp_path}/records.sqlite"
    async with open_store(url) as store:
        other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(record(store, [make_reconstruction()]))
        await eventually(lambda: "has not answered for" in (store.problem() or ""))
        other.execute("ROLLBACK")
        other.close()
        assert await writing == [True]
        assert store.problem() is None
