"""Scans that ended as rows of their table."""

from google.protobuf.message import DecodeError

from icestream.errors import InvalidRecord, UndecodableMessage
from icestream.v1 import scan_pb2
from services.recorder.reconstruction_rows import Row, check_name, day_of

_NO_BEST: Row = dict.fromkeys(("azimuth_rad", "zenith_rad", "ra_rad", "dec_rad"))


def decode_ended(payload: bytes) -> scan_pb2.ScanEnded:
    """Read the last entry of a scan's log.

    Raises:
        UndecodableMessage: The bytes are not an `icestream.v1.ScanEnded`.
        InvalidRecord: It names no scan.
    """
    try:
        ended = scan_pb2.ScanEnded.FromString(payload)
    except DecodeError as error:
        problem = f"{len(payload)} bytes are not an icestream.v1.ScanEnded: {error}"
        raise UndecodableMessage(problem) from error
    scan = ended.scan
    names = {"scan_id": scan.scan_id, "detector": scan.detector, "options.reco": scan.options.reco}
    for field, name in names.items():
        check_name(f"scan.{field}", name)
    if scan.ended_unix_ns <= 0:
        raise InvalidRecord(f"scan {scan.scan_id} has not ended: scan.ended_unix_ns is {scan.ended_unix_ns}")
    return ended


def scan_row(ended: scan_pb2.ScanEnded, recorded_unix_ns: int) -> Row:
    """The row of a scan."""
    scan = ended.scan
    return {
        "scan_id": scan.scan_id,
        "ended_day": day_of(scan.ended_unix_ns),
        "detector": scan.detector,
        "run_id": scan.run_id,
        "event_id": scan.event_id,
        "sub_event": scan.sub_event,
        "start_unix_ns": scan.start_unix_ns,
        "reco": scan.options.reco,
        "state": int(scan.state),
        "created_unix_ns": scan.created_unix_ns,
        "ended_unix_ns": scan.ended_unix_ns,
        "message": ended.SerializeToString(),
        "recorded_unix_ns": recorded_unix_ns,
    } | (_best_columns(scan.best) if scan.HasField("best") else _NO_BEST)


def _best_columns(best: scan_pb2.BestFit) -> Row:
    has_time = best.HasField("equatorial")
    return {
        "azimuth_rad": best.horizontal.azimuth_rad,
        "zenith_rad": best.horizontal.zenith_rad,
        "ra_rad": best.equatorial.ra_rad if has_time else None,
        "dec_rad": best.equatorial.dec_rad if has_time else None,
    }
