import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image
from matplotlib.figure import Figure

from icestream.physics import healpix
from icestream.scans.request import Frame
from icestream.scans.skymap import Skymap
from icestream.skymaps import mollweide
from icestream.skymaps.plots import draw_sky, draw_zoom, write_plot
from icestream.skymaps.regions import regions_of
from tests.unit.skymaps.skymap_cases import (
    direction,
    gaussian,
    incomparable_levels,
    level_of,
    skymap_of,
    three_levels,
    whole_sky,
    without_fits,
)

CENTRE = direction(224.1, 41.3)


def pointed(*, radius_deg: float = 5.0) -> Skymap:
    """A partial map in the detector's frame with holes and failures."""
    pixel = healpix.pixels_within(64, CENTRE, np.radians(radius_deg))
    level = level_of(64, pixel[pixel % 11 > 0], gaussian(CENTRE, 1.5))
    skymap = skymap_of(without_fits(level, level.pixel % 13 == 0))
    return replace(skymap, frame=Frame.DETECTOR, start_unix_ns=0, is_complete=False)


CASES = {
    "three levels": three_levels(CENTRE, 0.5),
    "levels that do not compare": incomparable_levels(CENTRE, 0.5),
    "one level": skymap_of(whole_sky(1, gaussian(CENTRE, 20.0))),
    "pointed and partial": pointed(),
    "pole": three_levels(direction(10.0, 90.0), 1.0),
    "meridian": three_levels(direction(0.0, 0.0), 1.0),
    "no contour": skymap_of(whole_sky(2, lambda vectors: np.zeros(len(vectors)))),
    "one pixel": skymap_of(level_of(512, [1_000_000], np.array([5.0]))),
}


def texts(figure: Figure) -> str:
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return "\n".join(text.get_text() for text in (*figure.texts, *legend.get_texts()))


@pytest.mark.parametrize("skymap", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("draw", [draw_sky, draw_zoom])
def test_any_map_can_be_drawn(draw: object, skymap: Skymap, tmp_path: Path) -> None:
    assert callable(draw)
    begin = time.process_time()
    figure = draw(skymap, regions_of(skymap), truth=CENTRE)
    png, pdf = (write_plot(figure, tmp_path / f"plot.{kind}") for kind in ("png", "pdf"))

    assert time.process_time() - begin < 6, "two files, 3 s each"
    picture = image.imread(png)
    assert min(picture.shape[:2]) > 500
    assert np.unique(picture.reshape(-1, picture.shape[-1])[::97], axis=0).shape[0] > 10
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.stat().st_size < 2_000_000


def test_plot_states_event_direction_and_areas() -> None:
    skymap = three_levels(CENTRE, 0.5)

    text = texts(draw_sky(skymap, regions_of(skymap)))

    assert "Run 136766, event 7637140" in text
    assert "2022-06-24 16:13:16 UTC" in text
    assert "RA 224.1" in text
    assert "90%: 3.6 deg²" in text
    assert "truth" not in text
    assert "PARTIAL" not in text


def test_plot_states_what_is_missing() -> None:
    text = texts(draw_zoom(pointed(), regions_of(pointed()), truth=CENTRE))

    assert "azimuth 22" in text
    assert "zenith 4" in text
    assert "PARTIAL MAP" in text
    assert "not scanned" in text
    assert "fit failed" in text
    assert "truth" in text
    assert "> " in text


def test_same_map_is_the_same_plot(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)
    files = [
        write_plot(draw_zoom(skymap, regions_of(skymap)), tmp_path / f"{i}.png").read_bytes()
        for i in range(2)
    ]

    assert files[0] == files[1]


@settings(deadline=None)
@given(st.floats(0.01, 359.99), st.floats(-90, 90))
def test_ellipse_and_back_is_the_same_direction(longitude_deg: float, latitude_deg: float) -> None:
    x, y = mollweide.project(np.array([longitude_deg]), np.array([latitude_deg]))
    longitude, latitude = mollweide.unproject(x, y)

    assert (x / 2) ** 2 + y**2 <= 1 + 1e-9
    assert latitude == pytest.approx(latitude_deg, abs=1e-3)
    if abs(latitude_deg) < 89:
        assert longitude == pytest.approx(longitude_deg, abs=1e-3)


def test_places_outside_of_the_ellipse_are_no_directions() -> None:
    longitude, latitude = mollweide.unproject(
        np.array([2.1, 1.9, 0.0, -2.0]), np.array([0.0, 0.9, 1.1, -0.1])
    )

    assert np.isnan(longitude).all()
    assert np.isnan(latitude).all()
