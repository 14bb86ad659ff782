import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from nats.js.errors import NotFoundError

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.scan_topology import Lane
from icestream.scan_codec import decode_work
from icestream.scans.pixels import PixelBatch
from services.scanner.coordinator.record import ScanRecord
from services.scanner.coordinator.work import WorkFeeder
from tests.support.eventually import eventually
from tests.support.fake_jetstream import FakePublisher
from tests.unit.scanner.scanner_cases import NAMES, NOW_UNIX_NS, make_request, result_of

if TYPE_CHECKING:
    from icestream.runtime.jetstream.connection import Connection
    from icestream.runtime.jetstream.publisher import WindowedPublisher


class FakeStream:
    """What the feeder asks JetStream itself.

    Attributes:
        message_ids: Of what is in the queue.
        purged: Subjects.
    """

    def __init__(self) -> None:
        self.message_ids: list[str] = []
        self.purged: list[str] = []

    async def purge_stream(self, _: str, *, subject: str) -> None:
        self.purged.append(subject)

    async def get_msg(self, _: str, *, seq: int, **__: Any) -> Any:
        if seq > len(self.message_ids):
            raise NotFoundError
        return SimpleNamespace(seq=seq, headers={"Nats-Msg-Id": self.message_ids[seq - 1]})


class Feeding:
    def __init__(self, batches_queued: int) -> None:
        self.stream = FakeStream()
        self.publishers = {lane: FakePublisher() for lane in Lane}
        client = SimpleNamespace(jetstream=lambda **_: self.stream)
        self.feeder = WorkFeeder(
            cast("Connection", SimpleNamespace(client=client)),
            cast("dict[Lane, WindowedPublisher]", self.publishers),
            NAMES,
            batches_queued=batches_queued,
        )

    def ids(self, lane: Lane = Lane.CATALOGUE) -> list[str]:
        return [message.message_id for message in self.publishers[lane].published]


@asynccontextmanager
async def feeding(*, batches_queued: int = 100) -> AsyncIterator[Feeding]:
    case = Feeding(batches_queued)
    async with case.feeder:
        yield case


def make_record(scan_id: str = "s1", *, priority: int = 0, traceparent: str | None = None) -> ScanRecord:
    request = make_request(scan_id, priority=priority, progression="1:0", batch_size=4)
    return ScanRecord(request, hypotheses=("dummy",), request_sha256="", traceparent=traceparent)


def take(record: ScanRecord, batch: PixelBatch, rows: slice) -> None:
    record.take(result_of(record.scan_id, batch, rows=rows), sequence=2, stored_unix_ns=NOW_UNIX_NS)


async def test_batches_are_queued_in_order_under_ids_that_follow_from_the_scan() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    record = make_record(traceparent=traceparent)
    async with feeding() as case:
        case.feeder.offer(record, record.begin())
        await eventually(lambda: case.ids() == ["s1/0/", "s1/1/", "s1/2/"])
    first = case.publishers[Lane.CATALOGUE].published[0]
    work = decode_work(first.payload)
    assert first.subject == "icestream.scans.work.catalogue.s1"
    assert first.headers == {"traceparent": traceparent}
    assert (work.scan_id, work.reco, work.startup_sha256, work.first_row) == ("s1", "dummy", "startup", 0)


async def test_alerts_have_a_queue_of_their_own() -> None:
    record = make_record(priority=100)
    async with feeding() as case:
        case.publishers[Lane.CATALOGUE].is_confirming = False
        case.feeder.offer(record, record.begin())
        await eventually(lambda: len(case.ids(Lane.ALERT)) == 3)
        assert case.ids() == []


async def test_no_more_of_a_scan_is_queued_than_is_allowed() -> None:
    record = make_record()
    async with feeding(batches_queued=2) as case:
        batches = record.begin()
        case.feeder.offer(record, batches)
        await eventually(lambda: len(case.ids()) == 2)
        assert (case.feeder.n_queued(Lane.CATALOGUE), case.feeder.n_held(Lane.CATALOGUE)) == (2, 1)
        case.feeder.answered(record, 1, 3)
        await asyncio.sleep(0.01)
        assert len(case.ids()) == 2
        case.feeder.answered(record, 1, 1)
        await eventually(lambda: case.ids() == ["s1/0/", "s1/1/", "s1/2/"])


