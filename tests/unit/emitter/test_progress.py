from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.emitter import progress as progress_module
from services.emitter.progress import Checkpoint, Progress


def test_a_checkpoint_never_jumps_over_an_event_that_is_not_stored() -> None:
    progress = Progress(Checkpoint(0, 0))
    for position in range(3):
        progress.dispatch(position)
    progress.acknowledge(2, 12)
    progress.acknowledge(0, 10)
    assert progress.checkpoint().position == 1
    progress.acknowledge(1, 11)
    assert progress.checkpoint() == Checkpoint(3, 12)


def test_a_checkpoint_looks_back_no_further_than_it_must() -> None:
    progress = Progress(Checkpoint(0, 5))
    progress.dispatch(0)
    progress.acknowledge(0, 10)
    progress.dispatch(1)
    progress.dispatch(2)
    progress.acknowledge(2, 12)
    assert progress.checkpoint() == Checkpoint(1, 10)


def test_publishing_goes_on_where_it_stopped() -> None:
    progress = Progress(Checkpoint(100, 50))
    assert progress.checkpoint() == Checkpoint(100, 50)
    progress.dispatch(100)
    progress.acknowledge(100, 51)
    assert progress.checkpoint() == Checkpoint(101, 51)


@dataclass
class Broker:
    """Stores events, and others' messages in between, under rising sequence numbers."""

    sequences: dict[int, int] = field(default_factory=dict)
    last_sequence: int = 0

    def store(self, position: int) -> int:
        """Its sequence; that of the first time where the event is a duplicate."""
        if position not in self.sequences:
            self.last_sequence += 1
            self.sequences[position] = self.last_sequence
        return self.sequences[position]

    def stored_behind(self, checkpoint: Checkpoint) -> set[int]:
        return {position for position, sequence in self.sequences.items() if sequence > checkpoint.sequence}


class Run:
    """One life of an emitter, one step after the other."""

    def __init__(self, broker: Broker, start: Checkpoint) -> None:
        self.broker = broker
        self._already_stored = broker.stored_behind(start)
        self.progress = Progress(start, may_be_stored_ahead=bool(self._already_stored))
        self._next = start.position
        self._sent: list[int] = []
        self._answers: list[tuple[int, int]] = []

    def step(self, choice: int) -> None:
        """Hand over the next event, or let the broker store one, or hear of one that it stored."""
        match choice % 4:
            case 0:
                self._dispatch()
            case 1 if self._sent:
                position = self._sent.pop(choice % len(self._sent))
                self._answers.append((position, self.broker.store(position)))
            case 2 if self._answers:
                self.progress.acknowledge(*self._answers.pop(choice % len(self._answers)))
            case 3:
                self.broker.last_sequence += 1

    def _dispatch(self) -> None:
        if not self.progress.may_dispatch(self._next):
            return
        if self._next in self._already_stored:
            self.progress.skip(self._next)
        else:
            self.progress.dispatch(self._next)
            self._sent.append(self._next)
        self._next += 1


def assert_holds(checkpoint: Checkpoint, broker: Broker) -> None:
    """What a restart from this checkpoint relies on."""
    assert broker.sequences.keys() >= set(range(checkpoint.position)), "an event would be lost"
    later = [sequence for position, sequence in broker.sequences.items() if position >= checkpoint.position]
    assert all(sequence > checkpoint.sequence for sequence in later), "an event would be published again"


steps = st.lists(st.integers(0, 1_000), max_size=80)


@given(steps)
def test_a_crash_at_any_moment_loses_and_repeats_nothing(choices: list[int]) -> None:
    broker = Broker()
    run = Run(broker, Checkpoint(0, broker.last_sequence))
    for choice in choices:
        run.step(choice)
        assert_holds(run.progress.checkpoint(), broker)


def restart_in_the_middle(first_life: list[int], second_life: list[int]) -> None:
    broker = Broker()
    first = Run(broker, Checkpoint(0, 0))
    for choice in first_life:
        first.step(choice)
    second = Run(broker, first.progress.checkpoint())
    for choice in second_life:
        second.step(choice)
        assert_holds(second.progress.checkpoint(), broker)


def test_a_second_crash_repeats_nothing_that_the_first_life_stored() -> None:
    # First life: events 0, 1 and 2 are handed over, and only 2 is stored. Second life: 0 is handed over,
    # stored and confirmed; then it crashes.
    restart_in_the_middle([0, 0, 0, 5], [0, 1, 2])


@pytest.mark.parametrize("max_lead", [3, 4096])
@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], phases=(Phase.generate,)
)
@given(steps, steps)
def test_two_crashes_at_any_moment_lose_and_repeat_nothing(
    monkeypatch: pytest.MonkeyPatch, max_lead: int, first: list[int], second: list[int]
) -> None:
    monkeypatch.setattr(progress_module, "MAX_LEAD", max_lead)
    restart_in_the_middle(first, second)
