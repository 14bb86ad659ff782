import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.codec import PulseReference, encode_detached_event, encode_event
from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    InvalidEvent,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    UnknownModel,
)
from icestream.physics.detector import Detector
from icestream.physics.events import MAX_PULSES, Event, ModelVersion, Timings, Truth
from icestream.physics.features import MAX_MODEL_PULSES
from icestream.ports import CallOptions, ModelInput, ModelOutput
from icestream.v1 import event_pb2
from services.router.reconstruction import (
    Answer,
    PreparedEvent,
    plan_batches,
    reconstruct,
    to_reconstruction,
)
from tests.support.fake_model import FakeModel, mean_directions
from tests.unit.router.router_cases import (
    DETECTORS,
    SAMPLED,
    TOY,
    make_event,
    nan_event,
    poison_event,
    prepare,
)


async def ask(model: FakeModel, *events: Event, options: CallOptions | None = None) -> list[Answer]:
    return await reconstruct(
        model, "direction", [prepare(event) for event in events], options or CallOptions()
    )


def assert_answers(answer: Answer, event: Event) -> None:
    """It points to the mean of the hit modules: every charge is 1."""
    assert not isinstance(answer, IceStreamError)
    features = np.ones((1, len(event.pulses), 6), np.float32)
    features[0, :, :3] = TOY.positions_m[event.pulses.sensor_id]
    np.testing.assert_allclose(answer[0].direction, mean_directions(features)[0], atol=1e-5)


@given(st.lists(st.integers(1, 128), max_size=60), st.integers(1, 16))
def test_every_event_is_in_exactly_one_batch(lengths: list[int], max_batch: int) -> None:
    window = list(enumerate(lengths))
    batches = plan_batches(window, lambda event: event[1], max_batch)
    assert sorted(event for batch in batches for event in batch) == window
    assert all(1 <= len(batch) <= max_batch for batch in batches)


@given(st.lists(st.integers(1, 128), max_size=60), st.integers(1, 16))
def test_batches_hold_events_of_similar_length_in_as_few_requests_as_possible(
    lengths: list[int], max_batch: int
) -> None:
    batches = plan_batches(lengths, lambda n: n, max_batch)
    assert len(batches) == -(-len(lengths) // max_batch)
    assert [n for batch in batches for n in batch] == sorted(lengths)


@pytest.mark.parametrize("n_pulses", [1, 17, 96, 500])
async def test_single_events_have_one_length_so_that_the_server_can_merge_them(n_pulses: int) -> None:
    model = FakeModel()
    await ask(model, make_event(n_pulses=n_pulses))
    [call] = model.calls
    assert call.batch.pulses.shape == (1, MAX_MODEL_PULSES, 6)
    assert call.batch.lengths.tolist() == [[n_pulses]]


@pytest.mark.parametrize(("longest", "length"), [(20, 20), (200, MAX_MODEL_PULSES)])
async def test_a_batch_is_padded_to_its_longest_event(longest: int, length: int) -> None:
    model = FakeModel()
    n_pulses = [3, 7, longest]
    await ask(model, *(make_event(number, n_pulses=n) for number, n in enumerate(n_pulses)))
    [call] = model.calls
    assert call.batch.pulses.shape == (3, length, 6)
    assert call.batch.lengths.tolist() == [[n] for n in n_pulses]


async def test_each_event_gets_its_own_answer() -> None:
    events = [make_event(i, n_pulses=i) for i in (5, 40, 1, 17)]
    answers = await ask(FakeModel(), *events)
    for event, answer in zip(events, answers, strict=True):
        assert_answers(answer, event)
        assert not isinstance(answer, IceStreamError)
        estimate, model = answer
        assert estimate.kappa == len(event.pulses)
        assert (estimate.radius50_rad, estimate.radius90_rad) == pytest.approx((0.1, 0.2))
        assert estimate.n_pulses_used == len(event.pulses)
        assert model == ModelVersion("direction", "1")


async def test_a_long_event_says_how_many_pulses_were_used() -> None:
    [answer] = await ask(FakeModel(), make_event(n_pulses=500))
    assert not isinstance(answer, IceStreamError)
    assert answer[0].n_pulses_used == MAX_MODEL_PULSES


@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_a_failing_batch_is_bisected_to_exactly_its_poison_events(case: tuple[int, set[int]]) -> None:
    n, poison = case
    events = [poison_event(i) if i in poison else make_event(i) for i in range(n)]
    model = FakeModel()
    answers = asyncio.run(ask(model, *events))
    for i, (event, answer) in enumerate(zip(events, answers, strict=True)):
        if i in poison:
            assert isinstance(answer, ModelFailed)
        else:
            assert_answers(answer, event)
    # Each poison event costs at most its way down a binary tree.
    assert len(model.calls) <= 1 + 2 * len(poison) * n.bit_length()


async def test_an_answer_of_nan_fails_that_event_alone() -> None:
    model = FakeModel()
    first, second, third = await ask(model, make_event(1), nan_event(2), make_event(3))
    assert isinstance(second, ModelFailed)
    assert "model direction version 1 answered with NaN" in str(second)
    assert not isinstance(first, IceStreamError)
    assert not isinstance(third, IceStreamError)
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    "failure",
    [
        ModelUnavailable("gone"),
        ModelOverloaded("queue is full"),
        DeadlineExceeded("too slow"),
        UnknownModel("direction", []),
    ],
)
async def test_what_is_not_an_events_fault_fails_the_whole_batch(failure: IceStreamError) -> None:
    model = FakeModel()
    model.failure = failure
    with pytest.raises(type(failure)):
        await ask(model, make_event(1), make_event(2))
    assert len(model.calls) == 1


