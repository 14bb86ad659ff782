"""Handing in what came of a batch."""

from opentelemetry.trace import Tracer

from icestream.errors import IceStreamError
from icestream.physics.events import ModelVersion
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames
from icestream.runtime.message_spans import start_publish_span
from icestream.runtime.tracing import TRACEPARENT, end_span, parent_context, traceparent_of
from icestream.scan_codec import PixelResult, encode_result
from icestream.scans.pixels import PixelFits, TakenRows
from services.scanner.worker.arrival import Arrival


class ResultPublisher:
    """Puts results into the logs of their scans."""

    def __init__(
        self, publisher: WindowedPublisher, names: ScanNames, tracer: Tracer, *, worker: str
    ) -> None:
        self._publisher = publisher
        self._names = names
        self._tracer = tracer
        self._worker = worker

    async def publish_fits(self, arrival: Arrival, fits: PixelFits, models: tuple[ModelVersion, ...]) -> None:
        """Hand in the fits of a batch; returns once the broker has them.

        Raises:
            IceStreamError: The broker did not take them.
            ValueError: The reco's columns are not as long as the batch.
        """
        await self._publish(arrival, fits=fits, models=models)

    async def publish_failure(self, arrival: Arrival, failure: str) -> None:
        """Say that a batch will never have fits, and why; returns once the broker has it.

        Raises:
            IceStreamError: The broker did not take it.
        """
        await self._publish(arrival, failure=failure)

    async def _publish(
        self,
        arrival: Arrival,
        *,
        fits: PixelFits | None = None,
        failure: str = "",
        models: tuple[ModelVersion, ...] = (),
    ) -> None:
        work = arrival.work
        rows = TakenRows(
            number=work.batch.number,
            first_row=work.first_row,
            nside=work.batch.nside,
            pixel=work.batch.pixel,
            variation=work.batch.variation,
            fits=fits,
            failure=failure,
            started_unix_ns=arrival.stopwatch.started_unix_ns,
            worker_s=arrival.stopwatch.elapsed_s(),
        )
        result = PixelResult(work.scan_id, rows, self._worker, models)
        await self._store(arrival, encode_result(result))

    async def _store(self, arrival: Arrival, payload: bytes) -> None:
        subject = self._names.log(arrival.work.scan_id, LogEntry.RESULT)
        message_id, span, headers = arrival.work.message_id, None, {}
        if arrival.span is not None:
            parent = parent_context(traceparent_of(arrival.span))
            span = start_publish_span(self._tracer, parent, subject, message_id, name="scan.result")
            headers = {TRACEPARENT: traceparent_of(span)}
        try:
            await (await self._publisher.publish(subject, payload, message_id=message_id, headers=headers))
        except IceStreamError as error:
            end_span(span, error)
            raise
        end_span(span)
