"""Reads sky maps that skyreader, Skymap Scanner or IceStream wrote: JSON and npz, schema v0 and v1.

Until 2023-04-04 Skymap Scanner took colatitude - 90 degrees for the declination, so that its files show a mirrored
sky. Files do not say so: see `Declinations`.

Source: icecube-skyreader 1.6.3, `result.py`; Skymap Scanner, commit caffe951.
"""

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icestream.errors import InvalidSkymap
from icestream.physics import healpix
from icestream.physics.celestial import MJD_OF_UNIX_EPOCH, unix_ns_of
from icestream.physics.events import EventId
from icestream.scans.request import Frame
from icestream.scans.skymap import Level, Skymap
from icestream.skymaps.skyreader_format import COLUMNS, NAN, chosen_rows, row_dtype

FIXED_DECLINATIONS_MJD = 60038.0
"""2023-04-04: scans of later events have declinations as they should be."""

MAX_DAYS = 106_000
"""What 64 bits of nanoseconds hold."""

_NAME = re.compile(r"run(?P<run>\d{1,18})[.-]evt(?P<event>\d{1,18})(?:[.-](?P<type>[A-Za-z][A-Za-z0-9]*))?")
_LEVEL_KEY = re.compile(r"nside-(\d{1,9})")
_REQUIRED = ("run_id", "event_id", "mjd", "event_type", "nside")

Columns = NDArray[Any]
Metadata = dict[str, Any]


class Declinations(StrEnum):
    """Which sky a file's pixels show."""

    BY_RULE = "by-rule"
    """Told from the file. Columns of schema v1, or an event from 2023-04-04 on: as they are. Neither metadata nor
    header, as in the first files of all: mirrored. Anything else may be of either kind, and is refused."""
    AS_WRITTEN = "as-written"
    """Declination is 90 degrees - colatitude."""
    MIRRORED = "mirrored"
    """Declination was taken for colatitude - 90 degrees; pixels move to the other hemisphere."""


