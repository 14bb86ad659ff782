"""Run by Alembic: migrates over the connection that `migrate.py` opened, in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
