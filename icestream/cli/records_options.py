"""Which records a command is about: flags, as a filter of the record service."""

import math
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, cast

import typer

from icestream.errors import InvalidInput
from icestream.v1 import event_pb2, record_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = range(-(1 << 63), 1 << 63)
# What datetime leaves out of a time, and what a nanosecond has no place for.
_BELOW_US = re.compile(r"[.,]\d{6}(?P<ns>\d{1,3})(?P<too_fine>\d*)")


class Kind(StrEnum):
    """Kinds of events, as flags name them."""

    THROUGH_GOING_TRACK = "through-going-track"
    STARTING_TRACK = "starting-track"
    CASCADE = "cascade"
    UNKNOWN = "unknown"

    @property
    def message(self) -> event_pb2.EventKind:
        """As the protocol names it."""
        name = "UNSPECIFIED" if self is Kind.UNKNOWN else self.name
        return cast("event_pb2.EventKind", event_pb2.EventKind.Value(f"EVENT_KIND_{name}"))


DetectorOption = Annotated[str, typer.Option(help="Only of this detector.", show_default=False)]
RunOption = Annotated[int | None, typer.Option(help="Only of this run.", show_default=False)]
AfterOption = Annotated[
    str | None,
    typer.Option(
        help="Only events at this UTC time or later: 2026-11-21 or 2026-11-21T09:20:44.", show_default=False
    ),
]
BeforeOption = Annotated[
    str | None, typer.Option(help="Only events before this UTC time.", show_default=False)
]
ConeOption = Annotated[
    str | None,
    typer.Option(help="Only in this disc on the sky: RA,DEC,RADIUS in degrees.", show_default=False),
]
ModelOption = Annotated[str, typer.Option(help="Only by this model.", show_default=False)]
VersionOption = Annotated[
    str, typer.Option("--model-version", help="Only by this version of it.", show_default=False)
]
RadiusOption = Annotated[
    float | None,
    typer.Option(
        "--max-radius90", help="Only with a 90 % radius of at most so many degrees.", show_default=False
    ),
]
KappaOption = Annotated[
    float | None, typer.Option("--min-kappa", help="Only with a kappa of at least this.", show_default=False)
]
KindOption = Annotated[
    list[Kind] | None,
    typer.Option(help="Only whose truth is of this kind; may be repeated.", show_default=False),
]


def filter_of(
    *,
    detector: str,
    run: int | None,
    after: str | None,
    before: str | None,
    cone: str | None,
    model: str,
    model_version: str,
    max_radius90: float | None,
    min_kappa: float | None,
    kind: list[Kind] | None,
) -> record_pb2.ReconstructionFilter:
    """The filter that the flags mean.

    Raises:
        InvalidInput: A flag cannot be read; it says which one.
    """
    return record_pb2.ReconstructionFilter(
        detector=detector,
        run_id=_run_id(run),
        start_unix_ns=_unix_ns("--after", after),
        end_unix_ns=_unix_ns("--before", before),
        cone=_cone(cone) if cone is not None else None,
        model=model,
        model_version=model_version,
        max_radius90_rad=math.radians(max_radius90) if max_radius90 is not None else None,
        min_kappa=min_kappa,
        kinds=[each.message for each in kind or ()],
    )


def _run_id(number: int | None) -> int | None:
    if number is not None and number not in _INT64:
        raise InvalidInput(f"--run: {number} is no run; their numbers have 64 bits")
    return number


def _unix_ns(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{flag}: {text!r} is no time; write 2026-11-21 or 2026-11-21T09:20:44") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    below_us = _BELOW_US.search(text)
    if below_us and below_us["too_fine"]:
        raise InvalidInput(f"{flag}: {text!r} is finer than a nanosecond; write at most 9 decimals")
    # Integers alone: a float holds such times to the nearest 200 ns.
    unix_ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    unix_ns += int(below_us["ns"].ljust(3, "0")) if below_us else 0
    if unix_ns not in _INT64:
        raise InvalidInput(f"{flag}: {text!r} is no time of an event; write one of the years 1678 to 2261")
    return unix_ns


def _cone(text: str) -> record_pb2.Cone:
    try:
        ra, dec, radius = (math.radians(float(part)) for part in text.split(","))
    except ValueError as error:
        raise InvalidInput(
            f"--cone: {text!r} is no disc; write RA,DEC,RADIUS in degrees, for example 77.36,5.69,2"
        ) from error
    cone = record_pb2.Cone(radius_rad=radius)
    cone.centre.ra_rad, cone.centre.dec_rad = ra, dec
    return cone
