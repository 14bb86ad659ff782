"""Probability maps as FITS, for those who point telescopes: flat HEALPix, and multi-order (IVOA MOC 2.0, UNIQ).

Keys of at most eight letters are ordinary ones. The names that skyreader gives the error rectangle and the areas are
longer; they stay, as HIERARCH keys, so that programs find them.

Source: skyreader, `format_fits_header`; the multi-order layout is that of LIGO/Virgo/KAGRA sky maps.
"""

import gzip
import io
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from icestream.physics import healpix
from icestream.scans.request import Frame
from icestream.scans.skymap import Skymap
from icestream.skymaps.multiorder import Cover
from icestream.skymaps.partial import partial_file
from icestream.skymaps.regions import Regions, probabilities
from icestream.skymaps.summary import MapSummary, RegionSummary, summarise

FloatArray = NDArray[np.float64]
Card = tuple[str, str | int | float | bool, str]

MAX_FLAT_NSIDE = 512
"""Finer maps are summed to this for the flat file, which else would not fit anywhere."""
COMPRESSION = 1
"""The fastest: long stretches of equal numbers shrink at any level."""


class Ordering(StrEnum):
    """How the pixels of a flat map follow each other."""

    NESTED = "NESTED"
    RING = "RING"


def write_flat(skymap: Skymap, regions: Regions, path: Path, *, ordering: Ordering = Ordering.NESTED) -> Path:
    """Write the probability of each pixel of one resolution, the finest of the map; column PROB, sums to 1.

    A path that ends in .gz is compressed.
    """
    nside, values = flat_probabilities(regions)
    if ordering is Ordering.RING:
        values = values[healpix.to_nested(nside, np.arange(healpix.n_pixels(nside)))]
    column = fits.Column(name="PROB", format="D", array=values, unit="pix-1")
    cards: list[Card] = [
        ("PIXTYPE", "HEALPIX", "HEALPIX pixelisation"),
        ("ORDERING", ordering.value, "pixel ordering scheme"),
        *_coordinates(skymap.frame),
        ("NSIDE", nside, "resolution parameter of HEALPIX"),
        ("FIRSTPIX", 0, "first pixel"),
        ("LASTPIX", len(values) - 1, "last pixel"),
        ("INDXSCHM", "IMPLICIT", "indexing: pixel number is the row"),
        ("OBJECT", "FULLSKY", "sky coverage"),
    ]
    return _write([column], cards, skymap, summarise(skymap, regions), path)


def write_multiorder(skymap: Skymap, regions: Regions, path: Path) -> Path:
    """Write the probability per solid angle of each pixel of the multi-order cover; columns UNIQ and PROBDENSITY."""
    tiles = regions.cover
    order = np.argsort(tiles.uniq)
    density = probabilities(regions) / tiles.area_sr
    columns = [
        fits.Column(name="UNIQ", format="K", array=tiles.uniq[order]),
        fits.Column(name="PROBDENSITY", format="D", array=density[order], unit="sr-1"),
    ]
    cards: list[Card] = [
        ("PIXTYPE", "HEALPIX", "HEALPIX pixelisation"),
        ("ORDERING", "NUNIQ", "pixel ordering scheme: multi-order"),
        *_coordinates(skymap.frame),
        ("MOCORDER", tiles.max_order, "finest order"),
        ("INDXSCHM", "EXPLICIT", "indexing: pixel number is in UNIQ"),
    ]
    return _write(columns, cards, skymap, summarise(skymap, regions), path)


def flat_probabilities(regions: Regions) -> tuple[int, FloatArray]:
    """Spread the probabilities over all pixels of one resolution.

    Returns:
        Its nside, and the probabilities in NESTED order.
    """
    tiles, values = regions.cover, probabilities(regions)
    flat_order = min(tiles.max_order, MAX_FLAT_NSIDE.bit_length() - 1)
    is_coarser = tiles.order <= flat_order
    n_inside = np.where(is_coarser, 1 << 2 * np.maximum(flat_order - tiles.order, 0), 1)
    flat = np.zeros(healpix.n_pixels(1 << flat_order))
    flat[_spread(tiles, is_coarser, flat_order)] = np.repeat(
        (values / n_inside)[is_coarser], n_inside[is_coarser]
    )
    finer = tiles.pixel[~is_coarser] >> 2 * (tiles.order[~is_coarser] - flat_order)
    np.add.at(flat, finer, values[~is_coarser])
    return 1 << flat_order, flat


