"""The gRPC face of the recorder."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from opentelemetry.trace import SpanKind, Tracer

from icestream.errors import IceStreamError
from icestream.runtime.grpc_status import Context, abort, traceparent_of_call
from icestream.runtime.tracing import end_span, parent_context
from icestream.v1 import event_pb2, record_pb2, record_pb2_grpc, scan_pb2
from services.recorder.metrics import RecorderMetrics
from services.recorder.questions import Quality, Questions
from services.recorder.reconstruction_rows import recorded_reconstructions
from services.recorder.requests import checked_name, page_of, page_token, selection_of

_SERVICE = "icestream.v1.RecordService"


class RecordService(record_pb2_grpc.RecordServiceServicer):
    """See protos/icestream/v1/record.proto."""

    def __init__(self, questions: Questions, metrics: RecorderMetrics, tracer: Tracer) -> None:
        self._questions = questions
        self._metrics = metrics
        self._tracer = tracer

    async def GetReconstruction(  # noqa: N802 - the name of the rpc
        self, request: record_pb2.GetReconstructionRequest, context: Context
    ) -> record_pb2.GetReconstructionResponse:
        """Return what is recorded of one event."""
        async with self._call("GetReconstruction", context):
            rows = await self._questions.get(checked_name(request), request.event_id, request.sub_event)
            return record_pb2.GetReconstructionResponse(reconstructions=recorded_reconstructions(rows))

    async def ListReconstructions(  # noqa: N802
        self, request: record_pb2.ListReconstructionsRequest, context: Context
    ) -> record_pb2.ListReconstructionsResponse:
        """List reconstructions, the latest events first."""
        async with self._call("ListReconstructions", context):
            rows, last = await self._questions.page(selection_of(request.filter), page_of(request))
            return record_pb2.ListReconstructionsResponse(
                reconstructions=recorded_reconstructions(rows),
                next_page_token=page_token(last, request.filter) if last else "",
            )

    async def Stats(  # noqa: N802
        self, request: record_pb2.StatsRequest, context: Context
    ) -> record_pb2.StatsResponse:
        """Count, and say how good the models are."""
        async with self._call("Stats", context):
            found = await self._questions.statistics(selection_of(request.filter))
            return record_pb2.StatsResponse(
                n_reconstructions=sum(quality.n_reconstructions for quality in found.qualities),
                recorded_per_s=found.recorded_per_s,
                models=map(_quality_message, found.qualities),
                dead_letters=[
                    record_pb2.DeadLetterCount(service=service, reason=reason, n_letters=n)
                    for service, reason, n in found.dead_letters
                ],
                scans=[
                    record_pb2.ScanCount(reco=reco, state=cast("scan_pb2.ScanState", state), n_scans=n)
                    for reco, state, n in found.scans
                ],
            )

    @asynccontextmanager
    async def _call(self, rpc: str, context: Context) -> AsyncIterator[None]:
        """Trace and measure a call, and end it with a status where it fails as expected."""
        span = self._tracer.start_span(
            f"{_SERVICE}/{rpc}",
            context=parent_context(traceparent_of_call(context)),
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": f"{_SERVICE}/{rpc}"},
        )
        started_s = time.perf_counter()
        try:
            yield
        except IceStreamError as error:
            end_span(span, error)
            self._metrics.request_failures.labels(rpc, error.reason).inc()
            await abort(context, error)
        except BaseException as error:
            end_span(span, error)
            raise
        end_span(span)
        self._metrics.request_s.labels(rpc).observe(time.perf_counter() - started_s)


def _quality_message(quality: Quality) -> record_pb2.ModelQuality:
    return record_pb2.ModelQuality(
        model=quality.model,
        model_version=quality.model_version,
        kind=cast("event_pb2.EventKind", quality.kind),
        n_reconstructions=quality.n_reconstructions,
        n_with_truth=quality.n_with_truth,
        median_opening_angle_rad=quality.median_opening_angle_rad,
    )
