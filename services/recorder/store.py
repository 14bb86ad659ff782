"""Writes rows, each once, whatever is written again."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, Row, Table, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from services.recorder.database import translated_failures
from services.recorder.migrate import migrate
from services.recorder.schema import RECONSTRUCTIONS

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
        await self._in_thread(lambda: self._transaction(_look))

    async def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> list[bool]:
        """Write rows in one transaction; returns once they are on disk.

        A row whose key is there already stays as it is: the first delivery wins.

        Returns:
            Of each row, whether it is new.

        Raises:
            InvalidRecord: A value is to blame; no row was written.
            StoreUnavailable: The database does not answer; whether rows were written is not known.
        """
        found = await self._in_thread(
            lambda: self._transaction(lambda connection: _insert(connection, table, rows))
        )
        new = {tuple(key) for key in found}
        # The second of two rows with one key in the same batch is as old as any.
        return [_taken(new, key) for key in _keys(table, rows)]

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


def _look(connection: Connection) -> None:
    connection.execute(select(RECONSTRUCTIONS.c.run_id).limit(1)).all()


def _insert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> Sequence[Row[Any]]:
    """The keys of the rows that are new."""
    key = table.primary_key.columns
    if connection.dialect.name == "sqlite":
        into_sqlite = sqlite.insert(table).on_conflict_do_nothing().returning(*key)
        return connection.execute(into_sqlite, rows).all()
    # Columns as arrays: 16 000 rows/s where a statement with a place for each value has 5 000.
    columns = list(table.columns)
    source = select(*(func.unnest(bindparam(column.name, type_=ARRAY(column.type))) for column in columns))
    into_postgresql = (
        postgresql.insert(table)
        .from_select([column.name for column in columns], source)
        .on_conflict_do_nothing()
        .returning(*key)
    )
    values = {column.name: [row[column.name] for row in rows] for column in columns}
    return connection.execute(into_postgresql, values).all()


def _keys(table: Table, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = [column.name for column in table.primary_key.columns]
    return [tuple(row[name] for name in names) for row in rows]


def _taken(new: set[tuple[Any, ...]], key: tuple[Any, ...]) -> bool:
    if key not in new:
        return False
    new.remove(key)
    return True
