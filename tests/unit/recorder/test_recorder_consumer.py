import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from sqlalchemy import Table

from icestream.errors import BrokerUnavailable, IceStreamError, InvalidRecord, StoreUnavailable
from icestream.runtime.deadletters import REASON, DeadLetterWriter
from icestream.runtime.jetstream.topology import Names
from services.recorder import consumer as consumer_module
from services.recorder import intake as intake_module
from services.recorder.consumer import RecordConsumer
from services.recorder.intake import Intake
from services.recorder.metrics import RecorderMetrics
from services.recorder.reconstruction_rows import Columns
from services.recorder.topics import Topic, dead_letters_topic, reconstructions_topic
from tests.support.eventually import eventually
from tests.support.fake_jetstream import FakePublisher, FakePuller
from tests.unit.recorder.recorder_cases import make_reconstruction, payload_of, rows_in

GONE = StoreUnavailable("the database is gone")
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RECONSTRUCTIONS_SUBJECT = "icestream.reconstructions.toy.direction"
TOPICS: dict[str, Topic[Any]] = {
    topic.name: topic
    for topic in (
        reconstructions_topic(Names(), ack_wait_s=1, max_ack_pending=10),
        dead_letters_topic(Names(), ack_wait_s=1, max_ack_pending=10),
    )
}


class FakeStore:
    """Stands in for `RecordStore`.

    Attributes:
        batches: The rows of each transaction.
        failures: Raised by the next inserts, in this order; None lets one through.
        poison: Event ids that the database does not take.
    """

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.failures: list[Exception | None] = []
        self.poison: set[int] = set()
        self.on_insert: Callable[[], None] = lambda: None

    @property
    def event_ids(self) -> list[int]:
        return [row["event_id"] for batch in self.batches for row in batch]

    async def probe(self) -> None:
        if self.failures:
            raise GONE

    async def insert(self, table: Table, columns: Columns) -> list[bool]:
        rows = rows_in(columns)
        self.on_insert()
        await asyncio.sleep(0)
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        if self.poison & {row.get("event_id") for row in rows}:
            raise InvalidRecord("the database does not take it")
        known = self.event_ids if table.name == "reconstructions" else []
        self.batches.append(list(rows))
        return [row.get("event_id") not in known for row in rows]


class Recorder:
    """One consumer among fakes."""

    def __init__(self, topic: str, *, gather_s: float = 0.0) -> None:
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        self.puller, self.publisher, self.store = FakePuller(), FakePublisher(), FakeStore()
        self.intake = Intake(self.store.probe)
        self.stop = asyncio.Event()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        consumer = RecordConsumer(
            TOPICS[topic],
            puller=cast("Any", self.puller),
            store=cast("Any", self.store),
            dead_letters=DeadLetterWriter(cast("Any", self.publisher), Names()),
            intake=self.intake,
            batch_rows=8,
            gather_s=gather_s,
            metrics=RecorderMetrics(self.registry),
            tracer=provider.get_tracer("test"),
        )
        self.running = asyncio.create_task(consumer.run(self.stop))

    def deliver(self, *event_ids: int, **others: Any) -> None:
        for event_id in event_ids:
            payload = payload_of(make_reconstruction(event_id))
            self.puller.deliver(payload, subject=RECONSTRUCTIONS_SUBJECT, **others)

    async def answered(self, n: int) -> dict[int, str]:
        await eventually(lambda: len(self.puller.answers) == n)
        return self.puller.kinds()

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"icestream_recorder_{name}", labels) or 0.0

    async def end(self) -> None:
        self.stop.set()
        await self.intake.stop()
        await asyncio.wait_for(self.running, 5)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_FIRST_PROBE_S", 0.005)
    monkeypatch.setattr(consumer_module, "_MAX_WAIT_S", 0.02)


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    recorder = Recorder("reconstructions")
    yield recorder
    await recorder.end()


@pytest.fixture
async def patient() -> AsyncIterator[Recorder]:
    """Waits for longer than any test, if nothing ends that."""
    recorder = Recorder("reconstructions", gather_s=600.0)
    yield recorder
    await recorder.end()


@pytest.fixture
async def undertaker() -> AsyncIterator[Recorder]:
    recorder = Recorder("dead_letters")
    yield recorder
    await recorder.end()


async def test_messages_are_acknowledged_only_after_their_rows_are_there(recorder: Recorder) -> None:
    seen: list[int] = []
    recorder.store.on_insert = lambda: seen.append(len(recorder.puller.answers))
    recorder.deliver(1, 2, 3)
    assert await recorder.answered(3) == {1: "+ACK", 2: "+ACK", 3: "+ACK"}
    assert seen[0] == 0
    assert recorder.store.event_ids == [1, 2, 3]