async def test_what_was_answered_while_it_waited_is_not_queued() -> None:
    record = make_record()
    async with feeding(batches_queued=1) as case:
        case.feeder.offer(record, record.begin())
        case.feeder.answered(record, 1, 4)
        await eventually(lambda: case.ids() == ["s1/0/"])
        case.feeder.answered(record, 0, 4)
        await eventually(lambda: case.ids() == ["s1/0/", "s1/2/"])


async def test_scans_of_a_lane_take_turns() -> None:
    one, two = make_record("s1"), make_record("s2")
    async with feeding() as case:
        case.feeder.offer(one, one.begin())
        case.feeder.offer(two, two.begin())
        await eventually(lambda: len(case.ids()) == 6)
    assert case.ids() == ["s1/0/", "s2/0/", "s1/1/", "s2/1/", "s1/2/", "s2/2/"]


@pytest.mark.parametrize("raises", [False, True])
async def test_a_batch_that_the_broker_does_not_take_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    monkeypatch.setattr("services.scanner.coordinator.work._RETRY_S", 0.02)
    record = make_record()
    async with feeding() as case:
        publisher = case.publishers[Lane.CATALOGUE]
        publisher.raises = raises
        publisher.refusal = lambda _, message_id: BrokerUnavailable("away") if message_id == "s1/1/" else None
        case.feeder.offer(record, record.begin())
        await eventually(lambda: {"s1/0/", "s1/2/"} <= set(case.ids()))
        publisher.refusal = lambda *_: None
        publisher.published.clear()
        await eventually(lambda: case.ids() == ["s1/1/"])


async def test_after_a_restart_only_what_is_lacking_is_queued_and_parts_have_ids_of_their_own() -> None:
    record = make_record()
    batches = record.begin()
    take(record, batches[0], slice(1, 3))
    async with feeding() as case:
        n_batches = case.feeder.resume(record, record.state.outstanding(), queued={1})
        assert n_batches == 3
        await eventually(lambda: case.ids() == ["s1/0/r0-1.", "s1/0/r3-4.", "s1/2/"])
        works = [decode_work(message.payload) for message in case.publishers[Lane.CATALOGUE].published]
        assert [(work.first_row, len(work.batch)) for work in works] == [(0, 1), (3, 1), (0, 4)]
        assert case.feeder.n_queued(Lane.CATALOGUE) == 3
        for number, n_rows in ((0, 2), (1, 4), (2, 4)):
            case.feeder.answered(record, number, n_rows)
        assert case.feeder.n_queued(Lane.CATALOGUE) == case.feeder.n_held(Lane.CATALOGUE) == 0


async def test_the_queue_says_which_batches_it_has_whole_or_in_parts() -> None:
    async with feeding() as case:
        case.stream.message_ids = ["s1/0/", "s1/3/01", "s1/3/1@7", "s1/12/r0-1."]
        assert await case.feeder.numbers_in_queue(make_record()) == {0, 3, 12}


async def test_a_dropped_scan_is_purged_after_the_last_of_its_batches_was_stored() -> None:
    record = make_record()
    async with feeding(batches_queued=2) as case:
        publisher = case.publishers[Lane.CATALOGUE]
        publisher.is_confirming = False
        case.feeder.offer(record, record.begin())
        await eventually(lambda: len(case.ids()) == 2)
        dropping = asyncio.create_task(case.feeder.drop(record))
        await asyncio.sleep(0.02)
        assert case.stream.purged == []
        for message in publisher.published:
            message.confirm()
        await asyncio.wait_for(dropping, 1)
        assert case.stream.purged == ["icestream.scans.work.catalogue.s1"]
        assert len(case.ids()) == 2
        # Answers that come late are nobody's.
        case.feeder.answered(record, 0, 4)


async def test_a_scan_that_was_never_fed_can_be_dropped() -> None:
    async with feeding() as case:
        await case.feeder.drop(make_record())
        assert len(case.stream.purged) == 1
