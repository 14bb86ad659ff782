"""Pages of scans, the newest first."""

import base64
import binascii
from collections.abc import Iterable

from icestream.errors import InvalidScan
from icestream.v1 import scan_pb2
from services.scanner.coordinator.record import ScanRecord

DEFAULT_PAGE = 50
MAX_PAGE = 500

_Place = tuple[int, str]
"""When a scan was made, and its id."""


def page_of(
    records: Iterable[ScanRecord], request: scan_pb2.ListScansRequest
) -> tuple[list[ScanRecord], str]:
    """The scans of one page, and the token of the next; empty where there is none.

    New scans do not shift the pages that follow: a token names the last scan before its page.

    Raises:
        InvalidScan: The size or the token is none.
    """
    if request.page_size < 0:
        raise InvalidScan(f"a page of {request.page_size} scans", field="page_size")
    size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
    behind = _place_of_token(request.page_token) if request.page_token else None
    found = sorted((record for record in records if _matches(record, request)), key=_place, reverse=True)
    if behind is not None:
        found = [record for record in found if _place(record) < behind]
    page = found[:size]
    return page, _token(page[-1]) if len(found) > size else ""


def _matches(record: ScanRecord, request: scan_pb2.ListScansRequest) -> bool:
    if request.states and record.scan_state not in request.states:
        return False
    if request.event_id and str(record.request.event_id) != request.event_id:
        return False
    labels = record.header.options.classifiers
    return all(labels.get(key) == value for key, value in request.classifiers.items())


def _place(record: ScanRecord) -> _Place:
    return record.request.created_unix_ns, record.scan_id


def _token(record: ScanRecord) -> str:
    created_unix_ns, scan_id = _place(record)
    return base64.urlsafe_b64encode(f"{created_unix_ns}/{scan_id}".encode()).decode()


def _place_of_token(token: str) -> _Place:
    try:
        created_unix_ns, _, scan_id = base64.urlsafe_b64decode(token.encode()).decode().partition("/")
        return int(created_unix_ns), scan_id
    except (binascii.Error, ValueError) as error:
        raise InvalidScan("the page token is none of ours", field="page_token") from error
