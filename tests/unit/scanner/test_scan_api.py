import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from icestream.codec import event_to_message
from icestream.errors import BrokerUnavailable
from icestream.physics import celestial
from icestream.physics.directions import unit_vectors
from icestream.physics.events import Event
from icestream.runtime.jetstream.scan_topology import LogEntry
from icestream.scan_codec import decode_accepted
from icestream.scans.request import Frame
from icestream.v1 import scan_pb2
from services.scanner.coordinator import api
from tests.support.eventually import eventually
from tests.support.refusal import Refusal
from tests.support.scanner import make_event, options
from tests.unit.scanner.scanner_cases import FakeLog, Scanner, accepted, make_request

UNIX_NS = 1_700_000_000 * 10**9


@pytest.fixture
async def scanner() -> AsyncIterator[Scanner]:
    async with Scanner() as scanner:
        yield scanner


def request_of(
    event: Event | None = None, request_id: str = "", **of_options: Any
) -> scan_pb2.StartScanRequest:
    event = event or make_event()
    of_options = {"progression": "1:0"} | of_options
    return scan_pb2.StartScanRequest(
        event=event_to_message(event), options=options(**of_options), request_id=request_id
    )


async def start(scanner: Scanner, request: scan_pb2.StartScanRequest | None = None) -> scan_pb2.Scan:
    scan: scan_pb2.Scan = (await scanner.stub.StartScan(request or request_of(), timeout=5)).scan
    return scan


