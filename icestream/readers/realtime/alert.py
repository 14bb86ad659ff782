"""The figures that stand beside the frames of a message, and the reconstructions among them."""

from collections.abc import Mapping
from typing import Any

from icestream.readers.realtime.cursor import Place
from icestream.readers.realtime.event import AlertSummary, StoredReconstruction

ORIGIN = "alert"


def alert_summary(figures: Mapping[str, Any], place: Place) -> AlertSummary | None:
    """Gather the figures; None where there are none.

    Raises:
        InvalidRealtimeMessage: One is of another type than in any real message.
    """
    if not figures:
        return None
    reco = _mapping(figures, "reco", place)
    return AlertSummary(
        unique_id=_typed(figures, "unique_id", str, place),
        event_time=_typed(figures, "eventtime", str, place),
        n_channels=_typed(figures, "nch", int, place),
        n_pulses=_typed(figures, "npulses", int, place),
        charge_pe=_number(figures, "qtot", place),
        is_icetop_triggered=_typed(figures, "it_trig", bool, place),
        energies_gev=_numbers(_mapping(reco, "energy", place), place),
        scores=_numbers(_mapping(figures, "neutrino", place), place),
    )


def alert_reconstructions(figures: Mapping[str, Any], place: Place) -> list[StoredReconstruction]:
    """The directions among the figures, which have less digits than the particles of the frames.

    Raises:
        InvalidRealtimeMessage: As of `alert_summary`.
    """
    reco = _mapping(figures, "reco", place)
    found = []
    for name in reco:
        if name != "energy":
            _require_printable(name, place)
            fit = _mapping(reco, name, place)
            zenith_rad, azimuth_rad = _number(fit, "zen", place), _number(fit, "azi", place)
            if zenith_rad is not None and azimuth_rad is not None:
                found.append(StoredReconstruction(name, ORIGIN, zenith_rad, azimuth_rad))
    return found


def named_ids(figures: Mapping[str, Any], place: Place) -> tuple[int | None, int | None]:
    """The run and the event as the figures name them; None where they do not.

    Raises:
        InvalidRealtimeMessage: As of `alert_summary`.
    """
    return _typed(figures, "run_id", int, place), _typed(figures, "event_id", int, place)


def _typed(figures: Mapping[str, Any], name: str, kind: type, place: Place) -> Any:
    value = figures.get(name)
    if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise place.error(f"{name!r} of the message is not of type {kind.__name__}")
    if isinstance(value, str):
        _require_printable(value, place)
    return value


def _number(figures: Mapping[str, Any], name: str, place: Place) -> float | None:
    value = figures.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise place.error(f"{name!r} of the message is not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise place.error(f"{name!r} of the message is larger than any number of its kind") from error


def _numbers(figures: Mapping[str, Any], place: Place) -> dict[str, float]:
    numbers = {name: _number(figures, name, place) for name in figures}
    for name in numbers:
        _require_printable(name, place)
    return {name: number for name, number in numbers.items() if number is not None}


def _mapping(figures: Mapping[str, Any], name: str, place: Place) -> Mapping[str, Any]:
    value = figures.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise place.error(f"{name!r} of the message is not a group of named figures")
    return value


def _require_printable(text: str, place: Place) -> None:
    """Refuse what a person's terminal might obey instead of show."""
    if not text.isprintable():
        raise place.error(f"{text!r} beside the frames is not printable")
