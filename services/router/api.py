"""The gRPC face of the router: one event, or a stream of events, reconstructed on request."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias

from opentelemetry.trace import SpanKind, Tracer

from icestream.codec import DetachedEvent, event_from_message, reconstruction_to_message
from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    InvalidEvent,
    TooManyRequests,
    Violation,
)
from icestream.physics.detector import Detector
from icestream.physics.events import Event, Timings
from icestream.ports import CallOptions, Model
from icestream.runtime.grpc_status import Context, abort, retry_delay, traceparent_of_call
from icestream.runtime.tracing import end_span, parent_context, traceparent_of
from icestream.v1 import event_pb2, reconstruction_pb2, reconstruction_pb2_grpc
from services.router.metrics import RouterMetrics
from services.router.reconstruction import PreparedEvent, reconstruct, to_reconstruction

_EVENTS_PER_STREAM = 32

_Answers: TypeAlias = "asyncio.Queue[asyncio.Task[reconstruction_pb2.ReconstructStreamResponse] | None]"


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """How much the service does at once and how long it tries."""

    concurrency: int
    model_timeout_s: float


class ReconstructionService(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """See protos/icestream/v1/reconstruction.proto."""

    def __init__(
        self,
        *,
        model: Model,
        default_model: str,
        detectors: dict[str, Detector],
        limits: ApiLimits,
        metrics: RouterMetrics,
        tracer: Tracer,
    ) -> None:
        self._model = model
        self._default_model = default_model
        self._detectors = detectors
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._places = asyncio.Semaphore(limits.concurrency)
        # Streams wait for a place instead of being refused, and leave the unary calls theirs.
        self._stream_places = asyncio.Semaphore(limits.concurrency)
        self.n_in_work = 0

    async def Reconstruct(  # noqa: N802 - the name of the rpc
        self, request: reconstruction_pb2.ReconstructRequest, context: Context
    ) -> reconstruction_pb2.ReconstructResponse:
        """Reconstruct one event."""
        try:
            if self._places.locked():
                # Refusing at once keeps memory bounded and tells the caller to slow down.
                raise TooManyRequests(f"{self._limits.concurrency} requests are in work; send fewer at once")
            async with self._places:
                reconstruction = await self._answer(
                    request.event,
                    request.model,
                    "Reconstruct",
                    traceparent_of_call(context),
                    context.time_remaining(),
                )
        except IceStreamError as error:
            self._metrics.failures.labels("grpc", error.reason).inc()
            await abort(context, error)
        return reconstruction_pb2.ReconstructResponse(reconstruction=reconstruction)

    async def ReconstructStream(  # noqa: N802 - the name of the rpc
        self,
        requests: AsyncIterator[reconstruction_pb2.ReconstructStreamRequest],
        context: Context,
    ) -> None:
        """Reconstruct events as they come; answers leave in the order of their requests.

        A bounded number is in work: a client that sends faster is held back by HTTP/2 flow control.
        """
        answers: _Answers = asyncio.Queue(_EVENTS_PER_STREAM)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_stream(requests, context, answers, group))
            while (answer := await answers.get()) is not None:
                await context.write(await answer)

    async def _read_stream(
        self,
        requests: AsyncIterator[reconstruction_pb2.ReconstructStreamRequest],
        context: Context,
        answers: "_Answers",
        group: asyncio.TaskGroup,
    ) -> None:
        traceparent = traceparent_of_call(context)
        async for request in requests:
            await answers.put(group.create_task(self._stream_answer(request, traceparent, context)))
        await answers.put(None)

    async def _stream_answer(
        self,
        request: reconstruction_pb2.ReconstructStreamRequest,
        traceparent: str | None,
        context: Context,
    ) -> reconstruction_pb2.ReconstructStreamResponse:
        event = request.event
        event_id = f"{event.run_id}.{event.event_id}.{event.sub_event}"
        try:
            async with self._stream_places:
                reconstruction = await self._answer(
                    event, request.model, "ReconstructStream", traceparent, context.time_remaining()
                )
        except IceStreamError as error:
            self._metrics.failures.labels("grpc", error.reason).inc()
            return reconstruction_pb2.ReconstructStreamResponse(event_id=event_id, failure=_failure(error))
        return reconstruction_pb2.ReconstructStreamResponse(event_id=event_id, reconstruction=reconstruction)

    async def _answer(
        self,
        message: event_pb2.Event,
        model: str,
        method: str,
        traceparent: str | None,
        time_remaining_s: float | None,
    ) -> reconstruction_pb2.Reconstruction:
        """Reconstruct one event under a span of its own, if the caller or the sampler wants one."""
        self._metrics.events["grpc"].inc()
        self._metrics.received_bytes["grpc"].inc(message.ByteSize())
        span = self._tracer.start_span(
            f"icestream.v1.ReconstructionService/{method}",
            context=parent_context(traceparent),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": f"icestream.v1.ReconstructionService/{method}",
            },
        )
        started_s = time.perf_counter()
        own_traceparent = traceparent_of(span) if span.is_recording() else None
        self.n_in_work += 1
        try:
            reconstruction = await self._reconstruct(
                message, model or self._default_model, own_traceparent, time_remaining_s
            )
        except IceStreamError as error:
            end_span(span, error)
            raise
        finally:
            self.n_in_work -= 1
        end_span(span)
        self._metrics.reconstructions["grpc"].inc()
        self._metrics.request_s.observe(time.perf_counter() - started_s)
        return reconstruction

    async def _reconstruct(
        self,
        message: event_pb2.Event,
        model: str,
        traceparent: str | None,
        time_remaining_s: float | None,
    ) -> reconstruction_pb2.Reconstruction:
        received_unix_ns = time.time_ns()
        prepared = PreparedEvent.prepare(_inline_event(message), self._detectors, traceparent)
        options = CallOptions(is_urgent=True, timeout_s=self._timeout_s(time_remaining_s))
        [answer] = await reconstruct(self._model, model, [prepared], options)
        if isinstance(answer, IceStreamError):
            raise answer
        estimate, version = answer
        timings = Timings(0, received_unix_ns, time.time_ns())
        return reconstruction_to_message(to_reconstruction(prepared, estimate, version, timings))

    def _timeout_s(self, time_remaining_s: float | None) -> float:
        if time_remaining_s is None:
            return self._limits.model_timeout_s
        if time_remaining_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the event was looked at")
        return min(time_remaining_s, self._limits.model_timeout_s)


def _inline_event(message: event_pb2.Event) -> Event:
    event = event_from_message(message)
    if isinstance(event, DetachedEvent):
        problem = "pulses must be inline in a request; publish the event on NATS to use the object store"
        raise InvalidEvent(str(event.event.id), [Violation("pulse_reference", problem)])
    return event


def _failure(error: IceStreamError) -> reconstruction_pb2.Failure:
    violations = error.violations if isinstance(error, InvalidEvent) else ()
    return reconstruction_pb2.Failure(
        reason=error.reason,
        message=str(error),
        violations=[
            reconstruction_pb2.FieldViolation(field=v.field, description=v.problem) for v in violations
        ],
        retry_after=retry_delay(error),
    )
