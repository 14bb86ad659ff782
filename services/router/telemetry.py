"""Spans and measurements around the router's work; nothing here decides anything."""

import time
from dataclasses import replace

from opentelemetry.trace import Tracer

from icestream.errors import IceStreamError
from icestream.ports import CallOptions, Model, ModelInput, ModelOutput
from icestream.runtime.model_spans import end_spans, start_infer_spans
from icestream.runtime.tracing import traceparent_of
from services.router.metrics import RouterMetrics


class ObservedModel:
    """A model whose calls are measured and, for sampled events, traced.

    Each sampled event of a batch gets a span of the call in its own trace; links lead to the others'.
    """

    def __init__(self, model: Model, metrics: RouterMetrics, tracer: Tracer) -> None:
        self._model = model
        self._metrics = metrics
        self._tracer = tracer

    async def infer(self, model: str, batch: ModelInput, options: CallOptions) -> ModelOutput:
        """See `icestream.ports.Model`."""
        n_events = len(batch.pulses)
        spans = start_infer_spans(
            self._tracer, model, options.traceparents, {"icestream.batch.events": n_events}
        )
        if spans:
            options = replace(options, traceparents=[traceparent_of(span) for span in spans])
        started_s = time.perf_counter()
        try:
            output = await self._model.infer(model, batch, options)
        except IceStreamError as error:
            end_spans(spans, error)
            raise
        self._metrics.infer_s.observe(time.perf_counter() - started_s)
        self._metrics.batch_events.observe(n_events)
        end_spans(spans)
        return output
