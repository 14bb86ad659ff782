"""One scan as its log tells it."""

import asyncio
from functools import partial
from importlib.metadata import version

from icestream.physics import celestial
from icestream.runtime.jetstream.scan_topology import Lane
from icestream.runtime.tracing import is_sampled, span_context
from icestream.scan_codec import decode_result
from icestream.scan_messages import best_message, header_message, progress_message
from icestream.scans.pixels import FloatArray, PixelBatch
from icestream.scans.request import ALERT_PRIORITY, Frame, ScanRequest
from icestream.scans.skymap import Skymap
from icestream.scans.state import Outcome, ScanState, ToDetector
from icestream.v1 import scan_pb2


class ScanRecord:
    """A fold over the entries of a scan's log.

    Attributes:
        request: What was accepted.
        request_sha256: Of the call that asked for it.
        traceparent: Under which everything about this scan is traced; None where it is not.
        is_begun: Whether its first level was planned.
        ended_unix_ns: When the entry was stored that ended it; 0 before.
        final: What the entry `ended` says; None before.
        revision: Sequence in the log of the last entry that counts.
        n_changes: Grows with everything that a watcher should see.
    """

    def __init__(
        self,
        request: ScanRequest,
        *,
        hypotheses: tuple[str, ...],
        request_sha256: str,
        traceparent: str | None,
    ) -> None:
        self.request = request
        self.request_sha256 = request_sha256
        self.traceparent = traceparent if is_sampled(traceparent) else None
        self.is_begun = False
        self.ended_unix_ns = 0
        self.final: scan_pb2.Scan | None = None
        self.revision = 0
        self.n_changes = 0
        self._state: ScanState | None = None
        self._hypotheses = hypotheses
        self._models: set[str] = set()
        self._changed = asyncio.Event()
        self.header = header_message(request, trace_id=_trace_id(self.traceparent))

    @property
    def scan_id(self) -> str:
        """Of the scan."""
        return self.request.scan_id

    @property
    def state(self) -> ScanState:
        """Its pixels; made when it is asked for, because of most scans nothing but the end is ever asked for."""
        if self._state is None:
            self._state = ScanState(self.request, to_detector_of(self.request))
        return self._state

    @property
    def lane(self) -> Lane:
        """Where its work waits."""
        return Lane.ALERT if self.request.options.priority >= ALERT_PRIORITY else Lane.CATALOGUE

    @property
    def scan_state(self) -> "scan_pb2.ScanState":
        """What it is doing; it ends when the log says so, not before."""
        if self.final is not None:
            return self.final.state
        return scan_pb2.SCAN_STATE_RUNNING if self.is_begun else scan_pb2.SCAN_STATE_QUEUED

    def begin(self) -> list[PixelBatch]:
        """Plan the first level."""
        self.is_begun = True
        self._tell()
        return self.state.begin()

    def take(self, payload: bytes, *, sequence: int, stored_unix_ns: int) -> tuple[int, Outcome]:
        """Take an entry `result`.

        Returns:
            The number of its batch, and what it did.

        Raises:
            UndecodableMessage: It is none.
        """
        result = decode_result(payload)
        was_ended = self.state.is_ended
        outcome = self.state.take(result.rows)
        if outcome.n_accepted:
            self._models |= {f"{model.name}/{model.version}" for model in result.models}
        if not was_ended:
            self._advance(sequence, stored_unix_ns)
        return result.rows.number, outcome

    def cancel(self, *, sequence: int, stored_unix_ns: int) -> None:
        """Take an entry `cancelled`; nothing where the scan has come to its end before."""
        if not self.state.is_ended:
            self.state.cancel()
            self._advance(sequence, stored_unix_ns)

    def finish(self, final: scan_pb2.Scan, *, sequence: int) -> None:
        """Take the entry `ended`; the pixels are forgotten."""
        self.final = final
        self.final.revision = self.revision = sequence
        self._state = None
        self._tell()

    def to_message(self, now_unix_ns: int) -> scan_pb2.Scan:
        """The scan as it is now."""
        if self.final is not None:
            return self.final
        message = scan_pb2.Scan()
        message.CopyFrom(self.header)
        message.state = self.scan_state
        message.revision = self.revision
        message.progress.CopyFrom(progress_message(self.state, now_unix_ns))
        if (best := self.state.best) is not None:
            message.best.CopyFrom(best_message(best, self.request.frame, self._hypotheses))
        return message

    def to_final_message(self) -> scan_pb2.Scan:
        """The scan as it ended; the same from the same log, whoever reads it."""
        message = self.to_message(self.ended_unix_ns)
        message.ended_unix_ns = self.ended_unix_ns
        if self.state.is_cancelled:
            message.state = scan_pb2.SCAN_STATE_CANCELLED
        elif self.state.is_complete:
            message.state = scan_pb2.SCAN_STATE_COMPLETE
        else:
            message.state = scan_pb2.SCAN_STATE_INCOMPLETE
        return message

    def skymap(self) -> Skymap:
        """The map as far as it is there; empty after `finish`."""
        notes = {"icestream": version("icestream")}
        if self._models:
            notes["models"] = ", ".join(sorted(self._models))
        return self.state.skymap(hypotheses=self._hypotheses, notes=notes)

    async def changed(self) -> None:
        """Return at the next change."""
        await self._changed.wait()

    def _advance(self, sequence: int, stored_unix_ns: int) -> None:
        self.revision = sequence
        if self.state.is_ended:
            self.ended_unix_ns = stored_unix_ns
        self._tell()

    def _tell(self) -> None:
        self.n_changes += 1
        self._changed.set()
        self._changed = asyncio.Event()


def to_detector_of(request: ScanRequest) -> ToDetector:
    """How the frame of a scan's map lies in the detector at the time of its event."""
    if request.frame is Frame.DETECTOR:
        return _identity
    return partial(celestial.to_detector, unix_ns=request.start_unix_ns)


def _identity(vectors: FloatArray) -> FloatArray:
    return vectors


def _trace_id(traceparent: str | None) -> str:
    context = span_context(traceparent) if traceparent else None
    return f"{context.trace_id:032x}" if context else ""