def read_skymap(
    path: Path, *, declinations: Declinations = Declinations.BY_RULE, detector: str = "icecube86"
) -> Skymap:
    """Read a map that skyreader, Skymap Scanner or IceStream wrote.

    Args:
        path: A .json or .npz file; run and event are told by its name where it has no metadata.
        declinations: Which sky it shows.
        detector: The map's name for it; the file has none.

    Returns:
        An equatorial map whose levels compare, as the schema has it. Its time is 0 where the file has none.

    Raises:
        InvalidSkymap: It names what is wrong with the file.
    """
    readers = {".json": _read_json, ".npz": _read_npz}
    try:
        read = readers[path.suffix]
    except KeyError:
        raise InvalidSkymap(f"{path}: neither .json nor .npz") from None
    file = _File(
        path.name, [_checked(path, part) for part in sorted(read(path), key=lambda part: part.nside)]
    )
    if not file.parts:
        raise InvalidSkymap(f"{path}: holds no level")
    _check_same_event(path, file)
    levels = [_level(part) for part in file.parts]
    if _is_mirrored(path, file, declinations):
        levels = [_mirrored(level) for level in levels]
    return _skymap(path, file, levels, detector)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One level of a file, as it is there."""

    nside: int
    columns: Columns
    metadata: Metadata | None


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    name: str
    parts: Sequence[_Part]

    @property
    def metadata(self) -> Metadata | None:
        return self.parts[0].metadata

    @property
    def version(self) -> int:
        return 1 if self.parts[0].columns.dtype.names == COLUMNS[1] else 0


def _read_json(path: Path) -> list[_Part]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSkymap(f"{path}: is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSkymap(f"{path}: holds a {type(document).__name__}, not levels by name")
    return [_json_part(path, key, level) for key, level in document.items()]


def _json_part(path: Path, key: str, level: Any) -> _Part:
    nside = _nside(path, key)
    if not isinstance(level, dict) or set(level) != {"columns", "metadata", "data"}:
        raise InvalidSkymap(f"{path}: {key} has other keys than columns, metadata and data")
    if level["columns"] not in [list(names) for names in COLUMNS.values()]:
        raise InvalidSkymap(f"{path}: {key} has columns {level['columns']}, not those of schema v0 or v1")
    if not isinstance(level["metadata"], dict) or not isinstance(level["data"], list):
        raise InvalidSkymap(f"{path}: {key} has metadata or data of the wrong type")
    version = int(len(level["columns"]) > len(COLUMNS[0]))
    try:
        rows = [tuple(np.nan if value == NAN else value for value in row) for row in level["data"]]
        # numpy would cut off what is behind the point.
        if not all(type(index) is int for index, *_ in rows):
            raise TypeError("an index is not an integer")
        columns = np.array(rows, row_dtype(version))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidSkymap(f"{path}: {key} has a row that is not {len(COLUMNS[version])} numbers") from error
    return _Part(nside, columns, {k: np.nan if v == NAN else v for k, v in level["metadata"].items()})


def _read_npz(path: Path) -> list[_Part]:
    try:
        # Pickled objects are refused: they could run code.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidSkymap(f"{path}: is not an npz file: {error}") from error
    header = arrays.pop("header", None)
    metadata = {} if header is None else _header(path, header)
    return [_npz_part(path, key, columns, metadata.get(key)) for key, columns in arrays.items()]


def _header(path: Path, header: Columns) -> dict[str, Metadata]:
    if header.dtype.names is None or "nside" not in header.dtype.names:
        raise InvalidSkymap(f"{path}: header has no field nside")
    rows = [dict(zip(header.dtype.names, row.tolist(), strict=True)) for row in header.ravel()]
    return {f"nside-{row['nside']}": row for row in rows}


def _npz_part(path: Path, key: str, columns: Columns, metadata: Metadata | None) -> _Part:
    nside, names = _nside(path, key), columns.dtype.names
    if names not in COLUMNS.values() or columns.dtype["index"].kind not in "iu":
        raise InvalidSkymap(f"{path}: {key} has columns {names}, not those of schema v0 or v1")
    try:
        return _Part(nside, columns.ravel().astype(row_dtype(int(names == COLUMNS[1]))), metadata)
    except (TypeError, ValueError) as error:
        raise InvalidSkymap(f"{path}: {key} has a column that is not of numbers") from error


def _nside(path: Path, key: str) -> int:
    match = _LEVEL_KEY.fullmatch(key)
    nside = int(match[1]) if match else 0
    if nside < 1 or nside & (nside - 1) or nside > healpix.MAX_NSIDE:
        raise InvalidSkymap(f"{path}: {key!r} is not nside-<power of two up to {healpix.MAX_NSIDE}>")
    return nside


def _checked(path: Path, part: _Part) -> _Part:
    """The level with its rows ascending, if its pixels and its metadata can be true."""
    key, pixel = f"nside-{part.nside}", part.columns["index"]
    if len(np.unique(pixel)) != len(pixel):
        raise InvalidSkymap(f"{path}: {key} has a pixel twice")
    if ((pixel < 0) | (pixel >= healpix.n_pixels(part.nside))).any():
        raise InvalidSkymap(f"{path}: {key} has a pixel outside of 0..{healpix.n_pixels(part.nside) - 1}")
    if part.metadata is not None:
        _check_metadata(path, key, part)
    return replace(part, columns=np.sort(part.columns, order="index"))


def _check_metadata(path: Path, key: str, part: _Part) -> None:
    metadata = part.metadata or {}
    if missing := [name for name in _REQUIRED if name not in metadata]:
        raise InvalidSkymap(f"{path}: {key} has metadata without {', '.join(missing)}")
    if metadata["nside"] != part.nside:
        raise InvalidSkymap(f"{path}: {key} has metadata of nside {metadata['nside']}")
    for name in ("run_id", "event_id"):
        if type(metadata[name]) is not int or metadata[name] < 0:
            raise InvalidSkymap(f"{path}: {key} has {name} {metadata[name]!r}")
    if not isinstance(metadata["event_type"], str):
        raise InvalidSkymap(f"{path}: {key} has event_type {metadata['event_type']!r}")
    if type(metadata["mjd"]) not in (int, float):
        raise InvalidSkymap(f"{path}: {key} has mjd {metadata['mjd']!r}")
    # NaN is an unknown time; further back or ahead none fits into 64 bits of nanoseconds.
    if abs(metadata["mjd"] - MJD_OF_UNIX_EPOCH) > MAX_DAYS:
        raise InvalidSkymap(f"{path}: {key} has mjd {metadata['mjd']!r}")


def _check_same_event(path: Path, file: _File) -> None:
    if len({part.columns.dtype.names for part in file.parts}) > 1:
        raise InvalidSkymap(f"{path}: its levels are of different schemas")
    events = {
        None if (data := part.metadata) is None else tuple(str(data[name]) for name in _REQUIRED[:-1])
        for part in file.parts
    }
    if len(events) > 1:
        raise InvalidSkymap(f"{path}: its levels are of different events")


def _level(part: _Part) -> Level:
    rows, n = part.columns, len(part.columns)
    nothing = np.full(n, np.nan)
    names = rows.dtype.names or ()
    return Level(
        nside=part.nside,
        pixel=rows["index"].copy(),
        llh=np.where(np.isfinite(rows["llh"]), rows["llh"], np.nan),
        position_m=np.column_stack([rows[name] if name in names else nothing for name in "XYZ"]),
        time_ns=rows["T"].copy() if "T" in names else nothing,
        n_hits=np.zeros(n, np.int64),
        hypothesis=np.zeros(n, np.int64),
        rival_llh=nothing,
        energy_inside_gev=rows["E_in"].copy(),
        energy_total_gev=rows["E_tot"].copy(),
        is_complete=bool((part.metadata or {}).get("complete", True)),
        missing=np.empty(0, np.int64),
    )


def _is_mirrored(path: Path, file: _File, declinations: Declinations) -> bool:
    if declinations is not Declinations.BY_RULE:
        return declinations is Declinations.MIRRORED
    if file.metadata is None and file.version == 0:
        return True
    if file.version >= 1 or (file.metadata or {}).get("mjd", 0) >= FIXED_DECLINATIONS_MJD:
        return False
    raise InvalidSkymap(
        f"{path}: does not say whether its sky is mirrored, as that of scans from before 2023-04-04; "
        f"say {Declinations.AS_WRITTEN} or {Declinations.MIRRORED}"
    )


def _mirrored(level: Level) -> Level:
    """The level with north and south exchanged."""
    centres = healpix.centres(level.nside, level.pixel) * (1, 1, -1)
    pixel = healpix.pixels_at(level.nside, centres)
    return chosen_rows(replace(level, pixel=pixel), np.argsort(pixel))


def _skymap(path: Path, file: _File, levels: list[Level], detector: str) -> Skymap:
    metadata: Mapping[str, Any] = file.metadata or {}
    match = _NAME.match(path.name)
    named = EventId(int(match["run"]), int(match["event"])) if match else EventId(0, 0)
    return Skymap(
        scan_id="",
        event_id=EventId(metadata["run_id"], metadata["event_id"]) if metadata else named,
        event_type=str(metadata.get("event_type") or (match and match["type"]) or "none"),
        detector=detector,
        start_unix_ns=unix_ns_of(mjd) if np.isfinite(mjd := float(metadata.get("mjd", np.nan))) else 0,
        is_real_event=bool(metadata.get("is_real_event", False)),
        frame=Frame.EQUATORIAL,
        reco="",
        hypotheses=(),
        levels=tuple(levels),
        is_complete=all(level.is_complete for level in levels),
        levels_compare=True,
        notes={"source": path.name},
    )
