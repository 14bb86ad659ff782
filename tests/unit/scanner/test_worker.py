import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from icestream.errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    IceStreamError,
    ModelOverloaded,
    ModelUnavailable,
    StreamFull,
)
from icestream.physics.events import ModelVersion, Pulses
from icestream.runtime.deadletters import ORIGINAL_MESSAGE_ID, PROBLEM, REASON
from icestream.runtime.jetstream.scan_topology import Lane
from icestream.scan_codec import decode_work, encode_startup
from services.scanner.worker import consumer as consumer_module
from services.scanner.worker import faults as faults_module
from services.scanner.worker import fitting as fitting_module
from services.scanner.worker import queue as queue_module
from services.scanner.worker.consumer import ConsumerLimits
from tests.support.eventually import eventually
from tests.unit.scanner.worker_cases import (
    BROKEN,
    DEAD_LETTERS,
    ENDLESS,
    EVENT,
    HASTY,
    LIMITS,
    POISON,
    RESULTS,
    SAMPLED,
    SHORT,
    TOY,
    Worker,
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "_LOOK_S", 0.02)
    monkeypatch.setattr(consumer_module, "_GRACE_S", 0.3)
    monkeypatch.setattr(consumer_module, "_INTERRUPTION_S", 0.3)
    monkeypatch.setattr(queue_module, "_LOOK_S", 0.02)
    monkeypatch.setattr(fitting_module, "_CANCELLING_S", 0.05)
    monkeypatch.setattr(faults_module, "_FIRST_POSTPONEMENT_S", 0.01)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """Not started yet."""
    worker = Worker()
    yield worker
    await put_away(worker)


@pytest.fixture
async def hasty() -> AsyncIterator[Worker]:
    """The same, without patience for a long fit."""
    worker = Worker(HASTY)
    yield worker
    await put_away(worker)


async def put_away(worker: Worker) -> None:
    worker.reco.is_deaf = False
    worker.reco.release()
    worker.publisher.is_confirming = True
    for message in worker.publisher.published:
        if not message.stored.done():
            message.confirm()
    await worker.stop()


async def test_each_batch_is_fitted_and_acknowledged(worker: Worker) -> None:
    for number in range(5):
        worker.deliver(number, number + 100, number=number)
    worker.start()
    assert await worker.answered(5) == dict.fromkeys(range(1, 6), "+ACK")
    results = worker.results()
    assert sorted(result.rows.number for result in results) == list(range(5))
    for result in results:
        assert result.rows.fits is not None
        np.testing.assert_array_equal(result.rows.fits.llh, result.rows.pixel + 0.5)
    assert worker.metric("fits_total", reco="obedient") == 10
    assert worker.metric("batches_total", lane="catalogue") == 5


async def test_a_result_goes_to_the_log_of_its_scan_under_the_batches_name(worker: Worker) -> None:
    worker.deliver(5, 6, scan_id="s7", number=3, part="01", first_row=16)
    worker.start()
    await worker.answered(1)
    [message] = worker.publisher.published
    assert (message.subject, message.message_id) == ("icestream.scans.log.s7.result", "s7/3/01")
    assert not message.headers
    [result] = worker.results()
    assert (result.rows.first_row, result.rows.nside, result.worker, result.rows.failure) == (16, 8, "w1", "")
    assert result.models == (ModelVersion("fit", "3"),)
    assert result.rows.worker_s > 0


async def test_a_batch_is_acknowledged_only_once_its_result_is_stored(worker: Worker) -> None:
    worker.publisher.is_confirming = False
    worker.deliver(1)
    worker.start()
    await eventually(lambda: len(worker.publisher.published) == 1)
    await asyncio.sleep(0.03)
    assert worker.catalogue.answers == {}
    worker.publisher.published[0].confirm()
    assert await worker.answered(1) == {1: "+ACK"}


async def test_no_more_batches_than_allowed_are_begun(worker: Worker) -> None:
    worker.reco.hold()
    for number in range(4):
        worker.deliver(number, number=number)
    worker.start()
    await eventually(lambda: len(worker.reco.begun) == LIMITS.batches_at_once)
    await asyncio.sleep(0.05)
    assert worker.reco.begun == [0, 1]


