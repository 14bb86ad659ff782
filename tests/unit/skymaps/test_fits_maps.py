import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from icestream.physics import healpix
from icestream.scans.request import Frame
from icestream.skymaps.fits_maps import (
    MAX_FLAT_NSIDE,
    Ordering,
    flat_probabilities,
    write_flat,
    write_multiorder,
)
from icestream.skymaps.regions import probabilities, regions_of
from tests.unit.skymaps.skymap_cases import direction, gaussian, level_of, skymap_of, three_levels, whole_sky

CENTRE = direction(224.1, 41.3)


def test_multiorder_map_integrates_to_one_without_holes(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)
    path = write_multiorder(skymap, regions_of(skymap), tmp_path / "map.fits")

    table = Table.read(path)

    order = (np.log2(table["UNIQ"] // 4) // 2).astype(int)
    areas = healpix.pixel_area_sr(1) / 4.0**order
    assert areas.sum() == pytest.approx(4 * np.pi)
    assert (areas * table["PROBDENSITY"]).sum() == pytest.approx(1)
    assert table["PROBDENSITY"].unit == "sr-1"
    assert (np.diff(table["UNIQ"]) > 0).all()
    assert (table.meta["ORDERING"], table.meta["MOCORDER"], table.meta["COORDSYS"]) == ("NUNIQ", 9, "C")


def test_mhealpy_reads_the_multiorder_map(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)
    path = write_multiorder(skymap, regions_of(skymap), tmp_path / "map.fits")

    with warnings.catch_warnings():
        # healpy and mhealpy have warnings of their own.
        warnings.simplefilter("ignore")
        import mhealpy

        theirs = mhealpy.HealpixMap.read_map(path, density=True)
        areas = np.asarray(theirs.pixarea(np.arange(theirs.npix)))
        colatitude, longitude = theirs.pix2ang(int(np.argmax(theirs.data)))
        assert theirs.is_moc
        assert theirs.is_mesh_valid()
    assert (np.asarray(theirs.data) * areas).sum() == pytest.approx(1)
    assert np.degrees(longitude) == pytest.approx(224.1, abs=0.1)
    assert 90 - np.degrees(colatitude) == pytest.approx(41.3, abs=0.1)


@pytest.mark.parametrize("ordering", Ordering)
def test_healpy_reads_the_flat_map(tmp_path: Path, ordering: Ordering) -> None:
    skymap = three_levels(CENTRE, 0.5)
    path = write_flat(skymap, regions_of(skymap), tmp_path / "map.fits.gz", ordering=ordering)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import healpy

        values = healpy.read_map(path)
    assert len(values) == healpix.n_pixels(512)
    assert values.sum() == pytest.approx(1)
    assert values.argmax() == healpix.pixels_at(512, CENTRE)


def test_flat_map_is_written_within_two_seconds(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)
    regions = regions_of(skymap)

    begin = time.process_time()
    path = write_flat(skymap, regions, tmp_path / "map.fits")

    assert time.process_time() - begin < 2
    assert Table.read(path)["PROB"].sum() == pytest.approx(1)


def test_flat_map_shows_the_probability_of_each_place() -> None:
    regions = regions_of(three_levels(CENTRE, 20.0))
    nside, values = flat_probabilities(regions)
    density = probabilities(regions) / regions.cover.area_sr

    vectors = np.random.default_rng(0).normal(size=(1000, 3))
    nested = healpix.to_nested(nside, healpix.pixels_at(nside, vectors))
    np.testing.assert_allclose(
        values[nested] / healpix.pixel_area_sr(nside), density[regions.cover.rows_at(vectors)], atol=1e-12
    )


def test_finer_maps_are_summed_to_the_largest_flat_resolution() -> None:
    llh = gaussian(CENTRE, 0.05)
    fine = level_of(4096, healpix.pixels_within(4096, CENTRE, 0.003), llh)
    regions = regions_of(skymap_of(whole_sky(8, llh), fine))

    nside, values = flat_probabilities(regions)

    assert nside == MAX_FLAT_NSIDE
    assert values.sum() == pytest.approx(1)


def test_pointed_map_is_a_map_of_the_whole_sky(tmp_path: Path) -> None:
    skymap = skymap_of(level_of(64, healpix.pixels_within(64, CENTRE, 0.05), gaussian(CENTRE, 1.0)))
    regions = regions_of(skymap)

    flat = Table.read(write_flat(skymap, regions, tmp_path / "flat.fits"))
    multiorder = Table.read(write_multiorder(skymap, regions, tmp_path / "multiorder.fits"))

    assert len(flat) == healpix.n_pixels(64)
    assert flat["PROB"].sum() == pytest.approx(1)
    assert np.isfinite(multiorder["PROBDENSITY"]).all()


@pytest.mark.parametrize("write", [write_flat, write_multiorder])
def test_header_states_event_and_result(tmp_path: Path, write: object) -> None:
    skymap = three_levels(CENTRE, 0.5)
    regions = regions_of(skymap)
    path = tmp_path / "map.fits"
    assert callable(write)
    write(skymap, regions, path)

    header = fits.getheader(path, 1)

    assert (header["RUNID"], header["EVENTID"], header["I3TYPE"]) == (136766, 7637140, "neutrino")
    assert header["SENDER"] == "IceStream"
    assert header["DATE-OBS"] == "2022-06-24T16:13:16.405259"
    assert header["MJD-OBS"] == 59754.67588432013
    assert header["RA"] == pytest.approx(224.1, abs=0.1)
    assert header["DEC"] == pytest.approx(41.3, abs=0.1)
    assert header["ZENITH"] == pytest.approx(90 + header["DEC"], abs=0.5)
    radius_deg = 0.5 * 4.61**0.5
    for key in ("DEC_ERR_PLUS_90", "DEC_ERR_MINUS_90"):
        assert header[key] == pytest.approx(radius_deg, abs=0.1)
    assert header["RA_ERR_PLUS_50"] < header["RA_ERR_PLUS_90"]
    assert header["RA_ERR_MINUS_50"] < header["RA_ERR_MINUS_90"]
    assert header["CONTOUR_AREA_50"] == regions.inner.area_deg2
    assert header["CONTOUR_AREA_90"] == regions.outer.area_deg2
    assert header["CONTOUR_METHOD"] == "Wilks"
    assert header["CONTOUR_OPEN_90"] is False
    assert "software: IceStream 0.1.0" in str(header["HISTORY"])


def test_detectors_frame_is_not_passed_off_as_the_sky(tmp_path: Path) -> None:
    skymap = replace(three_levels(CENTRE, 0.5), frame=Frame.DETECTOR, start_unix_ns=0)

    header = fits.getheader(write_multiorder(skymap, regions_of(skymap), tmp_path / "map.fits"), 1)

    assert header["FRAME"] == "detector"
    assert header["AZIMUTH"] == pytest.approx(224.1, abs=0.1)
    assert not {"COORDSYS", "RA", "DEC", "MJD-OBS", "RA_ERR_PLUS_90"} & set(header)


def test_any_text_fits_into_a_header(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5, event_type="höß\n", scan_id="x" * 200, notes={"k": "ü" * 300})

    header = fits.getheader(write_multiorder(skymap, regions_of(skymap), tmp_path / "map.fits"), 1)

    assert header["I3TYPE"] == "h???"
    assert header["SCANID"] == "x" * 200


def test_same_map_is_the_same_file(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)
    regions = regions_of(skymap)

    files = [write_flat(skymap, regions, tmp_path / f"{i}.fits.gz").read_bytes() for i in range(2)]

    assert files[0] == files[1]