def _spread(tiles: Cover, chosen: NDArray[np.bool_], flat_order: int) -> NDArray[np.bool_]:
    """Which flat pixels lie inside the chosen ones; both follow the same curve."""
    is_spread = np.ones(healpix.n_pixels(1 << flat_order), np.bool_)
    is_spread[tiles.pixel[~chosen] >> 2 * (tiles.order[~chosen] - flat_order)] = False
    return is_spread


def _write(
    columns: list[fits.Column], cards: list[Card], skymap: Skymap, summary: MapSummary, path: Path
) -> Path:
    table = fits.BinTableHDU.from_columns(columns)
    for key, value, comment in [*cards, *_event_cards(summary), *_result_cards(summary)]:
        # Named in full, or astropy warns that it had to.
        name = key if len(key) <= 8 else f"HIERARCH {key}"
        table.header[name] = (_ascii(value) if isinstance(value, str) else value, comment)
    for key, value in skymap.notes.items():
        table.header.add_history(_ascii(f"{key}: {value}"))
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(file)
    content = file.getvalue()
    if path.suffix == ".gz":
        content = gzip.compress(content, COMPRESSION, mtime=0)
    with partial_file(path) as partial:
        partial.write_bytes(content)
    return path


def _coordinates(frame: Frame) -> Iterator[Card]:
    # FITS knows no letter for a detector's own coordinates.
    if frame is Frame.EQUATORIAL:
        yield "COORDSYS", "C", "equatorial (ICRS)"
    yield "FRAME", frame.value, "longitude, 90 deg - latitude of the pixels"


def _event_cards(summary: MapSummary) -> Iterator[Card]:
    yield "RUNID", summary.event_id.run_id, "run number"
    yield "EVENTID", summary.event_id.event_id, "event number"
    yield "SUBEVENT", summary.event_id.sub_event, "number of the sub-event"
    yield "SENDER", "IceStream", "who made this"
    yield "I3TYPE", summary.event_type, "alert type"
    yield "REALEVT", summary.is_real_event, "recorded, not simulated"
    yield "DETECTOR", summary.detector, "geometry"
    yield "RECO", summary.reco, "reconstruction"
    yield "SCANID", summary.scan_id, "sky scan"
    if summary.mjd is not None:
        time = np.datetime64(summary.start_unix_ns, "ns")
        yield "DATE-OBS", str(np.datetime_as_string(time, unit="us")), "UTC date of the event"
        yield "MJD-OBS", summary.mjd, "modified Julian date of the event"
        yield "TIMESYS", "UTC", "time scale"


def _result_cards(summary: MapSummary) -> Iterator[Card]:
    directions = {
        "RA": (summary.right_ascension_deg, "[deg] right ascension of the best fit"),
        "DEC": (summary.declination_deg, "[deg] declination of the best fit"),
        "AZIMUTH": (summary.azimuth_deg, "[deg] azimuth of the best fit"),
        "ZENITH": (summary.zenith_deg, "[deg] zenith angle of the best fit"),
    }
    for key, (value, comment) in directions.items():
        if value is not None:
            yield key, value, comment
    yield "BESTNSID", summary.nside, "resolution of the best pixel"
    yield "BESTPIX", summary.pixel, "RING index of the best pixel"
    yield "LLH", summary.llh, "-ln L of the best pixel"
    yield "COMPLETE", summary.is_complete, "no pixel is missing"
    yield "CONTOUR_METHOD", summary.method, "source of the levels"
    is_sky = summary.frame is Frame.EQUATORIAL
    for percent, region in ((50, summary.inner), (90, summary.outer)):
        yield from _region_cards(percent, region, ("RA", "DEC") if is_sky else ("AZI", "ELEV"))


def _region_cards(percent: int, region: RegionSummary, axes: tuple[str, str]) -> Iterator[Card]:
    reach = region.rectangle
    values = (
        (reach.longitude_plus_deg, reach.longitude_minus_deg),
        (reach.latitude_plus_deg, reach.latitude_minus_deg),
    )
    for axis, (plus, minus) in zip(axes, values, strict=True):
        yield f"{axis}_ERR_PLUS_{percent}", plus, f"[deg] {percent}% region"
        yield f"{axis}_ERR_MINUS_{percent}", minus, f"[deg] {percent}% region"
    yield f"CONTOUR_AREA_{percent}", region.area_deg2, "[deg2]"
    yield f"CONTOUR_LEVEL_{percent}", region.two_delta_llh, "2 delta llh"
    yield f"CONTOUR_OPEN_{percent}", region.is_open, "may be larger"


def _ascii(text: str) -> str:
    """Text as FITS allows it."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)
