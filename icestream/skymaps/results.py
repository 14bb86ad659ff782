"""Writes everything that people take away from a scan: maps, contours and plots."""

import io
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike

from icestream.physics.directions import angles
from icestream.scans.request import Frame
from icestream.scans.skymap import Skymap
from icestream.skymaps.fits_maps import write_flat, write_multiorder
from icestream.skymaps.levels import WILKS, ContourLevels, levels_for
from icestream.skymaps.partial import partial_file
from icestream.skymaps.plots import draw_sky, draw_zoom, write_plot
from icestream.skymaps.regions import Regions, regions_of
from icestream.skymaps.skyreader_format import file_stem, write_json, write_npz
from icestream.skymaps.summary import summarise


def write_results(
    skymap: Skymap, directory: Path, *, levels: ContourLevels | None = None, truth: ArrayLike | None = None
) -> list[Path]:
    """Write a map as skyreader's JSON and npz, FITS, contours and plots; each file appears whole or not at all.

    Maps in the detector's frame have no JSON and npz: skyreader knows the sky alone.

    Args:
        skymap: Finished, or what there is of it.
        directory: Is made if it is not there.
        levels: Of the regions; `levels_for` the map by default. The contours of Wilks' theorem are written as well.
        truth: Unit vector of the true direction in the map's frame, for the plots; shape (3,).

    Returns:
        The files, in the order in which they were written.

    Raises:
        InvalidSkymap: No fit of the whole map succeeded, or it claims to be a real event of an impossible run.
    """
    levels = levels or levels_for(skymap)
    regions = regions_of(skymap, levels)
    directory.mkdir(parents=True, exist_ok=True)
    stem = file_stem(skymap)
    paths = []
    if skymap.frame is Frame.EQUATORIAL:
        paths += [write_json(skymap, directory), write_npz(skymap, directory)]
    paths += [
        write_multiorder(skymap, regions, directory / f"{stem}.multiorder.fits"),
        write_flat(skymap, regions, directory / f"{stem}.flat.fits.gz"),
        write_contours(skymap, regions, directory / f"{stem}.contours.ecsv"),
    ]
    if levels != WILKS:
        wilks = regions_of(skymap, WILKS)
        paths.append(write_contours(skymap, wilks, directory / f"{stem}.contours.wilks.ecsv"))
    for name, figure in (
        ("sky", draw_sky(skymap, regions, truth)),
        ("zoom", draw_zoom(skymap, regions, truth)),
    ):
        paths += [write_plot(figure, directory / f"{stem}.{name}.{kind}") for kind in ("png", "pdf")]
    return paths


def write_contours(skymap: Skymap, regions: Regions, path: Path) -> Path:
    """Write all closed lines of both regions as a table in ECSV: text that astropy, and people, read.

    Columns: percent; piece, counting a region's lines from 0; and the angles of the points in degrees, right
    ascension and declination or azimuth and zenith. The last point of a piece is its first.
    """
    summary, is_sky = summarise(skymap, regions), skymap.frame is Frame.EQUATORIAL
    percent, piece, points = [], [], [np.empty((0, 3))]
    for region in (regions.inner, regions.outer):
        for number, line in enumerate(region.outlines):
            percent += [round(100 * region.share)] * len(line)
            piece += [number] * len(line)
            points.append(line)
    # Six digits are 4 thousandths of an arc second.
    longitude, colatitude = np.round(np.degrees(angles(np.concatenate(points))), 6)
    table = Table(
        {
            "percent": np.array(percent, np.int64),
            "piece": np.array(piece, np.int64),
            "ra_deg" if is_sky else "azimuth_deg": longitude,
            "dec_deg" if is_sky else "zenith_deg": np.round(90 - colatitude, 6) if is_sky else colatitude,
        },
        meta={
            "event_id": str(summary.event_id),
            "scan_id": summary.scan_id,
            "method": summary.method,
            "two_delta_llh": {50: summary.inner.two_delta_llh, 90: summary.outer.two_delta_llh},
            "area_deg2": {50: summary.inner.area_deg2, 90: summary.outer.area_deg2},
            "is_open": {50: summary.inner.is_open, 90: summary.outer.is_open},
        },
    )
    for name in table.colnames[2:]:
        table[name].unit = "deg"
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    with partial_file(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
    return path
