import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icestream.errors import InvalidSkymap
from icestream.physics import healpix
from icestream.physics.celestial import equatorial_angles
from icestream.physics.events import EventId
from icestream.scans.request import Frame
from icestream.scans.skymap import Skymap
from icestream.skymaps.regions import best_of
from icestream.skymaps.skyreader_format import file_stem, write_json, write_npz
from icestream.skymaps.skyreader_reader import Declinations, read_skymap
from tests.unit.skymaps.skymap_cases import (
    START_UNIX_NS,
    direction,
    gaussian,
    incomparable_levels,
    reference_file,
    skymap_of,
    three_levels,
    whole_sky,
    without_fits,
)

CENTRE = direction(224.1, 41.3)
GOLD_NPZ = "run00136766.evt000007637140-8_64_512.npz"
NSIDE_1_JSON = "skyscan_result_nside1_example.json"
STEM = "run00136766.evt000007637140.neutrino_8_64_512"

WRITERS = pytest.mark.parametrize("write", [write_json, write_npz])
Write = Callable[[Skymap, Path], Path]


def skyreader_reads(path: Path) -> Any:
    """The map as icecube-skyreader has it."""
    with warnings.catch_warnings():
        # What its own imports say is not about our files.
        warnings.simplefilter("ignore")
        from skyreader import SkyScanResult

        return SkyScanResult.read_json(path) if path.suffix == ".json" else SkyScanResult.read_npz(path)


def skyreader_best(result: Any) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = result.best_fit
        return int(best.dtype.metadata["nside"]), int(best["index"])


