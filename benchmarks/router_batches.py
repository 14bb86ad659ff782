"""How the router's windows, batches and padded lengths decide what an event costs the model.

Padding costs as much as pulses do: a window of events is sorted by length and cut into batches, and each batch is
padded to its longest event.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import onnxruntime

from icestream.physics.features import MAX_MODEL_PULSES, pad_batch
from icestream.ports import ModelInput
from services.router.reconstruction import PreparedEvent, plan_batches
from services.router.settings import RouterSettings

ROUTER_WINDOW: int = RouterSettings.model_fields["window"].default
ROUTER_BATCH: int = RouterSettings.model_fields["batch"].default

_WINDOWS = sorted({64, 256, 1024, ROUTER_WINDOW})
_BATCHES = (4, 8, 16, 32)
_OTHER_STEPS = (4, 8, 16)
_BATCHES_OF_OTHER_STEPS = (8, 32)


@dataclass(frozen=True, slots=True)
class Cut:
    """How events are cut into requests."""

    window: int
    """Events that are sorted by length together."""
    batch: int
    """Events in a request."""
    length_step: int = 1
    """Padded lengths are multiples of this; the router pads a batch to its longest event and no further."""


PARTS = 3
"""Of a cut's requests, one is timed at a turn. As windows hold powers of two, each has short events and long ones."""

SINGLY = Cut(window=1, batch=1, length_step=MAX_MODEL_PULSES)
"""As the gRPC face of the router sends them."""

CUTS = (
    *(Cut(window, batch) for window in _WINDOWS for batch in _BATCHES),
    *(Cut(ROUTER_WINDOW, batch, step) for step in _OTHER_STEPS for batch in _BATCHES_OF_OTHER_STEPS),
)


@dataclass(frozen=True, slots=True)
class CutCost:
    """What one round of a cut's batches took."""

    cut: Cut
    padding_share: float
    """Of all rows that the model was given."""
    us_per_event: float
    """Processor time of onnxruntime with one thread."""


def cut_events(events: Sequence[PreparedEvent], cut: Cut) -> list[list[ModelInput]]:
    """The requests that a router makes of events, window by window, the short events of a window first."""
    windows = [events[first : first + cut.window] for first in range(0, len(events), cut.window)]
    return [
        [
            _model_input(batch, cut.length_step)
            for batch in plan_batches(window, lambda event: len(event.features), cut.batch)
        ]
        for window in windows
    ]


def padding_share(events: Sequence[PreparedEvent], requests: Sequence[ModelInput]) -> float:
    """Share of rows that hold no pulse."""
    n_rows = sum(request.pulses[..., 0].size for request in requests)
    return 1 - sum(len(event.features) for event in events) / n_rows


def run_shapes_once(
    session: onnxruntime.InferenceSession, events: Sequence[PreparedEvent], cuts: Sequence[Cut]
) -> None:
    """Let onnxruntime meet every shape before anything counts: the first run of a shape allocates."""
    of_shape = {
        request.pulses.shape: request
        for cut in cuts
        for window in cut_events(events, cut)
        for request in window
    }
    for request in of_shape.values():
        _run(session, request)


def measure_cut(
    session: onnxruntime.InferenceSession, events: Sequence[PreparedEvent], cut: Cut, part: int
) -> CutCost:
    """Let the model answer, on one core, for a part of the requests that a router makes of events.

    Args:
        session: Of one thread.
        events: In the order in which they came.
        cut: The router's settings.
        part: Its number; 0 to `PARTS` - 1.
    """
    requests = [request for window in cut_events(events, cut) for request in window]
    timed = requests[part::PARTS]
    # Processor time: another program on the core must not make a cut look slow.
    started_s = time.process_time()
    for request in timed:
        _run(session, request)
    seconds = time.process_time() - started_s
    n_events = sum(len(request.lengths) for request in timed)
    return CutCost(cut, padding_share(events, requests), 1e6 * seconds / n_events)


def _run(session: onnxruntime.InferenceSession, request: ModelInput) -> None:
    session.run(None, {"pulses": request.pulses, "lengths": request.lengths})


def _model_input(batch: Sequence[PreparedEvent], length_step: int) -> ModelInput:
    longest = max(len(event.features) for event in batch)
    return ModelInput(
        *pad_batch(
            [event.features for event in batch],
            [len(event.event.pulses) for event in batch],
            -(-longest // length_step) * length_step,
        )
    )
