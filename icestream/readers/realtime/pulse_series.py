"""The pulses of a message's modules, as columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_MODULES = 10_000
"""IceCube has 5484, those on its surface counted."""
MAX_PULSES = 500_000
"""Of one series; longer ones are refused before they fill the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class PulseSeries:
    """Pulses ordered by module and, within a module, by time."""

    string: NDArray[np.int64]
    """Of each module, ascending; shape (m,)."""
    om: NDArray[np.int64]
    """Number on the string, counted from 1; shape (m,)."""
    n_pulses: NDArray[np.int64]
    """Of each module; shape (m,)."""
    time_ns: NDArray[np.float64]
    """Shape (n,), like the other columns."""
    charge_pe: NDArray[np.float32]
    width_ns: NDArray[np.float32]
    flags: NDArray[np.uint8]
    """IceTray's: 1 hard local coincidence, 2 ATWD, 4 FADC."""

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def module(self) -> NDArray[np.int64]:
        """Row of each pulse's module; shape (n,)."""
        return np.repeat(np.arange(len(self.n_pulses)), self.n_pulses)

    def selected(self, has_module: NDArray[np.bool_], has_pulse: NDArray[np.bool_]) -> "PulseSeries":
        """Some of the pulses.

        Args:
            has_module: Which modules remain, with or without pulses; shape (m,).
            has_pulse: Which pulses remain, all of remaining modules; shape (n,).
        """
        n_pulses = np.bincount(self.module[has_pulse], minlength=len(self.n_pulses))
        return PulseSeries(
            self.string[has_module],
            self.om[has_module],
            n_pulses[has_module].astype(np.int64),
            self.time_ns[has_pulse],
            self.charge_pe[has_pulse],
            self.width_ns[has_pulse],
            self.flags[has_pulse],
        )