async def test_what_waits_goes_into_one_transaction_up_to_a_limit(recorder: Recorder) -> None:
    recorder.deliver(*range(1, 21))
    await recorder.answered(20)
    assert [len(batch) for batch in recorder.store.batches] == [8, 8, 4]
    assert recorder.metric("batch_rows_sum", table="reconstructions") == 20


async def test_a_transaction_waits_for_more_rows_until_it_is_full(patient: Recorder) -> None:
    patient.deliver(1, 2)
    await eventually(lambda: patient.puller.n_queued == 0)
    patient.deliver(3, 4, 5)
    patient.deliver(*range(6, 11))
    await patient.answered(8)
    assert [len(batch) for batch in patient.store.batches] == [8]


async def test_the_end_waits_for_no_more_rows(patient: Recorder) -> None:
    patient.deliver(1, 2)
    await eventually(lambda: patient.puller.n_queued == 0)
    assert patient.puller.answers == {}
    patient.stop.set()
    assert await patient.answered(2) == {1: "+ACK", 2: "+ACK"}
    await asyncio.wait_for(patient.running, 5)


async def test_a_database_that_goes_away_meanwhile_ends_the_wait_for_more_rows(patient: Recorder) -> None:
    patient.deliver(1)
    await eventually(lambda: patient.puller.n_queued == 0)
    patient.store.failures = [GONE] * 1000
    patient.intake.close(GONE)
    assert await patient.answered(1) == {1: "-NAK"}
    await eventually(lambda: patient.puller.is_paused)


async def test_rows_wait_no_longer_than_they_are_told_to() -> None:
    recorder = Recorder("reconstructions", gather_s=0.01)
    recorder.deliver(1)
    assert await recorder.answered(1) == {1: "+ACK"}
    await recorder.end()


