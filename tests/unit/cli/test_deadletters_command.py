"""`icestream deadletters`: what a letter says is shown, and is never obeyed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from icestream.cli import deadletters
from icestream.errors import InvalidInput
from icestream.runtime.deadletters import DeadLetter, StoredDeadLetter
from tests.unit.cli.conftest import Command

LETTER = DeadLetter(
    service="router",
    reason="invalid_event",
    problem="no charge",
    n_deliveries=3,
    subject="icestream.events.ic86.test",
    message_id="ic86/1.2.0",
    event_id="1.2.0",
    payload=b"event",
)
FORGED = replace(LETTER, subject="icestream.reconstructions.ic86.direction")
SHOUTING = replace(
    LETTER, problem="bad [/x] [link=http://evil]here[/link]\x1b[2J", event_id="[red]1", reason="[/]"
)


class Box:
    """Dead letters in memory."""

    def __init__(self, *letters: DeadLetter) -> None:
        self.stored = {n: StoredDeadLetter(n, 0, letter) for n, letter in enumerate(letters, start=1)}

    async def letters(self) -> AsyncIterator[StoredDeadLetter]:
        for stored in self.stored.values():
            yield stored

    async def get(self, sequence: int) -> StoredDeadLetter:
        return self.stored[sequence]

    async def replay(self, stored: StoredDeadLetter, _publisher: object) -> None:
        if stored.letter is FORGED:
            raise InvalidInput("it cannot have come from there [/x]")
        del self.stored[stored.sequence]


def hold(monkeypatch: pytest.MonkeyPatch, *letters: DeadLetter) -> Box:
    box = Box(*letters)

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[tuple[object, Box]]:
        yield None, box

    @asynccontextmanager
    async def publisher(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(deadletters, "_box", opened)
    monkeypatch.setattr(deadletters, "WindowedPublisher", publisher)
    return box


NATS = ("--nats", "nats://127.0.0.1:1")


def test_the_list_says_where_a_replay_would_go(icestream: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, LETTER, replace(LETTER, subject=""))
    status, table, _ = icestream("deadletters", "list", *NATS)
    assert status == 0
    assert LETTER.subject in table
    assert "never published" in table


def test_what_a_letter_says_is_text_and_no_markup(
    icestream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(monkeypatch, SHOUTING)
    for command in (("list",), ("show", 1)):
        status, table, _ = icestream("deadletters", *command, *NATS)
        assert status == 0
        assert "bad [/x] [link=http://evil]here[/link]?[2J" in table
        assert "[red]1" in table


def test_a_letter_that_is_refused_does_not_keep_the_others_from_a_replay(
    icestream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = hold(monkeypatch, FORGED, LETTER, replace(LETTER, subject=""))
    status, told, problem = icestream("deadletters", "replay", "--all", *NATS)
    assert status == 0
    assert "1 sent again" in told
    assert "not sent: it cannot have come from there [/x]" in problem
    assert list(box.stored) == [1, 3]


def test_a_letter_that_is_refused_by_its_number_is_an_error(
    icestream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = hold(monkeypatch, FORGED)
    status, _, problem = icestream("deadletters", "replay", 1, *NATS)
    assert status == 1
    assert "it cannot have come from there" in problem
    assert list(box.stored) == [1]