async def refusal(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return Refusal(refused.value)


async def end(scanner: Scanner, scan_id: str) -> scan_pb2.Scan:
    await eventually(lambda: bool(scanner.feeder.offered.get(scan_id)))
    scanner.work(scan_id)
    await eventually(lambda: scanner.book.get(scan_id).final is not None)
    reply = await scanner.stub.GetScan(scan_pb2.GetScanRequest(scan_id=scan_id), timeout=5)
    scan: scan_pb2.Scan = reply.scan
    return scan


class TestStarting:
    async def test_a_scan_is_accepted_with_all_defaults_filled_in(self, scanner: Scanner) -> None:
        request = scan_pb2.StartScanRequest(event=event_to_message(make_event(3)))
        reply = await scanner.stub.StartScan(request, timeout=5)
        scan = reply.scan
        assert reply.is_new
        assert (scan.run_id, scan.event_id, scan.sub_event, scan.detector) == (7, 3, 0, "icecube86")
        assert scan.options.reco == "dummy"
        assert [(level.nside, level.extension) for level in scan.options.progression] == [
            (8, 0),
            (64, 12),
            (512, 24),
        ]
        assert scan.options.predictive_threshold == 1
        assert len(scan.options.position_variations) == 1
        assert scan.revision == 1
        assert scan.created_unix_ns > 0
        assert scan.state in (scan_pb2.SCAN_STATE_QUEUED, scan_pb2.SCAN_STATE_RUNNING)

    async def test_ids_sort_by_time(self, scanner: Scanner) -> None:
        scans = [await start(scanner) for _ in range(3)]
        assert len({scan.scan_id for scan in scans}) == 3
        milliseconds = [int(scan.scan_id.partition("x")[0], 16) for scan in scans]
        assert milliseconds == sorted(milliseconds)

    async def test_the_frame_follows_from_whether_the_time_is_known(self, scanner: Scanner) -> None:
        for start_unix_ns, frame in ((0, Frame.DETECTOR), (UNIX_NS, Frame.EQUATORIAL)):
            scan = await start(scanner, request_of(make_event(start_unix_ns=start_unix_ns)))
            assert scanner.book.get(scan.scan_id).request.frame is frame

    async def test_a_pointing_in_the_detector_is_turned_into_the_sky(self, scanner: Scanner) -> None:
        centre = scan_pb2.Horizontal(azimuth_rad=1.0, zenith_rad=2.0)
        request = request_of(make_event(start_unix_ns=UNIX_NS), pointing=scan_pb2.Pointing(horizontal=centre))
        scan = await start(scanner, request)
        equatorial = scan.options.pointing.equatorial
        sky = celestial.equatorial_vectors(equatorial.ra_rad, equatorial.dec_rad)
        np.testing.assert_allclose(celestial.to_detector(sky, UNIX_NS), unit_vectors(1.0, 2.0), atol=1e-9)
        assert scan.options.pointing.radius_rad == pytest.approx(math.radians(3.5))

    async def test_an_event_is_found_by_its_name(self, scanner: Scanner) -> None:
        scanner.events.by_name["icecube86/7.9.0"] = make_event(9)
        assert (await start(scanner, scan_pb2.StartScanRequest(event_name="icecube86/7.9.0"))).event_id == 9
        refused = await refusal(start(scanner, scan_pb2.StartScanRequest(event_name="icecube86/7.8.0")))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_EVENT")

    @pytest.mark.parametrize(
        ("of_options", "field"),
        [
            ({"predictive_threshold": math.nan}, "options.predictive_threshold"),
            ({"predictive_threshold": 1.5}, "options.predictive_threshold"),
            ({"predictive_threshold": -1.0}, "options.predictive_threshold"),
            ({"progression": [scan_pb2.ScanLevel(nside=3)]}, "options.progression"),
            ({"progression": [scan_pb2.ScanLevel(nside=4096)]}, "options.progression"),
            ({"pointing": scan_pb2.Pointing(radius_rad=1.0)}, "options.pointing"),
            (
                {"pointing": scan_pb2.Pointing(horizontal=scan_pb2.Horizontal(zenith_rad=4.0))},
                "options.pointing",
            ),
            (
                {"pointing": scan_pb2.Pointing(equatorial=scan_pb2.Equatorial(ra_rad=1.0))},
                "options.pointing.equatorial",
            ),
            ({"classifiers": {str(n): "" for n in range(26)}}, "options.classifiers"),
            ({"classifiers": {"a" * 26: ""}}, "options.classifiers"),
            ({"classifiers": {"a": "b" * 26}}, "options.classifiers"),
            ({"classifiers": {"": "b"}}, "options.classifiers"),
            ({"position_variations": [scan_pb2.Position(x_m=math.nan)]}, "options.position_variations"),
            ({"position_variations": [scan_pb2.Position(x_m=math.inf)]}, "options.position_variations"),
            ({"position_variations": [scan_pb2.Position()] * 65}, "options.position_variations"),
        ],
    )
    async def test_options_that_break_a_rule_are_refused_by_name(
        self, scanner: Scanner, of_options: dict[str, Any], field: str
    ) -> None:
        request = request_of()
        levels = of_options.pop("progression", None)
        if levels is not None:
            del request.options.progression[:]
            request.options.progression.extend(levels)
        request.options.MergeFrom(scan_pb2.ScanOptions(**of_options))
        refused = await refusal(start(scanner, request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SCAN")
        assert list(refused.violations) == [field]
        assert scanner.log.messages == []
        assert scanner.metric("icestream_scanner_failures_total", rpc="StartScan", reason="invalid_scan") == 1

    async def test_an_unknown_reco_is_refused_with_those_that_there_are(self, scanner: Scanner) -> None:
        refused = await refusal(start(scanner, request_of(reco="magic")))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_RECO")
        assert "dummy" in refused.text
        assert list(refused.violations) == ["options.reco"]

    async def test_an_event_that_breaks_a_rule_is_refused_with_its_rules(self, scanner: Scanner) -> None:
        request = request_of()
        request.event.detector = "elsewhere"
        refused = await refusal(start(scanner, request))
        assert (refused.code, list(refused.violations)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            ["event.detector"],
        )
        refused = await refusal(start(scanner, request_of(make_event(n_pulses=0))))
        assert list(refused.violations) == ["event.pulses"]

    async def test_a_scan_of_nothing_is_refused(self, scanner: Scanner) -> None:
        refused = await refusal(start(scanner, scan_pb2.StartScanRequest(options=options("1:0"))))
        assert list(refused.violations) == ["event"]

    async def test_a_broker_that_is_away_is_told_with_a_time_to_come_back(self, scanner: Scanner) -> None:
        scanner.log.failure = BrokerUnavailable("away")
        refused = await refusal(start(scanner))
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert refused.retry_delay_s == 1.0

    async def test_too_many_waiting_scans_are_refused_but_never_an_alert(self) -> None:
        async with Scanner(max_running=1, max_queued=1) as scanner:
            first, second = await start(scanner), await start(scanner)
            await eventually(lambda: bool(scanner.feeder.offered.get(first.scan_id)))
            refused = await refusal(start(scanner))
            assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refused.retry_delay_s == 30.0
            await start(scanner, request_of(priority=100))
            assert scanner.book.get(second.scan_id).scan_state == scan_pb2.SCAN_STATE_QUEUED


class TestRequestIds:
    async def test_the_same_id_starts_one_scan(self, scanner: Scanner) -> None:
        replies = await asyncio.gather(
            *(scanner.stub.StartScan(request_of(request_id="a"), timeout=5) for _ in range(5))
        )
        assert len({reply.scan.scan_id for reply in replies}) == 1
        assert sum(reply.is_new for reply in replies) == 1
        assert len(scanner.log.messages) == 1

    async def test_another_request_with_the_same_id_is_refused(self, scanner: Scanner) -> None:
        await start(scanner, request_of(request_id="a"))
        refused = await refusal(start(scanner, request_of(request_id="a", priority=3)))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(refused.violations) == ["request_id"]

    async def test_an_id_is_known_after_a_restart_and_when_the_scan_has_ended(self, scanner: Scanner) -> None:
        request = request_of(request_id="a")
        scan = await start(scanner, request)
        await end(scanner, scan.scan_id)
        async with Scanner(FakeLog(scanner.log.messages)) as other:
            reply = await other.stub.StartScan(request, timeout=5)
            assert not reply.is_new
            assert reply.scan.state == scan_pb2.SCAN_STATE_COMPLETE

    async def test_of_two_scanners_with_the_same_log_one_accepts(self, scanner: Scanner) -> None:
        """The broker takes the first entry; the other scanner reads what that one says."""
        scan = await start(scanner, request_of(request_id="a"))
        first_entry = scanner.log.messages[0]
        async with Scanner() as other:
            other.log._ids.add(f"{scan.scan_id}/{LogEntry.ACCEPTED}")
            asking = asyncio.create_task(start(other, request_of(request_id="a", priority=1)))
            await asyncio.sleep(0.05)
            other.log.store(scan.scan_id, LogEntry.ACCEPTED, first_entry.payload, first_entry.headers)
            refused = await refusal(asking)
            assert list(refused.violations) == ["request_id"]

    async def test_ids_have_an_end(self, scanner: Scanner) -> None:
        refused = await refusal(start(scanner, request_of(request_id="a" * 257)))
        assert list(refused.violations) == ["request_id"]


class TestAsking:
    @pytest.mark.parametrize("rpc", ["GetScan", "GetSkymap", "CancelScan"])
    async def test_an_unknown_scan_is_not_found(self, scanner: Scanner, rpc: str) -> None:
        request = getattr(scan_pb2, f"{rpc}Request")(scan_id="nothing")
        refused = await refusal(getattr(scanner.stub, rpc)(request, timeout=5))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_SCAN")

    async def test_an_unknown_scan_cannot_be_watched(self, scanner: Scanner) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in scanner.stub.WatchScan(scan_pb2.WatchScanRequest(scan_id="nothing"), timeout=5):
                pass
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_a_map_grows_and_is_the_same_from_the_log(self, scanner: Scanner) -> None:
        scan = await start(scanner)
        request = scan_pb2.GetSkymapRequest(scan_id=scan.scan_id)
        partial = (await scanner.stub.GetSkymap(request, timeout=5)).skymap
        assert not partial.is_complete
        await end(scanner, scan.scan_id)
        whole = (await scanner.stub.GetSkymap(request, timeout=5)).skymap
        assert whole.is_complete
        assert whole == (await scanner.stub.GetSkymap(request, timeout=5)).skymap
        async with Scanner(FakeLog(scanner.log.messages)) as other:
            assert whole == (await other.stub.GetSkymap(request, timeout=5)).skymap

    async def test_a_map_whose_log_is_gone_is_not_found(self, scanner: Scanner) -> None:
        scan = await start(scanner)
        await end(scanner, scan.scan_id)
        scanner.log.messages = []
        call = scanner.stub.GetSkymap(scan_pb2.GetSkymapRequest(scan_id=scan.scan_id), timeout=5)
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND

    async def test_cancelling_ends_a_scan_and_is_harmless_afterwards(self, scanner: Scanner) -> None:
        scan = await start(scanner)
        request = scan_pb2.CancelScanRequest(scan_id=scan.scan_id)
        first = (await scanner.stub.CancelScan(request, timeout=5)).scan
        assert first.state == scan_pb2.SCAN_STATE_CANCELLED
        assert (await scanner.stub.CancelScan(request, timeout=5)).scan == first
        assert scanner.log.kinds(scan.scan_id).count(LogEntry.CANCELLED) == 1


class TestListing:
    @pytest.fixture
    async def full(self) -> AsyncIterator[Scanner]:
        log = FakeLog()
        for number in range(5):
            accepted(log, make_request(f"s{number}", created=number))
        async with Scanner(log, max_running=2) as scanner:
            await eventually(lambda: len(scanner.feeder.resumed) == 2)
            yield scanner

    @staticmethod
    async def ids(scanner: Scanner, **of_request: Any) -> tuple[list[str], str]:
        reply = await scanner.stub.ListScans(scan_pb2.ListScansRequest(**of_request), timeout=5)
        return [scan.scan_id for scan in reply.scans], reply.next_page_token

    async def test_the_newest_comes_first(self, full: Scanner) -> None:
        assert await self.ids(full) == (["s4", "s3", "s2", "s1", "s0"], "")

    async def test_pages_follow_each_other_although_new_scans_come(self, full: Scanner) -> None:
        first, token = await self.ids(full, page_size=2)
        accepted(full.log, make_request("s9", created=9))
        await eventually(lambda: "s9" in full.book.records)
        second, token = await self.ids(full, page_size=2, page_token=token)
        third, end_token = await self.ids(full, page_size=2, page_token=token)
        assert first + second + third == ["s4", "s3", "s2", "s1", "s0"]
        assert end_token == ""

    async def test_scans_are_found_by_what_they_do(self, full: Scanner) -> None:
        found, _ = await self.ids(full, states=[scan_pb2.SCAN_STATE_RUNNING])
        assert found == ["s1", "s0"]

    async def test_scans_are_found_by_event_and_labels(self, scanner: Scanner) -> None:
        one = await start(scanner, request_of(make_event(1), classifiers={"a": "1", "b": "2"}))
        two = await start(scanner, request_of(make_event(2), classifiers={"a": "1"}))
        assert (await self.ids(scanner, classifiers={"a": "1"}))[0] == [two.scan_id, one.scan_id]
        assert (await self.ids(scanner, classifiers={"a": "1", "b": "2"}))[0] == [one.scan_id]
        assert (await self.ids(scanner, event_id="7.2.0"))[0] == [two.scan_id]

    @pytest.mark.parametrize("wrong", [{"page_token": "what?"}, {"page_token": "AAAA"}, {"page_size": -1}])
    async def test_wrong_pages_are_refused(self, full: Scanner, wrong: dict[str, Any]) -> None:
        refused = await refusal(full.stub.ListScans(scan_pb2.ListScansRequest(**wrong), timeout=5))
        assert list(refused.violations) == list(wrong)


class TestWatching:
    async def test_every_change_is_seen_until_the_end(self, scanner: Scanner) -> None:
        scan = await start(scanner)
        request = scan_pb2.WatchScanRequest(scan_id=scan.scan_id, with_skymap=True)
        updates: list[scan_pb2.WatchScanResponse] = []

        async def watch() -> None:
            updates.extend([update async for update in scanner.stub.WatchScan(request, timeout=10)])

        watching = asyncio.create_task(watch())
        await end(scanner, scan.scan_id)
        await asyncio.wait_for(watching, 5)
        assert updates[-1].scan.state == scan_pb2.SCAN_STATE_COMPLETE
        assert updates[-1].skymap.is_complete
        revisions = [update.scan.revision for update in updates]
        assert revisions == sorted(revisions)

    async def test_the_end_waits_for_no_pause_between_updates(
        self, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api, "_UPDATE_S", 3600.0)
        scan = await start(scanner)
        watching = scanner.stub.WatchScan(scan_pb2.WatchScanRequest(scan_id=scan.scan_id), timeout=10)
        first = await anext(aiter(watching))
        assert first.scan.state != scan_pb2.SCAN_STATE_COMPLETE
        await end(scanner, scan.scan_id)
        states = [update.scan.state async for update in watching]
        assert states[-1] == scan_pb2.SCAN_STATE_COMPLETE

    async def test_a_watcher_goes_on_behind_the_revision_that_it_saw(self, scanner: Scanner) -> None:
        scan = await start(scanner)
        ended = await end(scanner, scan.scan_id)

        async def seen(after_revision: int) -> list[int]:
            request = scan_pb2.WatchScanRequest(scan_id=scan.scan_id, after_revision=after_revision)
            return [update.scan.revision async for update in scanner.stub.WatchScan(request, timeout=5)]

        assert await seen(0) == [ended.revision]
        assert await seen(1) == [ended.revision]
        assert await seen(ended.revision) == []


class TestTraces:
    async def test_the_call_is_the_parent_of_everything_that_the_scan_does(self, scanner: Scanner) -> None:
        caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        reply = await scanner.stub.StartScan(request_of(), timeout=5, metadata=[("traceparent", caller)])
        assert reply.scan.trace_id == "0af7651916cd43dd8448eb211c80319c"
        await end(scanner, reply.scan.scan_id)
        await eventually(lambda: len(scanner.spans.get_finished_spans()) == 2)
        call, scan = scanner.spans.get_finished_spans()
        assert call.name == "icestream.v1.ScanService/StartScan"
        assert call.parent is not None
        assert f"{call.parent.span_id:016x}" == "b7ad6b7169203331"
        assert scan.parent is not None
        assert call.context is not None
        assert scan.parent.span_id == call.context.span_id
        assert scanner.book.get(reply.scan.scan_id).traceparent in scanner.log.messages[0].headers.values()

    async def test_an_unsampled_scan_leaves_nothing(self, scanner: Scanner) -> None:
        caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        reply = await scanner.stub.StartScan(request_of(), timeout=5, metadata=[("traceparent", caller)])
        assert reply.scan.trace_id == ""
        await end(scanner, reply.scan.scan_id)
        assert scanner.spans.get_finished_spans() == ()
        assert "traceparent" not in scanner.log.messages[0].headers


async def test_the_log_says_what_was_accepted(scanner: Scanner) -> None:
    scan = await start(scanner, request_of(priority=7, classifiers={"a": "b"}))
    request = decode_accepted(scanner.log.messages[0].payload)
    assert request == scanner.book.get(scan.scan_id).request
    assert request.options.priority == 7
