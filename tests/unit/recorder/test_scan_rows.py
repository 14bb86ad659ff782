import pytest

from icestream.errors import InvalidInput, InvalidRecord, UndecodableMessage
from icestream.v1 import scan_pb2
from services.recorder.reconstruction_rows import day_of
from services.recorder.scan_rows import decode_ended, scan_row
from services.recorder.schema import SCANS
from tests.unit.recorder.recorder_cases import RECORDED_UNIX_NS, make_ended


def test_a_scan_is_recorded_with_its_best_direction_and_the_whole_message() -> None:
    ended = make_ended()
    ended.scan.best.horizontal.azimuth_rad, ended.scan.best.horizontal.zenith_rad = 1.0, 2.0
    ended.scan.best.equatorial.ra_rad, ended.scan.best.equatorial.dec_rad = 3.0, -0.5
    row = scan_row(decode_ended(ended.SerializeToString()), RECORDED_UNIX_NS)
    assert set(row) == {column.name for column in SCANS.columns}
    assert [row[name] for name in ("azimuth_rad", "zenith_rad", "ra_rad", "dec_rad")] == [1.0, 2.0, 3.0, -0.5]
    assert row["ended_day"] == day_of(ended.scan.ended_unix_ns)
    assert row["state"] == scan_pb2.SCAN_STATE_COMPLETE
    assert scan_pb2.ScanEnded.FromString(row["message"]) == ended


def test_what_is_not_known_is_absent() -> None:
    ended = make_ended()
    row = scan_row(ended, RECORDED_UNIX_NS)
    assert (row["azimuth_rad"], row["ra_rad"]) == (None, None)
    ended.scan.best.horizontal.azimuth_rad = 1.0
    row = scan_row(ended, RECORDED_UNIX_NS)
    assert (row["azimuth_rad"], row["ra_rad"]) == (1.0, None)


@pytest.mark.parametrize(
    ("payload", "failure"),
    [
        (b"\xff", UndecodableMessage),
        (b"", InvalidRecord),
        (make_ended("").SerializeToString(), InvalidRecord),
        (make_ended(detector="x" * 300).SerializeToString(), InvalidRecord),
        (make_ended(ended_unix_ns=0).SerializeToString(), InvalidRecord),
        (make_ended(options=scan_pb2.ScanOptions()).SerializeToString(), InvalidRecord),
    ],
)
def test_what_is_no_scan_is_refused(payload: bytes, failure: type[InvalidInput]) -> None:
    with pytest.raises(failure):
        decode_ended(payload)