async def test_a_server_that_goes_away_while_bisecting_fails_the_whole_batch() -> None:
    class Dying(FakeModel):
        async def infer(self, model: str, batch: ModelInput, options: CallOptions) -> ModelOutput:
            self.failure = ModelUnavailable("gone") if self.calls else None
            return await super().infer(model, batch, options)

    with pytest.raises(ModelUnavailable):
        await ask(Dying(), make_event(1), poison_event(2))


async def test_only_sampled_events_bring_their_trace_to_the_model() -> None:
    model = FakeModel()
    batch = [prepare(make_event(1)), prepare(make_event(2), SAMPLED), prepare(make_event(3))]
    await reconstruct(model, "direction", batch, CallOptions(timeout_s=3.0))
    assert model.calls[0].options == CallOptions(timeout_s=3.0, traceparents=(SAMPLED,))


async def test_a_bisected_half_brings_only_its_own_traces() -> None:
    model = FakeModel()
    batch = [prepare(make_event(1), SAMPLED), prepare(poison_event(2))]
    await reconstruct(model, "direction", batch, CallOptions())
    assert [call.options.traceparents for call in model.calls] == [(SAMPLED,), (SAMPLED,), ()]


def violations_of(event: Event) -> list[str]:
    with pytest.raises(InvalidEvent) as refused:
        PreparedEvent.prepare(event, DETECTORS)
    assert refused.value.event_id == str(event.id)
    return [str(violation) for violation in refused.value.violations]


def test_an_unknown_detector_is_refused_with_the_known_ones() -> None:
    assert violations_of(make_event(detector="antares")) == [
        "detector: 'antares' is not known here; known: toy"
    ]


def test_an_event_without_pulses_is_refused() -> None:
    assert violations_of(make_event(n_pulses=0)) == ["pulses: the event has no pulses; at least 1 is needed"]


def test_a_flood_of_pulses_is_refused() -> None:
    n = MAX_PULSES + 1
    assert violations_of(make_event(n_pulses=n)) == [f"pulses: {n} pulses; at most {MAX_PULSES} are accepted"]


def test_an_unknown_sensor_is_refused() -> None:
    [violation] = violations_of(make_event(sensor_id=[0, 60, 1]))
    assert violation == "pulses.sensor_id: sensor 60 is not in detector 'toy', whose ids are 0..59"


