"""The history of the tables, as Alembic runs it; `services/recorder/migrate.py` starts it."""
