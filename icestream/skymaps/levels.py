"""How far 2 * delta llh may rise inside a region: by theory, and as simulated events say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from icestream.scans.skymap import Skymap


@dataclass(frozen=True, slots=True)
class ContourLevels:
    """How far 2 * delta llh may rise inside the regions that hold half, and nine tenths, of all neutrinos."""

    method: str
    """Where the levels come from, in a few words for plots and headers."""
    two_delta_llh_50: float
    two_delta_llh_90: float

    def __post_init__(self) -> None:
        if not 0 < self.two_delta_llh_50 < self.two_delta_llh_90 < np.inf:
            raise ValueError(
                f"levels ascend from above 0, not {self.two_delta_llh_50}, {self.two_delta_llh_90}"
            )

    @property
    def llh_scale(self) -> float:
        """By what to multiply delta llh, so that the region of 90 % is where Wilks' theorem puts it."""
        return WILKS_90 / self.two_delta_llh_90


WILKS_90 = 4.61
WILKS = ContourLevels("Wilks", 1.39, WILKS_90)
"""Two degrees of freedom, of a likelihood that knows all there is to know."""
IC160427A = ContourLevels("IC160427A syst.", 22.2, 64.2)
"""IceCube's realtime levels for its Millipede scans, from resimulations of one event. Source: skyreader."""

CALIBRATED_NSIDE = 512
"""The finest level of the scans that the levels below were found with."""
CALIBRATED: Mapping[str, ContourLevels] = {"track_mpe": ContourLevels("calibrated", 2.63, 14.73)}
"""By reco: found on 400 simulated through-going tracks above 1 TeV with at least 25 HLC modules, tested on 400 others.
Source: benchmarks/scan_accuracy.py, docs/scans.md."""
SAME_FIT: Mapping[tuple[str, str], str] = {("best", "track"): "track_mpe"}
"""Recos and hypotheses of theirs whose maps another reco would have made as well."""


def levels_for(skymap: Skymap) -> ContourLevels:
    """Calibrated levels where there are some for the fit and its resolution, else those of Wilks' theorem."""
    finest = skymap.levels[-1] if skymap.levels else None
    if finest is None or finest.nside < CALIBRATED_NSIDE or not np.isfinite(finest.llh).any():
        return WILKS
    hypothesis = skymap.hypotheses[int(finest.hypothesis[np.nanargmin(finest.llh)])]
    return CALIBRATED.get(SAME_FIT.get((skymap.reco, hypothesis), skymap.reco), WILKS)
