"""How large the regions are that hold the true direction."""

import numpy as np

from icestream.errors import InvalidSkymap
from icestream.scans.skymap import Skymap
from icestream.skymaps.levels import WILKS, levels_for
from icestream.skymaps.multiorder import cover, deciding_levels
from icestream.v1 import scan_pb2

_SQUARE_DEGREES_PER_SR = (180 / np.pi) ** 2


def contours_of(skymap: Skymap) -> list[scan_pb2.Contour]:
    """The regions of 50 and 90 %, calibrated ones first where there are such; none where no fit succeeded.

    As `icestream.skymaps.regions` finds them, which also draws and so brings more than a service needs.
    """
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
            method=levels.method.lower(),
            two_delta_llh=level,
            area_deg2=float(tiles.area_sr[two_delta_llh < level].sum() * _SQUARE_DEGREES_PER_SR),
        )
        for levels in dict.fromkeys((levels_for(skymap), WILKS))
        for containment, level in ((0.5, levels.two_delta_llh_50), (0.9, levels.two_delta_llh_90))
    ]