async def test_an_alert_overtakes_every_batch_that_waits(worker: Worker) -> None:
    worker.reco.hold()
    for number in range(4):
        worker.deliver(number, number=number)
    worker.start()
    await eventually(lambda: len(worker.reco.begun) == 2)
    for number in (100, 101, 102):
        worker.deliver(number, lane=Lane.ALERT, scan_id="urgent", number=number)
    worker.reco.release()
    await worker.answered(4)
    assert worker.reco.begun == [0, 1, 100, 101, 102, 2, 3]
    assert await worker.answered(3, Lane.ALERT) == dict.fromkeys((1, 2, 3), "+ACK")


async def test_no_other_batch_is_begun_while_an_alert_is_on_its_way(worker: Worker) -> None:
    worker.alerts.n_left_in_stream = 1
    worker.deliver(1)
    worker.start()
    await asyncio.sleep(0.03)
    assert worker.reco.begun == []
    worker.deliver(100, lane=Lane.ALERT)
    await eventually(lambda: len(worker.reco.begun) == 2)
    assert worker.reco.begun == [100, 1]


async def test_nothing_else_is_begun_between_the_levels_of_an_alert(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_BETWEEN_LEVELS_S", 1.5)
    worker.start()
    worker.deliver(100, lane=Lane.ALERT, scan_id="urgent")
    await worker.answered(1, Lane.ALERT)
    worker.deliver(1)
    await asyncio.sleep(0.05)
    worker.deliver(101, lane=Lane.ALERT, scan_id="urgent", number=1)
    await worker.answered(2, Lane.ALERT)
    assert worker.reco.begun == [100, 101]


async def test_the_catalogue_goes_on_after_an_alert(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_BETWEEN_LEVELS_S", 0.1)
    worker.start()
    worker.deliver(100, lane=Lane.ALERT, scan_id="urgent")
    worker.deliver(1)
    await worker.answered(1)
    assert worker.reco.begun == [100, 1]


async def test_alerts_that_others_took_do_not_hold_up_the_rest(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_ALERT_ON_ITS_WAY_S", 0.5)
    worker.alerts.n_left_in_stream = 5
    for number in range(5):
        worker.deliver(number, number=number)
    worker.start()
    async with asyncio.timeout(2):
        await worker.answered(5)


@pytest.mark.parametrize("lane", Lane)
async def test_a_worker_with_nothing_to_do_begins_at_once(
    worker: Worker, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_LOOK_S", 1.5)
    worker.start()
    await asyncio.sleep(0.05)
    worker.deliver(1, lane=lane)
    async with asyncio.timeout(0.75):
        await worker.answered(1, lane)


async def test_the_model_treats_alerts_as_urgent(worker: Worker) -> None:
    worker.deliver(1, lane=Lane.ALERT)
    worker.start()
    await worker.answered(1, Lane.ALERT)
    worker.deliver(2)
    await worker.answered(1)
    assert [call.is_urgent for call in worker.model.calls] == [True, False]


async def test_a_scan_is_prepared_once(worker: Worker) -> None:
    for number in range(6):
        worker.deliver(number, number=number)
    worker.start()
    await worker.answered(6)
    assert worker.reco.n_prepared == 1


async def test_only_the_last_scans_are_kept(worker: Worker) -> None:
    worker.start()
    for n_done, name in enumerate(["a", "b", "c", "a", "a", "c"], start=1):
        worker.objects.stored[name] = encode_startup(EVENT, TOY)
        worker.startup = name
        worker.deliver(1, number=n_done)
        await worker.answered(n_done)
    # Of two that are kept, a made room for c, and b for the second a.
    assert worker.reco.n_prepared == 4


@pytest.mark.parametrize(
    "failure",
    [
        ModelUnavailable("gone"),
        ModelOverloaded("full"),
        DeadlineExceeded("late"),
    ],
)
async def test_a_batch_is_given_back_while_the_model_is_away(worker: Worker, failure: IceStreamError) -> None:
    worker.model.failure = failure
    worker.deliver(1, 2)
    worker.start()
    assert await worker.answered(1) == {1: "-NAK"}
    assert "delay" in worker.catalogue.answers[1]
    assert worker.publisher.published == []
    assert worker.metric("failures_total", reason=failure.reason) == 1
    worker.model.failure = None
    worker.deliver(1, 2, n_delivered=2)
    assert (await worker.answered(2))[2] == "+ACK"


async def test_a_worker_whose_model_is_away_says_so(worker: Worker) -> None:
    worker.model.failure = ModelUnavailable("gone")
    worker.start()
    assert worker.standing.problem() is None
    worker.deliver(1)
    await worker.answered(1)
    await eventually(lambda: worker.standing.problem() is None)
    assert worker.metric("quarantined") == 0


async def test_a_batch_is_given_back_while_the_broker_takes_no_results(worker: Worker) -> None:
    worker.publisher.refusal = lambda subject, _: BrokerUnavailable("gone") if "log" in subject else None
    worker.deliver(1)
    worker.start()
    assert await worker.answered(1) == {1: "-NAK"}


async def test_waiting_for_a_dependency_never_counts_against_a_batch(worker: Worker) -> None:
    worker.model.failure = ModelUnavailable("gone")
    worker.deliver(1, n_delivered=LIMITS.delivery_limit)
    worker.start()
    # The broker has counted enough deliveries: a copy of the batch starts from one.
    assert await worker.answered(1) == {1: "+ACK"}
    [copy] = worker.halves()
    assert copy.message_id == "s1/0/@1"
    assert len(decode_work(copy.payload).batch) == 1


async def test_a_copy_of_a_copy_has_a_name_of_the_same_length(worker: Worker) -> None:
    worker.model.failure = ModelUnavailable("gone")
    worker.deliver(1, part="@7", n_delivered=LIMITS.delivery_limit)
    worker.start()
    await worker.answered(1)
    [copy] = worker.halves()
    assert copy.message_id == "s1/0/@1"


async def test_a_batch_that_cannot_be_copied_is_given_back_all_the_same(worker: Worker) -> None:
    worker.model.failure = ModelUnavailable("gone")
    worker.publisher.refusal = lambda *_: StreamFull("SCANWORK", "no room")
    worker.deliver(1, n_delivered=LIMITS.delivery_limit)
    worker.start()
    assert await worker.answered(1) == {1: "-NAK"}


async def test_a_batch_for_an_unknown_reco_is_left_to_another_worker(worker: Worker) -> None:
    worker.deliver(1, reco="another")
    worker.deliver(2, number=1)
    worker.start()
    assert await worker.answered(2) == {1: "-NAK", 2: "+ACK"}
    assert worker.metric("failures_total", reason="unknown_reco") == 1


async def test_the_poison_pixel_is_found_and_all_others_are_fitted(worker: Worker) -> None:
    pixels = [*range(7), POISON, *range(8, 20)]
    worker.deliver(*pixels)
    worker.start()
    n_answered = 1
    while True:
        await worker.answered(n_answered)
        n_halves = len(worker.halves())
        if n_halves == 0:
            break
        worker.pass_on_halves()
        n_answered += n_halves
    fitted = [result for result in worker.results() if result.rows.fits is not None]
    [given_up] = [result for result in worker.results() if result.rows.fits is None]
    assert sorted(pixel for result in fitted for pixel in result.rows.pixel.tolist()) == sorted(
        set(pixels) - {POISON}
    )
    for result in fitted:
        # Each part still knows where it lies in the whole.
        first = result.rows.first_row
        assert result.rows.pixel.tolist() == pixels[first : first + len(result.rows.pixel)]
        assert result.rows.variation.tolist() == list(range(first, first + len(result.rows.pixel)))
    assert (given_up.rows.pixel.tolist(), given_up.rows.variation.tolist(), given_up.rows.first_row) == (
        [POISON],
        [7],
        7,
    )
    assert given_up.rows.failure == "model_failed: a pixel of the batch is poison"
    [letter] = worker.publisher.on(DEAD_LETTERS)
    assert letter.headers[REASON] == "model_failed"
    assert letter.headers[PROBLEM].startswith(
        f"scan s1, reco obedient, nside 8, pixel {POISON}, variation 7:"
    )
    assert list(worker.catalogue.kinds().values()).count("+TERM") == 1
    assert worker.metric("dead_letters_total", reason="model_failed") == 1
    # One bad pixel says nothing about the worker.
    assert worker.standing.problem() is None


async def test_halves_carry_the_name_of_their_whole(worker: Worker) -> None:
    worker.deliver(1, 2, POISON, number=4, part="1", first_row=10)
    worker.start()
    assert await worker.answered(1) == {1: "+ACK"}
    assert [message.message_id for message in worker.halves()] == ["s1/4/10", "s1/4/11"]
    assert {message.subject for message in worker.halves()} == {"icestream.scans.work.catalogue.s1"}
    parts = worker.parts()
    assert [part.batch.pixel.tolist() for part in parts] == [[1], [2, POISON]]
    assert [part.first_row for part in parts] == [10, 11]
    assert worker.metric("splits_total") == 1


async def test_a_batch_is_kept_until_both_halves_are_stored(worker: Worker) -> None:
    worker.publisher.refusal = lambda _, message_id: (
        StreamFull("SCANWORK", "no room") if message_id == "s1/0/1" else None
    )
    worker.deliver(1, POISON)
    worker.start()
    assert await worker.answered(1) == {1: "-NAK"}


async def test_a_batch_that_the_reco_fails_for_is_tried_by_others_before_it_is_halved(worker: Worker) -> None:
    worker.start()
    for n_delivered in (1, 2, 3):
        worker.deliver(1, BROKEN, n_delivered=n_delivered)
        await worker.answered(n_delivered)
    assert worker.catalogue.kinds() == {1: "-NAK", 2: "-NAK", 3: "+ACK"}
    assert len(worker.halves()) == 2
    assert worker.metric("failures_total", reason="unexpected") == 3


async def test_fits_that_are_fewer_than_their_batch_are_never_handed_in(worker: Worker) -> None:
    worker.deliver(1, SHORT)
    worker.start()
    assert await worker.answered(1) == {1: "-NAK"}
    assert worker.publisher.published == []
    assert worker.metric("failures_total", reason="unexpected") == 1


async def test_an_event_that_a_reco_cannot_use_ends_the_batch_as_a_whole(worker: Worker) -> None:
    pulses = EVENT.pulses
    no_pulses = Pulses(pulses.sensor_id[:0], pulses.time_ns[:0], pulses.charge_pe[:0], pulses.flags[:0])
    worker.objects.stored[worker.startup] = encode_startup(replace(EVENT, pulses=no_pulses), TOY)
    worker.deliver(1, 2)
    worker.start()
    assert await worker.answered(1) == {1: "+TERM"}
    [result] = worker.results()
    assert result.rows.failure.startswith("invalid_event: event 1.2.0 is invalid")


@pytest.mark.parametrize("is_deaf", [False, True])
async def test_a_hanging_reco_is_ended_and_its_batch_left_to_another_worker(
    hasty: Worker, *, is_deaf: bool
) -> None:
    worker = hasty
    worker.reco.is_deaf = is_deaf
    worker.deliver(1, ENDLESS)
    worker.deliver(2, number=1)
    worker.deliver(3, number=2)
    worker.start()
    assert await worker.answered(3) == {1: "-NAK", 2: "+ACK", 3: "+ACK"}
    assert worker.metric("failures_total", reason="fit_timeout") == 1


async def test_a_single_fit_that_hangs_everywhere_is_given_up(hasty: Worker) -> None:
    worker = hasty
    worker.deliver(ENDLESS, n_delivered=LIMITS.delivery_limit)
    worker.start()
    assert await worker.answered(1) == {1: "+TERM"}
    [result] = worker.results()
    assert result.rows.failure.startswith("fit_timeout: ")


async def test_a_batch_that_ended_its_workers_is_halved_without_another_try(worker: Worker) -> None:
    worker.deliver(1, 2, n_delivered=LIMITS.delivery_limit + 1)
    worker.start()
    assert await worker.answered(1) == {1: "+ACK"}
    assert worker.reco.begun == []
    assert [part.batch.pixel.tolist() for part in worker.parts()] == [[1], [2]]


async def test_a_single_fit_that_ended_its_workers_is_given_up(worker: Worker) -> None:
    worker.deliver(5, part="0", n_delivered=LIMITS.delivery_limit + 1)
    worker.start()
    assert await worker.answered(1) == {1: "+TERM"}
    [result] = worker.results()
    assert result.rows.failure.startswith("too_many_deliveries: ")
    [letter] = worker.publisher.on(DEAD_LETTERS)
    assert letter.headers[ORIGINAL_MESSAGE_ID] == "s1/0/0"


async def test_the_last_chance_of_a_batch_is_its_own(worker: Worker) -> None:
    worker.reco.hold()
    worker.deliver(1)
    worker.start()
    await eventually(lambda: worker.reco.begun == [1])
    worker.deliver(2, number=1, n_delivered=LIMITS.delivery_limit)
    worker.deliver(3, number=2)
    # What waits behind it is somebody else's meanwhile.
    await eventually(lambda: worker.catalogue.kinds().get(3) == "-NAK")
    assert worker.catalogue.is_paused
    assert worker.reco.begun == [1]
    worker.reco.release()
    await worker.answered(3)
    assert worker.reco.begun == [1, 2]
    await eventually(lambda: not worker.catalogue.is_paused)


async def test_startup_data_that_are_gone_end_the_batch_as_a_whole(worker: Worker) -> None:
    worker.objects.stored.clear()
    worker.deliver(1, 2)
    worker.start()
    assert await worker.answered(1) == {1: "+TERM"}
    [result] = worker.results()
    assert result.rows.pixel.tolist() == [1, 2]
    assert result.rows.failure == "undecodable_message: there is no object startup"


async def test_startup_data_are_asked_for_again_after_a_failure(worker: Worker) -> None:
    worker.objects.failure = BrokerUnavailable("gone")
    worker.deliver(1)
    worker.start()
    assert await worker.answered(1) == {1: "-NAK"}
    worker.objects.failure = None
    worker.deliver(1, n_delivered=2)
    assert (await worker.answered(2))[2] == "+ACK"


async def test_undecodable_work_is_dead_lettered_and_terminated(worker: Worker) -> None:
    worker.catalogue.deliver(b"\xff", subject="icestream.scans.work.catalogue.s1")
    worker.start()
    assert await worker.answered(1) == {1: "+TERM"}
    [letter] = worker.publisher.published
    assert letter.headers[REASON] == "undecodable_message"


async def test_undecodable_work_stays_while_the_dead_letters_are_away(worker: Worker) -> None:
    worker.publisher.refusal = lambda *_: BrokerUnavailable("gone")
    worker.catalogue.deliver(b"\xff")
    worker.start()
    assert await worker.answered(1) == {1: "-NAK"}


async def test_a_sick_worker_quarantines_itself_and_tries_again(worker: Worker) -> None:
    worker.reco.failure = OSError("the disk is broken")
    for number in range(3):
        worker.deliver(number, number=number)
    worker.start()
    assert await worker.answered(3) == dict.fromkeys((1, 2, 3), "-NAK")
    await eventually(lambda: worker.metric("quarantined") == 1)
    assert worker.catalogue.is_paused
    assert worker.alerts.is_paused
    problem = worker.standing.problem()
    assert problem is not None
    assert "the disk is broken" in problem
    worker.reco.failure = None
    await eventually(lambda: not worker.catalogue.is_paused, timeout_s=3)
    assert worker.metric("quarantined") == 0
    worker.deliver(9, number=9)
    assert (await worker.answered(4))[4] == "+ACK"


async def test_what_waits_here_is_given_back_with_the_quarantine(worker: Worker) -> None:
    worker.reco.hold()
    worker.reco.failure = OSError("the disk is broken")
    worker.start()
    for number in range(4):
        worker.deliver(number, number=number)
    await eventually(lambda: len(worker.reco.begun) == 2)
    worker.reco.release()
    await worker.answered(4)
    assert set(worker.catalogue.kinds().values()) == {"-NAK"}
    assert len(worker.reco.begun) <= 4


async def test_a_worker_on_probation_goes_back_at_its_first_failure(worker: Worker) -> None:
    worker.reco.failure = OSError("the disk is broken")
    for number in range(3):
        worker.deliver(number, number=number)
    worker.start()
    await worker.answered(3)
    await eventually(lambda: worker.metric("quarantined") == 1)
    await eventually(lambda: worker.metric("quarantined") == 0, timeout_s=3)
    worker.deliver(9, number=9)
    await eventually(lambda: worker.metric("quarantined") == 1)


async def test_a_success_between_failures_means_that_the_worker_is_well(worker: Worker) -> None:
    worker.start()
    for number in range(6):
        worker.deliver(BROKEN if number % 2 == 0 else 1, number=number)
        await worker.answered(number + 1)
    assert worker.standing.problem() is None


async def test_one_batch_that_fails_again_and_again_says_nothing_about_the_worker() -> None:
    worker = Worker(ConsumerLimits(2, 10.0, delivery_limit=20))
    worker.start()
    for n_delivered in range(1, 6):
        worker.deliver(BROKEN, n_delivered=n_delivered)
        await worker.answered(n_delivered)
    assert worker.standing.problem() is None
    await put_away(worker)


async def test_the_broker_hears_of_every_batch_that_is_held_for_long() -> None:
    worker = Worker(ConsumerLimits(1, 10.0, delivery_limit=3), heartbeat_s=0.03)
    worker.reco.hold()
    worker.deliver(1)
    worker.deliver(2, number=1)
    worker.start()
    # The second one waits here, and is not forgotten either.
    await eventually(lambda: min(worker.catalogue.n_signs_of_life[each] for each in (1, 2)) >= 2)
    worker.reco.release()
    await worker.answered(2)
    n_signs = worker.catalogue.n_signs_of_life.copy()
    await asyncio.sleep(0.1)
    assert worker.catalogue.n_signs_of_life == n_signs
    await put_away(worker)


async def test_a_worker_that_stops_finishes_what_it_has_begun(worker: Worker) -> None:
    worker.reco.hold()
    for number in range(3):
        worker.deliver(number, number=number)
    worker.start()
    await eventually(lambda: len(worker.reco.begun) == 2)
    worker.ask_to_stop()
    await eventually(lambda: worker.catalogue.kinds() == {3: "-NAK"})
    worker.reco.release()
    await worker.stop()
    assert worker.catalogue.kinds() == {1: "+ACK", 2: "+ACK", 3: "-NAK"}


async def test_a_worker_that_stops_does_not_wait_for_a_long_fit() -> None:
    worker = Worker(ConsumerLimits(1, 60.0, delivery_limit=3))
    worker.deliver(ENDLESS)
    worker.start()
    await eventually(lambda: len(worker.reco.begun) == 1)
    async with asyncio.timeout(2):
        await worker.stop()
    assert worker.catalogue.kinds() == {1: "-NAK"}
    assert worker.publisher.published == []


async def test_a_worker_stops_at_once_in_quarantine() -> None:
    worker = Worker(quarantine_s=60.0, quarantine_after=1)
    worker.deliver(BROKEN)
    worker.start()
    await eventually(lambda: worker.metric("quarantined") == 1)
    async with asyncio.timeout(1):
        await worker.stop()


async def test_one_trace_leads_from_the_batch_to_the_model_and_to_the_result(worker: Worker) -> None:
    worker.deliver(1, traceparent=SAMPLED)
    worker.start()
    await worker.answered(1)
    spans = {span.name: span for span in worker.spans.get_finished_spans()}
    assert spans.keys() == {"scan.batch", "infer fit", "scan.result"}
    batch = spans["scan.batch"]
    assert batch.parent is not None
    assert f"{batch.parent.span_id:016x}" in SAMPLED
    for child in (spans["infer fit"], spans["scan.result"]):
        assert child.parent is not None
        assert child.parent.span_id == batch.context.span_id
    [call] = worker.model.calls
    assert [header[36:52] for header in call.traceparents] == [f"{spans['infer fit'].context.span_id:016x}"]
    [message] = worker.publisher.on(RESULTS)
    assert message.headers["traceparent"][36:52] == f"{spans['scan.result'].context.span_id:016x}"


async def test_halves_stay_in_the_trace_of_their_whole(worker: Worker) -> None:
    worker.deliver(1, POISON, traceparent=SAMPLED)
    worker.start()
    await worker.answered(1)
    [batch] = [span for span in worker.spans.get_finished_spans() if span.name == "scan.batch"]
    assert batch.attributes is not None
    assert batch.attributes["error.type"] == "model_failed"
    for half in worker.halves():
        assert f"{batch.context.span_id:016x}" in half.headers["traceparent"]


async def test_a_batch_that_is_not_sampled_costs_no_span(worker: Worker) -> None:
    worker.deliver(1)
    worker.start()
    await worker.answered(1)
    assert worker.spans.get_finished_spans() == ()
    assert [tuple(call.traceparents) for call in worker.model.calls] == [()]
