"""The IceCube detector with its 86 strings, as deployed.

Positions are rounded to 0.1 m; layout as in IceCube, JINST 12 (2017) P03012. Strings hang straight here: of
the surveyed modules, one of string 1 is 4 m off, twelve of strings 8, 21, 43, 48, 70, 79 and 83 are 1 to 2 m
off (as string 29 nearly is), and all others less than 1 m.
"""

import numpy as np
from numpy.typing import NDArray

MODULES_PER_STRING = 60
N_DEEPCORE_STRINGS = 8
"""Strings 79 to 86, the last of the table."""
SPACING_M = 17.02
"""Between the modules of strings 1 to 78."""
DEEPCORE_CAP_MODULES = 10
DEEPCORE_CAP_SPACING_M = 10.0
DEEPCORE_GAP_M = 257.3
"""Left empty across the dust layer."""
DEEPCORE_SPACING_M = 7.0
HIGH_QUANTUM_EFFICIENCY = 1.35
"""Of the newer photomultipliers, relative to the standard ones. Source: Astropart. Phys. 35 (2012) 615."""

HIGH_EFFICIENCY_MODULES = {
    36: (44, 46, *range(48, 60)),
    43: (55,),
    79: (30, 31, *range(33, 41), 42, 44, 55, 56),
    80: tuple(range(30, 44)),
    **{string: tuple(range(1, 61)) for string in range(81, 87)},
}
"""String to the numbers of its modules that hold the newer photomultiplier."""

REAL_RUNS = range(100_000, 1_000_000)
"""Run numbers of recorded data; simulations have others. Source: icecube-skyreader."""

# fmt: off
TOP_MODULES_M = (
    (-256.1, -521.1, 496.0), (-132.8, -501.4, 500.1), (-9.1, -481.7, 499.2), (114.4, -462.0, 498.7),
    (237.8, -442.4, 501.5), (361.0, -422.8, 499.5), (-334.8, -424.5, 500.6), (-211.3, -404.5, 498.6),
    (-88.0, -384.3, 500.0), (35.5, -364.8, 497.7), (158.9, -345.2, 499.8), (282.2, -325.7, 498.4),
    (405.8, -306.4, 495.1), (-413.5, -327.3, 499.6), (-290.7, -307.4, 504.0), (-166.4, -287.8, 497.8),
    (-43.3, -267.5, 500.4), (79.4, -248.2, 498.9), (210.5, -209.8, 496.9), (326.9, -209.1, 498.4),
    (443.6, -194.2, 516.7), (-492.4, -230.2, 497.6), (-368.9, -210.2, 500.5), (-245.7, -190.5, 501.5),
    (-121.8, -171.0, 502.3), (1.7, -150.6, 497.2), (125.0, -131.2, 493.6), (248.2, -111.9, 498.3),
    (371.6, -92.2, 501.6), (500.4, -58.5, 501.8), (-570.9, -125.1, 499.6), (-447.7, -113.1, 500.7),
    (-324.4, -93.4, 500.1), (-200.6, -74.0, 523.4), (-77.8, -54.3, 502.7), (46.3, -34.9, 501.0),
    (194.3, -30.9, 504.1), (292.9, 5.2, 491.4), (411.8, 13.0, 501.7), (544.1, 55.9, 502.8),
    (-526.6, -15.6, 502.7), (-403.1, 3.5, 501.8), (-279.5, 23.2, 502.6), (-156.2, 43.4, 500.8),
    (-33.0, 62.4, 495.8), (90.5, 82.3, 501.7), (195.0, 125.6, 501.8), (330.0, 127.2, 500.9),
    (472.1, 127.9, 504.3), (576.4, 170.9, 494.0), (-481.6, 101.4, 502.1), (-358.4, 120.6, 498.1),
    (-234.9, 140.4, 500.1), (-111.5, 160.0, 500.5), (11.9, 179.2, 502.3), (132.0, 203.0, 502.7),
    (257.3, 211.7, 504.4), (382.4, 238.9, 498.5), (505.3, 257.9, 506.2), (-437.0, 217.8, 501.5),
    (-313.6, 237.4, 501.2), (-190.0, 257.4, 501.3), (-66.7, 276.9, 497.8), (54.3, 293.0, 524.6),
    (174.5, 315.5, 512.7), (303.4, 335.6, 513.0), (429.8, 351.0, 506.1), (-392.4, 334.2, 502.8),
    (-268.9, 354.2, 501.5), (-145.4, 374.2, 502.1), (-22.0, 393.2, 499.8), (101.0, 412.8, 504.4),
    (224.6, 432.4, 497.1), (338.4, 463.7, 505.7), (-347.9, 451.5, 502.0), (-224.1, 470.9, 502.4),
    (-101.1, 490.2, 501.5), (22.1, 509.5, 504.7), (31.2, -72.9, 188.3), (72.4, -66.6, 187.6),
    (41.6, 35.5, 189.5), (106.9, 27.1, 186.7), (113.2, -60.5, 186.3), (57.2, -105.5, 186.0),
    (-9.7, -79.5, 191.0), (-11.0, 6.7, 190.4),
)
# fmt: on
"""x, y, z of the uppermost module of strings 1 to 86; z up, depth below the surface = 1948.07 m - z."""


def positions_m() -> NDArray[np.float64]:
    """Where the modules are, in order of sensor id; shape (5160, 3)."""
    positions = np.repeat(np.array(TOP_MODULES_M)[:, None], MODULES_PER_STRING, axis=1)
    positions[:-N_DEEPCORE_STRINGS, :, 2] -= SPACING_M * np.arange(MODULES_PER_STRING)
    positions[-N_DEEPCORE_STRINGS:, :, 2] -= _deepcore_drops_m()
    return positions.reshape(-1, 3)


def efficiencies() -> NDArray[np.float64]:
    """Quantum efficiency relative to a standard module, in order of sensor id; shape (5160,)."""
    efficiency = np.ones((len(TOP_MODULES_M), MODULES_PER_STRING))
    for string, modules in HIGH_EFFICIENCY_MODULES.items():
        efficiency[string - 1, np.array(modules) - 1] = HIGH_QUANTUM_EFFICIENCY
    return efficiency.reshape(-1)


def _deepcore_drops_m() -> NDArray[np.float64]:
    """How far each module of a DeepCore string hangs below its first; shape (60,)."""
    steps = np.full(MODULES_PER_STRING, DEEPCORE_SPACING_M)
    steps[:DEEPCORE_CAP_MODULES] = DEEPCORE_CAP_SPACING_M
    steps[0] = 0.0
    steps[DEEPCORE_CAP_MODULES] = DEEPCORE_GAP_M
    return np.cumsum(steps)
