import asyncio
from dataclasses import replace

import pytest

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.scan_topology import LogEntry
from icestream.scan_codec import skymap_from_message
from icestream.scans.request import ScanRequest
from icestream.v1 import scan_pb2
from services.scanner.coordinator.book import ScanBook
from services.scanner.coordinator.record import ScanRecord
from services.scanner.coordinator.schedule import scans_to_begin
from tests.support.eventually import eventually
from tests.unit.scanner.scanner_cases import (
    NAMES,
    NOW_UNIX_NS,
    FakeLog,
    Scanner,
    accepted,
    final,
    make_request,
    result_of,
)

RUNNING, QUEUED = scan_pb2.SCAN_STATE_RUNNING, scan_pb2.SCAN_STATE_QUEUED


async def has_ended(scanner: Scanner, scan_id: str) -> scan_pb2.Scan:
    await eventually(lambda: scanner.book.get(scan_id).final is not None)
    return final(scanner.book.get(scan_id))


async def has_begun(scanner: Scanner, scan_id: str) -> None:
    await eventually(lambda: scan_id in scanner.book.records and bool(scanner.feeder.offered.get(scan_id)))


async def test_a_scan_goes_from_its_acceptance_to_its_end() -> None:
    async with Scanner() as scanner:
        accepted(scanner.log, make_request(progression="1:0,2:1"))
        await has_begun(scanner, "s1")
        assert [len(batch) for batch in scanner.feeder.offered["s1"]] == [5, 5, 2]
        scanner.work("s1")
        await has_begun(scanner, "s1")
        scanner.work("s1")
        scan = await has_ended(scanner, "s1")
        assert scanner.log.kinds("s1")[-1] is LogEntry.ENDED
        await eventually(lambda: scanner.feeder.dropped == ["s1"])
    assert scan.state == scan_pb2.SCAN_STATE_COMPLETE
    assert scan.revision == len(scanner.log.messages)
    assert scan.ended_unix_ns == scanner.log.messages[-2].stored_unix_ns
    assert [level.nside for level in scan.progress.levels] == [1, 2]
    assert scanner.metric("icestream_scanner_scans_ended_total", state="complete") == 1
    assert scanner.metric("icestream_scanner_fits_total", reco="dummy", lane="catalogue") == 16
    assert scanner.metric("icestream_scanner_scan_seconds_count", reco="dummy", lane="catalogue") == 1


async def test_a_scan_with_pixels_that_were_given_up_ends_incomplete() -> None:
    async with Scanner() as scanner:
        accepted(scanner.log, make_request(batch_size=12))
        await has_begun(scanner, "s1")
        [batch] = scanner.feeder.offered["s1"]
        scanner.log.store("s1", LogEntry.RESULT, result_of("s1", batch, rows=slice(0, 6)))
        scanner.log.store("s1", LogEntry.RESULT, result_of("s1", batch, rows=slice(6, 12), failure="no fit"))
        scan = await has_ended(scanner, "s1")
        skymap = skymap_from_message(await scanner.maps.get(scanner.book.get("s1"), NOW_UNIX_NS))
    assert scan.state == scan_pb2.SCAN_STATE_INCOMPLETE
    assert scan.progress.n_pixels_missing == 6
    assert len(skymap.levels[0]) == len(skymap.levels[0].missing) == 6
    assert skymap.notes["models"] == "pixel_fit/2"


async def test_repeated_unknown_and_late_results_are_dropped_and_counted() -> None:
    async with Scanner() as scanner:
        accepted(scanner.log, make_request())
        await has_begun(scanner, "s1")
        batches = scanner.feeder.offered["s1"]
        for batch in (batches[0], batches[0], replace(batches[1], number=99), *batches[1:], batches[2]):
            scanner.log.store("s1", LogEntry.RESULT, result_of("s1", batch))
        scanner.log.store("s0", LogEntry.RESULT, result_of("s0", batches[0]))
        scan = await has_ended(scanner, "s1")
        scanner.log.store("s1", LogEntry.RESULT, result_of("s1", batches[0]))
        name = "icestream_scanner_dropped_results_total"
        await eventually(lambda: scanner.metric(name, reason="late") == 2 + 5)
        assert scanner.metric(name, reason="duplicate") == 5
        assert scanner.metric(name, reason="unknown") == 5 + 5
    assert (scan.progress.n_duplicates, scan.progress.n_unknown) == (5, 5)
    assert scan.progress.n_fits_done == 12


