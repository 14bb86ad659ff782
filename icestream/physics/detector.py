"""Where the optical modules are."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from icestream.physics.icecube86 import efficiencies, positions_m


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """A neutrino telescope's optical modules; row i describes sensor i."""

    name: str
    positions_m: NDArray[np.float64]
    """Shape (n_sensors, 3); origin at the detector's centre, z up."""
    efficiency: NDArray[np.float64]
    """Relative quantum efficiency, 1 for a standard module; shape (n_sensors,)."""

    @property
    def n_sensors(self) -> int:
        """Number of optical modules."""
        return len(self.positions_m)


@cache
def icecube86() -> Detector:
    """IceCube with all of its 5160 modules; sensor id = (string - 1) * 60 + (module - 1)."""
    positions, efficiency = positions_m(), efficiencies()
    # All callers share these arrays.
    positions.setflags(write=False)
    efficiency.setflags(write=False)
    return Detector("icecube86", positions, efficiency)
