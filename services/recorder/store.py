"""Writes rows, each once, whatever is written again."""

import asyncio
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Column, Connection, Date, Engine, Row, Select, Table, bindparam, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY, psycopg

from icestream.errors import InvalidRecord
from services.recorder.database import translated_failures
from services.recorder.migrate import migrate
from services.recorder.reconstruction_rows import Columns

_SLOW_S = 10.0

_T = TypeVar("_T")


class RecordStore:
    """The tables, for writing; an async context manager with one thread of its own.

    One thread, because SQLite has one writer, and because what several of them would gain at PostgreSQL several
    recorders gain as well.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._busy_since_s: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False)
        self._engine.dispose()

    def problem(self) -> str | None:
        """What is wrong with the database right now, as far as a write that hangs shows it."""
        since_s = self._busy_since_s
        busy_s = monotonic() - since_s if since_s is not None else 0.0
        return f"the database has not answered for {busy_s:.0f} s" if busy_s > _SLOW_S else None

    async def migrate(self) -> None:
        """Bring the tables to this version.

        Raises:
            StoreUnavailable: The database does not answer.
            Misconfigured: The tables are newer than this version.
        """
        await self._in_thread(lambda: migrate(self._engine))

    async def probe(self) -> None:
        """Return where the database lets us write.

        Raises:
            StoreUnavailable: It does not.
        """
        await self._in_thread(lambda: self._transaction(_touch))

    async def insert(self, table: Table, columns: Columns) -> list[bool]:
        """Write rows in one transaction; returns once they are on disk.

        A row whose key is there already stays as it is: the first delivery wins.

        Args:
            table: Where.
            columns: All that the table has; at least one row.

        Returns:
            Of each row, whether it is new.

        Raises:
            InvalidRecord: A value is to blame; no row was written.
            StoreUnavailable: The database does not answer; whether rows were written is not known.
        """
        return await self._in_thread(
            lambda: self._transaction(lambda connection: _insert(connection, table, columns))
        )

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, call)

    def _timed(self, call: Callable[[], _T]) -> _T:
        self._busy_since_s = monotonic()
        try:
            return call()
        finally:
            self._busy_since_s = None

    def _transaction(self, work: Callable[[Connection], _T]) -> _T:
        with translated_failures(), self._engine.begin() as connection:
            return work(connection)


def _touch(connection: Connection) -> None:
    # Both databases write a page for it, though it changes nothing; a full disk lets itself be read.
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")


def _insert(connection: Connection, table: Table, columns: Columns) -> list[bool]:
    if connection.dialect.name == "sqlite":
        return _insert_into_sqlite(connection, table, columns)
    return _insert_into_postgresql(connection, table, columns)


def _insert_into_sqlite(connection: Connection, table: Table, columns: Columns) -> list[bool]:
    last = connection.execute(_last_row(table)).scalar_one()
    rows = list(zip(*(_sqlite_values(column, columns[column.name]) for column in table.columns), strict=True))
    if connection.exec_driver_sql(_sqlite_statement(table), rows).rowcount == len(rows):
        return [True] * len(rows)
    # Nobody else writes before this transaction ends, and new rows are numbered upwards.
    query = select(*table.primary_key).where(text("rowid > :last"))
    return _are_new(table, columns, connection.execute(query, {"last": last}))


def _sqlite_values(column: Column[Any], values: list[Any]) -> list[Any]:
    """As SQLAlchemy writes them, which would look at every value of every column."""
    if not isinstance(column.type, Date):
        return values
    try:
        return [value.isoformat() for value in values]
    except AttributeError as error:
        raise InvalidRecord(f"the database does not take it: {column.name} is no date") from error


def _insert_into_postgresql(connection: Connection, table: Table, columns: Columns) -> list[bool]:
    new = connection.exec_driver_sql(_postgresql_statement(table), columns).all()
    n_rows = len(next(iter(columns.values())))
    return [True] * n_rows if len(new) == n_rows else _are_new(table, columns, new)


@cache
def _last_row(table: Table) -> Select[Any]:
    return select(func.coalesce(func.max(text("rowid")), 0)).select_from(table)


@cache
def _sqlite_statement(table: Table) -> str:
    return str(sqlite.insert(table).on_conflict_do_nothing().compile(dialect=sqlite.dialect()))


@cache
def _postgresql_statement(table: Table) -> str:
    """Takes columns as arrays: 16 000 rows/s where a statement with a place for each value has 5 000."""
    names = [column.name for column in table.columns]
    arrays = [bindparam(column.name, type_=ARRAY(column.type)) for column in table.columns]
    statement = (
        postgresql.insert(table)
        .from_select(names, select(*map(func.unnest, arrays)))
        .on_conflict_do_nothing()
        .returning(*table.primary_key)
    )
    compiled = statement.compile(dialect=psycopg.dialect())  # type: ignore[no-untyped-call]
    # In binary form, which takes psycopg a third of the time.
    return re.sub(r"%\((\w+)\)s", r"%(\1)b", str(compiled))


def _are_new(table: Table, columns: Columns, new_keys: Iterable[Row[Any]]) -> list[bool]:
    left = {tuple(key) for key in new_keys}
    keys = zip(*(columns[column.name] for column in table.primary_key), strict=True)
    # The second of two rows with one key in the same transaction is as old as any.
    return [_taken(left, key) for key in keys]


def _taken(left: set[tuple[Any, ...]], key: tuple[Any, ...]) -> bool:
    if key not in left:
        return False
    left.remove(key)
    return True
