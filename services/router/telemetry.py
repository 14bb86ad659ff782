"""Spans and measurements around the router's work; nothing here decides anything."""

import time
from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.trace import Span, SpanKind, Tracer

from icestream.errors import IceStreamError
from icestream.ports import CallOptions, Model, ModelInput, ModelOutput
from icestream.runtime.tracing import end_span, links_to, parent_context, traceparent_of
from services.router.metrics import RouterMetrics


class ObservedModel:
    """A model whose calls are measured and, for sampled events, traced.

    Each sampled event of a batch gets a span of the call in its own trace, linked to the others'.
    """

    def __init__(self, model: Model, metrics: RouterMetrics, tracer: Tracer) -> None:
        self._model = model
        self._metrics = metrics
        self._tracer = tracer

    async def infer(self, model: str, batch: ModelInput, options: CallOptions) -> ModelOutput:
        """See `icestream.ports.Model`."""
        n_events = len(batch.pulses)
        spans = self._start_spans(model, n_events, options.traceparents)
        if spans:
            options = replace(options, traceparents=[traceparent_of(span) for span in spans])
        started_s = time.perf_counter()
        try:
            output = await self._model.infer(model, batch, options)
        except IceStreamError as error:
            _end_all(spans, error)
            raise
        self._metrics.infer_s.observe(time.perf_counter() - started_s)
        self._metrics.batch_events.observe(n_events)
        _end_all(spans)
        return output

    def _start_spans(self, model: str, n_events: int, traceparents: Sequence[str]) -> list[Span]:
        attributes: dict[str, str | int] = {
            "rpc.system.name": "grpc",
            "rpc.method": "inference.GRPCInferenceService/ModelInfer",
            "icestream.model": model,
            "icestream.batch.events": n_events,
        }
        return [
            self._tracer.start_span(
                f"infer {model}",
                context=parent_context(traceparent),
                kind=SpanKind.CLIENT,
                links=links_to([other for other in traceparents if other != traceparent]),
                attributes=attributes,
            )
            for traceparent in traceparents
        ]


def _end_all(spans: Sequence[Span], error: IceStreamError | None = None) -> None:
    for span in spans:
        end_span(span, error)
