"""Spans and measurements around the requests that a batch makes; nothing here decides anything."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from opentelemetry.trace import Tracer

from icestream.physics.events import ModelVersion
from icestream.ports import Answer, CallOptions, TensorModel
from icestream.runtime.model_spans import end_spans, start_infer_spans
from icestream.runtime.tracing import traceparent_of
from services.scanner.worker.metrics import ScanWorkerMetrics


class ObservedModel:
    """The model as one batch sees it; remembers who answered."""

    def __init__(
        self, model: TensorModel, metrics: ScanWorkerMetrics, tracer: Tracer, *, n_fits: int
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._tracer = tracer
        self._attributes = {"icestream.batch.fits": n_fits}
        self._answered: dict[ModelVersion, None] = {}

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        """The models that answered, in the order of their first answers."""
        return tuple(self._answered)

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, NDArray[Any]], options: CallOptions
    ) -> Answer:
        """See `icestream.ports.TensorModel`."""
        spans = start_infer_spans(self._tracer, model, options.traceparents, self._attributes)
        if spans:
            options = replace(options, traceparents=[traceparent_of(span) for span in spans])
        started_s = time.perf_counter()
        try:
            answer = await self._model.infer_tensors(model, inputs, options)
        except BaseException as error:
            # Cancelled, too: the batch's time was up.
            end_spans(spans, error)
            raise
        self._metrics.infer_s.observe(time.perf_counter() - started_s)
        end_spans(spans)
        self._answered[answer.model] = None
        return answer
