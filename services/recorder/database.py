"""The two databases that records can be in, and what their failures mean."""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from icestream.errors import DeadlineExceeded, InvalidRecord, Misconfigured, StoreUnavailable

_CONNECT_TIMEOUT_S = 5
_LOCK_TIMEOUT_S = 5.0
_INTERRUPT_TIMEOUT_S = 1.0
_OPCODES_BETWEEN_LOOKS = 100_000
_NO_PARTITION = "23514"
_QUERY_CANCELLED = "57014"
_POSTGRESQL = "postgresql+psycopg"

DriverConnection = sqlite3.Connection | psycopg.Connection[Any]


def database_url(text: str) -> URL:
    """Read the URL of a database.

    Raises:
        Misconfigured: It is none of `sqlite:///FILE` and `postgresql://USER@HOST/NAME`.
    """
    advice = "write sqlite:///FILE, or postgresql://USER@HOST:PORT/NAME with the password in PGPASSWORD"
    try:
        # Secrets that were written with an editor end with a line's end.
        url = make_url(text.strip())
    except (ArgumentError, ValueError) as error:
        raise Misconfigured(f"the database URL cannot be read; {advice}") from error
    if url.drivername in ("postgresql", _POSTGRESQL):
        return url.set(drivername=_POSTGRESQL)
    if url.drivername != "sqlite":
        raise Misconfigured(f"records cannot be in a database of kind {url.drivername!r}; {advice}")
    if url.database in (None, "", ":memory:") or url.host:
        raise Misconfigured(f"records need a file to outlive the recorder; {advice}")
    return url


def open_writer(url: URL) -> Engine:
    """The database for one thread that writes.

    A transaction has the right to write from its beginning, so that none fails for another one half way.

    Raises:
        Misconfigured: The folder of the file cannot be made.
    """
    if url.drivername == "sqlite":
        _make_folder(Path(str(url.database)))
        return _open_sqlite(url, begin="BEGIN IMMEDIATE", pool_size=1)
    settings = f"-c lock_timeout={int(_LOCK_TIMEOUT_S * 1e3)}"
    return create_engine(
        url, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=_postgresql_options(settings)
    )


def open_reader(url: URL, *, n_connections: int, timeout_s: float) -> Engine:
    """The database for threads that only read.

    Args:
        url: Of the database.
        n_connections: At most so many at once.
        timeout_s: A query that takes longer is given up.
    """
    if url.drivername == "sqlite":
        engine = _open_sqlite(url, begin="BEGIN", pool_size=n_connections)
        event.listen(engine, "begin", lambda connection: _limit_sqlite(connection, timeout_s))
        return engine
    settings = f"-c statement_timeout={int(timeout_s * 1e3)} -c default_transaction_read_only=on"
    return create_engine(
        url,
        pool_size=n_connections,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=timeout_s,
        # All statements of an answer see the same moment, as they do in SQLite.
        isolation_level="REPEATABLE READ",
        connect_args=_postgresql_options(settings),
    )


def driver_of(connection: Connection) -> DriverConnection:
    """What `interrupt` takes; unlike the connection itself it may be looked at by any thread at any time."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection | psycopg.Connection)
    return driver


def interrupt(driver: DriverConnection) -> None:
    """Make the statement that another thread waits for fail soon, if there is one and the database hears of it."""
    # A connection that was closed meanwhile is an error, too.
    with suppress(sqlite3.Error, psycopg.Error):
        if isinstance(driver, sqlite3.Connection):
            driver.interrupt()
        else:
            driver.cancel_safe(timeout=_INTERRUPT_TIMEOUT_S)


@contextmanager
def translated_failures() -> Iterator[None]:
    """Say in the recorder's words what a database raises.

    Raises:
        InvalidRecord: A value is to blame, not the database.
        DeadlineExceeded: A query took too long.
        StoreUnavailable: Everything else: a server that is away, a full disk, a lock that is not given.
    """
    try:
        yield
    except OverflowError as error:
        # SQLAlchemy does not know that SQLite's module raises it.
        raise InvalidRecord(f"the database does not take it: {error}") from error
    except SQLAlchemyError as error:
        if _is_about_a_value(error):
            raise InvalidRecord(f"the database does not take it: {_first_line(error)}") from error
        if _was_cancelled(error):
            raise DeadlineExceeded("the question takes too long; ask for a shorter time") from error
        raise StoreUnavailable(f"the database: {_first_line(error)}") from error


def _open_sqlite(url: URL, *, begin: str, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        # None: the module begins no transactions of its own, which it would do too late.
        connect_args={"timeout": _LOCK_TIMEOUT_S, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: object) -> None:
        # Readers go on while somebody writes, and what is committed outlives a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _limit_sqlite(connection: Connection, timeout_s: float) -> None:
    give_up_at_s = time.monotonic() + timeout_s

    def is_late() -> bool:
        return time.monotonic() > give_up_at_s

    raw: Any = connection.connection.driver_connection
    raw.set_progress_handler(is_late, _OPCODES_BETWEEN_LOOKS)


def _postgresql_options(settings: str) -> dict[str, Any]:
    # A host that is gone without a goodbye is missed after a quarter of a minute, not after two hours.
    keep_alive = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 5}
    limits = {"connect_timeout": _CONNECT_TIMEOUT_S, "tcp_user_timeout": 15_000}
    return {"options": settings, **limits, **keep_alive}


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"the folder of the database {file} cannot be made: {error}") from error


def _is_about_a_value(error: SQLAlchemyError) -> bool:
    cause = getattr(error, "orig", None)
    if getattr(cause, "sqlstate", None) == _NO_PARTITION:
        # It is about the tables: an operator dropped the partition for the rest.
        return False
    return isinstance(error, DataError | IntegrityError) or isinstance(cause, ValueError | TypeError)


def _was_cancelled(error: SQLAlchemyError) -> bool:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) == _QUERY_CANCELLED or str(cause) == "interrupted"


def _first_line(error: SQLAlchemyError) -> str:
    """What the database says, without the statement and its values."""
    text = str(getattr(error, "orig", None) or error).strip()
    return re.sub(r"\s+", " ", text.partition("\n")[0])
