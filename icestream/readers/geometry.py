"""Reads and writes `sensor_geometry.csv`: where each sensor of a detector is.

The file has the columns `sensor_id,x,y,z` (metres, origin at the detector's centre, z up) and one row for
each of the sensors 0..n-1, in any order. Further columns are ignored.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icestream.errors import InvalidDetector
from icestream.physics.detector import Detector, icecube86

COLUMNS = ("sensor_id", "x", "y", "z")
MAX_SENSORS = 1 << 16
"""Events carry sensor ids as uint16."""


def read_sensor_geometry(path: str | Path, name: str | None = None) -> Detector:
    """Read a user's detector; every sensor counts as a standard module (efficiency 1).

    Args:
        path: The csv file.
        name: What to call the detector; by default the file's name without its ending.

    Raises:
        InvalidDetector: It names file, line and column, and what would be right.
    """
    path = Path(path)
    positions_m = _in_order(path, _rows(path))
    return Detector(name or path.stem, positions_m, np.ones(len(positions_m)))


def write_sensor_geometry(detector: Detector, path: str | Path) -> None:
    """Write a detector's positions; its name and efficiencies have no place in the format.

    The file appears whole or not at all.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        # tolist() gives Python floats, which csv writes so that they read back to the same bits.
        lines.writerows([i, *position] for i, position in enumerate(detector.positions_m.tolist()))
    os.replace(partial, path)


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    sensor_id: int
    position_m: tuple[float, float, float]


def detectors_with(path: Path | None, name: str | None = None) -> dict[str, Detector]:
    """The built-in detector and, where a geometry is given, a user's own, by their names.

    Raises:
        InvalidDetector: As of `read_sensor_geometry`.
    """
    built_in = icecube86()
    if path is None:
        return {built_in.name: built_in}
    own = read_sensor_geometry(path, name)
    return {built_in.name: built_in, own.name: own}


def _rows(path: Path) -> Iterator[_Row]:
    try:
        # Spreadsheets put a byte order mark in front; utf-8-sig drops it.
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _parse(path, csv.reader(file, strict=True, skipinitialspace=True))
    except FileNotFoundError as error:
        raise InvalidDetector(f"{path}: no such file; expected a csv file with {_header()}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidDetector(f"{path}: not a readable csv file: {error}") from error


def _parse(path: Path, lines: Iterable[list[str]]) -> Iterator[_Row]:
    header: list[str] | None = None
    for number, cells in enumerate(lines, start=1):
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_header(path, number, header)
        else:
            yield _row(path, number, dict(zip(header, cells, strict=False)))


def _check_header(path: Path, line: int, header: list[str]) -> None:
    for column in COLUMNS:
        if header.count(column) != 1:
            times = "twice or more" if column in header else "missing"
            raise InvalidDetector(f"{path}, line {line}: column {column} is {times}; expected {_header()}")


def _header() -> str:
    return f"the header {','.join(COLUMNS)}"


def _row(path: Path, line: int, cells: dict[str, str]) -> _Row:
    x, y, z = (_coordinate(path, line, column, cells.get(column)) for column in COLUMNS[1:])
    return _Row(line, _sensor_id(path, line, cells.get(COLUMNS[0])), (x, y, z))


def _coordinate(path: Path, line: int, column: str, cell: str | None) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InvalidDetector(
            f"{path}, line {line}, column {column}: {cell!r} is not a position; expected finite metres"
        )
    return value


def _sensor_id(path: Path, line: int, cell: str | None) -> int:
    text = (cell or "").strip()
    if not (text.isascii() and text.isdecimal() and int(text) < MAX_SENSORS):
        raise InvalidDetector(
            f"{path}, line {line}, column {COLUMNS[0]}: {cell!r} is not a sensor id; "
            f"expected an integer of 0..{MAX_SENSORS - 1}"
        )
    return int(text)


def _in_order(path: Path, rows: Iterable[_Row]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Positions by sensor id; shape (n, 3)."""
    by_id: dict[int, _Row] = {}
    for row in rows:
        if earlier := by_id.get(row.sensor_id):
            raise InvalidDetector(
                f"{path}, line {row.line}, column {COLUMNS[0]}: sensor {row.sensor_id} "
                f"is on line {earlier.line} already; expected each id once"
            )
        by_id[row.sensor_id] = row
    if not by_id:
        raise InvalidDetector(f"{path}: no sensors; expected {_header()} and one line for each sensor")
    for expected, sensor_id in enumerate(sorted(by_id)):
        if sensor_id != expected:
            raise InvalidDetector(
                f"{path}, line {by_id[sensor_id].line}, column {COLUMNS[0]}: sensor {sensor_id} is there but "
                f"sensor {expected} is not; expected ids 0..n-1 without a gap"
            )
    return np.array([by_id[i].position_m for i in range(len(by_id))], np.float64)