@pytest.mark.parametrize("time_ns", [float("nan"), float("inf"), -float("inf")])
def test_a_time_that_is_no_time_is_refused(time_ns: float) -> None:
    [violation] = violations_of(make_event(time_ns=[0.0, time_ns, 1.0]))
    assert violation.startswith("pulses.time_ns: ")


@pytest.mark.parametrize("charge_pe", [-0.1, float("nan"), float("inf"), -float("inf")])
def test_a_charge_that_is_no_charge_is_refused(charge_pe: float) -> None:
    [violation] = violations_of(make_event(charge_pe=[1.0, charge_pe, 2.0]))
    assert violation.startswith("pulses.charge_pe: ")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = make_event(sensor_id=[0, 60, 1], time_ns=[0, float("nan"), 1], charge_pe=[1, -1, 1])
    fields = [violation.partition(":")[0] for violation in violations_of(wrong)]
    assert fields == ["pulses.sensor_id", "pulses.time_ns", "pulses.charge_pe"]


async def test_a_reconstruction_repeats_what_it_is_about() -> None:
    truth = Truth(1.0, 2.0)
    prepared = prepare(make_event(7, n_pulses=200, truth=truth), SAMPLED)
    [answer] = await reconstruct(FakeModel(), "direction", [prepared], CallOptions())
    assert not isinstance(answer, IceStreamError)
    timings = Timings(1, 2, 3)
    row = to_reconstruction(prepared, *answer, timings)
    assert (row.event_id, row.detector, row.start_unix_ns) == (prepared.event.id, "toy", 1_000)
    assert (row.n_pulses, row.estimate.n_pulses_used) == (200, MAX_MODEL_PULSES)
    assert (row.truth, row.timings) == (truth, timings)
    assert row.trace_id == SAMPLED.split("-")[1]


async def test_an_event_that_is_not_traced_has_no_trace_id() -> None:
    prepared = prepare(make_event())
    [answer] = await reconstruct(FakeModel(), "direction", [prepared], CallOptions())
    assert not isinstance(answer, IceStreamError)
    assert to_reconstruction(prepared, *answer, Timings(0, 0, 0)).trace_id == ""


def test_messages_that_are_prepared_together_give_what_each_gives_alone() -> None:
    truth = Truth(1.0, 2.0, 3e4)
    events = [make_event(1, n_pulses=3), make_event(2, n_pulses=300, truth=truth), make_event(3, n_pulses=1)]
    contexts = [None, SAMPLED, None]
    together = PreparedEvent.prepare_all([encode_event(event) for event in events], DETECTORS, contexts)

    for event, context, found in zip(events, contexts, together, strict=True):
        alone = prepare(event, context)
        assert found is not None
        np.testing.assert_array_equal(found.features, alone.features)
        assert (found.event.id, found.event.truth) == (event.id, event.truth)
        assert (len(found.event.pulses), found.traceparent) == (len(event.pulses), context)


def test_messages_that_need_a_closer_look_are_left_out_and_spoil_no_other() -> None:
    big = Detector("big", np.zeros((5160, 3)), np.ones(5160))
    payloads = {
        "sound": encode_event(make_event(1)),
        "junk": b"\xff\xff",
        "of another detector": encode_event(make_event(2, detector="big", sensor_id=[5000, 1, 2])),
        "sensor that this detector lacks": encode_event(make_event(3, sensor_id=[5000, 1, 2])),
        "unknown detector": encode_event(make_event(4, detector="other")),
        "columns that do not fit": event_pb2.Event(
            detector="toy", pulses={"flags": b"\1"}
        ).SerializeToString(),
        "pulses elsewhere": encode_detached_event(make_event(5), PulseReference("bucket", "00", 10)),
        "without pulses": encode_event(make_event(6, n_pulses=0)),
        "sound too": encode_event(make_event(7)),
    }
    found = PreparedEvent.prepare_all([*payloads.values()], {**DETECTORS, "big": big}, [None] * len(payloads))

    ready = {what for what, prepared in zip(payloads, found, strict=True) if prepared is not None}
    assert ready == {"sound", "of another detector", "sound too"}
    assert found[-1] is not None
    np.testing.assert_array_equal(found[-1].features, prepare(make_event(7)).features)