def edited_json(tmp_path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """A valid file after an edit of its document."""
    path = write_json(skymap_of(whole_sky(1, gaussian(CENTRE, 20.0))), tmp_path)
    document = json.loads(path.read_text())
    edited = edit(document)
    path.write_text(json.dumps(edited if isinstance(edited, list) else document))
    return path


@WRITERS
@pytest.mark.parametrize(
    "skymap",
    [
        three_levels(CENTRE, 0.5),
        three_levels(
            direction(10.0, -70.0), 0.5, is_real_event=False, event_id=EventId(1, 2), event_type="none"
        ),
        incomparable_levels(CENTRE, 0.5),
        skymap_of(whole_sky(4, gaussian(CENTRE, 20.0))),
    ],
    ids=["three levels", "south", "levels that do not compare", "one level"],
)
def test_skyreader_finds_our_best_fit(write: Write, skymap: Skymap, tmp_path: Path) -> None:
    result = skyreader_reads(write(skymap, tmp_path))
    best = best_of(skymap)

    assert skyreader_best(result) == (best.nside, best.pixel)
    np.testing.assert_allclose(result.best_dir, equatorial_angles(best.centre))
    assert result.min_llh == best.llh
    assert result.nsides == [level.nside for level in skymap.levels]


@WRITERS
def test_skyreader_finds_our_best_fit_beside_failed_pixels(write: Write, tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)
    some_failed = tuple(without_fits(level, level.pixel % 7 == 0) for level in skymap.levels)
    all_failed = without_fits(whole_sky(1, gaussian(CENTRE, 5)), np.ones(12, np.bool_))
    skymap = replace(skymap, levels=(all_failed, *some_failed))

    path = write(skymap, tmp_path)

    best = best_of(skymap)
    assert skyreader_best(skyreader_reads(path)) == (best.nside, best.pixel)
    assert path.stem == STEM


def test_files_have_skyreaders_metadata_and_columns(tmp_path: Path) -> None:
    document = json.loads(write_json(three_levels(CENTRE, 0.5), tmp_path).read_text())

    assert list(document) == ["nside-8", "nside-64", "nside-512"]
    assert set(document["nside-8"]) == {"columns", "metadata", "data"}
    assert document["nside-8"]["columns"] == ["index", "llh", "E_in", "E_tot", "X", "Y", "Z", "T"]
    assert document["nside-8"]["metadata"] == {
        "nside": 8,
        "complete": True,
        "run_id": 136766,
        "event_id": 7637140,
        "event_type": "neutrino",
        "mjd": 59754.67588432013,
        "is_real_event": True,
        "version": 1,
    }
    assert document["nside-8"]["data"][3][2:] == [
        "<skyreader.nan>",
        10003.0,
        3.5,
        -3.0,
        pytest.approx(0.3),
        10003.0,
    ]


def test_json_and_npz_are_the_same_to_skyreader(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)

    from_json, from_npz = (skyreader_reads(write(skymap, tmp_path)) for write in (write_json, write_npz))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert from_json.is_close(
            from_npz, equal_nan=True, rtol_per_field={"llh": 0.0, "E_in": 0.0, "E_tot": 0.0}
        )
        assert from_json.get_event_metadata() == from_npz.get_event_metadata()
        assert str(from_json.get_event_metadata()) + "_8_64_512" == STEM


@WRITERS
def test_what_skyreader_writes_again_reads_as_the_same_map(write: Write, tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5)
    result = skyreader_reads(write(skymap, tmp_path))
    again = tmp_path / "again"
    again.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metadata = result.get_event_metadata()
        paths = [result.to_json(metadata, again), result.to_npz(metadata, again)]

    for path in paths:
        assert path.stem == STEM
        assert_same_levels(read_skymap(path), skymap)


@WRITERS
def test_map_reads_back_as_it_was(write: Write, tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5, is_complete=False)
    skymap = replace(skymap, levels=(*skymap.levels[:2], replace(skymap.levels[2], is_complete=False)))

    back = read_skymap(write(skymap, tmp_path))

    assert_same_levels(back, skymap)
    assert back.event_id == skymap.event_id
    assert (back.event_type, back.is_real_event, back.frame) == ("neutrino", True, Frame.EQUATORIAL)
    # A double holds an MJD to 0.6 microseconds.
    assert back.start_unix_ns == pytest.approx(START_UNIX_NS, abs=400)
    assert [level.is_complete for level in back.levels] == [True, True, False]
    assert not back.is_complete
    assert back.levels_compare


def assert_same_levels(ours: Skymap, theirs: Skymap) -> None:
    assert len(ours.levels) == len(theirs.levels)
    for a, b in zip(ours.levels, theirs.levels, strict=True):
        assert a.nside == b.nside
        np.testing.assert_array_equal(a.pixel, b.pixel)
        np.testing.assert_array_equal(a.llh, b.llh)
        np.testing.assert_array_equal(a.position_m, b.position_m)
        np.testing.assert_array_equal(a.time_ns, b.time_ns)
        np.testing.assert_array_equal(a.energy_inside_gev, b.energy_inside_gev)
        np.testing.assert_array_equal(a.energy_total_gev, b.energy_total_gev)


@WRITERS
def test_unknown_time_reads_back_as_unknown(write: Write, tmp_path: Path) -> None:
    skymap = skymap_of(whole_sky(1, gaussian(CENTRE, 20.0)), start_unix_ns=0)

    path = write(skymap, tmp_path)

    assert read_skymap(path).start_unix_ns == 0
    assert np.isnan(skyreader_reads(path).get_event_metadata().mjd)


@WRITERS
def test_detectors_frame_is_refused(write: Write, tmp_path: Path) -> None:
    skymap = skymap_of(whole_sky(1, gaussian(CENTRE, 20.0)), frame=Frame.DETECTOR, start_unix_ns=0)

    with pytest.raises(InvalidSkymap, match="detector's frame, because the event's time is not known"):
        write(skymap, tmp_path)
    assert list(tmp_path.iterdir()) == []


@WRITERS
def test_real_event_of_an_impossible_run_is_refused(write: Write, tmp_path: Path) -> None:
    skymap = skymap_of(whole_sky(1, gaussian(CENTRE, 20.0)), event_id=EventId(7, 1))

    with pytest.raises(InvalidSkymap, match="run 7"):
        write(skymap, tmp_path)


def test_name_is_safe_whatever_the_type() -> None:
    skymap = skymap_of(whole_sky(1, gaussian(CENTRE, 20.0)), event_type="../a b")

    assert file_stem(skymap) == "run00136766.evt000007637140.---a-b_1"


def test_reference_scan_is_unmirrored_to_its_published_direction() -> None:
    skymap = read_skymap(reference_file(GOLD_NPZ))

    ra, dec = np.degrees(equatorial_angles(best_of(skymap).centre))
    assert (ra, dec) == (pytest.approx(224.121, abs=5e-4), pytest.approx(41.312, abs=5e-4))
    assert skymap.event_id == EventId(136766, 7637140)
    assert skymap.start_unix_ns == 0
    assert [len(level) for level in skymap.levels] == [768, 896, 1926]


def test_reference_scan_as_written_is_in_the_south() -> None:
    skymap = read_skymap(reference_file(GOLD_NPZ), declinations=Declinations.AS_WRITTEN)

    _, dec = np.degrees(equatorial_angles(best_of(skymap).centre))
    assert dec == pytest.approx(-41.312, abs=5e-4)


def test_reference_example_is_read_as_written() -> None:
    path = reference_file(NSIDE_1_JSON)
    skymap = read_skymap(path)

    assert skyreader_best(skyreader_reads(path)) == (1, best_of(skymap).pixel)
    np.testing.assert_allclose(skymap.levels[0].position_m[0], [157.77652975, -372.89197238, -453.87549520])
    assert (skymap.event_id.run_id, skymap.event_type) == (136766, "neutrino")


def test_reference_scan_can_be_written_for_skyreader(tmp_path: Path) -> None:
    skymap = read_skymap(reference_file(GOLD_NPZ))

    result = skyreader_reads(write_json(skymap, tmp_path))

    assert skyreader_best(result) == (512, best_of(skymap).pixel)
    assert_same_levels(read_skymap(tmp_path / f"{file_stem(skymap)}.json"), skymap)


def test_mirror_exchanges_north_and_south_and_nothing_else(tmp_path: Path) -> None:
    path = write_json(skymap_of(whole_sky(8, gaussian(CENTRE, 20.0))), tmp_path)
    as_written = read_skymap(path).levels[0]

    mirrored = read_skymap(path, declinations=Declinations.MIRRORED).levels[0]

    np.testing.assert_array_equal(mirrored.pixel, as_written.pixel)
    flipped = healpix.pixels_at(8, healpix.centres(8, mirrored.pixel) * (1, 1, -1))
    np.testing.assert_array_equal(mirrored.llh, as_written.llh[flipped])
    np.testing.assert_array_equal(mirrored.position_m, as_written.position_m[flipped])


def v0_file(tmp_path: Path, mjd: float) -> Path:
    """A file of the schema before March 2025, NaN as Python's json writes it."""
    metadata = {"nside": 1, "run_id": 136766, "event_id": 5, "event_type": "HESE", "mjd": mjd}
    rows = [[i, 100.0 + i, float("nan"), 5.0] for i in range(12)]
    path = tmp_path / "old.json"
    level = {"columns": ["index", "llh", "E_in", "E_tot"], "metadata": metadata, "data": rows}
    path.write_text(json.dumps({"nside-1": level}))
    return path


def test_schema_v0_of_a_later_event_is_read_as_written(tmp_path: Path) -> None:
    (level,) = read_skymap(v0_file(tmp_path, 60280.7)).levels

    np.testing.assert_array_equal(level.llh, 100.0 + np.arange(12))
    assert np.isnan(level.energy_inside_gev).all()
    assert np.isnan(level.position_m).all()


def test_schema_v0_of_an_earlier_event_needs_to_be_told(tmp_path: Path) -> None:
    path = v0_file(tmp_path, 59754.7)

    with pytest.raises(InvalidSkymap, match="does not say whether its sky is mirrored"):
        read_skymap(path)
    assert read_skymap(path, declinations=Declinations.AS_WRITTEN).levels[0].llh[0] == 100
    assert read_skymap(path, declinations=Declinations.MIRRORED).levels[0].llh[0] == 108


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda d: d.clear(), "holds no level"),
        (lambda _: [1, 2], "holds a list"),
        (lambda d: d.update({"nside-3": d["nside-1"]}), "'nside-3' is not"),
        (lambda d: d.update({"nside-x": d["nside-1"]}), "'nside-x' is not"),
        (lambda d: d.update({"nside-2": d["nside-1"]}), "nside-2 has metadata of nside 1"),
        (lambda d: d["nside-1"].update(more=1), "other keys"),
        (lambda d: d.update({"nside-1": 5}), "other keys"),
        (lambda d: d["nside-1"].update(columns=["llh", "index"]), "has columns"),
        (lambda d: d["nside-1"].update(data={}), "wrong type"),
        (lambda d: d["nside-1"]["data"].append([3, 1.0]), "a row that is not 8 numbers"),
        (lambda d: d["nside-1"]["data"].append(5), "a row that is not 8 numbers"),
        (lambda d: d["nside-1"]["data"][0].__setitem__(1, "x"), "a row that is not 8 numbers"),
        (lambda d: d["nside-1"]["data"].append(d["nside-1"]["data"][0]), "a pixel twice"),
        (lambda d: d["nside-1"]["data"][0].__setitem__(0, 0.5), "a row that is not 8 numbers"),
        (lambda d: d["nside-1"]["data"].append([]), "a row that is not 8 numbers"),
        (lambda d: d["nside-1"]["data"][0].__setitem__(0, 12), "a pixel outside of 0..11"),
        (lambda d: d["nside-1"]["data"][0].__setitem__(0, -1), "a pixel outside of 0..11"),
        (lambda d: d["nside-1"]["data"][0].__setitem__(0, "<skyreader.nan>"), "a row that is not"),
        (lambda d: d["nside-1"]["metadata"].pop("mjd"), "without mjd"),
        (lambda d: d["nside-1"]["metadata"].update(mjd="x"), "has mjd 'x'"),
        (lambda d: d["nside-1"]["metadata"].update(mjd=1e300), "has mjd 1e"),
        (lambda d: d["nside-1"]["metadata"].update(run_id=1.5), "has run_id 1.5"),
        (lambda d: d["nside-1"]["metadata"].update(event_id=-1), "has event_id -1"),
        (lambda d: d["nside-1"]["metadata"].update(event_type=None), "has event_type None"),
    ],
)
def test_bad_json_is_refused_by_name(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], problem: str
) -> None:
    path = edited_json(tmp_path, edit)

    with pytest.raises(InvalidSkymap) as caught:
        read_skymap(path)
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)


def test_levels_of_different_events_are_refused(tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        other = json.loads(json.dumps(document["nside-1"]))
        other["metadata"].update(nside=2, event_id=9)
        document["nside-2"] = other

    with pytest.raises(InvalidSkymap, match="different events"):
        read_skymap(edited_json(tmp_path, edit))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"{"), ("a.json", b"\xff\xfe"), ("a.npz", b"PK\x03\x04 no"), ("a.npz", b""), ("a.fits", b"")],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(InvalidSkymap, match=name):
        read_skymap(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.json", "a.npz"):
        with pytest.raises(InvalidSkymap, match=name):
            read_skymap(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"nside-1": np.arange(3)}, "has columns None"),
        ({"header": np.arange(3), "nside-1": np.arange(3)}, "header has no field nside"),
        ({"other": np.arange(3)}, "'other' is not"),
        ({"nside-1": np.array([{}])}, "is not an npz file"),
    ],
)
def test_bad_npz_is_refused(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)

    with pytest.raises(InvalidSkymap, match=problem):
        read_skymap(path)
