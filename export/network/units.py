"""The network's units: 500 m of length, about the detector's radius, and as much of time as light needs for it."""

import numpy as np

from icestream.physics.cherenkov import C_M_PER_NS


def single(value: float) -> float:
    """Round a constant to float32, as the exporter to ONNX does with those that meet float64 tensors.

    Without it, torch and the exported file would compute with numbers that differ in the eighth digit.
    """
    return float(np.float32(value))


METRE = single(1 / 500.0)
NANOSECOND = single(C_M_PER_NS / 500.0)
