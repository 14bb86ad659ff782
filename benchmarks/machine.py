"""Which machine a measurement was made on, and how busy it was."""

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader needs to judge a rate."""

    cpu: str
    n_cores: int
    load_1min: float
    """Processes that wanted a core over the last minute, this one included; rates suffer where it exceeds the cores."""
    python: str
    numpy: str
    numba: str

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.n_cores} cores, load {self.load_1min:.1f}; "
            f"Python {self.python}, numpy {self.numpy}, numba {self.numba}"
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def this_machine() -> Machine:
    """Describe this machine as it is now."""
    return Machine(
        cpu=_cpu_name(),
        n_cores=os.cpu_count() or 1,
        load_1min=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        numpy=np.__version__,
        numba=numba.__version__,
    )


def _cpu_name() -> str:
    """The processor's name as Linux has it, else as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