async def test_what_is_no_entry_is_left_out() -> None:
    async with Scanner() as scanner:
        scanner.log.store("s0", LogEntry.ACCEPTED, b"\xff\xff")
        accepted(scanner.log, make_request())
        await has_begun(scanner, "s1")
        scanner.log.store("s1", LogEntry.RESULT, b"\xff\xff")
        scanner.work("s1")
        assert (await has_ended(scanner, "s1")).state == scan_pb2.SCAN_STATE_COMPLETE
        name = "icestream_scanner_dropped_results_total"
        assert scanner.metric(name, reason="undecodable_message") == 2


async def test_another_scanner_that_starts_with_the_log_knows_the_same_and_asks_for_the_rest() -> None:
    async with Scanner() as first:
        accepted(first.log, make_request())
        await has_begun(first, "s1")
        batches = list(first.feeder.offered["s1"])
        first.log.store("s1", LogEntry.RESULT, result_of("s1", batches[1]))
        first.log.store("s1", LogEntry.RESULT, result_of("s1", batches[0], rows=slice(2, 5)))
        await eventually(lambda: first.book.get("s1").state.n_fits_done == 8)
        known = first.book.get("s1").to_message(NOW_UNIX_NS)
    async with Scanner(FakeLog(first.log.messages)) as second:
        await eventually(lambda: second.feeder.resumed == ["s1"])
        assert second.book.get("s1").to_message(NOW_UNIX_NS) == known
        offered = [(batch.number, batch.pixel.tolist()) for batch in second.feeder.offered["s1"]]
        assert offered == [(0, batches[0].pixel[:2].tolist()), (2, batches[2].pixel.tolist())]


async def test_what_is_still_in_the_queue_is_not_queued_again() -> None:
    log = FakeLog()
    accepted(log, make_request())
    scanner = Scanner(log)
    scanner.feeder.in_queue["s1"] = {0, 2}
    async with scanner:
        await has_begun(scanner, "s1")
        assert [batch.number for batch in scanner.feeder.offered["s1"]] == [1]
        assert scanner.metric("icestream_scanner_requeued_total") == 1


async def test_a_scan_that_was_not_ended_before_a_crash_is_ended_after_it() -> None:
    async with Scanner() as first:
        accepted(first.log, make_request())
        await has_begun(first, "s1")
        first.work("s1")
        ended = await has_ended(first, "s1")
    entries = [message for message in first.log.messages if not message.subject.endswith("ended")]
    async with Scanner(FakeLog(entries)) as second:
        assert (await has_ended(second, "s1")) == ended
        assert second.log.kinds("s1").count(LogEntry.ENDED) == 1
    # An ended one is known by its last entry.
    async with Scanner(FakeLog(second.log.messages)) as third:
        assert third.book.get("s1").to_message(NOW_UNIX_NS) == ended
        assert third.feeder.resumed == []
        assert third.log.kinds("s1").count(LogEntry.ENDED) == 1


async def test_an_end_is_written_once_the_broker_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scanner.coordinator.coordinator._RETRY_S", 0.01)
    async with Scanner() as scanner:
        accepted(scanner.log, make_request())
        await has_begun(scanner, "s1")
        scanner.log.failure = BrokerUnavailable("away")
        scanner.feeder.is_away = True
        scanner.work("s1")
        await eventually(lambda: scanner.book.get("s1").state.is_ended)
        await asyncio.sleep(0.05)
        assert scanner.book.get("s1").scan_state == RUNNING
        scanner.log.failure = None
        await has_ended(scanner, "s1")
        scanner.feeder.is_away = False
        await eventually(lambda: scanner.feeder.dropped == ["s1"])


