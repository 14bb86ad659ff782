"""How far a source has been published: what a restart needs, to lose nothing and repeat nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in a source from which publishing can go on."""

    position: int
    """So many events of the source, from its first on, are stored by the broker."""
    sequence: int
    """Whatever is stored of later events has a higher stream sequence than this."""


class Progress:
    """Turns acknowledgements, which come in any order, into checkpoints."""

    def __init__(self, start: Checkpoint) -> None:
        self._position = start.position
        self._highest_sequence = start.sequence
        # Highest stream sequence that was known when an event was handed to the publisher: its own is higher.
        self._sequence_before: dict[int, int] = {}
        self._acknowledged: set[int] = set()

    def dispatch(self, position: int) -> None:
        """The event is about to be handed to the publisher."""
        self._sequence_before[position] = self._highest_sequence

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
        return Checkpoint(self._position, self._sequence_before.get(self._position, self._highest_sequence))
