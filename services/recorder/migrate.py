"""Brings a database to the newest tables, whoever else does so at the same time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, text

from icestream.errors import Misconfigured
from services.recorder.database import translated_failures

MIGRATIONS = Path(__file__).with_name("migrations")

_LOCK = 0x1CE57EA
"""Nobody else's number, among the advisory locks of a PostgreSQL database."""


def migrate(engine: Engine) -> None:
    """Make the tables, or change what is older than this version.

    All of it is one transaction that begins with a lock: of two recorders that start at once, the second finds
    the work done. A migration that fails leaves nothing behind.

    Raises:
        StoreUnavailable: The database does not answer.
        Misconfigured: The tables are newer than this version.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with translated_failures(), engine.begin() as connection:
            # SQLite's writers have the lock from the beginning of each transaction.
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise Misconfigured(
            f"the tables are not this version's: {error}; run the newest recorder that has written to them"
        ) from error