async def test_a_scan_that_waits_can_be_cancelled() -> None:
    async with Scanner(max_running=1) as scanner:
        accepted(scanner.log, make_request("s1"))
        accepted(scanner.log, make_request("s2"))
        await has_begun(scanner, "s1")
        await eventually(lambda: "s2" in scanner.book.records)
        assert scanner.book.get("s2").scan_state == QUEUED
        scanner.log.store("s2", LogEntry.CANCELLED, b"")
        scan = await has_ended(scanner, "s2")
        scanner.log.store("s2", LogEntry.CANCELLED, b"")
        assert scan.state == scan_pb2.SCAN_STATE_CANCELLED
        assert scan.progress.n_fits_done == 0
        assert "s2" not in scanner.feeder.offered


async def test_the_next_scan_begins_when_one_ends() -> None:
    async with Scanner(max_running=1) as scanner:
        for scan_id in ("s1", "s2"):
            accepted(scanner.log, make_request(scan_id))
        await has_begun(scanner, "s1")
        scanner.work("s1")
        await has_begun(scanner, "s2")
        await has_ended(scanner, "s1")


async def test_a_scan_that_stands_still_is_looked_after() -> None:
    async with Scanner(stalled_after_s=0.1) as scanner:
        accepted(scanner.log, make_request())
        await has_begun(scanner, "s1")
        scanner.feeder.offered.clear()
        await has_begun(scanner, "s1")
        assert "s1" in scanner.feeder.resumed


async def test_the_span_of_a_scan_is_made_at_its_end_under_the_call_that_started_it() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Scanner() as scanner:
        accepted(scanner.log, make_request(), {"traceparent": traceparent})
        await has_begun(scanner, "s1")
        scanner.work("s1")
        scan = await has_ended(scanner, "s1")
        await eventually(lambda: bool(scanner.spans.get_finished_spans()))
    [span] = scanner.spans.get_finished_spans()
    assert span.name == "scan"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert (span.start_time, span.end_time) == (scan.created_unix_ns, scan.ended_unix_ns)
    assert scan.trace_id == "0af7651916cd43dd8448eb211c80319c"


def record(request: ScanRequest, *, is_begun: bool = False) -> ScanRecord:
    record = ScanRecord(request, hypotheses=("dummy",), request_sha256="", traceparent=None)
    if is_begun:
        record.begin()
    return record


async def test_alerts_begin_at_once_and_of_the_others_the_most_urgent_then_the_oldest() -> None:
    active = [
        record(make_request("runs"), is_begun=True),
        record(make_request("old", created=1)),
        record(make_request("new", created=2)),
        record(make_request("urgent", created=3, priority=99)),
        record(make_request("alert", created=4, priority=100)),
        record(make_request("second-alert", created=5, priority=100)),
    ]

    def chosen(max_running: int) -> list[str]:
        return [each.scan_id for each in scans_to_begin(active, max_running=max_running)]

    assert chosen(1) == ["alert", "second-alert"]
    assert chosen(2) == ["alert", "second-alert", "urgent"]
    assert chosen(3) == ["alert", "second-alert", "urgent", "old"]


async def test_running_alerts_take_no_place_of_the_catalogue() -> None:
    active = [
        record(make_request("alert", priority=100), is_begun=True),
        record(make_request("waits")),
    ]
    assert [each.scan_id for each in scans_to_begin(active, max_running=1)] == ["waits"]


async def test_a_scan_whose_reco_is_gone_keeps_its_map() -> None:
    from icestream.errors import UnknownReco

    def gone(name: str) -> object:
        raise UnknownReco(name, [])

    async with Scanner() as scanner:
        accepted(scanner.log, make_request())
        await has_begun(scanner, "s1")
        scanner.work("s1")
        await has_ended(scanner, "s1")
    book = ScanBook(NAMES, gone)  # type: ignore[arg-type]  # it never returns
    for message in scanner.log.messages[:-1]:
        book.fold(message)
    assert book.get("s1").to_message(NOW_UNIX_NS).best.hypothesis == ""
    assert len(book.get("s1").skymap().levels[0]) == 12