async def test_messages_that_cannot_be_checked_are_kept_for_later(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as broken:
        broken.setattr("services.recorder.reconstruction_rows._suspects", fail)
        recorder.deliver(1, 2)
        assert await recorder.answered(2) == {1: "-NAK", 2: "-NAK"}
    recorder.deliver(3)
    assert (await recorder.answered(3))[3] == "+ACK"


async def test_a_second_delivery_is_acknowledged_and_counted_once(recorder: Recorder) -> None:
    recorder.deliver(1)
    await recorder.answered(1)
    recorder.deliver(1, n_delivered=2)
    assert await recorder.answered(2) == {1: "+ACK", 2: "+ACK"}
    assert recorder.metric("rows_total", table="reconstructions") == 1
    assert recorder.metric("duplicates_total", table="reconstructions") == 1
    assert recorder.metric("redelivered_total", table="reconstructions") == 1
    assert recorder.metric("opening_angle_rad_count", kind="cascade", model="direction") == 1


async def test_the_angle_to_the_truth_is_measured_where_there_is_a_truth(recorder: Recorder) -> None:
    recorder.deliver(1)
    recorder.puller.deliver(payload_of(make_reconstruction(2, truth=None)), subject=RECONSTRUCTIONS_SUBJECT)
    await recorder.answered(2)
    assert recorder.metric("opening_angle_rad_count", kind="cascade", model="direction") == 1
    assert 0 < recorder.metric("opening_angle_rad_sum", kind="cascade", model="direction") < 0.11


async def test_while_the_database_is_away_nothing_is_acknowledged_and_nothing_taken(
    recorder: Recorder,
) -> None:
    recorder.store.failures = [GONE] * 100
    recorder.deliver(1, 2)
    assert await recorder.answered(2) == {1: "-NAK", 2: "-NAK"}
    await eventually(lambda: recorder.puller.is_paused)
    assert recorder.intake.problem() == "the database is gone"
    assert recorder.metric("failures_total", table="reconstructions", reason="store_unavailable") == 2
    assert recorder.store.event_ids == []
    # What arrived in spite of that goes back too, once the intake has opened.
    recorder.store.failures.clear()
    await eventually(lambda: not recorder.puller.is_paused)
    recorder.deliver(3)
    assert (await recorder.answered(3))[3] == "+ACK"
    assert recorder.intake.is_open


async def test_bad_messages_are_dead_letters_once_and_the_others_are_recorded(recorder: Recorder) -> None:
    recorder.deliver(1)
    recorder.puller.deliver(b"\xff", headers={"Nats-Msg-Id": "x"}, subject=RECONSTRUCTIONS_SUBJECT)
    recorder.puller.deliver(
        payload_of(replace(make_reconstruction(3), detector="")), subject=RECONSTRUCTIONS_SUBJECT
    )
    recorder.deliver(4)
    assert await recorder.answered(4) == {1: "+ACK", 2: "+TERM", 3: "+TERM", 4: "+ACK"}
    assert recorder.store.event_ids == [1, 4]
    letters = recorder.publisher.on("icestream.deadletter.recorder")
    assert [letter.headers[REASON] for letter in letters] == ["undecodable_message", "invalid_record"]
    assert letters[0].payload == b"\xff"
    assert letters[0].message_id == "recorder/x/2/1"
    assert recorder.metric("dead_letters_total", table="reconstructions", reason="invalid_record") == 1


async def test_a_message_whose_letter_is_not_stored_is_kept_for_later(recorder: Recorder) -> None:
    recorder.publisher.refusal = lambda *_: BrokerUnavailable("no answer")
    recorder.puller.deliver(b"\xff", subject=RECONSTRUCTIONS_SUBJECT)
    assert await recorder.answered(1) == {1: "-NAK"}
    assert recorder.intake.is_open


async def test_the_row_that_the_database_does_not_take_is_found_by_halving(recorder: Recorder) -> None:
    recorder.store.poison = {5}
    recorder.deliver(*range(1, 9))
    kinds = await recorder.answered(8)
    assert kinds.pop(5) == "+TERM"
    assert set(kinds.values()) == {"+ACK"}
    assert sorted(recorder.store.event_ids) == [1, 2, 3, 4, 6, 7, 8]
    [letter] = recorder.publisher.on("icestream.deadletter.recorder")
    assert letter.headers[REASON] == "invalid_record"


@pytest.mark.parametrize("error", [RuntimeError("a mistake of ours"), ValueError("another")])
async def test_a_mistake_of_ours_loses_nothing_and_ends_nothing(recorder: Recorder, error: Exception) -> None:
    recorder.store.failures = [error]
    recorder.deliver(1)
    assert await recorder.answered(1) == {1: "-NAK"}
    recorder.deliver(2)
    assert (await recorder.answered(2))[2] == "+ACK"


async def test_what_is_queued_at_the_end_is_recorded(recorder: Recorder) -> None:
    recorder.stop.set()
    recorder.deliver(1, 2)
    assert await recorder.answered(2) == {1: "+ACK", 2: "+ACK"}
    await asyncio.wait_for(recorder.running, 5)
    assert recorder.puller.is_paused


async def test_what_is_queued_at_the_end_is_given_back_while_the_database_is_away(recorder: Recorder) -> None:
    recorder.store.failures = [GONE] * 1000
    recorder.deliver(1)
    await recorder.answered(1)
    recorder.stop.set()
    recorder.deliver(2)
    assert (await recorder.answered(2))[2] == "-NAK"
    await asyncio.wait_for(recorder.running, 5)


async def test_a_sampled_message_has_a_span_below_its_publishers(recorder: Recorder) -> None:
    recorder.deliver(1, headers={"traceparent": SAMPLED, "Nats-Msg-Id": "toy/1.1.0/direction"})
    recorder.deliver(2)
    await recorder.answered(2)
    [span] = recorder.spans.get_finished_spans()
    assert span.name == "record reconstructions"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SAMPLED[36:52]


async def test_a_failed_recording_is_in_its_span(recorder: Recorder) -> None:
    recorder.store.failures = [GONE]
    recorder.deliver(1, headers={"traceparent": SAMPLED})
    await recorder.answered(1)
    [span] = recorder.spans.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "store_unavailable"


async def test_a_dead_letter_that_says_nothing_is_recorded_all_the_same(undertaker: Recorder) -> None:
    undertaker.puller.deliver(b"", headers=None, subject="icestream.deadletter.x")
    undertaker.puller.deliver(b"", headers={"Icestream-Deliveries": "many"}, subject="icestream.deadletter.x")
    assert await undertaker.answered(2) == {1: "+ACK", 2: "+ACK"}
    assert [row["reason"] for batch in undertaker.store.batches for row in batch] == ["unknown"] * 2


@pytest.mark.parametrize("error", [InvalidRecord("no"), InvalidRecord("never")])
async def test_a_dead_letter_that_cannot_be_recorded_makes_no_other_one(
    undertaker: Recorder, error: IceStreamError
) -> None:
    undertaker.store.failures = [error]
    undertaker.puller.deliver(b"", subject="icestream.deadletter.recorder")
    assert await undertaker.answered(1) == {1: "+TERM"}
    assert undertaker.publisher.published == []
    assert undertaker.metric("failures_total", table="dead_letters", reason="invalid_record") == 1
