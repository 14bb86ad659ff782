"""The use case: events in, estimates out, with one model call for many events of similar length.

Padding costs as much as pulses do: sorting a window by length and sending batches of equal padded length
serves three times the events that padding everything to the longest does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np

from icestream.codec import decode_events
from icestream.errors import IceStreamError, InvalidEvent, ModelFailed, Violation
from icestream.physics.detector import Detector
from icestream.physics.events import Estimate, Event, ModelVersion, Reconstruction, Timings, check_event
from icestream.physics.features import (
    MAX_MODEL_PULSES,
    FeatureArray,
    feature_tables,
    pad_batch,
    pulse_features,
)
from icestream.ports import CallOptions, Model, ModelInput, ModelOutput

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedEvent:
    """An event that passed every check, as the model wants to see it."""

    event: Event
    features: FeatureArray
    traceparent: str | None = None
    """Trace context under which the model's work is recorded; None where the event is not sampled."""

    @classmethod
    def prepare(cls, event: Event, detectors: dict[str, Detector], traceparent: str | None = None) -> Self:
        """Check an event and select its pulses.

        Raises:
            InvalidEvent: It names every rule that the event breaks.
        """
        detector = detectors.get(event.detector)
        if detector is None:
            problem = f"{event.detector!r} is not known here; known: {', '.join(sorted(detectors))}"
            raise InvalidEvent(str(event.id), [Violation("detector", problem)])
        check_event(event, detector.n_sensors)
        return cls(event, pulse_features(event.pulses, detector), traceparent)

    @classmethod
    def prepare_all(
        cls,
        payloads: Sequence[bytes],
        detectors: dict[str, Detector],
        traceparents: Sequence[str | None],
    ) -> list[Self | None]:
        """Read, check and select for many messages together: a quarter of what it costs one by one.

        Returns:
            None for a message that needs a closer look, because something is wrong with it or its pulses are elsewhere.
        """
        decoded = decode_events(payloads)
        names = {event.detector for event in decoded.events if event is not None} & detectors.keys()
        found: list[Self | None] = [None] * len(payloads)
        for name in names:
            table, ends = feature_tables(decoded.pulses, decoded.ends, detectors[name])
            begin = 0
            for place, (event, end) in enumerate(zip(decoded.events, ends.tolist(), strict=True)):
                if end > begin and event is not None and event.detector == name:
                    found[place] = cls(event, table[begin:end], traceparents[place])
                begin = end
        return found

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits; empty where the event is not sampled."""
        # version-TRACE_ID-parent-flags. Source: W3C Trace Context, section 3.2.
        return self.traceparent.split("-")[1] if self.traceparent else ""


Answer = tuple[Estimate, ModelVersion] | IceStreamError
"""What came of one event: an estimate and whose it is, or the reason why there is none."""


def plan_batches(window: Sequence[T], n_rows: Callable[[T], int], max_batch: int) -> list[list[T]]:
    """Sort a window by number of rows and cut it into batches, the short ones first."""
    by_length = sorted(window, key=n_rows)
    return [by_length[first : first + max_batch] for first in range(0, len(by_length), max_batch)]


async def reconstruct(
    model: Model, name: str, batch: Sequence[PreparedEvent], options: CallOptions
) -> list[Answer]:
    """Ask the model about a batch; when it fails, find the events that it fails for.

    Returns:
        One answer for each event, in the same order.

    Raises:
        IceStreamError: The whole batch could not be tried: the model server is away, full or too slow.
    """
    try:
        output = await model.infer(name, _model_input(batch), _with_trace_contexts(options, batch))
    except ModelFailed as error:
        if len(batch) == 1:
            return [error]
        middle = len(batch) // 2
        # One after the other: a server that fails is not given twice the load.
        left = await reconstruct(model, name, batch[:middle], options)
        return left + await reconstruct(model, name, batch[middle:], options)
    return _answers(batch, output)


def to_reconstruction(
    prepared: PreparedEvent, estimate: Estimate, model: ModelVersion, timings: Timings
) -> Reconstruction:
    """What is handed out about one event."""
    event = prepared.event
    return Reconstruction(
        event_id=event.id,
        detector=event.detector,
        start_unix_ns=event.start_unix_ns,
        n_pulses=len(event.pulses),
        truth=event.truth,
        estimate=estimate,
        model=model,
        timings=timings,
        trace_id=prepared.trace_id,
    )


def _with_trace_contexts(options: CallOptions, batch: Sequence[PreparedEvent]) -> CallOptions:
    traceparents = tuple(prepared.traceparent for prepared in batch if prepared.traceparent is not None)
    return replace(options, traceparents=traceparents) if traceparents else options


def _model_input(batch: Sequence[PreparedEvent]) -> ModelInput:
    # Triton merges requests of one shape only. Its backend leaves out again what is padding in all of a run.
    is_single = len(batch) == 1
    length = MAX_MODEL_PULSES if is_single else max(len(prepared.features) for prepared in batch)
    return ModelInput(
        *pad_batch(
            [prepared.features for prepared in batch],
            [len(prepared.event.pulses) for prepared in batch],
            length,
        )
    )


def _answers(batch: Sequence[PreparedEvent], output: ModelOutput) -> list[Answer]:
    rows = np.concatenate([output.direction, output.kappa, output.error_radii_rad], axis=1)
    is_finite = np.isfinite(rows).all(axis=1).tolist()
    return [
        (_estimate(row, len(prepared.features)), output.model) if finite else _not_finite(output.model)
        for prepared, row, finite in zip(batch, rows.tolist(), is_finite, strict=True)
    ]


def _estimate(row: list[float], n_pulses_used: int) -> Estimate:
    x, y, z, kappa, radius50_rad, radius90_rad = row
    return Estimate((x, y, z), kappa, radius50_rad, radius90_rad, n_pulses_used)


def _not_finite(model: ModelVersion) -> ModelFailed:
    return ModelFailed(f"model {model.name} version {model.version} answered with NaN or infinity")
