import numpy as np
import pytest

from icestream.scans.skymap import Skymap
from icestream.skymaps.regions import regions_of
from services.scanner.coordinator.contours import contours_of
from tests.unit.skymaps.skymap_cases import (
    direction,
    gaussian,
    incomparable_levels,
    skymap_of,
    three_levels,
    whole_sky,
    without_fits,
)

CENTRE = direction(30.0, 20.0)


@pytest.mark.parametrize("skymap", [three_levels(CENTRE, 1.0), incomparable_levels(CENTRE, 1.0)])
def test_areas_are_those_of_the_regions_that_people_draw(skymap: Skymap) -> None:
    regions = regions_of(skymap)
    contours = contours_of(skymap)
    assert [contour.containment for contour in contours] == [0.5, 0.9]
    for contour, region in zip(contours, (regions.inner, regions.outer), strict=True):
        assert contour.area_deg2 == pytest.approx(region.area_deg2)
        assert contour.two_delta_llh == region.two_delta_llh
        assert contour.method == "wilks"


def test_a_map_without_fits_has_none() -> None:
    level = whole_sky(1, gaussian(CENTRE, 10.0))
    assert contours_of(skymap_of(without_fits(level, np.ones(12, np.bool_)))) == []
    assert contours_of(skymap_of()) == []
