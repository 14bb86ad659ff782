"""Reconstructions, dead letters and scans."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "reconstructions",
        sa.Column("detector", sa.Text, nullable=False),
        sa.Column("run_id", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.BigInteger, nullable=False),
        sa.Column("sub_event", sa.Integer, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("event_day", sa.Date, nullable=False),
        sa.Column("start_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("x", sa.Double, nullable=False),
        sa.Column("y", sa.Double, nullable=False),
        sa.Column("z", sa.Double, nullable=False),
        sa.Column("ra_rad", sa.Double),
        sa.Column("dec_rad", sa.Double),
        sa.Column("sky_x", sa.Double),
        sa.Column("sky_y", sa.Double),
        sa.Column("sky_z", sa.Double),
        sa.Column("kappa", sa.Double, nullable=False),
        sa.Column("radius50_rad", sa.Double, nullable=False),
        sa.Column("radius90_rad", sa.Double, nullable=False),
        sa.Column("n_pulses", sa.Integer, nullable=False),
        sa.Column("n_pulses_used", sa.Integer, nullable=False),
        sa.Column("published_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("received_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("inferred_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("truth_azimuth_rad", sa.Double),
        sa.Column("truth_zenith_rad", sa.Double),
        sa.Column("truth_energy_gev", sa.Double),
        sa.Column("opening_angle_rad", sa.Double),
        sa.Column("recorded_unix_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint(
            *("detector", "run_id", "event_id", "sub_event", "model", "model_version", "event_day"),
            name="reconstructions_key",
        ),
        postgresql_partition_by="RANGE (event_day)",
    )
    if op.get_bind().dialect.name == "postgresql":
        # Takes whatever has no partition of its own; an operator adds those.
        op.execute("CREATE TABLE reconstructions_rest PARTITION OF reconstructions DEFAULT")
    op.create_index(
        "reconstructions_by_time",
        "reconstructions",
        ["start_unix_ns", "detector", "run_id", "event_id", "sub_event", "model", "model_version"],
    )
    op.create_index("reconstructions_by_declination", "reconstructions", ["dec_rad"])
    op.create_index("reconstructions_by_recording", "reconstructions", ["recorded_unix_ns"])
    op.create_table(
        "dead_letters",
        sa.Column("letter_id", sa.Text, nullable=False),
        sa.Column("dead_day", sa.Date, nullable=False),
        sa.Column("dead_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("n_deliveries", sa.BigInteger, nullable=False),
        sa.Column("event_name", sa.Text, nullable=False),
        sa.Column("original_subject", sa.Text, nullable=False),
        sa.Column("original_message_id", sa.Text, nullable=False),
        sa.Column("original_sequence", sa.BigInteger, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("stream_sequence", sa.BigInteger, nullable=False),
        sa.Column("recorded_unix_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("letter_id", "dead_day", name="dead_letters_key"),
    )
    op.create_index("dead_letters_by_reason", "dead_letters", ["service", "reason"])
    op.create_table(
        "scans",
        sa.Column("scan_id", sa.Text, nullable=False),
        sa.Column("ended_day", sa.Date, nullable=False),
        sa.Column("detector", sa.Text, nullable=False),
        sa.Column("run_id", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.BigInteger, nullable=False),
        sa.Column("sub_event", sa.Integer, nullable=False),
        sa.Column("start_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("reco", sa.Text, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("ended_unix_ns", sa.BigInteger, nullable=False),
        sa.Column("azimuth_rad", sa.Double),
        sa.Column("zenith_rad", sa.Double),
        sa.Column("ra_rad", sa.Double),
        sa.Column("dec_rad", sa.Double),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("recorded_unix_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("scan_id", "ended_day", name="scans_key"),
    )
    op.create_index("scans_by_event", "scans", ["detector", "run_id", "event_id", "sub_event"])


def downgrade() -> None:
    """Drop them."""
    for table in ("scans", "dead_letters", "reconstructions"):
        op.drop_table(table)
