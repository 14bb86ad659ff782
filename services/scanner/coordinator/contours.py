"""How large the regions are that hold the true direction."""

import numpy as np

from icestream.errors import InvalidSkymap
from icestream.scans.skymap import Skymap
from icestream.skymaps.multiorder import cover, deciding_levels
from icestream.v1 import scan_pb2

_WILKS = {0.5: 1.39, 0.9: 4.61}
"""Twice the difference of llh to the best, of two degrees of freedom; as in `icestream.skymaps.regions`, which
also draws and so brings more than a service needs."""
_SQUARE_DEGREES_PER_SR = (180 / np.pi) ** 2


def contours_of(skymap: Skymap) -> list[scan_pb2.Contour]:
    """The regions of 50 and 90 %; none where no fit succeeded."""
    try:
        tiles = cover(deciding_levels(skymap))
        lowest = np.nanmin(np.where(np.isfinite(tiles.llh), tiles.llh, np.inf), initial=np.inf)
    except (InvalidSkymap, ValueError):
        return []
    if not np.isfinite(lowest):
        return []
    two_delta_llh = 2 * (tiles.llh - lowest)
    return [
        scan_pb2.Contour(
            containment=containment,
            method="wilks",
            two_delta_llh=level,
            area_deg2=float(tiles.area_sr[two_delta_llh < level].sum() * _SQUARE_DEGREES_PER_SR),
        )
        for containment, level in _WILKS.items()
    ]
