"""How far a source has been published: what a restart needs, to lose nothing and repeat nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in a source from which publishing can go on."""

    position: int
    """So many events of the source, from its first on, are stored by the broker."""
    sequence: int
    """Whatever is stored of later events has a higher stream sequence than this."""


MAX_LEAD = 4096
"""So many events may be handed over beyond the first one that is not stored yet."""


class Progress:
    """Turns acknowledgements, which come in any order, into checkpoints."""

    def __init__(self, start: Checkpoint, *, may_be_stored_ahead: bool = False) -> None:
        """Begin.

        Args:
            start: Where publishing goes on.
            may_be_stored_ahead: An earlier run may have stored events from there on, with gaps between them.
        """
        self._position = start.position
        self._highest_sequence = start.sequence
        # Highest stream sequence that was known when an event was handed to the publisher: its own is higher.
        self._sequence_before: dict[int, int] = {}
        self._acknowledged: set[int] = set()
        # Until here an earlier run may have stored events, with any sequence behind the start's.
        self._first_sequence = start.sequence
        self._unknown_until = start.position + (MAX_LEAD if may_be_stored_ahead else 0)

    def may_dispatch(self, position: int) -> bool:
        """Whether the event is near enough to the first one that is not stored yet."""
        return position < self._position + MAX_LEAD

    def skip(self, position: int) -> None:
        """An earlier run stored the event, so it may have handed over that many more."""
        self._unknown_until = position + 1 + MAX_LEAD
        self.dispatch(position)
        self.acknowledge(position, 0)

    def dispatch(self, position: int) -> None:
        """The event is about to be handed to the publisher."""
        self._sequence_before[position] = self._sequence_now(position)

    def acknowledge(self, position: int, sequence: int) -> None:
        """The broker stored the event."""
        self._highest_sequence = max(self._highest_sequence, sequence)
        self._acknowledged.add(position)
        while self._position in self._acknowledged:
            self._acknowledged.remove(self._position)
            del self._sequence_before[self._position]
            self._position += 1

    def checkpoint(self) -> Checkpoint:
        """Where publishing could go on right now."""
        sequence = self._sequence_before.get(self._position)
        return Checkpoint(
            self._position, self._sequence_now(self._position) if sequence is None else sequence
        )

    def _sequence_now(self, position: int) -> int:
        """What later events' sequences exceed, were this one handed over now."""
        return self._first_sequence if position < self._unknown_until else self._highest_sequence
