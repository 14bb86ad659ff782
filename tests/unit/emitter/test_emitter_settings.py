from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO

import pytest

from services.emitter.settings import EmitterSettings


def load(*arguments: str) -> EmitterSettings:
    return EmitterSettings.load(arguments, {})


def complaint(*arguments: str) -> str:
    """What is said before the program ends."""
    with redirect_stderr(StringIO()) as written, pytest.raises(SystemExit) as refused:
        load(*arguments)
    # A text as the status is written by the interpreter itself.
    return written.getvalue() or str(refused.value.code)


def test_without_any_flag_it_simulates_as_fast_as_it_can() -> None:
    settings = load()
    assert (settings.dataset, settings.rate, settings.poisson, settings.events) == (None, None, False, None)
    assert settings.detector == "icecube86"


def test_a_poisson_pace_needs_a_rate() -> None:
    assert "--poisson needs --rate" in complaint("--poisson")
    assert load("--poisson", "--rate", "1000").rate == 1000.0


@pytest.mark.parametrize(
    "arguments", [("--split", "test"), ("--batch-ids", "[1]"), ("--event-ids", "[41,42]")]
)
def test_a_choice_of_events_needs_a_data_set(arguments: Sequence[str]) -> None:
    assert "choose from a --dataset" in complaint(*arguments)
    load("--dataset", "somewhere", *arguments)


def test_batches_and_events_are_lists() -> None:
    settings = load("--dataset", "somewhere", "--batch-ids", "[1,2]", "--event-ids", "[41]")
    assert (settings.batch_ids, settings.event_ids) == ((1, 2), (41,))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rate", "0"),
        ("--rate", "-1"),
        ("--events", "-1"),
        ("--window", "0"),
        ("--trace-ratio", "1.5"),
        ("--seed", "-1"),
        ("--metrics-port", "65536"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_flag(arguments: tuple[str, str]) -> None:
    assert arguments[0] in complaint(*arguments)


def test_settings_do_not_change_once_they_are_read() -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.rate = 1.0
