import numpy as np
import pytest

from benchmarks.router_batches import (
    CUTS,
    ROUTER_WINDOW,
    SINGLY,
    Cut,
    cut_events,
    measure_cut,
    padding_share,
    run_shapes_once,
)
from benchmarks.triton_load import prepared_sample
from benchmarks.trivial_model import line_fit_model
from export.served import open_session
from icestream.ports import CallOptions
from services.router.reconstruction import PreparedEvent, plan_batches, reconstruct
from tests.support.fake_model import FakeModel


@pytest.fixture(scope="module")
def events() -> list[PreparedEvent]:
    return prepared_sample(40)


async def test_requests_are_those_that_the_router_sends(events: list[PreparedEvent]) -> None:
    model = FakeModel()
    for batch in [
        *plan_batches(events, lambda event: len(event.features), 8),
        *([event] for event in events),
    ]:
        await reconstruct(model, "direction", batch, CallOptions())
    [window] = cut_events(events, Cut(window=len(events), batch=8))
    singles = [single for [single] in cut_events(events, SINGLY)]
    for call, request in zip(model.calls, window + singles, strict=True):
        assert np.array_equal(call.batch.pulses, request.pulses)
        assert np.array_equal(call.batch.lengths, request.lengths)


def test_events_are_sorted_within_their_window_alone(events: list[PreparedEvent]) -> None:
    windows = cut_events(events, Cut(window=16, batch=4, length_step=1))
    assert [sum(len(request.lengths) for request in window) for window in windows] == [16, 16, 8]
    for number, window in enumerate(windows):
        longest = [request.pulses.shape[1] for request in window]
        assert longest == sorted(longest)
        assert longest[-1] == max(len(event.features) for event in events[16 * number :][:16])


def test_single_events_keep_their_order(events: list[PreparedEvent]) -> None:
    lengths = [request.lengths.tolist() for [request] in cut_events(events, SINGLY)]
    assert lengths == [[[len(event.event.pulses)]] for event in events]


def test_padding_is_what_holds_no_pulse(events: list[PreparedEvent]) -> None:
    [exact] = cut_events(events[:1], Cut(1, 1, length_step=1))
    assert padding_share(events[:1], exact) == 0.0
    n = len(events[0].features)
    [stepped] = cut_events(events[:1], Cut(1, 1, length_step=100))
    assert padding_share(events[:1], stepped) == pytest.approx(1 - n / 100)


def test_larger_batches_and_steps_pad_more(events: list[PreparedEvent]) -> None:
    def share(cut: Cut) -> float:
        [requests] = cut_events(events, cut)
        return padding_share(events, requests)

    assert share(Cut(40, 4, 1)) < share(Cut(40, 20, 1)) < share(Cut(40, 20, 64))


def test_a_cut_costs_time(events: list[PreparedEvent]) -> None:
    session, cut = open_session(line_fit_model().SerializeToString()), Cut(40, 8)
    run_shapes_once(session, events, [cut])
    cost = measure_cut(session, events, cut, 1)
    assert cost.cut == cut
    assert 0 <= cost.padding_share < 1
    assert cost.us_per_event > 0


def test_the_routers_own_cut_is_among_those_that_are_compared() -> None:
    assert {Cut(ROUTER_WINDOW, 8), Cut(ROUTER_WINDOW, 32)} <= {*CUTS}
    assert len({*CUTS}) == len(CUTS)
