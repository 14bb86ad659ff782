"""The tables; docs/decisions/0008-records.md says why they are as they are.

What is here is what the newest migration leaves behind: a test compares. Changes go there as well.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)

METADATA = MetaData()

RECONSTRUCTIONS = Table(
    "reconstructions",
    METADATA,
    Column("detector", Text, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("event_id", BigInteger, nullable=False),
    Column("sub_event", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    # UTC day of the event: a function of the event, never of the clock, or a second delivery would be a second row.
    Column("event_day", Date, nullable=False),
    Column("start_unix_ns", BigInteger, nullable=False),
    Column("x", Double, nullable=False),
    Column("y", Double, nullable=False),
    Column("z", Double, nullable=False),
    # All five are absent where the event's time is not known.
    Column("ra_rad", Double),
    Column("dec_rad", Double),
    Column("sky_x", Double),
    Column("sky_y", Double),
    Column("sky_z", Double),
    Column("kappa", Double, nullable=False),
    Column("radius50_rad", Double, nullable=False),
    Column("radius90_rad", Double, nullable=False),
    Column("n_pulses", Integer, nullable=False),
    Column("n_pulses_used", Integer, nullable=False),
    Column("published_unix_ns", BigInteger, nullable=False),
    Column("received_unix_ns", BigInteger, nullable=False),
    Column("inferred_unix_ns", BigInteger, nullable=False),
    Column("trace_id", Text, nullable=False),
    # `EventKind`; 0 where no truth says it.
    Column("kind", SmallInteger, nullable=False),
    Column("truth_azimuth_rad", Double),
    Column("truth_zenith_rad", Double),
    Column("truth_energy_gev", Double),
    Column("opening_angle_rad", Double),
    Column("recorded_unix_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint(
        *("detector", "run_id", "event_id", "sub_event", "model", "model_version", "event_day"),
        name="reconstructions_key",
    ),
    # The order in which they are listed; the name makes it total.
    Index(
        "reconstructions_by_time",
        *("start_unix_ns", "detector", "run_id", "event_id", "sub_event", "model", "model_version"),
    ),
    Index("reconstructions_by_declination", "dec_rad"),
    Index("reconstructions_by_recording", "recorded_unix_ns"),
    postgresql_partition_by="RANGE (event_day)",
)

DEAD_LETTERS = Table(
    "dead_letters",
    METADATA,
    # The message id, or the place in the stream where there is none.
    Column("letter_id", Text, nullable=False),
    # UTC day of `dead_unix_ns`.
    Column("dead_day", Date, nullable=False),
    Column("dead_unix_ns", BigInteger, nullable=False),
    Column("service", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("problem", Text, nullable=False),
    Column("n_deliveries", BigInteger, nullable=False),
    Column("event_name", Text, nullable=False),
    Column("original_subject", Text, nullable=False),
    Column("original_message_id", Text, nullable=False),
    Column("original_sequence", BigInteger, nullable=False),
    Column("trace_id", Text, nullable=False),
    # Number by which `icestream deadletters show` knows it, with the message itself.
    Column("stream_sequence", BigInteger, nullable=False),
    Column("recorded_unix_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("letter_id", "dead_day", name="dead_letters_key"),
    Index("dead_letters_by_reason", "service", "reason"),
)

SCANS = Table(
    "scans",
    METADATA,
    Column("scan_id", Text, nullable=False),
    # UTC day of `ended_unix_ns`.
    Column("ended_day", Date, nullable=False),
    Column("detector", Text, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("event_id", BigInteger, nullable=False),
    Column("sub_event", Integer, nullable=False),
    Column("start_unix_ns", BigInteger, nullable=False),
    Column("reco", Text, nullable=False),
    # `ScanState`.
    Column("state", SmallInteger, nullable=False),
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("ended_unix_ns", BigInteger, nullable=False),
    # The best direction; absent where no fit came back, and in the sky where the event's time is not known.
    Column("azimuth_rad", Double),
    Column("zenith_rad", Double),
    Column("ra_rad", Double),
    Column("dec_rad", Double),
    # The whole `ScanEnded`, with its contours.
    Column("message", LargeBinary, nullable=False),
    Column("recorded_unix_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("scan_id", "ended_day", name="scans_key"),
    Index("scans_by_event", "detector", "run_id", "event_id", "sub_event"),
)
