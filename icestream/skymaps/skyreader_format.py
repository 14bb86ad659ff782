"""Writes sky maps as IceCube's skyreader reads them: JSON and npz, schema v1.

What the schema cannot say is lost: hit counts, hypotheses, planned pixels, the sub-event. Three rules keep skyreader's
own answers equal to ours:

- Where llh of different levels do not compare, other levels are shifted by a constant, so that the best of each is
  0.01 above the best of the deciding level (`multiorder.comparable_levels`): skyreader takes the smallest of all.
- Pixels of which every fit failed are left out, since skyreader passes over a level that holds a NaN llh. Of a level
  without any successful fit nothing is written.
- Rows ascend by pixel, levels by nside.

Source: icecube-skyreader 1.6.3, `result.py`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icestream.errors import InvalidSkymap
from icestream.physics.celestial import mjd_utc
from icestream.physics.icecube86 import REAL_RUNS
from icestream.scans.request import Frame
from icestream.scans.skymap import Level, Skymap
from icestream.skymaps.multiorder import comparable_levels, deciding_level
from icestream.skymaps.partial import partial_file

NAN = "<skyreader.nan>"
"""How JSON says NaN."""
COLUMNS = {
    0: ("index", "llh", "E_in", "E_tot"),
    1: ("index", "llh", "E_in", "E_tot", "X", "Y", "Z", "T"),
}
"""Names by version of the schema; E in GeV, X, Y, Z in m, T in ns."""
VERSION = 1

Columns = NDArray[Any]
Metadata = dict[str, Any]


def file_stem(skymap: Skymap) -> str:
    """The name that skyreader gives the map's files, such as run00136766.evt000007637140.neutrino_8_64_512."""
    event = skymap.event_id
    # A type may be anything; a file's name may not.
    event_type = re.sub(r"[^A-Za-z0-9-]", "-", skymap.event_type) or "none"
    nsides = "_".join(str(level.nside) for level in _with_fits(skymap.levels))
    return f"run{event.run_id:08d}.evt{event.event_id:012d}.{event_type}_{nsides}"


def write_json(skymap: Skymap, directory: Path) -> Path:
    """Write a map as JSON; the file appears whole or not at all.

    Raises:
        InvalidSkymap: It cannot be such a file: it is in the detector's frame, has no successful fit, or claims
            to be a real event of an impossible run.
    """
    document = {
        f"nside-{level.nside}": {
            "columns": list(COLUMNS[VERSION]),
            "metadata": {key: _json_value(value) for key, value in metadata.items()},
            "data": [[_json_value(value) for value in row] for row in _rows(level).tolist()],
        }
        for level, metadata in _parts(skymap)
    }
    path = directory / f"{file_stem(skymap)}.json"
    with partial_file(path) as partial:
        partial.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    return path


def write_npz(skymap: Skymap, directory: Path) -> Path:
    """Write a map as npz; see `write_json`."""
    parts = _parts(skymap)
    first = parts[0][1]
    header = np.array(
        [tuple(metadata.values()) for _, metadata in parts],
        dtype=[
            (key, f"U{len(value) or 1}" if isinstance(value, str) else type(value))
            for key, value in first.items()
        ],
    )
    levels: dict[str, Any] = {f"nside-{level.nside}": _rows(level) for level, _ in parts}
    path = directory / f"{file_stem(skymap)}.npz"
    with partial_file(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, header=header, **levels)
    return path


def row_dtype(version: int) -> np.dtype[Any]:
    """How a level's rows lie in memory, by version of the schema."""
    return np.dtype([(name, np.int64 if name == "index" else np.float64) for name in COLUMNS[version]])


def _with_fits(levels: Sequence[Level]) -> list[Level]:
    """Levels without their failed pixels, and without those levels that have no others."""
    kept = []
    for level in levels:
        is_fitted = np.isfinite(level.llh)
        if is_fitted.any():
            kept.append(chosen_rows(level, is_fitted))
    return kept


def chosen_rows(level: Level, rows: NDArray[Any]) -> Level:
    """A level with some of its rows, chosen by a mask or by their order."""
    return replace(
        level,
        pixel=level.pixel[rows],
        llh=level.llh[rows],
        position_m=level.position_m[rows],
        time_ns=level.time_ns[rows],
        n_hits=level.n_hits[rows],
        hypothesis=level.hypothesis[rows],
        rival_llh=level.rival_llh[rows],
        energy_inside_gev=level.energy_inside_gev[rows],
        energy_total_gev=level.energy_total_gev[rows],
    )


def _parts(skymap: Skymap) -> list[tuple[Level, Metadata]]:
    """What is written of a map: its levels and the metadata of each."""
    event = skymap.event_id
    if skymap.frame is not Frame.EQUATORIAL:
        raise InvalidSkymap(
            f"the map of {event} is in the detector's frame, because the event's time is not known; "
            "skyreader's files are of the sky"
        )
    if skymap.is_real_event and event.run_id not in REAL_RUNS:
        raise InvalidSkymap(
            f"the map of {event} is of a real event, but run {event.run_id} is none: "
            f"skyreader wants {REAL_RUNS.start} to {REAL_RUNS.stop - 1}"
        )
    deciding_level(skymap)
    return [(level, _metadata(skymap, level)) for level in _with_fits(comparable_levels(skymap))]


def _metadata(skymap: Skymap, level: Level) -> Metadata:
    return {
        "nside": level.nside,
        "complete": level.is_complete,
        "run_id": skymap.event_id.run_id,
        "event_id": skymap.event_id.event_id,
        "event_type": skymap.event_type,
        "mjd": mjd_utc(skymap.start_unix_ns) if skymap.start_unix_ns else np.nan,
        "is_real_event": skymap.is_real_event,
        "version": VERSION,
    }


def _rows(level: Level) -> Columns:
    rows = np.empty(len(level), row_dtype(VERSION))
    rows["index"], rows["llh"], rows["T"] = level.pixel, level.llh, level.time_ns
    rows["E_in"], rows["E_tot"] = level.energy_inside_gev, level.energy_total_gev
    for i, name in enumerate("XYZ"):
        rows[name] = level.position_m[:, i]
    return np.sort(rows, order="index")


def _json_value(value: float | str) -> float | str:
    return NAN if isinstance(value, float) and not np.isfinite(value) else value
